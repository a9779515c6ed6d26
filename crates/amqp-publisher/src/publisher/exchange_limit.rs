//! Limit of exchanges that a publisher declares for messages.
//!
//! Counts since the start of the process, over all connections. Exchanges of the topology, predeclared ones, and
//! those that exist when a publisher first needs them do not count. An exchange that is found missing later counts no
//! longer.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Exchanges declared for messages, and their limit. Clones share the names. The default has no limit.
#[derive(Clone, Debug)]
pub struct ExchangeLimit {
    max: usize,
    /// The only exchange of all messages, if known in advance.
    only: Option<Arc<str>>,
    /// Locked only when a connection needs an exchange for the first time.
    names: Arc<Mutex<HashSet<String>>>,
}

impl ExchangeLimit {
    /// Creates a limit. `only` is the exchange of all messages, if known in advance; it does not count.
    pub fn new(max: usize, only: Option<&str>) -> Self {
        Self { max, only: only.map(Arc::from), names: Arc::default() }
    }

    /// Returns the limit.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Tells whether the exchange counts unless the broker has it.
    pub(super) fn counts(&self, exchange: &str) -> bool {
        self.max < usize::MAX && self.only.as_deref() != Some(exchange) && !self.names().contains(exchange)
    }

    /// Tells whether one more exchange may be declared.
    pub(super) fn has_room(&self) -> bool {
        self.names().len() < self.max
    }

    /// Counts a declared exchange.
    pub(super) fn declared(&self, exchange: String) {
        self.names().insert(exchange);
    }

    /// Stops counting the exchange that the broker reports as missing. A name that the broker has cut still counts.
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
