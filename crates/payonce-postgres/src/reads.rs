//! What applications ask: balances now and then, entries, payments, events (contract §10). Each look-up is by a key and returns a bounded number
//! of rows. Nothing here is decided on.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{StoreError, report::LedgerRow};

/// Rows of a payment or an event that are shown.
const ROWS_MAX: i64 = 100;

/// A balance, as of a version. Amounts are minor units.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Balance {
    /// The account.
    pub account_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What is there.
    pub balance: i64,
    /// What authorizations hold of it.
    pub held: i64,
    /// What may be spent: balance − held. Below zero: a debt.
    pub available: i64,
    /// What is owed: 0, or what available is below zero.
    pub debt: i64,
    /// One per ledger row.
    pub version: i64,
}

const BALANCE: &str = "account_id, currency, balance, held, balance - held as available, greatest(held - balance, 0) as debt, version";

/// These accounts as they are, those of them that are open, in the order of their ids.
///
/// # Errors
/// [`StoreError`].
pub async fn accounts(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<Balance>, StoreError> {
    let sql = format!("select {BALANCE} from accounts where account_id = any($1) order by account_id");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(ids).fetch_all(connection).await?)
}

/// An account after the last row that was recorded by `at`, by the database's clock. `None`: it was not open then.
///
/// # Errors
/// [`StoreError`].
pub async fn account_at(
    connection: &mut PgConnection,
    id: &str,
    at: OffsetDateTime,
) -> Result<Option<Balance>, StoreError> {
    // Versions are without a gap and times rise with them, so that halving finds the version in some twenty look-ups by the unique key,
    // where an index over time would cost the commit path another write per row.
    Ok(sqlx::query_as(
        "with recursive halving(low, high) as (
             select 0::bigint, version from accounts where account_id = $1
             union all
             select case when is_early then middle else low end, case when is_early then high else middle - 1 end
             from (select h.low, h.high, m.middle, l.recorded_at <= $2 as is_early
                   from halving h
                   cross join lateral (select (h.low + h.high + 1) / 2 as middle) m
                   join ledger l on l.account_id = $1 and l.account_version = m.middle
                   where h.low < h.high) as step
         )
         select account_id, currency, balance_after as balance, held_after as held, balance_after - held_after as available,
                greatest(held_after - balance_after, 0) as debt, account_version as version
         from ledger
         where account_id = $1 and account_version = (select low from halving where low = high)",
    )
    .bind(id)
    .bind(at)
    .fetch_optional(connection)
    .await?)
}

/// At most `rows_max` entries of an account that follow this version, oldest first. `None`: the account is not open.
///
/// # Errors
/// [`StoreError`].
pub async fn entries(
    connection: &mut PgConnection,
    account_id: &str,
    after_version: i64,
    rows_max: i64,
) -> Result<Option<Vec<LedgerRow>>, StoreError> {
    let rows: Vec<LedgerRow> = sqlx::query_as(
        "select * from ledger where account_id = $1 and account_version > $2 order by account_version limit $3",
    )
    .bind(account_id)
    .bind(after_version)
    .bind(rows_max)
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() && accounts(connection, &[account_id.to_owned()]).await?.is_empty() {
        return Ok(None);
    }
    Ok(Some(rows))
}

/// A payment, with its first entries. Amounts are minor units.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Payment {
    /// The provider.
    pub source: String,
    /// The provider's id of the payment.
    pub payment_id: String,
    /// The account.
    pub account_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// As in the table `payments`.
    pub state: String,
    /// What was authorized.
    pub authorized: i64,
    /// What was captured, or debited.
    pub captured: i64,
    /// What was given back.
    pub refunded: i64,
    /// Its ledger rows in the order they were recorded, at most 100.
    #[sqlx(skip)]
    pub entries: Vec<LedgerRow>,
}

/// `None`: nothing of it is applied.
///
/// # Errors
/// [`StoreError`].
pub async fn payment(
    connection: &mut PgConnection,
    source: &str,
    id: &str,
) -> Result<Option<Payment>, StoreError> {
    let found: Option<Payment> =
        sqlx::query_as("select * from payments where payment_id = $2 and source = $1")
            .bind(source)
            .bind(id)
            .fetch_optional(&mut *connection)
            .await?;
    let Some(mut payment) = found else { return Ok(None) };
    payment.entries = sqlx::query_as(
        "select * from ledger_of_payments where payment_id = $2 and source = $1 order by recorded_at, account_version limit $3",
    )
    .bind(source)
    .bind(id)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    Ok(Some(payment))
}

/// Where a callback ended.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// The provider.
    pub source: String,
    /// The provider's id of the event.
    pub event_id: String,
    /// Its ledger rows: none while it is not applied, two for a transfer.
    pub entries: Vec<LedgerRow>,
    /// Its cases, at most 100.
    pub cases: Vec<EventCase>,
}

/// A case without what only operators may see.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct EventCase {
    /// Its account, where it could be read.
    pub account_id: Option<String>,
    /// Why it is not applied.
    pub reason: String,
    /// `waiting`, `open`, `replayed` or `discarded`.
    pub state: String,
    /// When it first came.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen_at: OffsetDateTime,
}

/// `None`: nothing is known of it.
///
/// # Errors
/// [`StoreError`].
pub async fn event(
    connection: &mut PgConnection,
    source: &str,
    id: &str,
) -> Result<Option<Event>, StoreError> {
    let entries: Vec<LedgerRow> = sqlx::query_as(
        "select * from ledger where event_id = $2 and source = $1 order by account_version limit $3",
    )
    .bind(source)
    .bind(id)
    .bind(ROWS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let cases: Vec<EventCase> = sqlx::query_as(
        "select account_id, reason, state, first_seen_at from quarantine where event_id = $2 and source = $1 order by id limit $3",
    )
    .bind(source)
    .bind(id)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    if entries.is_empty() && cases.is_empty() {
        return Ok(None);
    }
    Ok(Some(Event { source: source.to_owned(), event_id: id.to_owned(), entries, cases }))
}

/// How far a standby is behind the primary at most, in milliseconds; `None`: this is the primary. One that is cut off from it does not know what
/// it misses: then the age of the last that it has, be it because nothing was written since.
///
/// # Errors
/// [`StoreError`].
pub async fn standby_lag_ms(connection: &mut PgConnection) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "select case when not pg_is_in_recovery() then null
                     when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() and exists (select from pg_stat_wal_receiver) then 0
                     else (extract(epoch from clock_timestamp() - coalesce(
                              pg_last_xact_replay_timestamp(), (select checkpoint_time from pg_control_checkpoint()))) * 1000)::bigint end",
    )
    .fetch_one(connection)
    .await?)
}
