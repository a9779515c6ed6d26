//! A slot that somebody else uses: another database of the server, another program, or another outboxd.

use std::time::Duration;

use outboxd::{
    position::Lsn,
    postgres::{SourceDatabase, TableName},
    slot::{facts::SlotFacts, holder::ClientAddress, usage},
};
use pg_replication::{Endpoint, ReplicationStream};

use crate::stage::{PATIENCE, Stage, alive, eventually, say, source, until, until_alive, until_state};
use testkit::{Daemon, shared_postgres, unique};

/// A stage whose daemons and commands have the printed role.
async fn staged(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    stage.with_printed_role().await;
    stage
}

/// A configuration with the slot of another stage.
fn with_slot_of(stage: &Stage, other: &Stage) -> String {
    stage.config().replace(
        &format!("postgres.slot = \"{}\"", stage.slot()),
        &format!("postgres.slot = \"{}\"", other.slot()),
    )
}

fn is_refused(shown: &serde_json::Value, database: &str) -> bool {
    let reason = shown["reason"].as_str().unwrap_or_default();
    let belongs = format!("belongs to database \"{database}\"");
    shown["state"] != "standby" && reason.contains(&belongs) && reason.contains("set postgres.slot")
}

#[tokio::test]
async fn of_two_databases_with_one_slot_name_one_streams_and_the_other_is_refused_with_the_database_that_has_it()
 {
    let stages = [staged("mine").await, staged("yours").await];
    let configs = [stages[0].config(), with_slot_of(&stages[1], &stages[0])];
    let mut daemons = configs.map(|config| Daemon::start(&config));
    for daemon in &daemons {
        until_alive(daemon).await;
    }
    let streams = async |daemon: &Daemon| source(daemon, "orders").await["state"] == "streaming";
    eventually("one streams", async || streams(&daemons[0]).await || streams(&daemons[1]).await).await;
    let leader = usize::from(streams(&daemons[1]).await);
    let (has, refused) = (&stages[leader].name, 1 - leader);
    until(&daemons[refused], "orders", |shown| is_refused(shown, has)).await;
    let (status, text) = daemons[refused].readyz().await;
    assert!(status == 503 && text.contains(has), "{status} {text}");

    // A later start reports the same, and not a missing publication.
    assert!(daemons[refused].sigterm(PATIENCE).await.success());
    daemons[refused].start_again();
    until_alive(&daemons[refused]).await;
    let shown = until(&daemons[refused], "orders", |shown| is_refused(shown, has)).await;
    assert!(!shown["reason"].as_str().unwrap().contains("recover"), "{shown}");
    for command in ["check", "recover", "teardown"] {
        let arguments = [command, "--source", "orders"];
        let said =
            say(&daemons[refused], if command == "check" { &arguments[..1] } else { &arguments }).await;
        assert_eq!(said.status, 1);
        let told = said.stdout + &said.stderr;
        assert!(told.contains("postgres.slot"), "{told}");
        assert!(command == "teardown" || told.contains(&format!("belongs to database \"{has}\"")), "{told}");
    }
    assert_eq!(source(&daemons[leader], "orders").await["state"], "streaming");
    // The status shows nothing of the other's slot.
    assert_eq!(source(&daemons[refused], "orders").await["slot_retained_bytes"], serde_json::Value::Null);
}

/// The first instance cannot finish its backlog, because the broker does not confirm. All that time only its temporary slot
/// exists.
#[tokio::test]
async fn the_temporary_slot_of_another_database_is_not_stood_by_for() {
    let (first, second) = (staged("first").await, staged("second").await);
    first.write_row("a", 1, "OrderCreated").await;
    let leader = alive(&first.config()).await;
    until_state(&leader, "orders", "halted").await;
    let refused = alive(&with_slot_of(&second, &first)).await;
    until(&refused, "orders", |shown| is_refused(shown, &first.name)).await;
    assert_eq!(refused.readyz().await.0, 503);
    let said = say(&refused, &["check"]).await;
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains(&format!("belongs to database \"{}\"", first.name)), "{}", said.stdout);
    assert!(said.stdout.contains("set postgres.slot"), "{}", said.stdout);
}

/// Streams from a stage's slot with another application_name, and confirms nothing.
pub(crate) async fn hold(stage: &Stage, application: &str) -> ReplicationStream {
    try_hold(stage, application).await.unwrap()
}

