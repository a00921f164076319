//! The state machine of one payment, as tables: state and event in; outcome, money and state out.

use std::collections::HashSet;

use payonce::ledger::{
    Account, AccountId, Currency, Kind, Outcome, Payment, PaymentId, PaymentKey, PaymentState, Reason,
    Snapshot, Source, decide,
};

use crate::{
    book::Book,
    draft::{Draft, build},
};
use Kind::{
    DepositSucceeded, PaymentAuthorized, PaymentCaptured, PaymentFailed, PaymentSucceeded, PaymentVoided,
    RefundSucceeded,
};
use PaymentState::{Authorized, Captured, Expected, Failed, Succeeded, Voided};

/// A payment before the event, and what its account holds besides.
#[derive(Debug, Clone, Copy)]
struct Given {
    state: PaymentState,
    authorized: i64,
    captured: i64,
    refunded: i64,
    balance: i64,
    held_by_others: i64,
}

/// On an account with 1000, of which other payments hold 200.
fn payment(state: PaymentState, authorized: i64, captured: i64, refunded: i64) -> Given {
    Given { state, authorized, captured, refunded, balance: 1000, held_by_others: 200 }
}

/// The payment that stands for its state in the big table.
fn typical(state: PaymentState) -> Given {
    match state {
        Expected => payment(Expected, 0, 0, 0),
        Authorized => payment(Authorized, 100, 30, 10),
        Captured => payment(Captured, 100, 60, 10),
        Succeeded => payment(Succeeded, 0, 60, 10),
        Voided => payment(Voided, 100, 30, 10),
        Failed => payment(Failed, 100, 30, 10),
    }
}

fn event(kind: Kind, amount: i64) -> Draft {
    Draft::new("evt", kind, amount)
}

/// Decides `event` on `given` and writes down what came of it: `outcome | deltas | payment`.
fn decided(given: Given, event: &Draft) -> String {
    let callback = event.build();
    let account_id = AccountId::new("acct").unwrap();
    let currency = Currency::parse("CNY").unwrap();
    let key = PaymentKey {
        source: Source::new("/providers/a").unwrap(),
        payment_id: PaymentId::new("pay").unwrap(),
    };
    let before = Payment {
        account_id: account_id.clone(),
        currency,
        state: given.state,
        authorized: given.authorized,
        captured: given.captured,
        refunded: given.refunded,
        version: 4,
    };
    let mut snapshot = Snapshot::default();
    let held =
        given.held_by_others + if given.state == Authorized { given.authorized - given.captured } else { 0 };
    let account = Account { balance: given.balance, held, version: 9, ..Account::unopened(currency, 0) };
    snapshot.accounts.insert(account_id, account);
    if given.state != Expected {
        snapshot.payments.insert(key, before);
    }
    let plan = decide(&snapshot, &[callback]);

    let mut words = match plan.outcomes[..] {
        [Outcome::Applied] => "applied".to_owned(),
        [Outcome::Waiting] => "waits".to_owned(),
        [Outcome::Quarantined(reason)] => reason.as_str().to_owned(),
        _ => panic!("{:?}", plan.outcomes),
    };
    let [change] = &plan.accounts[..] else { panic!("{:?}", plan.accounts) };
    for entry in &plan.entries {
        words += &format!(" | {:+} {:+}", entry.balance_delta, entry.held_delta);
        assert_eq!(entry.balance_after, given.balance + entry.balance_delta);
        assert_eq!(entry.held_after, held + entry.held_delta);
        assert_eq!((change.after.balance, change.after.held), (entry.balance_after, entry.held_after));
        assert_eq!((change.after.version, change.after.cases), (10, 0));
    }
    if plan.entries.is_empty() {
        assert_eq!(change.after, Account { cases: 1, ..change.before }, "only the case is counted");
        assert!(plan.payments.is_empty(), "what is not applied does not touch the payment");
    }
    for change in &plan.payments {
        let after = &change.after;
        words += &format!(
            " | {} {} {} {}",
            after.state.as_str(),
            after.authorized,
            after.captured,
            after.refunded
        );
        let before = (given.state != Expected).then_some(4);
        assert_eq!((change.expected, after.version), (before, before.unwrap_or(0) + 1));
        assert_eq!(after.held(), change.after.held().max(0));
    }
    words
}

