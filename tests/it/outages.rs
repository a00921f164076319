//! A worker outlives the restart of any of its servers, and goes on by itself.

use payonce::store::PgConnection;

use crate::support::{Event, OwnServer, World};

const CALLBACKS: i64 = 4_000;

fn events() -> Vec<Event> {
    (0..CALLBACKS).map(|n| Event::deposit(&format!("e{n}"), &format!("a{}", n % 100), 1)).collect()
}

fn shared(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// Small batches, so that the server dies in the middle of the work.
const SETTINGS: [(&str, &str); 3] =
    [("batch_size_max", "20"), ("retry_delay_max_ms", "200"), ("database_deadline_ms", "5000")];

/// Publishes all, and keeps the worker from settling the callbacks of account `a0` while it settles others: a server that dies meanwhile
/// dies in the middle of the work.
async fn in_the_middle(world: &World) -> PgConnection {
    world.publish(&events()[..1]).await;
    world.settled(1).await;
    let mut holder = world.connect().await;
    sqlx::raw_sql("begin; select from accounts where account_id = 'a0' for update")
        .execute(&mut holder)
        .await
        .expect("the account can be locked");
    world.publish(&events()[1..]).await;
    world.settled(2).await;
    holder
}

async fn all_applied_once(world: &World) {
    assert_eq!(world.number("select sum(balance)::bigint from accounts").await, CALLBACKS);
    assert_eq!(world.number("select count(*) from ledger").await, CALLBACKS);
    world.audit().await;
}

#[tokio::test]
async fn a_killed_postgresql_loses_and_doubles_nothing() {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    let worker = world.worker_with(&SETTINGS).await;
    let holder = in_the_middle(&world).await;
    postgres.kill().await;
    drop(holder);
    postgres.start_again().await;
    // A commit whose answer was lost is counted twice: wait for the rows, not for the count.
    crate::support::eventually("all callbacks applied", CALLBACKS, || {
        world.number("select count(*) from ledger")
    })
    .await;
    worker.stop().await;
    all_applied_once(&world).await;
    world.close().await;
}

#[tokio::test]
async fn a_killed_rabbitmq_loses_and_doubles_nothing() {
    let rabbitmq = OwnServer::start("rabbitmq", "PAYONCE_AMQP_URL").await;
    let world =
        World::on(&shared("PAYONCE_DATABASE_URL"), &shared("PAYONCE_REDIS_URL"), rabbitmq.url()).await;
    let worker = world.worker_with(&SETTINGS).await;
    let holder = in_the_middle(&world).await;
    rabbitmq.kill().await;
    drop(holder);
    rabbitmq.start_again().await;
    // Redelivered copies count too: wait for the rows, not for the number of deliveries.
    crate::support::eventually("all callbacks applied", CALLBACKS, || {
        world.number("select count(*) from ledger")
    })
    .await;
    worker.stop().await;
    all_applied_once(&world).await;
    world.close().await;
}

#[tokio::test]
async fn a_killed_redis_loses_and_doubles_nothing() {
    let redis = OwnServer::start("redis", "PAYONCE_REDIS_URL").await;
    let world = World::on(&shared("PAYONCE_DATABASE_URL"), redis.url(), &shared("PAYONCE_AMQP_URL")).await;
    let worker = world.worker_with(&SETTINGS).await;
    let holder = in_the_middle(&world).await;
    redis.kill().await;
    let so_far = world.number("select count(*) from ledger").await;
    drop(holder);
    // It does without.
    world.settled(so_far + 100).await;
    redis.start_again().await;
    world.settled(CALLBACKS).await;
    worker.stop().await;
    all_applied_once(&world).await;
    world.close().await;
}

#[tokio::test]
async fn a_worker_started_before_its_servers_waits_for_them() {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    world.publish(&events()).await;
    postgres.kill().await;
    let worker = world.start_worker(&SETTINGS);
    assert!(!worker.readiness.is_ready());
    postgres.start_again().await;
    // A commit whose answer was lost is counted twice: wait for the rows, not for the count.
    crate::support::eventually("all callbacks applied", CALLBACKS, || {
        world.number("select count(*) from ledger")
    })
    .await;
    worker.stop().await;
    all_applied_once(&world).await;
    world.close().await;
}
