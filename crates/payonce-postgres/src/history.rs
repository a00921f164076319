//! What became of callbacks, over time: rows of `tallies` on their way from minutes to hours, days and one total, and the
//! questions people ask of them. Sums over any closed time are what really happened: a batch counts in its own transaction, and
//! rows are added up in one statement, so a SIGKILL at any moment costs nothing here.

use std::time::Duration;

use serde::Serialize;
use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;

use super::{StoreError, case_sums, report::TotalRow};

/// How long counts are kept, and how fine.
#[derive(Debug, Clone, Copy)]
pub struct HistoryConfig {
    /// By the minute.
    pub minutes_kept: Duration,
    /// By the hour.
    pub hours_kept: Duration,
    /// By the day; then as one total.
    pub days_kept: Duration,
    /// Rejected duplicates, one by one; then per key and layer.
    pub duplicates_kept: Duration,
    /// Sources that history names.
    pub sources_max: usize,
}

/// Rows that one statement adds up at most, so that it stays far below any deadline.
const ROLL_UP_MAX: i64 = 5_000;

/// A lane's minute is added up when it has been over so long. A transaction that began in it and is still open counts into a new row,
/// which is added up next time.
const LANE_KEPT: Duration = Duration::from_secs(120);

/// Of those who would add up at once, one does. Any number that no other program on this database uses.
const ROLL_UP_LOCK: i64 = 0x7061_796f_6e63_6502;

/// The newest duplicates that the look for repeated keys reads: in less than 100 ms on a busy machine.
const DUPLICATES_READ_MAX: i64 = 50_000;

/// Adds up what is old enough, a bounded part of it, and returns how many rows that took: 0 means that nothing is left, or that a
/// concurrent writer is at it. Any number of processes may call this at any time.
///
/// # Errors
/// [`StoreError`]; nothing is half done then.
pub async fn roll_up(connection: &mut PgConnection, config: &HistoryConfig) -> Result<u64, StoreError> {
    let mut transaction = connection.begin().await?;
    let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(ROLL_UP_LOCK)
        .fetch_one(&mut *transaction)
        .await?;
    let mut moved = 0;
    if is_ours {
        moved += add_up_lanes(&mut transaction, config.sources_max).await?;
        for (from, to, kept) in [
            ("minute", "hour", config.minutes_kept),
            ("hour", "day", config.hours_kept),
            ("day", "total", config.days_kept),
        ] {
            moved += add_up(&mut transaction, from, to, kept).await?;
        }
        moved += add_up_duplicates(&mut transaction, config.duplicates_kept).await?;
        // New ones come all the time: fewer than a statement takes are no reason to begin again at once.
        let cases = case_sums::add_up(&mut transaction, ROLL_UP_MAX).await?;
        moved += if cases == ROLL_UP_MAX { cases.unsigned_abs() } else { 0 };
    }
    transaction.commit().await?;
    Ok(moved)
}

/// Rows of lanes to rows of minutes, and into the totals. A source keeps its name once a callback of it was applied, as long as there
/// is room; the others are counted together as `other`, because whoever may write to the queue can invent names without end.
async fn add_up_lanes(transaction: &mut PgConnection, sources_max: usize) -> Result<u64, StoreError> {
    let moved: i64 = sqlx::query_scalar("select add_up_lanes(make_interval(secs => $1), $2, $3)")
        .bind(LANE_KEPT.as_secs_f64())
        .bind(ROLL_UP_MAX)
        .bind(i64::try_from(sources_max).unwrap_or(i64::MAX))
        .fetch_one(transaction)
        .await?;
    Ok(moved.unsigned_abs())
}

/// Rows of one grain to rows of the next, once they are older than `kept`.
async fn add_up(
    transaction: &mut PgConnection,
    from: &str,
    to: &str,
    kept: Duration,
) -> Result<u64, StoreError> {
    let moved: i64 = sqlx::query_scalar("select add_up_counts($1, $2, make_interval(secs => $3), $4)")
        .bind(from)
        .bind(to)
        .bind(kept.as_secs_f64())
        .bind(ROLL_UP_MAX)
        .fetch_one(transaction)
        .await?;
    Ok(moved.unsigned_abs())
}