/// Tries the same; `None` while another connection has the slot.
async fn try_hold(stage: &Stage, application: &str) -> Option<ReplicationStream> {
    let database = database(stage);
    let connection = database.connect_replication(application).await.unwrap();
    connection.start(&database.slot, &database.publication, Lsn::ZERO).await.ok()
}

pub(crate) fn database(stage: &Stage) -> SourceDatabase {
    SourceDatabase {
        endpoint: Endpoint::parse(&stage.postgres_url).unwrap(),
        slot: stage.slot(),
        publication: "outboxd_orders".into(),
        create: false,
        failover: false,
        table: TableName { schema: "public".into(), table: "outbox".into() },
        schema: "public".into(),
        rows: Default::default(),
        cleanup: None,
        parks: false,
        wal_sender_timeout: Duration::from_secs(3600),
    }
}

#[tokio::test]
async fn a_slot_that_another_program_holds_is_refused_with_its_name_user_and_address() {
    // A superuser: other roles do not see the address of another user's session.
    let mut stage = Stage::shared("debezium").await;
    stage.consume().await;
    let mut daemon = stage.relay().await;
    let standby = alive(&stage.config()).await;
    let reason = until_state(&standby, "orders", "standby").await;
    for part in ["application \"outboxd orders\"", "user \"postgres\"", "address 127.0.0.1"] {
        assert!(reason.contains(part), "{reason}");
    }
    drop(standby);
    assert!(daemon.sigterm(PATIENCE).await.success());

    let holder = hold(&stage, "Debezium Streaming").await;
    daemon.start_again();
    until_alive(&daemon).await;
    let whose = "application \"Debezium Streaming\", user \"postgres\", address 127.0.0.1";
    let held =
        |shown: &serde_json::Value| shown["reason"].as_str().is_some_and(|reason| reason.contains(whose));
    let shown = until(&daemon, "orders", held).await;
    assert!(shown["reason"].as_str().unwrap().contains("set postgres.slot"), "{shown}");
    let (status, text) = daemon.readyz().await;
    assert!(status == 503 && text.contains(whose), "{status} {text}");
    eventually("the log names it", async || daemon.log().contains("Debezium Streaming")).await;
    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains(whose), "{}", said.stdout);
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert!(said.status == 1 && said.stderr.contains(whose), "{}", said.stderr);

    drop(holder);
    until_state(&daemon, "orders", "streaming").await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

/// Debezium gets the slot between two instances, while the second stands by.
#[tokio::test]
async fn a_standby_that_another_program_forestalls_is_ready_no_more() {
    let stage = staged("forestalled").await;
    let mut leader = stage.relay_as_printed_role().await;
    let standby = alive(&stage.config()).await;
    until_state(&standby, "orders", "standby").await;
    standby.suspend();
    assert!(leader.sigterm(PATIENCE).await.success());
    let holder = hold(&stage, "pg_recvlogical").await;
    standby.resume();
    until(&standby, "orders", |shown| {
        shown["state"] != "standby"
            && shown["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("application \"pg_recvlogical\""))
    })
    .await;
    assert_eq!(standby.readyz().await.0, 503);
    drop(holder);
    until_state(&standby, "orders", "streaming").await;
}

#[tokio::test]
async fn instances_with_another_application_name_of_their_own_stand_by_for_one_another() {
    let mut stage = staged("renamed").await;
    stage.postgres_url += "?application_name=billing%20relay";
    let _leader = stage.relay_as_printed_role().await;
    let standby = alive(&stage.config()).await;
    let reason = until_state(&standby, "orders", "standby").await;
    assert!(reason.contains("application \"billing relay\""), "{reason}");
    assert_eq!(standby.readyz().await.0, 200);
}

/// Configuration of an instance with another application_name.
fn named(stage: &Stage, application: &str) -> String {
    let url = stage.postgres_url.replace("//postgres@", &format!("//{}@", stage.printed_role()));
    stage.config().replace(&url, &format!("{url}?application_name={application}"))
}

