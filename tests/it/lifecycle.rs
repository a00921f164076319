//! Holds, captures, voids and refunds, in any order, over separate transactions.

use crate::support::{Event, World};

/// Publishes one by one, each settled before the next: the order of the batches is the order of the arguments.
async fn one_by_one(world: &World, events: &[Event]) {
    let worker = world.worker().await;
    let before =
        world.number("select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'").await;
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(before + n as i64 + 1).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_is_applied_with_the_event_it_waited_for() {
    let world = World::new().await;
    let mut last_capture = Event::payment("payment.captured", "c2", "a", "p", 20);
    last_capture.is_final = true;
    let events = [
        Event::deposit("d", "a", 1_000),
        Event::payment("refund.succeeded", "r1", "a", "p", 25),
        last_capture,
        Event::payment("payment.captured", "c1", "a", "p", 30),
        Event::payment("payment.authorized", "auth", "a", "p", 100),
    ];
    one_by_one(&world, &events).await;
    assert_eq!(world.account("a").await, Some((975, 0, 5)));
    assert!(
        world.cases().await.iter().all(|(.., state, _)| state == "replayed"),
        "{:?}",
        world.cases().await
    );
    let payment: (String, i64, i64, i64) =
        sqlx::query_as("select state, authorized, captured, refunded from payments")
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap();
    assert_eq!(payment, ("captured".to_owned(), 100, 50, 25));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_void_before_its_authorization_leaves_a_tombstone() {
    let world = World::new().await;
    let events = [
        Event::deposit("d", "a", 1_000),
        Event::payment("payment.voided", "v", "a", "p", 100),
        Event::payment("payment.authorized", "auth", "a", "p", 100),
        Event::payment("payment.captured", "c", "a", "p", 100),
    ];
    one_by_one(&world, &events).await;
    assert_eq!(
        world.account("a").await,
        Some((900, 0, 4)),
        "the hold is not held; the capture counts whenever it comes"
    );
    assert_eq!(world.cases().await, []);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn two_waiting_events_of_one_operation_capture_once() {
    let world = World::new().await;
    let capture = |id: &str| Event::payment("payment.captured", id, "a", "p", 40).operation("op");
    let events = [
        Event::deposit("d", "a", 1_000),
        capture("c1"),
        capture("c2"),
        Event::payment("payment.authorized", "auth", "a", "p", 100),
    ];
    one_by_one(&world, &events).await;
    assert_eq!(world.account("a").await, Some((960, 60, 3)));
    assert_eq!(world.duplicates().await, [("operation".to_owned(), 1)]);
    world.audit().await;
    world.close().await;
}
