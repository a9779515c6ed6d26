//! Databases whose encoding is not UTF8: text arrives as the server would convert it. A row with bytes that have no UTF-8
//! equivalent is invalid, and only this row.

use crate::{
    inbox::text_header,
    parked::{PARK, parked_rows, until_confirmed, until_parked},
    stage::{PATIENCE, Stage, say, until, until_state},
};
use testkit::{Daemon, postgres::psql, shared_postgres, unique};

/// A source in a database of this encoding.
async fn stage(encoding: &str) -> Stage {
    let mut stage = Stage::shared("encoding").await;
    let server = shared_postgres().await;
    stage.name = unique("encoding");
    let create =
        format!("CREATE DATABASE \"{}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'", stage.name);
    server.client("postgres").await.batch_execute(&create).await.unwrap();
    stage.postgres_url = server.url(&stage.name);
    stage.workload.create_tables(&stage.client().await).await;
    stage
}

#[tokio::test]
async fn names_and_values_in_every_encoding_arrive_from_the_table_and_from_the_stream() {
    for (encoding, text) in [
        ("WIN1252", "Grüße für 5 € – Žižek"),
        ("LATIN1", "Grüße à Ærø"),
        // Two bytes, half-width katakana behind 0x8E, and three bytes behind 0x8F.
        ("EUC_JP", "日本語 ｱｲｳ 丂 ABC"),
        ("EUC_TW", "繁體中文 ABC"),
        ("KOI8R", "Привет"),
        ("SQL_ASCII", "Grüße 日本語"),
    ] {
        let mut stage = stage(encoding).await;
        let column: String = text.chars().take(4).collect();
        stage.sql(&format!("ALTER TABLE outbox ADD \"{column}\" text")).await;
        stage.source = format!("message.headers = {{ more = \"{{column:{column}}}\" }}\n");
        stage.with_printed_role().await;
        let insert = |aggregate: &str| {
            format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers, \"{column}\") VALUES \
                 ('Order', '{aggregate} {text}', 'E', to_jsonb('{text}'::text), jsonb_build_object('h', '{text}'), '{text}'), \
                 ('Order', '{aggregate} {text}', 'E', NULL, NULL, 'plain')"
            )
        };
        let mut inbox = stage.inbox(&["Order.events"]).await;
        stage.sql(&insert("table")).await;
        let daemon = stage.relay().await;
        stage.sql(&insert("stream")).await;
        for aggregate in ["table", "stream"] {
            let delivery = inbox.next().await;
            assert_eq!(text_header(&delivery, "aggregate-id"), format!("{aggregate} {text}"), "{encoding}");
            assert_eq!(delivery.data, format!("\"{text}\"").into_bytes(), "{encoding}");
            for header in ["h", "more"] {
                assert_eq!(text_header(&delivery, header), text, "{encoding}");
            }
            assert_eq!(inbox.next().await.data, b"");
        }
        assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
    }
}

