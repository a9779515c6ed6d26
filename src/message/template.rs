//! Templates such as `{aggregate_type}.events`: literal text and placeholders, parsed once at start.
//!
//! Knows the syntax only. [`Mapping::resolve`](super::Mapping::resolve) finds the column of each placeholder.

use std::{fmt, str::FromStr};

use diagnostics::nearest;

/// A value of a row, or of its source, that a template can insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `{id}`
    Id,
    /// `{aggregate_type}`
    AggregateType,
    /// `{aggregate_id}`
    AggregateId,
    /// `{event_type}`
    EventType,
    /// `{source}`: the source's name in the configuration.
    Source,
    /// `{column:NAME}`: the text of any column of the table.
    Column(String),
    /// `{header:NAME}`: a member of the row's headers object. A string is inserted as it is, anything else as JSON.
    Header(String),
}

const PLAIN: [(&str, Placeholder); 5] = [
    ("id", Placeholder::Id),
    ("aggregate_type", Placeholder::AggregateType),
    ("aggregate_id", Placeholder::AggregateId),
    ("event_type", Placeholder::EventType),
    ("source", Placeholder::Source),
];
const VALID: &str = "{id} {aggregate_type} {aggregate_id} {event_type} {source} {column:NAME} {header:NAME}";

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placeholder::Column(name) => write!(f, "{{column:{name}}}"),
            Placeholder::Header(name) => write!(f, "{{header:{name}}}"),
            plain => {
                let name = PLAIN.iter().find(|(_, known)| known == plain).map_or("", |(name, _)| name);
                write!(f, "{{{name}}}")
            }
        }
    }
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Placeholder(Placeholder),
}

/// A parsed template: literal text and placeholders. `{{` and `}}` stand for the braces themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// An error in a template. Characters are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// The braces hold an unknown name.
    UnknownPlaceholder {
        /// Character of the `{`.
        at: usize,
        /// Text between the braces.
        name: String,
    },
    /// `{column:}` or `{header:}`.
    MissingName {
        /// Character of the `{`.
        at: usize,
        /// `column` or `header`.
        kind: &'static str,
    },
    /// A `{` without its `}`.
    Unclosed {
        /// Character of the `{`.
        at: usize,
    },
    /// A `}` without its `{`.
    Unopened {
        /// Character of the `}`.
        at: usize,
    },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::UnknownPlaceholder { at, name } => {
                write!(f, "unknown placeholder {{{name}}} at character {at}; ")?;
                let word = name.split(':').next().unwrap_or_default();
                let names = PLAIN.iter().map(|(name, _)| *name).chain(["column", "header"]);
                match nearest(word, names) {
                    Some(known @ ("column" | "header")) => write!(f, "did you mean {{{known}:NAME}}? ")?,
                    Some(known) => write!(f, "did you mean {{{known}}}? ")?,
                    None if is_name(name) => write!(f, "for a column write {{column:{name}}}; ")?,
                    None => {}
                }
                write!(f, "valid are {VALID}")
            }
            TemplateError::MissingName { at, kind } => {
                write!(f, "{{{kind}:}} at character {at} lacks a name; write {{{kind}:NAME}}")
            }
            TemplateError::Unclosed { at } => {
                write!(
                    f,
                    "'{{' at character {at} is never closed; add '}}', or write '{{{{' for the brace itself"
                )
            }
            TemplateError::Unopened { at } => {
                write!(
                    f,
                    "'}}' at character {at} closes nothing; remove it, or write '}}}}' for the brace itself"
                )
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// Tells whether a placeholder is a plain name, which may be meant as a column's.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

impl Template {
    /// Bytes of literal text, the least that any rendering has.
    pub fn literal_bytes(&self) -> usize {
        let literal = |part: &Part| if let Part::Literal(text) = part { text.len() } else { 0 };
        self.parts.iter().map(literal).sum()
    }

    /// Returns the placeholders, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.parts
            .iter()
            .filter_map(|part| if let Part::Placeholder(found) = part { Some(found) } else { None })
    }

    /// Returns the pieces of the template for a source: literal text, with the source's name, or `None` for a value of the row.
    pub fn pieces<'t>(&'t self, source: &'t str) -> impl Iterator<Item = Option<&'t str>> {
        self.parts.iter().map(move |part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Placeholder(Placeholder::Source) => Some(source),
            Part::Placeholder(_) => None,
        })
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn push_literal(&mut self, c: char) {
        if let Some(Part::Literal(text)) = self.parts.last_mut() {
            text.push(c);
        } else {
            self.parts.push(Part::Literal(c.into()));
        }
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut template = Template { parts: Vec::new() };
        let mut rest = text.chars().zip(1..).peekable();
        while let Some((c, at)) = rest.next() {
            let doubled = rest.next_if(|(next, _)| *next == c && matches!(c, '{' | '}')).is_some();
            match c {
                '{' if !doubled => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some(('}', _)) => break,
                            None | Some(('{', _)) => return Err(TemplateError::Unclosed { at }),
                            Some((c, _)) => name.push(c),
                        }
                    }
                    template.parts.push(Part::Placeholder(placeholder(name, at)?));
                }
                '}' if !doubled => return Err(TemplateError::Unopened { at }),
                c => template.push_literal(c),
            }
        }
        Ok(template)
    }
}

