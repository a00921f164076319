//! Every copy is rejected, and counted by its detection layer.

use payonce::store;

use crate::support::{Event, RunningWorker, World, eventually};

/// Batches that close when they have this size, long before the linger ends.
fn batches_of(size: &str) -> [(&'static str, &str); 2] {
    [("batch_size_max", size), ("batch_linger_ms", "10000")]
}

#[tokio::test]
async fn a_copy_in_the_same_batch_is_rejected_by_the_batch() {
    let world = World::new().await;
    let worker = world.worker_with(&batches_of("3")).await;
    // A lane takes its first callback as it comes, and lets the next batch fill.
    world.publish(&[Event::deposit("e0", "a", 1)]).await;
    world.settled(1).await;
    world
        .publish(&[
            Event::deposit("e1", "a", 100),
            Event::deposit("e1", "a", 100),
            Event::deposit("e1", "a", 100),
        ])
        .await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((101, 0, 2)));
    assert_eq!(world.duplicates().await, [("batch".to_owned(), 2)]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_copy_of_a_committed_callback_is_rejected_by_its_done_marker() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    // Acknowledged means remembered: the marker is written before the ack.
    worker.stop().await;
    let worker = world.worker_with(&batches_of("2")).await;
    world.publish(&[Event::deposit("e0", "a", 1)]).await;
    world.settled(2).await;
    world.publish(&[Event::deposit("e1", "a", 100), Event::deposit("e1", "a", 100)]).await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((101, 0, 2)));
    assert_eq!(world.duplicates().await, [("batch".to_owned(), 1), ("redis".to_owned(), 1)]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_copy_that_redis_forgot_is_rejected_by_the_ledger() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    worker.stop().await;
    forget(&world, "e1").await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    let worker = world.worker().await;
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    assert_eq!(world.duplicates().await, [("ledger".to_owned(), 1)]);
    world.audit().await;
    world.close().await;
}

/// Redis takes such copies for new, so a worker first decides as if the ledger did not have them. By that the copy of the debit is an
/// invalid transition, the copy of the late deposit is applied, and the copy of the case is no copy.
#[tokio::test]
async fn copies_that_redis_forgot_are_known_whatever_else_would_become_of_them() {
    let world = World::new().await;
    let settled = [
        Event::deposit("e1", "a", 100),
        Event::payment("payment.succeeded", "e2", "a", "p2", 60),
        Event::payment("payment.succeeded", "e3", "a", "p3", 60),
        Event::payment("payment.authorized", "e4", "a", "p4", 10),
        Event::payment("payment.voided", "e5", "a", "p4", 10),
        Event::payment("payment.captured", "e6", "a", "p6", 1),
    ];
    // One worker to a batch, in the order of the queue: they are about one account.
    let worker = world.worker().await;
    world.publish(&settled).await;
    world.settled(6).await;
    worker.stop().await;
    let cases = |attempts| {
        [("e3", "insufficient_funds", "open"), ("e6", "waiting_for_payment", "waiting")]
            .map(|(id, reason, state)| (Some(id.to_owned()), reason.to_owned(), state.to_owned(), attempts))
    };
    assert_eq!(world.cases().await, cases(1));
    for id in ["e1", "e2", "e3", "e4", "e5", "e6"] {
        forget(&world, id).await;
    }
    // One by one, and first those that no unique key of the ledger would stop: a violation lets the next batches look everything up.
    let mut again = settled.to_vec();
    again.rotate_left(1);
    again.push(Event::deposit("e7", "a", 1));
    world.publish(&again).await;
    let worker = world.worker_with(&[("batch_size_max", "1"), ("lanes", "1")]).await;
    world.settled(13).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((41, 0, 5)));
    assert_eq!(world.cases().await, cases(2));
    assert_eq!(world.duplicates().await, [("ledger".to_owned(), 4), ("quarantine".to_owned(), 2)]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn two_events_of_one_operation_move_money_once() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100).operation("op")]).await;
    world.settled(1).await;
    world.publish(&[Event::deposit("e2", "a", 100).operation("op")]).await;
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    assert_eq!(world.duplicates().await, [("operation".to_owned(), 1)]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_copy_of_a_quarantined_callback_only_raises_its_attempts() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::payment("payment.succeeded", "e1", "nobody", "p", 100)]).await;
    world.settled(1).await;
    world.publish(&[Event::payment("payment.succeeded", "e1", "nobody", "p", 100)]).await;
    world.settled(2).await;
    worker.stop().await;
    let case = (Some("e1".to_owned()), "unknown_account".to_owned(), "open".to_owned(), 2);
    assert_eq!(world.cases().await, [case]);
    assert_eq!(world.duplicates().await, [("quarantine".to_owned(), 1)]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn the_story_of_an_event_names_the_copies_that_followed() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(2).await;
    worker.stop().await;
    let mut connection = world.connect().await;
    let story = store::report::event(&mut connection, "/providers/test", "e1")
        .await
        .unwrap()
        .expect("it was settled");
    assert_eq!(story.applied.expect("it is applied").account_version, 1);
    assert_eq!(story.duplicates.iter().map(|row| row.copies).sum::<i64>(), 1);
    assert!(store::report::event(&mut connection, "/providers/test", "other").await.unwrap().is_none());
    world.close().await;
}

/// A marker rejects a copy only where the ledger has its row: here the table is emptied behind payonce's back, as by a restore, and the
/// provider sends again.
#[tokio::test]
async fn a_marker_whose_row_is_gone_does_not_swallow_a_payment() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    worker.stop().await;
    restore_to_nothing(&world).await;
    let worker = world.worker().await;
    is_applied_when_sent_again(world, worker).await;
}

/// The same under a worker that runs, with nothing between the marker and the copy that could make it doubt Redis.
#[tokio::test]
async fn a_running_worker_looks_for_the_row_before_it_believes_a_marker() {
    let world = World::new().await;
    let worker = world.worker_with(&[("lanes", "1")]).await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    let marker = world.redis_key("e1");
    let mut redis = world.redis().await;
    eventually("the done marker", true, || {
        let (mut redis, marker) = (redis.clone(), marker.clone());
        async move {
            let value: Option<Vec<u8>> =
                redis::cmd("GET").arg(&marker).query_async(&mut redis).await.unwrap();
            value.is_some_and(|value| value.starts_with(b"done:"))
        }
    })
    .await;
    restore_to_nothing(&world).await;
    let is_there: bool = redis::cmd("EXISTS").arg(&marker).query_async(&mut redis).await.unwrap();
    assert!(is_there, "the marker outlives its row");
    is_applied_when_sent_again(world, worker).await;
}

/// What the database has forgotten is new to it.
async fn is_applied_when_sent_again(world: World, worker: RunningWorker) {
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    world.audit().await;
    world.close().await;
}

/// As a restore of a backup from before everything would.
async fn restore_to_nothing(world: &World) {
    let restore = "alter table ledger disable trigger ledger_append_only;
                   truncate ledger, accounts, tallies;
                   alter table ledger enable trigger ledger_append_only";
    sqlx::raw_sql(restore).execute(&mut world.connect().await).await.unwrap();
}

/// Deletes what Redis knows of an event, by its name: looking for it among millions of keys would hold up every other test.
async fn forget(world: &World, event_id: &str) {
    let mut redis = world.redis().await;
    let forgotten: u32 = redis::cmd("DEL")
        .arg(world.redis_key(event_id))
        .query_async(&mut redis)
        .await
        .expect("Redis answers");
    assert_eq!(forgotten, 1, "there was something to forget");
}
