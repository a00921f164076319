//! Every end that a callback or a waiting case can have is really reached: a rule that never fires is not tested by a property.

use std::collections::{HashMap, HashSet};

use payonce::ledger::{
    Account, CaseEnd, CaseId, Currency, Kind, Known, Layer, Outcome, Plan, Reason, Snapshot, StoredCase,
    decide,
};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

use crate::{
    draft::{Draft, build},
    streams::{Accounts, cut, cuts, opened, stream},
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
    let ends = [Outcome::Applied, Outcome::Waiting];
    layers.map(Outcome::Duplicate).into_iter().chain(reasons.map(Outcome::Quarantined)).chain(ends).collect()
}

#[test]
fn generated_streams_reach_every_outcome_and_no_other() {
    let mut runner = TestRunner::deterministic();
    let mut told: HashMap<Outcome, usize> = HashMap::new();
    let mut released: HashMap<&str, usize> = HashMap::new();
    for _ in 0..RUNS {
        let stream = stream(60, Accounts::Mixed).new_tree(&mut runner).unwrap().current();
        let sizes = cuts().new_tree(&mut runner).unwrap().current();
        let (_, mut book) = opened();
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
    for end in ["applied", "over_capture", "over_refund", "invalid_transition"] {
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
        // Told as `Outcome::Waiting`.
        Reason::WaitingForPayment,
    ];
    let mut all: HashSet<Outcome> = Reason::ALL.into_iter().map(Outcome::Quarantined).collect();
    all.extend(Layer::ALL.map(Outcome::Duplicate));
    all.extend([Outcome::Applied, Outcome::Waiting]);
    all.retain(|outcome| !elsewhere.map(Outcome::Quarantined).contains(outcome));
    all.remove(&Outcome::Duplicate(Layer::Redis));
    assert_eq!(all, tellable());
}

/// Two captures of one payment, stored as waiting side by side by rival workers; then the authorization comes.
fn authorize_with_waiting(waiting: &[Draft]) -> Plan {
    let mut snapshot = Snapshot::default();
    let authorization = Draft::new("auth", Kind::PaymentAuthorized, 100).build();
    let currency = Currency::parse("CNY").unwrap();
    let account = Account { balance: 500, version: 3, ..Account::unopened(currency, 2) };
    snapshot.accounts.insert(authorization.account_id.clone(), account);
    let cases = build(waiting).into_iter().zip(1..);
    let cases: Vec<_> = cases.map(|(callback, id)| StoredCase { id: CaseId(id), callback }).collect();
    snapshot.waiting.insert(authorization.payment_key().unwrap(), cases);
    decide(&snapshot, &[authorization])
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
fn a_discarded_case_still_turns_its_copies_away() {
    // `load` reports cases in any state; a person's decision is not undone by a provider's retry.
    let callback = Draft::new("evt", Kind::DepositSucceeded, 5).build();
    let known = Known::Case {
        id: CaseId(7),
        fingerprint: callback.fingerprint,
        reason: Reason::WaitingExpired,
        is_discarded: false,
    };
    let snapshot =
        Snapshot { known: HashMap::from([(callback.key.clone(), vec![known])]), ..Snapshot::default() };
    let plan = decide(&snapshot, &[callback]);
    assert_eq!(plan.outcomes, [Outcome::Duplicate(Layer::Quarantine)]);
    assert_eq!((plan.case_copies[0].id, plan.case_copies[0].copies), (CaseId(7), 1));
    assert!(plan.entries.is_empty());
}

/// Decides two copies of a callback with an operation id, of which the database knows this.
#[track_caller]
fn check_layers(by_key: &[Known], by_operation: Option<Known>, expected: [Outcome; 2]) {
    let callback = layered().build();
    let mut snapshot = Snapshot::default();
    snapshot.known.insert(callback.key.clone(), by_key.to_vec());
    snapshot.operations.extend(by_operation.map(|known| (callback.operation_key().unwrap(), known)));
    assert_eq!(decide(&snapshot, &[callback.clone(), callback]).outcomes, expected);
}

fn layered() -> Draft {
    Draft::new("evt", Kind::DepositSucceeded, 5).operation("op")
}

#[test]
fn layers_are_tried_in_the_contracts_order() {
    let fingerprint = layered().build().fingerprint;
    let applied = Known::Ledger(fingerprint);
    let case =
        Known::Case { id: CaseId(1), fingerprint, reason: Reason::WaitingExpired, is_discarded: false };
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
