//! The statement of one account over days: what it had before, each of its ledger rows, what it had after. Every look-up is by the key of the
//! ledger, so that it costs as much as it shows. Booked by `recorded_at`: versions follow that time, not the provider's. What must not live here:
//! sums over accounts (`finance`), and how it is printed.

use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use time::{Date, Duration, OffsetDateTime};

use super::{
    StoreError,
    finance::{self, Bounds},
    reads::{self, Balance},
    report::LedgerRow,
};

/// What an account had at a moment. Amounts are minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// What was there.
    pub balance: i64,
    /// What authorizations held of it.
    pub held: i64,
    /// What could be spent: balance − held. Below zero: a debt.
    pub available: i64,
    /// How many ledger rows it had.
    pub version: i64,
}

impl From<Balance> for Standing {
    fn from(found: Balance) -> Self {
        let Balance { balance, held, available, version, .. } = found;
        Self { balance, held, available, version }
    }
}

/// A ledger row, with what could be spent after it.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The row.
    #[serde(flatten)]
    pub row: LedgerRow,
    /// Minor units: `balance_after` − `held_after`.
    pub available_after: i64,
}

/// An account over days.
#[derive(Debug, Clone, Serialize)]
pub struct Statement {
    /// The account.
    pub account_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The first moment of the first day.
    #[serde(with = "time::serde::rfc3339")]
    pub begins: OffsetDateTime,
    /// The first moment after the last day.
    #[serde(with = "time::serde::rfc3339")]
    pub ends: OffsetDateTime,
    /// Whether it may have more rows when it is made again: the last day has not been over for [`finance::SETTLED_AFTER_S`].
    pub preliminary: bool,
    /// Before the first day.
    pub opening: Standing,
    /// After the last day, or as yet.
    pub closing: Standing,
    /// How many rows the days have, whether or not they are in `entries`.
    pub entries_total: i64,
    /// The rows in their order, those that were asked for.
    pub entries: Vec<Entry>,
}

/// The statement of an account from the first day to the last, in a time zone that [`finance::is_time_zone`] knows, in one snapshot: at most
/// `entries_max` rows of those that follow `after_version`. `None`: nothing has opened the account.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Refused`] for a time zone that PostgreSQL does not know.
pub async fn statement(
    connection: &mut PgConnection,
    account_id: &str,
    days: (Date, Date),
    time_zone: &str,
    after_version: i64,
    entries_max: i64,
) -> Result<Option<Statement>, StoreError> {
    let mut transaction = connection.begin_with("begin isolation level repeatable read read only").await?;
    let Some(account) = reads::accounts(&mut transaction, &[account_id.to_owned()]).await?.pop() else {
        return Ok(None);
    };
    let Bounds { begins, ends, preliminary, .. } =
        finance::bounds(&mut transaction, days, time_zone, None).await?;
    let opening = standing_before(&mut transaction, account_id, begins).await?;
    let closing = standing_before(&mut transaction, account_id, ends).await?;
    let rows: Vec<LedgerRow> = sqlx::query_as(
        "select * from ledger where account_id = $1 and account_version > $2 and account_version <= $3
         order by account_version limit $4",
    )
    .bind(account_id)
    .bind(opening.version.max(after_version))
    .bind(closing.version)
    .bind(entries_max)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    let entry =
        |row: LedgerRow| Entry { available_after: row.balance_after.saturating_sub(row.held_after), row };
    Ok(Some(Statement {
        account_id: account.account_id,
        currency: account.currency,
        begins,
        ends,
        preliminary,
        opening,
        closing,
        entries_total: closing.version.saturating_sub(opening.version),
        entries: rows.into_iter().map(entry).collect(),
    }))
}

/// What an account had just before this moment; nothing before its first row.
async fn standing_before(
    connection: &mut PgConnection,
    account_id: &str,
    at: OffsetDateTime,
) -> Result<Standing, StoreError> {
    // The database's times are whole microseconds.
    let just_before = at.saturating_sub(Duration::MICROSECOND);
    let found = reads::account_at(connection, account_id, just_before).await?;
    Ok(found.map(Standing::from).unwrap_or_default())
}
