//! An id that came again: the database that gives the ids was made anew, or set back to a backup, and the others remember.
//!
//! A service's ids begin at the time at which its tables were made, so a database that this version makes anew repeats none. What is
//! left is put aside with its reason: to apply it would mix two orders, and to pass it over would leave one PENDING for ever.

use chassis::inbox::HandlingError;

/// For an event about an order whose id stands for another order here.
pub fn of_order(order_id: i64) -> HandlingError {
    let known = format!("order {order_id} is known here with another customer or another total");
    repeated(&known, "order-service", "orders")
}

/// The same for a customer.
pub fn of_customer(customer_id: i64) -> HandlingError {
    let known = format!("customer {customer_id} is known here with another name or another limit");
    repeated(&known, "customer-service", "customers")
}

fn repeated(known: &str, service: &str, table: &str) -> HandlingError {
    HandlingError::Permanent(format!(
        "{known}, so its id came again: the database of {service} was made anew, or set back to a backup. What this event \
         tells of stays as it is there. Set the ids beyond all that were used, in that database: \
         SELECT setval(pg_get_serial_sequence('public.{table}', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
    ))
}
