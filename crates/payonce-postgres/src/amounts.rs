//! Looks for money by its amount and when it came, without knowing whose it is: ledger rows and cases. What must not live here: search by ids.

use serde::Serialize;
use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    report::{CaseRow, LedgerRow, case_row},
};
use payonce_ledger::Currency;

/// Rows of the ledger that one search reads: about 0.1 s. No index on amounts is kept, which would cost every callback.
pub const ROWS_READ_MAX: i64 = 200_000;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Minor units, just these.
    pub amount: i64,
    /// Its currency.
    pub currency: Currency,
    /// Recorded, or first seen as a case, at this time or later; `None`: two days before `until`.
    pub since: Option<OffsetDateTime>,
    /// Before this time; `None`: now.
    pub until: Option<OffsetDateTime>,
}

/// What was found, the oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct Sightings {
    /// From when on it was looked.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// Rows of the ledger.
    pub entries: Vec<LedgerRow>,
    /// Cases in any state but `replayed`, which are in the ledger.
    pub cases: Vec<CaseRow>,
    /// There are more of one than were asked for.
    pub has_more: bool,
    /// The range has more than [`ROWS_READ_MAX`] rows of the ledger: of these, those up to about this time were read.
    #[serde(with = "time::serde::rfc3339::option")]
    pub read_until: Option<OffsetDateTime>,
}

#[derive(FromRow)]
struct Read {
    since: OffsetDateTime,
    until: OffsetDateTime,
    rows: i64,
    last_place: Option<String>,
    places: Option<Vec<String>>,
}

/// At most `limit` rows of the ledger and as many cases.
///
/// # Errors
/// [`StoreError`].
pub async fn find(
    connection: &mut PgConnection,
    wanted: Wanted,
    limit: i64,
) -> Result<Sightings, StoreError> {
    let Wanted { amount, currency, since, until } = wanted;
    // Places of rows stay what they are while this snapshot is open.
    let mut transaction = connection.begin_with("begin isolation level repeatable read read only").await?;
    // By the summaries of `ledger_recorded_at`, whatever share of the table PostgreSQL believes the range to be.
    sqlx::raw_sql("set local enable_seqscan = off; set local enable_indexscan = off")
        .execute(&mut *transaction)
        .await?;
    // `max` of places: the last one in the order in which they are read.
    let read: Read = sqlx::query_as(
        "with range as (
             select coalesce($3, coalesce($4, now()) - interval '2 days') as since, coalesce($4, now()) as until
         )
         select since, until, rows, last_place, places
         from range, lateral (
             select count(*) as rows, max(place)::text as last_place,
                    (array_agg(place::text) filter (where amount = $1 and currency = $2 and leg = 0))[1:$6] as places
             from (select ctid as place, recorded_at, amount, currency, leg from ledger
                   where recorded_at >= since and recorded_at < until limit $5) looked) counted",
    )
    .bind(amount)
    .bind(currency.as_str())
    .bind(since)
    .bind(until)
    .bind(ROWS_READ_MAX + 1)
    .bind(i32::try_from(limit.saturating_add(1)).unwrap_or(i32::MAX))
    .fetch_one(&mut *transaction)
    .await?;
    let last_place = read.last_place.as_deref().filter(|_| read.rows > ROWS_READ_MAX);
    let read_until = match last_place {
        Some(last_place) => read_until(&mut transaction, last_place, &read).await?,
        None => None,
    };
    sqlx::raw_sql("set local enable_seqscan = on; set local enable_indexscan = on")
        .execute(&mut *transaction)
        .await?;
    let mut entries: Vec<LedgerRow> = match read.places {
        None => Vec::new(),
        Some(places) => {
            sqlx::query_as(
                "select source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency,
                        balance_delta, held_delta, balance_after, held_after, occurred_at, recorded_at
                 from ledger where ctid = any($1::text[]::tid[]) order by recorded_at, event_id",
            )
            .bind(places)
            .fetch_all(&mut *transaction)
            .await?
        }
    };
    let mut cases: Vec<CaseRow> = sqlx::query_as(concat!(
        "select ",
        case_row!(),
        " from quarantine
         where amount = $1 and currency = $2 and first_seen_at >= $3 and first_seen_at < $4 and state <> 'replayed'
         order by id limit $5"
    ))
    .bind(amount)
    .bind(currency.as_str())
    .bind(read.since)
    .bind(read.until)
    .bind(limit.saturating_add(1))
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = entries.len() > limit || cases.len() > limit;
    entries.truncate(limit);
    cases.truncate(limit);
    Ok(Sightings { since: read.since, until: read.until, entries, cases, has_more, read_until })
}

/// The time of the oldest row on the page that was read last: what was not read is younger, but for what other writers wrote at the same moment. Not the
/// youngest row that was read: a page whose rows were rolled back is filled later with rows that are as young as any.
async fn read_until(
    transaction: &mut PgConnection,
    last_place: &str,
    read: &Read,
) -> Result<Option<OffsetDateTime>, StoreError> {
    let page = last_place.trim_start_matches('(').split(',').next().unwrap_or_default();
    Ok(sqlx::query_scalar(
        "select min(recorded_at) from ledger
         where ctid >= $1::text::tid and ctid <= $2::text::tid and recorded_at >= $3 and recorded_at < $4",
    )
    .bind(format!("({page},0)"))
    .bind(last_place)
    .bind(read.since)
    .bind(read.until)
    .fetch_one(transaction)
    .await?)
}
