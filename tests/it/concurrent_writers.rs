//! Two workers that looked at the same moment: each has a plan, one commits first. What the other then writes is exact, not a matter
//! of chance, because here the steps between load and commit are called by hand.

use std::{sync::Arc, time::Duration};

use payonce::{
    ledger::{AccountId, AccountStatus, Callback, CaseId, Expires, Plan, decide, decide_cases},
    store::{
        self, Applied, Batch, Database, PgConnection, Resolver, StoreError,
        accounts::{self, Order, Ordered},
        actions::Via,
        quarantine,
    },
    wire,
};

use crate::support::{Event, World};

/// What a worker holds between load and commit.
struct Decided {
    callbacks: Vec<Callback>,
    bodies: Vec<Vec<u8>>,
    plan: Plan,
}

async fn load_and_decide(connection: &mut PgConnection, events: &[Event]) -> Decided {
    let bodies: Vec<Vec<u8>> = events.iter().map(Event::body).collect();
    let callbacks: Vec<Callback> =
        bodies.iter().map(|body| wire::decode(body).expect("a sound callback")).collect();
    let snapshot = store::load(connection, &callbacks).await.expect("the snapshot is read");
    let plan = decide(&snapshot, &callbacks, &Default::default());
    Decided { callbacks, bodies, plan }
}

async fn apply(connection: &mut PgConnection, decided: &Decided) -> Result<Applied, StoreError> {
    let bodies: Vec<&[u8]> = decided.bodies.iter().map(Vec::as_slice).collect();
    let batch = Batch {
        locking: store::Locking::Wait,
        writer: "concurrent/0",
        plan: decided.plan.clone(),
        callbacks: &decided.callbacks,
        bodies: &bodies,
        mask_cards: true,
        references: &[],
        undecodable: &[],
        resolver: Resolver::WORKER,
        remembered: &[],
        proven: &[],
    };
    store::apply(connection, batch).await
}

async fn apply_now(connection: &mut PgConnection, events: &[Event]) {
    let decided = load_and_decide(connection, events).await;
    let applied = apply(connection, &decided).await.expect("it is applied");
    assert!(applied.lost.is_empty());
}

fn is_conflict(result: &Result<Applied, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

#[tokio::test]
async fn a_stale_balance_is_not_written_and_its_neighbours_are() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100), Event::deposit("b1", "b", 100)]).await;

    let stale =
        load_and_decide(&mut second, &[Event::deposit("a3", "a", 10), Event::deposit("b2", "b", 10)]).await;
    apply_now(&mut first, &[Event::deposit("a2", "a", 1)]).await;
    let applied =
        apply(&mut second, &stale).await.expect("a conflict about one account costs the others nothing");
    assert_eq!(applied.lost, [AccountId::new("a").expect("an account id")].into());
    assert_eq!(world.account("a").await, Some((101, 0, 2)));
    assert_eq!(world.account("b").await, Some((110, 0, 2)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_was_decided_before_a_freeze_is_decided_again() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100)]).await;

    let account_id = AccountId::new("a").expect("an account id");
    let stale = load_and_decide(&mut second, &[Event::payment("payment.succeeded", "s", "a", "p", 30)]).await;
    let order = Order {
        account_id: &account_id,
        to: AccountStatus::Frozen,
        currency: None,
        who: "anna",
        via: Via::CommandLine,
        why: "why",
        key: None,
    };
    let frozen = accounts::change(&mut first, &order).await.expect("it is frozen");
    assert_eq!(frozen, Ordered::Changed(AccountStatus::Open));
    let applied = apply(&mut second, &stale).await.expect("the rest of the batch stands");
    assert_eq!(applied.lost, [account_id].into());
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    world.audit().await;
    world.close().await;
}

