//! Limit on the exchanges that rows of one source have outboxd make.
//!
//! Counts since the process began, over all connections. Exchanges of the configuration, the broker's own, and those that were
//! there when outboxd first looked do not count. One that a publish finds gone counts no longer.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names that rows gave and the broker did not have, and how many there may be. Clones share the names.
#[derive(Clone, Debug)]
pub struct RowExchanges {
    max: usize,
    /// The only exchange of the source, as `message.exchange` has no gap.
    configured: Option<Arc<str>>,
    /// Locked for a look or an insertion, when a connection needs an exchange for the first time.
    names: Arc<Mutex<HashSet<String>>>,
}

impl RowExchanges {
    /// No names so far; `configured` is the exchange of every row, where the configuration names it.
    pub fn new(max: usize, configured: Option<&str>) -> Self {
        Self { max, configured: configured.map(Arc::from), names: Arc::default() }
    }

    /// `delivery.exchanges_max`.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Tells whether it matters for the limit that the broker has this exchange already.
    pub(super) fn is_limited(&self, exchange: &str) -> bool {
        self.max < usize::MAX
            && self.configured.as_deref() != Some(exchange)
            && !self.names().contains(exchange)
    }

    /// Tells whether a row may have an exchange made that is limited.
    pub(super) fn has_room(&self) -> bool {
        self.names().len() < self.max
    }

    /// Notes that the broker did not have it, and declared it.
    pub(super) fn made(&self, exchange: String) {
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

/// No limit, for connections that publish no rows.
impl Default for RowExchanges {
    fn default() -> Self {
        Self::new(usize::MAX, None)
    }
}
