//! Health of a running service, for `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Problems by component, each with its reason. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<Mutex<BTreeMap<String, String>>>);

impl Health {
    /// Records that `what` does not work.
    pub(super) fn failing(&self, what: &str, reason: String) {
        self.troubles().insert(what.to_owned(), reason);
    }

    /// Records that `what` works.
    pub(super) fn working(&self, what: &str) {
        self.troubles().remove(what);
    }

    /// Returns all reasons why the service does not work; `None` while it works.
    pub(super) fn reason(&self) -> Option<String> {
        let troubles = self.troubles();
        let reasons: Vec<&str> = troubles.values().map(String::as_str).collect();
        Some(reasons.join("; ")).filter(|reasons| !reasons.is_empty())
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