/// A new session would have to be opened, set up and to plan all statements anew, at each of many conflicts.
#[tokio::test]
async fn who_had_a_conflict_keeps_the_session_and_nothing_of_the_transaction() {
    let world = World::new().await;
    let mut first = world.connect().await;
    apply_now(&mut first, &[Event::deposit("a1", "a", 100)]).await;
    let database = Database::new(&world.database_url, "a test", Duration::from_secs(10)).expect("an address");
    let mut lane = store::Connection::new(Arc::new(database));
    let session = async |connection: &mut PgConnection| {
        Ok::<i32, StoreError>(sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await?)
    };
    let before = lane.run(session).await.expect("a session");
    // One key about two accounts: the ledger's unique key refuses the second.
    let stale = lane
        .run(async |connection| Ok(load_and_decide(connection, &[Event::deposit("one", "b", 10)]).await))
        .await
        .expect("the snapshot is read");
    apply_now(&mut first, &[Event::deposit("one", "a", 10)]).await;
    let lost = lane.run(async |connection| apply(connection, &stale).await).await;
    assert!(is_conflict(&lost), "{lost:?}");
    assert_eq!(lane.run(session).await.expect("a session"), before);
    assert_eq!(world.account("b").await, None);
    // Nor does it hold a lock.
    apply_now(&mut first, &[Event::deposit("b1", "b", 10)]).await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn one_key_about_two_accounts_is_applied_to_one() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100), Event::deposit("b1", "b", 100)]).await;

    let late = load_and_decide(&mut second, &[Event::deposit("one", "b", 7)]).await;
    apply_now(&mut first, &[Event::deposit("one", "a", 7)]).await;
    let result = apply(&mut second, &late).await;
    assert!(is_conflict(&result), "{result:?}");
    assert_eq!(world.account("a").await, Some((107, 0, 2)));
    assert_eq!(world.account("b").await, Some((100, 0, 1)));
    // Looked at again, it is what it is: another content under a key that is taken.
    apply_now(&mut second, &[Event::deposit("one", "b", 7)]).await;
    assert_eq!(world.number("select count(*) from quarantine where reason = 'payload_mismatch'").await, 1);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn one_operation_about_two_accounts_is_applied_to_one() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100), Event::deposit("b1", "b", 100)]).await;

    let late = load_and_decide(&mut second, &[Event::deposit("b2", "b", 7).operation("op")]).await;
    apply_now(&mut first, &[Event::deposit("a2", "a", 7).operation("op")]).await;
    let result = apply(&mut second, &late).await;
    assert!(is_conflict(&result), "{result:?}");
    assert_eq!(world.account("b").await, Some((100, 0, 1)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_case_that_a_person_discards_meanwhile_is_not_released() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100)]).await;
    apply_now(&mut first, &[Event::payment("payment.captured", "w", "a", "p", 5)]).await;

    let late =
        load_and_decide(&mut second, &[Event::payment("payment.authorized", "auth", "a", "p", 5)]).await;
    let discarded =
        quarantine::discard(&mut first, &quarantine::Filter::default(), "somebody", "by hand").await;
    assert_eq!(discarded.expect("it is discarded"), 1);
    let result = apply(&mut second, &late).await;
    assert!(is_conflict(&result), "{result:?}");
    // Looked at again, the authorization is applied without it.
    apply_now(&mut second, &[Event::payment("payment.authorized", "auth", "a", "p", 5)]).await;
    assert_eq!(world.account("a").await, Some((100, 5, 2)));
    assert_eq!(world.number("select count(*) from quarantine where state = 'discarded'").await, 1);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn copies_on_two_workers_are_applied_or_quarantined_never_both() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 1)]).await;

    // For the first there is not enough money; the second sees a deposit before it in its own batch.
    let debit = Event::payment("payment.succeeded", "d", "a", "p", 5);
    let late = load_and_decide(&mut second, &[Event::deposit("a2", "a", 10), debit.clone()]).await;
    apply_now(&mut first, std::slice::from_ref(&debit)).await;
    let applied = apply(&mut second, &late).await.expect("the account is lost, not the batch");
    assert_eq!(applied.lost.len(), 1);
    apply_now(&mut second, &[Event::deposit("a2", "a", 10), debit]).await;
    let in_ledger = world.number("select count(*) from ledger where event_id = 'd'").await;
    let in_quarantine =
        world.number("select count(*) from quarantine where event_id = 'd' and state = 'open'").await;
    assert_eq!(in_ledger + in_quarantine, 1);
    world.audit().await;
    world.close().await;
}

/// One worker stored the callback to wait while another applied its fact under another event, about another account: no guard sees both.
#[tokio::test]
async fn what_waits_while_a_concurrent_writer_applies_its_operation_is_not_released_for_ever_in_vain() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100), Event::deposit("b1", "b", 100)]).await;
    apply_now(&mut first, &[Event::payment("payment.authorized", "b2", "b", "pb", 50)]).await;

    let capture =
        |id, account, payment| Event::payment("payment.captured", id, account, payment, 20).operation("op");
    let waits = load_and_decide(&mut first, &[capture("a2", "a", "pa")]).await;
    let applied = load_and_decide(&mut second, &[capture("b3", "b", "pb")]).await;
    assert!(apply(&mut first, &waits).await.expect("it waits").lost.is_empty());
    assert!(apply(&mut second, &applied).await.expect("it is applied").lost.is_empty());

    apply_now(&mut first, &[Event::payment("payment.authorized", "a3", "a", "pa", 50)]).await;
    assert_eq!(world.account("a").await, Some((100, 50, 2)));
    assert_eq!(world.account("b").await, Some((80, 30, 3)));
    let case = (Some("a2".to_owned()), "payload_mismatch".to_owned(), "open".to_owned(), 1);
    assert_eq!(world.cases().await, [case]);
    world.audit().await;
    world.close().await;
}

