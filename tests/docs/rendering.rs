//! Text as Markdown shows it unchanged.

/// Running text: what Markdown would read is escaped, and what stands in backticks stays.
pub(crate) fn escaped(text: &str) -> String {
    let is_balanced = text.matches('`').count().is_multiple_of(2);
    let mut escaped = String::new();
    for (at, part) in text.split('`').enumerate() {
        let is_code = is_balanced && at % 2 == 1;
        if at > 0 {
            escaped.push_str(if is_balanced { "`" } else { "\\`" });
        }
        if is_code {
            escaped.push_str(part);
            continue;
        }
        let chars: Vec<char> = part.chars().collect();
        for (at, c) in chars.iter().enumerate() {
            let beside =
                |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_alphanumeric());
            let escapes = match c {
                '<' | '*' | '[' | ']' | '\\' => true,
                '_' => !(beside(at.checked_sub(1)) && beside(Some(at + 1))),
                _ => false,
            };
            if escapes {
                escaped.push('\\');
            }
            escaped.push(*c);
        }
    }
    escaped
}

/// The same in the cell of a table.
pub(crate) fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    escaped(&text).replace('|', "\\|")
}

/// Rows as a table; columns that have nothing to say are left out.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let is_used = |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()));
    let columns: Vec<usize> = (0..head.len()).filter(|column| is_used(*column)).collect();
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(columns.iter().map(|column| head[*column]).collect());
    text += &line(columns.iter().map(|_| "---").collect());
    for row in rows {
        text += &line(columns.iter().map(|column| row[*column].as_str()).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_is() {
        assert_eq!(
            escaped("<slot> of outboxd_state, _ms, `a_b <c>`, x[0]*"),
            "\\<slot> of outboxd_state, \\_ms, `a_b <c>`, x\\[0\\]\\*"
        );
        assert_eq!(cell("a | b\n  c"), "a \\| b c");
    }

    #[test]
    fn a_table_has_no_empty_columns() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&["A", "B", "C"], &[row(["1", "", "3"]), row(["", "", "6"])]);
        assert_eq!(text, "| A | C |\n| --- | --- |\n| 1 | 3 |\n|  | 6 |\n");
    }
}
