//! Doubts about `outbox.unpublished`: operators that are not the ones that its author may mean.
//!
//! Only `pg_catalog` is searched, so `status = 'New'` on a column of `citext` compares as text, and tells upper from lower case. The
//! server takes it without a word. Knows the catalog's facts and the condition's text; asks nobody.

use std::fmt;

use crate::postgres::outbox_table::{ColumnFacts, TableFacts};

/// A column in the condition whose type has operators outside of `pg_catalog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherOperators {
    column: String,
    type_name: String,
}

impl OtherOperators {
    /// The first such column that the condition uses with neither `OPERATOR(schema.name)` nor a cast.
    pub fn of(condition: Option<&str>, table: &TableFacts) -> Option<Self> {
        let condition = condition?;
        let is_doubtful =
            |column: &&ColumnFacts| column.has_own_operators && is_bare(condition, &column.name);
        let ColumnFacts { name, type_name, .. } = table.columns.iter().find(is_doubtful)?;
        Some(Self { column: name.clone(), type_name: type_name.clone() })
    }

    /// The next step.
    pub fn cure(&self) -> String {
        format!(
            "name the schema of each operator beside {0}, as in {0} OPERATOR(public.=) 'x', or cast: {0}::text = 'x' is how it is \
             compared now",
            self.column
        )
    }
}

impl fmt::Display for OtherOperators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "outbox.unpublished uses column {}, of type {}, whose own operators are not found: only pg_catalog is searched, so those of \
             text may take their place, and rows count as published that are not",
            self.column, self.type_name
        )
    }
}

/// Tells whether some use of the name leaves open which operator is meant.
fn is_bare(condition: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    let condition = condition.to_lowercase();
    let name = name.to_lowercase();
    condition.match_indices(&name).any(|(at, _)| {
        let (before, after) = (&condition[..at], &condition[at + name.len()..]);
        let is_whole = !before.ends_with(is_word) && !after.starts_with(is_word);
        is_whole && !names_operator_after(after) && !names_operator_before(before)
    })
}

/// `"`, `)` and blanks between a column and what is done to it.
fn names_operator_after(after: &str) -> bool {
    let after = after.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | ')'));
    let mut words = after.split_whitespace();
    after.strip_prefix("operator").is_some_and(|rest| rest.trim_start().starts_with('('))
        || after.starts_with("::")
        || words.next() == Some("as")
        || after.split_whitespace().next() == Some("is")
            && words.find(|word| *word != "not").is_some_and(|word| word.starts_with("null"))
}

/// The column is the right side of `OPERATOR(schema.name)`.
fn names_operator_before(before: &str) -> bool {
    let before = before.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '('));
    let operator = before.strip_suffix(')').and_then(|before| before.rsplit_once('('));
    operator.is_some_and(|(word, name)| word.trim_end().ends_with("operator") && !name.contains(')'))
}

#[cfg(test)]
mod tests {
    use super::is_bare;

    #[test]
    fn a_use_of_a_column_is_bare_without_an_operators_schema_or_a_cast() {
        for condition in [
            "status = 'New'",
            "'New' = status",
            "\"Status\" <> 'x'",
            "status OPERATOR(public.=) 'New' OR status = 'Old'",
            "kind OPERATOR(public.=) 'x' AND status = 'New'",
            "status IN ('New')",
            "status IS DISTINCT FROM 'New'",
        ] {
            assert!(is_bare(condition, "status"), "{condition}");
        }
        for condition in [
            "status OPERATOR(public.=) 'New'",
            "(\"status\") operator (public.=) 'New'",
            "'New' OPERATOR(public.=) status",
            "status::text = 'new'",
            "CAST(status AS text) = 'new'",
            "status IS NOT NULL",
            "(status IS NULL)",
            "statuses = 'New' OR old_status = 'x'",
            "published_at IS NULL",
        ] {
            assert!(!is_bare(condition, "status"), "{condition}");
        }
    }
}