/// Of two that are decided on one snapshot each sees money enough for itself.
#[tokio::test]
async fn of_two_that_want_the_last_of_the_money_at_one_moment_one_gets_it() {
    let debit = |id, payment| Event::payment("payment.succeeded", id, "a", payment, 7);
    let hold = |id, payment| Event::payment("payment.authorized", id, "a", payment, 7);
    for (one, other) in [(debit("x", "p"), debit("y", "q")), (hold("x", "p"), debit("y", "q"))] {
        let world = World::new().await;
        let (mut first, mut second) = (world.connect().await, world.connect().await);
        apply_now(&mut first, &[Event::deposit("a1", "a", 10)]).await;
        let late = load_and_decide(&mut second, std::slice::from_ref(&other)).await;
        apply_now(&mut first, &[one]).await;
        assert_eq!(apply(&mut second, &late).await.expect("the account is lost").lost.len(), 1);
        apply_now(&mut second, &[other]).await;
        assert_eq!(world.number("select (balance - held)::bigint from accounts").await, 3);
        let case = (Some("y".to_owned()), "waiting_for_funds".to_owned(), "waiting".to_owned(), 1);
        assert_eq!(world.cases().await, [case]);
        world.audit().await;
        world.close().await;
    }
}

/// Their cases are stored by one statement, whatever their keys are.
#[tokio::test]
async fn of_those_that_wait_since_one_batch_the_first_has_the_money() {
    let world = World::new().await;
    let mut writer = world.connect().await;
    let debit = |id, payment| Event::payment("payment.succeeded", id, "a", payment, 7);
    apply_now(&mut writer, &[Event::deposit("a1", "a", 1)]).await;
    apply_now(&mut writer, &[debit("z", "p"), debit("b", "q")]).await;
    apply_now(&mut writer, &[Event::deposit("a2", "a", 6)]).await;
    assert_eq!(world.number("select count(*) from ledger where event_id = 'z'").await, 1);
    let waits = |case: &(Option<String>, String, String, i32)| case.2 == "waiting";
    let waiting: Vec<_> = world.cases().await.into_iter().filter(waits).map(|case| case.0).collect();
    assert_eq!(waiting, [Some("b".to_owned())]);
    world.audit().await;
    world.close().await;
}

/// Nor do they name an account: no guard keeps two batches from storing them, in whatever order they came.
#[tokio::test]
async fn of_those_that_wait_without_an_account_the_first_has_the_money() {
    let world = World::new().await;
    let mut writer = world.connect().await;
    let refund = |id| Event::payment("refund.succeeded", id, "", "p", 60).nameless();
    let ids = ["m", "z", "b", "x", "a", "n"];
    apply_now(&mut writer, &ids.map(refund)).await;
    apply_now(&mut writer, &[Event::deposit("a1", "a", 100)]).await;
    apply_now(&mut writer, &[Event::payment("payment.succeeded", "a2", "a", "p", 70)]).await;
    let cases: Vec<_> = world.cases().await.into_iter().map(|case| case.0.unwrap()).collect();
    assert_eq!(cases, ids, "numbered as they came");
    assert_eq!(world.number("select count(*) from ledger where event_id = 'm'").await, 1);
    world.audit().await;
    world.close().await;
}

/// The payment of the one that waits is another account's, and a deposit has the same id.
#[tokio::test]
async fn what_waits_without_an_account_is_not_taken_for_one_of_an_unknown_account() {
    let world = World::new().await;
    let mut writer = world.connect().await;
    apply_now(&mut writer, &[Event::deposit("a1", "a", 10), Event::deposit("b1", "b", 10)]).await;
    let adjusted = Event::payment("payment.authorization_adjusted", "adj", "", "p", 5).nameless();
    apply_now(&mut writer, &[adjusted]).await;
    apply_now(&mut writer, &[Event::payment("payment.failed", "no", "b", "p", 0)]).await;
    apply_now(&mut writer, &[Event::payment("deposit.succeeded", "a2", "a", "p", 1)]).await;
    let case = (Some("adj".to_owned()), "waiting_for_payment".to_owned(), "waiting".to_owned(), 1);
    assert_eq!(world.cases().await, [case]);
    apply_now(&mut writer, &[Event::payment("payment.authorized", "auth", "b", "p", 4)]).await;
    assert_eq!(world.account("b").await, Some((10, 5, 4)));
    world.audit().await;
    world.close().await;
}

