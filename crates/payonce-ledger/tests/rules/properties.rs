//! What holds for every stream of callbacks, however it is repeated, cut into batches, and contested by concurrent writers.

use std::collections::BTreeMap;

use payonce_ledger::{Amount, Callback, Entry, Kind, Layer, Outcome, Plan};
use proptest::{collection::vec, prelude::*};

use crate::{
    book::Book,
    draft::{Draft, build},
    model::{Model, View, is_same_fact},
    streams::{Accounts, OPENED, cut, cuts, last_money, stream},
};

const LENGTH: usize = 60;

pub fn opened() -> (Model, Book) {
    let (mut model, mut book) = (Model::default(), Book::default());
    for (account, balance) in OPENED {
        model.open(account, balance);
        book.open(account, balance);
    }
    (model, book)
}

fn one_by_one(stream: &[Draft]) -> View {
    let (mut model, _) = opened();
    model.take_all(stream);
    model.view()
}

fn in_batches(stream: &[Draft], sizes: &[usize]) -> Book {
    let (_, mut book) = opened();
    for batch in cut(&build(stream), sizes) {
        book.take(batch);
    }
    book
}

proptest! {
    #[test]
    fn any_repetition_cut_into_any_batches_gives_what_one_by_one_gives(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
    ) {
        prop_assert_eq!(in_batches(&stream, &sizes).view().difference(&one_by_one(&stream)), "");
    }

    #[test]
    fn a_second_time_every_callback_is_a_duplicate_and_no_money_moves(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
        other_sizes in cuts(),
    ) {
        let mut book = in_batches(&stream, &sizes);
        let before = book.view();
        // The balance that left no room for it can be lower by now: a further delivery of an open case decides it again.
        prop_assume!(before.cases.values().all(|(reason, _)| *reason != "amount_overflow"));
        let mut seen = 0;
        for batch in cut(&build(&stream), &other_sizes) {
            let plan = book.take(batch);
            for outcome in &plan.outcomes {
                prop_assert!(matches!(outcome, Outcome::Duplicate(_)), "{:?}", outcome);
                seen += 1;
            }
            prop_assert!(plan.entries.is_empty() && plan.payments.is_empty() && plan.new_cases.is_empty());
            prop_assert!(plan.accounts.is_empty() && plan.resolved_cases.is_empty());
        }
        let after = book.view();
        prop_assert_eq!(seen, stream.len());
        prop_assert_eq!(&after.ledger, &before.ledger);
        prop_assert_eq!(&after.accounts, &before.accounts);
        prop_assert_eq!(&after.payments, &before.payments);
        prop_assert!(after.cases.keys().eq(before.cases.keys()));
    }

    #[test]
    fn every_copy_of_a_case_is_counted_in_its_attempts(stream in stream(LENGTH, Accounts::Mixed), sizes in cuts()) {
        let view = in_batches(&stream, &sizes).view();
        for (callback, (reason, attempts)) in &view.cases {
            let came = stream.iter().filter(|draft| *draft == callback).count();
            if let Some(attempts) = attempts {
                prop_assert_eq!(i64::try_from(came).unwrap(), *attempts, "{:?} {}", callback, reason);
            }
        }
    }

    #[test]
    fn every_distinct_callback_ends_in_the_ledger_or_in_quarantine_or_is_a_known_fact(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
    ) {
        let view = in_batches(&stream, &sizes).view();
        for callback in &stream {
            let in_cases = view.cases.contains_key(callback);
            let places = usize::from(view.ledger.contains(callback)) + usize::from(in_cases);
            let is_known_fact = view.ledger.iter().chain(view.cases.keys()).any(|other| {
                other.id != callback.id && is_same_fact(other, callback)
            });
            prop_assert!(places == 1 || (places == 0 && is_known_fact), "{:?} is in {} places", callback, places);
        }
    }

    #[test]
    fn balances_are_the_sums_of_the_ledger_and_never_leave_their_bounds(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
    ) {
        let book = in_batches(&stream, &sizes);
        let mut sums: BTreeMap<&str, (i128, i128, i64)> =
            OPENED.into_iter().map(|(account, balance)| (account, (i128::from(balance), 0, 0))).collect();
        // In the order they were written, which is the order of each account's versions.
        for Entry { callback, leg, second_leg } in book.ledger() {
            prop_assert!((1..=Amount::MAX).contains(&callback.amount.minor_units()));
            for leg in [leg].into_iter().chain(second_leg) {
                let (balance, held, version) = sums.entry(leg.account_id.as_str()).or_default();
                let available = *balance - *held;
                *balance += i128::from(leg.balance_delta);
                *held += i128::from(leg.held_delta);
                *version += 1;
                prop_assert_eq!(*version, leg.account_version, "no gap, no repeat");
                prop_assert_eq!((i128::from(leg.balance_after), i128::from(leg.held_after)), (*balance, *held));
                prop_assert!(0 <= *held && *balance <= i128::from(i64::MAX));
                let left = *balance - *held;
                prop_assert!(0 <= left || available <= left || callback.kind.may_leave_debt(), "{:?}", callback);
            }
        }
        let view = book.view();
        prop_assert_eq!(view.accounts.len(), sums.len());
        for (account, (balance, held, version)) in sums {
            let stored = &view.accounts[account];
            prop_assert_eq!((stored.balance, stored.held, stored.version), (balance, held, version));
        }
    }

    #[test]
    fn what_an_account_holds_is_what_its_open_payments_hold(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
    ) {
        let book = in_batches(&stream, &sizes);
        let holds = book.held_by_payments();
        for (account, stored) in &book.view().accounts {
            prop_assert_eq!(holds.get(account).copied().unwrap_or(0), stored.held, "{}", account);
        }
    }

    #[test]
    fn equal_arguments_give_equal_plans(stream in stream(LENGTH, Accounts::Mixed), sizes in cuts()) {
        let (_, mut book) = opened();
        for batch in cut(&build(&stream), &sizes) {
            // Each load makes maps with an iteration order of their own.
            prop_assert_eq!(book.decide(batch), book.decide(batch));
            book.take(batch);
        }
    }

    #[test]
    fn a_copy_in_the_same_batch_is_rejected_as_such(stream in stream(LENGTH, Accounts::Mixed), sizes in cuts()) {
        let (_, mut book) = opened();
        for batch in cut(&build(&stream), &sizes) {
            let plan = book.take(batch);
            for (at, outcome) in plan.outcomes.iter().enumerate() {
                let content = |callback: &Callback| (callback.key.clone(), callback.fingerprint);
                let is_copy = batch[..at].iter().any(|earlier| content(earlier) == content(&batch[at]));
                prop_assert_eq!(is_copy, *outcome == Outcome::Duplicate(Layer::Batch), "{}", batch[at].key);
            }
        }
    }

    /// Two workers load, then both write: the guards let the second keep what the first did not touch, and no more.
    #[test]
    fn workers_that_decide_on_one_snapshot_end_where_one_after_the_other_ends(
        stream in stream(LENGTH, Accounts::Apart),
        sizes in cuts(),
    ) {
        let book = on_one_snapshot(&stream, &sizes, 2);
        // A copy that finds its case open decides it again, on what its batch has read: room in 64 bits can have come since.
        let has_overflow = book.view().cases.values().any(|(reason, _)| *reason == "amount_overflow");
        prop_assume!(!has_overflow);
        prop_assert_eq!(book.view().difference(&one_by_one(&[opening(), stream].concat())), "");
    }

    #[test]
    fn of_three_workers_that_want_the_last_money_those_get_it_that_write_first(
        stream in last_money(LENGTH),
        sizes in vec(1..=3_usize, 1..=4),
    ) {
        let book = on_one_snapshot(&stream, &sizes, 3);
        prop_assert_eq!(book.view().difference(&one_by_one(&[opening(), stream].concat())), "");
    }
}

