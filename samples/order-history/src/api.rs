//! API of the view.

use std::time::SystemTime;

use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::view;
use chassis::{
    database::Database,
    http::{ApiError, ErrorBody, Id, Page, PageQuery, Query, next_page},
    inbox::{Progress, ProgressReader},
};
use contract::{
    events::RejectionReason,
    money::{CreditLimitSchema, Money, OrderTotalSchema},
};

/// Sources of answers: the view, and the progress of each stream.
#[derive(Clone)]
struct Sources {
    database: Database,
    streams: Vec<(&'static str, ProgressReader)>,
}

pub(super) fn routes(database: Database, streams: Vec<(&'static str, ProgressReader)>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(history))
        .routes(routes!(lag))
        .with_state(Sources { database, streams })
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderHistory {
    customer_id: i64,
    name: String,
    #[schema(value_type = CreditLimitSchema)]
    credit_limit: Money,
    orders: Vec<Order>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: i64,
    #[schema(value_type = view::State)]
    state: String,
    #[schema(value_type = OrderTotalSchema)]
    order_total: Money,
    #[schema(value_type = Option<RejectionReason>)]
    rejection_reason: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only orders in this state.
    #[param(value_type = view::State, inline, required = false)]
    state: Option<String>,
}

/// A customer with its orders
///
/// Ordered by id. A customer is known once its CustomerCreated has arrived.
#[utoipa::path(get, path = "/customers/{id}/orderhistory", params(("id" = i64, Path), Filter, PageQuery), responses(
    (status = 200, body = OrderHistory, headers(("Link" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "No CustomerCreated of this customer has come yet"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn history(
    State(Sources { database, .. }): State<Sources>,
    Id(customer_id): Id,
    Query(Filter { state }): Query<Filter>,
    page: Page,
) -> Result<impl IntoResponse, ApiError> {
    let known = |name: &str| view::State::ALL.iter().any(|state| state.name() == name);
    if let Some(unknown) = state.as_deref().filter(|name| !known(name)) {
        let names = view::State::ALL.map(view::State::name).join(", ");
        return Err(ApiError::invalid("state", format!("'{unknown}' is no state; there are {names}")));
    }
    let mut connection = database.connection().await?;
    // Customer and orders of one moment.
    let snapshot = connection.build_transaction().read_only(true);
    let snapshot = snapshot.isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).start().await?;
    let select = "SELECT name, credit_limit FROM public.customers WHERE id = $1";
    let Some(customer) = snapshot.query_opt(select, &[&customer_id]).await? else {
        return Err(ApiError::not_found(format!("there is no customer {customer_id} here, or not yet")));
    };
    let select = "SELECT id, state, total, rejection_reason FROM public.orders \
                  WHERE customer_id = $1 AND id > $2 AND ($3::text IS NULL OR state = $3) ORDER BY id LIMIT $4";
    let orders = snapshot.query(select, &[&customer_id, &page.after, &state, &page.limit]).await?;
    let orders: Vec<Order> = orders.iter().map(order).collect();
    snapshot.commit().await?;

    let path = format!("/customers/{customer_id}/orderhistory");
    let path = state.map_or(path.clone(), |state| format!("{path}?state={state}"));
    let next = next_page(&path, page, orders.len(), orders.last().map(|order| order.order_id));
    let (name, credit_limit) = (customer.get("name"), customer.get("credit_limit"));
    Ok((next, Json(OrderHistory { customer_id, name, credit_limit, orders })))
}

fn order(row: &Row) -> Order {
    Order {
        order_id: row.get("id"),
        state: row.get("state"),
        order_total: row.get("total"),
        rejection_reason: row.get("rejection_reason"),
    }
}

#[derive(Serialize, ToSchema)]
struct Lag {
    streams: Vec<StreamLag>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StreamLag {
    /// Aggregate type of the stream's events.
    stream: &'static str,
    /// Outbox of the events; null before the first.
    source: Option<String>,
    /// `outbox-position` of the last event applied; null before the first.
    position: Option<String>,
    /// 0 when no event waits or is being applied, else the age of the first such event; null while the broker cannot
    /// be queried. The instance that consumes the stream knows it best.
    seconds_behind: Option<i64>,
    /// Messages waiting in the queue, as of at most a second ago; null while the broker cannot be queried.
    waiting: Option<u32>,
}

/// Lag of the view
#[utoipa::path(get, path = "/lag", responses((status = 200, body = Lag), (status = "default", body = ErrorBody, description = "Any failure")))]
async fn lag(State(Sources { database, streams }): State<Sources>) -> Result<Json<Lag>, ApiError> {
    let select = "SELECT stream, source, position, committed_at FROM public.streams";
    let applied = database.connection().await?.query(select, &[]).await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let lag = streams.iter().map(|(stream, progress)| {
        let progress = *progress.borrow();
        let applied = applied.iter().find(|row| row.get::<_, &str>("stream") == *stream);
        let committed_at = applied.and_then(|row| row.get::<_, Option<i64>>("committed_at"));
        StreamLag {
            stream,
            source: applied.map(|row| row.get("source")),
            position: applied.map(|row| row.get("position")),
            seconds_behind: seconds_behind(progress, committed_at, now),
            waiting: progress.waiting,
        }
    });
    Ok(Json(Lag { streams: lag.collect() }))
}

/// Returns the lag from times in seconds since 1970. A waiting event that was not seen yet is younger than the last
/// applied one by an unknown time.
fn seconds_behind(progress: Progress, applied: Option<i64>, now: i64) -> Option<i64> {
    let oldest = match progress {
        Progress { waiting: None, .. } => return None,
        Progress { head: None, waiting: Some(0), .. } => return Some(0),
        Progress { head: Some(head), .. } => head.committed_at.or(applied),
        Progress { head: None, .. } => applied,
    };
    oldest.map(|oldest| (now - oldest).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chassis::inbox::Head;

    #[test]
    fn nobody_is_behind_who_has_nothing_to_do() {
        let at = |waiting, head: Option<Option<i64>>| {
            let head = head.map(|committed_at| Head { committed_at });
            seconds_behind(Progress { waiting, head, empty_at: None }, Some(100), 107)
        };
        assert_eq!(at(Some(0), None), Some(0));
        assert_eq!(at(Some(3), None), Some(7));
        assert_eq!(at(Some(0), Some(Some(102))), Some(5));
        assert_eq!(at(Some(9), Some(None)), Some(7));
        assert_eq!(at(Some(1), Some(Some(108))), Some(0), "clocks differ");
        assert_eq!(at(None, None), None);
    }
}
