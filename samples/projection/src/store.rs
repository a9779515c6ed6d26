//! Store of a view, as the projection needs it.

use tokio_postgres::Transaction;

use super::Change;
use chassis::inbox::HandlingError;

/// Generation of the view to change, and the transaction of the projection's own tables.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Transaction that commits after the change. A view in the same database changes inside it.
    pub transaction: &'a Transaction<'a>,
    /// Number of the generation. A store that a transaction can replace in one step has only one.
    pub generation: i64,
}

/// Store of a view. Each method fails with [`HandlingError::Transient`] while the store is away or refuses.
pub trait Store: Clone + Send + Sync + 'static {
    /// Applies a change, unless the view is as far or further. The change is durable afterwards, or becomes so with the
    /// transaction.
    ///
    /// # Errors
    ///
    /// [`HandlingError`], permanent also when the view has another customer or order with this id.
    fn apply(
        &self,
        place: Place<'_>,
        change: &Change,
    ) -> impl Future<Output = Result<(), HandlingError>> + Send;

    /// Makes the generation empty, whatever an interrupted rebuild left in it.
    ///
    /// # Errors
    ///
    /// [`HandlingError`].
    fn clear(&self, place: Place<'_>) -> impl Future<Output = Result<(), HandlingError>> + Send;

    /// Counts the customers and orders in the generation, each change that was applied included.
    ///
    /// # Errors
    ///
    /// [`HandlingError`].
    fn size(&self, place: Place<'_>) -> impl Future<Output = Result<i64, HandlingError>> + Send;

    /// Removes every generation but this one.
    ///
    /// # Errors
    ///
    /// [`HandlingError`]: the store keeps them until the next rebuild.
    fn keep_only(&self, generation: i64) -> impl Future<Output = Result<(), HandlingError>> + Send;
}
