//! A batch is looked up by its keys, whatever PostgreSQL believes about the tables.

use sqlx::Connection;

use crate::support::{Event, World, eventually};

/// Statistics that say "empty" are those of a database that was migrated, then analysed, then put to work. A plan that trusts them
/// reads all of a table for each batch, which shows only when the table has grown.
#[tokio::test]
async fn tables_that_were_analysed_empty_are_still_looked_up_by_key() {
    const ACCOUNTS: usize = 2_000;
    let world = World::new().await;
    let mut connection = world.connect().await;
    sqlx::raw_sql("vacuum analyze").execute(&mut connection).await.expect("statistics of empty tables");
    connection.close().await.expect("closed");
    let deposits: Vec<Event> =
        (0..ACCOUNTS).map(|n| Event::deposit(&format!("d{n}"), &format!("a{n}"), 10)).collect();
    let debits: Vec<Event> = (0..ACCOUNTS)
        .map(|n| {
            Event::payment("payment.succeeded", &format!("p{n}"), &format!("a{n}"), &format!("pay{n}"), 1)
        })
        .collect();
    let worker = world.worker_with(&[("batch_size_max", "50"), ("lanes", "1")]).await;
    world.publish(&deposits).await;
    world.settled(ACCOUNTS as i64).await;
    world.publish(&debits).await;
    world.settled(2 * ACCOUNTS as i64).await;
    worker.stop().await;
    // A session reports what it read when it ends.
    eventually("workers' sessions", 0, || {
        world.number(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'payonce-it-worker'",
        )
    })
    .await;
    // Load and guarded update of an account, a few rows of a payment; a full read per batch would be twenty times as many.
    let read = world
        .number("select sum(idx_tup_fetch)::bigint from pg_stat_user_tables where relname in ('accounts', 'payments')")
        .await;
    let callbacks = 2 * ACCOUNTS as i64;
    assert!((1..=4 * callbacks).contains(&read), "{read} rows read for {callbacks} callbacks");
    world.audit().await;
    world.close().await;
}
