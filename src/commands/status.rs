//! `outboxd status`: prints the `/status` of the running daemon as a table.
//!
//! Without an answer, the databases show the progress of the slots. The broker is not asked.

use super::{
    Failure, answer,
    ask::{AskError, ask},
    slots::Slots,
    table::{Column, size, table, unknown},
};
use crate::{
    admin::{SourceStatus, Status},
    cli,
    settings::Settings,
};
use diagnostics::legible;
use process::loopback::reachable;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the answer of {0} is not that of outboxd {version}; compare the versions of daemon and command", version = env!("CARGO_PKG_VERSION"))]
    NotStatus(SocketAddr, #[source] serde_json::Error),
}

pub(super) async fn run(settings: Settings, options: &cli::Status) -> Result<(), Failure> {
    let (heading, failure) = match settings.admin_listen.map(reachable) {
        None => ("no daemon to ask: admin.enabled is false".to_owned(), None),
        Some(address) => match shown(address, options.json).await {
            Ok(text) => return answer(&text),
            Err(error @ StatusError::Ask(AskError::Connect(..))) => {
                (format!("daemon not running at {address}"), Some(error))
            }
            Err(error) => (format!("daemon not answering at {address}"), Some(error)),
        },
    };
    let slots = Slots::read(&settings, heading.clone()).await;
    answer(&if options.json { slots.json() } else { slots.table() })?;
    Err(failure.map_or(Failure::Runtime(heading), |error| Failure::runtime(&error)))
}

/// The text for stdout.
async fn shown(address: SocketAddr, json: bool) -> Result<String, StatusError> {
    let body = ask(address, "/status").await?;
    let status: Status =
        serde_json::from_slice(&body).map_err(|error| StatusError::NotStatus(address, error))?;
    Ok(if json {
        legible::json(&String::from_utf8_lossy(&body)).into_owned()
    } else {
        table(&COLUMNS, &status.sources)
    })
}

const COLUMNS: [Column<SourceStatus>; 9] = [
    ("SOURCE", false, |source| source.name.clone()),
    ("STATE", false, |source| source.state.to_string()),
    ("POSITION", false, |source| source.confirmed_lsn.clone().unwrap_or_else(unknown)),
    ("LAG", true, |source| source.lag_bytes.map_or_else(unknown, size)),
    ("LAG S", true, |source| source.lag_seconds.map_or_else(unknown, |lag| format!("{lag:.1}"))),
    ("RETAINED", true, |source| source.slot_retained_bytes.map_or_else(unknown, size)),
    ("IN FLIGHT", true, |source| source.in_flight.to_string()),
    ("PARKED", true, |source| source.parked_rows.map_or_else(unknown, |rows| rows.to_string())),
    ("REASON", false, reason),
];

/// The reason of the state; without one, another problem of the source.
fn reason(source: &SourceStatus) -> String {
    let SourceStatus { reason, unpublished_tables, parked_elsewhere, cleanup_off, .. } = source;
    let cleanup_off = || Some(format!("clean-up is off: {}", cleanup_off.as_ref()?));
    let besides = || unpublished_tables.clone().or_else(|| parked_elsewhere.clone()).or_else(cleanup_off);
    if reason.is_empty() { besides().unwrap_or_default() } else { reason.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::{
        admin::{Board, SourceState, bind, serve},
        position::Lsn,
    };
    use std::future::pending;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[test]
    fn columns_are_aligned_and_unknown_is_a_dash() {
        let board = Board::new();
        let orders = board.reporter("orders");
        orders.confirmed_position(Lsn(0x16_B374_D848), None);
        orders.lag(2048);
        orders.in_flight(12);
        orders.parked_rows(Some(3));
        orders.state(SourceState::Streaming, "connected");
        board.reporter("customer-service").state(SourceState::Halted, "slot lost:\n  see the manual");
        assert_eq!(
            table(&COLUMNS, &board.status().sources),
            "\
SOURCE            STATE      POSITION         LAG  LAG S  RETAINED  IN FLIGHT  PARKED  REASON
customer-service  halted     -                  -      -         -          0       -  slot lost:\\n  see the manual
orders            streaming  16/B374D848  2.0 KiB    0.0         -         12       3  connected
"
        );
    }

    #[tokio::test]
    async fn table_and_json_come_from_the_running_daemon() {
        let board = Board::new();
        board.reporter("orders").state(SourceState::Streaming, "connected");
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, board.clone(), pending()));

        assert_eq!(shown(address, false).await.unwrap(), table(&COLUMNS, &board.status().sources));
        let json: Status = serde_json::from_str(&shown(address, true).await.unwrap()).unwrap();
        assert_eq!(json.sources, board.status().sources);
    }

    #[tokio::test]
    async fn the_answer_of_another_program_is_no_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        });
        assert!(matches!(shown(address, true).await, Err(StatusError::NotStatus(..))));
        stranger.await.unwrap();
    }
}
