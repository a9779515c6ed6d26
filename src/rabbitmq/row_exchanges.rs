//! Limit on the exchanges that rows of one source have outboxd declare.
//!
//! Counts for the life of the process, over all connections. Exchanges of the configuration and the broker's own do not count.
//! AMQP does not tell whether a declare made the exchange, so one that was there before counts as well.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names that rows gave and the broker declared, and how many there may be. Clones share the names.
#[derive(Clone, Debug)]
pub struct RowExchanges {
    max: usize,
    /// Locked for a look or an insertion, when a connection needs an exchange for the first time.
    names: Arc<Mutex<HashSet<String>>>,
}

impl RowExchanges {
    /// No names so far.
    pub fn new(max: usize) -> Self {
        Self { max, names: Arc::default() }
    }

    /// `delivery.exchanges_max`.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Tells whether a row may have this exchange declared.
    pub(super) fn allows(&self, exchange: &str) -> bool {
        let names = self.names();
        names.len() < self.max || names.contains(exchange)
    }

    /// Notes that the broker declared it.
    pub(super) fn declared(&self, exchange: &str) {
        self.names().insert(exchange.to_owned());
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No limit, for connections that publish no rows.
impl Default for RowExchanges {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}
