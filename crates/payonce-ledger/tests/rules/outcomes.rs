//! Every end that a callback or a waiting case can have is really reached: a rule that never fires is not tested by a property.

use std::collections::{HashMap, HashSet};

use payonce_ledger::{
    Account, Callback, CaseEnd, CaseId, CaseState, Currency, Kind, Known, Layer, Outcome, Plan, Reason,
    Rules, Snapshot, StoredCase, decide,
};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

use crate::{
    book::Book,
    draft::{Draft, build},
    streams::{Accounts, OPENED, cut, cuts, stream},
};

const RUNS: usize = 400;

/// What `decide` can tell; Redis, signatures, the broker's limit, the clock, and unreadable bodies are other modules' business.
fn tellable() -> HashSet<Outcome> {
    let layers = [Layer::Batch, Layer::Ledger, Layer::Operation, Layer::Quarantine];
    let reasons = [
        Reason::PayloadMismatch,
        Reason::UnknownAccount,
        Reason::CurrencyMismatch,
        Reason::InsufficientFunds,
        Reason::InvalidTransition,
        Reason::OverCapture,
        Reason::OverRefund,
        Reason::AmountOverflow,
    ];
    let ends = [
        Outcome::Applied,
        Outcome::Waiting(Reason::WaitingForPayment),
        Outcome::Waiting(Reason::WaitingForFunds),
    ];
    layers.map(Outcome::Duplicate).into_iter().chain(reasons.map(Outcome::Quarantined)).chain(ends).collect()
}

#[test]
fn generated_streams_reach_every_outcome_and_no_other() {
    let mut runner = TestRunner::deterministic();
    let mut told: HashMap<Outcome, usize> = HashMap::new();
    let mut released: HashMap<&str, usize> = HashMap::new();
    for run in 0..RUNS {
        let stream = stream(60, Accounts::Mixed).new_tree(&mut runner).unwrap().current();
        let sizes = cuts().new_tree(&mut runner).unwrap().current();
        // In every second run what lacks money is a case at once.
        let mut book = Book::with(Rules { waits_for_funds: run % 2 == 0, ..Rules::default() });
        OPENED.into_iter().for_each(|(account, balance)| book.open(account, balance));
        for batch in cut(&build(&stream), &sizes) {
            let plan = book.take(batch);
            for outcome in &plan.outcomes {
                *told.entry(*outcome).or_default() += 1;
            }
            for case in &plan.resolved_cases {
                let end = match &case.end {
                    CaseEnd::Applied => "applied",
                    CaseEnd::Duplicate(_) => "duplicate",
                    CaseEnd::Open(reason, _) => reason.as_str(),
                };
                *released.entry(end).or_default() += 1;
            }
        }
    }
    assert_eq!(told.keys().copied().collect::<HashSet<_>>(), tellable(), "{told:?}");
    // Each often enough that it is also met in combination with the others.
    assert!(told.values().all(|times| *times >= 20), "{told:?}");
    for end in ["applied", "over_capture", "over_refund", "invalid_transition", "waiting_for_funds"] {
        assert!(
            released.get(end).is_some_and(|times| *times >= 5),
            "waiting cases end as {end}: {released:?}"
        );
    }
}

#[test]
fn what_decide_does_not_tell_has_another_teller() {
    let elsewhere = [
        Reason::Malformed,
        Reason::UnsupportedType,
        Reason::BadSignature,
        Reason::WaitingExpired,
        Reason::DeliveryLimit,
        Reason::Unmapped,
        // Told as `Outcome::Waiting`.
        Reason::WaitingForPayment,
        Reason::WaitingForFunds,
    ];
    let mut all: HashSet<Outcome> = Reason::ALL.iter().copied().map(Outcome::Quarantined).collect();
    all.extend(Layer::ALL.map(Outcome::Duplicate));
    let waiting = Reason::ALL.iter().copied().filter(|reason| reason.is_waiting());
    all.extend(waiting.map(Outcome::Waiting).chain([Outcome::Applied]));
    all.retain(|outcome| !elsewhere.map(Outcome::Quarantined).contains(outcome));
    all.remove(&Outcome::Duplicate(Layer::Redis));
    assert_eq!(all, tellable());
}

/// Two captures of one payment, stored as waiting side by side by two workers; then the authorization comes.
fn authorize_with_waiting(waiting: &[Draft]) -> Plan {
    let mut snapshot = Snapshot::default();
    let authorization = Draft::new("auth", Kind::PaymentAuthorized, 100).build();
    let currency = Currency::parse("CNY").unwrap();
    let account = Account { balance: 500, version: 3, ..Account::unopened(currency, 2) };
    snapshot.accounts.insert(authorization.account_id.clone().unwrap(), account);
    let cases = build(waiting).into_iter().zip(1..);
    let reason = Reason::WaitingForPayment;
    let stored = |(callback, id): (Callback, i64)| {
        let account_id = callback.account_id.clone();
        StoredCase { id: CaseId(id), reason, account_id, callback }
    };
    snapshot.waiting = cases.map(stored).collect();
    decide(&snapshot, &[authorization], &Rules::default())
}

#[test]
fn two_events_of_one_fact_that_wait_side_by_side_move_money_once() {
    let capture = Draft::new("first", Kind::PaymentCaptured, 30).operation("op");
    let plan = authorize_with_waiting(&[capture.clone(), capture.under("second")]);
    assert_eq!(plan.entries.len(), 2, "the authorization and one capture");
    assert_eq!(plan.accounts[0].after.balance, 470);
    let [first, second] = &plan.resolved_cases[..] else { panic!("{:?}", plan.resolved_cases) };
    assert_eq!((first.id, &first.end), (CaseId(1), &CaseEnd::Applied));
    assert_eq!(second.id, CaseId(2));
    assert!(matches!(second.end, CaseEnd::Duplicate(_)), "{:?}", second.end);
}

