//! The state of this worker, written to PostgreSQL every few seconds over a connection of its own, for the pages and metrics of `payonce ops`.
//! What must not live here: what is counted (`stats.rs`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::{Worker, sleep_unless};
use crate::{
    latency::Counted,
    store::{
        self, StoreError,
        workers::{self, Report},
    },
};

/// Reports until `stop`, and then that it has stopped.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let mut connection = store::Connection::new(Arc::clone(&worker.database));
    let mut reported = Instant::now();
    loop {
        let is_stopped = stop.is_cancelled();
        let report = report(&worker, is_stopped, reported.elapsed(), worker.stats.take_latencies());
        reported = Instant::now();
        if let Err(cause) =
            connection.run(async |connection| workers::report(connection, &report).await).await
        {
            // The lanes say more, and more often, about a database that is down.
            debug!(cause = %cause, "not reported");
        }
        if is_stopped {
            break;
        }
        sleep_unless(worker.config.report_pause, &stop).await;
    }
    connection.close().await;
}

/// Reports once, on this connection.
pub(in crate::worker) async fn report_now(
    worker: &Worker,
    connection: &mut store::PgConnection,
) -> Result<(), StoreError> {
    // Latencies are left for the report of the interval that they belong to.
    workers::report(connection, &report(worker, false, Duration::ZERO, Counted::default())).await
}

fn report(worker: &Worker, is_stopped: bool, interval: Duration, latencies: Counted) -> Report<'_> {
    let stats = &worker.stats;
    Report {
        name: &worker.name,
        version: env!("CARGO_PKG_VERSION"),
        uptime: stats.uptime(),
        pause: worker.config.report_pause,
        is_stopped,
        is_ready: worker.readiness.is_ready(),
        redis_available: worker.dedupe.is_available(),
        lanes: worker.config.lanes,
        batch_size_max: worker.config.batch_size_max,
        prefetch_count: worker.config.prefetch_count,
        counts: stats.counts(),
        interval,
        latencies,
        oldest_unsettled: stats.oldest_unsettled(),
        last_error: stats.last_error(),
    }
}
