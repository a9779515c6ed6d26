//! Dead letters of a queue: who put them there, and their way back.

use crate::{
    consumer::{
        ConsumerError, cures,
        dead_letters::{self, queue_of},
    },
    settings::Settings,
};
use process::failure::Failure;

/// Observed state of a dead-letter queue.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    /// Number of messages at the last look.
    known: Option<u32>,
    /// Messages that this instance has put there since the last look.
    buried: u32,
}

impl DeadLetters {
    /// Counts a message that this instance put there.
    pub(super) fn buried(&mut self) {
        self.buried = self.buried.saturating_add(1);
    }

    /// Records the present number of messages, and logs those that others put there or that were there at the start.
    /// Returns the number put there by others.
    pub(super) fn seen(&mut self, queue: &str, messages: u32) -> u32 {
        let own = std::mem::take(&mut self.buried);
        let dead = queue_of(queue);
        let Some(known) = self.known.replace(messages) else {
            if messages > 0 {
                tracing::warn!(
                    queue,
                    "{messages} messages lie in {dead} and are not handled; the command `redrive` puts them back into the queue"
                );
            }
            return 0;
        };
        let foreign = messages.saturating_sub(known.saturating_add(own));
        if foreign > 0 {
            tracing::error!(
                queue,
                "{foreign} messages came into {dead} that this instance did not put there: their deliveries exceeded the queue's \
                 delivery limit, they expired, or another instance put them there; they are not handled until the command \
                 `redrive` puts them back into the queue"
            );
        }
        foreign
    }
}

/// Result of a redrive of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The queue.
    pub queue: String,
    /// Messages put back into the queue.
    pub moved: u32,
    /// Messages left in the dead-letter queue.
    pub left: u32,
}

/// Moves the dead letters of each of `queues` back, at most `limit` of each: oldest first, behind the waiting
/// messages. It does not move messages that become dead letters meanwhile, so it ends.
///
/// # Errors
///
/// [`Failure`] when a queue fails. Moved messages stay moved, the others stay where they are, and at most one message
/// is in both queues.
pub async fn redrive(settings: &Settings, queues: &[&str], limit: u32) -> Result<Vec<Redriven>, Failure> {
    let mut redriven = Vec::new();
    for &queue in queues {
        let mut moved = 0;
        let left = redrive_one(settings, queue, limit, &mut moved).await.map_err(|error| {
            let error = cures::explain(&error);
            Failure::Runtime(format!(
                "{moved} messages were put back into {queue}, then: {error}; run it again"
            ))
        })?;
        redriven.push(Redriven { queue: queue.to_owned(), moved, left });
    }
    Ok(redriven)
}

async fn redrive_one(
    settings: &Settings,
    queue: &str,
    limit: u32,
    moved: &mut u32,
) -> Result<u32, ConsumerError> {
    let letters = dead_letters::DeadLetters::open(&settings.base.broker, queue, settings.base.name).await?;
    let limit = limit.min(letters.waiting().await?);
    while *moved < limit && letters.put_back().await? {
        *moved += 1;
    }
    let left = letters.waiting().await?;
    letters.close().await;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_by_another_hand_is_counted() {
        let mut dead = DeadLetters::default();
        assert_eq!(dead.seen("q", 3), 0, "nobody knows when these came");
        dead.buried();
        assert_eq!(dead.seen("q", 4), 0, "that was this instance");
        dead.buried();
        assert_eq!(dead.seen("q", 7), 2);
        assert_eq!(dead.seen("q", 0), 0, "they were put back");
        assert_eq!(dead.seen("q", 1), 1);
    }
}