/// Rejected duplicates that are older than `kept`, per key and layer.
async fn add_up_duplicates(transaction: &mut PgConnection, kept: Duration) -> Result<u64, StoreError> {
    let moved: i64 = sqlx::query_scalar("select add_up_duplicates(make_interval(secs => $1), $2)")
        .bind(kept.as_secs_f64())
        .bind(ROLL_UP_MAX)
        .fetch_one(transaction)
        .await?;
    Ok(moved.unsigned_abs())
}

/// What all workers have counted since the first day, to the last commit. Sources as in [`series`]; those that have a name for good
/// come first.
///
/// # Errors
/// [`StoreError`].
pub async fn totals(connection: &mut PgConnection) -> Result<Vec<TotalRow>, StoreError> {
    Ok(sqlx::query_as(
        "with lanes as (
             select kind, source, label, sum(n) as n from tallies where grain = 'lane' group by kind, source, label
         ),
         known as (select distinct source from tally_totals),
         named as (
             table known union select source from lanes where kind in ('applied', 'released') union select ''
         ),
         counted as (
             select kind, source, label, n from tally_totals
             union all
             select kind, case when source in (table named) then source else 'other' end, label, n from lanes
         )
         select kind, source, label, sum(n)::bigint as n from counted
         group by kind, source, label
         order by source not in (table known), kind, source, label",
    )
    .fetch_all(connection)
    .await?)
}

/// How many callbacks of one outcome in one stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Bucket {
    /// When the stretch begins.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `applied`, `duplicate`, `quarantined` or `released`.
    pub kind: String,
    /// The provider; empty where it could not be read; `other` for those beyond the limit. `None` where sources were not asked for.
    pub source: Option<String>,
    /// Type, layer or reason.
    pub label: String,
    /// How many.
    pub n: i64,
}

/// Counts from `from` (included) to `to` (not included), in stretches of `step`, oldest first; a stretch without any is left out.
/// `step`: whole minutes. Stretches begin at multiples of it since 1970 (UTC), and `from` is taken down to the beginning of its own.
/// Of one source, where `only` names it. Where minutes were added up to hours or days already, all of these are in the stretch where the hour or day begins.
///
/// # Errors
/// [`StoreError`].
pub async fn series(
    connection: &mut PgConnection,
    from: OffsetDateTime,
    to: OffsetDateTime,
    step: Duration,
    by_source: bool,
    only: Option<&str>,
) -> Result<Vec<Bucket>, StoreError> {
    let step_s = (step.as_secs() / 60).max(1) * 60;
    Ok(sqlx::query_as(
        "select date_bin(make_interval(secs => $3), minute, timestamptz 'epoch') as at, kind,
                case when $4 then source end as source, label, sum(n)::bigint as n
         from tallies
         where minute >= date_bin(make_interval(secs => $3), $1, timestamptz 'epoch') and minute < $2 and grain <> 'total'
           and ($5::text is null or source = $5)
         group by 1, 2, 3, 4
         order by 1, 2, 3, 4",
    )
    .bind(from)
    .bind(to)
    .bind(Duration::from_secs(step_s).as_secs_f64())
    .bind(by_source)
    .bind(only)
    .fetch_all(connection)
    .await?)
}

/// How many callbacks of one outcome lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Recent {
    /// `applied`, `duplicate`, `quarantined` or `released`.
    pub kind: String,
    /// Type, layer or reason.
    pub label: String,
    /// In the last minute that is over.
    pub one_minute: i64,
    /// In the last five minutes that are over.
    pub five_minutes: i64,
}

/// Counts of the last one and five minutes that are over, by the database's clock. Divided by 60 and 300 they are rates per second.
///
/// # Errors
/// [`StoreError`].
pub async fn recent(connection: &mut PgConnection) -> Result<Vec<Recent>, StoreError> {
    Ok(sqlx::query_as(
        "select kind, label, sum(n)::bigint as five_minutes,
                coalesce(sum(n) filter (where minute >= date_trunc('minute', now()) - interval '1 minute'), 0)::bigint
                    as one_minute
         from tallies
         where minute >= date_trunc('minute', now()) - interval '5 minutes' and minute < date_trunc('minute', now())
           and grain in ('lane', 'minute')
         group by kind, label
         order by kind, label",
    )
    .fetch_all(connection)
    .await?)
}

