//! Cases: worked by people while workers run, ended by time, and fed by the dead-letter queue.

use lapin::{BasicProperties, options::BasicPublishOptions};
use payonce::broker;
use serde_json::Value;

use crate::support::{Event, RunningWorker, World, eventually};

/// Runs `payonce quarantine …` and returns its exit code and the lines of its output.
async fn quarantine(world: &World, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = world
        .program(&["quarantine"])
        .args(arguments)
        .arg("--json")
        .output()
        .await
        .expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (output.status.code().expect("an exit code"), lines)
}

/// (event, reason, state) of every case.
async fn cases(world: &World) -> Vec<(String, String, String)> {
    let cases = world.cases().await.into_iter();
    cases.map(|(event, reason, state, _)| (event.unwrap_or_default(), reason, state)).collect()
}

fn case(event: &str, reason: &str, state: &str) -> (String, String, String) {
    (event.to_owned(), reason.to_owned(), state.to_owned())
}

fn debit(id: &str, payment: &str, amount: i64) -> Event {
    Event::payment("payment.succeeded", id, "a", payment, amount)
}

#[tokio::test]
async fn a_replay_applies_what_can_be_applied_by_now_and_is_safe_to_repeat() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "a", 10), debit("s1", "p1", 100), debit("s2", "p2", 5_000)]).await;
    world.settled(3).await;
    let (code, listed) = quarantine(&world, &["list", "--reason", "insufficient_funds"]).await;
    assert_eq!((code, listed.len()), (0, 2));
    world.publish(&[Event::deposit("d2", "a", 200)]).await;
    world.settled(4).await;
    let replay = ["replay", "--reason", "insufficient_funds", "--by", "alice", "--why", "topped up"];
    let (code, report) = quarantine(&world, &replay).await;
    assert_eq!((code, &report[0]["applied"], &report[0]["refused"]), (0, &1.into(), &1.into()));
    let (code, report) = quarantine(&world, &replay).await;
    assert_eq!((code, &report[0]["applied"], &report[0]["refused"]), (0, &0.into(), &1.into()));
    assert_eq!(world.account("a").await, Some((110, 0, 3)));
    let ended = ("alice".to_owned(), "topped up".to_owned());
    let who: (String, String) =
        sqlx::query_as("select resolved_by, resolved_why from quarantine where state = 'replayed'")
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap();
    assert_eq!(who, ended);
    // A copy of the replayed callback is a duplicate from now on.
    world.publish(&[debit("s1", "p1", 100)]).await;
    world.settled(5).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((110, 0, 3)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_replay_beside_running_workers_loses_no_race_for_good() {
    const DEBITS: i64 = 200;
    let world = World::new().await;
    let worker = world.worker_with(&[("batch_size_max", "5")]).await;
    world.publish(&[Event::deposit("open", "a", 1)]).await;
    world.settled(1).await;
    let debits: Vec<Event> = (0..DEBITS).map(|n| debit(&format!("s{n}"), &format!("p{n}"), 2)).collect();
    world.publish(&debits).await;
    world.settled(1 + DEBITS).await;
    let deposits: Vec<Event> = (0..DEBITS).map(|n| Event::deposit(&format!("d{n}"), "a", 2)).collect();
    let (_, (code, _)) =
        tokio::join!(world.publish(&deposits), quarantine(&world, &["replay", "--all", "--by", "x"]));
    assert_eq!(code, 0);
    world.settled(1 + 2 * DEBITS).await;
    // Whatever came too early for its money comes now. Where nothing did, there is no case to replay.
    let (_, report) = quarantine(&world, &["replay", "--account", "a"]).await;
    assert_eq!(report[0]["refused"], 0, "{report:?}");
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((1, 0, 1 + 2 * DEBITS)));
    assert!(cases(&world).await.iter().all(|(.., state)| state == "replayed"));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_discarded_case_stays_out_of_the_ledger_and_says_who_and_why() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 10), debit("s", "p", 100)]).await;
    world.settled(2).await;
    let no_reason = world.program(&["quarantine", "discard", "--all"]).output().await.unwrap();
    assert_eq!(no_reason.status.code(), Some(2));
    let no_choice = world.program(&["quarantine", "discard", "--why", "x"]).output().await.unwrap();
    assert_eq!(no_choice.status.code(), Some(2));
    let too_long =
        world.program(&["quarantine", "replay", "2", "--by", &"x".repeat(201)]).output().await.unwrap();
    assert_eq!(too_long.status.code(), Some(2));
    let (code, _) = quarantine(&world, &["replay", "1", "--by", &"x".repeat(200)]).await;
    assert_eq!(code, 0, "the audit log has room for it");
    let (code, report) =
        quarantine(&world, &["discard", "1", "--yes", "--why", "refunded by hand", "--by", "bob"]).await;
    assert_eq!((code, &report[0]["discarded"]), (0, &1.into()));
    let (code, report) = quarantine(&world, &["discard", "1", "--yes", "--why", "again"]).await;
    assert_eq!((code, &report[0]["discarded"]), (1, &0.into()));
    let (code, shown) = quarantine(&world, &["show", "1"]).await;
    assert_eq!(code, 0);
    assert_eq!(
        (&shown[0]["state"], &shown[0]["resolved_by"], &shown[0]["resolved_why"], &shown[0]["amount"]),
        (&"discarded".into(), &"bob".into(), &"refunded by hand".into(), &100.into())
    );
    assert!(shown[0]["body"].as_str().unwrap().contains("\"id\":\"s\""));
    // A copy changes nothing but the count.
    world.publish(&[debit("s", "p", 100), Event::deposit("d2", "a", 1_000)]).await;
    world.settled(4).await;
    let (code, report) = quarantine(&world, &["replay", "--all"]).await;
    assert_eq!((code, &report[0]["applied"]), (1, &0.into()), "no case is left to replay");
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((1_010, 0, 2)));
    assert_eq!(cases(&world).await, [case("s", "insufficient_funds", "discarded")]);
    let (code, _) = quarantine(&world, &["show", "99"]).await;
    assert_eq!(code, 1);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_person_chooses_between_two_contents_of_one_key() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 10)]).await;
    world.settled(1).await;
    world.publish(&[debit("s", "p", 100)]).await;
    world.settled(2).await;
    world.publish(&[debit("s", "p", 4)]).await;
    world.settled(3).await;
    let both = [case("s", "insufficient_funds", "open"), case("s", "payload_mismatch", "open")];
    assert_eq!(cases(&world).await, both);
    // While the first is open, the second contradicts it.
    let (_, report) = quarantine(&world, &["replay", "2", "--by", "alice"]).await;
    assert_eq!(report[0]["refused"], 1);
    quarantine(&world, &["discard", "1", "--yes", "--why", "the provider corrected the amount"]).await;
    let (_, report) = quarantine(&world, &["replay", "2", "--by", "alice"]).await;
    assert_eq!(report[0]["applied"], 1);
    // A copy of the discarded one stays what it was.
    world.publish(&[debit("s", "p", 100)]).await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((6, 0, 2)));
    let ended = [case("s", "insufficient_funds", "discarded"), case("s", "payload_mismatch", "replayed")];
    assert_eq!(cases(&world).await, ended);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_discard_by_mistake_is_taken_back() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 1_000), debit("e1", "p1", 5_000).operation("ch_1")]).await;
    world.settled(2).await;
    world.publish(&[Event::payment("payment.captured", "early", "a", "p2", 40)]).await;
    world.settled(3).await;
    let (code, _) =
        quarantine(&world, &["discard", "--all", "--yes", "--why", "a slip", "--by", "bob"]).await;
    assert_eq!(code, 0);
    let both = |state: &str, waiting: &str| {
        [case("e1", "insufficient_funds", state), case("early", "waiting_for_payment", waiting)]
    };
    assert_eq!(cases(&world).await, both("discarded", "discarded"));
    // What the second one waits for comes while it is discarded, and comes only once.
    let auth = Event::payment("payment.authorized", "auth", "a", "p2", 40);
    world.publish(&[auth, Event::deposit("top", "a", 9_000)]).await;
    world.settled(5).await;
    assert_eq!(world.account("a").await, Some((10_000, 40, 3)));
    let reopen = ["reopen", "1", "2", "--why", "it was a slip", "--by", "bob"];
    let (code, report) = quarantine(&world, &reopen).await;
    assert_eq!((code, &report[0]["reopened"]), (0, &2.into()));
    assert_eq!(cases(&world).await, both("open", "replayed"));
    assert_eq!(world.account("a").await, Some((9_960, 0, 4)));
    let (code, shown) = quarantine(&world, &["show", "1"]).await;
    assert_eq!((code, &shown[0]["state"], &shown[0]["resolved_by"]), (0, &"open".into(), &Value::Null));
    let (code, report) = quarantine(&world, &["replay", "1"]).await;
    assert_eq!((code, &report[0]["applied"]), (0, &1.into()));
    assert_eq!(world.account("a").await, Some((4_960, 0, 5)));
    worker.stop().await;
    let log: Vec<(String, String, String, String, i64)> =
        sqlx::query_as("select who, action, why, result, cases from operator_actions order by id limit 2")
            .fetch_all(&mut world.connect().await)
            .await
            .unwrap();
    let line = |action: &str, why: &str, result: &str| {
        ("bob".to_owned(), action.to_owned(), why.to_owned(), result.to_owned(), 2)
    };
    assert_eq!(
        log,
        [line("discard", "a slip", "2 discarded"), line("reopen", "it was a slip", "2 reopened")]
    );
    world.audit().await;
    world.close().await;
}

