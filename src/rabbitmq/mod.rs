//! RabbitMQ, as far as outboxd asks more of it than `amqp_publisher` does by itself. Knows nothing of PostgreSQL, of what a row is, or
//! of when to try again.
//!
//! [`inspection`] compares what is configured with what is there, [`rabbitmqctl`] prints what an administrator grants, and [`cures`]
//! says next steps in outboxd's words. [`publishing`] is what is known of a source's messages before there is a row.

pub mod cures;
pub mod inspection;
pub mod publishing;
pub mod rabbitmqctl;
