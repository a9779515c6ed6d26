//! `[[exchanges]]`: exchanges that are not durable topics without arguments.

use super::{arguments, names};
use crate::message::SHORT_STRING_BYTES_MAX;
use amqp_publisher::topology::{Argument, CONSISTENT_HASH, DELAYED_MESSAGE, Exchange, is_predeclared};
use configuration::Section;

/// Argument with the type by which an `x-delayed-message` exchange routes.
const DELAYED_TYPE: &str = "x-delayed-type";
const DEFAULT_TYPE: &str = "topic";

pub(super) fn read(root: &mut Section<'_>) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for mut section in root.sections("exchanges") {
        if let Some(exchange) = exchange(&mut section) {
            if exchanges.iter().any(|other| other.name == exchange.name) {
                let what = format!("two entries describe the exchange \"{}\"", exchange.name);
                section.problem("name", what, "keep one of them");
            }
            exchanges.push(exchange);
        }
        section.finish();
    }
    exchanges
}

fn exchange(section: &mut Section<'_>) -> Option<Exchange> {
    if !section.has("name") {
        section.problem("name", "is missing", "name the exchange");
    }
    let given: Vec<_> = ["type", "durable", "arguments"].into_iter().filter(|key| section.has(key)).collect();
    let name = section.filled_text("name");
    let kind = section.parsed("type", Some(DEFAULT_TYPE), |text| match text.len() {
        1..=SHORT_STRING_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err((
            format!("must have 1 to {SHORT_STRING_BYTES_MAX} bytes, has {bytes}"),
            "write for instance \"topic\", \"direct\", \"fanout\" or \"headers\"".into(),
        )),
    });
    let durable = section.flag("durable", true);
    let delays = kind.as_deref() == Some(DELAYED_MESSAGE);
    let says_mandatory = section.has("mandatory");
    let mandatory = section.flag("mandatory", true);
    if delays && says_mandatory && mandatory {
        section.problem(
            "mandatory",
            "cannot be true for type \"x-delayed-message\": RabbitMQ returns each message that the exchange delays, although it \
             delivers the message later",
            "set false, or leave the key out",
        );
    }
    let arguments = arguments::read(section);
    if delays && !arguments.iter().any(|(name, _)| name == DELAYED_TYPE) {
        section.problem(
            "arguments",
            "lacks x-delayed-type, without which RabbitMQ refuses an exchange of type \"x-delayed-message\"",
            "write for instance arguments = { \"x-delayed-type\" = \"topic\" }",
        );
    }
    let name = name?;
    if name.len() > SHORT_STRING_BYTES_MAX {
        section.problem(
            "name",
            format!("is longer than {SHORT_STRING_BYTES_MAX} bytes"),
            "choose a shorter name",
        );
    }
    if let Some((what, cure)) = names::altered_by_broker(&name) {
        section.problem("name", what, cure);
    }
    if is_predeclared(&name) {
        for key in given {
            let what = format!("has no effect: RabbitMQ itself declares \"{name}\"");
            section.problem(key, what, "leave the key out; only mandatory can be set");
        }
    } else if name.starts_with("amq.") {
        section.problem("name", "begins with amq., which RabbitMQ keeps for itself", "choose another name");
    }
    Some(Exchange { name, kind: kind?, durable, mandatory: mandatory && !delays, arguments })
}

/// Problem and cure of binding a queue to this exchange with these keys. Keys that are `None` are absent in the configuration: the
/// queue is bound by `#`.
pub(super) fn unbindable(exchange: &Exchange, keys: Option<&[String]>) -> Option<(String, &'static str)> {
    let delayed_type = exchange.arguments.iter().find(|(name, _)| name == DELAYED_TYPE);
    let kind = match (&*exchange.kind, delayed_type) {
        (DELAYED_MESSAGE, Some((_, Argument::Text(kind)))) => kind,
        (kind, _) => kind,
    };
    let at = format!("exchange \"{}\" of type \"{kind}\"", exchange.name);
    let all = |is_good: fn(&str) -> bool| keys.is_none_or(|keys| keys.iter().all(|key| is_good(key)));
    match (kind, keys) {
        ("fanout", _) if !all(means_everything) => Some((
            format!("has no effect: {at} gives every queue all messages"),
            "leave the key out, or bind to another exchange",
        )),
        ("headers", _) if !all(means_everything) => Some((
            format!("has no effect: {at} compares headers with the arguments of a binding, not keys"),
            "leave the key out for all messages; for some of them, remove the subscription, and declare queue and binding yourself \
             (definitions of the management plugin)",
        )),
        ("direct", None) => Some((
            format!(
                "is missing: at {at} a queue gets only messages whose routing key equals one of its keys"
            ),
            "list the keys",
        )),
        (CONSISTENT_HASH, _) if keys.is_none() || !all(is_weight) => Some((
            format!("must be numbers: at {at} a key is the queue's weight"),
            "write for instance binding_keys = [\"1\"]",
        )),
        _ => None,
    }
}

fn means_everything(key: &str) -> bool {
    matches!(key, "" | "#")
}

fn is_weight(key: &str) -> bool {
    key.parse::<u32>().is_ok_and(|weight| weight > 0)
}