#[track_caller]
fn check(given: Given, event: &Draft, expected: &str) {
    assert_eq!(
        decided(given, event),
        expected,
        "{given:?} {:?} {}",
        event.content.kind,
        event.content.amount
    );
}

#[test]
fn every_state_and_type_has_one_end() {
    // Payments: state authorized captured refunded. Deltas: balance held.
    const NO: &str = "invalid_transition";
    let table = [
        (Expected, DepositSucceeded, 40, "applied | +40 +0"),
        (Expected, PaymentAuthorized, 40, "applied | +0 +40 | authorized 40 0 0"),
        (Expected, PaymentCaptured, 40, "waits"),
        (Expected, PaymentVoided, 40, "applied | +0 +0 | voided 0 0 0"),
        (Expected, PaymentSucceeded, 40, "applied | -40 +0 | succeeded 0 40 0"),
        (Expected, PaymentFailed, 40, "applied | +0 +0 | failed 0 0 0"),
        (Expected, RefundSucceeded, 40, "waits"),
        // 100 authorized, 30 captured, 10 refunded: 70 are held.
        (Authorized, DepositSucceeded, 40, "applied | +40 +0"),
        (Authorized, PaymentAuthorized, 40, NO),
        (Authorized, PaymentCaptured, 40, "applied | -40 -40 | authorized 100 70 10"),
        (Authorized, PaymentVoided, 40, "applied | +0 -70 | voided 100 30 10"),
        (Authorized, PaymentSucceeded, 40, NO),
        (Authorized, PaymentFailed, 40, "applied | +0 -70 | failed 100 30 10"),
        (Authorized, RefundSucceeded, 20, "applied | +20 +0 | authorized 100 30 30"),
        // A final capture of 60 out of 100, 10 refunded: nothing is held.
        (Captured, DepositSucceeded, 40, "applied | +40 +0"),
        (Captured, PaymentAuthorized, 40, NO),
        (Captured, PaymentCaptured, 40, "applied | -40 +0 | captured 100 100 10"),
        (Captured, PaymentVoided, 40, NO),
        (Captured, PaymentSucceeded, 40, NO),
        (Captured, PaymentFailed, 40, NO),
        (Captured, RefundSucceeded, 50, "applied | +50 +0 | captured 100 60 60"),
        // A debit of 60, 10 refunded.
        (Succeeded, DepositSucceeded, 40, "applied | +40 +0"),
        (Succeeded, PaymentAuthorized, 40, NO),
        (Succeeded, PaymentCaptured, 40, NO),
        (Succeeded, PaymentVoided, 40, NO),
        (Succeeded, PaymentSucceeded, 40, NO),
        (Succeeded, PaymentFailed, 40, NO),
        (Succeeded, RefundSucceeded, 50, "applied | +50 +0 | succeeded 0 60 60"),
        // 100 authorized, 30 captured, 10 refunded, the rest released.
        (Voided, DepositSucceeded, 40, "applied | +40 +0"),
        (Voided, PaymentAuthorized, 40, NO),
        (Voided, PaymentCaptured, 40, NO),
        (Voided, PaymentVoided, 40, NO),
        (Voided, PaymentSucceeded, 40, NO),
        (Voided, PaymentFailed, 40, NO),
        (Voided, RefundSucceeded, 20, "applied | +20 +0 | voided 100 30 30"),
        (Failed, DepositSucceeded, 40, "applied | +40 +0"),
        (Failed, PaymentAuthorized, 40, NO),
        (Failed, PaymentCaptured, 40, NO),
        (Failed, PaymentVoided, 40, NO),
        (Failed, PaymentSucceeded, 40, NO),
        (Failed, PaymentFailed, 40, NO),
        (Failed, RefundSucceeded, 20, "applied | +20 +0 | failed 100 30 30"),
    ];
    let mut pairs = HashSet::new();
    for (state, kind, amount, expected) in table {
        check(typical(state), &event(kind, amount), expected);
        assert!(pairs.insert((state, kind)), "{state:?} {kind:?} stands twice");
    }
    assert_eq!(pairs.len(), PaymentState::ALL.len() * Kind::ALL.len(), "every pair is in the table");
}

