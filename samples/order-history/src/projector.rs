//! Projector: applies arriving events to the view, retains them, and records each stream's progress.

use tokio_postgres::Transaction;

use super::view::Change;
use chassis::inbox::{Handler, HandlingError, Message};

/// Handler of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Projector {
    /// Name of the stream in `/lag`: its aggregate type.
    pub stream: &'static str,
}

impl Handler for Projector {
    /// Applying an event again does not change the view, and a replay restores a lost one.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let change = Change::of(&message.event_type, &message.body)?;
        // First statement, because a running rebuild holds this table, and no lock of the view may be held while
        // waiting for it.
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
