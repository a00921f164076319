//! What a service has to say: a callback to payonce, stored in the transaction of its cause, sent after that, signed as a provider's. Killed in
//! between, it is sent again under the same id, and payonce rejects the copy. What must not live here: why something is said.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use payonce::{
    broker::{Names, Publisher},
    keys::Keyring,
};
use serde_json::json;
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::Place;

/// The shop as a provider of callbacks.
pub const SOURCE: &str = "/providers/shop";
pub const CURRENCY: &str = "EUR";
/// Callbacks of one look.
const PAGE_ROWS_MAX: i64 = 100;

/// Something to say of an order, or of an account where there is no order.
pub struct Callback<'a> {
    pub kind: &'a str,
    /// What is done; with the order it makes the ids, so that the same fact always has the same ids.
    pub act: &'a str,
    pub account: &'a str,
    pub order: Option<&'a str>,
    /// Minor units.
    pub amount: i64,
}

/// Stores it, to be sent once the transaction is committed.
pub async fn add(transaction: &mut PgConnection, callback: &Callback<'_>) -> anyhow::Result<()> {
    let event_id = format!("{}-{}", callback.act, callback.order.unwrap_or(callback.account));
    let mut data = json!({ "operation_id": event_id, "amount": callback.amount, "currency": CURRENCY });
    if let Some(order) = callback.order {
        data["payment_id"] = order.into();
    }
    let body = json!({
        "specversion": "1.0", "id": event_id, "source": SOURCE, "type": callback.kind, "subject": callback.account,
        "time": OffsetDateTime::now_utc().format(&Rfc3339)?, "datacontenttype": "application/json", "data": data,
    });
    sqlx::query("insert into outbox (account_id, event_id, body) values ($1, $2, $3)")
        .bind(callback.account)
        .bind(&event_id)
        .bind(body.to_string())
        .execute(transaction)
        .await?;
    Ok(())
}

/// Sends what is stored.
pub struct Outbox {
    publisher: Publisher,
    keyring: Keyring,
}

impl Outbox {
    pub async fn open(connection: &lapin::Connection, place: &Place) -> anyhow::Result<Self> {
        let publisher = Publisher::open(connection, &Names::new(&place.prefix)).await?;
        Ok(Self { publisher, keyring: Keyring::load(&place.keys_file, true)? })
    }

    /// Sends all that is stored in this service's outbox, and forgets what the broker has confirmed.
    pub async fn send(&mut self, database: &mut PgConnection) -> anyhow::Result<()> {
        loop {
            let rows: Vec<(i64, String, String, String)> =
                sqlx::query_as("select id, account_id, event_id, body from outbox order by id limit $1")
                    .bind(PAGE_ROWS_MAX)
                    .fetch_all(&mut *database)
                    .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let (mut ids, mut confirms) = (Vec::new(), Vec::new());
            for (id, account, event_id, body) in rows {
                let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let signed = self.keyring.sign(SOURCE, &event_id, now_s, body.as_bytes());
                let headers = signed.map_err(anyhow::Error::msg)?.context("the shop has no key")?;
                confirms.push(self.publisher.publish_signed(&account, body.as_bytes(), &headers).await?);
                ids.push(id);
            }
            for confirm in confirms {
                confirm.wait().await?;
            }
            sqlx::query("delete from outbox where id = any($1)").bind(&ids).execute(&mut *database).await?;
        }
    }
}
