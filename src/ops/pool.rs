//! The pool seen as a whole, from what its workers have committed.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{exposition, readiness};
use crate::{
    metrics::BySource,
    store::{Reader, StoreError, history},
};

/// What the pool's pages read from.
#[derive(Clone)]
pub struct Pool {
    /// PostgreSQL.
    pub reader: Reader,
    /// This process's recorder.
    pub prometheus: PrometheusHandle,
    /// Counters.
    pub by_source: BySource,
}

/// Serves health and the totals of all workers until `stop`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve_pool(listener: TcpListener, pool: Pool, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(pool));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready(State(pool): State<Arc<Pool>>) -> Response {
    let schema = pool.reader.check_schema().await;
    if let Err(cause) = &schema {
        warn!(cause = %cause, "not ready");
    }
    readiness(
        schema.map_err(|_| "PostgreSQL does not answer, or its schema does not fit; the log says which"),
    )
}

async fn metrics(State(pool): State<Arc<Pool>>) -> Response {
    match totals(&pool).await {
        Ok(()) => exposition(&pool.prometheus),
        Err(cause) => {
            warn!(cause = %cause, "no metrics");
            (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer\n").into_response()
        }
    }
}

async fn totals(pool: &Pool) -> Result<(), StoreError> {
    let rows = pool.reader.run(async |connection| history::totals(connection).await).await?;
    pool.by_source.set_totals(
        rows.iter().map(|row| (row.kind.as_str(), row.source.as_str(), row.label.as_str(), row.n)),
    );
    Ok(())
}
