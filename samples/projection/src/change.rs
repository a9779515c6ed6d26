//! Change of a view: the effect of an event. The final view is the same for any repetition of events and any
//! interleaving of the two streams.

use chassis::inbox::{HandlingError, payload};
use contract::events::{
    CUSTOMER_CREATED, CustomerCreated, ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
    OrderEvent,
};

/// State of an order, as far as events have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The customer's credit is not known yet.
    Pending,
    /// Credit was reserved.
    Approved,
    /// Credit was not reserved.
    Rejected,
    /// The order was approved, and cancelled afterwards.
    Cancelled,
}

/// Change of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A customer is there. An order may arrive before its customer.
    Customer(CustomerCreated),
    /// An order has reached a state.
    Order(OrderEvent, State),
}

impl State {
    /// The states.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Approved, Self::Rejected, Self::Cancelled];

    /// Returns the name in stores and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Returns the state with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Returns the rank of a state. An order never goes back to a lower one, and none is both approved and rejected:
    /// only an event of a higher rank has an effect.
    pub fn rank(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Approved | Self::Rejected => 1,
            Self::Cancelled => 2,
        }
    }

    fn after(event_type: &str) -> Option<Self> {
        match event_type {
            ORDER_CREATED => Some(Self::Pending),
            ORDER_APPROVED => Some(Self::Approved),
            ORDER_REJECTED => Some(Self::Rejected),
            ORDER_CANCELLED => Some(Self::Cancelled),
            _ => None,
        }
    }
}

impl Change {
    /// Parses an event.
    ///
    /// # Errors
    ///
    /// A permanent [`HandlingError`] when the views do not use the event.
    pub fn of(event_type: &str, body: &[u8]) -> Result<Self, HandlingError> {
        if event_type == CUSTOMER_CREATED {
            return payload(event_type, body).map(Self::Customer);
        }
        let state = State::after(event_type)
            .ok_or_else(|| HandlingError::Permanent(format!("unknown event type '{event_type}'")))?;
        let event: OrderEvent = payload(event_type, body)?;
        match (state == State::Rejected, event.rejection_reason) {
            (true, None) => Err(contradictory(event_type, "without a rejectionReason")),
            (false, Some(_)) => Err(contradictory(event_type, "with a rejectionReason")),
            _ => Ok(Self::Order(event, state)),
        }
    }
}

fn contradictory(event_type: &str, what: &str) -> HandlingError {
    HandlingError::Permanent(format!("the body is not a valid {event_type}: {what}"))
}
