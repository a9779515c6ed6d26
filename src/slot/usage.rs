//! Use of a slot's name: its database, the server process that holds it, and whether that is an outboxd.
//!
//! All databases of a server share the names of slots, so another database or program may have the name. An instance checks this
//! before it stands by. [`preflight`](crate::preflight) judges the result.

use std::fmt;

use tokio_postgres::Client;

use super::{record, temporary::temporary_name};
use crate::postgres::{
    sql_text::literal,
    statement::{CatalogError, nonsense, text_rows},
};
use pg_replication::{ReplicationConnection, ReplicationError};

/// Prefix of the application name of every outboxd, by which instances recognise each other.
const APPLICATION_PREFIX: &str = "outboxd";

const DOING: &str = "reading the use of the replication slot";

/// A slot name in use: that of the source's slot, or of its temporary slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotUse {
    /// Name.
    pub slot: String,
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Database of the slot; `None` for a physical slot.
    pub database: Option<String>,
    /// Set if the slot belongs to the connection's database. The server compares, as names may be in different encodings.
    pub here: bool,
    /// Set if the slot ends with its session.
    pub temporary: bool,
    /// Set if the slot is synchronised to standbys (17 and later).
    pub failover: bool,
    /// Set unless the slot is still being created. Its creation may be given up.
    pub is_made: bool,
    /// Server process that holds the slot.
    pub active_pid: Option<i32>,
    /// The client of that process; `None` if nobody holds the slot, or the process has just ended.
    pub holder: Option<Holder>,
}

/// A server process that holds a slot, and its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Server process.
    pub pid: i32,
    /// Application name of the client.
    pub application: String,
    /// Role of the client.
    pub user: Option<String>,
    /// Address of the client.
    pub address: ClientAddress,
    /// Set if the client is an outboxd. Its application name begins with outboxd, or is that of this instance or of the holder in the
    /// slot's record; or it holds the temporary slot, which only outboxd creates.
    pub is_outboxd: bool,
}

/// Address that a client has connected from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// An IP address.
    Ip(String),
    /// A Unix socket on the server's machine.
    UnixSocket,
    /// Hidden from this role.
    Hidden,
}

impl ClientAddress {
    /// The address from `client_addr` and `client_port` of `pg_stat_activity`.
    pub(crate) fn of(address: Option<String>, port: Option<i32>) -> Self {
        match (address, port) {
            (Some(address), _) => ClientAddress::Ip(address),
            (None, Some(_)) => ClientAddress::UnixSocket,
            (None, None) => ClientAddress::Hidden,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "application \"{}\", user ", self.application)?;
        match &self.user {
            Some(user) => write!(f, "\"{user}\", ")?,
            None => f.write_str("unknown, ")?,
        }
        match &self.address {
            ClientAddress::Ip(address) => write!(f, "address {address}, ")?,
            ClientAddress::UnixSocket => f.write_str("on a Unix socket, ")?,
            ClientAddress::Hidden => f.write_str("address hidden without pg_read_all_stats, ")?,
        }
        write!(f, "server process {}", self.pid)
    }
}

impl Holder {
    /// Tells whether a client of this application name is an outboxd. `own` is the name of this instance: instances of a source share
    /// their configuration, and so a name in the connection string.
    pub fn is_outboxd(application: &str, own: &str) -> bool {
        application.starts_with(APPLICATION_PREFIX) || !application.is_empty() && application == own
    }
}

impl SlotUse {
    /// The program that streams from the slot and is not outboxd. A slot that is being created belongs to nobody yet.
    pub fn stranger(&self) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| self.is_made && !holder.is_outboxd)
    }
}

