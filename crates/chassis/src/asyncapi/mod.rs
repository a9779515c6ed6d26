//! AsyncAPI document of a service: the messages that it sends and receives over the broker, with JSON schemas of the Rust types.
//!
//! `message` describes one type of message, where its type is defined. `document` joins the operations of a service to a document.
//! `headers` knows what the outbox and a relay write beside the body.
//!
//! A service describes nothing twice: what it receives follows from what it consumes. [`Service`](crate::Service) serves the document at
//! `/asyncapi.json`. A program without a [`Service`](crate::Service) makes a [`Description`] itself.

mod document;
mod headers;
mod message;

pub use document::Description;
pub use message::MessageType;
