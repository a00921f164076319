//! What the broker takes off the queue: decided like any other callback, once more if a worker ended over it, and never lost.

use lapin::{BasicProperties, options::BasicPublishOptions};
use payonce::broker;
use tokio::process::Child;

use crate::support::{Event, World, eventually};

/// Publishes to an exchange with these properties, and waits for the confirm.
async fn publish(world: &World, exchange: &str, routing_key: &str, body: &[u8], properties: BasicProperties) {
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(Default::default()).await.unwrap();
    let options = BasicPublishOptions::default();
    let confirm =
        channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await.unwrap();
    confirm.await.unwrap();
}

async fn dead(world: &World, count: u32) {
    let queue = world.names().dead_queue;
    eventually("dead letters", count, || world.ready_messages(&queue)).await;
}

fn case(event: Option<&str>, reason: &str, state: &str) -> (Option<String>, String, String, i32) {
    (event.map(str::to_owned), reason.to_owned(), state.to_owned(), 1)
}

/// Runs a worker that dies where it is told to.
async fn dies_at(world: &World, point: &str) {
    let mut command = world.program(&["worker"]);
    let mut worker: Child = command
        .env("PAYONCE_CRASH_POINT", format!("{point}=abort"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the payonce binary runs");
    let ended = tokio::time::timeout(crate::support::DEADLINE, worker.wait()).await;
    assert!(!ended.expect("it dies in time").unwrap().success());
}

#[tokio::test]
async fn what_expired_in_the_queue_is_decided_like_any_other_callback() {
    let world = World::new().await;
    let short = BasicProperties::default().with_delivery_mode(2).with_expiration("1".into());
    let exchange = world.names().exchange;
    let wrong = b"no callback".as_slice();
    for body in [
        &Event::deposit("ttl", "a", 500).body(),
        wrong,
        &Event::payment("payment.succeeded", "poor", "a", "p", 900).body(),
    ] {
        publish(&world, &exchange, "acct-1", body, short.clone()).await;
    }
    dead(&world, 3).await;
    let worker = world.worker().await;
    world.settled(3).await;
    // The same again, without a time to live: it is known by what its publisher gave.
    publish(&world, &exchange, "acct-1", wrong, BasicProperties::default().with_delivery_mode(2)).await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((500, 0, 1)));
    let mut cases = world.cases().await;
    cases.sort();
    let mut malformed = case(None, "malformed", "open");
    malformed.3 = 2;
    assert_eq!(cases, [malformed, case(Some("poor"), "insufficient_funds", "open")]);
    let kept: (String, String) =
        sqlx::query_as("select routing_key, headers from quarantine where routing_key is not null")
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap();
    assert_eq!(kept.0, "acct-1", "what it was published with, not the dead-letter queue's");
    assert!(kept.1.contains("\"reason\":\"expired\""), "{}", kept.1);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_a_worker_refused_is_decided_like_any_other_callback() {
    let world = World::new().await;
    world.publish(&[Event::deposit("d", "a", 5)]).await;
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let taken = channel.basic_get(world.names().queue.into(), Default::default()).await.unwrap().unwrap();
    taken.delivery.acker.reject(Default::default()).await.unwrap();
    dead(&world, 1).await;
    let worker = world.worker().await;
    world.settled(1).await;
    worker.stop().await;
    assert_eq!((world.account("a").await, world.cases().await), (Some((5, 0, 1)), vec![]));
    world.close().await;
}

/// A callback that ends every worker that decides it: the second one stores it first, and no third one tries. Its neighbours are decided.
#[tokio::test]
async fn a_dead_letter_that_ends_workers_becomes_a_case_after_one_more_try() {
    let world = World::new().await;
    let queue = world.names().dead_queue;
    publish(&world, "", &queue, &Event::deposit("poison", "a", 7).body(), BasicProperties::default()).await;
    dies_at(&world, "after_load").await;
    assert_eq!(world.cases().await, []);
    dead(&world, 1).await;
    dies_at(&world, "replay").await;
    assert_eq!(world.cases().await, [case(Some("poison"), "delivery_limit", "open")]);
    dead(&world, 1).await;
    publish(&world, "", &queue, &Event::deposit("neighbour", "b", 1).body(), BasicProperties::default())
        .await;
    let worker = world.worker().await;
    world.settled(3).await;
    dead(&world, 0).await;
    let detail: String = sqlx::query_scalar("select detail from quarantine")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert!(detail.contains("the worker that did so ended: look at that worker's log"), "{detail}");
    assert_eq!((world.account("a").await, world.account("b").await), (None, Some((1, 0, 1))));
    // A person lets it go on.
    let replay = world.program(&["quarantine", "replay", "1", "--why", "fixed"]).output().await.unwrap();
    assert_eq!(replay.status.code(), Some(0));
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((7, 0, 1)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn dead_letters_that_a_worker_gave_back_are_still_decided() {
    let world = World::new().await;
    let queue = world.names().dead_queue;
    let events = [
        Event::deposit("d1", "a", 100),
        Event::deposit("d2", "a", 10),
        Event::payment("payment.succeeded", "poor", "a", "p", 5_000),
        Event::payment("payment.captured", "early", "a", "q", 1),
    ];
    for event in &events {
        publish(&world, "", &queue, &event.body(), BasicProperties::default()).await;
    }
    dies_at(&world, "after_consume").await;
    dead(&world, 4).await;
    let worker = world.worker().await;
    eventually("the account", Some((110, 0, 2)), || world.account("a")).await;
    dead(&world, 0).await;
    world.settled(4).await;
    worker.stop().await;
    let mut cases = world.cases().await;
    cases.sort();
    assert_eq!(
        cases,
        [
            case(Some("d1"), "delivery_limit", "replayed"),
            case(Some("d2"), "delivery_limit", "replayed"),
            case(Some("early"), "waiting_for_payment", "waiting"),
            case(Some("poor"), "insufficient_funds", "open"),
        ]
    );
    world.audit().await;
    world.close().await;
}
