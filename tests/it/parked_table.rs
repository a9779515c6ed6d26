//! The table of parked rows against a real server: when a row counts as stored.

use std::{sync::Arc, time::Duration};

use outboxd::{
    message::{Column, ColumnNames, Mapping, OutboxRow, ParkCause, ParkReason, ParkedRow, Timestamp},
    parking::{parked_rows, parked_table},
    position::{Lsn, Position},
    postgres::{SourceDatabase, TableName},
};
use pg_replication::Endpoint;
use tokio_postgres::Client;

use crate::stage::eventually;
use testkit::{Postgres, PostgresOptions, shared_postgres, unique};

/// Creates a database with a table of parked rows, and a session that parks, with its process id.
async fn parking(server: &Postgres) -> (SourceDatabase, Client, i32) {
    let name = unique("parked");
    let url = server.create_database(&name).await;
    let database = SourceDatabase {
        parks: true,
        endpoint: Endpoint::parse(&url).unwrap(),
        slot: "slot".into(),
        publication: "outbox".into(),
        create: true,
        failover: false,
        table: TableName { schema: "public".into(), table: "outbox".into() },
        schema: "public".into(),
        rows: Default::default(),
        cleanup: None,
        wal_sender_timeout: Duration::from_secs(30),
    };
    let client = database.endpoint.connect_sql("parker").await.unwrap();
    parked_table::create_table(&client, &database).await.unwrap();
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    (database, client, pid)
}

fn row(aggregate: &str) -> Arc<ParkedRow> {
    let names = ["id", "aggregatetype", "aggregateid", "type", "payload"];
    let columns = names.map(|name| Column { name: name.into(), type_oid: 25 });
    let mapping = Mapping {
        source: "orders".into(),
        columns: ColumnNames::default(),
        id: "{id}".parse().unwrap(),
        exchange: "e".parse().unwrap(),
        routing_key: "k".parse().unwrap(),
        headers: Vec::new(),
        properties: Vec::new(),
        properties_from_headers: false,
        content_type: None,
        message_bytes_max: 1000,
    };
    let values = ["1", "Order", aggregate, "E", "{}"].map(|value| Some(value.to_owned().into())).to_vec();
    let position = Position { commit_lsn: Lsn(1), index: 0 };
    let kept =
        mapping.resolve(&columns).unwrap().keep(OutboxRow { position, committed_at: Timestamp(0), values });
    let reason = ParkReason { cause: ParkCause::Unroutable, text: "no queue".into(), route: None };
    Arc::new(ParkedRow { kept: Arc::new(kept), reason })
}

async fn until_waiting(client: &Client, pid: i32, for_what: &str, seconds: u32) {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND {for_what} AND now() - query_start > interval '{seconds} s'"
    );
    eventually("it waits", async || client.query_one(&waiting, &[]).await.unwrap().get::<_, i64>(0) == 1)
        .await;
}

/// An earlier attempt may have been cancelled while its commit was in progress.
#[tokio::test]
async fn a_row_that_another_session_commits_meanwhile_is_parked_and_no_other_row() {
    let server = shared_postgres().await;
    let (database, parker, pid) = parking(server).await;
    parked_table::store(&parker, &database, &[row("a")]).await.unwrap();
    parked_table::store(&parker, &database, &[row("a")]).await.unwrap();

    let other = database.endpoint.connect_sql("other").await.unwrap();
    other
        .batch_execute(
            "CREATE TABLE public.copy AS SELECT * FROM public.outboxd_parked; TRUNCATE public.outboxd_parked;
             BEGIN; INSERT INTO public.outboxd_parked SELECT * FROM public.copy",
        )
        .await
        .unwrap();
    let again = [row("a")];
    let storing = parked_table::store(&parker, &database, &again);
    let commit = async {
        until_waiting(&server.client("postgres").await, pid, "wait_event_type = 'Lock'", 0).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (stored, ()) = tokio::join!(storing, commit);
    stored.unwrap();

    let taken = parked_table::store(&parker, &database, &[row("b")]).await.unwrap_err();
    assert!(taken.to_string().contains("another row is parked"), "{taken}");
    parker.batch_execute("ROLLBACK").await.unwrap();
    let rows = parked_rows::list(&parker, &database).await.unwrap();
    assert!(rows.len() == 1 && rows[0].aggregate_id.as_deref() == Some("a"), "{rows:?}");
}

#[tokio::test]
async fn an_insert_that_waits_is_ended_by_the_server_and_leaves_nothing_behind() {
    let server = shared_postgres().await;
    let (database, parker, pid) = parking(server).await;
    let other = database.endpoint.connect_sql("other").await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE public.outboxd_parked IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refused = parked_table::store(&parker, &database, &[row("a")]).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("55P03"), "{refused}");
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    assert_eq!(other.query_one(&waits, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// A cancelled commit would be reported as a success, with a warning.
#[tokio::test]
async fn a_row_is_parked_once_a_synchronous_standby_has_it_however_long_that_takes() {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let server = Postgres::start(PostgresOptions {
        settings: vec![setting("statement_timeout", "3s"), setting("synchronous_commit", "off")],
        ..PostgresOptions::default()
    })
    .await;
    let (database, parker, pid) = parking(&server).await;
    let admin = server.client("postgres").await;
    let require = async |standbys: &str| {
        admin
            .batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'"))
            .await
            .unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let known = format!("SELECT current_setting('synchronous_standby_names') = '{standbys}'");
        eventually("the setting is known", async || {
            let client = server.client("postgres").await;
            client.query_one(&known, &[]).await.unwrap().get::<_, bool>(0)
        })
        .await;
    };
    require("nobody").await;
    server.commits_wait("postgres").await;
    let rows = [row("a")];
    let storing = parked_table::store(&parker, &database, &rows);
    let mut storing = std::pin::pin!(storing);
    tokio::select! {
        stored = &mut storing => panic!("no standby has it: {stored:?}"),
        () = until_waiting(&admin, pid, "wait_event = 'SyncRep'", 6) => {}
    }
    require("").await;
    storing.await.unwrap();
    assert_eq!(parked_rows::list(&parker, &database).await.unwrap().len(), 1);
}