/// An upgrade may change application_name.
#[tokio::test]
async fn instances_with_different_application_names_stand_by_for_one_another_and_for_no_stranger() {
    let stage = staged("two_names").await;
    // No confirm arrives, so the backlog and its temporary slot stay.
    stage.write_row("a", 1, "OrderCreated").await;
    let mut first = alive(&named(&stage, "billing")).await;
    until_state(&first, "orders", "halted").await;
    let mut second = alive(&named(&stage, "invoices")).await;
    let is_standby_for = |shown: &serde_json::Value, application: &str| {
        let reason = shown["reason"].as_str().unwrap_or_default();
        shown["state"] == "standby" && reason.contains(&format!("application \"{application}\""))
    };
    until(&second, "orders", |shown| is_standby_for(shown, "billing")).await;
    let _inbox = stage.inbox(&[&format!("{}.events", stage.workload.aggregate_type)]).await;
    until_state(&first, "orders", "streaming").await;

    // The slot itself, whose holder is recorded.
    assert!(second.sigterm(PATIENCE).await.success());
    second.start_again();
    until_alive(&second).await;
    until(&second, "orders", |shown| is_standby_for(shown, "billing")).await;
    assert_eq!(second.readyz().await.0, 200);
    let said = say(&second, &["check"]).await;
    assert!(said.status == 0 && said.stdout.contains("in use by application \"billing\""), "{}", said.stdout);

    first.kill9().await;
    until_state(&second, "orders", "streaming").await;
    first.start_again();
    until_alive(&first).await;
    until(&first, "orders", |shown| is_standby_for(shown, "invoices")).await;
    assert_eq!(first.readyz().await.0, 200);
    assert!(!first.log().contains("not outboxd") && !second.log().contains("not outboxd"));

    // The record names the killed instance. Another program that takes the slot is not that instance.
    first.suspend();
    second.kill9().await;
    let _stranger = loop {
        if let Some(stranger) = try_hold(&stage, "Debezium Streaming").await {
            break stranger;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    first.resume();
    until(&first, "orders", |shown| {
        let reason = shown["reason"].as_str().unwrap_or_default();
        shown["state"] != "standby" && reason.contains("application \"Debezium Streaming\"")
    })
    .await;
    assert_eq!(first.readyz().await.0, 503);
}

/// Like `pg_logical_slot_peek_changes`.
#[tokio::test]
async fn a_person_who_looks_into_the_slot_for_a_moment_halts_nobody() {
    let stage = staged("peek").await;
    let mut daemon = stage.relay_as_printed_role().await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    let holder = hold(&stage, "psql").await;
    daemon.start_again();
    until_alive(&daemon).await;
    let client = stage.client().await;
    let looks = "SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND datname = current_database() \
                 AND application_name = 'outboxd orders' AND query LIKE '%outboxd_state%'";
    eventually("it has looked who has the slot", async || {
        client.query_opt(looks, &[]).await.unwrap().is_some()
    })
    .await;
    drop(holder);
    until_state(&daemon, "orders", "streaming").await;
    assert!(!daemon.log().contains("not outboxd"), "{}", daemon.log());
}

#[tokio::test]
async fn a_role_without_rights_sees_which_application_and_user_hold_a_slot() {
    let stage = Stage::shared("seen").await;
    assert!(stage.relay_as_printed_role().await.sigterm(PATIENCE).await.success());
    let _holder = hold(&stage, "Debezium Streaming").await;
    let role = unique("nobody");
    stage.sql(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = stage.postgres_url.replace("//postgres@", &format!("//{role}@"));
    let client = Endpoint::parse(&url).unwrap().connect_sql("outboxd orders").await.unwrap();
    let uses = usage::read(&client, "public", &stage.slot()).await.unwrap();
    let [SlotFacts { holder: Some(holder), database, .. }] = uses.as_slice() else { panic!("{uses:?}") };
    assert_eq!(database.as_deref(), Some(&*stage.name));
    assert_eq!((&*holder.application, holder.user.as_deref()), ("Debezium Streaming", Some("postgres")));
    assert_eq!(holder.address, ClientAddress::Hidden);
    assert!(!holder.is_outboxd);
    let as_superuser =
        usage::read(&shared_postgres().await.client(&stage.name).await, "public", &stage.slot()).await;
    assert!(
        matches!(&as_superuser.unwrap()[0].holder.as_ref().unwrap().address, ClientAddress::Ip(ip) if ip == "127.0.0.1")
    );
}
