//! Messages in a queue's dead-letter queue: who put them there, and the way back.

use crate::{
    consumer::{
        ConsumerError, cures,
        dead_letters::{self, queue_of},
    },
    settings::Settings,
};
use process::failure::Failure;

/// Knowledge of a dead-letter queue.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    /// Messages in it as of the last look.
    known: Option<u32>,
    /// Messages that this instance has put there since.
    buried: u32,
}

impl DeadLetters {
    /// Notes a message that this instance put there.
    pub(super) fn buried(&mut self) {
        self.buried = self.buried.saturating_add(1);
    }

    /// Notes that `messages` are there now, and logs what came by another hand, or what was there from the beginning. Gives the
    /// number of messages that came by another hand.
    pub(super) fn seen(&mut self, queue: &str, messages: u32) -> u32 {
        let own = std::mem::take(&mut self.buried);
        let dead = queue_of(queue);
        let Some(known) = self.known.replace(messages) else {
            if messages > 0 {
                tracing::warn!(
                    queue,
                    "{messages} messages lie in {dead}, unhandled; the command `redrive` puts them back into the queue"
                );
            }
            return 0;
        };
        let foreign = messages.saturating_sub(known.saturating_add(own));
        if foreign > 0 {
            tracing::error!(
                queue,
                "{foreign} messages came into {dead} and were not put there by this instance: their deliveries exceeded the \
                 queue's delivery limit, they expired, or another instance put them there; they are unhandled until the \
                 command `redrive` puts them back into the queue"
            );
        }
        foreign
    }
}

/// Outcome of a redrive for one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The queue.
    pub queue: String,
    /// Put back into it.
    pub moved: u32,
    /// Still in its dead-letter queue.
    pub left: u32,
}

/// Puts the dead letters of each of `queues` back, at most `limit` of each: in the order in which they died, behind what waits
/// in the queue. Messages that die meanwhile are left for another time, so this ends.
///
/// # Errors
///
/// What was put back is; the rest lies where it was. At most one message is in both queues then.
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
    let letters = dead_letters::DeadLetters::open(&settings.broker, queue, settings.name).await?;
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
