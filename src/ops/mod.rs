//! HTTP: health and metrics of a worker, and for the whole pool (`payonce ops`) the dashboard and the operators' API too. The only
//! place, with `api`, that knows axum. What must not live here: SQL, and any decision about a callback.

mod access;
mod actions;
mod api;
mod assets;
mod audits;
mod backlog;
mod clock;
mod edge;
mod figure;
mod finance;
mod footer;
mod history;
mod kept;
mod layout;
mod live;
mod mask;
mod pages;
mod pool;
mod scrape;
mod summary;
mod texts;
mod totals;
mod watch;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use access::Access;
pub use edge::EdgeSources;
use pool::Pool;
pub use pool::{Setup, Waits, serve_pool};

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Opens the port.
///
/// # Errors
/// Words that name the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))
}

/// Serves a worker's health and metrics until `stop`. `ready` says whether it takes messages.
///
/// # Errors
/// Where the listener fails.
pub async fn serve_worker(
    listener: TcpListener,
    prometheus: PrometheusHandle,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(worker_ready))
        .with_state(ready)
        .route("/metrics", get(render))
        .with_state(prometheus);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn worker_ready(State(ready): State<Arc<dyn Fn() -> bool + Send + Sync>>) -> Response {
    readiness(if ready() { Ok(()) } else { Err("not taking messages; the log says what it waits for") })
}

async fn render(State(prometheus): State<PrometheusHandle>) -> Response {
    exposition(&prometheus)
}

fn readiness(state: Result<(), &'static str>) -> Response {
    match state {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

fn exposition(prometheus: &PrometheusHandle) -> Response {
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], prometheus.render()).into_response()
}
