//! The catalog, the preflight and the backlog, against a real server.

use std::time::Duration;

use outboxd::{
    backfill::{
        backlog::{Backlog, BacklogError, create_slot_if_table_is_empty},
        snapshot::{RowOrder, Selection},
    },
    cleanup::{self, Pass, Statements},
    message::ColumnNames,
    position::Lsn,
    postgres::{Cleanup, SourceDatabase, TableName, outbox_table::TableKind},
    preflight::{self, Check, Facts, Finding},
    slot::{
        creation::{self, SlotError},
        facts,
        publication::{self, Held, Publishing, Unpublished},
        record::{self, Confirmed, SlotRecord},
    },
};
use pg_replication::{
    Endpoint, ReplicationEvent,
    pgoutput::{PgOutput, decode},
};
use tokio_postgres::Client;

use testkit::{shared_postgres, unique};

/// Creates a database and a slot name for one test: all databases of a server share the names of slots.
async fn database(ddl: &str) -> (SourceDatabase, Client) {
    let server = shared_postgres().await;
    let name = unique("db");
    let url = server.create_database(&name).await;
    let database = SourceDatabase {
        parks: false,
        endpoint: Endpoint::parse(&url).unwrap(),
        slot: format!("{}_slot", name.replace('-', "_")),
        publication: "out\"box".into(),
        create: true,
        failover: false,
        table: TableName { schema: "public".into(), table: "out\"box".into() },
        schema: "public".into(),
        rows: Default::default(),
        cleanup: None,
        wal_sender_timeout: Duration::from_secs(30),
    };
    let client = database.endpoint.connect_sql("test").await.unwrap();
    // The tests' statements name no schema.
    client.batch_execute(&format!("SET search_path = public; {ddl}")).await.unwrap();
    (database, client)
}

const STANDARD: &str = r#"CREATE TABLE "out""box" (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL DEFAULT 'Order',
    aggregateid text NOT NULL DEFAULT '1', type text NOT NULL DEFAULT 'OrderCreated', payload jsonb, gone int,
    seq bigint GENERATED ALWAYS AS IDENTITY, created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    shout text GENERATED ALWAYS AS (upper(type)) STORED);
    ALTER TABLE "out""box" DROP COLUMN gone"#;

fn columns() -> ColumnNames {
    ColumnNames::default()
}

async fn begin(database: &SourceDatabase) -> Result<Backlog, BacklogError> {
    let replication = database.connect_replication("test").await.unwrap();
    let client = database.endpoint.connect_sql("test").await.unwrap();
    Backlog::begin(replication, client, database, &columns(), &Selection::default(), false).await
}

async fn publish(database: &SourceDatabase, client: &Client, kind: TableKind) {
    assert!(publication::create(client, &database.publication, &database.table, kind).await.unwrap());
}

async fn facts(database: &SourceDatabase, client: &Client) -> Facts {
    Facts::read(client, database).await.unwrap()
}

/// Waits until the server has dropped the slot of a lost connection.
async fn slot_is_gone(client: &Client, slot: &str) {
    for _ in 0..200 {
        if facts::slot_progress(client, slot).await.unwrap().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("slot {slot} is still there");
}

fn check<'a>(checks: &'a [Check], name: &str) -> &'a Finding {
    &checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}")).finding
}

fn cure<'a>(checks: &'a [Check], name: &str) -> &'a str {
    match check(checks, name) {
        Finding::Failed(problem) => &problem.cure,
        other => panic!("{name}: {other:?}"),
    }
}

