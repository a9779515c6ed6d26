//! A slot's life on a real server: made, streamed, acknowledged, taken up again where it was acknowledged, dropped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use pg_replication::{
    Endpoint, Lsn, ReplicationConnection, ReplicationError, ReplicationEvent, ReplicationStream,
    pgoutput::{self, PgOutput},
    quote::identifier,
};
use testkit::shared_postgres;

const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(endpoint: &Endpoint) -> ReplicationConnection {
    ReplicationConnection::connect(endpoint, "test", Duration::from_secs(60)).await.unwrap()
}

async fn stream(endpoint: &Endpoint, slot: &str, from: Lsn) -> ReplicationStream<Lsn> {
    let started = connect(endpoint).await.start(slot, "Changes", from).await;
    started.map_err(|(_, error)| error).unwrap()
}

/// The texts of rows up to the next commit, and where that ends.
async fn transaction(stream: &mut ReplicationStream<Lsn>) -> (Vec<String>, Lsn) {
    let mut rows = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event").unwrap();
        let ReplicationEvent::WalData { bytes, .. } = event else { continue };
        match pgoutput::decode(bytes).unwrap() {
            PgOutput::Insert { new, .. } => {
                let values = new.into_text().unwrap();
                let text =
                    values.into_iter().flatten().map(|value| String::from_utf8(value.to_vec()).unwrap());
                rows.extend(text);
            }
            PgOutput::Commit { end_lsn, .. } => return (rows, end_lsn),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_slot_goes_on_from_the_position_that_was_acknowledged() {
    let server = shared_postgres().await;
    let url = server.create_database(&testkit::unique("slot")).await;
    let endpoint = Endpoint::parse(&url).unwrap();
    let sql = endpoint.connect_sql("test").await.unwrap();
    sql.batch_execute("CREATE TABLE public.t (x text); CREATE PUBLICATION \"Changes\" FOR TABLE public.t")
        .await
        .unwrap();
    let slot = testkit::unique("pg_replication");

    let mut connection = connect(&endpoint).await;
    let identity = connection.identify_system().await.unwrap();
    assert_eq!(identity.database.as_deref(), Some(endpoint.database()));
    assert!(connection.timeline_history(identity.timeline).await.unwrap().is_empty());
    let make = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", identifier(&slot));
    connection.query(&make).await.unwrap();
    let before = connection.before_stream(&slot).await.unwrap();
    assert!(before.confirmed_flush.is_some());

    // Of what is refused the connection comes back, and goes on.
    let refused = connection.start::<Lsn>("no_such_slot", "Changes", Lsn::ZERO).await;
    let Err((Some(mut connection), error)) = refused else { panic!("there is no such slot") };
    assert!(
        matches!(&error, ReplicationError::Command { command, .. } if command.starts_with("START_REPLICATION"))
    );
    assert_eq!(error.sqlstate(), Some("42704"), "{error:?}");
    assert_eq!(connection.identify_system().await.unwrap().system_id, identity.system_id);
    drop(connection);

    sql.batch_execute("INSERT INTO public.t VALUES ('one')").await.unwrap();
    sql.batch_execute("INSERT INTO public.t VALUES ('two'), ('three')").await.unwrap();
    let mut first = stream(&endpoint, &slot, Lsn::ZERO).await;
    let (rows, acknowledged) = transaction(&mut first).await;
    assert_eq!(rows, ["one"]);
    let (rows, _) = transaction(&mut first).await;
    assert_eq!(rows, ["two", "three"]);

    // A server that is asked for a reply says how far it is.
    first.send_status(None, true).await.unwrap();
    let keepalive = async {
        loop {
            if let ReplicationEvent::Keepalive { wal_end, .. } = first.next().await.unwrap() {
                return wal_end;
            }
        }
    };
    let wal_end = tokio::time::timeout(PATIENCE, keepalive).await.expect("a keepalive");
    assert!(wal_end >= acknowledged);
    first.finish(Some(acknowledged)).await.unwrap();

    // What was received and not acknowledged comes again, and only that.
    let mut second = stream(&endpoint, &slot, Lsn::ZERO).await;
    let (rows, end) = transaction(&mut second).await;
    assert_eq!(rows, ["two", "three"]);
    second.finish(Some(end)).await.unwrap();

    let mut connection = connect(&endpoint).await;
    assert_eq!(connection.before_stream(&slot).await.unwrap().confirmed_flush, Some(end));
    connection.query(&format!("DROP_REPLICATION_SLOT {} WAIT", identifier(&slot))).await.unwrap();
    assert_eq!(connection.before_stream(&slot).await.unwrap().confirmed_flush, None);
}
