//! Prints the changes of a publication's tables as they are committed.
//!
//! ```text
//! cargo run --example print_changes -- "postgresql://me@localhost/shop" my_slot my_publication
//! ```
//!
//! The program creates a temporary slot, which begins now and ends with the connection. Output:
//!
//! ```text
//! BEGIN 751, commits at 0/1A2B3C8
//!   INSERT public.orders: id="42" total="9.50"
//! COMMIT, ends at 0/1A2B3F8
//! ```

use std::{collections::HashMap, env, error::Error, process::ExitCode, time::Duration};

use pg_replication::{
    Endpoint, Lsn, ReplicationConnection, ReplicationEvent, ReplicationStream,
    pgoutput::{self, OldTuple, PgOutput, Relation, Tuple, Value},
    quote::identifier,
};

/// Time after which the server ends the connection without a status update.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between status updates.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, slot, publication] = arguments.as_slice() else {
        eprintln!("usage: print_changes URL SLOT PUBLICATION");
        return ExitCode::FAILURE;
    };
    match print(url, slot, publication).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn print(url: &str, slot: &str, publication: &str) -> Result<(), Box<dyn Error>> {
    let endpoint = Endpoint::parse(url)?;
    let mut connection =
        ReplicationConnection::connect(&endpoint, "print_changes", WAL_SENDER_TIMEOUT).await?;
    let slot_command = format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput", identifier(slot));
    connection.query(&slot_command).await?;
    let stream = connection.start::<Lsn>(slot, publication, Lsn::ZERO).await.map_err(|(_, error)| error)?;
    follow(stream).await
}

async fn follow(mut stream: ReplicationStream<Lsn>) -> Result<(), Box<dyn Error>> {
    let mut relations = HashMap::new();
    let mut printed = None;
    let mut status = tokio::time::interval(STATUS_INTERVAL);
    loop {
        tokio::select! {
            event = stream.next() => match event? {
                ReplicationEvent::WalData { bytes, .. } => {
                    let message = pgoutput::decode(bytes)?;
                    if let PgOutput::Commit { end_lsn, .. } = message {
                        printed = Some(end_lsn);
                    }
                    show(message, &mut relations);
                }
                ReplicationEvent::Keepalive { reply_requested: true, .. } => stream.send_status(printed, false).await?,
                ReplicationEvent::Keepalive { .. } => {}
            },
            _ = status.tick() => stream.send_status(printed, false).await?,
        }
    }
}

fn show(message: PgOutput, relations: &mut HashMap<u32, Relation>) {
    match message {
        PgOutput::Begin { xid, final_lsn, .. } => println!("BEGIN {xid}, commits at {final_lsn}"),
        PgOutput::Commit { end_lsn, .. } => println!("COMMIT, ends at {end_lsn}"),
        PgOutput::Relation(relation) => drop(relations.insert(relation.oid, relation)),
        PgOutput::Insert { relation_oid, new } => {
            println!("{}", change("INSERT", relations.get(&relation_oid), &new));
        }
        PgOutput::Update { relation_oid, new, .. } => {
            println!("{}", change("UPDATE", relations.get(&relation_oid), &new));
        }
        PgOutput::Delete { relation_oid, old: OldTuple::Key(old) | OldTuple::Full(old) } => {
            println!("{}", change("DELETE", relations.get(&relation_oid), &old));
        }
        PgOutput::Truncate { relation_oids, .. } => {
            let names: Vec<&str> =
                relation_oids.iter().filter_map(|oid| Some(&*relations.get(oid)?.name)).collect();
            println!("  TRUNCATE {}", names.join(", "));
        }
        PgOutput::LogicalMessage { prefix, content, .. } => println!("  MESSAGE {prefix}: {content:?}"),
        PgOutput::Origin { .. } | PgOutput::Type { .. } => {}
    }
}

fn change(verb: &str, relation: Option<&Relation>, Tuple(values): &Tuple) -> String {
    let Some(relation) = relation else { return format!("  {verb} in an unknown table") };
    let values = relation.columns.iter().zip(values).map(|(column, value)| match value {
        Value::Null => format!("{}=NULL", column.name),
        Value::Unchanged => format!("{}=(unchanged)", column.name),
        Value::Text(text) => format!("{}={:?}", column.name, String::from_utf8_lossy(text)),
        Value::Binary(bytes) => format!("{}={} bytes", column.name, bytes.len()),
    });
    format!("  {verb} {}.{}: {}", relation.namespace, relation.name, values.collect::<Vec<_>>().join(" "))
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
