//! Projection: what every view of the two event streams does alike, wherever it is kept.
//!
//! ```text
//! queue -> Projector -> Change -> Store
//!              │                    │ the service's view: one module for each kind of store
//!              └ events, streams, view_generation: PostgreSQL, one transaction with the inbox
//! ```
//!
//! The store changes before that transaction commits. After a crash between the two, the message comes again, and
//! [`Store::apply`] finds the view as far already. So an event has one effect, in a store without transactions too.
//!
//! A rebuild fills a new generation of the view, and its transaction makes that the current one. Readers see the old
//! generation until then.

mod change;
mod command;
mod generation;
mod lag;
mod projector;
mod rebuild;
mod schema;
mod store;

pub use change::{Change, State};
pub use command::{Command, start};
pub use generation::Generations;
pub use lag::{Streams, routes as lag_routes};
pub use projector::{Projector, consume};
pub use rebuild::{Rebuilt, rebuild};
pub use schema::{DERIVED, TABLES};
pub use store::{Place, Store};
