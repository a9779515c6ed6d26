//! A source's exchange and routing key before there is a row: text with gaps.

use std::{collections::BTreeSet, fmt};

use amqp_publisher::topology::{Subscription, Topology};

/// Text with gaps that each row fills. Displays `*` for a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Text, and `None` for a gap. Two texts never stand side by side.
    pieces: Vec<Option<String>>,
}

/// Exchange, routing key and size of the messages of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publishing {
    /// `message.exchange`
    pub exchange: Pattern,
    /// `message.routing_key`
    pub routing_key: Pattern,
    /// `delivery.message_bytes_max`
    pub message_bytes_max: usize,
}

impl Pattern {
    /// Makes a pattern of pieces of text, and `None` for a gap.
    pub fn new<'p>(pieces: impl IntoIterator<Item = Option<&'p str>>) -> Self {
        let mut merged: Vec<Option<String>> = Vec::new();
        for piece in pieces {
            match (merged.last_mut(), piece) {
                (Some(Some(text)), Some(more)) => text.push_str(more),
                (Some(None), None) => {}
                (_, piece) => merged.push(piece.map(str::to_owned)),
            }
        }
        Self { pieces: merged }
    }

    /// The whole text of a pattern without gap.
    pub fn text(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Some(text)] => Some(text),
            _ => None,
        }
    }

    /// Tells whether some filling of the gaps gives `text`.
    pub fn fits(&self, text: &str) -> bool {
        fits(&self.pieces, text)
    }

    /// The text with the same filling in every gap.
    pub(super) fn filled(&self, filling: &str) -> String {
        self.pieces.iter().map(|piece| piece.as_deref().unwrap_or(filling)).collect()
    }

    /// The pieces of text, and `None` for a gap.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Option<&str>> {
        self.pieces.iter().map(Option::as_deref)
    }
}

fn fits(pieces: &[Option<String>], text: &str) -> bool {
    match pieces {
        [] => text.is_empty(),
        [Some(piece), rest @ ..] => {
            text.strip_prefix(piece.as_str()).is_some_and(|behind| fits(rest, behind))
        }
        [None] => true,
        [None, rest @ ..] => {
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| fits(rest, &text[at..]))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.filled("*"))
    }
}

impl Publishing {
    /// Exchanges that the source is known to publish to: the one that `message.exchange` names, else those of `[[exchanges]]` and
    /// `[[subscriptions]]` that rows may name.
    pub(super) fn exchanges<'p>(&'p self, topology: &'p Topology) -> BTreeSet<&'p str> {
        match self.exchange.text() {
            Some(exchange) => BTreeSet::from([exchange]),
            None => {
                let described = topology.exchanges.iter().map(|exchange| exchange.name.as_str());
                let subscribed =
                    topology.subscriptions.iter().map(|subscription| subscription.exchange.as_str());
                described.chain(subscribed).filter(|exchange| self.exchange.fits(exchange)).collect()
            }
        }
    }

    /// Routing keys that the source is known to use with an exchange: the one that the configuration names, else the binding keys
    /// without wildcard that rows may have.
    pub(super) fn keys<'p>(&'p self, exchange: &str, subscriptions: &'p [Subscription]) -> BTreeSet<&'p str> {
        match self.routing_key.text() {
            Some(key) => BTreeSet::from([key]),
            None => {
                let bound = subscriptions.iter().filter(|subscription| subscription.exchange == exchange);
                let keys = bound.flat_map(|subscription| &subscription.binding_keys).map(String::as_str);
                keys.filter(|key| !key.contains(['*', '#']) && self.routing_key.fits(key)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whatever_fills_its_gaps() {
        let events = Pattern::new([None, Some(".ev"), Some("ents")]);
        assert_eq!((events.text(), events.to_string().as_str()), (None, "*.events"));
        assert!(events.fits("Order.events") && events.fits(".events") && events.fits("a.events.events"));
        assert!(!events.fits("Order.commands") && !events.fits("Order.events.eu"));
        let fixed = Pattern::new([Some("a"), Some("b")]);
        assert_eq!(fixed.text(), Some("ab"));
        assert!(fixed.fits("ab") && !fixed.fits("abc"));
        assert_eq!(Pattern::new([]).text(), Some(""));
        let two = Pattern::new([Some("ü"), None, None, Some("-"), None]);
        assert!(two.fits("ü-") && two.fits("üa-b-c") && !two.fits("üa"));
    }
}
