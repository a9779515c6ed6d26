//! A Markdown page taken apart: headings, links, code spans and fenced blocks, each with its line.
//!
//! Reads as much of CommonMark as the repository's pages use. Knows nothing of what the pages say.

use std::{collections::HashMap, path::PathBuf};

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Path from the repository's root.
    pub(crate) path: PathBuf,
    /// The text of its first heading.
    pub(crate) title: String,
    /// Anchors that a link may lead to.
    pub(crate) anchors: Vec<String>,
    /// Targets of links and pictures.
    pub(crate) links: Vec<Part>,
    /// Contents of code spans.
    pub(crate) spans: Vec<Span>,
    /// Running text without code, a paragraph or a table's row each.
    pub(crate) prose: Vec<Part>,
    /// Fenced blocks.
    pub(crate) blocks: Vec<Block>,
}

/// A piece of text, and the line where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// A code span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// It stands in the first column of a table.
    pub(crate) is_in_first_cell: bool,
}

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Line of its first fence.
    pub(crate) line: usize,
    /// The words after the first fence: the language, and marks behind a comma.
    pub(crate) language: String,
    /// Marks behind the language.
    pub(crate) marks: Vec<String>,
    pub(crate) text: String,
}

impl Page {
    /// Takes a page apart.
    pub(crate) fn parse(path: impl Into<PathBuf>, text: &str) -> Page {
        let mut page = Page {
            path: path.into(),
            title: String::new(),
            anchors: Vec::new(),
            links: Vec::new(),
            spans: Vec::new(),
            prose: Vec::new(),
            blocks: Vec::new(),
        };
        let mut slugs = HashMap::new();
        let mut paragraph: Option<Part> = None;
        let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
        while let Some((number, line)) = lines.next() {
            let trimmed = line.trim_start();
            if let Some(fence) = fence(trimmed) {
                page.paragraph(paragraph.take());
                let indent = line.len() - trimmed.len();
                let info = trimmed.trim_start_matches(['`', '~']).trim();
                let mut words = info.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
                let language = words.next().unwrap_or_default().to_owned();
                let marks = words.map(str::to_owned).collect();
                let mut text = String::new();
                for (_, inner) in lines.by_ref() {
                    if inner.trim().starts_with(fence) && inner.trim().trim_matches(['`', '~']).is_empty() {
                        break;
                    }
                    let blanks = inner.len() - inner.trim_start().len();
                    text.push_str(&inner[blanks.min(indent)..]);
                    text.push('\n');
                }
                page.blocks.push(Block { line: number, language, marks, text });
                continue;
            }
            let level = trimmed.bytes().take_while(|byte| *byte == b'#').count();
            if (1..=6).contains(&level) && trimmed[level..].starts_with(' ') {
                page.paragraph(paragraph.take());
                let heading = trimmed[level..].trim();
                if page.title.is_empty() {
                    page.title = plain(heading);
                }
                let slug = slug(&plain(heading));
                let seen = slugs.entry(slug.clone()).and_modify(|times| *times += 1).or_insert(0);
                page.anchors.push(if *seen == 0 { slug } else { format!("{slug}-{seen}") });
                page.paragraph(Some(Part { line: number, text: heading.to_owned() }));
                continue;
            }
            if trimmed.is_empty() {
                page.paragraph(paragraph.take());
                continue;
            }
            let begins = trimmed.starts_with('|')
                || trimmed.starts_with("- ")
                || trimmed.starts_with("* ")
                || trimmed.split_once(". ").is_some_and(|(n, _)| n.parse::<u32>().is_ok());
            if begins {
                page.paragraph(paragraph.take());
            }
            match &mut paragraph {
                Some(paragraph) => {
                    paragraph.text.push('\n');
                    paragraph.text.push_str(line);
                }
                None => paragraph = Some(Part { line: number, text: line.to_owned() }),
            }
        }
        page.paragraph(paragraph);
        page
    }

