//! The client on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use pg_replication::{
    Endpoint, Lsn, ReplicationConnection, ReplicationError, ReplicationEvent, ReplicationStream,
    pgoutput::{self, PgOutput},
    quote::identifier,
    sqlstate,
};
use testkit::{process, programs, run, shared_postgres};

const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(endpoint: &Endpoint) -> ReplicationConnection {
    ReplicationConnection::connect(endpoint, "test", Duration::from_secs(60)).await.unwrap()
}

async fn stream(endpoint: &Endpoint, slot: &str, from: Lsn) -> ReplicationStream<Lsn> {
    stream_of(endpoint, slot, "Changes", from).await
}

async fn stream_of(endpoint: &Endpoint, slot: &str, publication: &str, from: Lsn) -> ReplicationStream<Lsn> {
    let started = connect(endpoint).await.start(slot, publication, from).await;
    started.map_err(|(_, error)| error).unwrap()
}

/// Returns the texts of rows up to the next commit, and its end.
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

    // The connection is returned after a refusal and remains usable.
    let refused = connection.start::<Lsn>("no_such_slot", "Changes", Lsn::ZERO).await;
    let Err((Some(mut connection), error)) = refused else { panic!("there is no such slot") };
    assert!(
        matches!(&error, ReplicationError::Command { command, .. } if command.starts_with("START_REPLICATION"))
    );
    assert_eq!(error.sqlstate(), Some(sqlstate::UNDEFINED_OBJECT), "{error:?}");
    assert_eq!(connection.identify_system().await.unwrap().system_id, identity.system_id);
    drop(connection);

    sql.batch_execute("INSERT INTO public.t VALUES ('one')").await.unwrap();
    sql.batch_execute("INSERT INTO public.t VALUES ('two'), ('three')").await.unwrap();
    let mut first = stream(&endpoint, &slot, Lsn::ZERO).await;
    let (rows, acknowledged) = transaction(&mut first).await;
    assert_eq!(rows, ["one"]);
    let (rows, _) = transaction(&mut first).await;
    assert_eq!(rows, ["two", "three"]);

    // A server answers a request for a reply with its position.
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

    // Only the transaction that was not acknowledged comes again.
    let mut second = stream(&endpoint, &slot, Lsn::ZERO).await;
    let (rows, end) = transaction(&mut second).await;
    assert_eq!(rows, ["two", "three"]);
    second.finish(Some(end)).await.unwrap();

    let mut connection = connect(&endpoint).await;
    assert_eq!(connection.before_stream(&slot).await.unwrap().confirmed_flush, Some(end));
    connection.query(&format!("DROP_REPLICATION_SLOT {} WAIT", identifier(&slot))).await.unwrap();
    assert_eq!(connection.before_stream(&slot).await.unwrap().confirmed_flush, None);
}

#[tokio::test]
async fn names_with_quotes_blanks_and_backslashes_arrive_as_they_are() {
    const PUBLICATION: &str = r#"All "o'clock", \news\, über"#;
    const NO_SLOT: &str = r"my slot's \name";
    let server = shared_postgres().await;
    let endpoint = Endpoint::parse(&server.create_database(&testkit::unique("names")).await).unwrap();
    let sql = endpoint.connect_sql("test").await.unwrap();
    let publication = identifier(PUBLICATION);
    sql.batch_execute(&format!(
        "CREATE TABLE public.t (x text); CREATE PUBLICATION {publication} FOR TABLE public.t"
    ))
    .await
    .unwrap();
    let slot = testkit::unique("pg_replication");
    let make = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", identifier(&slot));
    connect(&endpoint).await.query(&make).await.unwrap();
    sql.batch_execute("INSERT INTO public.t VALUES ('one')").await.unwrap();

    let mut stream = stream_of(&endpoint, &slot, PUBLICATION, Lsn::ZERO).await;
    let (rows, end) = transaction(&mut stream).await;
    assert_eq!(rows, ["one"]);
    stream.finish(Some(end)).await.unwrap();

    // No slot can have such a name, so the server's error shows the name that it has read.
    let refused = connect(&endpoint).await.start::<Lsn>(NO_SLOT, PUBLICATION, Lsn::ZERO).await;
    let Err((Some(mut connection), error)) = refused else { panic!("no slot can have this name") };
    assert_eq!(error.sqlstate(), Some(sqlstate::UNDEFINED_OBJECT), "{error:?}");
    assert!(error.server().unwrap().message.contains(NO_SLOT), "{error:?}");
    assert_eq!(connection.before_stream(NO_SLOT).await.unwrap().confirmed_flush, None);
    // The replication grammar has no doubled quote in an identifier: nothing of the name becomes a command.
    let refused = connection.start::<Lsn>(r#"x" LOGICAL 0/0 ("#, PUBLICATION, Lsn::ZERO).await;
    let Err((Some(mut connection), error)) = refused else { panic!("no slot can have this name") };
    assert_eq!(error.sqlstate(), Some(sqlstate::SYNTAX_ERROR), "{error:?}");
    connection.query(&format!("DROP_REPLICATION_SLOT {} WAIT", identifier(&slot))).await.unwrap();
}

#[tokio::test]
async fn the_example_prints_changes_as_they_are_committed() {
    let server = shared_postgres().await;
    let url = server.create_database(&testkit::unique("example")).await;
    let sql = Endpoint::parse(&url).unwrap().connect_sql("test").await.unwrap();
    sql.batch_execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, x text); CREATE PUBLICATION p FOR TABLE public.t",
    )
    .await
    .unwrap();
    let slot = testkit::unique("print_changes");
    let folder = run::folder(&slot);
    let log = folder.join("output");
    let mut command = process::command(programs::example("pg-replication", "print_changes"));
    command.args([&url, &slot, "p"]);
    let _program = process::Process::spawn(command, &folder, &log);
    let made = format!(
        "SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND confirmed_flush_lsn IS NOT NULL"
    );
    let printed = || std::fs::read_to_string(&log).unwrap_or_default();
    let slot_is_there = async {
        while sql.query_opt(&made, &[]).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, slot_is_there).await.unwrap_or_else(|_| panic!("{}", printed()));

    sql.batch_execute("INSERT INTO public.t VALUES (1, 'it''s'), (2, NULL)").await.unwrap();
    sql.batch_execute("UPDATE public.t SET x = 'two' WHERE id = 2; DELETE FROM public.t WHERE id = 1")
        .await
        .unwrap();
    sql.batch_execute("TRUNCATE public.t").await.unwrap();
    let all = async {
        loop {
            let text = printed();
            if text.contains("TRUNCATE") && text.ends_with('\n') && text.matches("COMMIT").count() >= 3 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{}", printed()));
    let lines: Vec<&str> = text.lines().map(|line| line.split(", ").next().unwrap_or(line)).collect();
    let expected = [
        "BEGIN",
        r#"  INSERT public.t: id="1" x="it's""#,
        r#"  INSERT public.t: id="2" x=NULL"#,
        "COMMIT",
        "BEGIN",
        r#"  UPDATE public.t: id="2" x="two""#,
        r#"  DELETE public.t: id="1" x=NULL"#,
        "COMMIT",
        "BEGIN",
        "  TRUNCATE t",
        "COMMIT",
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, expected) in lines.iter().zip(expected) {
        let as_expected = match expected {
            "BEGIN" | "COMMIT" => line.starts_with(expected),
            change => *line == change,
        };
        assert!(as_expected, "{line}, not {expected}, in\n{text}");
    }
}
