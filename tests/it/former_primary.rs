//! One address that leads to the new primary, and then back to the former one, which came up writable: nothing is written there.

use sqlx::Connection as _;

use crate::support::{Event, OwnServer, World, eventually};

fn shared(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

#[tokio::test]
async fn nothing_is_written_to_a_former_primary_behind_the_only_address() {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    let worker = world.worker_with(&[("retry_delay_max_ms", "200"), ("outage_hold_ms", "1000")]).await;
    world.publish(&[Event::deposit("d1", "a", 100)]).await;
    eventually("before the failover", Some((100, 0, 1)), || world.account("a")).await;
    postgres.copy("standby", "standby").await;
    postgres.kill().await;
    postgres.copy("former", "snapshot").await;
    postgres.restore("standby").await;
    assert_eq!(world.number("select pg_promote()::int::bigint").await, 1, "the standby is promoted");
    world.publish(&[Event::deposit("d2", "a", 1_000)]).await;
    eventually("on the new primary", Some((1_100, 0, 2)), || world.account("a")).await;
    postgres.kill().await;
    postgres.copy("new", "snapshot").await;

    postgres.restore("former").await;
    world.publish(&[Event::deposit("d3", "a", 10_000)]).await;
    // It has asked the former primary, and given the delivery back.
    eventually("the worker takes nothing more", false, || {
        let is_ready = worker.readiness.is_ready();
        async move { is_ready }
    })
    .await;
    // Not by way of payonce, which would refuse it in this process.
    let mut former = sqlx::PgConnection::connect(&world.database_url).await.unwrap();
    let rows: Vec<String> = sqlx::query_scalar("select event_id from ledger order by event_id")
        .fetch_all(&mut former)
        .await
        .unwrap();
    assert_eq!(rows, ["d1"], "the former primary was not written to");
    let refused = payonce::store::Database::new(&world.database_url, "it", crate::support::DEADLINE)
        .unwrap()
        .connect()
        .await
        .expect_err("a former primary is refused");
    assert!(refused.to_string().contains("former primary"), "{refused}");
    drop(former);

    postgres.restore("new").await;
    eventually("on the new primary again", Some((11_100, 0, 3)), || world.account("a")).await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}
