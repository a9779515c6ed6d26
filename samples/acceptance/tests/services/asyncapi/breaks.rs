//! Changes of a service's messages that break another service, which was built for the documents of the version before.
//!
//! What a service sends may become narrower, for its readers must understand every message. What a service receives may become
//! wider, for its writers go on as before: a queue, a retained row and a replay bring messages of the version before at any time.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

use super::{Operation, operations, schema::resolved};

/// Rule that a change breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// A message is not sent any more: its readers wait for ever.
    NotSent,
    /// A message goes through another exchange, or one of another type: the readers' queues are bound to the old one.
    Moved,
    /// A field is not sent any more.
    FieldRemoved,
    /// A field has another type or format.
    FieldRetyped,
    /// A field was always there, and is there sometimes: readers require it.
    FieldNotAlways,
    /// A field has further values: a reader that handles each value knows no way to handle these, and refuses them.
    ValueAdded,
    /// A field goes beyond its former limits, which readers check.
    RangeWidened,
    /// A command has a further reply: the saga that waits has no meaning for it.
    ReplyAdded,
    /// A command or reply is not accepted any more: it may be on its way.
    NotAccepted,
    /// A field is required of messages that others write: those of the version before lack it.
    FieldDemanded,
    /// A received field has fewer types or values, or closer limits.
    AcceptanceNarrowed,
    /// A schema changed in a keyword that these rules do not know.
    CannotTell,
}

/// Broken rule, and its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Break {
    pub(super) rule: Rule,
    place: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.place, self.rule)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Sent,
    Received,
}

/// Keywords that tell people something, and validators nothing.
const ANNOTATIONS: [&str; 6] = ["description", "title", "default", "examples", "deprecated", "$comment"];
/// Lower limits; a missing one means none.
const LOWER: [&str; 4] = ["minimum", "exclusiveMinimum", "minLength", "minItems"];
const UPPER: [&str; 4] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems"];
/// Keywords with a rule.
const KNOWN: [&str; 8] = ["type", "format", "properties", "required", "enum", "const", "items", "pattern"];

/// Returns what breaks between two documents of a service.
pub(super) fn breaks(before: &Value, after: &Value) -> BTreeSet<Break> {
    let mut found = Found { before, after, breaks: BTreeSet::new() };
    let now = operations(after);
    for old in operations(before) {
        match now.iter().find(|new| new.id == old.id) {
            Some(new) => found.operation(&old, new),
            None if old.sends() => found.add(old.id, Rule::NotSent),
            // Nobody notices that an event has one reader less.
            None if old.exchange()["type"] == "topic" => {}
            None => found.add(old.id, Rule::NotAccepted),
        }
    }
    found.breaks
}

struct Found<'a> {
    before: &'a Value,
    after: &'a Value,
    breaks: BTreeSet<Break>,
}

