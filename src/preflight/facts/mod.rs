//! Facts of one source's database, for the checks to judge.

pub mod family;
pub mod foreign_code;
pub mod left_behind;
mod recorded_table;
pub mod server;

use tokio_postgres::Client;

use super::condition::{self, Doubt};
use crate::{
    parking::parked_table,
    postgres::{
        SourceDatabase, TableName,
        outbox_table::{self, TableFacts},
        own_table::{OwnTableFacts, own_table},
        statement::CatalogError,
    },
    slot::{
        facts::SlotFacts,
        open_transactions::{self, OpenTransaction},
        publication::{self, PublicationFacts},
        record, usage,
    },
};
use family::Family;
use foreign_code::ForeignCode;
use left_behind::LeftBehind;
use server::ServerFacts;

/// Input of [`checks`](super::checks::checks).
#[derive(Clone, Debug)]
pub struct Facts {
    /// Server and role.
    pub server: ServerFacts,
    /// Outbox table; `None` if it does not exist.
    pub table: Option<TableFacts>,
    /// Doubt about `outbox.unpublished`.
    pub doubt: Option<Doubt>,
    /// Partitions and child tables of the outbox table.
    pub family: Family,
    /// Publication; `None` if it does not exist.
    pub publication: Option<PublicationFacts>,
    /// Code of other owners that runs when outboxd reads or writes.
    pub foreign_code: Vec<ForeignCode>,
    /// Table of slot records ([`record`]).
    pub records: OwnTableFacts,
    /// Table of parked rows ([`parked_table`]).
    pub parked: OwnTableFacts,
    /// Record and parked rows of the slot in another schema.
    pub left_behind: Vec<LeftBehind>,
    /// Table of the slot's record, if it is another than the outbox table.
    pub recorded_table: Option<TableName>,
    /// All slots of the server, in every database, with their holders.
    pub slots: Vec<SlotFacts>,
    /// Old transactions of all databases, while the source has no slot yet.
    pub open_transactions: Vec<OpenTransaction>,
}

impl Facts {
    /// Reads the facts.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn read(client: &Client, database: &SourceDatabase) -> Result<Self, CatalogError> {
        let SourceDatabase { table, publication, slot, schema, .. } = database;
        let server = server::server(client).await?;
        let slots = usage::read_all(client, schema, slot).await?;
        let records = own_table(client, schema, record::TABLE).await?;
        let has_slot = slots.iter().any(|one| one.name == *slot && one.serves());
        let left_behind = left_behind::find(client, database, records).await?;
        let outbox = outbox_table::table(client, table, publication).await?;
        Ok(Facts {
            server,
            doubt: condition::doubt(client, database, outbox.as_ref()).await?,
            table: outbox,
            family: Family::read(client, table).await?,
            publication: publication::facts(client, publication, table).await?,
            foreign_code: foreign_code::find(client, database).await?,
            records,
            parked: own_table(client, schema, parked_table::TABLE).await?,
            recorded_table: recorded_table::find(client, database, records, &left_behind).await?,
            left_behind,
            slots,
            open_transactions: if has_slot { Vec::new() } else { open_transactions::old(client).await? },
        })
    }

    /// Finds the slot of that name, if it can stream tables of this database.
    pub fn slot(&self, name: &str) -> Option<&SlotFacts> {
        self.slots.iter().find(|slot| slot.name == name && slot.serves())
    }
}
