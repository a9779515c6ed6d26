//! A simulated RabbitMQ broker, as a publisher sees it. Routes and stores messages, confirms late and in any order, nacks, returns,
//! blocks, leaves messages unanswered, and goes away.

mod fence;
mod lasting;
mod messages;
mod publisher;
pub(crate) mod state;

pub(crate) use self::publisher::SimulatedBroker;