/// Every row comes once, while writers write before, during and after the change from the backlog to the stream.
#[tokio::test]
async fn backlog_and_stream_together_are_every_row_once() {
    let (database, client) = database(STANDARD).await;
    publish(&database, &client, TableKind::Ordinary).await;
    let writer = database.endpoint.connect_sql("writer").await.unwrap();
    writer.batch_execute("SET search_path = public").await.unwrap();
    let writing = tokio::spawn(async move {
        for n in 0..600 {
            writer
                .batch_execute(&format!(
                    r#"INSERT INTO "out""box" (aggregateid, payload) VALUES ({n}, '{{"a":1}}')"#
                ))
                .await
                .unwrap();
        }
    });
    let has_rows = format!("SELECT EXISTS (SELECT FROM {})", database.table.quoted());
    while !client.query_one(&has_rows, &[]).await.unwrap().get::<_, bool>(0) {}

    let mut backlog = begin(&database).await.unwrap();
    assert_eq!(backlog.rows.order(), RowOrder::Sequence);
    let width = backlog.rows.columns().len();
    let place = backlog.rows.columns().iter().position(|column| column.name == "aggregateid").unwrap();
    assert_eq!(width, 7, "neither the dropped nor the generated column");
    let mut seen = Vec::new();
    let mut last = None;
    let mut text = Vec::new();
    while let Some(row) = backlog.rows.next().await.unwrap() {
        assert!(last < Some(row.position), "{last:?} then {:?}", row.position);
        assert!(row.position.commit_lsn < backlog.consistent_point());
        last = Some(row.position);
        seen.push(row.values[place].clone().unwrap());
        text = row.values;
    }
    writing.await.unwrap();
    let mut stream = backlog
        .finish()
        .await
        .unwrap()
        .start::<Lsn>(&database.slot, &database.publication, Lsn::ZERO)
        .await
        .map_err(|e| e.1)
        .unwrap();
    let from_table = seen.len();
    let mut streamed = None;
    while seen.len() < 600 {
        let ReplicationEvent::WalData { bytes, .. } = stream.next().await.unwrap() else { continue };
        match decode(bytes).unwrap() {
            PgOutput::Begin { final_lsn, .. } => assert!(final_lsn > last.unwrap().commit_lsn),
            PgOutput::Insert { new, .. } => {
                let values = new.into_text().unwrap();
                seen.push(values[place].clone().unwrap());
                streamed = Some(values);
            }
            PgOutput::Relation(relation) => assert_eq!(relation.columns.len(), width),
            _ => {}
        }
    }
    assert!(from_table > 0);
    if let Some(streamed) = streamed {
        // Both ways use the same output functions under the same settings.
        let payload = width - 3;
        assert_eq!(text[payload], streamed[payload]);
        assert_eq!(
            text[width - 1].as_ref().unwrap().ends_with(b"+00"),
            streamed[width - 1].as_ref().unwrap().ends_with(b"+00")
        );
    }
    let numbers: Vec<u32> = seen.iter().map(|n| std::str::from_utf8(n).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..600).collect::<Vec<_>>(), "{from_table} from the table");
}

