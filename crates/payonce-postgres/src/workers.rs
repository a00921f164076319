//! The state that each worker reports of itself: a row that it writes every few seconds. Nothing here is decided on.

use std::time::Duration;

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{StoreError, rows::storable};
use crate::latency::Counted;

/// Reports that may be missing before a worker counts as gone.
const MISSED_MAX: i64 = 3;

/// What a worker says about itself.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Its name in logs and beside counts.
    pub name: &'a str,
    /// Of the program.
    pub version: &'a str,
    /// How long it has run.
    pub uptime: Duration,
    /// How often it means to report.
    pub pause: Duration,
    /// This is its last word.
    pub is_stopped: bool,
    /// It has a session with the broker.
    pub is_ready: bool,
    /// Redis answers it.
    pub redis_available: bool,
    /// Batches in work at once.
    pub lanes: usize,
    /// Callbacks per transaction at most.
    pub batch_size_max: usize,
    /// Unsettled deliveries at most.
    pub prefetch_count: u16,
    /// Since it started.
    pub counts: Counts,
    /// How long it is since the report before.
    pub interval: Duration,
    /// Latencies of what it settled in that time.
    pub latencies: Counted,
    /// For how long it has held the oldest delivery that is not settled.
    pub oldest_unsettled: Option<Duration>,
    /// The last failure it went on after, and how long ago that was.
    pub last_error: Option<(String, Duration)>,
}

/// How many deliveries, since a worker started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken from the queue, redeliveries included.
    pub received: u64,
    /// Written to the ledger, those included that had waited.
    pub applied: u64,
    /// Rejected.
    pub duplicates: u64,
    /// New cases.
    pub quarantined: u64,
    /// Accounts decided again because a concurrent writer changed them first.
    pub conflicts: u64,
}

/// A worker as it was when it last reported.
#[derive(Debug, Clone, FromRow)]
pub struct WorkerRow {
    /// Host and process id.
    pub name: String,
    /// Of the program.
    pub version: String,
    /// When it started.
    pub started_at: OffsetDateTime,
    /// When it last reported.
    pub last_seen_at: OffsetDateTime,
    /// It has not stopped, and not missed its reports.
    pub is_up: bool,
    /// It stopped, and said so.
    pub is_stopped: bool,
    /// It has a session with the broker.
    pub is_ready: bool,
    /// Redis answers it.
    pub redis_available: bool,
    /// Batches in work at once.
    pub lanes: i32,
    /// Callbacks per transaction at most.
    pub batch_size_max: i32,
    /// Unsettled deliveries at most.
    pub prefetch_count: i32,
    /// Deliveries taken since it started.
    pub received: i64,
    /// Callbacks it wrote to the ledger since.
    pub applied: i64,
    /// Duplicates it rejected since.
    pub duplicates: i64,
    /// Cases it made since.
    pub quarantined: i64,
    /// Accounts it decided again after a version conflict since.
    pub conflicts: i64,
    /// Deliveries settled per second over the interval before the last report.
    pub settled_per_second: f64,
    /// Latencies of that interval; those of several workers add up.
    #[sqlx(try_from = "Vec<i64>")]
    pub latency_buckets: Counted,
    /// For how long it had held its oldest delivery, in milliseconds.
    pub oldest_unsettled_ms: Option<i64>,
    /// The last failure that it went on after.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<OffsetDateTime>,
}

/// Keeps the report in place of the one before, and removes workers that have not reported for a day.
///
/// # Errors
/// [`StoreError`].
pub async fn report(connection: &mut PgConnection, report: &Report<'_>) -> Result<(), StoreError> {
    let Counts { received, applied, duplicates, quarantined, conflicts } = report.counts;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let (error, error_age) = report.last_error.clone().unzip();
    // Each worker writes its own row.
    sqlx::query(
        "insert into workers (name, version, started_at, report_ms, is_stopped, is_ready, redis_available, lanes, batch_size_max,
                              prefetch_count, received, applied, duplicates, quarantined, conflicts, interval_ms, settled,
                              latency_buckets, oldest_unsettled_ms, last_error, last_error_at)
         values ($1, $2, now() - make_interval(secs => $3), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                 $19, $20, now() - make_interval(secs => $21))
         on conflict (name) do update
         set (version, started_at, last_seen_at, report_ms, is_stopped, is_ready, redis_available, lanes, batch_size_max,
              prefetch_count, received, applied, duplicates, quarantined, conflicts, interval_ms, settled, latency_buckets,
              oldest_unsettled_ms, last_error, last_error_at)
           = (excluded.version, excluded.started_at, clock_timestamp(), excluded.report_ms, excluded.is_stopped,
              excluded.is_ready, excluded.redis_available, excluded.lanes, excluded.batch_size_max, excluded.prefetch_count,
              excluded.received, excluded.applied, excluded.duplicates, excluded.quarantined, excluded.conflicts,
              excluded.interval_ms, excluded.settled, excluded.latency_buckets, excluded.oldest_unsettled_ms,
              excluded.last_error, excluded.last_error_at)",
    )
    .bind(report.name)
    .bind(report.version)
    .bind(report.uptime.as_secs_f64())
    .bind(millis(report.pause))
    .bind(report.is_stopped)
    .bind(report.is_ready)
    .bind(report.redis_available)
    .bind(number(report.lanes))
    .bind(number(report.batch_size_max))
    .bind(i32::from(report.prefetch_count))
    .bind(count(received))
    .bind(count(applied))
    .bind(count(duplicates))
    .bind(count(quarantined))
    .bind(count(conflicts))
    .bind(millis(report.interval))
    .bind(count(report.latencies.total()))
    .bind(report.latencies.counts())
    .bind(report.oldest_unsettled.map(millis))
    .bind(error.as_deref().map(storable))
    .bind(error_age.map(|age| age.as_secs_f64()))
    .execute(&mut *connection)
    .await?;
    sqlx::query("select forget_silent_workers()").execute(&mut *connection).await?;
    Ok(())
}

/// Every worker that has reported within a day, those that are up first.
///
/// # Errors
/// [`StoreError`].
pub async fn list(connection: &mut PgConnection) -> Result<Vec<WorkerRow>, StoreError> {
    Ok(sqlx::query_as(
        "select *, not is_stopped and last_seen_at > now() - make_interval(secs => $1 * report_ms / 1000.0) as is_up,
                coalesce(settled * 1000.0 / nullif(interval_ms, 0), 0)::float8 as settled_per_second
         from workers
         where last_seen_at > now() - interval '1 day'
         order by is_up desc, started_at, name",
    )
    .bind(MISSED_MAX)
    .fetch_all(connection)
    .await?)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