/// Bytes that are text to the database, and invalid UTF-8.
#[tokio::test]
async fn bytes_without_an_equivalent_in_utf8_halt_at_their_row_or_park_it() {
    for (encoding, bytes) in [("WIN1252", "81"), ("EUC_JP", "a9a1"), ("SQL_ASCII", "fc81")] {
        let mut stage = stage(encoding).await;
        let client = stage.client().await;
        let odd = format!("convert_from('\\x{bytes}', '{encoding}')");
        let odd_payload = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'odd', 'E', to_jsonb({odd})) \
             RETURNING id::text"
        );
        let odd_aggregate = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', 'x' || {odd}, 'E') RETURNING id::text"
        );
        stage.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 200\n".into();
        stage.with_printed_role().await;
        stage.consume().await;
        let mut daemon = stage.relay().await;
        let checked = say(&daemon, &["check"]).await;
        assert!(checked.status == 0 && checked.stdout.contains("UTF-8"), "{}", checked.stdout);

        // The source halts for the row with its cure, after everything before the row is confirmed.
        stage.write_row("a", 1, "OrderCreated").await;
        let id: String = client.query_one(&odd_payload, &[]).await.unwrap().get(0);
        stage.write_row("a", 2, "OrderChanged").await;
        let reason = until_state(&daemon, "orders", "halted").await;
        for part in
            [&id, "column \"payload\"", "no equivalent in UTF-8", "(1) set delivery.on_invalid", "(3)"]
        {
            assert!(reason.contains(part), "{encoding}: {reason}");
        }
        stage.receive_more(0).await;
        assert!(daemon.sigterm(PATIENCE).await.success());

        // Parked, with as much of the text as can be converted.
        stage.source = PARK.to_owned();
        stage.run_printed_sql().await;
        let mut daemon = Daemon::start(&stage.config());
        daemon.wait_ready(PATIENCE).await;
        until_parked(&stage, 1).await;
        let other: String = client.query_one(&odd_aggregate, &[]).await.unwrap().get(0);
        stage.write_row("a", 3, "OrderChanged").await;
        until_parked(&stage, 2).await;
        stage.verdict().await.assert_delivered(0);
        until_confirmed(&stage).await;
        let parked = parked_rows(&client).await;
        assert_eq!([&parked[0].0, &parked[1].0], [&Some(id), &Some(other.clone())], "{encoding}");
        assert!(parked[1].2.contains("column \"aggregateid\""), "{encoding}: {parked:?}");
        let listed = say(&daemon, &["parked", "list", "--source", "orders"]).await;
        assert!(listed.status == 0 && listed.stdout.contains(&other), "{}", listed.stdout);
        let requeued = say(&daemon, &["parked", "requeue", "--source", "orders", "--all"]).await;
        assert!(requeued.stdout.contains("still parked: 2"), "{}", requeued.stdout);
        let discarded = say(&daemon, &["parked", "discard", "--source", "orders", "--all"]).await;
        assert!(discarded.stdout.contains("discarded: 2"), "{}", discarded.stdout);
        until(&daemon, "orders", |shown| shown["parked_rows"] == 0).await;

        // A replay from the table gives the same.
        let replayed = say(&daemon, &["replay", "--source", "orders"]).await;
        assert!(replayed.status == 0 && replayed.stdout.contains("(see the log): 2"), "{}", replayed.stdout);
        assert!(daemon.sigterm(PATIENCE).await.success());
        stage.sql(&format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
        let recovered = say(&daemon, &["recover", "--source", "orders"]).await;
        assert!(recovered.status == 0 && recovered.stdout.contains("rows parked"), "{}", recovered.stdout);
        assert_eq!(parked_rows(&client).await.len(), 2, "{encoding}");
    }
}

/// Every database shows all slots of the server, and a database's name may be invalid UTF-8.
#[tokio::test]
async fn a_slot_of_a_database_whose_name_is_in_another_encoding_stops_nobody() {
    let latin = stage("LATIN1").await;
    let name = format!("{}_é", latin.name);
    let create = format!("CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    latin.sql(&create).await;
    let stage = Stage::shared("encoding_neighbour").await;
    let elsewhere = shared_postgres().await.url(&format!("{}_%E9", latin.name));
    let make = |slot: &str| {
        psql(&elsewhere, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput');"));
    };
    let drop = |slot: &str| psql(&elsewhere, &format!("SELECT pg_drop_replication_slot('{slot}');"));

    let neighbour = unique("neighbour");
    make(&neighbour);
    let mut daemon = stage.relay().await;
    assert_eq!(say(&daemon, &["check"]).await.status, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    drop(&neighbour);

    // A database with the source's own name.
    assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
    make(&stage.slot());
    let said = say(&daemon, &["check"]).await;
    drop(&stage.slot());
    assert_eq!(said.status, 1, "{}", said.stdout);
    assert!(said.stdout.contains("belongs to database \"(a name in another encoding)\""), "{}", said.stdout);
}
