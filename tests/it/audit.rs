//! Each check of `payonce audit` finds the harm that it is there for, in a full audit and in one of what is new.

use payonce::store;
use time::OffsetDateTime;

use crate::support::{Event, World};

/// What lets harm in: the constraints and triggers that would refuse it.
const OPEN_UP: &str = "
    alter table ledger disable trigger ledger_append_only;
    alter table ledger drop constraint ledger_key, drop constraint ledger_account_version,
        drop constraint ledger_balance_after_check, drop constraint ledger_check;
    drop index ledger_operation;
    alter table payments drop constraint payments_captured_within_authorized, drop constraint payments_check;";

/// (check, harm, whether the audit of what is new can see it)
const HARMS: &[(&str, &str, bool)] = &[
    ("balance_is_ledger_sum", "update accounts set balance = balance + 1 where account_id = 'a'", true),
    ("balance_is_ledger_sum", "delete from accounts where account_id = 'b'", false),
    ("total_is_ledger_sum", "update accounts set balance = balance + 1 where account_id = 'a'", false),
    ("versions_are_gapless", "delete from ledger where account_id = 'a' and account_version = 2", true),
    ("versions_are_gapless", "update accounts set version = version - 1 where account_id = 'a'", true),
    ("each_row_follows_the_one_before", "update ledger set balance_after = balance_after + 1 where event_id = 'd2'", true),
    ("each_row_follows_the_one_before", "update ledger set held_after = held_after + 1 where event_id = 'auth'", true),
    ("bounds_hold_at_every_version", "update ledger set balance_after = -1 where event_id = 'd2'", true),
    ("deltas_fit_the_type", "update ledger set type = 'refund.succeeded' where event_id = 'cap'", true),
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
    ("payments_are_ledger_sums", "update payments set captured = captured + 1 where payment_id = 'p'", true),
    ("holds_are_open_authorizations", "update accounts set held = held - 1 where account_id = 'a'", true),
    ("refunds_within_captures", "update payments set refunded = captured + 1 where payment_id = 'p'", true),
    ("one_place_per_callback", "update quarantine set state = 'open', reason = 'over_capture', resolved_at = null where state = 'replayed'", true),
    ("replayed_cases_are_applied", "update quarantine set state = 'replayed', resolved_at = now() where state = 'open'", true),
    ("cases_are_counted", "update accounts set cases = cases + 1 where account_id = 'a'", true),
    ("counts_match_rows", "delete from tallies where kind = 'applied'", false),
    ("totals_match_history", "insert into tally_totals values ('duplicate', '/a', 'redis', 1)", true),
];

async fn failed(world: &World, since: Option<OffsetDateTime>) -> Vec<&'static str> {
    let findings = store::audit(&mut world.connect().await, since, |_| {}).await.expect("the audit runs");
    findings.iter().filter(|finding| !finding.ok).map(|finding| finding.name).collect()
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
