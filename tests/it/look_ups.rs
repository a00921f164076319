//! A batch is looked up by its keys, whatever PostgreSQL believes about the tables.

use std::{sync::Arc, time::Duration};

use payonce::{
    ledger::DEPOSIT_ROWS_MAX,
    store::{self, Database},
    wire,
};
use sqlx::Connection;

use crate::support::{Event, SOURCE, World, eventually};

/// A database that was migrated, then analysed, then put to work: its statistics say that every table is empty.
async fn analysed_empty() -> World {
    let world = World::new().await;
    let mut connection = world.connect().await;
    sqlx::raw_sql("vacuum analyze").execute(&mut connection).await.expect("statistics of empty tables");
    connection.close().await.expect("closed");
    world
}

/// What `statement` counts, once the worker's sessions have ended: they report what they read when they do.
async fn rows_read(world: &World, statement: &'static str) -> i64 {
    eventually("workers' sessions", 0, || {
        world.number(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'payonce-it-worker'",
        )
    })
    .await;
    world.number(statement).await
}

/// A plan that trusts the statistics reads all of a table for each batch, which shows only when the table has grown.
#[tokio::test]
async fn tables_that_were_analysed_empty_are_still_looked_up_by_key() {
    const ACCOUNTS: usize = 2_000;
    let world = analysed_empty().await;
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
    // Load and guarded update of an account, a few rows of a payment; a full read per batch would be twenty times as many.
    let read = rows_read(
        &world,
        "select sum(idx_tup_fetch)::bigint from pg_stat_user_tables where relname in ('accounts', 'payments')",
    )
    .await;
    let callbacks = 2 * ACCOUNTS as i64;
    assert!((1..=4 * callbacks).contains(&read), "{read} rows read for {callbacks} callbacks");
    world.audit().await;
    world.close().await;
}

/// A lane keeps its plans for some batches. Those that it made while quarantine was empty look up its cases by key all the same.
#[tokio::test]
async fn plans_that_were_made_on_an_empty_quarantine_look_up_by_key() {
    const CASES: usize = 4_000;
    let world = analysed_empty().await;
    let cases: Vec<Event> = (0..CASES)
        .map(|n| {
            Event::payment("payment.succeeded", &format!("p{n}"), "nobody", &format!("pay{n}"), 1)
                .operation(&format!("op{n}"))
        })
        .collect();
    let worker = world.worker_with(&[("batch_size_max", "50"), ("lanes", "1")]).await;
    world.publish(&cases).await;
    world.settled(CASES as i64).await;
    worker.stop().await;
    let read = rows_read(
        &world,
        "select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'quarantine'",
    )
    .await;
    // No case is a copy, so nothing is found under any key; the newest case about the account is one entry a batch. A plan that reads all cases
    // of a provider for each key would read 2 000 entries for each.
    let most = CASES as i64;
    assert!((1..=most).contains(&read), "{read} index entries read for {CASES} cases");
    world.audit().await;
    world.close().await;
}

/// A provider that has one key for everything: what is read for each callback does not grow with those before it.
async fn a_constant_key_is_looked_up_in_constant_time(before: &[Event], of_one_key: &[Event]) {
    let world = analysed_empty().await;
    let worker = world.worker_with(&[("batch_size_max", "20"), ("lanes", "2")]).await;
    world.publish(before).await;
    world.settled(before.len() as i64).await;
    world.publish(of_one_key).await;
    world.settled((before.len() + of_one_key.len()) as i64).await;
    worker.stop().await;
    let read = rows_read(
        &world,
        "select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname in ('quarantine', 'ledger')",
    )
    .await;
    let cases = world.number("select count(*) from quarantine").await;
    assert!(cases >= of_one_key.len() as i64 - 1, "{cases} cases");
    // A few rows for each key, some of them twice where two lanes meet. Every case of the key, even once for each batch of 20, would be
    // 100 for each callback.
    let most = of_one_key.len() as i64 * 15;
    assert!((1..=most).contains(&read), "{read} index entries read for {} callbacks", of_one_key.len());
    world.audit().await;
    world.close().await;
}

const OF_ONE_KEY: i64 = 4_000;

fn fifty_accounts() -> Vec<Event> {
    (0..50).map(|n| Event::deposit(&format!("a{n}"), &format!("acct{n}"), 1_000)).collect()
}

