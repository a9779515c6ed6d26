//! The reason for which PostgreSQL has invalidated a slot, and the setting that keeps that from happening again.

use std::fmt;

/// `pg_replication_slots.invalidation_reason`, as far as the server says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// `wal_removed`; before version 17 also `wal_status = lost`.
    WalRemoved,
    /// `rows_removed`.
    RowsRemoved,
    /// `wal_level_insufficient`.
    WalLevel,
    /// `idle_timeout`, of version 18 and later.
    IdleTimeout,
    /// Version 16 says only that there was a conflict.
    Conflict,
    /// A reason that later versions may add.
    Other(String),
}

impl Invalidation {
    /// The reason of a slot that is lost: `reason` where the server gives one, and the conflict that version 16 reports.
    pub fn of(reason: Option<&str>, conflicting: bool) -> Self {
        match reason {
            Some("wal_removed") => Invalidation::WalRemoved,
            Some("rows_removed") => Invalidation::RowsRemoved,
            Some("wal_level_insufficient") => Invalidation::WalLevel,
            Some("idle_timeout") => Invalidation::IdleTimeout,
            Some(other) => Invalidation::Other(other.to_owned()),
            None if conflicting => Invalidation::Conflict,
            None => Invalidation::WalRemoved,
        }
    }

    /// The setting that keeps it from happening again.
    pub(crate) fn prevention(&self) -> &'static str {
        match self {
            Invalidation::WalRemoved => "a larger max_slot_wal_keep_size keeps that from happening again",
            Invalidation::RowsRemoved => {
                "hot_standby_feedback = on and a physical slot (primary_slot_name) on the standby keep that from happening again"
            }
            Invalidation::WalLevel => {
                "wal_level = logical on the primary and on every standby keeps that from happening again"
            }
            Invalidation::IdleTimeout => {
                "a larger idle_replication_slot_timeout, or 0, keeps that from happening again while outboxd is stopped"
            }
            Invalidation::Conflict | Invalidation::Other(_) => {
                "the server's log says more, in the line \"invalidating obsolete replication slot\""
            }
        }
    }
}

/// A clause after "is lost: ".
impl fmt::Display for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalidation::WalRemoved => {
                f.write_str("the server has removed WAL that it needs, as it held back more than max_slot_wal_keep_size")
            }
            Invalidation::RowsRemoved => f.write_str(
                "the server has removed rows of its catalog that it needs (rows_removed), while it was a standby",
            ),
            Invalidation::WalLevel => {
                f.write_str("the server's wal_level was lower than logical for a time (wal_level_insufficient)")
            }
            Invalidation::IdleTimeout => {
                f.write_str("nobody used it for longer than idle_replication_slot_timeout (idle_timeout)")
            }
            Invalidation::Conflict => f.write_str(
                "the server has invalidated it, as WAL (max_slot_wal_keep_size), rows of the catalog or wal_level were missing",
            ),
            Invalidation::Other(reason) => write!(f, "the server has invalidated it ({reason})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_names_the_setting_that_prevents_it() {
        for (reason, conflicting, setting) in [
            (Some("wal_removed"), true, "max_slot_wal_keep_size"),
            (None, false, "max_slot_wal_keep_size"),
            (Some("rows_removed"), true, "hot_standby_feedback"),
            (Some("wal_level_insufficient"), true, "wal_level = logical"),
            (Some("idle_timeout"), false, "idle_replication_slot_timeout"),
            (Some("unheard_of"), false, "log"),
            (None, true, "log"),
        ] {
            let invalidation = Invalidation::of(reason, conflicting);
            assert!(invalidation.prevention().contains(setting), "{invalidation:?}");
            let others = ["max_slot_wal_keep_size", "idle_replication_slot_timeout", "hot_standby_feedback"];
            for other in others.iter().filter(|other| **other != setting && reason.is_some()) {
                assert!(
                    !format!("{invalidation} {}", invalidation.prevention()).contains(other),
                    "{invalidation}"
                );
            }
            assert!(reason != Some("unheard_of") || invalidation.to_string().contains("unheard_of"));
        }
    }
}
