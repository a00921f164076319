//! Each check of `payonce audit` finds the harm that it is there for, in a full audit and in one of what is new.

use payonce::store;
use time::OffsetDateTime;

use crate::support::{Dashboard, Event, World, eventually};

/// What lets harm in: the constraints and triggers that would refuse it.
const OPEN_UP: &str = "
    alter table ledger disable trigger ledger_append_only;
    alter table ledger drop constraint ledger_key, drop constraint ledger_account_version,
        drop constraint ledger_held, drop constraint ledger_debts;
    drop index ledger_operation;";

/// (check, harm, whether the audit of what is new can see it)
const HARMS: &[(&str, &str, bool)] = &[
    ("balance_is_ledger_sum", "update accounts set balance = balance + 1 where account_id = 'a'", true),
    ("balance_is_ledger_sum", "delete from accounts where account_id = 'b'", false),
    ("total_is_ledger_sum", "update accounts set balance = balance + 1 where account_id = 'a'", false),
    ("payments_stay_in_one_account", "update ledger set account_id = 'b' where event_id = 'back'", true),
    ("payments_stay_in_one_account", "update payments set account_id = 'b' where payment_id = 'p'", true),
    ("versions_are_gapless", "delete from ledger where account_id = 'a' and account_version = 2", true),
    ("versions_are_gapless", "update accounts set version = version - 1 where account_id = 'a'", true),
    ("each_row_follows_the_one_before", "update ledger set balance_after = balance_after + 1 where event_id = 'd2'", true),
    ("each_row_follows_the_one_before", "update ledger set held_after = held_after + 1 where event_id = 'auth'", true),
    ("bounds_hold_at_every_version", "update ledger set held_after = -1 where event_id = 'auth'", true),
    ("deltas_fit_the_type", "update ledger set type = 'refund.succeeded' where event_id = 'cap'", true),
    ("deltas_fit_the_type", "update ledger set balance_delta = 1 where event_id = 'd2'", true),
    ("currencies_agree", "update ledger set currency = 'USD' where event_id = 'd2'", true),
    (
        "keys_are_unique",
        "insert into ledger select (jsonb_populate_record(l, '{\"account_version\": 99}')).* from ledger l where event_id = 'd2'",
        true,
    ),
    (
        "operations_are_unique",
        "insert into ledger select (jsonb_populate_record(l, '{\"event_id\": \"other\", \"account_version\": 99}')).*
         from ledger l where event_id = 'debit'",
        true,
    ),
    (
        "operations_are_unique",
        "update ledger set payment_id = 'twin', operation_id = null where event_id in ('d1', 'd2')",
        true,
    ),
    ("payments_are_ledger_sums", "update payments set captured = captured + 1 where payment_id = 'p'", true),
    ("payments_follow_from_rows", "update payments set state = 'voided' where payment_id = 'p'", true),
    ("payments_follow_from_rows", "update payments set version = version + 1 where payment_id = 'p'", true),
    ("payments_follow_from_rows", "update payments set currency = 'USD' where payment_id = 'p'", true),
    ("payments_follow_from_rows", "update payments set expires_at = '2099-01-01Z' where payment_id = 'p'", true),
    ("payments_follow_from_rows", "update payments set facts = null where payment_id = 'facts'", true),
    (
        "payments_follow_from_rows",
        "update payments set facts = facts || '{\"released\": 0}' where payment_id = 'facts'",
        true,
    ),
    ("holds_are_open_authorizations", "update accounts set held = held - 1 where account_id = 'a'", true),
    ("refunds_within_captures", "update payments set refunded = captured + 1 where payment_id = 'p'", true),
    ("sides_sum_to_zero", "delete from ledger where event_id = 'move' and leg = 1", true),
    ("one_place_per_callback", "update quarantine set state = 'open', reason = 'over_capture', resolved_at = null where state = 'replayed' and event_id = 'cap'", true),
    ("replayed_cases_are_applied", "update quarantine set state = 'replayed', resolved_at = now() where state = 'open'", true),
    ("cases_are_counted", "update accounts set cases = 0 where account_id = 'a'", true),
    ("cases_are_counted", "update accounts set cases = cases + 100 where account_id = 'a'", true),
    ("debts_are_listed", "insert into debts (account_id, currency, debt) values ('a', 'EUR', 1)", true),
    (
        "debts_are_listed",
        "alter table accounts disable trigger debts; update accounts set held = balance + 1 where account_id = 'b'",
        true,
    ),
    ("cases_add_up", "update case_changes set amount = amount + 1", true),
    (
        "cases_add_up",
        "alter table quarantine disable trigger case_sums_changed; update quarantine set reason = 'over_refund' where state = 'open'",
        true,
    ),
    ("counts_match_rows", "delete from tallies where kind = 'applied'", false),
    ("versions_rise_with_transactions", "update ledger set txn = txn + 1 + (select max(txn) from ledger) where event_id = 'd1'", true),
    ("totals_match_history", "insert into tally_totals values ('duplicate', '/a', 'redis', 1)", true),
];