/// It waited for its payment first, and nobody knew whose that is: from when it waits for money it is found by whoever brings that, also at
/// this moment, and no sweep is needed.
#[tokio::test]
async fn what_waits_without_an_account_and_lacks_money_in_the_end_is_released_by_the_money() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 10)]).await;
    let adjusted = Event::payment("payment.authorization_adjusted", "adj", "", "p", 15).nameless();
    apply_now(&mut first, &[adjusted]).await;
    let money = Event::deposit("a2", "a", 5);
    let late = load_and_decide(&mut second, std::slice::from_ref(&money)).await;
    apply_now(&mut first, &[Event::payment("payment.authorized", "auth", "a", "p", 5)]).await;
    let case = (Some("adj".to_owned()), "waiting_for_funds".to_owned(), "waiting".to_owned(), 1);
    assert_eq!(world.cases().await, [case]);
    let counted = "select cases - (select count(*) from quarantine q where q.account_id = a.account_id) from accounts a";
    assert_eq!(world.number(counted).await, 0);
    assert_eq!(world.number("select cases from accounts").await, 1);
    assert_eq!(apply(&mut second, &late).await.expect("the account is lost").lost.len(), 1);
    apply_now(&mut second, &[money]).await;
    assert_eq!(world.account("a").await, Some((15, 15, 4)));
    world.audit().await;
    world.close().await;
}

/// A movement of another account has the operation id of what waits for its payment: it says nothing, and that account counts no case.
#[tokio::test]
async fn a_movement_with_its_operation_id_does_not_say_whose_a_case_is() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let other = Event::deposit("o1", "other", 100).operation("op");
    let adjusted =
        Event::payment("payment.authorization_adjusted", "adj", "", "p", 15).nameless().operation("op");
    for event in [other, adjusted, Event::deposit("a1", "a", 10)] {
        apply_now(&mut connection, &[event]).await;
    }
    assert_eq!(world.number("select count(*) from quarantine where account_id is null").await, 1);
    apply_now(&mut connection, &[Event::payment("payment.authorized", "auth", "a", "p", 5)]).await;
    assert_eq!(world.number("select count(*) from quarantine where account_id = 'a'").await, 1);
    assert_eq!(world.number("select cases from accounts where account_id = 'other'").await, 0);
    world.audit().await;
    world.close().await;
}

/// A person's replay read the case before another writer found its account and counted it there, and the account after that.
#[tokio::test]
async fn a_case_whose_account_was_found_meanwhile_is_not_counted_twice() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 10)]).await;
    let adjusted = Event::payment("payment.authorization_adjusted", "adj", "", "p", 15).nameless();
    apply_now(&mut first, &[adjusted]).await;
    let id = CaseId(world.number("select id from quarantine").await);
    let (before, _) = quarantine::load_cases(&mut second, &[id]).await.expect("the case");
    apply_now(&mut first, &[Event::payment("payment.authorized", "auth", "a", "p", 5)]).await;
    let (_, after) = quarantine::load_cases(&mut second, &[id]).await.expect("the case");
    let plan = decide_cases(&after, &before, &Default::default(), Expires::Nothing);
    let stale = Decided { callbacks: Vec::new(), bodies: Vec::new(), plan };
    let refused = apply(&mut second, &stale).await.expect_err("it has an account");
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused}");
    assert_eq!(world.number("select cases from accounts").await, 1);
    world.audit().await;
    world.close().await;
}

/// One writer does not know the payment yet, and stores the case of the copy that it has without an account.
#[tokio::test]
async fn an_account_does_not_count_a_case_that_another_writer_stored_without_it() {
    let world = World::new().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    apply_now(&mut first, &[Event::deposit("a1", "a", 100)]).await;
    let refund = Event::payment("refund.succeeded", "too much", "", "p", 60).nameless();
    let without_account = load_and_decide(&mut second, std::slice::from_ref(&refund)).await;
    apply_now(&mut first, &[Event::payment("payment.succeeded", "a2", "a", "p", 50)]).await;
    let with_account = load_and_decide(&mut first, &[refund]).await;
    assert!(with_account.plan.new_cases.iter().all(|case| case.account_id.is_some()));
    apply(&mut second, &without_account).await.expect("a case");
    apply(&mut first, &with_account).await.expect("a copy of it");
    assert_eq!(world.number("select attempts::bigint from quarantine").await, 2);
    let counted = "select cases - (select count(*) from quarantine q where q.account_id = a.account_id) from accounts a";
    assert_eq!(world.number(counted).await, 0);
    world.audit().await;
    world.close().await;
}