impl Found<'_> {
    fn add(&mut self, place: &str, rule: Rule) {
        self.breaks.insert(Break { rule, place: place.to_owned() });
    }

    fn operation(&mut self, old: &Operation<'_>, new: &Operation<'_>) {
        if old.exchange() != new.exchange() {
            self.add(old.id, Rule::Moved);
        }
        let direction = if old.sends() { Direction::Sent } else { Direction::Received };
        self.message(old.id, old.message, new.message, direction);
        // Who receives a command sends its replies.
        let answers = if old.sends() { Direction::Received } else { Direction::Sent };
        for reply in &new.replies {
            let place = format!("{}/{}", old.id, reply["name"]);
            match old.replies.iter().find(|known| known["name"] == reply["name"]) {
                Some(known) => self.message(&place, known, reply, answers),
                None if answers == Direction::Sent => self.add(&place, Rule::ReplyAdded),
                None => {}
            }
        }
    }

    fn message(&mut self, place: &str, old: &Value, new: &Value, direction: Direction) {
        for part in ["headers", "payload"] {
            let (old, new) = (resolved(self.before, &old[part]), resolved(self.after, &new[part]));
            self.schema(&format!("{place}/{part}"), &old, &new, direction);
        }
    }

    fn schema(&mut self, place: &str, old: &Value, new: &Value, direction: Direction) {
        self.types(place, old, new, direction);
        self.values(place, old, new, direction);
        if is_wider(old, new, direction) {
            let rule = match direction {
                Direction::Sent => Rule::RangeWidened,
                Direction::Received => Rule::AcceptanceNarrowed,
            };
            self.add(place, rule);
        }
        self.fields(place, old, new, direction);
        if old.get("items").is_some() || new.get("items").is_some() {
            self.schema(&format!("{place}/items"), &old["items"], &new["items"], direction);
        }
        for keyword in keywords(old).union(&keywords(new)) {
            if old.get(keyword) != new.get(keyword) {
                self.add(&format!("{place}/{keyword}"), Rule::CannotTell);
            }
        }
    }

    fn types(&mut self, place: &str, old: &Value, new: &Value, direction: Direction) {
        let (was, is) = (types(old), types(new));
        let (narrow, wide) = match direction {
            Direction::Sent => (&is, &was),
            Direction::Received => (&was, &is),
        };
        // Every integer is a number.
        let fits = |kind: &String| wide.contains(kind) || (kind == "integer" && wide.contains("number"));
        let retyped = !narrow.iter().all(fits);
        // Another format is another meaning. A number that becomes an integer has another format too.
        let reformatted = was == is && old.get("format") != new.get("format");
        if retyped || reformatted {
            let rule = match direction {
                Direction::Sent => Rule::FieldRetyped,
                Direction::Received => Rule::AcceptanceNarrowed,
            };
            self.add(place, rule);
        }
    }

    fn values(&mut self, place: &str, old: &Value, new: &Value, direction: Direction) {
        let (was, is) = (values(old), values(new));
        let (narrow, wide, rule) = match direction {
            Direction::Sent => (is, was, Rule::ValueAdded),
            Direction::Received => (was, is, Rule::AcceptanceNarrowed),
        };
        // No list means any value.
        let fits = match (narrow, wide) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(narrow), Some(wide)) => narrow.iter().all(|value| wide.contains(value)),
        };
        if !fits {
            self.add(place, rule);
        }
    }

    fn fields(&mut self, place: &str, old: &Value, new: &Value, direction: Direction) {
        let (was, is) = (required(old), required(new));
        for (name, field) in old["properties"].as_object().into_iter().flatten() {
            let place = format!("{place}/{name}");
            match new["properties"].get(name) {
                Some(now) => self.schema(&place, field, now, direction),
                None if direction == Direction::Sent => self.add(&place, Rule::FieldRemoved),
                // A reader ignores fields that it does not know.
                None => {}
            }
            if direction == Direction::Sent && was.contains(name) && !is.contains(name) {
                self.add(&place, Rule::FieldNotAlways);
            }
        }
        if direction == Direction::Received {
            for name in is.difference(&was) {
                self.add(&format!("{place}/{name}"), Rule::FieldDemanded);
            }
        }
    }
}

/// Tells whether what is sent goes beyond its former limits, or what is accepted got closer ones.
fn is_wider(old: &Value, new: &Value, direction: Direction) -> bool {
    let (narrow, wide) = match direction {
        Direction::Sent => (new, old),
        Direction::Received => (old, new),
    };
    let limit = |schema: &Value, keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    let beyond = |keyword: &str, is_beyond: fn(f64, f64) -> bool| match limit(wide, keyword) {
        None => false,
        Some(wide) => limit(narrow, keyword).is_none_or(|narrow| is_beyond(narrow, wide)),
    };
    let pattern = wide.get("pattern").is_some_and(|wide| narrow.get("pattern") != Some(wide));
    pattern
        || LOWER.iter().any(|keyword| beyond(keyword, |narrow, wide| narrow < wide))
        || UPPER.iter().any(|keyword| beyond(keyword, |narrow, wide| narrow > wide))
}

fn types(schema: &Value) -> BTreeSet<String> {
    let one = schema["type"].as_str().into_iter();
    let several = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    one.chain(several).map(str::to_owned).collect()
}

fn values(schema: &Value) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema["enum"].as_array()) {
        (Some(only), _) => Some(vec![only]),
        (None, listed) => listed.map(|listed| listed.iter().collect()),
    }
}

fn required(schema: &Value) -> BTreeSet<String> {
    let listed = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    listed.map(str::to_owned).collect()
}

/// Returns the keywords without a rule.
fn keywords(schema: &Value) -> BTreeSet<String> {
    let all = schema.as_object().into_iter().flat_map(|members| members.keys());
    let ruled = |keyword: &str| {
        [&ANNOTATIONS[..], &LOWER, &UPPER, &KNOWN].iter().any(|keywords| keywords.contains(&keyword))
    };
    all.filter(|keyword| !ruled(keyword)).cloned().collect()
}