async fn failed(world: &World, since: Option<OffsetDateTime>) -> Vec<&'static str> {
    let findings = store::audit(&mut world.connect().await, since, &Default::default(), |_| {})
        .await
        .expect("the audit runs");
    findings.iter().filter(|finding| finding.is_violated()).map(|finding| finding.name).collect()
}

#[tokio::test]
async fn every_check_finds_the_harm_it_is_there_for() {
    let world = World::new().await;
    let worker = world.worker().await;
    let events = [
        Event::deposit("d1", "a", 1_000),
        Event::deposit("b1", "b", 10),
        Event::deposit("d2", "a", 500),
        Event::payment("payment.captured", "cap", "a", "p", 30),
        Event::payment("payment.authorized", "auth", "a", "p", 100),
        Event::payment("refund.succeeded", "back", "a", "p", 5),
        Event::payment("payment.succeeded", "debit", "a", "q", 7).operation("op"),
        Event::payment("payment.succeeded", "too much", "a", "r", 100_000),
        Event::new("transfer.succeeded", "move", "a", None, 3).with("to", "b"),
        Event::payment("payment.authorized", "auth2", "a", "facts", 20),
        Event::payment("payment.voided", "part", "a", "facts", 5).with("final", false),
    ];
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(n as i64 + 1).await;
    }
    worker.stop().await;
    world.audit().await;
    for (n, (check, harm, seen_since)) in HARMS.iter().enumerate() {
        let copy = world.copy(&n.to_string()).await;
        let mut connection = copy.connect().await;
        sqlx::raw_sql(OPEN_UP).execute(&mut connection).await.expect("constraints can be dropped");
        let harmed = sqlx::raw_sql(sqlx::AssertSqlSafe((*harm).to_owned())).execute(&mut connection).await;
        assert!(harmed.expect(harm).rows_affected() > 0, "{harm}");
        drop(connection);
        let found = failed(&copy, None).await;
        assert!(found.contains(check), "{harm}: {check} is not among {found:?}");
        let found = failed(&copy, Some(OffsetDateTime::UNIX_EPOCH)).await;
        assert_eq!(found.contains(check), *seen_since, "{harm}: {check}, {found:?}");
        copy.drop_database().await;
    }
    let unharmed = store::CHECKS.iter().find(|check| !HARMS.iter().any(|(name, ..)| *name == check.name));
    assert!(unharmed.is_none(), "no harm shows that {unharmed:?} can fail");
    world.close().await;
}

/// (what the hash covers, harm)
const HASHED: &[(&str, &str)] = &[
    ("type", "update ledger set type = 'fee.charged' where event_id = 'debit'"),
    ("subject", "update ledger set account_id = 'z' where event_id = 'd1'"),
    ("payment_id", "update ledger set payment_id = 'z' where event_id = 'auth'"),
    ("payment_id, absent", "update ledger set payment_id = '' where event_id = 'd1'"),
    ("operation_id", "update ledger set operation_id = 'z' where event_id = 'debit'"),
    ("amount", "update ledger set amount = amount + 1 where event_id = 'd1'"),
    ("currency", "update ledger set currency = 'USD' where event_id = 'd1'"),
    ("final of a capture", "update ledger set members = members - 'final' where event_id = 'cap'"),
    ("final of a void", "update ledger set members = null where event_id = 'void'"),
    ("cumulative", "update ledger set members = null where event_id = 'back'"),
    (
        "expires_at",
        "update ledger set members = jsonb_set(members, '{expires_at_us}', '1') where event_id = 'auth'",
    ),
    (
        "to",
        "update ledger set members = jsonb_set(members, '{to}', '\"z\"') where event_id = 'move' and leg = 0",
    ),
    (
        "direction",
        "update ledger set members = '{\"direction\": \"debit\"}' where type = 'adjustment.posted'",
    ),
    ("subject, not named", "update ledger set members = null where event_id = 'nameless'"),
    ("payload_sha256", "update ledger set payload_sha256 = sha256('z') where event_id = 'd1'"),
    ("the other leg", "update ledger set amount = amount + 1 where event_id = 'move' and leg = 1"),
];