fn placeholder(name: String, at: usize) -> Result<Placeholder, TemplateError> {
    match name.split_once(':') {
        Some(("column", "")) => Err(TemplateError::MissingName { at, kind: "column" }),
        Some(("header", "")) => Err(TemplateError::MissingName { at, kind: "header" }),
        Some(("column", column)) => Ok(Placeholder::Column(column.to_owned())),
        Some(("header", header)) => Ok(Placeholder::Header(header.to_owned())),
        _ => match PLAIN.iter().find(|(plain, _)| *plain == name) {
            Some((_, placeholder)) => Ok(placeholder.clone()),
            None => Err(TemplateError::UnknownPlaceholder { at, name }),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn literal(text: &str) -> Part {
        Part::Literal(text.into())
    }

    #[test]
    fn parses_text_placeholders_and_escapes() {
        let parts = |text: &str| text.parse::<Template>().unwrap().parts;
        assert_eq!(parts(""), []);
        assert_eq!(
            parts("{aggregate_type}.events"),
            [Part::Placeholder(Placeholder::AggregateType), literal(".events")]
        );
        assert_eq!(parts("a{{b}}c"), [literal("a{b}c")]);
        assert_eq!(parts("{{{id}}}"), [literal("{"), Part::Placeholder(Placeholder::Id), literal("}")]);
        assert_eq!(
            parts("{column:Tenant ID}{header:a:b}"),
            [
                Part::Placeholder(Placeholder::Column("Tenant ID".into())),
                Part::Placeholder(Placeholder::Header("a:b".into()))
            ]
        );
    }

    #[test]
    fn errors_say_what_and_at_which_character() {
        let error = |text: &str| text.parse::<Template>().unwrap_err();
        // The position counts characters, not bytes.
        let unknown = error("ü{agregate_type}");
        assert_eq!(unknown, TemplateError::UnknownPlaceholder { at: 2, name: "agregate_type".into() });
        let shown = unknown.to_string();
        assert!(shown.contains("{agregate_type} at character 2"), "{shown}");
        assert!(shown.contains("did you mean {aggregate_type}?") && shown.contains(VALID), "{shown}");
        assert!(error("{colum:tenant}").to_string().contains("did you mean {column:NAME}?"));
        assert!(!error("{}").to_string().contains("did you mean"));
        assert!(error("{tenant}").to_string().contains("; for a column write {column:tenant}; valid are"));
        assert!(!error("{}").to_string().contains("for a column"));
        assert_eq!(error("{column:}"), TemplateError::MissingName { at: 1, kind: "column" });
        assert_eq!(error("ab{id"), TemplateError::Unclosed { at: 3 });
        assert_eq!(error("{id{source}"), TemplateError::Unclosed { at: 1 });
        assert_eq!(error("ab}"), TemplateError::Unopened { at: 3 });
        assert_eq!(error("{{id}"), TemplateError::Unopened { at: 5 });
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_escaped_text_is_always_literal(text in "\\PC*") {
            let _ = text.parse::<Template>();
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let template = escaped.parse::<Template>().unwrap();
            prop_assert_eq!(template.literal_bytes(), text.len());
            prop_assert!(template.parts.len() <= 1);
        }
    }
}