#[tokio::test]
async fn only_one_instance_publishes_the_backlog_and_a_crash_leaves_nothing() {
    let (database, client) = database(STANDARD).await;
    publish(&database, &client, TableKind::Ordinary).await;
    client.batch_execute(r#"INSERT INTO "out""box" DEFAULT VALUES"#).await.unwrap();

    let mut first = begin(&database).await.unwrap();
    assert!(first.rows.next().await.unwrap().is_some());
    assert!(matches!(begin(&database).await, Err(BacklogError::Busy(_))));
    drop(first);
    slot_is_gone(&client, &format!("{}_backlog", database.slot)).await;
    assert!(facts::slot_progress(&client, &database.slot).await.unwrap().is_none());

    let early = begin(&database).await.unwrap();
    assert!(matches!(early.finish().await, Err(BacklogError::Unfinished)));
    slot_is_gone(&client, &format!("{}_backlog", database.slot)).await;

    let mut second = begin(&database).await.unwrap();
    while second.rows.next().await.unwrap().is_some() {}
    let connection = second.finish().await.unwrap();
    assert!(matches!(begin(&database).await, Err(BacklogError::AlreadyThere(_))));
    slot_is_gone(&client, &format!("{}_backlog", database.slot)).await;

    let stream = connection
        .start::<Lsn>(&database.slot, &database.publication, Lsn::ZERO)
        .await
        .map_err(|e| e.1)
        .unwrap();
    let in_use = creation::drop_slot(&client, &database.slot).await.unwrap_err();
    assert!(matches!(in_use, SlotError::InUse { holder: Some(_), .. }), "{in_use}");
    drop(stream);
    for _ in 0..200 {
        match creation::drop_slot(&client, &database.slot).await {
            Ok(there_was_one) => {
                assert!(there_was_one);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert!(!creation::drop_slot(&client, &database.slot).await.unwrap());
    assert!(publication::drop(&client, &database.publication).await.unwrap());
    assert!(!publication::drop(&client, &database.publication).await.unwrap());
}

/// More rows than one FETCH returns, an exact multiple of it, and futures dropped all the time.
#[tokio::test]
async fn reading_the_backlog_survives_dropped_futures() {
    let (database, client) = database(STANDARD).await;
    publish(&database, &client, TableKind::Ordinary).await;
    client
        .batch_execute(r#"INSERT INTO "out""box" (aggregateid) SELECT g FROM generate_series(0, 1023) g"#)
        .await
        .unwrap();
    let mut backlog = begin(&database).await.unwrap();
    let mut rows = 0;
    loop {
        let Ok(row) = tokio::time::timeout(Duration::from_micros(20), backlog.rows.next()).await else {
            continue;
        };
        let Some(row) = row.unwrap() else { break };
        assert_eq!(row.position.index, rows);
        assert_eq!(row.values[2].as_deref(), Some(rows.to_string().as_bytes()));
        rows += 1;
    }
    assert_eq!(rows, 1024);
}

#[tokio::test]
async fn setup_makes_the_slot_only_for_an_empty_table() {
    let (database, client) = database(STANDARD).await;
    publish(&database, &client, TableKind::Ordinary).await;
    let create = async || {
        let replication = database.connect_replication("test").await.unwrap();
        let client = database.endpoint.connect_sql("test").await.unwrap();
        create_slot_if_table_is_empty(replication, client, &database).await
    };
    client.batch_execute(r#"INSERT INTO "out""box" DEFAULT VALUES"#).await.unwrap();
    assert!(!create().await.unwrap());
    assert!(facts::slot_progress(&client, &database.slot).await.unwrap().is_none());
    client.batch_execute(r#"DELETE FROM "out""box""#).await.unwrap();
    assert!(create().await.unwrap());
    let slot = facts::slot_progress(&client, &database.slot).await.unwrap().unwrap();
    assert!(!slot.temporary && !slot.is_lost() && slot.active_pid.is_none());
    assert_eq!(slot.plugin.as_deref(), Some("pgoutput"));
    assert!(slot.confirmed_flush.unwrap() <= slot.current && slot.retained_bytes >= slot.lag_bytes);
    assert!(matches!(create().await, Err(BacklogError::AlreadyThere(_))));
    assert!(matches!(creation::create_slot(&client, &database.slot, false).await, Err(SlotError::Exists(_))));
    creation::drop_slot(&client, &database.slot).await.unwrap();
}

/// An instance that was frozen after it got the slot, and lost it, does not overwrite its successor's claim.
#[tokio::test]
async fn the_record_is_claimed_only_by_whoever_streams() {
    let (database, client) = database(STANDARD).await;
    publish(&database, &client, TableKind::Ordinary).await;
    record::create_table(&client, &database).await.unwrap();
    creation::create_slot(&client, &database.slot, false).await.unwrap();
    let mut replication = database.connect_replication("test").await.unwrap();
    let ours = replication.before_stream(&database.slot).await.unwrap();
    let claimed = async |pid| {
        let record = SlotRecord {
            system_id: "1".into(),
            timeline: 1,
            confirmed_flush: ours.confirmed_flush.unwrap(),
            confirmed_until: None,
            holder: Some("a name".into()),
            gap: None,
            published_by: None,
            unproven: None,
            version: 1,
            as_written: true,
        };
        record::claim(&client, &database, &record, pid).await.unwrap()
    };
    assert!(!claimed(ours.pid).await, "nobody streams yet");
    let stream = replication.start::<Lsn>(&database.slot, &database.publication, Lsn::ZERO).await;
    let stream = stream.map_err(|(_, error)| error).unwrap();
    assert!(!claimed(ours.pid + 1).await, "somebody else streams");
    assert!(claimed(ours.pid).await);
    stream.finish(None).await.unwrap();
    creation::drop_slot(&client, &database.slot).await.unwrap();
}

/// The recorded position is never beyond the slot's, and is used only when outboxd wrote it.
#[tokio::test]
async fn a_record_says_what_the_slot_says_and_shows_when_something_else_wrote_it() {
    let (database, client) = database(STANDARD).await;
    publish(&database, &client, TableKind::Ordinary).await;
    record::create_table(&client, &database).await.unwrap();
    creation::create_slot(&client, &database.slot, false).await.unwrap();
    let read = async || record::read(&client, &database).await.unwrap().unwrap();
    let flush =
        facts::slot_progress(&client, &database.slot).await.unwrap().unwrap().confirmed_flush.unwrap();
    let record = SlotRecord {
        system_id: "1".into(),
        timeline: 1,
        confirmed_flush: Lsn(flush.0 - 100),
        confirmed_until: None,
        holder: Some("a name".into()),
        gap: None,
        published_by: None,
        unproven: None,
        version: 1,
        as_written: true,
    };
    record::write(&client, &database, &record).await.unwrap();
    let mut before = read().await;
    assert!(before.as_written && before.version >> 32 == 1, "{before:?}");

    let note = async |holder, flush| {
        let confirmed = Confirmed { flush, position: None, until: None };
        record::note(&client, &database, holder, confirmed).await.unwrap()
    };
    assert!(!note("another", flush).await);
    assert!(!note("a name", Lsn(flush.0 - 200)).await, "never back");
    assert_eq!(read().await, before);
    for (told, is_all) in [(Lsn(flush.0 - 50), true), (Lsn(flush.0 + 50), false), (flush, true)] {
        assert_eq!(note("a name", told).await, is_all);
        let now = read().await;
        assert_eq!(now.confirmed_flush, told.min(flush));
        assert!(now.as_written && now.version > before.version, "{now:?}");
        before = now;
    }

    // A record from a dump, from manual SQL, and from version 0.1.0.
    let copy = "CREATE TABLE copy AS SELECT * FROM outboxd_state; DELETE FROM outboxd_state; \
                INSERT INTO outboxd_state SELECT * FROM copy";
    let hand = "UPDATE outboxd_state SET unaccounted = NULL";
    let earlier = "UPDATE outboxd_state SET version = version + 1";
    for other in [copy, hand, earlier] {
        client.batch_execute(other).await.unwrap();
        assert!(!read().await.as_written, "{other}");
        assert!(note("a name", flush).await);
        assert!(read().await.as_written);
    }
    client.batch_execute("VACUUM (FREEZE, FULL) outboxd_state").await.unwrap();
    assert!(read().await.as_written);

    creation::drop_slot(&client, &database.slot).await.unwrap();
    assert!(!note("a name", flush).await, "a position was noted without a slot");
    let confirmed = Confirmed { flush, position: None, until: None };
    record::release(&client, &database, "a name", confirmed).await.unwrap();
    assert_eq!(read().await.holder.as_deref(), Some("a name"));
}

/// Rows of child tables (INHERITS) are not outbox rows; rows of partitions are.
#[tokio::test]
async fn inheritance_and_partitions() {
    let (database, client) =
        database(&format!(r#"{STANDARD}; CREATE TABLE heir () INHERITS ("out""box")"#)).await;
    publish(&database, &client, TableKind::Ordinary).await;
    client.batch_execute(r#"INSERT INTO heir (seq) VALUES (1)"#).await.unwrap();
    let held = facts(&database, &client).await.publication.unwrap();
    assert_eq!((held.held, held.other_tables), (Held::AsItself, 0));
    assert!(begin(&database).await.unwrap().rows.next().await.unwrap().is_none());

    let (database, client) = self::database(
        r#"CREATE TABLE "out""box" (id int, aggregatetype text, aggregateid text, type text, payload json, created_at date)
           PARTITION BY RANGE (id);"#,
    )
    .await;
    client.batch_execute(r#"CREATE PUBLICATION "out""box" FOR TABLE "out""box""#).await.unwrap();
    let before = facts(&database, &client).await;
    assert_eq!(before.publication.as_ref().unwrap().held, Held::AsPartitions, "though it has no partitions");
    let checks = preflight::checks(&database, &columns(), &before);
    let mend = cure(&checks, "publication").to_owned();
    assert!(matches!(check(&checks, "column created_at"), Finding::Failed(_)), "a date is no time");
    client
        .batch_execute(&format!(
            r#"{mend} CREATE TABLE p1 PARTITION OF "out""box" FOR VALUES FROM (0) TO (9);
            INSERT INTO "out""box" (id) VALUES (1), (2)"#
        ))
        .await
        .unwrap();
    let held = facts(&database, &client).await.publication.unwrap();
    assert_eq!((held.held, held.other_tables, held.via_partition_root), (Held::AsItself, 0, true));
    let mut backlog = begin(&database).await.unwrap();
    assert_eq!(backlog.rows.order(), RowOrder::CreatedAt);
    assert!(backlog.rows.next().await.unwrap().is_some() && backlog.rows.next().await.unwrap().is_some());
    assert!(backlog.rows.next().await.unwrap().is_none());
    publication::drop(&client, &database.publication).await.unwrap();
    publish(&database, &client, TableKind::Partitioned).await;
    assert_eq!(facts(&database, &client).await.publication.unwrap().held, Held::AsItself);
}

/// The same holds behind deleted rows that are not vacuumed yet: a search from the table's start would read them again and again.
#[tokio::test]
async fn a_pass_of_clean_up_reads_each_block_of_the_table_once() {
    let partitioned = STANDARD.replace("PRIMARY KEY ", "").replace(
        "STORED);",
        r#"STORED) PARTITION BY HASH (id);
           CREATE TABLE p0 PARTITION OF "out""box" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE TABLE p1 PARTITION OF "out""box" FOR VALUES WITH (MODULUS 2, REMAINDER 1);"#,
    );
    let partitioned = partitioned.replace("GENERATED ALWAYS AS IDENTITY", "DEFAULT 1");
    for (ddl, kind) in [(STANDARD, TableKind::Ordinary), (&*partitioned, TableKind::Partitioned)] {
        let (database, client) = database(ddl).await;
        publish(&database, &client, kind).await;
        client
            .batch_execute(
                r#"INSERT INTO "out""box" (payload) SELECT to_jsonb(repeat('x', 100)) FROM generate_series(1, 60000);
                   DELETE FROM "out""box" o WHERE ctid < '(400,0)'"#,
            )
            .await
            .unwrap();
        let by = publication::publishing(&client, &database).await.unwrap().by().unwrap();
        let cleanup = Cleanup { retention: Duration::ZERO };
        let statements = Statements::prepare(&client, &database, cleanup, &columns(), by).await.unwrap();
        let blocks = r#"SELECT sum(pg_relation_size(oid) / 8192)::int8, max(pg_relation_size(oid) / 8192)::int8
                        FROM pg_class WHERE relname IN ('out"box', 'p0', 'p1')"#;
        let row = client.query_one(blocks, &[]).await.unwrap();
        let (all, of_one): (i64, i64) = (row.get(0), row.get(1));
        let (mut read, mut found, mut searches, mut pass) = (0, 0, 0, Pass::default());
        loop {
            let (search, then) = statements.next_search(pass, u32::try_from(of_one).unwrap());
            let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off) {search}");
            let plan = client.query(&explain, &[]).await.unwrap();
            let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
            let rows = number_after(plan[0], "rows=");
            let buffers = plan.iter().take_while(|line| !line.starts_with("Planning"));
            let buffers = buffers.copied().find(|line| line.contains("Buffers: shared")).unwrap_or_default();
            read += number_after(buffers, "hit=") + number_after(buffers, "read=");
            found += rows;
            searches += 1;
            pass = then(rows);
            if pass == Pass::Begin {
                break;
            }
        }
        let left = r#"SELECT count(*) FROM "out""box""#;
        let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
        println!("{kind:?}: {all} blocks, {read} read in {searches} searches, {found} of {left} rows found");
        assert!(searches > 5, "one search is no pass");
        assert_eq!((found as i64, read as i64), (left, all));
        // A complete pass removes what it finds, and the next pass finds nothing.
        let (mut pass, mut removed) = (Pass::default(), 0);
        loop {
            let seen = cleanup::search(&client, &database, &statements, pass).await.unwrap();
            removed += cleanup::remove(&client, &statements, &seen.rows).await.unwrap();
            pass = seen.then;
            if pass == Pass::Begin {
                break;
            }
        }
        assert_eq!(removed as i64, left);
    }
}

fn number_after(text: &str, word: &str) -> usize {
    let Some((_, rest)) = text.split_once(word) else { return 0 };
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// For every way to publish a table, and every server version: two queries agree, and a table that was removed and added again
/// differs from one that stayed.
#[tokio::test]
async fn by_what_a_table_is_published_shows_that_it_was_taken_out_and_put_back() {
    let (database, client) = database(STANDARD).await;
    let published = async || {
        let by = publication::publishing(&client, &database).await.unwrap();
        let held = facts(&database, &client).await.publication;
        let agrees = match by {
            Publishing::By(_) => held.is_some_and(|p| p.insert && p.held == Held::AsItself),
            Publishing::Not(Unpublished::Missing) => held.is_none(),
            Publishing::Not(Unpublished::NotHeld) => held.is_some_and(|p| p.held == Held::No),
            Publishing::Not(Unpublished::NoInserts) => held.is_some_and(|p| !p.insert),
            Publishing::Not(Unpublished::AsPartitions) => held.is_some_and(|p| p.held == Held::AsPartitions),
            Publishing::NoTable => true,
        };
        assert!(agrees, "{by:?}");
        by
    };
    let sql = async |statements: &str| client.batch_execute(statements).await.unwrap();
    assert_eq!(published().await, Publishing::Not(Unpublished::Missing));
    publish(&database, &client, TableKind::Ordinary).await;
    let first = published().await.by().unwrap();

    // These changes skip no row.
    sql(r#"CREATE TABLE other (id int); ALTER PUBLICATION "out""box" ADD TABLE other;
           ALTER PUBLICATION "out""box" SET TABLE ONLY "out""box""#)
    .await;
    sql("VACUUM FREEZE pg_publication").await;
    assert_eq!(published().await.by(), Some(first));
    sql(r#"ALTER PUBLICATION "out""box" SET (publish = 'insert, update')"#).await;
    let altered = published().await.by().unwrap();
    assert_eq!(altered.entry, first.entry);
    assert_ne!(altered.altered_by, first.altered_by);
    sql(r#"ALTER TABLE "out""box" RENAME TO elsewhere"#).await;
    assert_eq!(published().await, Publishing::NoTable);
    sql(r#"ALTER TABLE elsewhere RENAME TO "out""box""#).await;
    assert_eq!(published().await.by(), Some(altered));

    // These changes may skip rows.
    sql(r#"ALTER PUBLICATION "out""box" SET (publish = 'update')"#).await;
    assert_eq!(published().await, Publishing::Not(Unpublished::NoInserts));
    sql(r#"ALTER PUBLICATION "out""box" SET (publish = 'insert'); ALTER PUBLICATION "out""box" SET TABLE other"#).await;
    assert_eq!(published().await, Publishing::Not(Unpublished::NotHeld));
    let mut seen = vec![first.entry];
    for anew in [
        r#"ALTER PUBLICATION "out""box" ADD TABLE "out""box""#,
        r#"ALTER PUBLICATION "out""box" SET TABLE ONLY "out""box" WHERE (type <> 'x')"#,
        r#"DROP PUBLICATION "out""box"; CREATE PUBLICATION "out""box" FOR TABLE "out""box""#,
        r#"DROP PUBLICATION "out""box"; CREATE PUBLICATION "out""box" FOR ALL TABLES"#,
        r#"DROP PUBLICATION "out""box"; CREATE PUBLICATION "out""box" FOR ALL TABLES"#,
        r#"DROP PUBLICATION "out""box"; CREATE PUBLICATION "out""box" FOR TABLES IN SCHEMA public"#,
        r#"ALTER PUBLICATION "out""box" DROP TABLES IN SCHEMA public; ALTER PUBLICATION "out""box" ADD TABLES IN SCHEMA public"#,
    ] {
        sql(anew).await;
        let entry = published().await.by().unwrap().entry;
        assert!(!seen.contains(&entry), "{anew}");
        seen.push(entry);
    }

    // Under its own name, a partition is published by a publication of its root. Under the root's name it is not.
    sql(r#"DROP PUBLICATION "out""box"; ALTER TABLE "out""box" RENAME TO leaf; ALTER TABLE leaf DROP COLUMN shout;
           ALTER TABLE leaf DROP CONSTRAINT "out""box_pkey"; ALTER TABLE leaf ALTER seq DROP IDENTITY;
           CREATE TABLE root (LIKE leaf) PARTITION BY LIST (type); ALTER TABLE root ATTACH PARTITION leaf DEFAULT;
           ALTER TABLE leaf RENAME TO "out""box"; CREATE PUBLICATION "out""box" FOR TABLE root"#)
    .await;
    let as_itself = published().await.by().expect("published");
    sql(r#"ALTER PUBLICATION "out""box" SET (publish_via_partition_root = true)"#).await;
    assert_eq!(published().await, Publishing::Not(Unpublished::NotHeld));
    sql(r#"ALTER PUBLICATION "out""box" SET (publish_via_partition_root = false)"#).await;
    assert_eq!(published().await.by().map(|by| by.entry), Some(as_itself.entry));
}

#[tokio::test]
async fn a_good_database_passes_and_each_fault_names_its_cure() {
    let (mut database, client) = database(STANDARD).await;
    let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
    assert!(checks.iter().all(|check| check.failure().is_none()), "{checks:#?}");

    // Nothing exists, and nothing may be created.
    database.create = false;
    let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
    for missing in ["publication", "records of slots", "slot"] {
        client.batch_execute(cure(&checks, missing)).await.unwrap();
    }
    let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
    assert!(
        checks.iter().all(|check| check.failure().is_none()),
        "a check still fails after its cure: {checks:#?}"
    );
    // With an existing slot, an incomplete publication is a gap, which needs `recover`.
    creation::drop_slot(&client, &database.slot).await.unwrap();

    // The cure of each of these makes the check pass.
    for (harm, fault) in [
        (r#"ALTER PUBLICATION "out""box" SET (publish = 'update')"#, "publication"),
        (r#"CREATE TABLE other (id int); ALTER PUBLICATION "out""box" SET TABLE other"#, "publication"),
        (r#"ALTER PUBLICATION "out""box" SET TABLE "out""box" (id, seq)"#, "column payload"),
        (r#"ALTER TABLE "out""box" SET UNLOGGED"#, "table"),
    ] {
        if harm.contains("UNLOGGED") {
            // An unlogged table cannot be published: the server refuses it.
            client.batch_execute(r#"ALTER PUBLICATION "out""box" DROP TABLE "out""box""#).await.unwrap();
        }
        client.batch_execute(harm).await.unwrap();
        let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
        client.batch_execute(cure(&checks, fault)).await.unwrap();
        let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
        if fault == "publication" {
            assert!(!matches!(check(&checks, fault), Finding::Failed(_)), "{harm}: {checks:#?}");
        } else {
            assert!(matches!(check(&checks, fault), Finding::Passed(_)), "{harm}: {checks:#?}");
        }
    }

    let wrong = ColumnNames { payload: "seq".into(), event_type: "kind".into(), ..columns() };
    let checks = preflight::checks(&database, &wrong, &facts(&database, &client).await);
    assert!(matches!(check(&checks, "column payload"), Finding::Failed(p) if p.what.contains("bigint")));
    assert!(
        matches!(check(&checks, "column event_type"), Finding::Failed(p) if p.what.contains("aggregateid"))
    );

    let other = unique("other").replace('-', "_");
    client
        .batch_execute(&format!("SELECT pg_create_logical_replication_slot('{other}', 'test_decoding')"))
        .await
        .unwrap();
    let named = SourceDatabase { slot: other.clone(), ..database.clone() };
    let checks = preflight::checks(&named, &columns(), &facts(&named, &client).await);
    assert!(matches!(check(&checks, "slot"), Finding::Failed(p) if p.what.contains("test_decoding")));
    let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
    assert!(matches!(check(&checks, "inactive slots"), Finding::Warning(p) if p.what.contains(&other)));
    creation::drop_slot(&client, &other).await.unwrap();

    let nowhere = TableName { schema: "public".into(), table: "nowhere".into() };
    let missing =
        SourceDatabase { table: nowhere, publication: "nobody".into(), slot: "nobody".into(), ..database };
    let facts = Facts::read(&client, &missing).await.unwrap();
    assert!(facts.table.is_none() && facts.publication.is_none());
    assert!(matches!(check(&preflight::checks(&missing, &columns(), &facts), "table"), Finding::Failed(_)));
}

/// A role without privileges learns every missing privilege, and the GRANT for each.
#[tokio::test]
async fn a_role_without_privileges_is_told_what_to_grant() {
    let (database, client) = database(STANDARD).await;
    let role = unique("nobody");
    client
        .batch_execute(&format!(
            r#"CREATE ROLE "{role}"; ALTER TABLE "out""box" ENABLE ROW LEVEL SECURITY; REVOKE ALL ON SCHEMA public FROM public;
               SET ROLE "{role}""#
        ))
        .await
        .unwrap();
    let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
    let grants = cure(&checks, "table privileges");
    assert!(matches!(check(&checks, "publication"), Finding::Failed(p) if p.what.contains("ownership")));
    client.batch_execute(&format!(r#"RESET ROLE; {grants} SET ROLE "{role}""#)).await.unwrap();
    let checks = preflight::checks(&database, &columns(), &facts(&database, &client).await);
    assert!(
        matches!(check(&checks, "table privileges"), Finding::Failed(p) if p.what.contains("row security"))
    );
    client
        .batch_execute(&format!(r#"RESET ROLE; DROP OWNED BY "{role}"; DROP ROLE "{role}""#))
        .await
        .unwrap();
}
