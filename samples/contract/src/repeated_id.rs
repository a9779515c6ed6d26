//! Repeated ids: the database that assigns ids was created again or restored from a backup, and other services
//! remember the old ids.
//!
//! A service's ids begin at the time at which its tables were created, so a new database repeats none. A repeated id
//! after a restore makes the event a dead letter: applying it would mix two orders, and skipping it would leave one
//! PENDING for ever.

use chassis::inbox::HandlingError;

/// Returns the error of an event whose order id stands for another order here.
pub fn of_order(order_id: i64) -> HandlingError {
    let known = format!("order {order_id} is known here with another customer or another total");
    repeated(&known, "order-service", "orders")
}

/// Returns the error of an event whose customer id stands for another customer here.
pub fn of_customer(customer_id: i64) -> HandlingError {
    let known = format!("customer {customer_id} is known here with another name or another limit");
    repeated(&known, "customer-service", "customers")
}

fn repeated(known: &str, service: &str, table: &str) -> HandlingError {
    HandlingError::Permanent(format!(
        "{known}, so its id came again: the database of {service} was created again or restored from a backup. This event has \
         no effect here. To avoid further ones, set the ids in that database beyond all used ones: \
         SELECT setval(pg_get_serial_sequence('public.{table}', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
    ))
}
