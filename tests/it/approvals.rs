//! What a second person has to approve: proposed by one, carried out once by another, whatever happens in between. And requests that are sent
//! again: answered as the first was.

use serde_json::Value;

use crate::support::{Event, World, eventually};

/// Exit code, the last line of standard output as JSON, standard error.
type Said = (Option<i32>, Value, String);

/// The program, where every act that can be needs a second person.
async fn run(world: &World, arguments: &[&str]) -> Said {
    run_with(world, arguments, &[("PAYONCE_APPROVALS", "adjust,assign,discard,bulk")]).await
}

/// The program, where nothing needs one.
async fn alone(world: &World, arguments: &[&str]) -> Said {
    run_with(world, arguments, &[]).await
}

async fn run_with(world: &World, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = world.program(arguments);
    command.arg("--json");
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().await.expect("the payonce binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
    (output.status.code(), serde_json::from_slice(last).unwrap_or(Value::Null), said)
}

#[track_caller]
fn assert_refused((code, _, said): Said, words: &str) {
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

/// Proposes, and returns the proposal's id.
async fn propose(world: &World, arguments: &[&str], by: &str) -> String {
    let (code, answer, said) = run(world, &[arguments, &["--why", "a mistake", "--by", by]].concat()).await;
    assert_eq!((code, answer["outcome"].as_str()), (Some(0), Some("proposed")), "{answer} {said}");
    answer["proposal"]["id"].to_string()
}

async fn approve(world: &World, proposal: &str, by: &str) -> Said {
    run(world, &["approvals", "approve", proposal, "--by", by]).await
}

/// A world with an open account `a` with this balance, made by somebody who needed nobody.
async fn with_account(balance: &str) -> World {
    let world = World::new().await;
    assert_eq!(alone(&world, &["account", "open", "a", "EUR", "--why", "new"]).await.0, Some(0));
    let arguments = ["adjust", "a", "credit", balance, "EUR", "--why", "start", "--by", "zoe"];
    assert_eq!(alone(&world, &arguments).await.0, Some(0));
    world
}

/// (state, who decided, whether a line of the audit log carried it out) of each proposal.
async fn proposals(world: &World) -> Vec<(String, Option<String>, bool)> {
    sqlx::query_as("select state, decided_by, action_id is not null from proposals order by id")
        .fetch_all(&mut world.connect().await)
        .await
        .expect("the proposals can be read")
}

/// (who, who proposed, result) of the lines that carried a proposal out.
async fn carried_out(world: &World) -> Vec<(String, String, String)> {
    sqlx::query_as(
        "select who, proposed_by, result from operator_actions where proposed_by is not null order by id",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .expect("the audit log can be read")
}

#[tokio::test]
async fn of_clerks_at_once_one_carries_a_proposal_out_and_the_audit_log_names_both_people() {
    let world = with_account("1000").await;
    let id = propose(&world, &["adjust", "a", "debit", "300", "EUR", "--id", "x"], "anna").await;
    assert_eq!(world.account("a").await, Some((1_000, 0, 1)), "nothing is done yet");
    let (_, listed, _) = run(&world, &["approvals", "list"]).await;
    assert_eq!((&listed["state"], &listed["proposed_by"]), (&"proposed".into(), &"anna".into()), "{listed}");
    assert_eq!(listed["chosen"], "debit 3.00 EUR, account a, id x");

    let clerks = ["bob", "carl", "dora"];
    let (bob, carl, dora) = tokio::join!(
        approve(&world, &id, clerks[0]),
        approve(&world, &id, clerks[1]),
        approve(&world, &id, clerks[2])
    );
    let answers = [bob, carl, dora];
    let done: Vec<usize> = (0..3).filter(|at| answers[*at].0 == Some(0)).collect();
    assert_eq!(done.len(), 1, "{answers:?}");
    for (at, answer) in answers.iter().enumerate().filter(|(at, _)| *at != done[0]) {
        assert!(answer.2.contains("has approved it already"), "{at}: {answer:?}");
    }
    assert_eq!(world.account("a").await, Some((700, 0, 2)));
    let winner = clerks[done[0]];
    assert_eq!(proposals(&world).await, [("approved".to_owned(), Some(winner.to_owned()), true)]);
    let log = carried_out(&world).await;
    assert_eq!((log.len(), log[0].0.as_str(), log[0].1.as_str()), (1, winner, "anna"), "{log:?}");
    assert!(log[0].2.starts_with("posted: balance 7.00 EUR"), "{log:?}");

    // Asked once more, whoever did it is answered the same; and so is who proposed it.
    let (code, again, said) = approve(&world, &id, winner).await;
    assert_eq!((code, &again["outcome"]["balance"]), (Some(0), &700.into()), "{again} {said}");
    let repeated = ["adjust", "a", "debit", "300", "EUR", "--id", "x", "--why", "a mistake", "--by", "anna"];
    let (code, answer, _) = run(&world, &repeated).await;
    assert_eq!((code, &answer["outcome"]), (Some(0), &"approved".into()), "{answer}");
    assert_refused(
        run(&world, &["adjust", "a", "debit", "301", "EUR", "--id", "x", "--why", "w"]).await,
        "used for something else",
    );
    assert_eq!(world.account("a").await, Some((700, 0, 2)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn nobody_approves_their_own_proposal_however_they_spell_their_name() {
    let world = with_account("1000").await;
    let id = propose(&world, &["adjust", "a", "credit", "5", "EUR"], "anna").await;
    for name in ["anna", "Anna", " anna "] {
        assert_refused(approve(&world, &id, name).await, "another person has to approve it");
    }
    // The database itself refuses it, whoever asks.
    let by_hand = sqlx::query(
        "update proposals set state = 'approved', decided_at = now(), decided_by = 'ANNA', action_id = (select min(id) from operator_actions)",
    )
    .execute(&mut world.connect().await)
    .await;
    assert!(by_hand.is_err_and(|error| error.to_string().contains("proposals_second_person")));
    assert_eq!(proposals(&world).await, [("proposed".to_owned(), None, false)]);
    assert_eq!(world.account("a").await, Some((1_000, 0, 1)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_rejected_and_an_expired_proposal_are_not_carried_out() {
    let world = with_account("1000").await;
    let rejected = propose(&world, &["adjust", "a", "credit", "5", "EUR"], "anna").await;
    let expired = propose(&world, &["adjust", "a", "credit", "6", "EUR"], "anna").await;
    let reject = ["approvals", "reject", &rejected, "--why", "no reason given", "--by", "bob"];
    assert_eq!(run(&world, &reject).await.0, Some(0));
    assert_eq!(run(&world, &reject).await.0, Some(0), "said once more");
    assert_refused(approve(&world, &rejected, "carl").await, "bob has rejected it");
    sqlx::query("update proposals set expires_at = clock_timestamp() where state = 'proposed'")
        .execute(&mut world.connect().await)
        .await
        .unwrap();
    assert_refused(approve(&world, &expired, "carl").await, "has expired");
    let (_, shown, _) = run(&world, &["approvals", "show", &expired]).await;
    assert_eq!(shown["state"], "expired");
    let (code, listed, _) = run(&world, &["approvals", "list"]).await;
    assert_eq!((code, listed), (Some(0), Value::Null), "nothing waits");
    // Its author takes it back.
    assert_eq!(
        run(&world, &["approvals", "reject", &expired, "--why", "late", "--by", "anna"]).await.0,
        Some(0)
    );
    assert_refused(approve(&world, "99", "carl").await, "no such proposal");
    assert_eq!(world.account("a").await, Some((1_000, 0, 1)));
    // What cannot be posted is not proposed.
    assert_refused(
        run(&world, &["adjust", "a", "credit", "5", "USD", "--why", "w"]).await,
        "currency_mismatch",
    );
    assert_eq!(proposals(&world).await.len(), 2);
    // Their ids stay used, for the same content as well; the answer says by what, since when, and what to do.
    for (id, words) in [(&rejected, "bob at 20"), (&expired, "anna at 20")] {
        let (_, shown, _) = run(&world, &["approvals", "show", id]).await;
        let (id, amount) = (shown["idempotency_key"].as_str().unwrap(), &shown["arguments"]["amount"]);
        let (amount, money) = (amount.to_string(), format!("{:.2} EUR", amount.as_f64().unwrap() / 100.0));
        let again = ["adjust", "a", "credit", &amount, "EUR", "--id", id, "--why", "again"];
        for answer in [run(&world, &again).await, alone(&world, &again).await] {
            assert_refused(answer.clone(), &format!("proposal {} (adjust credit {money}", shown["id"]));
            assert_refused(answer.clone(), &format!("was rejected by {words}"));
            assert_refused(answer, "ask with another");
        }
    }
    let id = propose(&world, &["adjust", "a", "credit", "7", "EUR", "--id", "late"], "anna").await;
    sqlx::query("update proposals set expires_at = clock_timestamp() where state = 'proposed'")
        .execute(&mut world.connect().await)
        .await
        .unwrap();
    let again = ["adjust", "a", "credit", "7", "EUR", "--id", "late", "--why", "again"];
    assert_refused(run(&world, &again).await, &format!("proposal {id} (adjust credit 0.07 EUR"));
    assert_refused(run(&world, &again).await, "expired at 20");
    world.audit().await;
    world.close().await;
}

/// Debits of an account with too little, each a case.
async fn with_cases(amounts: &[i64]) -> World {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 10)]).await;
    world.settled(1).await;
    for (n, amount) in amounts.iter().enumerate() {
        let (event, payment) = (format!("s{n}"), format!("p{n}"));
        world.publish(&[Event::payment("payment.succeeded", &event, "a", &payment, *amount)]).await;
        world.settled(n as i64 + 2).await;
    }
    worker.stop().await;
    world
}

#[tokio::test]
async fn a_crash_while_a_proposal_is_carried_out_leaves_all_of_it_or_nothing() {
    let world = with_cases(&[500, 600]).await;
    assert_eq!(alone(&world, &["account", "open", "b", "EUR", "--why", "w"]).await.0, Some(0));
    let acts: [(&[&str], &[&str]); 3] = [
        (
            &["adjust", "a", "credit", "7", "EUR"],
            &["after_accounts", "after_insert", "before_commit", "after_commit"],
        ),
        (
            &["quarantine", "assign", "1", "--account", "b"],
            &["replay", "after_accounts", "before_commit", "after_commit"],
        ),
        (&["quarantine", "discard", "2", "--yes"], &["before_commit", "after_commit"]),
    ];
    for (arguments, points) in acts {
        let id = propose(&world, arguments, "anna").await;
        let traces = async || {
            world
                .number(
                    "select (select count(*) from ledger) + (select count(*) from operator_actions)
                          + (select count(*) from operator_action_cases) + (select sum(cases) from accounts)::bigint
                          + (select count(*) from quarantine where state = 'discarded' or account_id = 'b')
                          + (select count(*) from proposals where state = 'approved')",
                )
                .await
        };
        let before = traces().await;
        for point in points {
            let told = format!("{point}=abort");
            let crash = [("PAYONCE_CRASH_POINT", told.as_str())];
            let (code, ..) = run_with(&world, &["approvals", "approve", &id, "--by", "bob"], &crash).await;
            assert_eq!(code, None, "{arguments:?} dies at {point}");
            if *point != "after_commit" {
                assert_eq!(traces().await, before, "{arguments:?} at {point}: nothing is left of it");
            }
        }
        // The last one died after its commit: it is done, and is not done again.
        let after = traces().await;
        assert!(after > before, "{arguments:?}");
        let (code, line, said) = approve(&world, &id, "bob").await;
        assert_eq!((code, line["ended_at"].is_string()), (Some(0), true), "{arguments:?}: {line} {said}");
        assert_refused(approve(&world, &id, "carl").await, "bob has approved it already");
        assert_eq!(traces().await, after, "{arguments:?}: once");
    }
    assert_eq!(world.account("a").await, Some((17, 0, 2)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn an_assignment_writes_after_what_was_committed_while_it_waited_for_its_account() {
    let world = with_cases(&[500]).await;
    assert_eq!(alone(&world, &["account", "open", "b", "EUR", "--why", "w"]).await.0, Some(0));
    let funds = ["adjust", "b", "credit", "1000", "EUR", "--why", "start", "--by", "zoe"];
    assert_eq!(alone(&world, &funds).await.0, Some(0));
    let id = propose(&world, &["quarantine", "assign", "1", "--account", "b"], "anna").await;
    let mut other = world.connect().await;
    // A lock of the table is taken without a transaction id: that comes with the first write, after the one of the assignment.
    sqlx::raw_sql("begin; lock table accounts in share mode").execute(&mut other).await.unwrap();
    let between = async {
        eventually("the assignment waits for its account", true, async || {
            let waits = "select count(*) from pg_locks where relation = 'accounts'::regclass and not granted";
            world.number(waits).await > 0
        })
        .await;
        let batch = "update accounts set balance = balance + 1, version = version + 1 where account_id = 'b';
            insert into ledger (source, event_id, leg, type, account_id, account_version, amount, currency,
                                balance_delta, held_delta, balance_after, held_after, payload_sha256)
            select source, 'between', 0, type, account_id, account_version + 1, 1, currency,
                   1, 0, balance_after + 1, held_after, payload_sha256
            from ledger where account_id = 'b';
            commit";
        sqlx::raw_sql(batch).execute(&mut other).await.unwrap();
    };
    let ((code, line, said), ()) = tokio::join!(approve(&world, &id, "bob"), between);
    assert_eq!((code, &line["outcome"]["applied"]), (Some(0), &1.into()), "{line} {said}");
    assert_eq!(world.account("b").await, Some((501, 0, 3)));
    let order = "select count(*) from (select account_version as v, rank() over (order by txn) as r
                                       from ledger where account_id = 'b') l where v <> r";
    assert_eq!(world.number(order).await, 0, "feeds read the versions in order");
    world.close().await;
}

#[tokio::test]
async fn a_late_original_of_what_is_assigned_moves_no_money_twice() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "alice", 1_000)]).await;
    world.settled(1).await;
    let payment = Event::payment("payment.succeeded", "s", "alcie", "p", 300);
    world.publish(std::slice::from_ref(&payment)).await;
    world.settled(2).await;
    let id = propose(&world, &["quarantine", "assign", "1", "--account", "alice"], "anna").await;
    // Before it is approved, while it is, and after.
    world.publish(std::slice::from_ref(&payment)).await;
    world.settled(3).await;
    assert_eq!(world.account("alice").await, Some((1_000, 0, 1)), "nothing is done yet");
    let copies = vec![payment.clone(); 20];
    let ((code, line, said), ()) = tokio::join!(approve(&world, &id, "bob"), world.publish(&copies));
    assert_eq!((code, &line["outcome"]["applied"]), (Some(0), &1.into()), "{line} {said}");
    world.settled(23).await;
    world.publish(&[payment]).await;
    world.settled(24).await;
    worker.stop().await;
    assert_eq!(world.account("alice").await, Some((700, 0, 2)));
    assert_eq!(world.account("alcie").await, None);
    let log = carried_out(&world).await;
    assert_eq!((log[0].0.as_str(), log[0].1.as_str()), ("bob", "anna"));
    assert!(
        log[0].2.starts_with("assigned from account \"alcie\" to account \"alice\": 1 applied"),
        "{log:?}"
    );
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_list_that_changed_since_it_was_proposed_is_refused_with_the_numbers() {
    let world = with_cases(&[500, 600, 700]).await;
    let discard = ["quarantine", "discard", "--reason", "insufficient_funds", "--yes"];
    let id = propose(&world, &discard, "anna").await;
    assert_eq!(
        alone(&world, &["quarantine", "discard", "2", "--yes", "--why", "done by hand"]).await.0,
        Some(0)
    );
    let refused = approve(&world, &id, "bob").await;
    assert!(
        refused.2.contains("3 cases: 18.00 EUR") && refused.2.contains("2 cases: 12.00 EUR"),
        "{refused:?}"
    );
    assert_refused(refused, "the cases have changed since the proposal");
    assert_eq!(world.number("select count(*) from quarantine where state = 'discarded'").await, 1);
    assert_eq!(proposals(&world).await, [("proposed".to_owned(), None, false)]);

    // Proposed anew; what comes later is not in it.
    let id = propose(&world, &discard, "anna").await;
    let worker = world.worker().await;
    world.publish(&[Event::payment("payment.succeeded", "later", "a", "later", 900)]).await;
    world.settled(5).await;
    worker.stop().await;
    let (code, line, said) = approve(&world, &id, "bob").await;
    assert_eq!((code, &line["outcome"]["discarded"]), (Some(0), &2.into()), "{line} {said}");
    assert_eq!(world.number("select count(*) from quarantine where state = 'open'").await, 1);
    assert_eq!(world.number("select count(*) from quarantine where resolved_by = 'bob'").await, 2);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn many_by_filter_need_a_second_person_and_one_by_its_id_does_not() {
    let world = with_cases(&[500, 600, 700]).await;
    let bulk = [("PAYONCE_APPROVALS", "bulk")];
    let alone = async |arguments: &[&str]| run_with(&world, arguments, &bulk).await;
    let (code, answer, said) = alone(&["quarantine", "replay", "1"]).await;
    assert_eq!((code, &answer["refused"]), (Some(0), &1.into()), "{said}");
    let (code, answer, said) = alone(&["quarantine", "discard", "1", "--yes", "--why", "w"]).await;
    assert_eq!((code, &answer["discarded"]), (Some(0), &1.into()), "{said}");
    sqlx::query("update accounts set balance = balance").execute(&mut world.connect().await).await.unwrap();
    for (verb, done) in [("replay", "refused"), ("discard", "discarded"), ("reopen", "reopened")] {
        let mut arguments = vec!["quarantine", verb, "--all", "--why", "w", "--by", "anna"];
        arguments.extend((verb == "discard").then_some("--yes"));
        let (code, answer, said) = alone(&arguments).await;
        assert_eq!(
            (code, answer["outcome"].as_str()),
            (Some(0), Some("proposed")),
            "{verb}: {answer} {said}"
        );
        let id = answer["proposal"]["id"].to_string();
        let (code, line, said) = approve(&world, &id, "bob").await;
        let cases = if verb == "reopen" { 3 } else { 2 };
        assert_eq!((code, &line["outcome"][done]), (Some(0), &cases.into()), "{verb}: {line} {said}");
        assert_eq!((&line["cases"], &line["proposed_by"]), (&cases.into(), &"anna".into()));
    }
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_answered_as_the_first_was() {
    let world = with_cases(&[500, 600]).await;
    assert_eq!(alone(&world, &["account", "open", "b", "EUR", "--why", "w"]).await.0, Some(0));
    let key = |name: &'static str| ["--why", "w", "--idempotency-key", name];
    let requests: [(&[&str], &str); 5] = [
        (&["quarantine", "assign", "1", "--account", "b"], "k1"),
        (&["quarantine", "discard", "--all", "--yes"], "k2"),
        (&["quarantine", "reopen", "--all"], "k3"),
        (&["account", "freeze", "b"], "k4"),
        (&["account", "open", "b"], "k5"),
    ];
    for (arguments, name) in requests {
        let arguments = [arguments, &key(name)].concat();
        let first = alone(&world, &arguments).await;
        let lines = world.number("select count(*) from operator_actions").await;
        let again = alone(&world, &arguments).await;
        assert_eq!((first.0, again.0), (Some(0), Some(0)), "{first:?} {again:?}");
        assert_eq!(first.1, again.1, "{arguments:?}");
        assert_eq!(
            world.number("select count(*) from operator_actions").await,
            lines,
            "nothing is done again"
        );
    }
    // The reopened ones stay open: an old request is no new one.
    assert_eq!(
        alone(&world, &[&["quarantine", "discard", "--all", "--yes"][..], &key("k2")].concat()).await.0,
        Some(0)
    );
    assert_eq!(world.number("select count(*) from quarantine where state = 'open'").await, 2);
    for arguments in [&["quarantine", "discard", "2", "--yes"][..], &["account", "freeze", "a"]] {
        assert_refused(alone(&world, &[arguments, &key("k4")].concat()).await, "used for something else");
    }
    let adjust = ["adjust", "b", "credit", "5", "EUR", "--why", "w", "--id", "x"];
    let (first, again) = (alone(&world, &adjust).await, alone(&world, &adjust).await);
    assert_eq!((first.0, again.0), (Some(0), Some(0)), "{first:?} {again:?}");
    assert_eq!((&first.1["balance"], &first.1["repeated"]), (&5.into(), &false.into()));
    assert_eq!((&again.1["balance"], &again.1["repeated"]), (&5.into(), &true.into()));
    world.audit().await;
    world.close().await;
}

/// What stands between an approval and the end of a replay: a crash, or a server that goes down.
#[tokio::test]
async fn an_approved_replay_that_was_cut_short_is_carried_on_when_it_is_approved_again() {
    for was_told in [false, true] {
        let world = with_cases(&[500, 600, 700]).await;
        let funds = ["adjust", "a", "credit", "2000", "EUR", "--why", "start", "--by", "zoe"];
        assert_eq!(alone(&world, &funds).await.0, Some(0));
        let id = propose(&world, &["quarantine", "replay", "--all"], "anna").await;
        let crash = [("PAYONCE_CRASH_POINT", "after_commit=abort")];
        let (code, ..) = run_with(&world, &["approvals", "approve", &id, "--by", "bob"], &crash).await;
        assert_eq!(code, None, "it dies once it is approved");
        assert_eq!(proposals(&world).await, [("approved".to_owned(), Some("bob".to_owned()), true)]);
        assert_eq!(world.account("a").await, Some((2_010, 0, 2)), "no case was decided");
        if was_told {
            let stopped = "update operator_actions set ended_at = clock_timestamp(), result = 'not all was done', \
                           outcome = '{\"stopped\": true}' where proposed_by is not null";
            sqlx::query(stopped).execute(&mut world.connect().await).await.unwrap();
        }
        assert_refused(approve(&world, &id, "carl").await, "bob has approved it already");
        let (code, line, said) = approve(&world, &id, "bob").await;
        assert_eq!((code, &line["outcome"]["applied"]), (Some(0), &3.into()), "{line} {said}");
        assert_eq!((&line["cases"], line["ended_at"].is_string()), (&3.into(), true), "{line}");
        assert_eq!(world.account("a").await, Some((210, 0, 5)));
        let again = approve(&world, &id, "bob").await;
        assert_eq!((again.0, &again.1), (Some(0), &line), "nothing is left to do");
        assert_eq!(carried_out(&world).await.len(), 1);
        world.audit().await;
        world.close().await;
    }
}

#[tokio::test]
async fn a_waiting_proposals_key_is_nobody_elses() {
    let world = with_account("1000").await;
    let id = propose(&world, &["adjust", "a", "debit", "300", "EUR", "--id", "x"], "anna").await;
    for act in [["account", "freeze"], ["account", "close"]] {
        let act = [&act[..], &["a", "--why", "w", "--idempotency-key", "x"]].concat();
        assert_refused(alone(&world, &act).await, "used for something else");
    }
    let (code, answer, said) = approve(&world, &id, "bob").await;
    assert_eq!((code, &answer["outcome"]["balance"]), (Some(0), &700.into()), "{answer} {said}");

    // Of two at once the other one may have come first all the same: that is said, not tried again and again.
    let id = propose(&world, &["adjust", "a", "debit", "300", "EUR", "--id", "y"], "anna").await;
    sqlx::query(
        "insert into operator_actions (who, via, action, why, chosen, idempotency_key) values ('eve', 'web', 'freeze', 'w', 'account z', 'y')",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let refused = approve(&world, &id, "bob").await;
    assert_refused(refused.clone(), "used for another act meanwhile");
    assert_refused(refused, "freeze account z");
    assert_eq!(world.account("a").await, Some((700, 0, 2)));
    world.audit().await;
    world.close().await;
}
