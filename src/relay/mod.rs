//! (sketch) The relay of one source.
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    PerAggregate,
    Pipelined,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnroutable {
    Halt,
    Drop,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogPolicy {
    Publish,
    Skip,
}

/// `delivery.*`, `backlog`, and what of `rabbitmq.*` concerns waiting.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    pub ordering: Ordering,
    pub in_flight_max: usize,
    pub in_flight_bytes_max: usize,
    pub on_unroutable: OnUnroutable,
    pub backlog: BacklogPolicy,
    pub confirm_timeout: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub status_interval: Duration,
}
