//! A database of an older release is brought up to date with what is in it.

use std::collections::BTreeSet;

use payonce::{
    ledger::{AccountStatus, CaseState, Layer, PaymentState, Reason},
    store, wire,
};
use sqlx::Connection as _;

use crate::support::{Event, SOURCE, World};

/// Schema 13 did not bind deposits without an operation id, so two may have one payment id.
#[tokio::test]
async fn two_deposits_with_one_payment_id_stay_and_their_twins_are_credited_no_more() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(&mut connection).await.unwrap();
    let mut before = sqlx::migrate!();
    before.migrations.to_mut().retain(|migration| migration.version < 14);
    before.run(&mut connection).await.unwrap();
    let deposit = |id: &str, amount| Event::payment("deposit.succeeded", id, "a", "order-1", amount);
    // The payment id of the last is the operation id of another.
    let older = [
        deposit("first", 100),
        deposit("second", 100),
        deposit("third", 70),
        Event::payment("deposit.succeeded", "named", "a", "order-3", 20).operation("order-2"),
        Event::payment("deposit.succeeded", "unnamed", "a", "order-2", 5),
    ];
    let mut balance = 0;
    for (n, event) in older.iter().enumerate() {
        balance += event.amount;
        let version = n as i64 + 1;
        sqlx::query(
            "insert into ledger (source, event_id, type, account_id, account_version, payment_id, operation_id, amount, currency,
                                 balance_delta, held_delta, balance_after, held_after, payload_sha256)
             values ($1, $2, 'deposit.succeeded', 'a', $3, $4, $5, $6, 'EUR', $6, 0, $7, 0, $8)",
        )
        .bind(SOURCE)
        .bind(&event.id)
        .bind(version)
        .bind(&event.payment)
        .bind(&event.operation)
        .bind(event.amount)
        .bind(balance)
        .bind(&wire::decode(&event.body()).unwrap().fingerprint.0[..])
        .execute(&mut connection)
        .await
        .unwrap();
    }
    sqlx::raw_sql(
        "insert into accounts (account_id, currency, balance, held, version) values ('a', 'EUR', 295, 0, 5);
         insert into tallies (minute, writer, kind, source, label, n)
             values (date_trunc('minute', now()), 'older', 'applied', '/providers/test', 'deposit.succeeded', 5)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    store::migrate(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    world.audit().await;

    // Redis has heard of none of them.
    let worker = world.worker().await;
    let twins = [deposit("twin", 100), Event { id: "other".to_owned(), ..older[3].clone() }];
    world.publish(&[&older[..], &twins].concat()).await;
    world.settled(12).await;
    assert_eq!(world.account("a").await, Some((295, 0, 5)));
    assert_eq!(world.duplicates().await, [("ledger".to_owned(), 5), ("operation".to_owned(), 2)]);
    // What takes it back is bounded by all that came.
    world.publish(&[Event::payment("deposit.refunded", "back", "a", "order-1", 270).operation("back")]).await;
    world.settled(13).await;
    assert_eq!(world.account("a").await, Some((25, 0, 6)));
    assert_eq!(world.cases().await, []);
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// What the code can say of a state, reason or layer the schema takes, and nothing else.
#[tokio::test]
async fn the_closed_lists_of_the_schema_are_those_of_the_code() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let layers: BTreeSet<&str> = Layer::ALL.iter().map(|layer| layer.as_str()).collect();
    // A payment that is only expected has no row.
    let stored = PaymentState::ALL.iter().filter(|state| **state != PaymentState::Expected);
    let lists: [(&str, BTreeSet<&str>); 6] = [
        ("quarantine_reason_check", Reason::ALL.iter().map(|reason| reason.as_str()).collect()),
        ("quarantine_state_check", CaseState::ALL.iter().map(|state| state.as_str()).collect()),
        ("payments_state_check", stored.map(|state| state.as_str()).collect()),
        ("accounts_status_check", AccountStatus::ALL.iter().map(|status| status.as_str()).collect()),
        ("duplicates_layer_check", layers.clone()),
        ("duplicate_sums_layer_check", layers),
    ];
    for (name, expected) in lists {
        let definition: String =
            sqlx::query_scalar("select pg_get_constraintdef(oid) from pg_constraint where conname = $1")
                .bind(name)
                .fetch_one(&mut connection)
                .await
                .expect(name);
        // Texts in SQL stand between quotes: every second piece is one.
        let found: BTreeSet<&str> = definition.split('\'').skip(1).step_by(2).collect();
        assert_eq!(found, expected, "{name}");
    }
    world.close().await;
}
