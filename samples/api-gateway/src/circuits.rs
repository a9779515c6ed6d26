//! `GET /api/circuits`: which services are asked.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, upstream::CircuitView};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(circuits))
}

#[derive(Serialize, ToSchema)]
struct Circuits {
    circuits: Vec<CircuitView>,
}

/// Circuits of the services
#[utoipa::path(get, path = "/api/circuits", responses((status = 200, body = Circuits)))]
async fn circuits(State(api): State<Api>) -> Json<Circuits> {
    let mut circuits = Vec::new();
    for upstream in api.upstreams.all() {
        circuits.push(upstream.circuit().view().await);
    }
    Json(Circuits { circuits })
}
