//! What must be so in the end: each order, each piece, each point and each cent, over three services and the ledger, by arithmetic of its own.

use anyhow::Context;
use sqlx::{Connection, PgConnection};

use crate::{
    Place,
    orders::Orders,
    points::CENTS_PER_POINT,
    run::{ITEMS, TOP_UP},
    step::Service,
};

/// How far all are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    open_orders: i64,
    unsent: i64,
    rows: i64,
    /// Rows that orders, stock and points have taken.
    taken: [i64; 3],
    /// Copies that they have dropped.
    copies: [i64; 3],
    waiting_cases: i64,
}

impl Progress {
    pub fn is_done(&self) -> bool {
        self.open_orders == 0
            && self.unsent == 0
            && self.waiting_cases == 0
            && self.taken.iter().all(|taken| *taken == self.rows)
    }

    /// Whether every service has met a copy of every row, at least.
    pub fn is_told_again(&self) -> bool {
        self.copies.iter().all(|copies| *copies >= self.rows)
    }
}

pub async fn progress(database: &mut PgConnection) -> anyhow::Result<Progress> {
    let row: (i64, i64, i64, Vec<i64>, Vec<i64>, i64) = sqlx::query_as(
        "select (select count(*) from shop_orders.orders where state in ('placed', 'authorized'))
                + (select count(*) from shop_stock.pieces where state = 'reserved')
                + (select count(*) from shop_stock.pieces p join shop_orders.orders o using (order_id)
                   where p.is_broken and o.state <> 'refunded'),
                (select count(*) from shop_orders.outbox) + (select count(*) from shop_stock.outbox)
                + (select count(*) from shop_points.outbox),
                (select count(*) from ledger),
                array[(select coalesce(sum(version), 0)::bigint from shop_orders.seen),
                      (select coalesce(sum(version), 0)::bigint from shop_stock.seen),
                      (select coalesce(sum(version), 0)::bigint from shop_points.seen)],
                array[(select coalesce(sum(copies), 0)::bigint from shop_orders.seen),
                      (select coalesce(sum(copies), 0)::bigint from shop_stock.seen),
                      (select coalesce(sum(copies), 0)::bigint from shop_points.seen)],
                (select count(*) from quarantine where state = 'waiting')",
    )
    .fetch_one(database)
    .await?;
    let (open_orders, unsent, rows, taken, copies, waiting_cases) = row;
    let of_three = |sums: Vec<i64>| <[i64; 3]>::try_from(sums).map_err(|_| anyhow::anyhow!("not three sums"));
    Ok(Progress {
        open_orders,
        unsent,
        rows,
        taken: of_three(taken)?,
        copies: of_three(copies)?,
        waiting_cases,
    })
}

/// What was found.
pub struct Found {
    /// For people.
    pub story: String,
    pub problems: Vec<String>,
}

/// Questions whose answer must be nothing, each with what it would mean.
const NEVER: [(&str, &str); 8] = [
    (
        "an order whose payment says otherwise",
        "select o.order_id || ': ' || o.state || ', ' || coalesce(p.captured, 0) || ' captured, ' || coalesce(p.refunded, 0) || ' refunded'
         from shop_orders.orders o left join payments p on p.payment_id = o.order_id
         where (o.state, coalesce(p.captured, 0), coalesce(p.refunded, 0)) not in
               (('paid', o.price, 0), ('cancelled', 0, 0), ('refunded', o.price, o.price))",
    ),
    (
        "an order whose piece says otherwise",
        "select o.order_id || ': ' || o.state || ', ' || coalesce(p.state, 'no piece')
         from shop_orders.orders o left join shop_stock.pieces p using (order_id)
         where (o.state, coalesce(p.state, 'no piece')) not in
               (('paid', 'shipped'), ('cancelled', 'no piece'), ('refunded', 'written_off'))",
    ),
    (
        "a cancelled order, though a piece was there",
        "select distinct o.item from shop_orders.orders o join shop_stock.items i using (item)
         where o.state = 'cancelled' and i.on_hand > 0",
    ),
    (
        "pieces that do not add up",
        "select i.item from shop_stock.items i
         where i.taken <> (select count(*) from shop_stock.pieces p where p.item = i.item)",
    ),
    (
        "money that is still held",
        "select account_id from accounts where held <> 0",
    ),
    (
        "a version that a service has not taken, or that is not there",
        "select a.account_id from accounts a
         left join shop_orders.seen o using (account_id) left join shop_stock.seen s using (account_id)
         left join shop_points.seen p using (account_id)
         where (a.version, a.version, a.version) is distinct from (o.version, s.version, p.version)",
    ),
    ("a fact that is in the ledger twice", "select operation_id from ledger group by operation_id having count(*) > 1"),
    // A hold that comes before its customer's top-up, whose worker was killed, waits for it.
    (
        "a case that nobody expected",
        "select reason from quarantine where reason not like 'waiting_for_%' or state <> 'replayed'",
    ),
];

pub async fn check(place: &Place, orders: u32) -> anyhow::Result<Found> {
    let mut database = PgConnection::connect(&place.database_url).await?;
    let mut problems = Vec::new();
    for (meaning, question) in NEVER {
        let found: Vec<String> = sqlx::query_scalar(question)
            .fetch_all(&mut database)
            .await
            .with_context(|| meaning.to_owned())?;
        problems.extend(found.into_iter().map(|one| format!("{meaning}: {one}")));
    }
    let states: Vec<(String, i64)> =
        sqlx::query_as("select state, count(*) from shop_orders.orders group by state order by state")
            .fetch_all(&mut database)
            .await?;
    let all: i64 = states.iter().map(|(_, count)| count).sum();
    if all != i64::from(orders) {
        problems.push(format!("{all} orders of {orders}"));
    }
    // Points and balances from the orders alone.
    let accounts: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "select a.account_id, a.balance, coalesce((select points from shop_points.points p where p.account_id = a.account_id), 0),
                coalesce((select sum(price)::bigint from shop_orders.orders o where o.account_id = a.account_id and o.state = 'paid'), 0)
         from accounts a",
    )
    .fetch_all(&mut database)
    .await?;
    for (account, balance, points, paid) in &accounts {
        if *balance != TOP_UP - paid {
            problems.push(format!("{account} has {balance}, and has paid {paid}"));
        }
        // Prices have whole points each, or not; points are given for each order.
        let expected: i64 = points_of(&mut database, account).await?;
        if *points != expected {
            problems.push(format!("{account} has {points} points in place of {expected}"));
        }
    }
    let copies: i64 =
        sqlx::query_scalar("select coalesce(sum(n), 0)::bigint from tallies where kind = 'duplicate'")
            .fetch_one(&mut database)
            .await?;
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let story = format!(
        "{} ({}); {copies} copies of callbacks rejected; {} items, {} accounts",
        Orders::NAME,
        states.join(", "),
        ITEMS.len(),
        accounts.len()
    );
    Ok(Found { story, problems })
}

async fn points_of(database: &mut PgConnection, account: &str) -> anyhow::Result<i64> {
    let prices: Vec<i64> =
        sqlx::query_scalar("select price from shop_orders.orders where account_id = $1 and state = 'paid'")
            .bind(account)
            .fetch_all(database)
            .await?;
    Ok(prices.iter().map(|price| price / CENTS_PER_POINT).sum())
}
