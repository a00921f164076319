//! SIGTERM drains; SIGKILL loses and doubles nothing. That it does so at every step of a batch is what `crash_points` is about.

use payonce::broker;
use tokio::process::Child;

use crate::support::{Event, World, eventually};

const CALLBACKS: i64 = 6_000;

fn events() -> Vec<Event> {
    (0..CALLBACKS).map(|n| Event::deposit(&format!("e{n}"), &format!("a{}", n % 100), 1)).collect()
}

const SETTINGS: [&str; 4] = ["--batch-size-max", "20", "--prefetch-count", "400"];

async fn all_applied_once(world: &World) {
    assert_eq!(world.number("select sum(balance)::bigint from accounts").await, CALLBACKS);
    assert_eq!(world.number("select count(*) from ledger").await, CALLBACKS);
    world.audit().await;
}

fn signal(child: &Child, name: &str) {
    let id = child.id().expect("the worker runs").to_string();
    let status = std::process::Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
    assert!(status.success());
}

#[tokio::test]
async fn sigterm_finishes_started_batches_and_gives_the_rest_back() {
    let world = World::new().await;
    world.publish(&events()).await;
    let mut worker = world.worker_process(&SETTINGS);
    world.settled(1).await;
    signal(&worker, "TERM");
    let status = worker.wait().await.unwrap();
    assert!(status.success(), "a drained worker ends with exit code 0, not {status}");
    let applied = world.number("select count(*) from ledger").await;
    assert!(applied < CALLBACKS, "the worker was stopped in the middle");
    let second = world.worker().await;
    eventually("all callbacks applied", CALLBACKS, || world.number("select count(*) from ledger")).await;
    second.stop().await;
    // The broker gets the acks of all that was committed, also of what lies behind a batch that was not started. It may drop a
    // few of the last when the channel closes; a lane that never sent its acks leaves whole batches.
    let again: i64 = world.duplicates().await.iter().map(|(_, copies)| copies).sum();
    assert!(again < 20, "{again} of {applied} committed callbacks came again");
    all_applied_once(&world).await;
    world.close().await;
}

#[tokio::test]
async fn sigkill_with_deliveries_in_hand_loses_and_doubles_nothing() {
    let world = World::new().await;
    world.publish(&events()).await;
    let queue = world.names().queue;
    // Each worker dies with deliveries in hand; the next one takes what the broker delivers again.
    for applied in [1, 1_000, 2_000, 3_000] {
        let mut worker = world.worker_process(&SETTINGS);
        eventually("the worker has got so far", true, || async {
            world.number("select count(*) from ledger").await >= applied
        })
        .await;
        // While it is stopped it neither takes nor acknowledges anything: what the queue gets back is what it had.
        signal(&worker, "STOP");
        let ready = world.ready_messages(&queue).await;
        worker.kill().await.unwrap();
        eventually("the broker takes back what it had delivered", true, || async {
            world.ready_messages(&queue).await > ready
        })
        .await;
    }
    let worker = world.worker().await;
    eventually("all callbacks applied", CALLBACKS, || world.number("select count(*) from ledger")).await;
    worker.stop().await;
    all_applied_once(&world).await;
    eventually("the queue is empty", 0, || world.ready_messages(&queue)).await;
    world.close().await;
}

#[tokio::test]
async fn a_worker_comes_back_when_its_queue_is_deleted() {
    let world = World::new().await;
    let worker = world.worker_with(&[("retry_delay_max_ms", "100")]).await;
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(world.names().queue.into(), Default::default()).await.unwrap();
    // The broker cancels the consumer; the worker declares the queue again and goes on. Until then nothing is bound.
    let event = Event::deposit("e1", "a", 100);
    let publisher = broker::Publisher::open(&connection, &world.names()).await.unwrap();
    eventually("the queue is bound again", true, || async {
        publisher.publish("a", &event.body()).await.unwrap().wait().await.is_ok()
    })
    .await;
    world.settled(1).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    world.close().await;
}
