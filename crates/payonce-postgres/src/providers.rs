//! What the counts and cases say of each provider, by the CloudEvents source of its callbacks: when it was last heard of, how much came
//! compared with a week ago, what could not be mapped. Only reads. What must not live here: what the edge itself counts.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::StoreError;

/// Sources that are listed.
pub const SOURCES_MAX: i64 = 1_000;
/// The newest open cases of reason `unmapped` that are looked at to name the kinds of their events.
pub const UNMAPPED_READ_MAX: i64 = 10_000;
/// Kinds of all sources that are listed.
const KINDS_MAX: i64 = 1_000;

/// One source, by what its callbacks became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct SourceRow {
    /// The CloudEvents source.
    pub source: String,
    /// The beginning of the minute in which a callback of it was last settled (of the hour, or day, where counts are kept so); `None`: not
    /// within eight days.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_settled_at: Option<OffsetDateTime>,
    /// Callbacks settled in the last 24 hours, duplicates included.
    pub received_day: i64,
    /// Of these, rejected duplicates.
    pub duplicates_day: i64,
    /// Of these, those that reported an operation that another event id had reported.
    pub same_operation_day: i64,
    /// New cases in the last 24 hours.
    pub quarantined_day: i64,
    /// Callbacks settled in the last hour that is over, by UTC.
    pub received_hour: i64,
    /// In the same hour a week before.
    pub received_hour_last_week: i64,
}

/// Every source that has a name in the counts, in order, at most [`SOURCES_MAX`].
///
/// # Errors
/// [`StoreError`].
pub async fn sources(connection: &mut PgConnection) -> Result<Vec<SourceRow>, StoreError> {
    Ok(sqlx::query_as(
        "with hour as (
             select date_bin('1 hour', now(), timestamptz 'epoch') as ends_at
         ),
         known as (
             select source from tally_totals where source not in ('', 'other')
             union
             select source from tallies where grain = 'lane' and kind in ('applied', 'released') and source <> ''
         ),
         lately as (
             select source, kind, label, minute, grain, n from tallies
             where minute >= now() - interval '8 days' and grain <> 'total' and kind <> 'released'
         )
         select k.source, max(t.minute) as last_settled_at,
                coalesce(sum(t.n) filter (where d.is_in), 0)::bigint as received_day,
                coalesce(sum(t.n) filter (where d.is_in and t.kind = 'duplicate'), 0)::bigint as duplicates_day,
                coalesce(sum(t.n) filter (where d.is_in and t.kind = 'duplicate' and t.label = 'operation'), 0)::bigint
                    as same_operation_day,
                coalesce(sum(t.n) filter (where d.is_in and t.kind = 'quarantined'), 0)::bigint as quarantined_day,
                coalesce(sum(t.n) filter (where t.grain <> 'day' and t.minute >= h.ends_at - interval '1 hour'
                                            and t.minute < h.ends_at), 0)::bigint as received_hour,
                coalesce(sum(t.n) filter (where t.grain <> 'day' and t.minute >= h.ends_at - interval '169 hours'
                                            and t.minute < h.ends_at - interval '168 hours'), 0)::bigint
                    as received_hour_last_week
         from known k
         cross join hour h
         left join lately t on t.source = k.source
         cross join lateral (select t.minute >= now() - interval '24 hours' as is_in) d
         group by k.source order by k.source limit $1",
    )
    .bind(SOURCES_MAX)
    .fetch_all(connection)
    .await?)
}

/// Open cases of one kind of event that the ingress could not map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct UnmappedKind {
    /// The CloudEvents source.
    pub source: String,
    /// The provider's name of the kind of event; empty where the case does not say it.
    pub event: String,
    /// How many open cases.
    pub cases: i64,
    /// The newest of them.
    pub newest_case: i64,
    /// When one of them last came.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
}

/// The kinds of events among the newest [`UNMAPPED_READ_MAX`] open cases of reason `unmapped`, the most frequent first.
///
/// # Errors
/// [`StoreError`].
pub async fn unmapped(connection: &mut PgConnection) -> Result<Vec<UnmappedKind>, StoreError> {
    // The case's detail is written by `wire`: `PATH, event "KIND": why`.
    Ok(sqlx::query_as(
        r#"select source, event, count(*) as cases, max(id) as newest_case, max(last_seen_at) as last_seen_at
           from (select id, source, last_seen_at,
                        coalesce(substring(detail from '^[^"]*, event "((?:[^"\\]|\\.)*)": '), '') as event
                 from quarantine
                 where state = 'open' and reason = 'unmapped' and source <> ''
                 order by id desc limit $1) newest
           group by source, event order by cases desc, source, event limit $2"#,
    )
    .bind(UNMAPPED_READ_MAX)
    .bind(KINDS_MAX)
    .fetch_all(connection)
    .await?)
}
