//! States of an order and their transitions. Pure.

use serde::Serialize;
use utoipa::ToSchema;

use contract::events::{
    CREDIT_RESERVATION_FAILED, CREDIT_RESERVED, CUSTOMER_VALIDATION_FAILED, ORDER_APPROVED, ORDER_CANCELLED,
    ORDER_REJECTED, RejectionReason,
};

/// State of an order. PENDING is the semantic lock: nobody can change an order before it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrderState {
    /// Placed. The customer's credit is unknown.
    Pending,
    /// Approved: credit is reserved.
    Approved,
    /// Rejected: the order will not be carried out.
    Rejected,
    /// Cancelled after approval.
    Cancelled,
}

/// Transition of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The customer service reserved credit.
    Approve,
    /// The customer service did not reserve credit.
    Reject(RejectionReason),
    /// The customer cancels the order.
    Cancel,
}

impl OrderState {
    /// Returns the state after `step`; `None` when the step does not apply, as for a late or repeated one.
    pub fn after(self, step: Step) -> Option<Self> {
        match (self, step) {
            (Self::Pending, Step::Approve) => Some(Self::Approved),
            (Self::Pending, Step::Reject(_)) => Some(Self::Rejected),
            (Self::Approved, Step::Cancel) => Some(Self::Cancelled),
            _ => None,
        }
    }

    /// Returns the name in the database and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Returns the state with a [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        [Self::Pending, Self::Approved, Self::Rejected, Self::Cancelled]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

impl Step {
    /// Returns the step caused by an event of the customer service.
    pub fn caused_by(event_type: &str) -> Option<Self> {
        match event_type {
            CREDIT_RESERVED => Some(Self::Approve),
            CREDIT_RESERVATION_FAILED => Some(Self::Reject(RejectionReason::InsufficientCredit)),
            CUSTOMER_VALIDATION_FAILED => Some(Self::Reject(RejectionReason::UnknownCustomer)),
            _ => None,
        }
    }

    /// Returns the event that announces the step.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Approve => ORDER_APPROVED,
            Self::Reject(_) => ORDER_REJECTED,
            Self::Cancel => ORDER_CANCELLED,
        }
    }

    /// Returns the reason of a rejection.
    pub fn rejection_reason(self) -> Option<RejectionReason> {
        match self {
            Self::Reject(reason) => Some(reason),
            Self::Approve | Self::Cancel => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OrderState::{Approved, Cancelled, Pending, Rejected};

    const REJECT: Step = Step::Reject(RejectionReason::InsufficientCredit);

    #[test]
    fn every_state_allows_these_steps_and_no_others() {
        let table = [
            (Pending, [Some(Approved), Some(Rejected), None]),
            (Approved, [None, None, Some(Cancelled)]),
            (Rejected, [None, None, None]),
            (Cancelled, [None, None, None]),
        ];
        for (state, expected) in table {
            let reached = [Step::Approve, REJECT, Step::Cancel].map(|step| state.after(step));
            assert_eq!(reached, expected, "{state:?}");
            assert_eq!(OrderState::named(state.name()), Some(state));
        }
    }

    #[test]
    fn whatever_comes_and_however_often_an_order_is_settled_once() {
        let steps = [Step::Approve, REJECT, Step::Approve, REJECT];
        for first in 0..steps.len() {
            let taken: Vec<OrderState> = steps[first..]
                .iter()
                .scan(Pending, |state, step| {
                    let next = state.after(*step);
                    *state = next.unwrap_or(*state);
                    Some(next)
                })
                .flatten()
                .collect();
            assert_eq!(taken.len(), 1, "{taken:?}");
        }
    }

    #[test]
    fn an_unknown_event_is_no_step() {
        assert_eq!(Step::caused_by("CustomerCreated"), None);
        assert_eq!(OrderState::named("pending"), None);
    }
}
