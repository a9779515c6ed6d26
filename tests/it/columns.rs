//! Columns that the publication does not send, and types unknown to outboxd.

use crate::{
    row_order::finding,
    stage::{PATIENCE, Stage, say},
};
use testkit::Daemon;

async fn version(stage: &Stage) -> i32 {
    let version = "SELECT current_setting('server_version_num')::int4 / 10000";
    stage.client().await.query_one(version, &[]).await.unwrap().get(0)
}

/// The statement in a finding's cure, up to the word `before`.
fn cure<'a>(finding: &'a str, before: &str) -> &'a str {
    let (_, cure) = finding.split_once("-> ").expect("a cure");
    cure.split(before).next().unwrap()
}

/// A column list hides personal data, and the role has privileges on the same columns only.
#[tokio::test]
async fn a_column_list_and_a_right_to_its_columns_are_enough_and_a_needed_column_is_named() {
    let stage = Stage::shared("column_list").await;
    if version(&stage).await < 15 {
        return println!("column lists came with PostgreSQL 15");
    }
    let role = stage.name.clone();
    let row = |n: u32| {
        format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, tax_number)
             VALUES ('Order', 'a', 'E', '{n}', 'secret')"
        )
    };
    stage
        .sql(&format!(
            "ALTER TABLE outbox ADD tax_number text;
             CREATE ROLE \"{role}\" LOGIN REPLICATION; GRANT CREATE ON SCHEMA public TO \"{role}\";
             GRANT SELECT (id, aggregatetype, aggregateid, type) ON outbox TO \"{role}\";
             CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox (id, aggregatetype, aggregateid, type)
                WHERE (type <> 'Never') WITH (publish = 'insert');
             {}; {}",
            row(1),
            row(2)
        ))
        .await;
    let config = stage.config_as(&role);
    let said = say(&Daemon::prepare(&config), &["check"]).await;
    let failed = finding(&said, "column payload");
    assert!(failed.contains("FAILED") && failed.contains("leaves out column payload"), "{}", said.stdout);
    assert!(finding(&said, "column headers").contains("warning"), "{}", said.stdout);
    stage.sql(cure(&failed, "MISSING")).await;

    // A newly sent column needs one more privilege to be read.
    let said = say(&Daemon::prepare(&config), &["check"]).await;
    let failed = finding(&said, "table privileges");
    assert!(failed.contains("FAILED") && !failed.contains("tax_number"), "{failed}");
    assert!(failed.contains("may not read the columns payload, seq"), "{failed}");
    stage.sql(cure(&failed, "MISSING")).await;
    let said = say(&Daemon::prepare(&config), &["check"]).await;
    assert!(finding(&said, "column payload").contains("OK"), "{}", said.stdout);
    let publication = finding(&said, "publication");
    assert!(publication.contains("WHERE"), "the filter is kept, and said: {publication}");

    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    assert_eq!(inbox.bodies(2).await, ["1", "2"]);
    stage.sql(&row(3)).await;
    assert_eq!(inbox.bodies(1).await, ["3"]);
    assert_eq!(say(&daemon, &["replay", "--source", "orders"]).await.status, 0);
    assert_eq!(inbox.bodies(3).await, ["1", "2", "3"]);
    assert_eq!(say(&daemon, &["check"]).await.status, 0);
}

#[tokio::test]
async fn a_generated_payload_is_used_where_it_is_sent_and_said_where_it_is_not() {
    let mut stage = Stage::shared("generated").await;
    let version = version(&stage).await;
    stage
        .sql(
            "ALTER TABLE outbox ADD body jsonb GENERATED ALWAYS AS (payload || '{\"generated\": true}') STORED;
             ALTER TABLE outbox ADD label text GENERATED ALWAYS AS ('x') STORED",
        )
        .await;
    stage.source =
        "outbox.columns.payload = \"body\"\nmessage.headers = { label = \"{column:label}\" }\n".into();
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let (payload, templates) = (finding(&said, "column payload"), finding(&said, "templates"));
    assert_eq!(said.status, 1);
    if version < 18 {
        for (failed, column) in [(&payload, "body"), (&templates, "label")] {
            let what =
                format!("column {column} is a generated column, which PostgreSQL {version} does not send");
            assert!(failed.contains("FAILED") && failed.contains(&what), "{failed}");
            assert!(failed.contains("DROP EXPRESSION"), "{failed}");
        }
        return;
    }
    assert!(payload.contains("column body is generated") && templates.contains("label"), "{}", said.stdout);
    let (_, create) = payload.split_once("owner: ").expect("a statement");
    stage.sql(create).await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let row =
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '{}')";
    stage.sql(row).await;
    let _daemon = stage.relay_as_printed_role().await;
    stage.sql(row).await;
    assert_eq!(inbox.bodies(2).await, [r#"{"generated": true}"#; 2]);
}

/// The stream describes types of extensions, and domains, by a number only.
#[tokio::test]
async fn payloads_of_citext_and_of_domains_are_what_they_are_made_of() {
    for (test, kind, insert, content_type, body) in [
        ("citext", "citext", "'Ab'", "text/plain", "Ab"),
        ("ci_domain", "d_citext", "'Ab'", "text/plain", "Ab"),
        ("json_domain", "d_jsonb", "'{\"a\":1}'", "application/json", "{\"a\": 1}"),
        ("bytea_domain", "d_bytea", "'\\x4162'", "application/octet-stream", "Ab"),
    ] {
        let stage = Stage::shared(test).await;
        stage
            .sql(&format!(
                "CREATE EXTENSION citext; CREATE DOMAIN d_citext AS citext; CREATE DOMAIN d_inner AS jsonb;
                 CREATE DOMAIN d_jsonb AS d_inner; CREATE DOMAIN d_bytea AS bytea;
                 ALTER TABLE outbox DROP payload, ADD payload {kind}"
            ))
            .await;
        let insert = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', {insert})"
        );
        let mut inbox = stage.inbox(&["Order.events"]).await;
        stage.sql(&insert).await;
        let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
        assert!(said.status == 0 && finding(&said, "column payload").contains(kind), "{}", said.stdout);
        let _daemon = stage.relay_as_printed_role().await;
        stage.sql(&insert).await;
        for _ in 0..2 {
            let message = inbox.next().await;
            assert_eq!(message.data, body.as_bytes(), "{kind}");
            assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), content_type, "{kind}");
        }
    }
}
