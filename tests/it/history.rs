//! Counts over time: exact whatever is killed when, and still exact when minutes have become hours, days, and one total.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use payonce::{config::HistoryConfig, store::history};
use time::OffsetDateTime;

use crate::support::{Event, World, eventually};

const DAY: Duration = Duration::from_secs(86_400);
const KEPT: HistoryConfig = HistoryConfig {
    minutes_kept: Duration::from_secs(6 * 3_600),
    hours_kept: Duration::from_secs(5 * 86_400),
    days_kept: Duration::from_secs(10 * 86_400),
    duplicates_kept: Duration::from_secs(7 * 86_400),
    sources_max: 3,
};

/// Counts as two lanes wrote them, one minute in every seven of the last twelve days.
const TWELVE_DAYS: &str = "
    insert into tallies (minute, writer, kind, source, label, n)
    select date_trunc('minute', now()) - make_interval(mins => m), 'w/' || m % 2, k.kind, s, k.label, 1 + m % 5
    from generate_series(0, 12 * 1440, 7) m, unnest(array['/a', '/b', '']) s,
         (values ('applied', 'deposit.succeeded'), ('duplicate', 'redis'), ('quarantined', 'malformed')) k(kind, label)";

async fn sql(world: &World, statement: &'static str) {
    sqlx::raw_sql(statement).execute(&mut world.connect().await).await.expect(statement);
}

async fn sums(world: &World) -> BTreeMap<(String, String), i64> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("select kind, label, sum(n)::bigint from tallies group by kind, label")
            .fetch_all(&mut world.connect().await)
            .await
            .expect("tallies can be read");
    rows.into_iter().map(|(kind, label, n)| ((kind, label), n)).collect()
}

async fn totals(world: &World) -> BTreeMap<(String, String), i64> {
    let mut sums = BTreeMap::new();
    for row in history::totals(&mut world.connect().await).await.expect("totals") {
        *sums.entry((row.kind, row.label)).or_default() += row.n;
    }
    sums
}

#[tokio::test]
async fn totals_never_change_while_several_add_up_old_counts_at_once() {
    let world = World::new().await;
    sql(&world, TWELVE_DAYS).await;
    let before = sums(&world).await;
    assert_eq!(totals(&world).await, before);
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let (world, before, is_over) = (world.clone(), before.clone(), Arc::clone(&is_over));
        async move {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(sums(&world).await, before);
                assert_eq!(totals(&world).await, before);
            }
        }
    });
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move {
                let mut connection = world.connect().await;
                for _ in 0..20 {
                    history::roll_up(&mut connection, &KEPT).await.expect("added up");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("added up");
    }
    while history::roll_up(&mut world.connect().await, &KEPT).await.expect("added up") > 0 {}
    is_over.store(true, Ordering::Relaxed);
    watching.await.expect("every sum was the same");
    assert_eq!(sums(&world).await, before);
    assert_eq!(totals(&world).await, before);
    let findings = payonce::store::audit(&mut world.connect().await, None, &Default::default(), |_| {})
        .await
        .expect("an audit");
    assert!(
        findings.iter().any(|finding| finding.name == "totals_match_history" && finding.ok == Some(true)),
        "{findings:#?}"
    );
    // Each age has its grain, and no other.
    for (grain, oldest, newest) in [
        ("lane", "3 minutes", "0"),
        ("minute", "6 hours", "2 minutes"),
        ("hour", "5 days 1 hour", "5 hours"),
        ("day", "11 days", "4 days"),
    ] {
        let (rows, strays): (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where minute < now() - $2::interval or minute > now() - $3::interval)
             from tallies where grain = $1",
        )
        .bind(grain)
        .bind(oldest)
        .bind(newest)
        .fetch_one(&mut world.connect().await)
        .await
        .expect("tallies can be read");
        assert!(rows > 0 && strays == 0, "{grain}: {strays} of {rows} rows are too old or too new");
    }
    world.close().await;
}

#[tokio::test]
async fn what_history_says_of_a_time_does_not_depend_on_how_old_it_is() {
    let world = World::new().await;
    sql(&world, TWELVE_DAYS).await;
    // One day, whenever midnight comes.
    let today = OffsetDateTime::now_utc().replace_time(time::Time::MIDNIGHT);
    let day = |n: u32| today - DAY * n;
    let ask = async || {
        let mut connection = world.connect().await;
        let series = history::series(&mut connection, day(8), day(1), DAY, true, None).await.expect("series");
        let mut sums: Vec<(String, String, String, i64)> = history::sums(&mut connection, day(8), day(1))
            .await
            .expect("sums")
            .into_iter()
            .map(|row| (row.source, row.kind, row.label, row.n))
            .collect();
        sums.sort();
        (series, sums)
    };
    let before = ask().await;
    assert_eq!(before.0.len(), 7 * 9, "{:?}", before.0);
    while history::roll_up(&mut world.connect().await, &KEPT).await.expect("added up") > 0 {}
    let after = ask().await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1);
    assert_eq!(after.1.len(), 9, "{:?}", after.1);
    world.close().await;
}

