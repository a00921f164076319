//! One member of the worker pool: a supervisor that keeps a session with the broker going, and the lanes that do the work.
//!
//! A session owns a connection, a channel, the lanes and the settler. Whatever goes wrong ends the session, and the next one
//! starts with nothing of it: delivery tags belong to a channel, so an acknowledgement can never reach another message.
//! What must not live here: SQL, Redis commands, business rules.

mod aside;
mod background;
mod batch;
mod budget;
mod dead_letter;
mod disposition;
mod lane;
mod process;
mod session;
mod stage;
mod stats;
mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use background::Background;
pub use stats::Stats;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    broker::{BrokerError, Names, topology::TopologyError},
    config::{RetryConfig, Secret, TlsConfig, WorkerConfig},
    dedupe::Dedupe,
    keys::Keys,
    metrics::BySource,
    retry::Pauses,
    store::{self, Database, SchemaError, StoreError},
};

/// How often a Redis that is down is tried again, and one that is idle is checked.
pub const REDIS_PROBE_PAUSE: Duration = Duration::from_secs(1);

/// All that a worker is given.
pub struct Worker {
    /// Its name, in logs, on connections and beside its counts.
    pub name: String,
    /// RabbitMQ.
    pub amqp_url: Secret,
    /// Certificates and keys for it.
    pub tls: TlsConfig,
    /// The objects on it.
    pub names: Names,
    /// PostgreSQL.
    pub database: Arc<Database>,
    /// Redis.
    pub dedupe: Arc<Dedupe>,
    /// Who may sign for which source.
    pub keys: Keys,
    /// Sizes and limits.
    pub config: WorkerConfig,
    /// Pauses between tries.
    pub retry: RetryConfig,
    /// Counters.
    pub by_source: BySource,
    /// Whether it is taking messages.
    pub readiness: Readiness,
    /// What it counts about itself.
    pub stats: Stats,
}

/// Whether a worker is taking messages and writing them; shared with its health endpoint.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_open: AtomicBool,
    is_writing: AtomicBool,
}

impl Readiness {
    /// True while a session is open and what was tried last was committed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.is_open.load(Ordering::Relaxed) && self.0.is_writing.load(Ordering::Relaxed)
    }

    /// A session with the broker is open, or not.
    fn open(&self, is_open: bool) {
        self.0.is_open.store(is_open, Ordering::Relaxed);
    }

    /// A transaction was committed, or could not be.
    fn wrote(&self, is_committed: bool) {
        self.0.is_writing.store(is_committed, Ordering::Relaxed);
    }
}

/// Why a worker cannot go on: a person has to change something first.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The database is set up so that what payonce promises would not hold.
    #[error(transparent)]
    Database(StoreError),
    /// The schema does not fit this program.
    #[error(transparent)]
    Schema(SchemaError),
    /// An object on the broker differs from what payonce needs, or is missing and may not be made.
    #[error(transparent)]
    Topology(TopologyError),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("the broker cancelled the consumer; the queue may have been deleted")]
    ConsumerCancelled,
    #[error("nothing could be written for longer than outage_hold_ms; the deliveries were given back")]
    Outage,
    #[error("a delivery that was set aside was held as long as the broker allows; all were given back")]
    HeldTooLong,
    #[error("unsettled deliveries were more than prefetch_bytes_max; from now on fewer are taken at a time")]
    TooMuch,
    #[error("a lane stopped unexpectedly: {0}")]
    LaneDied(String),
}

/// Takes messages until `stop`, across any failure of the three servers.
///
/// # Errors
/// [`Refusal`] where trying again cannot help. Every delivery that was not settled by then goes back to the queue.
pub async fn run(worker: Worker, stop: CancellationToken) -> Result<(), Refusal> {
    let worker = Arc::new(worker);
    let mut background = Background::start(&worker, &stop);
    let mut pauses = Pauses::new(worker.retry);
    let mut budgets = session::Budgets::new(&worker.config);
    let mut result = Ok(());
    while !stop.is_cancelled() {
        let ended = match wait_for_database(&worker, &stop, !background.has_database()).await {
            Ok(()) if stop.is_cancelled() => Ok(()),
            Ok(()) => {
                background.start_with_database();
                session::run(&worker, &stop, &mut pauses, &mut budgets).await
            }
            Err(refusal) => Err(SessionEnd::Refused(refusal)),
        };
        worker.readiness.open(false);
        match ended {
            Ok(()) => {}
            Err(SessionEnd::Refused(refusal)) => {
                result = Err(refusal);
                break;
            }
            Err(
                cause @ (SessionEnd::Broker(_)
                | SessionEnd::ConsumerCancelled
                | SessionEnd::Outage
                | SessionEnd::HeldTooLong
                | SessionEnd::TooMuch
                | SessionEnd::LaneDied(_)),
            ) => {
                if matches!(cause, SessionEnd::Outage) {
                    budgets.put_on_trial();
                }
                let pause = pauses.next_pause();
                worker.stats.failed(&cause);
                warn!(cause = %cause, pause_ms = pause.as_millis(), "session ended; the broker has all unsettled deliveries back");
                sleep_unless(pause, &stop).await;
            }
        }
    }
    background.end(worker.config.shutdown_deadline).await;
    info!("stopped");
    result
}

/// No message is taken while PostgreSQL is down or takes no writes: the broker counts every return, and would dead-letter good payments. One that
/// is not set up as it must be is refused at the start; later it is waited for too, because it was right before, and may be again.
async fn wait_for_database(worker: &Worker, stop: &CancellationToken, is_start: bool) -> Result<(), Refusal> {
    let mut pauses = Pauses::new(worker.retry);
    while !stop.is_cancelled() {
        match check_database(worker).await {
            Ok(()) => return Ok(()),
            Err(SchemaError::Store(cause @ StoreError::Unfit(_))) if is_start => {
                return Err(Refusal::Database(cause));
            }
            Err(SchemaError::Store(cause)) => {
                let pause = pauses.next_pause();
                worker.stats.failed(&cause);
                warn!(cause = %cause, pause_ms = pause.as_millis(), "waiting for PostgreSQL");
                sleep_unless(pause, stop).await;
            }
            Err(
                cause @ (SchemaError::TooOld { .. }
                | SchemaError::TooNew { .. }
                | SchemaError::FromDump
                | SchemaError::Migration(_)),
            ) => {
                return Err(Refusal::Schema(cause));
            }
        }
    }
    Ok(())
}

/// That the schema fits, and that something can be written and committed: a server that answers reads may be a standby, read-only, full,
/// or wait for a synchronous standby that is gone. What is written is the worker's report.
async fn check_database(worker: &Worker) -> Result<(), SchemaError> {
    worker.database.check_sessions().await?;
    let mut connection = store::Connection::new(Arc::clone(&worker.database));
    let checked = connection
        .run(async |connection| {
            let fits = store::check_schema(connection).await;
            if fits.is_ok() {
                store::check_worker_rights(connection).await?;
                background::report_now(worker, connection).await?;
            }
            Ok::<_, StoreError>(fits)
        })
        .await;
    connection.close().await;
    checked??;
    worker.readiness.wrote(true);
    Ok(())
}

async fn sleep_unless(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
