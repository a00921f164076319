//! Redis gone, emptied, read-only or full: throughput may fall, correctness does not change.

use crate::support::{Event, OwnServer, World};

const CALLBACKS: i64 = 3_000;

/// `CALLBACKS` deposits of 1 to 40 accounts, every third of them a copy of the one before it.
fn events() -> Vec<Event> {
    (0..CALLBACKS)
        .map(|n| if n % 3 == 2 { n - 1 } else { n })
        .map(|n| Event::deposit(&format!("e{n}"), &format!("a{}", n % 40), 1))
        .collect()
}

fn distinct() -> i64 {
    CALLBACKS - CALLBACKS / 3
}

async fn world_with_own_redis() -> (World, OwnServer) {
    let redis = OwnServer::start("redis", "PAYONCE_REDIS_URL").await;
    let shared =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"));
    let world = World::on(&shared("PAYONCE_DATABASE_URL"), redis.url(), &shared("PAYONCE_AMQP_URL")).await;
    (world, redis)
}

async fn all_applied_once(world: &World) {
    assert_eq!(world.number("select sum(balance)::bigint from accounts").await, distinct());
    assert_eq!(world.number("select count(*) from ledger").await, distinct());
    world.audit().await;
}

#[tokio::test]
async fn flushing_redis_in_the_middle_changes_nothing() {
    let (world, _redis) = world_with_own_redis().await;
    let worker = world.worker_with(&[("batch_size_max", "50")]).await;
    let mut flushed = 0;
    for part in events().chunks(300) {
        world.publish(part).await;
        let mut redis = world.redis().await;
        flushed += redis::cmd("DBSIZE").query_async::<i64>(&mut redis).await.unwrap();
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
    }
    world.settled(CALLBACKS).await;
    worker.stop().await;
    assert!(flushed > 0, "there was never a claim or a done marker to lose");
    all_applied_once(&world).await;
    world.close().await;
}

#[tokio::test]
async fn without_redis_every_copy_is_still_rejected() {
    let (world, redis) = world_with_own_redis().await;
    redis.kill().await;
    let worker = world.worker_with(&[("batch_size_max", "50")]).await;
    world.publish(&events()).await;
    world.settled(CALLBACKS).await;
    worker.stop().await;
    let layers: Vec<String> = world.duplicates().await.into_iter().map(|(layer, _)| layer).collect();
    assert!(!layers.contains(&"redis".to_owned()), "{layers:?}");
    all_applied_once(&world).await;
    world.close().await;
}

#[tokio::test]
async fn a_worker_uses_redis_again_when_it_comes_back() {
    let (world, redis) = world_with_own_redis().await;
    let worker = world.worker_with(&[("batch_size_max", "50")]).await;
    world.publish(&events()[..1_500]).await;
    redis.kill().await;
    world.publish(&events()[1_500..]).await;
    world.settled(CALLBACKS).await;
    redis.start_again().await;
    // Copies go on until one is rejected by a marker: the worker has found Redis by itself.
    let mut copies = 0;
    loop {
        copies += 1;
        assert!(copies < 10_000, "Redis came back, but no marker rejected a copy");
        world.publish(&[Event::deposit("again", "a0", 1)]).await;
        world.settled(CALLBACKS + copies).await;
        if world.duplicates().await.iter().any(|(layer, copies)| layer == "redis" && *copies > 0) {
            break;
        }
    }
    worker.stop().await;
    assert_eq!(world.number("select count(*) from ledger").await, distinct() + 1);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_redis_that_refuses_writes_counts_as_down() {
    let (world, _redis) = world_with_own_redis().await;
    let mut redis = world.redis().await;
    redis::cmd("CONFIG")
        .arg(&["SET", "min-replicas-to-write", "1"])
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
    let worker = world.worker_with(&[("batch_size_max", "50")]).await;
    world.publish(&events()).await;
    world.settled(CALLBACKS).await;
    worker.stop().await;
    let layers: Vec<String> = world.duplicates().await.into_iter().map(|(layer, _)| layer).collect();
    assert!(!layers.contains(&"redis".to_owned()), "{layers:?}");
    let errors: String =
        redis::cmd("INFO").arg("errorstats").query_async(&mut redis).await.expect("it answers");
    assert!(errors.contains("errorstat_NOREPLICAS:count="), "it refused no write: {errors}");
    all_applied_once(&world).await;
    world.close().await;
}