#[tokio::test]
async fn a_change_of_anything_that_the_payload_hash_covers_is_found() {
    let world = World::new().await;
    let worker = world.worker().await;
    let auth = Event::payment("payment.authorized", "auth", "a", "p", 100)
        .with("expires_at", "2099-01-01T00:00:00Z");
    let events = [
        Event::deposit("d1", "a", 1_000),
        Event::deposit("b1", "b", 10),
        auth,
        Event { is_final: true, ..Event::payment("payment.captured", "cap", "a", "p", 30) },
        Event::payment("payment.authorized", "hold", "a", "v", 50),
        Event::payment("payment.voided", "void", "a", "v", 20).with("final", false),
        Event::payment("refund.succeeded", "back", "a", "p", 5).with("cumulative", true),
        Event::payment("refund.succeeded", "nameless", "a", "p", 1).operation("n").nameless(),
        Event::payment("payment.succeeded", "debit", "a", "q", 7).operation("op"),
        Event::new("transfer.succeeded", "move", "a", None, 3).operation("t").with("to", "b"),
    ];
    for (n, event) in events.iter().enumerate() {
        let routed = if event.account.is_empty() { "p" } else { &event.account };
        world.publish_raw(&[(routed.to_owned(), event.body())]).await;
        world.settled(n as i64 + 1).await;
    }
    worker.stop().await;
    let adjusted = world
        .program(&["adjust", "a", "credit", "9", "EUR", "--why", "a test", "--id", "one"])
        .output()
        .await;
    assert!(adjusted.expect("it runs").status.success());
    assert_eq!(world.number("select count(distinct event_id) from ledger").await, 11);
    world.audit().await;
    for (n, (what, harm)) in HASHED.iter().enumerate() {
        let copy = world.copy(&format!("h{n}")).await;
        let mut connection = copy.connect().await;
        sqlx::raw_sql(OPEN_UP).execute(&mut connection).await.expect("constraints can be dropped");
        let harmed = sqlx::raw_sql(sqlx::AssertSqlSafe((*harm).to_owned())).execute(&mut connection).await;
        assert_eq!(harmed.expect(harm).rows_affected(), 1, "{harm}");
        drop(connection);
        for since in [None, Some(OffsetDateTime::UNIX_EPOCH)] {
            let found = failed(&copy, since).await;
            assert!(found.contains(&store::PAYLOADS), "{what}: {harm}: {found:?}");
        }
        copy.drop_database().await;
    }
    // What a schema of before did not keep proves nothing, and says so.
    let mut connection = world.connect().await;
    sqlx::raw_sql(OPEN_UP).execute(&mut connection).await.unwrap();
    sqlx::raw_sql(
        "update ledger set members = null where event_id = 'cap';
         update _sqlx_migrations set installed_on = clock_timestamp() + interval '1 hour' where version = 14",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let output = world.program(&["audit", "--json"]).output().await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let payloads = checks.iter().find(|check| check["name"] == store::PAYLOADS).unwrap();
    assert_eq!((&payloads["ok"], &payloads["skipped_rows"]), (&true.into(), &1.into()), "{report}");
    let output = world.program(&["audit"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 row skipped"), "{output:?}");
    world.close().await;
}

#[tokio::test]
async fn an_audit_of_what_is_new_does_not_look_at_what_is_old() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "a", 1_000)]).await;
    world.settled(1).await;
    worker.stop().await;
    let mut connection = world.connect().await;
    sqlx::raw_sql(OPEN_UP).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("update ledger set currency = 'USD'").execute(&mut connection).await.unwrap();
    assert!(failed(&world, None).await.contains(&"currencies_agree"));
    assert!(!failed(&world, Some(OffsetDateTime::now_utc())).await.contains(&"currencies_agree"));
    world.close().await;
}

