//! Limit on the exchanges that messages have a publisher declare.
//!
//! Counts since the process began, over all connections. Exchanges of the topology, the broker's own, and those that were
//! there when a publisher first looked do not count. One that a publish finds gone counts no longer.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names that messages gave and the broker did not have, and how many there may be. Clones share the names. The default is no limit.
#[derive(Clone, Debug)]
pub struct ExchangeLimit {
    max: usize,
    /// The only exchange that messages name, where that is known before.
    only: Option<Arc<str>>,
    /// Locked for a look or an insertion, when a connection needs an exchange for the first time.
    names: Arc<Mutex<HashSet<String>>>,
}

impl ExchangeLimit {
    /// No names so far; `only` is the exchange of every message, where that is known: it does not count.
    pub fn new(max: usize, only: Option<&str>) -> Self {
        Self { max, only: only.map(Arc::from), names: Arc::default() }
    }

    /// The limit.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Tells whether it matters for the limit that the broker has this exchange already.
    pub(super) fn counts(&self, exchange: &str) -> bool {
        self.max < usize::MAX && self.only.as_deref() != Some(exchange) && !self.names().contains(exchange)
    }

    /// Tells whether one more that counts may be declared.
    pub(super) fn has_room(&self) -> bool {
        self.names().len() < self.max
    }

    /// Notes that the broker did not have it, and declared it.
    pub(super) fn declared(&self, exchange: String) {
        self.names().insert(exchange);
    }

    /// Forgets the one that the broker says it does not have. A name that it does not quote whole keeps its place.
    pub(super) fn forget_missing(&self, text: &str) {
        let Some((_, named)) = text.split_once("no exchange '") else { return };
        self.names().retain(|exchange| {
            named.strip_prefix(exchange.as_str()).is_none_or(|behind| !behind.starts_with("' in vhost '"))
        });
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ExchangeLimit {
    fn default() -> Self {
        Self::new(usize::MAX, None)
    }
}