/// (account, type, whether the payload hash is that of its case) of the ledger rows of an event.
async fn posted(world: &World, event: &str) -> Vec<(String, String, bool)> {
    sqlx::query_as(
        "select l.account_id, l.type, l.payload_sha256 = q.fingerprint
         from ledger l join quarantine q on q.source = l.source and q.event_id = l.event_id
         where l.event_id = $1 order by l.leg",
    )
    .bind(event)
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_payment_to_a_mistyped_account_is_assigned_and_applied_once() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "alice", 1_000)]).await;
    world.settled(1).await;
    let auth = Event::payment("payment.authorized", "auth", "alcie", "p", 300);
    // Its last capture, which releases the rest: a member that must not be lost on the way.
    let mut capture = Event::payment("payment.captured", "capture", "alcie", "p", 200);
    capture.is_final = true;
    world.publish(std::slice::from_ref(&auth)).await;
    world.settled(2).await;
    world.publish(std::slice::from_ref(&capture)).await;
    world.settled(3).await;
    let states = cases(&world).await;
    assert_eq!(states[0], case("auth", "unknown_account", "open"), "{states:?}");
    let assign = ["assign", "1", "--account", "alice", "--why", "a slip of the pen", "--by", "bob"];
    let (code, report) = quarantine(&world, &assign).await;
    let said = (&report[0]["assigned"], &report[0]["applied"], &report[0]["from"], &report[0]["to"]);
    assert_eq!((code, said), (0, (&1.into(), &1.into(), &"alcie".into(), &"alice".into())));
    let (code, report) =
        quarantine(&world, &["assign", "2", "--account", "alice", "--why", "the same", "--by", "bob"]).await;
    assert_eq!((code, &report[0]["applied"]), (0, &1.into()));
    assert_eq!(world.account("alice").await, Some((800, 0, 3)));
    assert_eq!(world.account("alcie").await, None);
    for (event, kind) in [("auth", "payment.authorized"), ("capture", "payment.captured")] {
        assert_eq!(posted(&world, event).await, [("alice".to_owned(), kind.to_owned(), true)]);
    }
    // The key is used up: the original, which still names the other account, is a duplicate.
    world.publish(&[auth, capture]).await;
    world.settled(5).await;
    worker.stop().await;
    assert_eq!(world.account("alice").await, Some((800, 0, 3)));
    let late = "select coalesce(sum(copies), 0)::bigint from duplicates where layer = 'ledger'";
    assert_eq!(world.number(late).await, 2);
    let log: (String, String, String, String, i64) =
        sqlx::query_as("select who, action, why, result, cases from operator_actions order by id limit 1")
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap();
    assert_eq!((log.0.as_str(), log.1.as_str(), log.4), ("bob", "assign", 1));
    assert_eq!(log.2, "a slip of the pen");
    let words = "assigned from account \"alcie\" to account \"alice\": 1 applied";
    assert!(log.3.starts_with(words), "{}", log.3);
    // What has ended is not assigned again, and not applied again.
    let (code, _) = quarantine(&world, &assign).await;
    assert_eq!((code, world.account("alice").await), (1, Some((800, 0, 3))));
    world.audit().await;
    world.close().await;
}