#[tokio::test]
async fn one_operation_id_for_everything_costs_no_more_with_each_callback() {
    let constant: Vec<Event> = (0..OF_ONE_KEY)
        .map(|n| Event::deposit(&format!("b{n}"), &format!("acct{}", n % 50), 1 + n).operation("N/A"))
        .collect();
    a_constant_key_is_looked_up_in_constant_time(&fifty_accounts(), &constant).await;
}

#[tokio::test]
async fn one_event_id_for_everything_costs_no_more_with_each_callback() {
    let constant: Vec<Event> =
        (0..OF_ONE_KEY).map(|n| Event::deposit("N/A", &format!("acct{}", n % 50), 1 + n)).collect();
    a_constant_key_is_looked_up_in_constant_time(&fifty_accounts(), &constant).await;
}

#[tokio::test]
async fn one_unopened_account_for_everything_costs_no_more_with_each_callback() {
    let constant: Vec<Event> = (0..OF_ONE_KEY)
        .map(|n| Event::payment("payment.succeeded", &format!("b{n}"), "nobody", &format!("pay{n}"), 1 + n))
        .collect();
    a_constant_key_is_looked_up_in_constant_time(&[], &constant).await;
}

/// A provider that gives all deposits one payment id: what takes one back reads no more than so many rows, and then needs a person.
#[tokio::test]
async fn a_deposit_of_more_rows_than_are_read_is_taken_back_by_a_person_only() {
    let world = World::new().await;
    let fill = |rows: i64, payment_id: &'static str, account: &'static str| {
        format!(
            "insert into ledger (source, event_id, type, account_id, account_version, payment_id, operation_id, amount, currency,
                                 balance_delta, held_delta, balance_after, held_after, payload_sha256)
             select '{SOURCE}', '{account}' || n, 'deposit.succeeded', '{account}', n, '{payment_id}', '{account}' || n, 1, 'EUR',
                    1, 0, n, 0, sha256('') from generate_series(1, {rows}) n;
             insert into accounts (account_id, currency, balance, held, version) values ('{account}', 'EUR', {rows}, 0, {rows});"
        )
    };
    let filled = fill(DEPOSIT_ROWS_MAX, "all", "a") + &fill(DEPOSIT_ROWS_MAX + 1, "more", "b");
    sqlx::raw_sql(sqlx::AssertSqlSafe(filled)).execute(&mut world.connect().await).await.unwrap();
    let worker = world.worker().await;
    let refund = |id: &str, account: &str, payment: &str, amount| {
        Event::payment("deposit.refunded", id, account, payment, amount).operation(id)
    };
    world.publish(&[refund("r1", "a", "all", DEPOSIT_ROWS_MAX), refund("r2", "b", "more", 1)]).await;
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((0, 0, DEPOSIT_ROWS_MAX + 1)));
    assert_eq!(world.account("b").await, Some((DEPOSIT_ROWS_MAX + 1, 0, DEPOSIT_ROWS_MAX + 1)));
    let case = ("r2".to_owned(), "invalid_transition".to_owned(), "open".to_owned(), 1);
    assert_eq!(world.cases().await, [(Some(case.0), case.1, case.2, case.3)]);
    world.close().await;
}

/// Making a plan for each batch's values costs more than carrying it out, where batches are small.
#[tokio::test]
async fn a_lane_keeps_its_plans_for_some_batches() {
    let world = World::new().await;
    let database = Database::new(&world.database_url, "payonce-it", Duration::from_secs(10)).expect("a URL");
    let mut connection = store::Connection::new(Arc::new(database));
    let callbacks = [wire::decode(&Event::deposit("d1", "a1", 10).body()).expect("a callback")];
    for _ in 0..3 {
        connection.renew_plans(callbacks.len()).await.expect("PostgreSQL answers");
        connection
            .run(async |connection| store::load(connection, &callbacks).await)
            .await
            .expect("a snapshot");
    }
    let (kept, made_anew): (i64, i64) = connection
        .run(async |connection| {
            let sums =
                "select sum(generic_plans)::bigint, sum(custom_plans)::bigint from pg_prepared_statements";
            Ok(sqlx::query_as(sums).fetch_one(connection).await?)
        })
        .await
        .expect("the session's statements");
    assert!(kept > 0 && made_anew == 0, "{kept} plans kept, {made_anew} made for one batch");
    connection.close().await;
    world.close().await;
}
