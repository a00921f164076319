//! The life of one payment and of one deposit as tables: what has happened, what comes, and what becomes of it. `docs/payments.md` shows
//! them to people, with a drawing; both are worked out here from the code, compared with the naive model, and with the document.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test lists the types that matter where it stands")]

use std::{collections::BTreeMap, fs, path::Path};

use payonce_ledger::{AccountStatus, Kind, Outcome, PaymentState, Reason, Rules};

use crate::{
    book::Book,
    draft::{Draft, build},
    model::Model,
};

const BALANCE: i64 = 1000;

fn event(kind: Kind, amount: i64) -> Draft {
    Draft::new("evt", kind, amount)
}

fn opened(rules: Rules) -> Book {
    let mut book = Book::with(rules);
    book.open("acct", BALANCE);
    book.open("other", BALANCE);
    book
}

/// What becomes of `event` after all of `before`: `balance held → state`, or why it is not applied.
fn after(before: &[Draft], event: &Draft) -> String {
    let mut book = opened(Rules::default());
    let mut model = Model::default();
    model.open("acct", BALANCE);
    model.open("other", BALANCE);
    for draft in before {
        let plan = book.take(&build(std::slice::from_ref(draft)));
        assert_eq!(plan.outcomes, [Outcome::Applied], "{draft:?}");
    }
    model.take_all(before);
    model.take(event);
    let plan = book.take(&build(std::slice::from_ref(event)));
    assert_eq!(book.view().difference(&model.view()), "", "{before:?}, then {event:?}");
    match plan.outcomes[..] {
        [Outcome::Applied] => {
            let [entry] = &plan.entries[..] else { panic!("{:?}", plan.entries) };
            let deltas = format!("{:+} {:+}", entry.leg.balance_delta, entry.leg.held_delta);
            match &plan.payments[..] {
                [change] => format!("{deltas} → {}", change.after.facts.state().as_str()),
                _ => deltas,
            }
        }
        [Outcome::Waiting(Reason::WaitingForPayment)] => "waits for a callback".to_owned(),
        [Outcome::Waiting(_)] => "waits for funds or room".to_owned(),
        [Outcome::Quarantined(reason)] => reason.as_str().to_owned(),
        _ => panic!("{:?}", plan.outcomes),
    }
}

/// What has happened to the payment that stands for its state.
fn history(state: PaymentState) -> Vec<Draft> {
    let auth = || event(Kind::PaymentAuthorized, 100).under("auth").operation("a");
    let capture = |amount| event(Kind::PaymentCaptured, amount).under("capture").operation("c");
    let refund = || event(Kind::RefundSucceeded, 10).under("refund").operation("r");
    match state {
        PaymentState::Expected => Vec::new(),
        PaymentState::Authorized => vec![auth(), capture(30), refund()],
        PaymentState::Captured => vec![auth(), capture(60).finally(), refund()],
        PaymentState::Succeeded => vec![event(Kind::PaymentSucceeded, 60).under("debit"), refund()],
        PaymentState::Voided => vec![auth(), event(Kind::PaymentVoided, 100).under("void")],
        PaymentState::Expired => vec![auth(), event(Kind::PaymentVoided, 0).under("payonce.expired:0")],
        PaymentState::Failed => vec![event(Kind::PaymentFailed, 100).under("fail")],
    }
}

fn events() -> Vec<(&'static str, Draft)> {
    vec![
        ("`payment.authorized` 40", event(Kind::PaymentAuthorized, 40).operation("a2")),
        ("`payment.authorization_adjusted` 140", event(Kind::PaymentAuthorizationAdjusted, 140)),
        ("`payment.captured` 20", event(Kind::PaymentCaptured, 20)),
        ("`payment.captured` 20, final", event(Kind::PaymentCaptured, 20).finally()),
        ("`payment.captured` 70", event(Kind::PaymentCaptured, 70)),
        ("`payment.capture_failed` 30", event(Kind::PaymentCaptureFailed, 30).operation("c")),
        ("`payment.voided`", event(Kind::PaymentVoided, 0)),
        ("`payment.voided` 10, part", event(Kind::PaymentVoided, 10).partly()),
        ("the hold's time is up", event(Kind::PaymentVoided, 0).under("payonce.expired:1")),
        ("`payment.succeeded` 40", event(Kind::PaymentSucceeded, 40).operation("second")),
        ("`payment.failed`", event(Kind::PaymentFailed, 100)),
        ("`refund.succeeded` 20", event(Kind::RefundSucceeded, 20)),
        ("`refund.failed` 10", event(Kind::RefundFailed, 10).operation("r")),
    ]
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = vec![format!("| {} |", head.join(" | ")), format!("|{}", "---|".repeat(head.len()))];
    lines.extend(rows.map(|cells| format!("| {} |", cells.join(" | "))));
    lines.join("\n")
}