/// A payment of 300 to a mistyped account, assigned to alice, who has 10: two callbacks are settled.
async fn assigned_to_who_cannot_pay(world: &World) -> (RunningWorker, Event) {
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "alice", 10)]).await;
    world.settled(1).await;
    let payment = Event::payment("payment.succeeded", "s", "alcie", "p", 300);
    world.publish(std::slice::from_ref(&payment)).await;
    world.settled(2).await;
    let (code, report) =
        quarantine(world, &["assign", "1", "--account", "alice", "--why", "a slip of the pen"]).await;
    assert_eq!((code, &report[0]["refused"]), (0, &1.into()));
    (worker, payment)
}

#[tokio::test]
async fn an_assigned_case_that_cannot_be_applied_stays_open_with_its_new_reason() {
    let world = World::new().await;
    let (worker, payment) = assigned_to_who_cannot_pay(&world).await;
    assert_eq!(cases(&world).await, [case("s", "insufficient_funds", "open")]);
    // It stays assigned: a copy finds no money either, and a replay goes to the same account, whatever the message names.
    world.publish(&[payment]).await;
    world.settled(3).await;
    world.publish(&[Event::deposit("d2", "alice", 1_000)]).await;
    world.settled(4).await;
    let (code, report) = quarantine(&world, &["replay", "1"]).await;
    assert_eq!((code, &report[0]["applied"]), (0, &1.into()));
    worker.stop().await;
    assert_eq!(posted(&world, "s").await, [("alice".to_owned(), "payment.succeeded".to_owned(), true)]);
    assert_eq!(world.account("alice").await, Some((710, 0, 3)));
    assert_eq!(world.number("select cases from accounts where account_id = 'alice'").await, 1);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_copy_of_an_assigned_case_is_decided_for_the_account_that_it_was_assigned_to() {
    let world = World::new().await;
    let (worker, payment) = assigned_to_who_cannot_pay(&world).await;
    // Somebody opens the account that the callback names, and it has the money.
    world.publish(&[Event::deposit("d2", "alcie", 1_000)]).await;
    world.settled(3).await;
    world.publish(std::slice::from_ref(&payment)).await;
    world.settled(4).await;
    assert_eq!(world.account("alcie").await, Some((1_000, 0, 1)));
    assert_eq!(cases(&world).await, [case("s", "insufficient_funds", "open")]);
    // The copy decides it again: for the account that it was assigned to, once that has the money.
    world.publish(&[Event::deposit("d3", "alice", 1_000)]).await;
    world.settled(5).await;
    world.publish(&[payment]).await;
    world.settled(6).await;
    worker.stop().await;
    assert_eq!(posted(&world, "s").await, [("alice".to_owned(), "payment.succeeded".to_owned(), true)]);
    assert_eq!(world.account("alice").await, Some((710, 0, 3)));
    assert_eq!(world.account("alcie").await, Some((1_000, 0, 1)));
    assert_eq!(cases(&world).await, [case("s", "insufficient_funds", "replayed")]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_cannot_be_assigned_is_refused_in_words_and_nothing_changes() {
    let world = World::new().await;
    let worker = world.worker().await;
    let transfer = Event::new("transfer.succeeded", "t", "alcie", None, 5).with("to", "bob");
    world.publish(&[Event::deposit("d1", "alice", 10), Event::deposit("d2", "bob", 10)]).await;
    world.settled(2).await;
    world.publish(&[transfer]).await;
    world.settled(3).await;
    world.publish_raw(&[("a".to_owned(), b"no callback".to_vec())]).await;
    world.settled(4).await;
    worker.stop().await;
    let malformed = world.number("select id from quarantine where reason = 'malformed'").await.to_string();
    let unknown = world.number("select id from quarantine where reason <> 'malformed'").await.to_string();
    for (case, account, words) in [
        ("99", "alice", "there is no case 99"),
        (malformed.as_str(), "alice", "the case's message is no callback"),
        (unknown.as_str(), "nobody", "there is no account \"nobody\""),
        (unknown.as_str(), "bob", "account \"bob\" is the one that the transfer goes to"),
    ] {
        let arguments = ["quarantine", "assign", case, "--account", account, "--why", "x"];
        let output = world.program(&arguments).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(world.number("select count(*) from quarantine where members ? 'assigned'").await, 0);
    assert_eq!(world.number("select sum(cases)::bigint from accounts").await, 0);
    // An account without a name is wrong usage.
    let (code, _) = quarantine(&world, &["assign", &unknown, "--account", "", "--why", "x"]).await;
    assert_eq!(code, 2);
    let (_, report) = quarantine(&world, &["assign", &unknown, "--account", "alice", "--why", "x"]).await;
    assert_eq!(report[0]["applied"], 1, "{report:?}");
    assert_eq!(world.account("alice").await, Some((5, 0, 2)));
    assert_eq!(world.account("bob").await, Some((15, 0, 2)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_case_that_waits_again_is_applied_by_what_it_waits_for() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 1_000)]).await;
    world.settled(1).await;
    world.publish(&[Event::payment("payment.captured", "early", "a", "p", 40)]).await;
    world.settled(2).await;
    quarantine(&world, &["discard", "1", "--yes", "--why", "a slip"]).await;
    let (code, _) = quarantine(&world, &["reopen", "1", "--why", "it was a slip"]).await;
    assert_eq!((code, cases(&world).await), (0, vec![case("early", "waiting_for_payment", "waiting")]));
    world.publish(&[Event::payment("payment.authorized", "auth", "a", "p", 40)]).await;
    world.settled(3).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((960, 0, 3)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_is_not_there_is_named_and_is_no_success() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 10), debit("s1", "p1", 100), debit("s2", "p2", 100)]).await;
    world.publish_raw(&[("a".to_owned(), b"no callback".to_vec())]).await;
    world.settled(4).await;
    worker.stop().await;
    let malformed = world.number("select id from quarantine where reason = 'malformed'").await.to_string();
    let run = async |arguments: &[&str]| {
        let output = world.program(&["quarantine"]).args(arguments).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, words) in [
        (&["replay", "17"][..], "there is no case 17"),
        (&["discard", "17", "--yes", "--why", "x"], "there is no case 17"),
        (&["reopen", "17", "--why", "x"], "there is no case 17"),
        (&["reopen", "1", "--why", "x"], "case 1 is open, not discarded"),
        (&["reopen", "--reason", "over_refund", "--why", "x"], "no case fits that is discarded"),
        (&["replay", "--source", "/nobody"], "no case fits that is open or waiting"),
        (&["replay", &malformed], "nothing could be done about these cases"),
    ] {
        let (code, said) = run(arguments).await;
        assert!(code == Some(1) && said.contains(words), "{arguments:?}: {code:?} {said}");
    }
    // Nothing was done, so the audit log has but the replay that looked at one.
    assert_eq!(world.number("select count(*) from operator_actions").await, 1);
    // What is there is done, and what is not is named.
    let (code, said) = run(&["discard", "1", "17", "--yes", "--why", "x"]).await;
    assert!(code == Some(1) && said.contains("there is no case 17"), "{code:?} {said}");
    let (code, said) = run(&["replay", "1", "2"]).await;
    assert!(code == Some(1) && said.contains("case 1 is discarded, not open or waiting"), "{code:?} {said}");
    assert_eq!(world.number("select count(*) from quarantine where state = 'discarded'").await, 1);
    world.close().await;
}

#[tokio::test]
async fn a_discard_asks_with_number_and_money_before_anything_is_discarded() {
    let world = World::new().await;
    let worker = world.worker().await;
    let mut yen = debit("yen", "p3", 70);
    yen.currency = "JPY";
    world.publish(&[Event::deposit("d", "a", 10), debit("s1", "p1", 100), debit("s2", "p2", 200), yen]).await;
    world.publish_raw(&[("a".to_owned(), b"no callback".to_vec())]).await;
    world.settled(5).await;
    worker.stop().await;
    let sums = "4 cases: 3.00 EUR, 70 JPY, 1 of an unknown amount";
    let discard = ["quarantine", "discard", "--all", "--why", "x"];
    let output = world.program(&discard).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(sums) && said.contains("say --yes"), "{said}");
    for (answer, code, discarded) in [("n\n", Some(1), 0), ("\n", Some(1), 0), ("y\n", Some(0), 4)] {
        let output = world.on_terminal("quarantine discard --all --why x", answer).await;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains(sums) && shown.contains("[y/N]"), "{shown}");
        assert_eq!(output.status.code(), code, "{answer:?}: {shown}");
        let count = world.number("select count(*) from quarantine where state = 'discarded'").await;
        assert_eq!(count, discarded, "{answer:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn cases_are_listed_newest_first_in_pages_and_by_every_filter() {
    let world = World::new().await;
    let worker = world.worker().await;
    let mut events: Vec<Event> = (0..5)
        .map(|n| Event::payment("payment.succeeded", &format!("s{n}"), "nobody", &format!("p{n}"), 1))
        .collect();
    events.push(Event::payment("payment.captured", "early", "b", "q", 1));
    events.push(Event::deposit("open", "b", 1));
    // First the account, so that the capture waits.
    events.rotate_right(1);
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(n as i64 + 1).await;
    }
    worker.stop().await;
    let ids = async |arguments: &[&str]| -> Vec<i64> {
        let (code, lines) = quarantine(&world, arguments).await;
        assert_eq!(code, 0);
        lines.iter().map(|line| line["id"].as_i64().unwrap()).collect()
    };
    let all = ids(&["list", "--state", "all"]).await;
    assert!(all.len() == 6 && all.is_sorted_by(|a, b| a > b), "{all:?}");
    let first = ids(&["list", "--limit", "2"]).await;
    let second = ids(&["list", "--limit", "2", "--before", &first[1].to_string()]).await;
    assert_eq!([first, second].concat(), ids(&["list", "--limit", "4"]).await);
    for (arguments, expected) in [
        (&["list"][..], 5),
        (&["list", "--state", "waiting"], 1),
        (&["list", "--reason", "unknown_account", "--account", "nobody"], 5),
        (&["list", "--account", "b", "--state", "all"], 1),
        (&["list", "--source", "/providers/test"], 5),
        (&["list", "--source", "/providers/other"], 0),
        (&["list", "--older-than", "1h"], 0),
        (&["list", "--newer-than", "1h"], 5),
    ] {
        assert_eq!(ids(arguments).await.len(), expected, "{arguments:?}");
    }
    let (code, _) = quarantine(&world, &["list", "--reason", "bad_luck"]).await;
    assert_eq!(code, 2);
    world.close().await;
}