fn opening() -> Vec<Draft> {
    vec![Draft::new("open", Kind::DepositSucceeded, 100).account("acct-0")]
}

/// So many batches at a time are decided on what was there before the first of them, and written one after the other.
fn on_one_snapshot(stream: &[Draft], sizes: &[usize], workers: usize) -> Book {
    let mut book = in_batches(&opening(), &[1]);
    let callbacks = build(stream);
    let batches: Vec<&[Callback]> = cut(&callbacks, sizes).collect();
    for together in batches.chunks(workers) {
        let plans: Vec<_> = together.iter().map(|batch| book.decide(batch)).collect();
        for (batch, plan) in together.iter().zip(plans) {
            settle(&mut book, batch, plan);
        }
    }
    book
}

/// Writes a plan as a worker does: what another has changed meanwhile is loaded and decided once more.
fn settle(book: &mut Book, batch: &[Callback], plan: Plan) {
    let mut rest = batch.to_vec();
    // After a conflict nothing is written.
    if let Ok(lost) = book.apply(batch, plan.clone()) {
        let mut is_lost = plan.callbacks_about(&lost).into_iter();
        rest.retain(|_| is_lost.next().unwrap());
    }
    if !rest.is_empty() {
        book.take(&rest);
    }
}

/// Two workers load, then both write.
fn at_once(first: &[Draft], second: &[Draft]) -> View {
    let mut book = Book::default();
    let batches = [build(first), build(second)];
    let plans = [0, 1].map(|at| book.decide(&batches[at]));
    for (batch, plan) in batches.iter().zip(plans) {
        settle(&mut book, batch, plan);
    }
    book.view()
}

fn after_each_other(first: &[Draft], second: &[Draft]) -> View {
    let mut model = Model::default();
    model.take_all(first);
    model.take_all(second);
    model.view()
}

#[test]
fn of_a_deposit_and_a_case_about_an_unknown_account_the_later_sees_the_earlier() {
    let deposit = [Draft::new("deposit", Kind::DepositSucceeded, 100)];
    let debit = [Draft::new("debit", Kind::PaymentSucceeded, 40)];
    assert_eq!(at_once(&deposit, &debit).difference(&after_each_other(&deposit, &debit)), "");
    assert_eq!(at_once(&debit, &deposit).difference(&after_each_other(&debit, &deposit)), "");
}

#[test]
fn workers_that_open_one_account_open_it_once() {
    let [yuan, dollars] = ["CNY", "USD"].map(|currency| {
        [Draft::new(&format!("in {currency}"), Kind::DepositSucceeded, 100).currency(currency)]
    });
    assert_eq!(at_once(&yuan, &dollars).difference(&after_each_other(&yuan, &dollars)), "");
}

#[test]
fn workers_that_quarantine_copies_of_one_callback_make_one_case() {
    let debit = [Draft::new("debit", Kind::PaymentSucceeded, 40)];
    assert_eq!(at_once(&debit, &debit).difference(&after_each_other(&debit, &debit)), "");
}

#[test]
fn workers_agree_who_owns_a_key_also_where_the_account_is_unknown() {
    let [one, other] = [40, 41].map(|amount| [Draft::new("debit", Kind::PaymentSucceeded, amount)]);
    assert_eq!(at_once(&one, &other).difference(&after_each_other(&one, &other)), "");
}