/// Counts from `from` (included) to `to` (not included) by (kind, source, label), sources as in [`Bucket`].
///
/// # Errors
/// [`StoreError`].
pub async fn sums(
    connection: &mut PgConnection,
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> Result<Vec<TotalRow>, StoreError> {
    Ok(sqlx::query_as(
        "select kind, source, label, sum(n)::bigint as n from tallies
         where minute >= $1 and minute < $2 and grain <> 'total'
         group by kind, source, label",
    )
    .bind(from)
    .bind(to)
    .fetch_all(connection)
    .await?)
}

/// How many callbacks of one outcome today, and in an hour beside the same one a week ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Lately {
    /// `applied`, `duplicate`, `quarantined` or `released`.
    pub kind: String,
    /// Since midnight, by UTC.
    pub today: i64,
    /// In the last hour that is over, by UTC.
    pub hour: i64,
    /// In the same hour a week before.
    pub hour_last_week: i64,
}

/// Today's counts, by the database's clock; what has none is left out.
///
/// # Errors
/// [`StoreError`].
pub async fn lately(connection: &mut PgConnection) -> Result<Vec<Lately>, StoreError> {
    Ok(sqlx::query_as(
        "with moment as (
             select date_bin('1 day', now(), timestamptz 'epoch') as today, date_bin('1 hour', now(), timestamptz 'epoch') as ends_at
         )
         select kind, coalesce(sum(n) filter (where minute >= today), 0)::bigint as today,
                coalesce(sum(n) filter (where minute >= ends_at - interval '1 hour' and minute < ends_at), 0)::bigint as hour,
                coalesce(sum(n) filter (where minute < ends_at - interval '168 hours'), 0)::bigint as hour_last_week
         from moment, lateral (
             select kind, minute, n from tallies
             where minute >= least(today, ends_at - interval '1 hour') and grain in ('lane', 'minute', 'hour')
             union all
             select kind, minute, n from tallies
             where minute >= ends_at - interval '169 hours' and minute < ends_at - interval '168 hours'
               and grain in ('lane', 'minute', 'hour')) counted
         group by kind",
    )
    .fetch_all(connection)
    .await?)
}

/// A key whose copies were rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct RepeatedKey {
    /// The provider.
    pub source: String,
    /// The provider's id of the event.
    pub event_id: String,
    /// Duplicates rejected, ever.
    pub copies: i64,
    /// When the first of them was.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen_at: OffsetDateTime,
    /// When the last of them was.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
}

/// Keys with the most copies among the newest 50 000 rows of rejected duplicates since `since`, at most `limit`; their counts and times are
/// over all time.
///
/// # Errors
/// [`StoreError`].
pub async fn repeated_keys(
    connection: &mut PgConnection,
    since: OffsetDateTime,
    limit: i64,
) -> Result<Vec<RepeatedKey>, StoreError> {
    Ok(sqlx::query_as(
        "select k.source, k.event_id, d.copies, d.first_seen_at, d.last_seen_at
         from (select source, event_id, sum(copies) as copies, max(seen_at) as last_seen_at
               from (select source, event_id, copies, seen_at from duplicates
                     where seen_at >= $2 order by seen_at desc limit $1) newest
               group by source, event_id
               order by copies desc, last_seen_at desc
               limit $3) k
         cross join lateral (
             select sum(copies)::bigint as copies, min(first_seen_at) as first_seen_at, max(last_seen_at) as last_seen_at
             from duplicates_of_keys where event_id = k.event_id and source = k.source offset 0) d
         order by d.copies desc, d.last_seen_at desc, k.source, k.event_id",
    )
    .bind(DUPLICATES_READ_MAX)
    .bind(since)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}
