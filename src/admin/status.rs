//! The `/status` document, which `outboxd status` reads, too, and the verdict of `/readyz`.

use super::{state::SourceState, subscriptions::SubscriptionStatus};
use diagnostics::legible::Legible;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The `/status` document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running daemon.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Sources, sorted by name.
    pub sources: Vec<SourceStatus>,
    /// Queues of the subscriptions, sorted by name, after the first look at them.
    #[serde(default)]
    pub subscriptions: Vec<SubscriptionStatus>,
}

/// One source. An unknown value is `null`. Counters start at 0 when the daemon starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Name in the configuration.
    pub name: String,
    /// Current state.
    pub state: SourceState,
    /// Reason of the state, for an operator.
    pub reason: String,
    /// Time of the last change of the state; RFC 3339, UTC.
    pub since: String,
    /// Confirmed position: every message up to this LSN is confirmed.
    pub confirmed_lsn: Option<String>,
    /// `outbox-position` of the last confirmed message.
    pub position: Option<String>,
    /// WAL in bytes from the confirmed position to the server's end of WAL.
    pub lag_bytes: Option<u64>,
    /// Seconds since the commit of the oldest unconfirmed message, or of the row that halts the source, by the database's clock. 0
    /// while the source streams with nothing unconfirmed; `null` when nothing is unconfirmed and the source does not stream.
    pub lag_seconds: Option<f64>,
    /// Seconds since the oldest unconfirmed message was published, or since a row that cannot become a message halted the source.
    /// `null` when there is neither.
    pub oldest_unconfirmed_seconds: Option<f64>,
    /// Time of the last confirm; RFC 3339, UTC. `null` before the first.
    #[serde(default)]
    pub last_confirmed_at: Option<String>,
    /// WAL in bytes that the slot retains.
    pub slot_retained_bytes: Option<u64>,
    /// `pg_replication_slots.wal_status`.
    pub slot_wal_status: Option<String>,
    /// Messages sent to the broker and neither confirmed nor parked, including nacked ones that are sent again.
    pub in_flight: u64,
    /// Messages sent to the broker, repeats included.
    pub published: u64,
    /// Messages that the broker confirmed.
    pub confirmed: u64,
    /// Messages that the broker returned as unroutable.
    pub returned: u64,
    /// Messages that the broker nacked.
    pub nacked: u64,
    /// Messages that wait to be sent again after a nack.
    #[serde(default)]
    pub nacked_waiting: u64,
    /// Time since which messages wait after a nack; RFC 3339, UTC. `null` when none does.
    #[serde(default)]
    pub nacked_since: Option<String>,
    /// Messages whose rows were parked.
    pub parked: u64,
    /// Rows in the table `outboxd_parked`, also from earlier runs; `null` when there is no such table.
    pub parked_rows: Option<u64>,
    /// Parked rows in a schema where outboxd does not look, with the statement that moves them; `null` when there are none.
    #[serde(default)]
    pub parked_elsewhere: Option<String>,
    /// Changes of the outbox table that outboxd ignores: updates, deletes, truncates.
    pub ignored: u64,
    /// Confirmed rows that clean-up has removed.
    pub deleted: u64,
    /// Reason why clean-up is off until an operator acts; `null` when clean-up works, or is not configured.
    pub cleanup_off: Option<String>,
    /// Partitions and child tables whose rows are never published, with the cure; `null` when there are none.
    #[serde(default)]
    pub unpublished_tables: Option<String>,
    /// Reconnects after a lost connection.
    pub reconnects: Reconnects,
    /// Last reason of the state connecting, blocked or halted. Stays after a recovery.
    pub last_error: Option<String>,
}

/// Reconnects by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconnects {
    /// Reconnects of the replication connection.
    pub postgres: u64,
    /// Reconnects of the publishing connection.
    pub rabbitmq: u64,
}

/// Verdict of `/readyz`. Its text is the body: `ready`, or one line for each source that is not ready and for each subscription
/// queue that gets no messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness(Vec<String>);

impl Readiness {
    pub(super) fn of(Status { sources, subscriptions, .. }: &Status) -> Readiness {
        let unready = sources.iter().filter(|source| !source.state.is_ready());
        let unready = unready.map(|source| {
            format!("{}: {} since {}: {}", source.name, source.state, source.since, source.reason.trim())
        });
        let missing = subscriptions.iter().filter_map(|SubscriptionStatus { queue, missing, .. }| {
            Some(format!("subscription {queue}: gets no messages: {}", missing.as_deref()?.trim()))
        });
        Readiness(unready.chain(missing).map(|line: String| Legible(line).to_string()).collect())
    }

