//! Facts about one source's database: read in one go, for the checks to judge.

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
        facts::{SlotFacts, slots},
        open_transactions::{self, OpenTransaction},
        publication::{self, PublicationFacts},
        record,
        usage::{self, SlotUse},
    },
};
use family::Family;
use foreign_code::ForeignCode;
use left_behind::LeftBehind;
use server::ServerFacts;

/// Everything that [`checks`](super::checks::checks) looks at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The server and the role.
    pub server: ServerFacts,
    /// The outbox table; `None` when there is no such table.
    pub table: Option<TableFacts>,
    /// Doubt about `outbox.unpublished`.
    pub doubt: Option<Doubt>,
    /// The tables below it.
    pub family: Family,
    /// The publication; `None` when there is no such publication.
    pub publication: Option<PublicationFacts>,
    /// Triggers and rules that run when outboxd writes.
    pub foreign_code: Vec<ForeignCode>,
    /// The table of slot records ([`record`]).
    pub records: OwnTableFacts,
    /// The table of parked rows ([`parked_table`]).
    pub parked: OwnTableFacts,
    /// Record and parked rows of the slot in another schema.
    pub left_behind: Vec<LeftBehind>,
    /// The table that the slot's record belongs to, where it is another one.
    pub recorded_table: Option<TableName>,
    /// All slots of the server, of whatever database.
    pub slots: Vec<SlotFacts>,
    /// Use of the source's slot and of its temporary slot.
    pub slot_uses: Vec<SlotUse>,
    /// Old transactions of all databases, while the source has no slot yet.
    pub open_transactions: Vec<OpenTransaction>,
}

impl Facts {
    /// Reads them all.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn read(client: &Client, database: &SourceDatabase) -> Result<Self, CatalogError> {
        let SourceDatabase { table, publication, slot, schema, .. } = database;
        let server = server::server(client).await?;
        let slots = slots(client).await?;
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
            slot_uses: usage::read(client, schema, slot).await?,
            open_transactions: if has_slot { Vec::new() } else { open_transactions::old(client).await? },
        })
    }

    /// The slot of that name, if the tables of this database can be streamed from it.
    pub fn slot(&self, name: &str) -> Option<&SlotFacts> {
        self.slots.iter().find(|slot| slot.name == name && slot.serves())
    }
}
