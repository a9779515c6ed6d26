//! Access rights: each service reads its own database, outboxd the outboxes.

use super::{
    show::{Outcome, ensure, screen::Screen},
    stage::{Stage, database_of, relay_role},
};
use tokio_postgres::{NoTls, error::SqlState};

/// Shows that the customer service's database refuses the order service's role.
pub(crate) async fn between_services(screen: Screen, stage: &Stage) -> Outcome<()> {
    let urls = &stage.shop.databases;
    let [orders, customers] = [database_of(urls, "orders")?, database_of(urls, "customers")?];
    let attempt = tokio_postgres::connect(&url(stage, orders, customers), NoTls).await;
    let said = refusal(attempt.map(drop), &format!("role {orders} can connect to database {customers}"))?;
    screen.checked(&format!("Role {orders} is refused by database {customers}: \"{said}\"."));
    Ok(())
}

/// Shows that outboxd's role can read the order service's outbox, but not its orders.
pub(crate) async fn around_the_relay(screen: Screen, stage: &Stage) -> Outcome<()> {
    let database = database_of(&stage.shop.databases, "orders")?;
    let role = relay_role(database);
    let (client, connection) = tokio_postgres::connect(&url(stage, &role, database), NoTls).await?;
    tokio::spawn(connection);
    client.query("SELECT FROM outbox", &[]).await?;
    let attempt = client.query("SELECT FROM orders", &[]).await;
    let said = refusal(attempt.map(drop), &format!("role {role} can read the orders"))?;
    screen.checked(&format!("Role {role} can read outbox, and nothing else: \"{said}\"."));
    Ok(())
}

fn url(stage: &Stage, role: &str, database: &str) -> String {
    format!("postgresql://{role}@127.0.0.1:{}/{database}", stage.postgres.port())
}

/// Returns PostgreSQL's refusal. Anything else is a gap in the rights.
fn refusal(attempt: Result<(), tokio_postgres::Error>, hole: &str) -> Outcome<String> {
    let error = attempt.err().ok_or_else(|| hole.to_owned())?;
    let refused = error.as_db_error().filter(|error| *error.code() == SqlState::INSUFFICIENT_PRIVILEGE);
    let said = refused.map(|error| error.message().to_owned());
    ensure(said.is_some(), || format!("{hole}, or it is unknown: {error}"))?;
    Ok(said.unwrap_or_default())
}