#[test]
fn of_two_contradicting_events_of_one_operation_that_wait_side_by_side_the_second_needs_a_person() {
    let capture = Draft::new("first", Kind::PaymentCaptured, 30).operation("op");
    let plan =
        authorize_with_waiting(&[capture, Draft::new("second", Kind::PaymentCaptured, 31).operation("op")]);
    assert_eq!(plan.accounts[0].after.balance, 470);
    let [first, second] = &plan.resolved_cases[..] else { panic!("{:?}", plan.resolved_cases) };
    assert_eq!(first.end, CaseEnd::Applied);
    assert!(matches!(second.end, CaseEnd::Open(Reason::PayloadMismatch, _)), "{:?}", second.end);
}

#[test]
fn copies_of_a_discarded_case_are_still_rejected() {
    // `load` reports cases in any state; a person's decision is not undone by a provider's retry.
    let callback = Draft::new("evt", Kind::DepositSucceeded, 5).build();
    let known = Known::Case {
        id: CaseId(7),
        fingerprint: callback.fingerprint,
        reason: Reason::WaitingExpired,
        state: CaseState::Discarded,
    };
    let snapshot =
        Snapshot { known: HashMap::from([(callback.key.clone(), vec![known])]), ..Snapshot::default() };
    let plan = decide(&snapshot, &[callback], &Rules::default());
    assert_eq!(plan.outcomes, [Outcome::Duplicate(Layer::Quarantine)]);
    assert_eq!((plan.case_copies[0].id, plan.case_copies[0].copies), (CaseId(7), 1));
    assert!(plan.entries.is_empty());
}

/// Nobody's decision about one event settles another: somebody has to look.
#[test]
fn a_second_event_of_a_discarded_fact_becomes_a_case() {
    let callback = layered().build();
    let fingerprint = callback.fingerprint;
    let reason = Reason::WaitingExpired;
    let decide_besides = |state| {
        let known = Known::Case { id: CaseId(7), fingerprint, reason, state };
        let operation = callback.operation_key().unwrap();
        let snapshot = Snapshot { operations: HashMap::from([(operation, known)]), ..Snapshot::default() };
        decide(&snapshot, std::slice::from_ref(&callback), &Rules::default())
    };
    let plan = decide_besides(CaseState::Discarded);
    assert_eq!(plan.outcomes, [Outcome::Quarantined(Reason::InvalidTransition)]);
    assert!(plan.entries.is_empty() && plan.new_cases[0].detail.contains("case 7"), "{plan:?}");
    for state in [CaseState::Open, CaseState::Waiting, CaseState::Replayed] {
        let outcomes = decide_besides(state).outcomes;
        assert_eq!(outcomes, [Outcome::Duplicate(Layer::Operation)], "{state:?}");
    }
}

/// Decides two copies of a callback with an operation id, of which the database knows this.
#[track_caller]
fn check_layers(by_key: &[Known], by_operation: Option<Known>, expected: [Outcome; 2]) {
    let callback = layered().build();
    let mut snapshot = Snapshot::default();
    snapshot.known.insert(callback.key.clone(), by_key.to_vec());
    snapshot.operations.extend(by_operation.map(|known| (callback.operation_key().unwrap(), known)));
    let plan = decide(&snapshot, &[callback.clone(), callback], &Rules::default());
    assert_eq!(plan.outcomes, expected);
}

fn layered() -> Draft {
    Draft::new("evt", Kind::DepositSucceeded, 5).operation("op")
}

#[test]
fn layers_are_tried_in_the_contracts_order() {
    let fingerprint = layered().build().fingerprint;
    let applied = Known::Ledger(fingerprint);
    let reason = Reason::WaitingExpired;
    let case = Known::Case { id: CaseId(1), fingerprint, reason, state: CaseState::Replayed };
    let batch = Outcome::Duplicate(Layer::Batch);
    check_layers(&[], None, [Outcome::Applied, batch]);
    check_layers(&[applied], Some(applied), [Outcome::Duplicate(Layer::Ledger), batch]);
    check_layers(&[case, applied], Some(applied), [Outcome::Duplicate(Layer::Ledger), batch]);
    check_layers(&[], Some(applied), [Outcome::Duplicate(Layer::Operation), batch]);
    check_layers(&[], Some(case), [Outcome::Duplicate(Layer::Operation), batch]);
    // A case of its own, and the fact is in the ledger under another key.
    check_layers(&[case], Some(applied), [Outcome::Duplicate(Layer::Operation), batch]);
    // Its own case has the operation.
    check_layers(&[case], Some(case), [Outcome::Duplicate(Layer::Quarantine), batch]);
    // The key belongs to other content; the fact is known all the same.
    let other = Known::Ledger(layered().currency("USD").build().fingerprint);
    check_layers(&[other], Some(applied), [Outcome::Duplicate(Layer::Operation), batch]);
    check_layers(&[other], None, [Outcome::Quarantined(Reason::PayloadMismatch), batch]);
    check_layers(&[applied], Some(other), [Outcome::Duplicate(Layer::Ledger), batch]);
    check_layers(&[], Some(other), [Outcome::Quarantined(Reason::PayloadMismatch), batch]);
}