    /// Takes code spans and links out of a paragraph.
    fn paragraph(&mut self, paragraph: Option<Part>) {
        let Some(Part { line, text }) = paragraph else { return };
        let at = |text: &str, offset: usize| line + text[..offset].matches('\n').count();
        let mut prose = String::new();
        let mut rest = 0;
        while let Some(start) = text[rest..].find('`').map(|found| rest + found) {
            let ticks = text[start..].bytes().take_while(|byte| *byte == b'`').count();
            let inner = start + ticks;
            let end = ends_of_ticks(&text, inner, ticks);
            let escaped = text[..start].ends_with('\\');
            match end {
                Some(end) if !escaped => {
                    let span = text[inner..end].split_whitespace().collect::<Vec<_>>().join(" ");
                    // In a table's row a bar inside of code is escaped.
                    let span =
                        if text.trim_start().starts_with('|') { span.replace("\\|", "|") } else { span };
                    let bars = text[..start].replace("\\|", "").matches('|').count();
                    let is_in_first_cell = text.trim_start().starts_with('|') && bars == 1;
                    self.spans.push(Span { line: at(&text, start), text: span, is_in_first_cell });
                    prose.push_str(&text[rest..start]);
                    // What a link's text or target is stays in its place, as many lines long.
                    prose.push('\u{1}');
                    prose.extend(text[inner..end].chars().filter(|c| *c == '\n'));
                    rest = end + ticks;
                }
                _ => {
                    prose.push_str(&text[rest..inner]);
                    rest = inner;
                }
            }
        }
        prose.push_str(&text[rest..]);
        let at = |offset: usize| line + prose[..offset].matches('\n').count();
        for (offset, _) in prose.match_indices("](") {
            let target = prose[offset + 2..].trim_start();
            let target = match target.strip_prefix('<') {
                Some(target) => target.split('>').next(),
                None => target.split([')', ' ', '\n']).next(),
            };
            self.links.push(Part { line: at(offset), text: target.unwrap_or_default().to_owned() });
        }
        // [label]: target
        let reference = prose.trim_start();
        if reference.starts_with('[')
            && let Some((label, target)) = reference.split_once("]:")
            && !label.contains('\n')
        {
            let target = target.trim().split([' ', '\n']).next().unwrap_or_default();
            self.links.push(Part { line, text: target.to_owned() });
        }
        for attribute in ["src=\"", "href=\""] {
            for (offset, _) in prose.match_indices(attribute) {
                let target = prose[offset + attribute.len()..].split('"').next().unwrap_or_default();
                self.links.push(Part { line: at(offset), text: target.to_owned() });
            }
        }
        for attribute in ["<a id=\"", "<a name=\""] {
            for (offset, _) in prose.match_indices(attribute) {
                let anchor = prose[offset + attribute.len()..].split('"').next().unwrap_or_default();
                self.anchors.push(anchor.to_owned());
            }
        }
        self.prose.push(Part { line, text: prose });
    }
}

/// The fence that a line begins with, at least three of ` or ~.
fn fence(line: &str) -> Option<&str> {
    let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = line.chars().take_while(|c| *c == mark).count();
    // "```code```" on one line is a span.
    (length >= 3 && !(mark == '`' && line[length..].contains('`'))).then(|| &line[..length])
}

/// Where the run of exactly so many backticks begins that ends a code span.
fn ends_of_ticks(text: &str, from: usize, ticks: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = text[at..].find('`').map(|found| at + found) {
        let run = text[found..].bytes().take_while(|byte| *byte == b'`').count();
        if run == ticks {
            return Some(found);
        }
        at = found + run;
    }
    None
}

/// Text of a heading without the marks of code, emphasis and links.
fn plain(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        match after.split_once("](") {
            Some((label, target)) => {
                text.push_str(label);
                rest = target.split_once(')').map_or("", |(_, rest)| rest);
            }
            None => {
                text.push('[');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text.replace(['`', '*', '\\'], "")
}

/// Anchor of a heading, as both GitHub and mdBook make it.
pub(crate) fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# The `outboxd run` page

See [order](order.md#promise), <img src=\"a.png\">, `code [no](link)`,
and ``a ` tick``.

| a \\| b | `x\\|y` |
- [one](<two words.md>)

## Same
## Same

```message
slot <slot> was
```

  ```toml,service
  a = 1
    b = 2
  ```

[later]: later.md
";

    #[test]
    fn a_page_is_taken_apart() {
        let page = Page::parse("docs/page.md", PAGE);
        let texts =
            |parts: &[Part]| parts.iter().map(|part| (part.line, part.text.clone())).collect::<Vec<_>>();
        assert_eq!(page.title, "The outboxd run page");
        assert_eq!(page.anchors, ["the-outboxd-run-page", "same", "same-1"]);
        let links = [(3, "order.md#promise"), (3, "a.png"), (7, "two words.md"), (21, "later.md")];
        assert_eq!(texts(&page.links), links.map(|(line, text)| (line, text.to_owned())));
        let spans = [(1, "outboxd run"), (3, "code [no](link)"), (4, "a ` tick"), (6, "x|y")];
        let found: Vec<_> =
            page.spans.iter().map(|span| (span.line, &*span.text, span.is_in_first_cell)).collect();
        assert_eq!(found, spans.map(|(line, text)| (line, text, false)));
        let [message, toml] = &*page.blocks else { panic!("{:?}", page.blocks) };
        assert_eq!((&*message.language, &*message.text), ("message", "slot <slot> was\n"));
        assert_eq!(
            (&*toml.language, &*toml.marks, &*toml.text),
            ("toml", &["service".to_owned()][..], "a = 1\n  b = 2\n")
        );
    }

    #[test]
    fn anchors_are_those_of_github() {
        assert_eq!(slug("What it means: 3 & 4, `x_y`"), "what-it-means-3--4-x_y");
    }
}