#[tokio::test]
async fn an_audit_of_what_is_new_sees_a_balance_that_was_changed_behind_the_ledger() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "a", 1_000), Event::deposit("d2", "b", 1_000)]).await;
    world.settled(2).await;
    worker.stop().await;
    let mut connection = world.connect().await;
    for (harm, fix) in [
        ("balance = balance + 77", "balance = balance - 77"),
        ("held = held + 1", "held = held - 1"),
        ("version = version - 1", "version = version + 1"),
        ("version = version + 1", "version = version - 1"),
    ] {
        // None of what is there is new.
        let since = store::now(&mut connection).await.unwrap();
        let change = |what| sqlx::AssertSqlSafe(format!("update accounts set {what} where account_id = 'a'"));
        sqlx::raw_sql(change(harm)).execute(&mut connection).await.unwrap();
        assert!(failed(&world, Some(since)).await.contains(&"balance_is_ledger_sum"), "{harm}");
        sqlx::raw_sql(change(fix)).execute(&mut connection).await.unwrap();
        assert_eq!(failed(&world, Some(since)).await, [""; 0], "{harm}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_check_that_was_not_made_says_why() {
    let world = World::new().await;
    let audit = async |arguments: &[&str], redis: &str| {
        let mut command = world.program(&[&["audit", "--json"], arguments].concat());
        let output = command.env("PAYONCE_REDIS_URL", redis).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().expect("checks").clone();
        assert_eq!(checks.len(), store::CHECKS.len() + 2, "every check is listed: {checks:#?}");
        let skipped = checks.into_iter().filter(|check| check["ok"].is_null());
        skipped.map(|check| (check["name"].to_string(), check["skipped"].to_string())).collect::<Vec<_>>()
    };
    assert_eq!(audit(&[], &world.redis_url).await, []);
    let skipped = audit(&["--since", "2026-01-01T00:00:00Z"], &world.redis_url).await;
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert!(skipped.iter().all(|(_, why)| why.contains("without --since")), "{skipped:?}");
    // Nobody listens there.
    let skipped = audit(&[], "redis://127.0.0.1:1").await;
    let [(name, why)] = &skipped[..] else { panic!("{skipped:?}") };
    assert!(name.contains("markers_have_rows") && why.contains("Redis"), "{skipped:?}");
    world.close().await;
}

#[tokio::test]
async fn ops_audits_by_itself_shows_it_and_looks_at_markers_too() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "a", 1_000)]).await;
    world.settled(1).await;
    worker.stop().await;
    let books = async |dashboard: &Dashboard| dashboard.get("/api/overview").await.json()["audit"].clone();
    // With no setting at all.
    let dashboard = Dashboard::start(&world).await;
    eventually("an audit", Some(true), || async { books(&dashboard).await["ok"].as_bool() }).await;
    let page = dashboard.get("/").await.body;
    assert!(page.contains("Ledger audit") && page.contains("ok, audited"), "{page}");
    assert!(books(&dashboard).await["pause_s"].as_f64().is_some_and(|pause| pause > 60.0));
    dashboard.stop().await;

    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_AUDIT_PAUSE_MS", "200");
    })
    .await;
    eventually("an audit", Some(true), || async { books(&dashboard).await["ok"].as_bool() }).await;
    let mut redis = world.redis().await;
    let marker = [&b"done:"[..], &[7; 32]].concat();
    let key = world.redis_key("never-applied");
    redis::cmd("SET").arg(&key).arg(marker).query_async::<()>(&mut redis).await.unwrap();
    eventually("the false marker", Some(false), || async { books(&dashboard).await["ok"].as_bool() }).await;
    assert_eq!(books(&dashboard).await["failed"], serde_json::json!(["markers_have_rows"]));
    assert!(dashboard.get("/").await.body.contains("FAILED (markers_have_rows)"));
    redis::cmd("DEL").arg(&key).query_async::<()>(&mut redis).await.unwrap();
    eventually("right again", Some(true), || async { books(&dashboard).await["ok"].as_bool() }).await;
    dashboard.stop().await;

    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_AUDIT_PAUSE_MS", "0");
    })
    .await;
    let page = dashboard.get("/").await.body;
    assert!(page.contains("not audited: audits are off"), "{page}");
    dashboard.stop().await;
    world.close().await;
}

