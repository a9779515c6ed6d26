//! Applies events to the view as they come, retains them, and notes how far each stream has come.

use tokio_postgres::Transaction;

use super::view::Change;
use chassis::inbox::{Handler, HandlingError, Message};

/// The handler of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Projector {
    /// The stream's name in `/lag`: its aggregate type.
    pub stream: &'static str,
}

impl Handler for Projector {
    /// The view is the same however often an event is applied, and a replay is how one that was lost comes back.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let change = Change::of(&message.event_type, &message.body)?;
        // First of all: a rebuild under way holds this table, and nothing of the view may be locked while it is waited for.
        let retain = "INSERT INTO public.events (source, message_id, event_type, body) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT DO NOTHING";
        let source = message.source.as_deref().unwrap_or_default();
        transaction.execute(retain, &[&source, &message.id, &message.event_type, &message.body]).await?;
        change.apply(transaction).await?;
        if let (Some(source), Some(position)) = (&message.source, &message.position) {
            let note = "INSERT INTO public.streams (stream, source, position, committed_at) VALUES ($1, $2, $3, $4) \
                        ON CONFLICT (stream) DO UPDATE SET source = excluded.source, \
                          position = excluded.position, committed_at = excluded.committed_at \
                        WHERE streams.source <> excluded.source OR streams.position < excluded.position";
            transaction.execute(note, &[&self.stream, source, position, &message.committed_at]).await?;
        }
        Ok(())
    }
}
