//! Values whose type the user chooses, such as the optional arguments of a queue.

use config::{Value, ValueKind};

use super::{Kind, reader::Section, tree};

/// Value as written in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A string.
    Text(String),
    /// A boolean.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Fraction(f64),
    /// An array.
    List(Vec<Literal>),
    /// A table, ordered by name.
    Table(Vec<(String, Literal)>),
}

impl Section<'_> {
    /// Reads a table of any names and values, ordered by name. A missing table is empty.
    pub fn literals(&mut self, key: &str) -> Vec<(String, Literal)> {
        let Some(value) = self.take(key, Kind::Table, None) else { return Vec::new() };
        match value.kind {
            ValueKind::Table(_) => match self.literal(key, value) {
                Some(Literal::Table(members)) => members,
                _ => Vec::new(),
            },
            other => {
                self.wrong_kind(key, "a table", &other);
                Vec::new()
            }
        }
    }

    /// Reads one value. `None` when a problem was noted.
    fn literal(&self, key: &str, value: Value) -> Option<Literal> {
        let from_environment = tree::is_from_environment(&value);
        Some(match value.kind {
            // The environment has only text: a text that reads as a number, true or false becomes one.
            ValueKind::String(text) if from_environment => match (text.parse(), text.parse()) {
                (Ok(number), _) => Literal::Integer(number),
                (_, Ok(flag)) => Literal::Flag(flag),
                _ => Literal::Text(text),
            },
            ValueKind::String(text) => Literal::Text(text),
            ValueKind::Boolean(flag) => Literal::Flag(flag),
            ValueKind::I64(number) => Literal::Integer(number),
            ValueKind::Float(number) if number.is_finite() => Literal::Fraction(number),
            ValueKind::Array(items) => {
                let items = items.into_iter().enumerate();
                let items: Option<_> =
                    items.map(|(i, item)| self.literal(&format!("{key}[{i}]"), item)).collect();
                Literal::List(items?)
            }
            ValueKind::Table(table) => {
                let mut members: Vec<_> = table.into_iter().collect();
                members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                let members = members.into_iter().map(|(name, value)| {
                    let literal = self.literal(&format!("{key}.{name}"), value);
                    literal.map(|literal| (name, literal))
                });
                Literal::Table(members.collect::<Option<_>>()?)
            }
            other => {
                let wanted = "text, true or false, a number of 64 bits, a list or a table";
                self.wrong_kind(key, wanted, &other);
                return None;
            }
        })
    }
}
