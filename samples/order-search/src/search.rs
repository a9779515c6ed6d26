//! Search: the query for what a caller asks. No part of it is syntax, so any text is a valid question.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::index::{Index, Order, found};
use chassis::{http::Page, inbox::HandlingError};
use contract::money::Money;
use projection::State;

/// Seconds to wait for an index that cannot be read yet.
const READABLE_S: u8 = 3;

/// What a caller asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    /// Words that name, id or state have, all of them.
    pub(crate) words: Option<String>,
    pub(crate) state: Option<State>,
    pub(crate) min: Option<Money>,
    pub(crate) max: Option<Money>,
}

impl Question {
    fn query(&self, page: Page) -> Value {
        let mut filter = Vec::new();
        if let Some(words) = &self.words {
            filter.push(json!({ "match": { "words": { "query": words, "operator": "and" } } }));
        }
        if let Some(state) = self.state {
            filter.push(json!({ "term": { "state": state.name() } }));
        }
        if let Some(min) = self.min {
            filter.push(json!({ "range": { "total": { "gte": min.ten_thousandths() } } }));
        }
        if let Some(max) = self.max {
            filter.push(json!({ "range": { "total": { "lte": max.ten_thousandths() } } }));
        }
        json!({
            "size": page.limit,
            "sort": ["orderId"],
            "search_after": [page.after],
            "track_total_hits": false,
            "query": { "bool": { "filter": filter } },
        })
    }
}

impl Index {
    /// Returns a page of the orders that answer the question, ordered by id; `None` when the index does not exist.
    pub(crate) async fn search(
        &self,
        generation: i64,
        question: &Question,
        page: Page,
    ) -> Result<Option<Vec<Order>>, HandlingError> {
        let index = self.name("orders", generation);
        let (path, query) = (format!("{index}/_search"), question.query(page));
        let mut answer = self.server.ask(Method::POST, &path, Some(&query)).await?;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            // A new index, or one of a server that has just started, is there a moment before it can be read.
            let readable = format!("_cluster/health/{index}?wait_for_status=yellow&timeout={READABLE_S}s");
            self.server.ask(Method::GET, &readable, None).await?;
            answer = self.server.ask(Method::POST, &path, Some(&query)).await?;
        }
        if answer.is_index_missing() {
            return Ok(None);
        }
        // A shard that failed would leave orders out.
        if !answer.status.is_success()
            || answer.body["_shards"]["failed"] != 0
            || answer.body["timed_out"] != false
        {
            return Err(self.server.refused(&answer));
        }
        Ok(Some(found(&answer.body)))
    }
}
