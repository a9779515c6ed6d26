//! The role for business intelligence: it reads the view's tables, nothing else, and writes nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls, error::SqlState};

use crate::{history_shows, shop};
use testkit::{Postgres, Shop, postgres::psql, shared_postgres, unique};

const SCRIPT: &str = include_str!("../../../../config/history-reader.sql");
const TURNOVER: &str = include_str!("../../../../config/history-turnover.sql");

/// The statements of [`TURNOVER`] without the semicolon, as part of another query.
fn turnover() -> &'static str {
    TURNOVER.trim_end().trim_end_matches(';')
}

/// The role of a service's database, which has the database's name.
fn owner(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

/// Runs the documented script, with the names of this shop.
async fn create_reader(postgres: &Postgres, role: &str) {
    let script = SCRIPT.replace("history_reader", &format!("{role}_reader"));
    let script = script.replace("TO history;", &format!("TO {role};"));
    assert!(script.contains(&format!("ON SCHEMA public TO {role};")), "{script}");
    let url = postgres.url(role);
    tokio::task::spawn_blocking(move || psql(&url, &script)).await.unwrap();
}

async fn connect(postgres: &Postgres, role: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    let url = format!("postgresql://{role}@127.0.0.1:{}/{database}", postgres.port());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Connects as the reader, with the limits lifted that it may lift.
async fn reader(postgres: &Postgres, role: &str) -> Client {
    let client = connect(postgres, &format!("{role}_reader"), role).await.unwrap();
    client.batch_execute("SET default_transaction_read_only = off; SET statement_timeout = 0").await.unwrap();
    client
}

/// Tables that the reader may select from, in any schema that is not PostgreSQL's.
async fn readable(client: &Client) -> Vec<String> {
    let select = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
                  AND has_schema_privilege(n.oid, 'USAGE') AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT')) \
                  ORDER BY 1";
    client.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Fails unless the reader can read the view's tables, and can do nothing else.
async fn reads_the_view_and_nothing_else(client: &Client) {
    assert_eq!(readable(client).await, ["customers", "orders"]);
    for allowed in ["SELECT FROM customers", "SELECT FROM orders", turnover()] {
        client.query(allowed, &[]).await.unwrap_or_else(|error| panic!("{allowed}: {error:?}"));
    }
    for refused in [
        "SELECT FROM inbox",
        "SELECT FROM outbox",
        "SELECT FROM events",
        "SELECT FROM streams",
        "SELECT FROM schema_version",
        "INSERT INTO customers VALUES (1, 'Eve', 1)",
        "UPDATE orders SET state = 'APPROVED'",
        "DELETE FROM orders",
        "TRUNCATE customers",
        "SELECT FROM orders FOR UPDATE",
        "DO $$ BEGIN LOCK TABLE orders IN ACCESS EXCLUSIVE MODE; END $$",
        "DROP TABLE orders",
        "ALTER TABLE orders ADD note text",
        "CREATE INDEX ON orders (total)",
        "CREATE TABLE own (id bigint)",
        "CREATE TEMPORARY TABLE own (id bigint)",
        "CREATE SCHEMA own",
        "CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT SELECT ON inbox TO PUBLIC",
        "COPY orders TO PROGRAM 'true'",
        "SET ROLE postgres",
    ] {
        let error = client.batch_execute(refused).await.expect_err(refused);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{refused}: {error:?}");
    }
}

/// Drops the view's tables, and rebuilds them by the command.
async fn drop_and_rebuild(shop: &Shop) {
    let (owner, connection) = tokio_postgres::connect(&shop.databases[2], NoTls).await.unwrap();
    tokio::spawn(connection);
    owner.batch_execute("DROP TABLE customers, orders").await.unwrap();
    rebuild(shop).await;
}

async fn rebuild(shop: &Shop) {
    let output = shop.history.command(&["rebuild"]).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn the_reader_reads_the_view_and_nothing_else_also_after_a_rebuild() {
    let postgres = shared_postgres().await;
    let shop = shop("reader").await;
    let role = owner(&shop.databases[2]);
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "6").await;
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    create_reader(postgres, role).await;

    let client = reader(postgres, role).await;
    reads_the_view_and_nothing_else(&client).await;
    // By default a session of the role does not even try to write.
    let fresh = connect(postgres, &format!("{role}_reader"), role).await.unwrap();
    let error = fresh.batch_execute("CREATE TABLE own (id bigint)").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{error:?}");

    // Neither another service's database lets it in, nor this one a stranger.
    for (stranger, database) in
        [(format!("{role}_reader"), owner(&shop.databases[0])), (owner(&shop.databases[0]).to_owned(), role)]
    {
        let refusal = connect(postgres, &stranger, database).await.map(drop).expect_err(database);
        assert_eq!(refusal.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{refusal:?}");
    }

    rebuild(&shop).await;
    reads_the_view_and_nothing_else(&client).await;
    drop_and_rebuild(&shop).await;
    reads_the_view_and_nothing_else(&client).await;
    // The service still owns its schema: it handles events, and the reader sees them.
    let second = shop.order(customer, "6").await;
    history_shows(&shop, customer, &[(order, "APPROVED"), (second, "REJECTED")]).await;
    let row = client.query_one("SELECT state FROM orders WHERE id = $1", &[&second]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "REJECTED");
}

#[tokio::test]
async fn a_reader_that_is_there_before_the_service_may_read_the_tables_once_they_are_created() {
    let (postgres, rabbitmq) = (shared_postgres().await, testkit::shared_rabbitmq().await);
    let name = unique("early_reader");
    let admin = postgres.client("postgres").await;
    for statement in [
        format!("CREATE ROLE {name} LOGIN"),
        format!("CREATE DATABASE {name} OWNER {name}"),
        format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"),
    ] {
        admin.batch_execute(&statement).await.unwrap();
    }
    create_reader(postgres, &name).await;
    let client = reader(postgres, &name).await;
    assert_eq!(readable(&client).await, [""; 0]);
    let amqp = rabbitmq.create_vhost(&name).await;
    let database = format!("postgresql://{name}@127.0.0.1:{}/{name}", postgres.port());
    let service = testkit::Service::start("order-history", &database, &amqp).await;
    reads_the_view_and_nothing_else(&client).await;
    drop(service);
}

/// Turnover, decided orders and rejected ones, in ten-thousandths and numbers, as the services' APIs tell them.
async fn by_the_api(shop: &Shop, customers: &[i64]) -> BTreeMap<i64, (i64, i64, i64)> {
    let mut told = BTreeMap::new();
    for customer in customers {
        let (status, history) = shop.history.get(&format!("/customers/{customer}/orderhistory")).await;
        assert_eq!(status, 200, "{history}");
        let (mut turnover, mut decided, mut rejected) = (0, 0, 0);
        for order in history["orders"].as_array().unwrap() {
            // The order service, where each order is at home, tells the same state.
            let (state, _) = shop.state_of(order["orderId"].as_i64().unwrap()).await;
            assert_eq!(order["state"], json!(state));
            decided += i64::from(state != "PENDING");
            rejected += i64::from(state == "REJECTED");
            if state == "APPROVED" {
                turnover += ten_thousandths(&order["orderTotal"]["amount"]);
            }
        }
        told.insert(*customer, (turnover, decided, rejected));
    }
    told
}

fn ten_thousandths(amount: &Value) -> i64 {
    let text = amount.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}{part:0<4}").parse().unwrap()
}

#[tokio::test]
async fn the_documented_query_tells_the_same_as_the_api() {
    let postgres = shared_postgres().await;
    let mut shop = shop("turnover").await;
    let role = owner(&shop.databases[2]);
    create_reader(postgres, role).await;
    let [ada, grace, idle] =
        [shop.customer("100").await, shop.customer("20.5").await, shop.customer("5").await];
    // Nobody knows this customer, and no line has this order.
    let nobodys = shop.order(i64::MAX, "77").await;
    let mut ids = vec![nobodys];
    for (customer, totals) in
        [(ada, ["12.34", "60", "50", "27.66"]), (grace, ["20.5", "0.01", "3", "1.2345"])]
    {
        for total in totals {
            ids.push(shop.order(customer, total).await);
        }
    }
    for id in &ids {
        crate::settled(&shop, *id).await;
    }
    let (status, answer) = shop.orders.post(&format!("/orders/{}/cancel", ids[2]), &Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    // One more order is placed that nobody decides about.
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let pending = shop.order(ada, "1").await;
    let expected = [
        (ids[1], "APPROVED"),
        (ids[2], "CANCELLED"),
        (ids[3], "REJECTED"),
        (ids[4], "APPROVED"),
        (pending, "PENDING"),
    ];
    history_shows(&shop, ada, &expected).await;

    let client = reader(postgres, role).await;
    let select = format!(
        "SELECT customer_id, name, (turnover * 10000)::bigint, orders_decided, rejected_percent::float8 FROM ({}) AS told",
        turnover()
    );
    let rows = client.query(&select, &[]).await.unwrap();
    let told: BTreeMap<i64, (i64, i64, i64)> = rows
        .iter()
        .map(|row| {
            let decided: i64 = row.get(3);
            let percent: Option<f64> = row.get(4);
            assert_eq!(percent.is_none(), decided == 0);
            // The rate has one digit behind the point, which is enough to count so few.
            let rejected = percent.map_or(0.0, |percent| (percent * decided as f64 / 100.0).round());
            assert_eq!(row.get::<_, &str>(1), "Ada");
            (row.get(0), (row.get(2), decided, rejected as i64))
        })
        .collect();
    assert_eq!(told, by_the_api(&shop, &[ada, grace, idle]).await);
    // The figures by hand, so that a common error of both shows.
    assert_eq!(told[&ada], (400_000, 4, 1));
    assert_eq!(told[&grace], (205_000, 4, 3));
    assert_eq!(told[&idle], (0, 0, 0));
    let order: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(order, [ada, grace, idle], "the greatest turnover comes first");
}
