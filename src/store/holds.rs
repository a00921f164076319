//! Holds whose time is up (`payments.expires_at`).

use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use super::{
    StoreError,
    columns::{column, payment_key},
};
use crate::ledger::{AccountId, Callback, Currency};

/// What releases the holds whose time is up by the database's clock, the oldest first, at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn due(connection: &mut PgConnection, limit: i64) -> Result<Vec<Callback>, StoreError> {
    let rows = sqlx::query(
        "select source, payment_id, account_id, currency, expires_at from payments
         where state = 'authorized' and expires_at <= clock_timestamp()
         order by expires_at limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let expires_at: OffsetDateTime = row.try_get("expires_at")?;
            // The column was written from microseconds.
            let expires_at_us = i64::try_from(expires_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
            let account_id = column(row, "account_id", |text| AccountId::new(text).ok())?;
            let currency = column(row, "currency", Currency::parse)?;
            Ok(Callback::expiry(&payment_key(row)?, &account_id, currency, expires_at_us))
        })
        .collect()
}