/// The library that shows a process another time, as it is installed by `make test`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Shows this process a clock that is an hour ahead of the database's.
fn an_hour_ahead(command: &mut tokio::process::Command) {
    assert!(std::path::Path::new(FAKETIME).exists(), "no {FAKETIME}: scripts/services install faketime");
    command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", "+1h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_hides_neither_wrong_books_nor_new_cases() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "a", 1_000), Event::deposit("d2", "b", 1_000)]).await;
    world.publish(&[Event::payment("payment.succeeded", "p", "a", "pay", 5_000)]).await;
    world.settled(3).await;
    worker.stop().await;
    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_AUDIT_PAUSE_MS", "200");
        an_hour_ahead(command);
    })
    .await;
    let ok = async || dashboard.get("/api/overview").await.json()["audit"]["ok"].as_bool();
    eventually("an audit", Some(true), &ok).await;
    let mut connection = world.connect().await;
    sqlx::raw_sql(OPEN_UP).execute(&mut connection).await.unwrap();
    // Seen by a check of what is new only.
    sqlx::raw_sql("update ledger set balance_delta = 1 where event_id = 'd1'")
        .execute(&mut connection)
        .await
        .unwrap();
    eventually("wrong books", Some(false), &ok).await;
    // What happened just now is a few seconds ago, and in the last minutes.
    let page = dashboard.get("/quarantine/1").await.body;
    assert!(page.contains(" s ago)") || page.contains(" ms ago)"), "{page}");
    // A minute that has only begun is not in it yet.
    eventually("it is in the history", true, || async {
        let history = dashboard.get("/api/history?range=15m").await.json();
        let applied: f64 = history["y"][0].as_array().expect("rates").iter().filter_map(|y| y.as_f64()).sum();
        applied > 0.0
    })
    .await;
    dashboard.stop().await;

    for (age, expected) in [("--newer-than", 1), ("--older-than", 0)] {
        let mut command = world.program(&["quarantine", "list", "--json", age, "30m"]);
        an_hour_ahead(&mut command);
        let output = command.output().await.unwrap();
        let lines = String::from_utf8(output.stdout).unwrap().lines().count();
        assert_eq!((output.status.code(), lines), (Some(0), expected), "{age}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_marker_without_its_row_fails_the_audit() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 1_000)]).await;
    world.settled(1).await;
    worker.stop().await;
    let audit = async || {
        let output = world.program(&["audit", "--json"]).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = audit().await;
    assert!(code == Some(0) && text.contains("markers_have_rows"), "{text}");
    let mut redis = world.redis().await;
    let marker = [&b"done:"[..], &[7; 32]].concat();
    let key = world.redis_key("never-applied");
    redis::cmd("SET").arg(key).arg(marker).query_async::<()>(&mut redis).await.unwrap();
    let (code, text) = audit().await;
    assert!(code == Some(1) && text.contains("\"audit\":[\"markers_have_rows\"]"), "{text}");
    assert!(text.contains("never-applied"), "{text}");
    world.close().await;
}

/// Years that a double of microseconds has not every one of: "never", as providers write it.
#[tokio::test]
async fn the_audit_passes_for_holds_that_end_in_the_last_microsecond_there_is() {
    let world = World::new().await;
    let worker = world.worker().await;
    let auth = |id, payment, at: &str| {
        Event::payment("payment.authorized", id, "a", payment, 10).with("expires_at", at)
    };
    world
        .publish(&[
            Event::deposit("d", "a", 100),
            auth("1", "p", "9999-12-31T23:59:59.999999Z"),
            auth("2", "q", "9999-12-31T23:59:59.999Z"),
            auth("3", "r", "2300-01-01T00:00:00.123457Z"),
            // The same, another end: what differs is shown to the microsecond.
            auth("3", "r", "2300-01-01T00:00:00.123458Z"),
        ])
        .await;
    world.settled(5).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 30, 4)));
    world.audit().await;
    let shown = world.program(&["quarantine", "show", "1", "--json"]).output().await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for end in ["2300-01-01T00:00:00.123457Z", "2300-01-01T00:00:00.123458Z"] {
        assert!(shown.contains(end), "{end} is not in {shown}");
    }
    world.close().await;
}
