//! Charts of the figures as SVG, by plain formatting.

use crate::{
    figures::{Series, Spread, Table, grouped},
    record::Results,
};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const COLOURS: &[&str] = &[
    "#6e7781", "#1f6feb", "#2da44e", "#8250df", "#bf8700", "#d1480f", "#cf222e", "#0a7f8c", "#e85aad",
    "#5c4b3a", "#24292f",
];

/// Returns the file name and content of every chart that has figures.
pub fn draw(results: &Results) -> Vec<(&'static str, String)> {
    let mut drawn = Vec::new();
    if let Some(section) = results.get("peers") {
        let column = |table: &Table, name| -> Vec<(String, Spread)> {
            table.column(name).into_iter().map(|(row, spread)| (row.to_owned(), spread)).collect()
        };
        let mut bars = column(&section.tables[0], "per second");
        bars.extend(column(&section.tables[1], "msg/s"));
        drawn.push((
            "peers.svg",
            bar_chart("Drain of 100,000 rows into a quorum queue, messages per second", &bars),
        ));
    }
    if let Some(section) = results.get("latency") {
        let marks = [(0.0, "0"), (0.301, "50"), (1.0, "90"), (2.0, "99"), (3.0, "99.9")];
        let chart = LineChart {
            title: "Commit to consumer at 500 events/s",
            x: "percent of the events took at most",
            y: "ms",
            marks: &marks,
            logarithmic: true,
        };
        drawn.push(("latency.svg", chart.draw(&section.series)));
    }
    if let Some(section) = results.get("memory") {
        let chart = LineChart {
            title: "Resident memory of outboxd",
            x: "seconds since its start",
            y: "MB",
            marks: &[],
            logarithmic: false,
        };
        drawn.push(("memory.svg", chart.draw(&section.series)));
    }
    drawn
}

fn bar_chart(title: &str, bars: &[(String, Spread)]) -> String {
    const LEFT: f64 = 260.0;
    const STEP: f64 = 30.0;
    let most = bars.iter().map(|(_, spread)| spread.max).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 90.0) / most;
    let height = 60.0 + STEP * bars.len() as f64;
    let mut svg = begin(height, title);
    for (at, (name, spread)) in bars.iter().enumerate() {
        let y = 45.0 + STEP * at as f64;
        let [low, middle, high] = [spread.min, spread.median, spread.max].map(|value| LEFT + value * scale);
        let colour = COLOURS[at % COLOURS.len()];
        text(&mut svg, LEFT - 8.0, y + 14.0, "end", name);
        let (width, centre, cap) = (middle - LEFT, y + 10.0, y + 6.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\" fill-opacity=\"0.75\"/>\n\
             <path d=\"M{low:.1} {centre}H{high:.1}M{low:.1} {cap}v8M{high:.1} {cap}v8\" stroke=\"#24292f\" fill=\"none\"/>"
        );
        text(&mut svg, high + 6.0, y + 14.0, "start", &grouped(spread.median, 0));
    }
    svg + "</svg>\n"
}

/// Line chart.
struct LineChart<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    /// Marks on the x axis with their names. Empty: round numbers.
    marks: &'a [(f64, &'a str)],
    /// Set if the y axis is logarithmic.
    logarithmic: bool,
}

impl LineChart<'_> {
    fn draw(&self, lines: &[Series]) -> String {
        const LEFT: f64 = 60.0;
        const TOP: f64 = 50.0;
        const BOTTOM: f64 = 330.0;
        let right = WIDTH - 30.0;
        let points = || lines.iter().flat_map(|line| &line.points);
        let x_most = points().map(|point| point.0).fold(1e-9, f64::max);
        let y_most = points().map(|point| point.1).fold(1e-9, f64::max);
        let y_least = points().map(|point| point.1).fold(y_most, f64::min).max(1e-3);
        let y_of = |value: f64| {
            let share = if self.logarithmic {
                (value.max(y_least) / y_least).ln() / (y_most / y_least).ln().max(1e-9)
            } else {
                value / y_most
            };
            BOTTOM - share * (BOTTOM - TOP)
        };
        let x_of = |value: f64| LEFT + value / x_most * (right - LEFT);
        let mut svg = begin(400.0 + 18.0 * lines.len() as f64, self.title);
        for value in ticks(y_least, y_most, self.logarithmic) {
            let y = y_of(value);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#d0d7de\"/>");
            text(&mut svg, LEFT - 6.0, y + 4.0, "end", &plain(value));
        }
        let round = ticks(0.0, x_most, false);
        let round: Vec<(f64, String)> = round.into_iter().map(|value| (value, plain(value))).collect();
        let named = self.marks.iter().map(|(value, name)| (*value, (*name).to_owned()));
        let marks = if self.marks.is_empty() { round } else { named.collect() };
        for (value, name) in marks.iter().filter(|(value, _)| *value <= x_most) {
            let _ = writeln!(svg, "<path d=\"M{:.1} {TOP}V{BOTTOM}\" stroke=\"#eaeef2\"/>", x_of(*value));
            text(&mut svg, x_of(*value), BOTTOM + 16.0, "middle", name);
        }
        text(&mut svg, LEFT, TOP - 8.0, "end", self.y);
        text(&mut svg, right, BOTTOM + 34.0, "end", self.x);
        for (at, line) in lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let mut path = String::new();
            for (x, y) in &line.points {
                let _ = write!(path, " {:.1},{:.1}", x_of(*x), y_of(*y));
            }
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
                path.trim()
            );
            let y = 385.0 + 18.0 * at as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {:.0}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>",
                y - 4.0
            );
            text(&mut svg, LEFT + 32.0, y, "start", &line.name);
        }
        svg + "</svg>\n"
    }
}

/// Returns about five round numbers in the range; on a logarithmic axis 1, 2 and 5 of each decade.
fn ticks(least: f64, most: f64, logarithmic: bool) -> Vec<f64> {
    if logarithmic {
        let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
        let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
        return all.filter(|value| (least..=most).contains(value)).collect();
    }
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0..=5).map(|count| f64::from(count) * step).filter(|value| *value <= most).collect()
}

fn plain(value: f64) -> String {
    if value >= 1.0 || value == 0.0 { grouped(value, 0) } else { format!("{value}") }
}

/// The start of a picture: its frame, white whatever it lies on, and its title.
pub fn begin(height: f64, title: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let _ =
        writeln!(svg, "<text x=\"16\" y=\"24\" font-size=\"16\" fill=\"#24292f\">{}</text>", escaped(title));
    svg
}

/// A text at a place; `anchor` is SVG's.
pub fn text(svg: &mut String, x: f64, y: f64, anchor: &str, said: &str) {
    let said = escaped(said);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#24292f\">{said}</text>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
