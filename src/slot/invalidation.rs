//! The reason why PostgreSQL has invalidated a slot, and the setting that prevents it.

use std::fmt;

/// `pg_replication_slots.invalidation_reason`, as far as the version of the server reports one.
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
    /// A conflict. Version 16 reports no more than that.
    Conflict,
    /// A reason of a later version.
    Other(String),
}

impl Invalidation {
    /// The reason of a lost slot, from `invalidation_reason` and from the column `conflicting` of version 16.
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

    /// The setting that prevents it.
    pub(crate) fn prevention(&self) -> &'static str {
        match self {
            Invalidation::WalRemoved => "to prevent this, raise max_slot_wal_keep_size",
            Invalidation::RowsRemoved => {
                "to prevent this, set hot_standby_feedback = on and a physical slot (primary_slot_name) on the standby"
            }
            Invalidation::WalLevel => {
                "to prevent this, set wal_level = logical on the primary and on every standby"
            }
            Invalidation::IdleTimeout => {
                "to prevent this while outboxd is stopped, raise idle_replication_slot_timeout or set it to 0"
            }
            Invalidation::Conflict | Invalidation::Other(_) => {
                "see the line \"invalidating obsolete replication slot\" in PostgreSQL's log"
            }
        }
    }
}

/// A clause that follows "is lost: ".
impl fmt::Display for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalidation::WalRemoved => {
                f.write_str("PostgreSQL has removed WAL that it needs, because it held back more than max_slot_wal_keep_size")
            }
            Invalidation::RowsRemoved => f.write_str(
                "PostgreSQL has removed catalog rows that it needs (rows_removed), while the server was a standby",
            ),
            Invalidation::WalLevel => {
                f.write_str("wal_level was lower than logical for a time (wal_level_insufficient)")
            }
            Invalidation::IdleTimeout => {
                f.write_str("no client used it for longer than idle_replication_slot_timeout (idle_timeout)")
            }
            Invalidation::Conflict => f.write_str(
                "PostgreSQL has invalidated it, because WAL (max_slot_wal_keep_size), catalog rows or wal_level were missing",
            ),
            Invalidation::Other(reason) => write!(f, "PostgreSQL has invalidated it ({reason})"),
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