#[tokio::test]
async fn what_waits_too_long_becomes_an_open_case_and_can_still_be_replayed() {
    let world = World::new().await;
    let workers = [
        world.worker_with(&[("waiting_max_ms", "1000"), ("waiting_sweep_ms", "10")]).await,
        world.worker_with(&[("waiting_max_ms", "1000"), ("waiting_sweep_ms", "10")]).await,
    ];
    world.publish(&[Event::deposit("d", "a", 100)]).await;
    world.settled(1).await;
    world.publish(&[Event::payment("payment.captured", "early", "a", "p", 40)]).await;
    world.settled(2).await;
    let expired = vec![case("early", "waiting_expired", "open")];
    eventually("the capture's time is up", expired, || cases(&world)).await;
    // The event it waited for comes after all: an open case is left to people.
    world.publish(&[Event::payment("payment.authorized", "auth", "a", "p", 40)]).await;
    world.settled(3).await;
    assert_eq!(world.account("a").await, Some((100, 40, 2)));
    let (code, report) = quarantine(&world, &["replay", "--reason", "waiting_expired"]).await;
    assert_eq!((code, &report[0]["applied"]), (0, &1.into()));
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(world.account("a").await, Some((60, 0, 3)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn dead_letters_are_decided_like_any_other_callback() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("known", "a", 100)]).await;
    world.settled(1).await;
    // The broker moves messages there by itself; how they got there makes no difference.
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let bodies = [
        Event::deposit("known", "a", 100).body(),
        Event::deposit("dead-lettered", "a", 7).body(),
        debit("poor", "p", 5_000).body(),
        b"not even JSON".to_vec(),
    ];
    for body in &bodies {
        let queue = world.names().dead_queue;
        channel
            .basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                body,
                BasicProperties::default(),
            )
            .await
            .unwrap();
    }
    world.settled(5).await;
    let mut open = cases(&world).await;
    open.sort();
    let expected = [case("", "delivery_limit", "open"), case("poor", "insufficient_funds", "open")];
    assert_eq!(open, expected);
    assert_eq!(world.account("a").await, Some((107, 0, 2)));
    // A copy of it that comes by the queue is a copy.
    world.publish(&[Event::deposit("dead-lettered", "a", 7)]).await;
    world.settled(6).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((107, 0, 2)));
    assert_eq!(world.ready_messages(&world.names().dead_queue).await, 0);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_payment_is_shown_with_its_sums_entries_and_cases() {
    let world = World::new().await;
    let worker = world.worker().await;
    let events = [
        Event::deposit("d", "a", 1_000),
        Event::payment("payment.authorized", "auth", "a", "p", 100),
        Event::payment("payment.captured", "c1", "a", "p", 30),
        Event::payment("payment.captured", "c2", "a", "p", 71),
    ];
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(n as i64 + 1).await;
    }
    worker.stop().await;
    let shown = world.program(&["payment", "/providers/test", "p", "--json"]).output().await.unwrap();
    assert_eq!(shown.status.code(), Some(0));
    let story: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (&story["state"], &story["authorized"], &story["captured"], &story["account_id"]),
        (&"authorized".into(), &100.into(), &30.into(), &"a".into())
    );
    assert_eq!(story["entries"].as_array().unwrap().len(), 2);
    assert_eq!(story["quarantined"][0]["reason"], "over_capture");
    let text = world.program(&["payment", "/providers/test", "p"]).output().await.unwrap();
    assert!(String::from_utf8(text.stdout).unwrap().contains("over_capture"));
    let none = world.program(&["payment", "/providers/test", "other"]).output().await.unwrap();
    assert_eq!(none.status.code(), Some(1));
    world.close().await;
}