#[tokio::test]
async fn invented_sources_do_not_make_the_history_grow() {
    let world = World::new().await;
    sql(
        &world,
        "insert into tallies (minute, writer, kind, source, label, n)
         select date_trunc('minute', now()) - make_interval(mins => 5 + s % 60), 'w', 'quarantined', 'invented-' || s, 'malformed', 1
         from generate_series(1, 5000) s
         union all
         select date_trunc('minute', now()) - interval '9 minutes', 'w', 'applied', '/real-' || s, 'deposit.succeeded', s
         from generate_series(1, 5) s",
    )
    .await;
    let before = sums(&world).await;
    while history::roll_up(&mut world.connect().await, &KEPT).await.expect("added up") > 0 {}
    assert_eq!(sums(&world).await, before);
    assert_eq!(totals(&world).await, before);
    let sources: Vec<String> = sqlx::query_scalar("select distinct source from tallies order by 1")
        .fetch_all(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(
        sources,
        ["/real-3", "/real-4", "/real-5", "other"],
        "those with the most, as many as are allowed"
    );
    // Nor do those that came since show under names that they will not keep.
    sql(
        &world,
        "insert into tallies (minute, writer, kind, source, label, n)
         values (date_trunc('minute', now()), 'w', 'duplicate', 'invented', 'redis', 1)",
    )
    .await;
    let totals = history::totals(&mut world.connect().await).await.unwrap();
    assert!(totals.iter().all(|row| row.source != "invented"), "{totals:?}");
    world.close().await;
}

#[tokio::test]
async fn a_killed_worker_costs_the_history_nothing() {
    const EVENTS: i64 = 1_500;
    let world = World::new().await;
    let events: Vec<Event> = (0..EVENTS)
        .map(|n| match n % 3 {
            0 => Event::deposit(&format!("d{n}"), "a", 10),
            1 => Event::deposit(&format!("d{}", n - 1), "a", 10),
            _ => Event::payment("payment.succeeded", &format!("p{n}"), "a", &format!("pay{n}"), 1_000_000),
        })
        .collect();
    world.publish(&events).await;
    for kill_at in [1, EVENTS / 3, 2 * EVENTS / 3] {
        let mut worker = world.worker_process(&["--batch-size-max", "20", "--waiting-sweep-ms", "10"]);
        world.settled(kill_at).await;
        worker.kill().await.expect("SIGKILL");
    }
    let worker = world.worker_with(&[("waiting_sweep_ms", "10")]).await;
    let queue = world.names().queue;
    eventually("every message is settled", (0, true), || async {
        let ready = world.ready_messages(&queue).await;
        (ready, world.number("select coalesce(sum(n), 0)::bigint from tallies").await >= EVENTS)
    })
    .await;
    worker.stop().await;
    let sums = sums(&world).await;
    let counted = |kind: &str| -> i64 { sums.iter().filter(|((of, _), _)| of == kind).map(|(_, n)| n).sum() };
    assert_eq!(counted("applied"), world.number("select count(*) from ledger").await);
    assert_eq!(counted("quarantined"), world.number("select count(*) from quarantine").await);
    assert_eq!(counted("duplicate"), world.number("select sum(copies)::bigint from duplicates").await);
    assert_eq!(totals(&world).await, sums);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn the_most_repeated_keys_come_with_their_whole_count() {
    let world = World::new().await;
    let worker = world.worker_with(&[("waiting_sweep_ms", "10")]).await;
    let mut events = vec![Event::deposit("quiet", "a", 1)];
    for (id, copies) in [("loud", 9), ("louder", 17), ("twice", 2)] {
        events.extend((0..copies).map(|_| Event::deposit(id, "a", 5)));
    }
    world.publish(&events).await;
    world.settled(events.len() as i64).await;
    worker.stop().await;
    let mut connection = world.connect().await;
    let keys = history::repeated_keys(&mut connection, OffsetDateTime::UNIX_EPOCH, 2).await.unwrap();
    let found: Vec<(&str, i64)> = keys.iter().map(|key| (key.event_id.as_str(), key.copies)).collect();
    assert_eq!(found, [("louder", 16), ("loud", 8)]);
    assert!(keys.iter().all(|key| key.first_seen_at <= key.last_seen_at));
    let later = OffsetDateTime::now_utc() + DAY;
    assert!(history::repeated_keys(&mut connection, later, 2).await.unwrap().is_empty());
    // The minute of the worker and the one before it are the last that can be over.
    let recent = history::recent(&mut connection).await.unwrap();
    assert!(recent.iter().all(|row| row.one_minute <= row.five_minutes), "{recent:?}");
    world.close().await;
}
