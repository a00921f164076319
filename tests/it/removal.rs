//! What is removed is counted out: old duplicates are added up, discarded cases go, and nothing that people or audits rely on changes.

use payonce::store::history;
use serde_json::Value;

use crate::support::{Event, SOURCE, World};

async fn answer(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = world.program(arguments).output().await.expect("the payonce binary runs");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// Copies of an event per layer, and in all.
async fn copies(world: &World, id: &str) -> Vec<(String, i64)> {
    let (_, story) = answer(world, &["event", SOURCE, id, "--json"]).await;
    let rows = story["duplicates"].as_array().expect("duplicates").clone();
    rows.iter().map(|row| (row["layer"].to_string(), row["copies"].as_i64().expect("a number"))).collect()
}

#[tokio::test]
async fn duplicates_that_are_added_up_stay_exact_per_event_and_layer() {
    let world = World::new().await;
    let mut worker = world.worker().await;
    let mut settled = 0;
    // Two layers: known from the batch or Redis, and, without Redis, from the ledger.
    for redis in ["redis", "none"] {
        for _ in 0..3 {
            let events = [Event::deposit("loud", "a", 5), Event::deposit("quiet", "a", 5)];
            world.publish(&events).await;
            settled += 2;
            world.settled(settled).await;
        }
        worker.stop().await;
        let url = if redis == "redis" { "redis://127.0.0.1:1" } else { world.redis_url.as_str() };
        let mut other = world.clone();
        other.redis_url = url.to_owned();
        worker = other.worker().await;
    }
    worker.stop().await;
    let before = (copies(&world, "loud").await, copies(&world, "quiet").await);
    assert_eq!(before.0.iter().map(|(_, n)| n).sum::<i64>(), 5, "{before:?}");
    let mut connection = world.connect().await;
    let since = payonce::store::now(&mut connection).await.unwrap() - std::time::Duration::from_secs(3_600);
    let repeated = history::repeated_keys(&mut connection, since, 5).await.unwrap();

    // Half of them are a month old; every step of the way says the same.
    sqlx::raw_sql("update duplicates set seen_at = seen_at - interval '30 days' where ctid < '(0,6)'")
        .execute(&mut connection)
        .await
        .unwrap();
    let config = world.config(&[]).worker.history;
    let old = world.number("select count(*) from duplicates where seen_at < now() - interval '7 days'").await;
    assert!(old > 1, "{old}");
    while history::roll_up(&mut connection, &config).await.unwrap() > 0 {}
    assert_eq!(
        world.number("select count(*) from duplicates where seen_at < now() - interval '7 days'").await,
        0
    );
    assert!(world.number("select count(*) from duplicate_sums").await <= old);
    assert_eq!((copies(&world, "loud").await, copies(&world, "quiet").await), before);
    world.audit().await;

    // All of them, twice: one row per event and layer.
    for _ in 0..2 {
        sqlx::raw_sql("select add_up_duplicates('0', 1000)").execute(&mut connection).await.unwrap();
    }
    assert_eq!(world.number("select count(*) from duplicates").await, 0);
    let layers = i64::try_from(before.0.len() + before.1.len()).unwrap();
    assert_eq!(world.number("select count(*) from duplicate_sums").await, layers);
    assert_eq!((copies(&world, "loud").await, copies(&world, "quiet").await), before);
    assert_eq!(repeated.iter().map(|key| key.copies).sum::<i64>(), 10, "{repeated:?}");
    assert_eq!(
        world.number("select sum(n)::bigint from tallies where kind = 'duplicate'").await,
        world.number("select sum(copies)::bigint from duplicates_of_keys").await
    );
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn removed_cases_are_counted_out_and_the_audit_stays_right() {
    let world = World::new().await;
    let worker = world.worker().await;
    let mut events = vec![Event::deposit("d", "a", 10)];
    events.extend(
        (0..9).map(|n| Event::payment("payment.succeeded", &format!("s{n}"), "a", &format!("p{n}"), 1_000)),
    );
    world.publish(&events).await;
    world.publish_raw(&[("a".to_owned(), b"nonsense".to_vec())]).await;
    world.settled(11).await;
    worker.stop().await;
    let discard = ["quarantine", "discard", "--reason", "insufficient_funds", "--why", "flood", "--yes"];
    assert_eq!(answer(&world, &discard).await.0, Some(0));

    // By hand, as one might: the ledger audit fails from then on.
    let copy = world.copy("by_hand").await;
    sqlx::raw_sql("delete from quarantine where state = 'discarded'")
        .execute(&mut copy.connect().await)
        .await
        .unwrap();
    let (code, report) = answer(&copy, &["audit", "--json"]).await;
    let failed = serde_json::json!(["cases_are_counted", "counts_match_rows"]);
    assert_eq!((code, &report["audit"]), (Some(1), &failed));
    copy.drop_database().await;

    let remove = |age| {
        [
            "quarantine",
            "remove",
            "--reason",
            "insufficient_funds",
            "--older-than",
            age,
            "--why",
            "disk",
            "--json",
        ]
    };
    assert_eq!(answer(&world, &remove("1d")).await.0, Some(1), "none is that old");
    let (code, report) = answer(&world, &remove("0s")).await;
    assert_eq!((code, report["removed"].as_i64()), (Some(0), Some(9)), "{report}");
    let kept = world.cases().await;
    assert!(kept.len() == 1 && kept[0].1 == "malformed", "an open case stays: {kept:?}");
    world.audit().await;
    let who: (String, String, i64) = sqlx::query_as("select who, why, n from removed_cases")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!((who.1.as_str(), who.2), ("disk", 9));

    // What comes again is decided as new, and counts on from where the account was.
    let worker = world.worker().await;
    world.publish(&events[1..2]).await;
    world.settled(12).await;
    worker.stop().await;
    assert_eq!(world.cases().await.len(), 2);
    world.audit().await;

    // Of an account that opens only now nobody counts what was removed before.
    world.publish(&[Event::payment("payment.succeeded", "early", "late", "q", 1)]).await;
    let worker = world.worker().await;
    world.settled(13).await;
    worker.stop().await;
    let why = ["quarantine", "discard", "--reason", "unknown_account", "--why", "nobody", "--yes"];
    assert_eq!(answer(&world, &why).await.0, Some(0));
    let why = ["quarantine", "remove", "--reason", "unknown_account", "--older-than", "0s", "--why", "disk"];
    assert_eq!(answer(&world, &why).await.0, Some(0));
    let worker = world.worker().await;
    world.publish(&[Event::deposit("late", "late", 5)]).await;
    world.settled(14).await;
    worker.stop().await;
    world.audit().await;

    // No role that runs all day may.
    let mut connection = world.connect().await;
    for grantee in [payonce::store::Grantee::Worker, payonce::store::Grantee::Ops] {
        let role = format!("{}{grantee:?}", world.prefix.replace(['.', '-'], "_"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create role {role} login")))
            .execute(&mut connection)
            .await
            .unwrap();
        payonce::store::grant(&mut connection, &role.to_lowercase(), grantee).await.unwrap();
        let mut url = url::Url::parse(&world.database_url).unwrap();
        url.set_username(&role.to_lowercase()).unwrap();
        let output =
            world.program(&remove("0s")).env("PAYONCE_DATABASE_URL", url.as_str()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{grantee:?}: {said}");
        assert!(said.contains("only the owner of the tables"), "{said}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("drop owned by {role}; drop role {role}")))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    world.close().await;
}
