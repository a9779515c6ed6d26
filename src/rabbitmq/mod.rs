//! RabbitMQ beyond publishing, which `amqp_publisher` does. Does not know PostgreSQL, rows, or retries.
//!
//! [`inspection`] compares the configuration with the broker, [`rabbitmqctl`] prints an administrator's commands, and [`cures`] adds
//! outboxd's next steps to errors. [`publishing`] describes a source's messages before there is a row.

pub mod cures;
pub mod inspection;
pub mod publishing;
pub mod rabbitmqctl;
