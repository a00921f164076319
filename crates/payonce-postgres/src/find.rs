//! Finds what an id belongs to. Each look-up is by the leading column of an index, and takes at most so many rows.

use sqlx::PgConnection;

use super::StoreError;

/// Things that go by one id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// (source, event id) of callbacks that were applied, quarantined, or rejected.
    pub events: Vec<(String, String)>,
    /// (source, payment id).
    pub payments: Vec<(String, String)>,
    /// Account ids.
    pub accounts: Vec<String>,
}

impl Found {
    /// How many things.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len() + self.payments.len() + self.accounts.len()
    }

    /// Nothing goes by this id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that goes by `id`: as an event, an operation, a payment or an account; at most `limit` of each.
///
/// # Errors
/// [`StoreError`].
pub async fn find(connection: &mut PgConnection, id: &str, limit: i64) -> Result<Found, StoreError> {
    // Before the union each part is limited by itself: ids are chosen by whoever writes to the queue, who may use one a million times.
    let events = sqlx::query_as(
        "(select source, event_id from ledger where event_id = $1 limit $2)
         union (select source, event_id from quarantine where event_id = $1 and source is not null limit $2)
         union (select source, event_id from ledger where operation_id = $1 limit $2)
         union (select source, event_id from quarantine
                where operation_id = $1 and source is not null and event_id is not null limit $2)
         order by 1, 2 limit $2",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let payments = sqlx::query_as(
        "(select source, payment_id from payments where payment_id = $1 limit $2)
         union (select source, payment_id from quarantine where payment_id = $1 and source is not null limit $2)
         order by 1, 2 limit $2",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let accounts = sqlx::query_scalar(
        "select account_id from accounts where account_id = $1
         union (select account_id from quarantine where account_id = $1 limit 1)",
    )
    .bind(id)
    .fetch_all(&mut *connection)
    .await?;
    Ok(Found { events, payments, accounts })
}
