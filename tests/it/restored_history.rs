//! PostgreSQL goes back to an earlier state with the same system identifier, timeline and files, as after a restore from a disk snapshot.
//! Redis remembers callbacks that the database has lost. When the provider sends them again they are applied.

use payonce::wire;

use crate::support::{Event, OwnServer, RunningWorker, World, eventually};

fn shared(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// A pool of one worker on a PostgreSQL of its own, with one payment that every copy of the data has.
async fn start() -> (OwnServer, World, RunningWorker) {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    let worker = world.worker_with(&[("retry_delay_max_ms", "200"), ("database_deadline_ms", "5000")]).await;
    world.publish(&[Event::deposit("kept", "a", 10_000)]).await;
    is_committed_and_remembered(&world, "kept", (10_000, 0, 1)).await;
    (postgres, world, worker)
}

async fn is_committed_and_remembered(world: &World, event_id: &str, account: (i64, i64, i64)) {
    eventually("the balance", Some(account), || world.account("a")).await;
    let redis = world.redis().await;
    eventually("the done marker", true, || {
        let (mut redis, key) = (redis.clone(), world.redis_key(event_id));
        async move {
            let value: Option<Vec<u8>> =
                redis::cmd("GET").arg(key).query_async(&mut redis).await.expect("Redis answers");
            value.is_some_and(|value| value.starts_with(b"done:"))
        }
    })
    .await;
}

/// What is applied now is lost by what `goes_back` does, and the provider's retry brings it again.
async fn hides_no_payment(world: World, worker: RunningWorker, goes_back: impl AsyncFnOnce()) {
    world.publish(&[Event::deposit("lost", "a", 5_000)]).await;
    is_committed_and_remembered(&world, "lost", (15_000, 0, 2)).await;
    goes_back().await;
    assert_eq!(world.account("a").await, Some((10_000, 0, 1)), "the restored database is the earlier one");
    world.publish(&[Event::deposit("lost", "a", 5_000), Event::deposit("kept", "a", 10_000)]).await;
    eventually("the payment that was lost", Some((15_000, 0, 2)), || world.account("a")).await;
    eventually("the copy is counted", 1, || {
        world.number("select coalesce(sum(n), 0)::bigint from tallies where kind = 'duplicate'")
    })
    .await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_disk_snapshot_started_again_hides_no_payment() {
    let (postgres, world, worker) = start().await;
    postgres.kill().await;
    postgres.copy("before", "snapshot").await;
    postgres.start_again().await;
    hides_no_payment(world, worker, async || postgres.restore("before").await).await;
}

#[tokio::test]
async fn a_base_backup_started_again_hides_no_payment() {
    let (postgres, world, worker) = start().await;
    postgres.copy("before", "backup").await;
    hides_no_payment(world, worker, async || postgres.restore("before").await).await;
}

#[tokio::test]
async fn a_second_standby_promoted_later_hides_no_payment() {
    let (postgres, world, worker) = start().await;
    for label in ["first", "second"] {
        postgres.copy(label, "standby").await;
    }
    let promote = async |label: &str| {
        postgres.restore(label).await;
        let promoted = world.number("select pg_promote()::int::bigint").await;
        assert_eq!(promoted, 1, "{label} is promoted");
    };
    promote("first").await;
    // Both begin timeline 2.
    hides_no_payment(world.clone(), worker, async || promote("second").await).await;
}

/// Whoever may write to Redis: a marker for each callback that is still to come, with the right hash, among markers that are true.
#[tokio::test]
async fn forged_markers_swallow_no_payment() {
    let world = World::new().await;
    let worker = world.worker_with(&[("batch_size_max", "20"), ("lanes", "1")]).await;
    let events: Vec<Event> = (0..100).map(|n| Event::deposit(&format!("e{n}"), "a", 1)).collect();
    world.publish(&events[..50]).await;
    world.settled(50).await;
    let mut redis = world.redis().await;
    for event in &events[50..] {
        let fingerprint = wire::decode(&event.body()).expect("a callback").fingerprint;
        let marker = [b"done:".as_slice(), &fingerprint.0].concat();
        redis::cmd("SET")
            .arg(world.redis_key(&event.id))
            .arg(marker)
            .query_async::<()>(&mut redis)
            .await
            .unwrap();
    }
    world.publish(&events).await;
    world.settled(150).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 100)));
    let copies: i64 = world.duplicates().await.into_iter().map(|(_, copies)| copies).sum();
    assert_eq!(copies, 50);
    world.audit().await;
    world.close().await;
}
