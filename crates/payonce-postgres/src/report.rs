//! Read-only questions that people ask: about one event, one account, one payment. Nothing here is decided on.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    audit_log::{self, CaseAct},
    references,
};

/// Lines of the audit log about the cases of one event.
const ACTS_MAX: i64 = 100;

/// A ledger row, as operators see it. Amounts are minor units.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct LedgerRow {
    /// The provider.
    pub source: String,
    /// The provider's id of the event.
    pub event_id: String,
    /// Which side of the callback: 0, and 1 for the receiving side of a transfer.
    pub leg: i16,
    /// What it reported.
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: String,
    /// The account.
    pub account_id: String,
    /// The account's version after it.
    pub account_version: i64,
    /// The payment, where it has one.
    pub payment_id: Option<String>,
    /// The money movement, where the provider named it.
    pub operation_id: Option<String>,
    /// How much it was about.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// Change of the balance.
    pub balance_delta: i64,
    /// Change of what is held.
    pub held_delta: i64,
    /// The balance after it.
    pub balance_after: i64,
    /// What was held after it.
    pub held_after: i64,
    /// When it happened, by the provider's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub occurred_at: Option<OffsetDateTime>,
    /// When it was written, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub recorded_at: OffsetDateTime,
}

/// A quarantine row without its body.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct CaseRow {
    /// The case.
    pub id: i64,
    /// The provider, where it could be read.
    pub source: Option<String>,
    /// The provider's id of the event, where it could be read.
    pub event_id: Option<String>,
    /// Why.
    pub reason: String,
    /// The detail.
    pub detail: String,
    /// `waiting`, `open`, `replayed` or `discarded`.
    pub state: String,
    /// How often it came.
    pub attempts: i32,
    /// First time.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen_at: OffsetDateTime,
    /// Last time.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub resolved_at: Option<OffsetDateTime>,
    /// Who ended it.
    pub resolved_by: Option<String>,
    /// Why it ended.
    pub resolved_why: Option<String>,
    /// Type of the callback; null in all that follow where the message could not be decoded.
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The account.
    pub account_id: Option<String>,
    /// The payment.
    pub payment_id: Option<String>,
    /// The money movement.
    pub operation_id: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// The person who works on it; null: nobody.
    pub assignee: Option<String>,
}

/// The columns of [`CaseRow`].
macro_rules! case_row {
    () => {
        "id, source, event_id, reason, detail, state, attempts, first_seen_at, last_seen_at, resolved_at, resolved_by, resolved_why, \
         type, account_id, payment_id, operation_id, amount, currency, assignee"
    };
}
pub(super) use case_row;

/// Copies of one event that one layer rejected.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct DuplicateRow {
    /// `batch`, `redis`, `ledger`, `operation` or `quarantine`.
    pub layer: String,
    /// How many.
    pub copies: i64,
    /// First time.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen_at: OffsetDateTime,
    /// Last time.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
}

/// The whole story of one callback.
#[derive(Debug, Clone, Serialize)]
pub struct EventStory {
    /// The provider.
    pub source: String,
    /// The provider's id of the event.
    pub event_id: String,
    /// Its ledger row, if it is applied.
    pub applied: Option<LedgerRow>,
    /// Its cases; several where one key came with several contents.
    pub quarantined: Vec<CaseRow>,
    /// What people did to its cases, oldest first; of more than 100 lines of the audit log the newest.
    pub acts: Vec<CaseAct>,
    /// The copies that followed it.
    pub duplicates: Vec<DuplicateRow>,
    /// What else it is found by, by name: order, customer.
    pub references: BTreeMap<String, Vec<String>>,
}

/// An account and its last entries.
#[derive(Debug, Clone, Serialize)]
pub struct AccountStory {
    /// The account.
    pub account_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Minor units.
    pub balance: i64,
    /// Minor units that authorizations hold.
    pub held: i64,
    /// Minor units that may be spent: balance − held. Below zero: a debt.
    pub available: i64,
    /// Minor units owed: 0, or what available is below zero.
    pub debt: i64,
    /// `open`, `frozen` or `closed`.
    pub status: String,
    /// One per ledger row.
    pub version: i64,
    /// Newest first.
    pub entries: Vec<LedgerRow>,
}