fn payments() -> String {
    let mut head = vec!["what comes"];
    head.extend(PaymentState::ALL.map(PaymentState::as_str));
    let rows = events().into_iter().map(|(name, event)| {
        let cells = PaymentState::ALL.map(|state| after(&history(state), &event));
        std::iter::once(name.to_owned()).chain(cells).collect()
    });
    table(&head, rows)
}

fn deposits() -> String {
    let of = |id: &str, kind: Kind, amount: i64| event(kind, amount).under(id).payment("top-up");
    let came = || of("deposit", Kind::DepositSucceeded, 100);
    let histories = [
        Vec::new(),
        vec![came()],
        vec![came(), of("back", Kind::DepositRefunded, 80)],
        vec![came(), of("dispute", Kind::DepositDisputed, 100)],
    ];
    let head = ["what comes", "nothing", "100 came", "and 80 went back", "and 100 were disputed"];
    let rows = [
        ("`deposit.succeeded` 50", Kind::DepositSucceeded),
        ("`deposit.refunded` 50", Kind::DepositRefunded),
        ("`deposit.disputed` 50", Kind::DepositDisputed),
        ("`deposit.reinstated` 50", Kind::DepositReinstated),
    ];
    let rows = rows.into_iter().map(|(name, kind)| {
        let event = of("evt", kind, 50).operation("another");
        let cells = histories.iter().map(|before| after(before, &event));
        std::iter::once(name.to_owned()).chain(cells).collect()
    });
    table(&head, rows)
}