    /// Tells whether every source is streaming or standing by, and every subscription has its queues.
    pub fn is_ready(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ready() {
            return writeln!(f, "ready");
        }
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::{
        admin::{Board, Side, Unconfirmed},
        position::{Lsn, Position},
    };
    use serde_json::{Value, json};
    use std::time::{Duration, Instant, SystemTime};

    #[test]
    fn ready_is_streaming_or_standby_and_nothing_else() {
        for state in SourceState::ALL {
            let board = Board::new();
            board.reporter("orders").state(SourceState::Streaming, "");
            board.reporter("customers").state(state, "because\nof \u{1b}[2Jthis");
            let expected = matches!(state, SourceState::Streaming | SourceState::Standby);
            assert_eq!(board.readiness().is_ready(), expected, "{state}");
            let text = board.readiness().to_string();
            if expected {
                assert_eq!(text, "ready\n");
            } else {
                assert_eq!(text.lines().count(), 1, "the ready source has no line: {text}");
                assert!(text.starts_with(&format!("customers: {state} since 2")), "{text}");
                assert!(text.ends_with(": because\\nof \\u{1b}[2Jthis\n"), "{text}");
            }
        }
    }

    #[test]
    fn a_source_that_has_reported_nothing_is_not_ready() {
        let board = Board::new();
        board.reporter("orders");
        assert!(!board.readiness().is_ready());
        let source = serde_json::to_value(&board.status().sources[0]).unwrap();
        for unknown in [
            "confirmed_lsn",
            "position",
            "lag_bytes",
            "lag_seconds",
            "oldest_unconfirmed_seconds",
            "slot_retained_bytes",
            "slot_wal_status",
            "parked_rows",
            "parked_elsewhere",
            "cleanup_off",
            "unpublished_tables",
            "last_error",
        ] {
            assert_eq!(source[unknown], Value::Null, "{unknown}");
        }
        assert_eq!((&source["state"], &source["published"]), (&json!("connecting"), &json!(0)));
    }

    #[test]
    fn status_shows_what_was_reported_with_the_sources_by_name() {
        let board = Board::new();
        board.reporter("zebras");
        let orders = board.reporter("orders");
        orders.published(5);
        orders.published(2);
        orders.confirmed(4);
        orders.returned(1);
        orders.nacked(2);
        orders.parked(3);
        orders.parked_rows(Some(9));
        orders.parked_elsewhere(Some("rows in public".to_owned()));
        orders.ignored(6);
        orders.deleted(8);
        orders.cleanup_off(Some("older rows".to_owned()));
        orders.unpublished_tables(Some("a child".to_owned()));
        orders.in_flight(3);
        orders.lag(4096);
        orders.slot(Some(8192), "extended");
        orders.reconnected(Side::Rabbitmq);
        let lsn = Lsn(0x16_B374_D848);
        orders.confirmed_position(lsn, Some(Position { commit_lsn: lsn, index: 1 }));
        orders.confirmed_position(Lsn(lsn.0 + 8), None);
        orders.state(SourceState::Blocked, "disk alarm");
        orders.state(SourceState::Streaming, "alarm cleared");

        let status = board.status();
        assert_eq!(
            status.sources.iter().map(|source| &source.name).collect::<Vec<_>>(),
            ["orders", "zebras"]
        );
        let mut source = serde_json::to_value(&status.sources[0]).unwrap();
        source["since"] = json!("then");
        assert!(source["last_confirmed_at"].is_string());
        source["last_confirmed_at"] = json!("then");
        assert_eq!(
            source,
            json!({
                "name": "orders", "state": "streaming", "reason": "alarm cleared", "since": "then",
                "confirmed_lsn": "16/B374D850", "position": "00000016B374D848-00000001",
                "lag_bytes": 4096, "lag_seconds": 0.0, "oldest_unconfirmed_seconds": null, "last_confirmed_at": "then",
                "slot_retained_bytes": 8192, "slot_wal_status": "extended", "in_flight": 3,
                "published": 7, "confirmed": 4, "returned": 1, "nacked": 2, "nacked_waiting": 0, "nacked_since": null, "parked": 3, "parked_rows": 9, "parked_elsewhere": "rows in public", "ignored": 6, "deleted": 8, "cleanup_off": "older rows", "unpublished_tables": "a child",
                "reconnects": { "postgres": 0, "rabbitmq": 1 }, "last_error": "disk alarm",
            })
        );
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status, "`outboxd status` reads the same");
    }

    #[test]
    fn a_new_reason_does_not_restart_the_clock_of_a_state() {
        let board = Board::new();
        let orders = board.reporter("orders");
        let since = || board.status().sources[0].since.clone();
        orders.state(SourceState::Halted, "slot lost");
        let first = since();
        std::thread::sleep(Duration::from_millis(5));
        orders.state(SourceState::Halted, "slot still lost");
        assert_eq!(since(), first);
        assert_eq!(board.status().sources[0].reason, "slot still lost");
        orders.state(SourceState::Connecting, "starting over");
        assert_ne!(since(), first);
    }

    #[test]
    fn lag_in_seconds_is_known_while_streaming_or_while_something_is_unconfirmed() {
        let board = Board::new();
        let orders = board.reporter("orders");
        let lag = || {
            let source = board.status().sources.remove(0);
            (source.lag_seconds, source.oldest_unconfirmed_seconds)
        };
        orders.state(SourceState::Streaming, "");
        assert_eq!(lag(), (Some(0.0), None));

        let Some(published) = Instant::now().checked_sub(Duration::from_secs(5)) else { return };
        let committed = SystemTime::now() - Duration::from_secs(60);
        orders.oldest_unconfirmed(Some(Unconfirmed { committed, published }));
        orders.state(SourceState::Connecting, "broker gone");
        let (behind, stalled) = lag();
        assert!((60.0..70.0).contains(&behind.unwrap()), "{behind:?}");
        assert!((5.0..15.0).contains(&stalled.unwrap()), "{stalled:?}");

        orders.oldest_unconfirmed(None);
        assert_eq!(lag(), (None, None), "not connected: nobody knows what waits in the WAL");

        let committed = SystemTime::now() + Duration::from_secs(60);
        orders.oldest_unconfirmed(Some(Unconfirmed { committed, published: Instant::now() }));
        assert_eq!(lag().0, Some(0.0), "a database whose clock is ahead gives no negative lag");
    }
}