#[test]
fn a_hold_needs_available_money_and_takes_nothing_yet() {
    // 1000 − 200 held by others.
    check(typical(Expected), &event(PaymentAuthorized, 800), "applied | +0 +800 | authorized 800 0 0");
    check(typical(Expected), &event(PaymentAuthorized, 801), "insufficient_funds");
}

#[test]
fn a_debit_needs_available_money() {
    check(typical(Expected), &event(PaymentSucceeded, 800), "applied | -800 +0 | succeeded 0 800 0");
    check(typical(Expected), &event(PaymentSucceeded, 801), "insufficient_funds");
}

#[test]
fn captures_add_up_to_the_authorization_and_no_further() {
    let given = typical(Authorized);
    check(given, &event(PaymentCaptured, 69), "applied | -69 -69 | authorized 100 99 10");
    check(given, &event(PaymentCaptured, 70), "applied | -70 -70 | captured 100 100 10");
    check(given, &event(PaymentCaptured, 71), "over_capture");
    check(given, &event(PaymentCaptured, 9_007_199_254_740_991), "over_capture");
}

#[test]
fn a_final_capture_releases_the_rest_of_the_hold() {
    let given = typical(Authorized);
    check(given, &event(PaymentCaptured, 40).finally(), "applied | -40 -70 | captured 100 70 10");
    check(given, &event(PaymentCaptured, 70).finally(), "applied | -70 -70 | captured 100 100 10");
    check(given, &event(PaymentCaptured, 71).finally(), "over_capture");
}

#[test]
fn a_partial_capture_after_the_final_one_still_counts_and_is_paid_from_what_is_available() {
    let given = typical(Captured);
    check(given, &event(PaymentCaptured, 39), "applied | -39 +0 | captured 100 99 10");
    check(given, &event(PaymentCaptured, 41), "over_capture");
    check(given, &event(PaymentCaptured, 10).finally(), "applied | -10 +0 | captured 100 70 10");
    let poor = Given { balance: 220, ..given };
    check(poor, &event(PaymentCaptured, 20), "applied | -20 +0 | captured 100 80 10");
    check(poor, &event(PaymentCaptured, 21), "insufficient_funds");
}

#[test]
fn a_fully_captured_payment_takes_no_further_capture() {
    check(payment(Captured, 100, 100, 0), &event(PaymentCaptured, 1), "over_capture");
}

#[test]
fn refunds_add_up_to_what_is_captured_and_wait_for_what_may_still_be() {
    let given = typical(Authorized);
    check(given, &event(RefundSucceeded, 20), "applied | +20 +0 | authorized 100 30 30");
    check(given, &event(RefundSucceeded, 21), "waits");
    check(given, &event(RefundSucceeded, 90), "waits");
    check(given, &event(RefundSucceeded, 91), "over_refund");
    // After a final capture a partial one may still come.
    check(typical(Captured), &event(RefundSucceeded, 51), "waits");
    check(typical(Captured), &event(RefundSucceeded, 90), "waits");
    check(typical(Captured), &event(RefundSucceeded, 91), "over_refund");
}

#[test]
fn refunds_of_what_can_no_longer_be_captured_do_not_wait() {
    check(typical(Succeeded), &event(RefundSucceeded, 51), "over_refund");
    check(typical(Voided), &event(RefundSucceeded, 21), "over_refund");
    check(typical(Failed), &event(RefundSucceeded, 21), "over_refund");
    check(payment(Voided, 0, 0, 0), &event(RefundSucceeded, 1), "over_refund");
}