/// A line of the counts, over all workers and all time.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct TotalRow {
    /// `applied`, `duplicate`, `quarantined` or `released`.
    pub kind: String,
    /// The provider; empty where it could not be read.
    pub source: String,
    /// Type, layer or reason.
    pub label: String,
    /// How many.
    pub n: i64,
}

/// Where one callback ended, when, and which copies followed. `None`: it was never seen.
///
/// # Errors
/// [`StoreError`].
pub async fn event(
    connection: &mut PgConnection,
    source: &str,
    event_id: &str,
) -> Result<Option<EventStory>, StoreError> {
    let applied: Option<LedgerRow> = sqlx::query_as(
        "select source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency, balance_delta,
                held_delta, balance_after, held_after, occurred_at, recorded_at
         from ledger where source = $1 and event_id = $2 order by leg limit 1",
    )
    .bind(source)
    .bind(event_id)
    .fetch_optional(&mut *connection)
    .await?;
    let quarantined: Vec<CaseRow> = sqlx::query_as(concat!(
        "select ",
        case_row!(),
        " from quarantine where source = $1 and event_id = $2 order by id"
    ))
    .bind(source)
    .bind(event_id)
    .fetch_all(&mut *connection)
    .await?;
    let cases: Vec<i64> = quarantined.iter().map(|case| case.id).collect();
    let acts = match cases[..] {
        [] => Vec::new(),
        _ => audit_log::of_cases(connection, &cases, ACTS_MAX).await?,
    };
    let duplicates: Vec<DuplicateRow> = sqlx::query_as(
        "select layer, sum(copies)::bigint as copies, min(first_seen_at) as first_seen_at, max(last_seen_at) as last_seen_at
         from duplicates_of_keys where source = $1 and event_id = $2 group by layer order by min(first_seen_at), layer",
    )
    .bind(source)
    .bind(event_id)
    .fetch_all(&mut *connection)
    .await?;
    if applied.is_none() && quarantined.is_empty() && duplicates.is_empty() {
        return Ok(None);
    }
    let references = references::of_event(connection, source, event_id).await?;
    Ok(Some(EventStory {
        source: source.to_owned(),
        event_id: event_id.to_owned(),
        applied,
        quarantined,
        acts,
        duplicates,
        references,
    }))
}

/// An account with its last `entries_max` entries that have a version smaller than `before`. `None`: nothing has opened it.
///
/// # Errors
/// [`StoreError`].
pub async fn account(
    connection: &mut PgConnection,
    account_id: &str,
    before: i64,
    entries_max: i64,
) -> Result<Option<AccountStory>, StoreError> {
    let found: Option<(String, i64, i64, i64, String)> =
        sqlx::query_as("select currency, balance, held, version, status from accounts where account_id = $1")
            .bind(account_id)
            .fetch_optional(&mut *connection)
            .await?;
    let Some((currency, balance, held, version, status)) = found else { return Ok(None) };
    // Only up to the version read above, so that balance and entries belong together beside running workers.
    let entries: Vec<LedgerRow> = sqlx::query_as(
        "select source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency, balance_delta,
                held_delta, balance_after, held_after, occurred_at, recorded_at
         from ledger where account_id = $1 and account_version <= $2 and account_version < $3
         order by account_version desc limit $4",
    )
    .bind(account_id)
    .bind(version)
    .bind(before)
    .bind(entries_max)
    .fetch_all(&mut *connection)
    .await?;
    let available = balance.saturating_sub(held);
    Ok(Some(AccountStory {
        account_id: account_id.to_owned(),
        currency,
        balance,
        held,
        available,
        debt: available.saturating_neg().max(0),
        status,
        version,
        entries,
    }))
}

/// The newest cases about an account, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn cases_of_account(
    connection: &mut PgConnection,
    account_id: &str,
    limit: i64,
) -> Result<Vec<CaseRow>, StoreError> {
    Ok(sqlx::query_as(concat!(
        "select ",
        case_row!(),
        " from quarantine where account_id = $1 order by id desc limit $2"
    ))
    .bind(account_id)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}
