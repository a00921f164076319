//! Cases decided again, and messages that the broker gave up: whatever came, whenever a person replays.

use payonce::ledger::{Kind, Layer, Outcome, Reason};
use proptest::prelude::*;

use crate::{
    book::Book,
    draft::{Draft, build},
    model::View,
    streams::{Accounts, OPENED, cut, cuts, opened, stream},
};

const LENGTH: usize = 40;

fn taken(stream: &[Draft], sizes: &[usize]) -> Book {
    let (_, mut book) = opened();
    for batch in cut(&build(stream), sizes) {
        book.take(batch);
    }
    book
}

fn given_up(stream: &[Draft], sizes: &[usize]) -> Book {
    let (_, mut book) = opened();
    for batch in cut(&build(stream), sizes) {
        book.give_up(batch);
    }
    book
}

fn reasons(view: &View) -> Vec<Reason> {
    view.cases.values().map(|(reason, _)| Reason::parse(reason).unwrap()).collect()
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
            book.replay(&replays, false);
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
        book.replay(&sweep, true);
        let after = reasons(&book.view());
        prop_assert!(!after.contains(&Reason::WaitingForPayment), "{:?}", after);
        prop_assert!(!waited || after.contains(&Reason::WaitingExpired) || book.ledger().len() > ledger);
    }

    #[test]
    fn what_the_broker_gave_up_moves_no_money_and_is_counted_once(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
        copies in cuts(),
    ) {
        let mut book = given_up(&stream, &sizes);
        prop_assert!(book.ledger().is_empty());
        let cases = reasons(&book.view());
        prop_assert!(
            cases.iter().all(|reason| matches!(reason, Reason::DeliveryLimit | Reason::PayloadMismatch)),
            "{:?}", cases
        );
        for batch in cut(&build(&stream), &copies) {
            for outcome in book.take(batch).outcomes {
                let is_copy =
                    matches!(outcome, Outcome::Duplicate(Layer::Batch | Layer::Quarantine | Layer::Operation));
                prop_assert!(is_copy, "{:?}", outcome);
            }
        }
        prop_assert!(book.ledger().is_empty());
    }

    /// As if the broker had never given them up. But for second keys: two cases of one fact are both at hand, where a callback
    /// whose fact is in a case is a duplicate.
    #[test]
    fn replaying_what_was_given_up_gives_what_taking_it_gives(
        stream in stream(LENGTH, Accounts::Apart),
        sizes in cuts(),
        replays in cuts(),
    ) {
        let mut stream = stream;
        stream.iter_mut().for_each(|draft| draft.content.operation = None);
        let direct = taken(&stream, &sizes).view();
        let mut book = given_up(&stream, &sizes);
        book.replay(&replays, false);
        let replayed = book.view();
        prop_assert_eq!(&replayed.ledger, &direct.ledger);
        prop_assert_eq!(&replayed.accounts, &direct.accounts);
        prop_assert_eq!(&replayed.payments, &direct.payments);
        prop_assert!(!reasons(&replayed).contains(&Reason::DeliveryLimit));
    }
}
