//! The order service: an order is placed and its money asked for; what the feed tells of its payment is what becomes of it.

use anyhow::Context;
use sqlx::{Connection, PgConnection};

use crate::{
    outbox::{self, Callback},
    step::{Entry, Service},
};

pub struct Orders;

impl Service for Orders {
    const NAME: &'static str = "orders";
    const TABLES: &'static str = "
        create table if not exists orders (
            order_id text primary key, account_id text not null, item text not null, price bigint not null,
            state text not null check (state in ('placed', 'authorized', 'paid', 'cancelled', 'refunded')))";

    async fn step(transaction: &mut PgConnection, entry: &Entry) -> anyhow::Result<()> {
        let (Some(order), Some((from, to))) = (&entry.payment, change(&entry.kind)) else { return Ok(()) };
        let changed = sqlx::query("update orders set state = $3 where order_id = $1 and state = $2")
            .bind(order)
            .bind(from)
            .bind(to)
            .execute(transaction)
            .await?;
        // Per account the feed keeps the order of versions, so that nothing comes before what it follows.
        anyhow::ensure!(changed.rows_affected() == 1, "order {order} is not {from}, so it cannot be {to}");
        Ok(())
    }
}

/// From which state to which an order goes by a ledger row of its payment.
fn change(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "payment.authorized" => Some(("placed", "authorized")),
        "payment.captured" => Some(("authorized", "paid")),
        "payment.voided" => Some(("authorized", "cancelled")),
        "refund.succeeded" => Some(("paid", "refunded")),
        _ => None,
    }
}

/// A customer tops the account up.
pub async fn top_up(database: &mut PgConnection, account: &str, amount: i64) -> anyhow::Result<()> {
    let callback = Callback { kind: "deposit.succeeded", act: "top-up", account, order: None, amount };
    outbox::add(database, &callback).await
}

/// A customer orders one piece: the order and the request for its money in one transaction. `copies`: how often the request is sent.
pub async fn place(
    database: &mut PgConnection,
    number: u32,
    account: &str,
    item: &str,
    price: i64,
    copies: u32,
) -> anyhow::Result<()> {
    let order = format!("order-{number}/{item}");
    let mut transaction = database.begin().await?;
    sqlx::query(
        "insert into orders (order_id, account_id, item, price, state) values ($1, $2, $3, $4, 'placed')",
    )
    .bind(&order)
    .bind(account)
    .bind(item)
    .bind(price)
    .execute(&mut *transaction)
    .await?;
    for _ in 0..copies {
        let callback = Callback {
            kind: "payment.authorized",
            act: "authorize",
            account,
            order: Some(&order),
            amount: price,
        };
        outbox::add(&mut transaction, &callback).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// What an order is about. A real shop would ask its order service; here its id says so.
pub fn item_of(order: &str) -> anyhow::Result<&str> {
    order.split_once('/').map(|(_, item)| item).with_context(|| format!("order {order} names no item"))
}