#[test]
fn an_authorization_after_its_void_or_failure_is_recorded_and_holds_nothing() {
    check(payment(Voided, 0, 0, 0), &event(PaymentAuthorized, 40), "applied | +0 +0 | voided 40 0 0");
    check(payment(Failed, 0, 0, 0), &event(PaymentAuthorized, 40), "applied | +0 +0 | failed 40 0 0");
    // It needs no money.
    let poor = Given { balance: 200, ..payment(Voided, 0, 0, 0) };
    check(poor, &event(PaymentAuthorized, 40), "applied | +0 +0 | voided 40 0 0");
    // Once per payment.
    check(payment(Voided, 40, 0, 0), &event(PaymentAuthorized, 40), "invalid_transition");
}

#[test]
fn a_tombstone_takes_nothing_but_its_authorization() {
    for state in [Voided, Failed] {
        for kind in [PaymentCaptured, PaymentVoided, PaymentSucceeded, PaymentFailed] {
            check(payment(state, 0, 0, 0), &event(kind, 40), "invalid_transition");
        }
    }
}

#[test]
fn a_void_of_an_untouched_hold_releases_all_of_it_whatever_amount_it_names() {
    check(payment(Authorized, 100, 0, 0), &event(PaymentVoided, 1), "applied | +0 -100 | voided 100 0 0");
    check(payment(Authorized, 100, 0, 0), &event(PaymentFailed, 999), "applied | +0 -100 | failed 100 0 0");
}

#[test]
fn final_means_nothing_outside_captures() {
    check(typical(Expected), &event(DepositSucceeded, 40).finally(), "applied | +40 +0");
    check(typical(Expected), &event(PaymentAuthorized, 40).finally(), "applied | +0 +40 | authorized 40 0 0");
    check(
        typical(Authorized),
        &event(RefundSucceeded, 20).finally(),
        "applied | +20 +0 | authorized 100 30 30",
    );
}

#[test]
fn a_balance_that_would_leave_64_bits_is_refused() {
    let rich = |state| Given { balance: i64::MAX - 50, ..typical(state) };
    let max = 9_007_199_254_740_991;
    check(rich(Expected), &event(DepositSucceeded, 50), "applied | +50 +0");
    check(rich(Expected), &event(DepositSucceeded, 51), "amount_overflow");
    check(rich(Expected), &event(DepositSucceeded, max), "amount_overflow");
    check(rich(Succeeded), &event(RefundSucceeded, 50), "applied | +50 +0 | succeeded 0 60 60");
    let paid = Given { balance: i64::MAX - 49, ..typical(Succeeded) };
    check(paid, &event(RefundSucceeded, 50), "amount_overflow");
    check(
        rich(Expected),
        &event(PaymentAuthorized, max),
        &format!("applied | +0 +{max} | authorized {max} 0 0"),
    );
}

#[test]
fn a_hold_that_is_not_covered_is_insufficient_funds_however_much_is_held() {
    // The balance does not change, so nothing overflows: there is simply nothing available.
    let all_held = Given { balance: i64::MAX, held_by_others: i64::MAX - 10, ..typical(Expected) };
    check(all_held, &event(PaymentAuthorized, 10), "applied | +0 +10 | authorized 10 0 0");
    check(all_held, &event(PaymentAuthorized, 11), "insufficient_funds");
}

#[test]
fn another_currency_than_the_accounts_is_refused_for_every_type() {
    for state in PaymentState::ALL {
        for kind in Kind::ALL {
            check(typical(state), &event(kind, 10).currency("USD"), "currency_mismatch");
        }
    }
}

