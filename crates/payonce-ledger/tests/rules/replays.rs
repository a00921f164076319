//! Cases decided again, and messages that the broker dead-lettered: whatever came, whenever a person replays.

use payonce_ledger::{CaseEnd, Expires, Kind, Layer, Outcome, Reason};
use proptest::prelude::*;

use crate::{
    book::Book,
    draft::{Draft, build},
    model::{Model, View, is_same_operation},
    properties::opened,
    streams::{Accounts, OPENED, cut, cuts, stream},
};

const LENGTH: usize = 40;

fn taken(stream: &[Draft], sizes: &[usize]) -> Book {
    let (_, mut book) = opened();
    for batch in cut(&build(stream), sizes) {
        book.take(batch);
    }
    book
}

fn dead_lettered(stream: &[Draft], sizes: &[usize]) -> Book {
    let (_, mut book) = opened();
    for batch in cut(&build(stream), sizes) {
        book.dead_letter(batch);
    }
    book
}

fn reasons(view: &View) -> Vec<Reason> {
    view.cases.values().map(|(reason, _)| Reason::parse(reason).unwrap()).collect()
}

/// The longest beginning in which nothing ever lacks money, an account, or room in its sums or in 64 bits.
fn before_any_lack_of_funds(mut stream: Vec<Draft>) -> Vec<Draft> {
    let (_, mut book) = opened();
    let lacks = |reason: &Reason| matches!(reason, Reason::WaitingForFunds | Reason::AmountOverflow);
    let all = build(&stream);
    let end = all.iter().position(|callback| {
        let plan = book.take(std::slice::from_ref(callback));
        let resolved = plan.resolved_cases.iter().filter_map(|case| match &case.end {
            CaseEnd::Open(reason, _) => Some(reason),
            CaseEnd::Applied | CaseEnd::Duplicate(_) => None,
        });
        plan.new_cases.iter().map(|case| &case.reason).chain(resolved).any(lacks)
    });
    stream.truncate(end.unwrap_or(stream.len()));
    stream
}

proptest! {
    /// The book checks every promise at every commit.
    #[test]
    fn replaying_until_nothing_changes_keeps_every_promise_and_comes_to_an_end(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
        replays in cuts(),
    ) {
        let mut book = taken(&stream, &sizes);
        for (at, (account, _)) in OPENED.into_iter().enumerate() {
            let id = format!("top-up-{at}");
            book.take(&build(&[Draft::new(&id, Kind::DepositSucceeded, 1_000_000).account(account)]));
        }
        // Each round but the last ends a case or moves one to another reason that the rows written since have made true.
        let mut before = book.view();
        for _ in 0..=2 * LENGTH {
            book.replay(&replays, Expires::Nothing);
            let after = book.view();
            if after.difference(&before).is_empty() {
                return Ok(());
            }
            before = after;
        }
        prop_assert!(false, "still changing after {} rounds", 2 * LENGTH);
    }

    #[test]
    fn nothing_waits_after_its_time_is_over(stream in stream(LENGTH, Accounts::Mixed), sizes in cuts(), sweep in cuts()) {
        let mut book = taken(&stream, &sizes);
        let waited = reasons(&book.view()).contains(&Reason::WaitingForPayment);
        let ledger = book.ledger().len();
        book.sweep(&sweep, Expires::Payment);
        let after = reasons(&book.view());
        prop_assert!(!after.contains(&Reason::WaitingForPayment), "{:?}", after);
        prop_assert!(!waited || after.contains(&Reason::WaitingExpired) || book.ledger().len() > ledger);
        book.sweep(&sweep, Expires::Funds);
        // What waited for its account may have found it, and begun to wait for its payment.
        book.sweep(&sweep, Expires::Payment);
        let after = reasons(&book.view());
        prop_assert!(!after.iter().any(|reason| reason.is_waiting()), "{:?}", after);
    }

    #[test]
    fn what_the_broker_dead_lettered_moves_no_money_and_is_counted_once(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
        copies in cuts(),
    ) {
        let mut book = dead_lettered(&stream, &sizes);
        prop_assert!(book.ledger().is_empty());
        let cases = reasons(&book.view());
        prop_assert!(
            cases.iter().all(|reason| matches!(reason, Reason::DeliveryLimit | Reason::PayloadMismatch)),
            "{:?}", cases
        );
        for batch in cut(&build(&stream), &copies) {
            for outcome in book.dead_letter(batch).outcomes {
                let is_copy =
                    matches!(outcome, Outcome::Duplicate(Layer::Batch | Layer::Quarantine | Layer::Operation));
                prop_assert!(is_copy, "{:?}", outcome);
            }
        }
        prop_assert!(book.ledger().is_empty());
    }

    /// As if the broker had never given them up. But for second events of one fact: two cases of it are both at hand, where a callback
    /// whose fact is in a case is a duplicate.
    #[test]
    fn replaying_what_was_dead_lettered_gives_what_taking_it_gives(
        stream in stream(LENGTH, Accounts::Apart),
        sizes in cuts(),
        replays in cuts(),
    ) {
        let mut of_facts: Vec<Draft> = Vec::new();
        for draft in stream {
            let has_twin = of_facts.iter().any(|one| is_same_operation(one, &draft) && one.id != draft.id);
            of_facts.extend((!has_twin).then_some(draft));
        }
        // Nothing heals an open case that lacks money: a person decides it, and may do so before the money is there.
        let stream = before_any_lack_of_funds(of_facts);
        let direct = taken(&stream, &sizes).view();
        let mut book = dead_lettered(&stream, &sizes);
        book.replay(&replays, Expires::Nothing);
        let replayed = book.view();
        prop_assert_eq!(&replayed.ledger, &direct.ledger);
        prop_assert_eq!(&replayed.accounts, &direct.accounts);
        prop_assert_eq!(&replayed.payments, &direct.payments);
        prop_assert!(!reasons(&replayed).contains(&Reason::DeliveryLimit));
    }
}

