//! Durable exchanges, queues and bindings, declared or verified. (sketch)

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    Quorum,
    Classic,
    Stream,
}

/// A durable subscription, see product.md `[[subscriptions]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub queue: String,
    pub exchange: String,
    pub binding_keys: Vec<String>,
    pub queue_type: QueueType,
    pub partitions: u32,
    pub single_active_consumer: bool,
    pub dead_letter: bool,
}
