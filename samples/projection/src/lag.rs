//! Lag of a view: how far each stream was applied.

use std::time::SystemTime;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use chassis::{
    database::Database,
    http::{ApiError, ErrorBody},
    inbox::{Progress, ProgressReader},
};

/// Progress of each stream's queue, by aggregate type.
pub type Streams = Vec<(&'static str, ProgressReader)>;

#[derive(Clone)]
struct Sources {
    database: Database,
    streams: Streams,
}

/// Returns `GET /lag`.
pub fn routes(database: Database, streams: Streams) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(lag)).with_state(Sources { database, streams })
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