/// Every change of state that one callback makes.
fn drawing() -> String {
    let mut edges: BTreeMap<(usize, &str), Vec<&str>> = BTreeMap::new();
    for (name, event) in events() {
        let name = name.trim_matches('`').split(['`', ' ']).next().filter(|name| name.contains('.'));
        let name = name.unwrap_or("time is up");
        let typical = PaymentState::ALL.map(history).into_iter().enumerate();
        // Of a hold that nothing is captured of.
        let untouched = (1, history(PaymentState::Authorized).into_iter().take(1).collect());
        for (at, before) in typical.chain([untouched]) {
            let end = after(&before, &event);
            let becomes =
                PaymentState::ALL.into_iter().find(|it| end.ends_with(&format!("→ {}", it.as_str())));
            if let Some(next) = becomes.filter(|next| *next != PaymentState::ALL[at]) {
                let names = edges.entry((at, next.as_str())).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    let mut lines = vec!["```mermaid".to_owned(), "stateDiagram-v2".to_owned()];
    lines.extend(edges.into_iter().map(|((from, to), names)| {
        let from = PaymentState::ALL[from];
        let from = if from == PaymentState::Expected { "[*]" } else { from.as_str() };
        format!("    {from} --> {to}: {}", names.join(", "))
    }));
    lines.push("```".to_owned());
    lines.join("\n")
}

#[test]
fn the_document_draws_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/payments.md");
    let document = fs::read_to_string(path).unwrap();
    let parts = [drawing(), payments(), deposits()];
    let missing: Vec<String> = parts.into_iter().filter(|part| !document.contains(part)).collect();
    assert!(missing.is_empty(), "docs/payments.md does not hold this:\n\n{}\n", missing.join("\n\n"));
}

#[test]
fn every_type_of_a_payment_or_deposit_has_a_row() {
    let known: Vec<Kind> = events().iter().map(|(_, event)| event.content.kind).collect();
    for kind in Kind::ALL {
        let stands_alone =
            matches!(kind, Kind::FeeCharged | Kind::TransferSucceeded | Kind::AdjustmentPosted);
        assert!(known.contains(kind) || kind.is_of_deposit() || stands_alone, "{kind:?}");
    }
    for state in PaymentState::ALL.into_iter().skip(1) {
        let mut book = opened(Rules::default());
        history(state).iter().for_each(|draft| drop(book.take(&build(std::slice::from_ref(draft)))));
        let payment = book.view().payments.into_values().next().unwrap();
        assert_eq!(payment.state, state.as_str(), "its history leads to it");
    }
}

#[track_caller]
fn check(before: &[Draft], event: &Draft, expected: &str) {
    assert_eq!(after(before, event), expected, "{before:?}, then {event:?}");
}

#[test]
fn what_stands_alone_moves_its_amount() {
    check(&[], &event(Kind::DepositSucceeded, 40), "+40 +0");
    check(&[], &event(Kind::FeeCharged, 1001), "-1001 +0");
    check(&[], &event(Kind::AdjustmentPosted, 40), "+40 +0");
    check(&[], &event(Kind::AdjustmentPosted, 1001).debit(), "-1001 +0");
    check(&[], &event(Kind::TransferSucceeded, 1000), "-1000 +0");
    check(&[], &event(Kind::TransferSucceeded, 1001), "waits for funds or room");
}

#[test]
fn a_hold_and_a_debit_need_available_money() {
    let fee = event(Kind::FeeCharged, 200).under("fee");
    check(std::slice::from_ref(&fee), &event(Kind::PaymentAuthorized, 800), "+0 +800 → authorized");
    check(std::slice::from_ref(&fee), &event(Kind::PaymentAuthorized, 801), "waits for funds or room");
    check(std::slice::from_ref(&fee), &event(Kind::PaymentSucceeded, 800), "-800 +0 → succeeded");
    check(&[fee], &event(Kind::PaymentSucceeded, 801), "waits for funds or room");
}

#[test]
fn captures_add_up_to_what_was_ever_authorized_and_refunds_to_what_was_ever_captured() {
    let given = history(PaymentState::Authorized);
    check(&given, &event(Kind::PaymentCaptured, 71), "waits for funds or room");
    check(&given, &event(Kind::RefundSucceeded, 21), "waits for funds or room");
    let lower = event(Kind::PaymentAuthorizationAdjusted, 40).under("lower").at(9);
    let lowered = [given, vec![lower]].concat();
    check(&lowered, &event(Kind::PaymentCaptured, 70), "-70 -10 → captured");
    // A running total: what is new of it.
    check(
        &history(PaymentState::Authorized),
        &event(Kind::PaymentCaptured, 50).total(),
        "-20 -20 → authorized",
    );
    check(
        &history(PaymentState::Authorized),
        &event(Kind::PaymentCaptured, 20).total(),
        "+0 +0 → authorized",
    );
}

#[test]
fn a_running_total_of_what_goes_back_counts_what_is_new_of_it() {
    let came = event(Kind::DepositSucceeded, 100).payment("pay").under("came");
    let total = |amount| event(Kind::DepositRefunded, amount).payment("pay").total();
    let given = [came, total(30).under("first").operation("one")];
    check(&given, &total(50).operation("two"), "-20 +0");
    check(&given, &total(20).operation("two"), "+0 +0");
    check(&given, &total(101).operation("two"), "waits for funds or room");
}

#[test]
fn each_status_of_an_account_has_the_name_that_is_stored() {
    let names = AccountStatus::ALL.map(AccountStatus::as_str);
    assert_eq!(names, ["open", "frozen", "closed"]);
    assert_eq!(names.map(AccountStatus::parse), AccountStatus::ALL.map(Some));
}

/// What twice fails took back more than it had taken, where the amounts were running totals.
#[test]
fn no_more_comes_back_than_was_taken() {
    let total = |id: &str| event(Kind::PaymentCaptured, 50).total().under(id).operation(id);
    let fails = |id: &str| event(Kind::PaymentCaptureFailed, 50).under(&format!("back-{id}")).operation(id);
    let auth = event(Kind::PaymentAuthorized, 100).under("auth");
    let given = [auth, total("one"), total("two"), fails("one")];
    check(&given, &fails("two"), "waits for funds or room");
}

#[test]
fn tips_fit_where_the_rules_allow_them() {
    let rules = Rules { over_capture_percent: 15, ..Rules::default() };
    for (amount, outcome) in [(115, Outcome::Applied), (116, Outcome::Waiting(Reason::WaitingForFunds))] {
        let mut book = opened(rules);
        book.take(&build(&[event(Kind::PaymentAuthorized, 100).under("auth")]));
        let plan = book.take(&build(&[event(Kind::PaymentCaptured, amount)]));
        assert_eq!(plan.outcomes, [outcome], "{amount}");
    }
}

#[test]
fn a_frozen_account_takes_nothing_that_needs_money_and_a_closed_one_moves_none() {
    let outcomes = |status: AccountStatus| {
        let mut book = opened(Rules::default());
        book.take(&build(&[event(Kind::PaymentAuthorized, 100).under("auth").payment("held")]));
        book.account("acct").status = status;
        let came = [
            event(Kind::DepositSucceeded, 10).under("deposit"),
            event(Kind::PaymentSucceeded, 10).under("debit"),
            event(Kind::FeeCharged, 10).under("fee"),
            event(Kind::PaymentVoided, 0).under("void").payment("held"),
        ];
        came.map(|draft| book.take(&build(&[draft])).outcomes[0])
    };
    let (yes, no) = (Outcome::Applied, Outcome::Quarantined(Reason::InvalidTransition));
    assert_eq!(outcomes(AccountStatus::Open), [yes, yes, yes, yes]);
    assert_eq!(outcomes(AccountStatus::Frozen), [yes, no, yes, yes]);
    assert_eq!(outcomes(AccountStatus::Closed), [no, no, no, yes]);
}

#[test]
fn a_balance_that_would_leave_64_bits_is_a_case() {
    let mut book = Book::default();
    book.open("acct", i64::MAX - 50);
    let plan = book.take(&build(&[event(Kind::DepositSucceeded, 51).under("much")]));
    assert_eq!(plan.outcomes, [Outcome::Quarantined(Reason::AmountOverflow)]);
    assert_eq!(book.take(&build(&[event(Kind::DepositSucceeded, 50)])).outcomes, [Outcome::Applied]);
    // A further delivery of an open case decides it again, once there is room.
    book.take(&build(&[event(Kind::FeeCharged, 100).under("fee")]));
    let plan = book.take(&build(&[event(Kind::DepositSucceeded, 51).under("much")]));
    assert_eq!(plan.entries.len(), 1);
    // What is owed is a number of 64 bits too.
    let mut book = Book::default();
    book.open("acct", -i64::MAX);
    let plan = book.take(&build(&[event(Kind::FeeCharged, 1).under("fee")]));
    assert_eq!(plan.outcomes, [Outcome::Quarantined(Reason::AmountOverflow)]);
}

/// A person has discarded the only known event of a fact: the next one of it is not swallowed.
#[test]
fn a_twin_of_a_discarded_case_becomes_a_case() {
    let debit = event(Kind::PaymentSucceeded, 10).operation("op").currency("USD");
    let mut book = opened(Rules::default());
    book.take(&build(std::slice::from_ref(&debit)));
    book.discard(&debit);
    let plan = book.take(&build(&[debit.under("twin")]));
    assert_eq!(plan.outcomes, [Outcome::Quarantined(Reason::InvalidTransition)]);
}

#[test]
fn an_unknown_account_is_opened_by_a_deposit_and_by_nothing_else() {
    for kind in Kind::ALL {
        let mut book = Book::default();
        let plan = book.take(&build(&[event(*kind, 10).currency("JPY")]));
        let expected = match kind {
            Kind::DepositSucceeded => Outcome::Applied,
            Kind::DepositRefunded | Kind::DepositDisputed | Kind::DepositReinstated => {
                Outcome::Waiting(Reason::WaitingForPayment)
            }
            _ => Outcome::Waiting(Reason::WaitingForFunds),
        };
        assert_eq!(plan.outcomes, [expected], "{kind:?}");
        assert_eq!(book.view().accounts.is_empty(), *kind != Kind::DepositSucceeded);
    }
}