#[test]
fn an_account_is_opened_by_a_deposit_in_its_currency_and_by_nothing_else() {
    for kind in Kind::ALL {
        let mut book = Book::default();
        let plan = book.take(&build(&[event(kind, 10).currency("JPY")]));
        if kind == DepositSucceeded {
            assert_eq!(plan.outcomes, [Outcome::Applied]);
            assert_eq!(book.view().accounts["acct"].currency, "JPY");
            let plan = book.take(&build(&[event(kind, 10).under("later")]));
            assert_eq!(plan.outcomes, [Outcome::Quarantined(Reason::CurrencyMismatch)]);
        } else {
            assert_eq!(plan.outcomes, [Outcome::Quarantined(Reason::UnknownAccount)], "{kind:?}");
            assert!(book.view().accounts.is_empty());
        }
    }
}

#[test]
fn a_deposit_does_not_release_what_the_unknown_account_refused_before_it() {
    let mut book = Book::default();
    let auth = event(PaymentAuthorized, 10).under("auth");
    book.take(&build(&[auth.clone(), event(DepositSucceeded, 100)]));
    let view = book.view();
    assert_eq!(view.cases[&auth], ("unknown_account", Some(1)));
    assert_eq!(view.accounts["acct"].held, 0);
}

/// Runs the events in two ways, one batch each and all in one, and writes down the end.
#[track_caller]
fn check_story(events: &[Draft], expected: &str) {
    for size in [1, events.len()] {
        let mut book = Book::default();
        book.open("acct", 1000);
        book.open("other", 1000);
        for batch in events.chunks(size) {
            book.take(&build(batch));
        }
        let view = book.view();
        let account = &view.accounts["acct"];
        let mut words = format!("{} held {}", account.balance, account.held);
        for (callback, (reason, attempts)) in &view.cases {
            words += &format!(" | {} {reason} {}", callback.id, attempts.unwrap_or(0));
        }
        assert_eq!(words, expected, "in batches of {size}");
    }
}

fn auth() -> Draft {
    event(PaymentAuthorized, 100).under("auth")
}

#[test]
fn what_waits_is_applied_in_the_order_the_payment_needs() {
    // Refund, final capture and partial capture come before the authorization, in the wrong order.
    check_story(
        &[
            event(RefundSucceeded, 70).under("refund"),
            event(PaymentCaptured, 40).under("final").finally(),
            event(PaymentCaptured, 30).under("partial"),
            auth(),
        ],
        "1000 held 0",
    );
}

#[test]
fn a_refund_waits_for_the_capture_that_covers_it() {
    let refund = event(RefundSucceeded, 50).under("refund");
    check_story(&[auth(), refund.clone()], "1000 held 100 | refund waiting_for_payment 1");
    let first = event(PaymentCaptured, 30).under("first");
    check_story(&[auth(), refund.clone(), first.clone()], "970 held 70 | refund waiting_for_payment 1");
    check_story(&[auth(), refund, first, event(PaymentCaptured, 20).under("second")], "1000 held 50");
}

#[test]
fn a_void_ends_the_waiting_of_a_refund_that_nothing_can_cover_any_more() {
    let refund = event(RefundSucceeded, 50).under("refund");
    check_story(
        &[auth(), refund, event(PaymentVoided, 100).under("void")],
        "1000 held 0 | refund over_refund 1",
    );
}

#[test]
fn a_refund_ends_the_waiting_of_another_that_nothing_can_cover_any_more() {
    // 60 + 50 is more than the authorized 100: the larger one has nothing left to wait for.
    let large = event(RefundSucceeded, 60).under("large");
    let small = event(RefundSucceeded, 50).under("small");
    let capture = event(PaymentCaptured, 50).under("capture");
    check_story(
        &[auth(), large.clone(), capture.clone(), small.clone()],
        "1000 held 50 | large over_refund 1",
    );
    check_story(&[auth(), large, small, capture], "1000 held 50 | large over_refund 1");
}

