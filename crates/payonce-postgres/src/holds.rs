//! Holds whose time is up (`payments.expires_at`).

use sqlx::{PgConnection, Row, postgres::PgRow};
use time::OffsetDateTime;

use super::{
    StoreError,
    columns::{column, payment_key},
};
use payonce_ledger::{AccountId, Callback, Currency};

/// When a hold's time is up, and of which source and payment it is: the order in which they are looked at.
pub type ExpiresAt = (OffsetDateTime, String, String);

/// Holds whose time is up.
#[derive(Debug, Default)]
pub struct Due {
    /// What releases them.
    pub callbacks: Vec<Callback>,
    /// Why one of them could not be read: it is left out, until somebody has fixed its row.
    pub unreadable: Option<StoreError>,
    /// The last, where as many were found as were asked for: the next look goes on after it.
    pub last: Option<ExpiresAt>,
}

/// What releases the holds whose time is up by the database's clock, the oldest first, at most `limit`; those after `after` where it is given.
///
/// # Errors
/// [`StoreError`].
pub async fn due(
    connection: &mut PgConnection,
    after: Option<&ExpiresAt>,
    limit: i64,
) -> Result<Due, StoreError> {
    let rows = sqlx::query(
        "select source, payment_id, account_id, currency, expires_at from payments
         where state = 'authorized' and expires_at <= clock_timestamp()
           and (expires_at, source, payment_id) > (coalesce($2, '-infinity'::timestamptz), $3, $4)
         order by expires_at, source, payment_id limit $1",
    )
    .bind(limit)
    .bind(after.map(|(at, ..)| *at))
    .bind(after.map_or("", |(_, source, _)| source))
    .bind(after.map_or("", |(.., payment_id)| payment_id))
    .fetch_all(connection)
    .await?;
    let mut due = Due::default();
    for row in &rows {
        match expiry(row) {
            Ok(callback) => due.callbacks.push(callback),
            Err(cause) => due.unreadable = Some(cause),
        }
    }
    if let Some(row) = rows.last().filter(|_| rows.len() as i64 == limit) {
        due.last = Some((row.try_get("expires_at")?, row.try_get("source")?, row.try_get("payment_id")?));
    }
    Ok(due)
}

fn expiry(row: &PgRow) -> Result<Callback, StoreError> {
    let expires_at: OffsetDateTime = row.try_get("expires_at")?;
    // The column was written from microseconds.
    let expires_at_us = i64::try_from(expires_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
    let account_id = column(row, "account_id", |text| AccountId::new(text).ok())?;
    let currency = column(row, "currency", Currency::parse)?;
    Ok(Callback::expiry(&payment_key(row)?, &account_id, currency, expires_at_us))
}