/// Reads the use of a slot's name and of its temporary slot's name. A free name is left out. The slot's record is in `schema`.
///
/// # Errors
/// [`CatalogError`].
pub async fn read(client: &Client, schema: &str, slot: &str) -> Result<Vec<SlotUse>, CatalogError> {
    let mut uses = read_by_name(client, slot).await?;
    if uses.iter().any(|one| one.stranger().is_some()) {
        let recorded = record::application_sql(schema, slot);
        match text_rows(client, DOING, &recorded).await {
            Ok(rows) => recognise(&mut uses, &rows),
            // There is no record, or the role may not read it.
            Err(error) if error.sqlstate().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(uses)
}

/// Reads the holder of a slot. Its application name alone tells whether it is an outboxd.
///
/// # Errors
/// [`CatalogError`].
pub(crate) async fn holder(client: &Client, slot: &str) -> Result<Option<Holder>, CatalogError> {
    let uses = read_by_name(client, slot).await?;
    Ok(uses.into_iter().find(|one| one.slot == slot).and_then(|one| one.holder))
}

async fn read_by_name(client: &Client, slot: &str) -> Result<Vec<SlotUse>, CatalogError> {
    let rows = text_rows(client, DOING, &sql(slot)).await?;
    let unexpected = || nonsense(DOING, format!("{rows:?}"));
    rows.iter().map(|row| parse(row, slot).ok_or_else(unexpected)).collect()
}

/// [`read`] over a replication connection.
///
/// # Errors
/// [`ReplicationError::Command`].
pub(crate) async fn read_by_replication(
    connection: &mut ReplicationConnection,
    schema: &str,
    slot: &str,
) -> Result<Vec<SlotUse>, ReplicationError> {
    let rows = connection.query(&sql(slot)).await?;
    let unexpected = || ReplicationError::unexpected_answer(DOING, "a slot and its holder");
    let uses = rows.iter().map(|row| parse(row, slot).ok_or_else(unexpected));
    let mut uses = uses.collect::<Result<Vec<_>, _>>()?;
    if uses.iter().any(|one| one.stranger().is_some()) {
        match connection.query(&record::application_sql(schema, slot)).await {
            Ok(rows) => recognise(&mut uses, &rows),
            Err(error) if error.sqlstate().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(uses)
}

/// Recognises a holder by the application name in the record, which outboxd writes before it confirms anything. Another program
/// that gets the slot later has another name.
fn recognise(uses: &mut [SlotUse], recorded: &[Vec<Option<String>>]) {
    let Some(Some(recorded)) = recorded.first().and_then(|row| row.first()) else { return };
    for holder in uses.iter_mut().filter_map(|one| one.holder.as_mut()) {
        holder.is_outboxd |= !recorded.is_empty() && holder.application == *recorded;
    }
}

/// Every role sees application name and role; only members of `pg_read_all_stats` and of the client's role see the address
/// (`pg_stat_get_activity`, pgstatfuncs.c). A slot has no confirmed position until its creation is complete.
fn sql(slot: &str) -> String {
    format!(
        "SELECT s.slot_name, s.plugin, s.database, s.database = current_database(), s.temporary,
                to_jsonb(s) ->> 'failover' = 'true', s.slot_type = 'physical' OR s.confirmed_flush_lsn IS NOT NULL, s.active_pid,
                a.pid, a.application_name, current_setting('application_name'), a.usename, host(a.client_addr), a.client_port
         FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
         WHERE s.slot_name IN ({}, {})",
        literal(slot),
        literal(&temporary_name(slot))
    )
}

fn parse(row: &[Option<String>], ours: &str) -> Option<SlotUse> {
    let [
        slot,
        plugin,
        database,
        here,
        temporary,
        failover,
        is_made,
        active_pid,
        pid,
        application,
        own,
        user,
        address,
        port,
    ] = row
    else {
        return None;
    };
    let is = |value: &Option<String>| value.as_deref() == Some("t");
    let number = |value: &Option<String>| value.as_ref().and_then(|value| value.parse::<i32>().ok());
    let application = application.clone().unwrap_or_default();
    let slot = slot.clone()?;
    let makes_ours = is(temporary) && slot != ours;
    let holder = number(pid).map(|pid| Holder {
        pid,
        is_outboxd: makes_ours || Holder::is_outboxd(&application, own.as_deref().unwrap_or_default()),
        application,
        user: user.clone(),
        address: ClientAddress::of(address.clone(), number(port)),
    });
    Some(SlotUse {
        slot,
        plugin: plugin.clone(),
        database: database.clone(),
        here: is(here),
        temporary: is(temporary),
        failover: is(failover),
        is_made: is(is_made),
        active_pid: number(active_pid),
        holder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outboxd_is_known_by_its_name_and_by_ours() {
        for (application, own, is) in [
            ("outboxd orders", "outboxd orders", true),
            ("outboxd recover orders", "outboxd orders", true),
            ("billing relay", "billing relay", true),
            ("Debezium Streaming", "outboxd orders", false),
            ("pg_recvlogical", "billing relay", false),
            ("", "", false),
        ] {
            assert_eq!(Holder::is_outboxd(application, own), is, "{application} to {own}");
        }
    }
}