/// An age is counted back from now, and now moves on; what the person asked for does not.
#[tokio::test]
async fn a_repeated_command_with_ages_is_answered_as_the_first_was() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "a", 10), debit("s1", "p1", 100), debit("s2", "p2", 5_000)]).await;
    world.settled(3).await;
    worker.stop().await;
    let keyed = ["--why", "w", "--by", "anna", "--idempotency-key"];
    for (verb, age, key) in [
        (&["discard", "--yes"][..], ["--newer-than", "7d"], "k1"),
        (&["reopen"], ["--older-than", "0s"], "k2"),
        (&["replay"], ["--newer-than", "36h"], "k3"),
    ] {
        let command = [verb, &age, &keyed, &[key]].concat();
        let (first, again) = (quarantine(&world, &command).await, quarantine(&world, &command).await);
        assert_eq!((first.0, &again), (0, &first), "{command:?}");
    }
    assert_eq!(world.number("select count(*) from operator_actions").await, 3);
    let says = "select count(*) from operator_actions where chosen like '%first seen within 604800 s'";
    assert_eq!(world.number(says).await, 1);
    // Another age is another request.
    let other = [&["discard", "--yes", "--newer-than", "8d"], &keyed[..], &["k1"]].concat();
    assert_eq!(quarantine(&world, &other).await.0, 1);
    world.close().await;
}
