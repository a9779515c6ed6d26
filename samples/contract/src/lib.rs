//! Contract of three services on outboxd: the customers-and-orders example, with sagas in two styles and a CQRS view.
//!
//! ```text
//! orders         POST /orders      -> OrderCreated            an order is PENDING until its customer's credit is known
//! customers      OrderCreated      -> CustomerCreditReserved, CustomerCreditReservationFailed, CustomerValidationFailed
//! orders         these             -> OrderApproved, OrderRejected
//! orders         POST .../cancel   -> OrderCancelled          customers gives the credit back
//! order_history  all of the orders' events, and CustomerCreated: one view of both
//! ```
//!
//! This is the saga by choreography. By orchestration, the order service sends [`commands`] to the customer service, whose
//! replies move the saga. The orders' events are the same, and carry the header `saga-type`.
//!
//! Each service has a database of its own, which no other can read. They share only [`events`] and [`commands`], their
//! language, [`requests`], and [`money`].

pub mod commands;
pub mod events;
pub mod money;
pub mod repeated_id;
pub mod requests;

use chassis::asyncapi::MessageType;

/// Returns the descriptions of all messages.
pub fn messages() -> Vec<MessageType> {
    [events::messages(), commands::messages()].concat()
}
