//! Reasons that keep a running service from doing its work, for `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Troubles by what has them, each with its reason. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<Mutex<BTreeMap<String, String>>>);

impl Health {
    /// Notes that `what` does not work.
    pub(super) fn failing(&self, what: &str, reason: String) {
        self.troubles().insert(what.to_owned(), reason);
    }

    /// Notes that `what` works.
    pub(super) fn working(&self, what: &str) {
        self.troubles().remove(what);
    }

    /// Every reason why the service does not do its work; `None` while it does.
    pub(super) fn reason(&self) -> Option<String> {
        let troubles = self.troubles();
        let reasons: Vec<&str> = troubles.values().map(String::as_str).collect();
        Some(reasons.join("; ")).filter(|reasons| !reasons.is_empty())
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