/// Wherever batches are cut: nothing is judged by an account that only another movement of the same operation id has.
#[test]
fn what_names_no_account_waits_for_its_payment_whatever_else_has_its_operation() {
    let all = [
        Draft::new("opening", Kind::DepositSucceeded, 10).operation("one").currency("JPY"),
        Draft::new("back", Kind::RefundSucceeded, 60).nameless().operation("one"),
    ];
    for (order, sizes) in [([0, 1], [1]), ([0, 1], [2]), ([1, 0], [1]), ([1, 0], [2])] {
        let mut book = Book::default();
        for batch in cut(&build(&order.map(|at| all[at].clone())), &sizes) {
            book.take(batch);
        }
        let mut model = Model::default();
        model.take_all(&order.map(|at| all[at].clone()));
        assert_eq!(reasons(&book.view()), [Reason::WaitingForPayment], "{order:?} {sizes:?}");
        assert_eq!(reasons(&model.view()), [Reason::WaitingForPayment], "{order:?}");
    }
}

/// It waits for its payment first, of which nobody knows whose it is, and then for money of the account that turns out to be its own:
/// whoever brings that money releases it, and no sweep is needed.
#[test]
fn what_names_no_account_and_waits_for_money_in_the_end_is_released_by_the_money() {
    let all = [
        Draft::new("opening", Kind::DepositSucceeded, 10),
        Draft::new("more", Kind::PaymentAuthorizationAdjusted, 15).nameless(),
        Draft::new("hold", Kind::PaymentAuthorized, 5),
        Draft::new("money", Kind::DepositSucceeded, 5),
    ];
    for sizes in [[1], [2], [4]] {
        let mut book = Book::default();
        for batch in cut(&build(&all), &sizes) {
            book.take(batch);
        }
        assert_eq!(reasons(&book.view()), [], "{sizes:?}");
        assert_eq!(book.ledger().len(), 4, "{sizes:?}");
    }
}

/// Neither batch sees the other's callback, and the refund names no account whose guard could say so.
#[test]
fn a_debit_and_its_refund_that_were_stored_at_one_moment_are_applied_when_the_time_is_up() {
    let mut book = Book::default();
    book.take(&build(&[Draft::new("opening", Kind::DepositSucceeded, 10)]));
    let refund = build(&[Draft::new("back", Kind::RefundSucceeded, 60).nameless()]);
    let plan = book.decide(&refund);
    book.take(&build(&[Draft::new("sale", Kind::PaymentSucceeded, 60)]));
    book.apply(&refund, plan).unwrap();
    assert_eq!(book.ledger().len(), 1);
    book.sweep(&[1], Expires::Funds);
    assert_eq!(book.ledger().len(), 3, "{:?}", book.view().cases);
    assert_eq!(reasons(&book.view()), []);
}

/// A callback that names no account has no guard while it waits: a copy of it can be applied at the moment at which it is stored. What
/// begins to wait then is not tried together with it, which the ledger's keys would refuse for ever.
#[test]
fn what_a_concurrent_writer_has_applied_is_not_tried_together_with_what_begins_to_wait() {
    let mut book = Book::default();
    let first = build(&[
        Draft::new("opening", Kind::DepositSucceeded, 10),
        Draft::new("hold", Kind::PaymentAuthorized, 10),
        Draft::new("capture", Kind::PaymentCaptured, 5).nameless(),
    ]);
    let plan = book.decide(&first);
    book.take(&first[2..]);
    book.apply(&first, plan).unwrap();
    assert_eq!((book.ledger().len(), reasons(&book.view())), (3, vec![Reason::WaitingForPayment]));
    // With the capture once more there would be as much to refund as it wants.
    book.take(&build(&[Draft::new("back", Kind::RefundSucceeded, 8)]));
    book.sweep(&[1], Expires::Nothing);
    assert_eq!((book.ledger().len(), reasons(&book.view())), (3, vec![Reason::WaitingForFunds]));
}

/// Wherever batches are cut: a further delivery decides an open case again, also one that has waited until its own batch.
#[test]
fn a_copy_decides_again_what_has_become_an_open_case_in_its_batch() {
    let (full, most) = OPENED[1];
    let room = i64::MAX - most;
    let transfer = Draft::new("transfer", Kind::TransferSucceeded, room + 1).account("payer").to(full);
    let all = [
        Draft::new("opening", Kind::DepositSucceeded, 1).account("payer"),
        transfer.clone(),
        // Now there is the money, and no room for it; then there is.
        Draft::new("money", Kind::DepositSucceeded, room).account("payer"),
        Draft::new("fee", Kind::FeeCharged, 1).account(full),
        transfer,
    ];
    for sizes in [&[1][..], &[5], &[2, 3], &[3, 2], &[2, 2, 1], &[4, 1]] {
        let view = taken(&all, sizes).view();
        assert_eq!((view.ledger.len(), reasons(&view)), (4, vec![]), "{sizes:?}");
    }
}
