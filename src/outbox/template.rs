//! Templates such as `{aggregate_type}.events`, parsed at start.
// interface sketch

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template;

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sketch")]
pub struct TemplateError;

impl std::str::FromStr for Template {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}