#[test]
fn refunds_that_wait_are_applied_oldest_first() {
    // Both wait; the capture covers only one of them, and only the authorization of more could cover both.
    let older = event(RefundSucceeded, 30).under("z-older");
    let newer = event(RefundSucceeded, 31).under("a-newer");
    let capture = event(PaymentCaptured, 40).under("capture");
    check_story(
        &[auth(), older.clone(), newer.clone(), capture.clone()],
        "990 held 60 | a-newer waiting_for_payment 1",
    );
    // `final` has no meaning on a refund, so it changes no order either.
    check_story(&[auth(), older.finally(), newer, capture], "990 held 60 | a-newer waiting_for_payment 1");
}

#[test]
fn what_waited_for_an_authorization_and_gets_a_debit_needs_a_person() {
    check_story(
        &[event(PaymentCaptured, 10).under("capture"), event(PaymentSucceeded, 60).under("debit")],
        "940 held 0 | capture invalid_transition 1",
    );
}

#[test]
fn an_authorization_that_is_refused_releases_nothing() {
    check_story(
        &[event(PaymentCaptured, 10).under("capture"), event(PaymentAuthorized, 1001).under("auth")],
        "1000 held 0 | auth insufficient_funds 1 | capture waiting_for_payment 1",
    );
}

#[test]
fn a_payment_belongs_to_one_account_whichever_event_comes_first() {
    // Told the same, too, when the batch that brings the authorization says nothing else about the other account.
    let stray = event(PaymentCaptured, 10).under("stray");
    let theirs = auth().account("other");
    check_story(&[theirs.clone(), stray.clone()], "1000 held 0 | stray invalid_transition 1");
    check_story(&[stray, theirs], "1000 held 0 | stray invalid_transition 1");
}

#[test]
fn copies_of_what_waits_are_counted_and_release_it_once() {
    let capture = event(PaymentCaptured, 30).under("capture");
    check_story(
        &[capture.clone(), capture.clone(), capture.clone()],
        "1000 held 0 | capture waiting_for_payment 3",
    );
    check_story(&[capture.clone(), capture.clone(), auth(), capture], "970 held 70");
}

#[test]
fn copies_of_a_stored_case_count_one_by_one_also_within_a_batch() {
    let debit = event(PaymentSucceeded, 1001).under("debit");
    let mut book = Book::default();
    book.open("acct", 1000);
    book.take(&build(std::slice::from_ref(&debit)));
    book.take(&build(&[debit.clone(), debit.clone(), debit.clone()]));
    assert_eq!(book.view().cases[&debit], ("insufficient_funds", Some(4)));
}

#[test]
fn the_same_key_with_other_content_is_a_mismatch_and_its_owner_stays() {
    let debit = event(PaymentSucceeded, 10);
    check_story(&[debit.clone(), event(PaymentSucceeded, 11)], "990 held 0 | evt payload_mismatch 1");
    // Also where the owner waits, or is itself a case.
    check_story(
        &[event(PaymentCaptured, 10), event(PaymentCaptured, 11), auth()],
        "990 held 90 | evt payload_mismatch 1",
    );
    check_story(
        &[event(PaymentSucceeded, 1001), debit],
        "1000 held 0 | evt payload_mismatch 1 | evt insufficient_funds 1",
    );
}

#[test]
fn a_second_event_for_one_fact_moves_money_once() {
    let debit = event(PaymentSucceeded, 10).operation("op");
    check_story(&[debit.clone(), debit.clone().under("second")], "990 held 0");
    let other = event(PaymentSucceeded, 11).operation("op").under("second");
    check_story(&[debit, other], "990 held 0 | second payload_mismatch 1");
}

#[test]
fn operations_of_different_types_or_sources_do_not_meet() {
    let debit = event(PaymentSucceeded, 10).operation("op");
    let refund = event(RefundSucceeded, 10).operation("op").under("refund");
    check_story(&[debit.clone(), refund], "1000 held 0");
    let mut elsewhere = debit.clone().under("elsewhere");
    elsewhere.source = "/providers/b".to_owned();
    check_story(&[debit.clone(), elsewhere], "980 held 0");
    let mut same_id = event(PaymentSucceeded, 11);
    same_id.source = "/providers/b".to_owned();
    check_story(&[debit, same_id], "979 held 0");
}
