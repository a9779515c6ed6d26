//! View: every customer with its orders, in PostgreSQL or in documents. Each store has its module.

mod documents;
mod postgres;

use serde::Serialize;
use utoipa::ToSchema;

pub use documents::Documents;
pub use postgres::Postgres;

use chassis::{
    database::Database,
    http::Page,
    inbox::HandlingError,
    schema::Schema,
    settings::{Settings, ViewPlaces},
};
use contract::{
    events::RejectionReason,
    money::{CreditLimitSchema, Money, OrderTotalSchema},
};
use process::failure::Failure;
use projection::{Change, Generations, Place, State, Store, TABLES};

/// Versions 2 and 4 changed the projection's tables, whose script does both. The tables of PostgreSQL's view are there,
/// empty, when the view is elsewhere.
const MIGRATIONS: &[&str] = &[postgres::TABLES, TABLES, postgres::READER, TABLES];

/// All tables derive from the two streams, so all may be dropped.
pub(super) const SCHEMA: Schema = Schema {
    migrations: MIGRATIONS,
    derived: &["customers", "orders", "events", "streams", "view_generation"],
};

/// Stores that `view_url` may name.
pub(super) const PLACES: ViewPlaces = ViewPlaces {
    schemes: &["postgresql", "postgres", "mongodb"],
    example: "mongodb://user:password@host:27017/history",
    is_optional: true,
};

/// A customer with a page of its orders, ordered by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderHistory {
    /// The customer.
    pub customer_id: i64,
    /// Name of the customer.
    pub name: String,
    /// Limit of the total of approved orders.
    #[schema(value_type = CreditLimitSchema)]
    pub credit_limit: Money,
    /// The orders.
    pub orders: Vec<Order>,
}

/// An order, as far as events have told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The order.
    pub order_id: i64,
    /// Name of the state.
    #[schema(value_type = State)]
    pub state: String,
    /// Price of the order.
    #[schema(value_type = OrderTotalSchema)]
    pub order_total: Money,
    /// Reason of a rejection.
    #[schema(value_type = Option<RejectionReason>)]
    pub rejection_reason: Option<String>,
}

/// Store of the view.
#[derive(Clone, Debug)]
pub enum View {
    /// Tables in the service's own database.
    Postgres,
    /// A document for each customer.
    Documents(Documents),
}

impl View {
    /// Chooses the store by the settings.
    ///
    /// # Errors
    ///
    /// [`Failure`] when `view_url` is not valid.
    pub async fn of(settings: &Settings) -> Result<Self, Failure> {
        match &settings.view {
            None => Ok(Self::Postgres),
            Some(url) => Documents::open(url, settings.base.name).await.map(Self::Documents),
        }
    }

    /// Returns a customer with a page of its orders; `None` when its CustomerCreated has not come yet.
    ///
    /// # Errors
    ///
    /// [`HandlingError`] while a store is away.
    pub async fn history(
        &self,
        database: &Database,
        generations: &Generations,
        customer_id: i64,
        state: Option<State>,
        page: Page,
    ) -> Result<Option<OrderHistory>, HandlingError> {
        match self {
            Self::Postgres => postgres::history(database, customer_id, state, page).await,
            Self::Documents(documents) => {
                generations.query(|generation| documents.history(generation, customer_id, state, page)).await
            }
        }
    }
}

impl Store for View {
    async fn apply(&self, place: Place<'_>, change: &Change) -> Result<(), HandlingError> {
        match self {
            Self::Postgres => Postgres.apply(place, change).await,
            Self::Documents(documents) => documents.apply(place, change).await,
        }
    }

    async fn clear(&self, place: Place<'_>) -> Result<(), HandlingError> {
        match self {
            Self::Postgres => Postgres.clear(place).await,
            Self::Documents(documents) => documents.clear(place).await,
        }
    }

    async fn size(&self, place: Place<'_>) -> Result<i64, HandlingError> {
        match self {
            Self::Postgres => Postgres.size(place).await,
            Self::Documents(documents) => documents.size(place).await,
        }
    }

    async fn keep_only(&self, generation: i64) -> Result<(), HandlingError> {
        match self {
            Self::Postgres => Postgres.keep_only(generation).await,
            Self::Documents(documents) => documents.keep_only(generation).await,
        }
    }
}
