//! The stock service decides. Money is held for an order: is a piece there, it is reserved and the money captured; is none there, the hold is
//! voided. When the captured order is packed, the piece may turn out to be broken: it is written off and the money refunded.

use sqlx::PgConnection;

use crate::{
    orders::item_of,
    outbox::{self, Callback},
    step::{Entry, Service},
};

/// Every so many pieces one is broken.
const BROKEN_EVERY: i64 = 7;

pub struct Stock;

impl Service for Stock {
    const NAME: &'static str = "stock";
    const TABLES: &'static str = "
        create table if not exists items (
            item text primary key, on_hand bigint not null check (on_hand >= 0), taken bigint not null default 0);
        create table if not exists pieces (
            order_id text primary key, item text not null references items, is_broken boolean not null,
            state text not null check (state in ('reserved', 'shipped', 'written_off')))";

    async fn step(transaction: &mut PgConnection, entry: &Entry) -> anyhow::Result<()> {
        let Some(order) = &entry.payment else { return Ok(()) };
        match entry.kind.as_str() {
            "payment.authorized" => {
                let (kind, act) = if reserve(transaction, order).await? {
                    ("payment.captured", "capture")
                } else {
                    // The compensation of a hold.
                    ("payment.voided", "void")
                };
                say(transaction, entry, order, kind, act).await
            }
            "payment.captured" => {
                if pack(transaction, order).await? {
                    return Ok(());
                }
                // The compensation of a capture.
                say(transaction, entry, order, "refund.succeeded", "refund").await
            }
            _ => Ok(()),
        }
    }
}

async fn say(
    transaction: &mut PgConnection,
    entry: &Entry,
    order: &str,
    kind: &str,
    act: &str,
) -> anyhow::Result<()> {
    let callback = Callback { kind, act, account: &entry.account, order: Some(order), amount: entry.amount };
    outbox::add(transaction, &callback).await
}

/// Takes a piece from the shelf, where one is there.
async fn reserve(transaction: &mut PgConnection, order: &str) -> anyhow::Result<bool> {
    let item = item_of(order)?;
    let taken: Option<i64> = sqlx::query_scalar(
        "update items set on_hand = on_hand - 1, taken = taken + 1 where item = $1 and on_hand > 0 returning taken",
    )
    .bind(item)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(taken) = taken else { return Ok(false) };
    sqlx::query("insert into pieces (order_id, item, is_broken, state) values ($1, $2, $3, 'reserved')")
        .bind(order)
        .bind(item)
        .bind(taken % BROKEN_EVERY == 0)
        .execute(transaction)
        .await?;
    Ok(true)
}

/// Packs the piece of an order that is paid. False: it is broken.
async fn pack(transaction: &mut PgConnection, order: &str) -> anyhow::Result<bool> {
    let is_broken: bool = sqlx::query_scalar(
        "update pieces set state = case when is_broken then 'written_off' else 'shipped' end
         where order_id = $1 and state = 'reserved' returning is_broken",
    )
    .bind(order)
    .fetch_one(transaction)
    .await?;
    Ok(!is_broken)
}

/// What is on the shelf when the shop opens.
pub async fn fill(database: &mut PgConnection, item: &str, pieces: i64) -> anyhow::Result<()> {
    sqlx::query("insert into items (item, on_hand) values ($1, $2)")
        .bind(item)
        .bind(pieces)
        .execute(database)
        .await?;
    Ok(())
}
