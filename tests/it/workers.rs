//! What workers say about themselves.

use payonce::store::workers::{self, WorkerRow};

use crate::support::{Event, World, eventually};

async fn rows(world: &World) -> Vec<WorkerRow> {
    workers::list(&mut world.connect().await).await.expect("workers can be read")
}

#[tokio::test]
async fn a_worker_reports_what_it_does_and_that_it_stopped() {
    let world = World::new().await;
    let worker =
        world.worker_with(&[("worker_report_ms", "500"), ("lanes", "1"), ("batch_size_max", "50")]).await;
    let event = Event::deposit("d", "a", 10);
    // Latencies are those of one interval, so each report is looked at.
    let latencies = tokio::spawn({
        let world = world.clone();
        async move {
            eventually("latencies", true, || async {
                rows(&world).await.iter().any(|row| row.latency_buckets.percentile_s(0.99).is_some())
            })
            .await;
        }
    });
    let unknown = Event::payment("payment.succeeded", "p", "nobody", "pay", 1);
    world.publish(&[event.clone(), event.clone(), event, unknown]).await;
    eventually("its report", vec![(true, true, 4, 1, 2, 1)], || async {
        let rows = rows(&world).await;
        rows.iter()
            .map(|row| (row.is_up, row.is_ready, row.received, row.applied, row.duplicates, row.quarantined))
            .collect()
    })
    .await;
    latencies.await.expect("a report had them");
    let row = rows(&world).await.remove(0);
    assert_eq!((row.lanes, row.batch_size_max, row.prefetch_count), (1, 50, 4_000));
    assert_eq!(
        (row.version.as_str(), row.last_error, row.is_stopped),
        (env!("CARGO_PKG_VERSION"), None, false)
    );
    assert!(row.started_at <= row.last_seen_at);
    worker.stop().await;
    let row = rows(&world).await.remove(0);
    assert!(!row.is_up && row.is_stopped, "{row:?}");
    world.close().await;
}

#[tokio::test]
async fn what_a_stuck_lane_holds_is_reported_with_its_age() {
    let world = World::new().await;
    let worker = world.worker_with(&[("worker_report_ms", "100")]).await;
    world.publish(&[Event::deposit("d", "a", 10)]).await;
    world.settled(1).await;
    // Somebody holds the account.
    let mut connection = world.connect().await;
    sqlx::raw_sql("begin; select * from accounts for update").execute(&mut connection).await.unwrap();
    world.publish(&[Event::deposit("e", "a", 10)]).await;
    eventually("the stuck delivery's age", true, || async {
        rows(&world).await.iter().any(|row| row.oldest_unsettled_ms.is_some_and(|ms| ms > 0))
    })
    .await;
    sqlx::raw_sql("commit").execute(&mut connection).await.unwrap();
    eventually("nothing is held any more", true, || async {
        rows(&world).await.iter().all(|row| row.oldest_unsettled_ms.is_none())
    })
    .await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn the_last_failure_is_kept_without_secrets() {
    let world = World::new().await;
    let worker = world.worker_with(&[("worker_report_ms", "100")]).await;
    world.publish(&[Event::deposit("d", "a", 10)]).await;
    world.settled(1).await;
    sqlx::raw_sql(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'payonce-it-worker'",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    world.publish(&[Event::deposit("e", "a", 10)]).await;
    eventually("the failure", true, || async {
        rows(&world).await.iter().any(|row| {
            row.last_error
                .as_deref()
                .is_some_and(|text| text.contains("PostgreSQL") && !text.contains("postgres://"))
                && row.last_error_at.is_some()
        })
    })
    .await;
    world.settled(2).await;
    worker.stop().await;
    world.close().await;
}
