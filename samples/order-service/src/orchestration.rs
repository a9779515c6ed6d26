//! Sagas that the service coordinates: one creates an order, one cancels it.
//!
//! An order is PENDING until its saga ends, and cannot be cancelled before.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::Transaction;

use super::{
    order::{OrderState, Step as OrderStep},
    store::{self, Taken},
};
use chassis::{
    inbox::HandlingError,
    saga::{self, Command, Definition, Outcome, Sagas, Step, Work},
    trace::TraceContext,
};
use contract::{
    commands::{
        CREDIT_LIMIT_EXCEEDED, CREDIT_RELEASED, CREDIT_RESERVED, CUSTOMER_COMMANDS, CUSTOMER_NOT_FOUND,
        ORDER_REPLIES, RELEASE_CREDIT, RESERVE_CREDIT, ReleaseCredit, ReserveCredit,
    },
    events::{OrderDetails, RejectionReason},
};

const CREATE_ORDER: &str = "CreateOrder";
const CANCEL_ORDER: &str = "CancelOrder";

const APPROVE: &str = "approve";
const REJECT: &str = "reject";

const RESERVE: Work = Work::Command(Command {
    channel: CUSTOMER_COMMANDS,
    command_type: RESERVE_CREDIT,
    replies: &[
        (CREDIT_RESERVED, Outcome::Success),
        (CUSTOMER_NOT_FOUND, Outcome::Failure),
        (CREDIT_LIMIT_EXCEEDED, Outcome::Failure),
    ],
});
const RELEASE: Work = Work::Command(Command {
    channel: CUSTOMER_COMMANDS,
    command_type: RELEASE_CREDIT,
    replies: &[(CREDIT_RELEASED, Outcome::Success)],
});

const DEFINITIONS: &[Definition] = &[
    Definition {
        saga_type: CREATE_ORDER,
        steps: &[
            // The order is placed in the transaction that begins the saga.
            Step { action: None, compensation: Some(Work::Local(REJECT)) },
            Step { action: Some(RESERVE), compensation: Some(RELEASE) },
            Step { action: Some(Work::Local(APPROVE)), compensation: None },
        ],
    },
    // The order is cancelled in the transaction that begins the saga. From there on nothing can fail.
    Definition { saga_type: CANCEL_ORDER, steps: &[Step { action: Some(RELEASE), compensation: None }] },
];

/// Data of both sagas.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderData {
    order_id: i64,
    order: OrderDetails,
    rejection_reason: Option<RejectionReason>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct OrderSagas;

/// Places an order, begins its saga, and returns the order's id.
pub(super) async fn create(
    transaction: &mut Transaction<'_>,
    trace: &TraceContext,
    order: OrderDetails,
) -> Result<i64, HandlingError> {
    let order_id = store::place(transaction, trace, order.clone(), Some(CREATE_ORDER)).await?;
    let data = OrderData { order_id, order, rejection_reason: None };
    saga::begin(&OrderSagas, transaction, trace, CREATE_ORDER, data).await?;
    Ok(order_id)
}

/// Cancels an order if its state allows, and begins the saga that releases its credit.
pub(super) async fn cancel(
    transaction: &mut Transaction<'_>,
    trace: &TraceContext,
    order_id: i64,
) -> Result<Taken, HandlingError> {
    let taken = store::take(transaction, trace, order_id, OrderStep::Cancel, Some(CANCEL_ORDER)).await?;
    if let Taken::Yes(order) = &taken {
        let data = OrderData { order_id, order: order.details.clone(), rejection_reason: None };
        saga::begin(&OrderSagas, transaction, trace, CANCEL_ORDER, data).await?;
    }
    Ok(taken)
}

impl Sagas for OrderSagas {
    const REPLY_CHANNEL: &'static str = ORDER_REPLIES;

    type Data = OrderData;

    fn definitions(&self) -> &[Definition] {
        DEFINITIONS
    }

    fn command(&self, command_type: &str, data: &OrderData) -> serde_json::Result<Box<RawValue>> {
        let &OrderData { order_id, order: OrderDetails { customer_id, order_total }, .. } = data;
        match command_type {
            RESERVE_CREDIT => to_raw_value(&ReserveCredit { customer_id, order_id, order_total }),
            _ => to_raw_value(&ReleaseCredit { customer_id, order_id }),
        }
    }

    fn replied(&self, reply_type: &str, data: &mut OrderData) {
        match reply_type {
            CUSTOMER_NOT_FOUND => data.rejection_reason = Some(RejectionReason::UnknownCustomer),
            CREDIT_LIMIT_EXCEEDED => data.rejection_reason = Some(RejectionReason::InsufficientCredit),
            _ => {}
        }
    }

    async fn local(
        &self,
        transaction: &mut Transaction<'_>,
        trace: &TraceContext,
        name: &str,
        data: &mut OrderData,
    ) -> Result<Outcome, HandlingError> {
        let step = match (name, data.rejection_reason) {
            (APPROVE, _) => OrderStep::Approve,
            (REJECT, Some(reason)) => OrderStep::Reject(reason),
            // The order could not be approved, as somebody else had settled it.
            (REJECT, None) => return Ok(Outcome::Success),
            _ => return Err(HandlingError::Permanent(format!("there is no local work '{name}'"))),
        };
        let state = match store::take(transaction, trace, data.order_id, step, Some(CREATE_ORDER)).await? {
            Taken::Yes(order) | Taken::No(order) => order.state,
            Taken::NoOrder => "not there".to_owned(),
        };
        tracing::info!(order_id = data.order_id, state, "settled");
        // Credit is reserved for approved orders only.
        let failed = name == APPROVE && state != OrderState::Approved.name();
        Ok(if failed { Outcome::Failure } else { Outcome::Success })
    }
}
