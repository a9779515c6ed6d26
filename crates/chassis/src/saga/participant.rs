//! Participant of a saga: reads the headers of a command, and replies.

use std::fmt::Debug;

use serde::Serialize;
use tokio_postgres::Transaction;

use super::{Outcome, headers};
use crate::{
    inbox::{HandlingError, Message},
    outbox,
};

/// Command with its return address.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    message: &'a Message,
    saga_type: &'a str,
    saga_id: i64,
    reply_channel: &'static str,
}

impl<'a> Command<'a> {
    /// Reads the headers of a command. Replies go to `reply_channels` only: the channel becomes the name of an exchange, and the
    /// sender of a command chooses it.
    ///
    /// # Errors
    ///
    /// [`HandlingError::Permanent`] when a header is missing or wrong.
    pub fn of(message: &'a Message, reply_channels: &[&'static str]) -> Result<Self, HandlingError> {
        let command_type = message.required(headers::COMMAND_TYPE)?;
        if command_type != message.event_type {
            return Err(HandlingError::Permanent(format!(
                "the header {} is not the type of the message",
                headers::COMMAND_TYPE
            )));
        }
        let reply_to = message.required(headers::REPLY_TO)?;
        let known = reply_channels.iter().find(|&&channel| channel == reply_to);
        let reply_channel = known.ok_or_else(|| {
            HandlingError::Permanent(format!("this service does not reply to the channel '{reply_to}'"))
        })?;
        let saga_type = message.required(headers::SAGA_TYPE)?;
        let saga_id = message.parsed(headers::SAGA_ID)?;
        Ok(Self { message, saga_type, saga_id, reply_channel })
    }

    /// Writes the reply in the transaction that carries out the command.
    ///
    /// # Errors
    ///
    /// [`HandlingError`] when the row cannot be written, so that the transaction cannot commit.
    pub async fn reply<P: Serialize + Debug + Sync>(
        self,
        transaction: &Transaction<'_>,
        reply_type: &'static str,
        outcome: Outcome,
        payload: &P,
    ) -> Result<(), HandlingError> {
        let saga_id = self.saga_id.to_string();
        let headers = [
            (headers::REPLY_TYPE, reply_type),
            (headers::SAGA_TYPE, self.saga_type),
            (headers::SAGA_ID, &saga_id),
            (headers::IN_REPLY_TO, &self.message.id),
            (headers::OUTCOME, outcome.name()),
        ];
        let row = outbox::Row {
            channel: self.reply_channel,
            aggregate_type: self.saga_type,
            aggregate_id: &saga_id,
            message_type: reply_type,
            headers: &headers,
            payload,
        };
        outbox::write(transaction, &self.message.trace, row).await?;
        tracing::info!(saga_type = self.saga_type, saga_id, reply_type, "reply written");
        Ok(())
    }
}
