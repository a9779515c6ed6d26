//! Any text is a template, or an error with its place. A naive second parser renders the same text. Escaped text is always
//! literal.

use bytes::Bytes;
use outboxd::{
    message::{
        Column, ColumnNames, HeaderValue, InvalidReason, Mapping, OutboxRow, Placeholder, Template, Timestamp,
    },
    position::{Lsn, Position},
};

const ORIGIN: Position = Position { commit_lsn: Lsn(0), index: 0 };
const SOURCE: &str = "orders";

/// The input is the template's text.
pub fn holds(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let escaped = text.replace('{', "{{").replace('}', "}}");
    let literal: Template = escaped.parse().expect("escaped text is a template");
    assert_eq!((literal.literal_bytes(), literal.placeholders().count()), (text.len(), 0));

    match text.parse::<Template>() {
        Err(error) => assert!(error.to_string().contains("at character"), "{error}"),
        Ok(template) => {
            let headers = headers_column(&template);
            match rendered(&template, &headers) {
                Some(found) => assert_eq!(found, expected(text, &headers)),
                None => assert!(text.len() > 200, "only a long text is too long for a header"),
            }
        }
    }
}

/// A headers column with every header that the template uses.
fn headers_column(template: &Template) -> String {
    let names = template.placeholders().filter_map(|placeholder| match placeholder {
        Placeholder::Header(name) => Some(name),
        _ => None,
    });
    let members = names.map(|name| (name.clone(), value_of(name).into()));
    serde_json::Value::Object(members.collect()).to_string()
}

/// The template's text in a header; `None` when it is too large for one.
fn rendered(template: &Template, headers: &str) -> Option<String> {
    let mut columns = vec!["id", "aggregatetype", "aggregateid", "type", "payload", "headers"];
    for placeholder in template.placeholders() {
        match placeholder {
            Placeholder::Column(name) if !columns.contains(&&**name) => columns.push(name),
            _ => {}
        }
    }
    let values = columns.iter().map(|name| match *name {
        "headers" => Some(Bytes::copy_from_slice(headers.as_bytes())),
        name => Some(Bytes::from(value_of(name))),
    });
    let row = OutboxRow { position: ORIGIN, committed_at: Timestamp(0), values: values.collect() };
    let mapping = Mapping {
        source: SOURCE.into(),
        columns: ColumnNames::default(),
        id: "{id}".parse().expect("a template"),
        exchange: "e".parse().expect("a template"),
        routing_key: "r".parse().expect("a template"),
        headers: vec![("rendered".into(), template.clone())],
        properties: Vec::new(),
        properties_from_headers: false,
        content_type: None,
        message_bytes_max: 1000,
    };
    let columns: Vec<Column> =
        columns.iter().map(|name| Column { name: (*name).to_owned(), type_oid: 25 }).collect();
    match mapping.resolve(&columns).expect("every column is there").message(row) {
        Err(invalid) => {
            let too_large = matches!(
                invalid.reason,
                InvalidReason::HeadersTooLarge | InvalidReason::TooLong { part: "name of a header", .. }
            );
            assert!(too_large, "{invalid}");
            None
        }
        Ok(message) => {
            let mut found = message.amqp.headers.iter().filter(|(name, _)| name == "rendered");
            let Some((_, HeaderValue::Text(text))) = found.next() else { panic!("the header is not there") };
            Some(text.clone())
        }
    }
}

/// The value of a column or header: braces that must not be expanded again.
fn value_of(name: &str) -> String {
    format!("<{{id}}{}}}>", name.len())
}

/// The template rendered by a naive second parser.
fn expected(text: &str, headers: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            out.push(c);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}').expect("closed");
            out.push_str(&match name.split_once(':') {
                Some(("column", "headers")) => headers.to_owned(),
                Some((_, name)) => value_of(name),
                None if name == "source" => SOURCE.into(),
                None => value_of(match name {
                    "id" => "id",
                    "aggregate_type" => "aggregatetype",
                    "aggregate_id" => "aggregateid",
                    _ => "type",
                }),
            });
            rest = after;
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}
