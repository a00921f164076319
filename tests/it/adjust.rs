//! What operators do to accounts: adjustments, each posted once; accounts that they open, close and freeze. Each act stands in the audit log.

use payonce::store::{self, Grantee};
use serde_json::Value;

use crate::support::{Event, World, eventually};

/// Exit code, standard output as JSON where it is that, standard error.
async fn run(world: &World, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = world.program(arguments).output().await.expect("the payonce binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
}

/// Refuses with this exit code, and says this.
#[track_caller]
fn assert_refused((code, _, said): (Option<i32>, Value, String), expected: i32, words: &str) {
    assert_eq!(code, Some(expected), "{said}");
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

/// `payonce account COMMAND ID… --why why --json`.
async fn account(world: &World, arguments: &[&str]) -> (Option<i32>, Value, String) {
    run(world, &[&["account"], arguments, &["--why", "why", "--by", "anna", "--json"]].concat()).await
}

/// `payonce adjust … --why why --json`.
async fn adjust(world: &World, arguments: &[&str]) -> (Option<i32>, Value, String) {
    run(world, &[&["adjust"], arguments, &["--why", "why", "--by", "anna", "--json"]].concat()).await
}

/// (action, what, result) of each line of the audit log, oldest first.
async fn log(world: &World) -> Vec<(String, String, Option<String>)> {
    sqlx::query_as(
        "select action, chosen, result from operator_actions
         where who = 'anna' and via = 'command line' and why = 'why' and ended_at is not null order by id",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .expect("the audit log can be read")
}

#[tokio::test]
async fn an_adjustment_is_posted_once_per_id() {
    let world = World::new().await;
    assert_eq!(account(&world, &["open", "a", "EUR"]).await.0, Some(0));
    let (code, answer, said) = adjust(&world, &["a", "credit", "500", "EUR", "--id", "x"]).await;
    assert_eq!(
        (code, answer["balance"].as_i64(), answer["id"].as_str()),
        (Some(0), Some(500), Some("x")),
        "{said}"
    );

    let again = adjust(&world, &["a", "credit", "500", "EUR", "--id", "x"]).await;
    assert_eq!(
        (again.0, &again.1["outcome"], &again.1["repeated"]),
        (Some(0), &"posted".into(), &true.into())
    );
    assert_eq!((&again.1["balance"], &again.1["version"]), (&answer["balance"], &answer["version"]));
    for other in [["a", "credit", "501", "EUR"], ["a", "debit", "500", "EUR"]] {
        let refused = adjust(&world, &[&other[..], &["--id", "x"]].concat()).await;
        assert_eq!(refused.1["reason"], "payload_mismatch");
        assert_refused(refused, 1, "used for another adjustment");
    }
    assert_eq!(world.account("a").await, Some((500, 0, 1)));

    // Without an id each is one of its own, and says which.
    let (_, first, _) = adjust(&world, &["a", "credit", "1", "EUR"]).await;
    let (_, second, _) = adjust(&world, &["a", "debit", "2", "EUR"]).await;
    assert!(first["id"].is_string() && first["id"] != second["id"], "{first} {second}");
    assert_eq!(world.account("a").await, Some((499, 0, 3)));

    let log = log(&world).await;
    let actions: Vec<&str> = log.iter().map(|(action, ..)| action.as_str()).collect();
    assert_eq!(actions, ["open", "adjust", "adjust", "adjust", "adjust", "adjust", "adjust"]);
    assert_eq!(log[1].1, "credit 5.00 EUR, account a, id x");
    assert!(
        log[1].2.as_deref().is_some_and(|result| result.starts_with("posted: balance 5.00 EUR")),
        "{log:?}"
    );
    assert!(
        log[2].2.as_deref().is_some_and(|result| result.starts_with("posted already: balance 5.00 EUR")),
        "{log:?}"
    );
    assert!(world.cases().await.is_empty() && world.duplicates().await.is_empty());
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn of_many_at_once_with_one_id_one_is_posted_beside_a_worker() {
    let world = World::new().await;
    let worker = world.worker().await;
    let deposits: Vec<Event> = (0..50).map(|n| Event::deposit(&format!("d{n}"), "a", 10)).collect();
    world.publish(&deposits[..1]).await;
    world.settled(1).await;
    let one = || async { adjust(&world, &["a", "debit", "7", "EUR", "--id", "x"]).await };
    let ((), first, second, third, fourth) =
        tokio::join!(world.publish(&deposits[1..]), one(), one(), one(), one());
    let answers = [first, second, third, fourth];
    assert!(answers.iter().all(|answer| answer.0 == Some(0)), "{answers:?}");
    let new = answers.iter().filter(|answer| answer.1["repeated"] == false).count();
    assert_eq!(new, 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer.1["version"] == answers[0].1["version"]), "{answers:?}");
    world.settled(51).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((493, 0, 51)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn an_adjustment_may_leave_a_debt_which_the_account_shows() {
    let world = World::new().await;
    assert_eq!(account(&world, &["open", "a", "EUR"]).await.0, Some(0));
    let (_, answer, _) = adjust(&world, &["a", "debit", "200", "EUR"]).await;
    assert_eq!(answer["balance"], -200);
    let (_, story, _) = run(&world, &["account", "a", "--json"]).await;
    assert_eq!(
        (&story["debt"], &story["available"], &story["status"]),
        (&200.into(), &(-200).into(), &"open".into())
    );
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_cannot_be_adjusted_is_said_and_makes_no_case() {
    let world = World::new().await;
    assert_eq!(account(&world, &["open", "a", "EUR"]).await.0, Some(0));
    assert_eq!(account(&world, &["open", "shut", "EUR"]).await.0, Some(0));
    assert_eq!(account(&world, &["close", "shut"]).await.0, Some(0));
    assert_refused(adjust(&world, &["nobody", "credit", "5", "EUR"]).await, 1, "unknown_account");
    assert_refused(adjust(&world, &["a", "credit", "5", "USD"]).await, 1, "currency_mismatch");
    assert_refused(adjust(&world, &["shut", "credit", "5", "EUR"]).await, 1, "the account is closed");
    for amount in ["0", "1.5", "+5", "5e3", "5.00", "", "9007199254740992", "99999999999999999999"] {
        assert_refused(adjust(&world, &["a", "credit", amount, "EUR"]).await, 2, "minor units");
    }
    assert_refused(adjust(&world, &["a", "credit", "5", "eur"]).await, 2, "ISO 4217");
    assert_refused(adjust(&world, &["a", "give", "5", "EUR"]).await, 2, "credit or debit");
    assert_refused(adjust(&world, &["a", "credit", "5", "EUR", "--id", "\n"]).await, 2, "control character");
    assert_refused(run(&world, &["adjust", "a", "credit", "5", "EUR"]).await, 2, "--why");
    assert_eq!(world.number("select count(*) from ledger").await, 0);
    assert!(world.cases().await.is_empty());
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_frozen_account_spends_nothing_until_it_is_opened_again() {
    let world = World::new().await;
    assert_refused(account(&world, &["open", "a"]).await, 2, "name its currency");
    assert_refused(account(&world, &["freeze", "a"]).await, 1, "not open");
    assert_eq!(account(&world, &["open", "a", "EUR"]).await.1["status"], "open");
    assert_refused(account(&world, &["open", "a", "EUR"]).await, 1, "open already");
    assert_eq!(adjust(&world, &["a", "credit", "100", "EUR"]).await.0, Some(0));
    assert_eq!(account(&world, &["freeze", "a"]).await.1["was"], "open");

    let worker = world.worker().await;
    let spends = Event::payment("payment.succeeded", "s", "a", "p", 30);
    world.publish(&[Event::deposit("d", "a", 5), spends]).await;
    // The adjustment is counted too.
    world.settled(3).await;
    assert_eq!(world.account("a").await, Some((105, 0, 2)));
    assert_eq!(
        world.cases().await.iter().map(|case| case.1.as_str()).collect::<Vec<_>>(),
        ["invalid_transition"]
    );

    assert_refused(account(&world, &["open", "a", "USD"]).await, 1, "is in EUR");
    assert_eq!(account(&world, &["open", "a"]).await.1["was"], "frozen");
    assert_eq!(run(&world, &["quarantine", "replay", "--all"]).await.0, Some(0));
    assert_eq!(world.account("a").await, Some((75, 0, 3)));

    worker.stop().await;
    let done: Vec<_> = log(&world).await.into_iter().map(|(action, _, result)| (action, result)).collect();
    let words = |result: &str| Some(result.to_owned());
    assert_eq!(done[2], ("freeze".to_owned(), words("was open, is frozen")));
    assert_eq!(done[3], ("open".to_owned(), words("was frozen, is open")));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn an_account_is_closed_only_when_it_is_empty_and_takes_nothing_then() {
    let world = World::new().await;
    assert_eq!(account(&world, &["open", "a", "EUR"]).await.0, Some(0));
    assert_eq!(adjust(&world, &["a", "credit", "9", "EUR"]).await.0, Some(0));
    assert_refused(account(&world, &["close", "a"]).await, 1, "balance 0.09 EUR, held 0.00 EUR");
    assert_eq!(adjust(&world, &["a", "debit", "9", "EUR"]).await.0, Some(0));
    assert_eq!(account(&world, &["close", "a"]).await.0, Some(0));
    assert_refused(account(&world, &["freeze", "a"]).await, 1, "is closed");

    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 5)]).await;
    // The adjustments are counted too.
    world.settled(3).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((0, 0, 2)));
    assert_eq!(world.cases().await.len(), 1);
    // An id that is the name of a command.
    assert_refused(run(&world, &["account", "--", "open"]).await, 1, "account open: not open");
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_waits_for_an_account_is_applied_when_it_is_opened() {
    let world = World::new().await;
    let settings = [("order_wait_ms", "60000"), ("waiting_sweep_ms", "50"), ("accounts_open_by", "command")];
    let worker = world.worker_with(&settings).await;
    world.publish(&[Event::deposit("d", "a", 5)]).await;
    world.settled(1).await;
    assert_eq!(world.cases().await[0].1, "waiting_for_funds");
    assert_eq!(account(&world, &["open", "a", "EUR"]).await.0, Some(0));
    eventually("the deposit is applied", Some((5, 0, 1)), || world.account("a")).await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn only_an_operators_role_may_adjust_and_freeze() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    for (grantee, code) in [(Grantee::Ops, 0), (Grantee::Worker, 3)] {
        let role = format!("{}{grantee:?}", world.prefix.replace(['.', '-'], "_")).to_lowercase();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create role {role} login")))
            .execute(&mut connection)
            .await
            .unwrap();
        // As deploy/postgres/roles.sql does.
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "grant execute on function pg_control_system() to {role}"
        )))
        .execute(&mut connection)
        .await
        .unwrap();
        store::grant(&mut connection, &role, grantee).await.unwrap();
        let mut url = url::Url::parse(&world.database_url).unwrap();
        url.set_username(&role).unwrap();
        let other = world.by(url.to_string());
        for arguments in [&["open", "a", "EUR"][..], &["freeze", "a"], &["open", "a"]] {
            let (found, _, said) = account(&other, arguments).await;
            if grantee == Grantee::Ops || arguments[0] == "freeze" {
                assert_eq!(found, Some(code), "{grantee:?} {arguments:?}: {said}");
            }
        }
        let (found, _, said) = adjust(&other, &["a", "credit", "5", "EUR"]).await;
        assert_eq!(found, Some(code), "{grantee:?}: {said}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("drop owned by {role}; drop role {role}")))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    assert_eq!(world.account("a").await, Some((5, 0, 1)));
    world.close().await;
}
