//! Whole lives of payments, shuffled: whatever order, copies and batches their events come in, they end the same. Where the
//! order does change the end, a table says why.

use std::collections::BTreeMap;

use payonce::ledger::Kind;
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    book::Book,
    draft::{Draft, build},
    model::{PaymentRow, View},
    streams::{cut, cuts},
};

/// More than all stories together can hold or spend.
const FUNDS: i64 = 1_000_000;

/// A story whose end does not depend on the order of its events.
///
/// Left out, because an earlier event of these forbids a later one: a void or a failure together with captures (or both of
/// them), and a void or a failure of a direct debit. The tables at the end of this file show where those end.
#[derive(Debug, Clone)]
enum Story {
    /// Authorized, captured in parts, the last marked final or not, refunded in parts.
    Captured { authorized: i64, captures: Vec<i64>, last_is_final: bool, refunds: Vec<i64> },
    /// Authorized and released.
    Released { authorized: i64, by: Kind },
    /// Debited at once, refunded in parts.
    Debited { amount: i64, refunds: Vec<i64> },
}

/// Cuts `whole` into parts; what is left over after the last cut is not used.
fn parts(whole: i64, shares: &[u8]) -> Vec<i64> {
    let mut rest = whole;
    let mut parts = Vec::new();
    for share in shares {
        let part = (rest * i64::from(*share) / 100).clamp(1, rest.max(1));
        if part > rest {
            break;
        }
        rest -= part;
        parts.push(part);
    }
    parts
}

fn story() -> impl Strategy<Value = Story> {
    let shares = || vec(prop_oneof![4 => 1..=80_u8, 1 => Just(100_u8)], 0..=4);
    let captured = (1..=500_i64, shares(), any::<bool>(), shares()).prop_map(
        |(authorized, capture_shares, last_is_final, refund_shares)| {
            let captures = parts(authorized, &capture_shares);
            let refunds = parts(captures.iter().sum(), &refund_shares);
            Story::Captured { authorized, captures, last_is_final, refunds }
        },
    );
    let by = prop_oneof![Just(Kind::PaymentVoided), Just(Kind::PaymentFailed)];
    let released = (1..=500_i64, by).prop_map(|(authorized, by)| Story::Released { authorized, by });
    let debited = (1..=500_i64, shares())
        .prop_map(|(amount, shares)| Story::Debited { amount, refunds: parts(amount, &shares) });
    prop_oneof![4 => captured, 1 => released, 2 => debited]
}

impl Story {
    fn events(&self, number: usize) -> Vec<Draft> {
        let mut events: Vec<(Kind, i64, bool)> = Vec::new();
        match self {
            Self::Captured { authorized, captures, last_is_final, refunds } => {
                events.push((Kind::PaymentAuthorized, *authorized, false));
                let last = captures.len().wrapping_sub(1);
                for (at, capture) in captures.iter().enumerate() {
                    events.push((Kind::PaymentCaptured, *capture, *last_is_final && at == last));
                }
                events.extend(refunds.iter().map(|refund| (Kind::RefundSucceeded, *refund, false)));
            }
            Self::Released { authorized, by } => {
                events.push((Kind::PaymentAuthorized, *authorized, false));
                events.push((*by, *authorized, false));
            }
            Self::Debited { amount, refunds } => {
                events.push((Kind::PaymentSucceeded, *amount, false));
                events.extend(refunds.iter().map(|refund| (Kind::RefundSucceeded, *refund, false)));
            }
        }
        let drafts = events.into_iter().enumerate().map(|(at, (kind, amount, is_final))| {
            let mut draft = Draft::new(&format!("evt-{number}-{at}"), kind, amount)
                .account(&account(number))
                .payment(&format!("pay-{number}"));
            // Every event has an operation id in every second story.
            draft.content.operation = (number % 2 == 1).then(|| format!("op-{number}-{at}"));
            draft.content.is_final = is_final;
            draft
        });
        drafts.collect()
    }

    /// The end in money, by its own arithmetic: what the account has less, what it holds, and the payment row.
    fn end(&self, number: usize) -> (i128, i128, PaymentRow) {
        let sum = |parts: &[i64]| i128::from(parts.iter().sum::<i64>());
        let (state, authorized, captured, refunded, held) = match self {
            Self::Captured { authorized, captures, last_is_final, refunds } => {
                let (authorized, captured) = (i128::from(*authorized), sum(captures));
                let ends = captured == authorized || (*last_is_final && !captures.is_empty());
                let (state, held) =
                    if ends { ("captured", 0) } else { ("authorized", authorized - captured) };
                (state, authorized, captured, sum(refunds), held)
            }
            Self::Released { authorized, by: Kind::PaymentVoided } => {
                ("voided", i128::from(*authorized), 0, 0, 0)
            }
            Self::Released { authorized, by: _ } => ("failed", i128::from(*authorized), 0, 0, 0),
            Self::Debited { amount, refunds } => ("succeeded", 0, i128::from(*amount), sum(refunds), 0),
        };
        let row = PaymentRow {
            account: account(number),
            currency: "CNY".to_owned(),
            state,
            authorized,
            captured,
            refunded,
            version: i64::try_from(self.events(number).len()).unwrap(),
        };
        (captured - refunded, held, row)
    }
}

/// Two accounts, so that stories meet in one account and in different ones.
fn account(number: usize) -> String {
    format!("acct-{}", number % 2)
}

/// Stories, and their events in any order with copies in between.
fn shuffled_stories() -> impl Strategy<Value = (Vec<Story>, Vec<Draft>)> {
    vec(story(), 1..=4).prop_flat_map(|stories| {
        let events: Vec<Draft> =
            stories.iter().enumerate().flat_map(|(number, story)| story.events(number)).collect();
        let copies = vec((any::<Index>(), any::<Index>()), 0..=events.len());
        (Just(stories), Just(events).prop_shuffle(), copies).prop_map(|(stories, mut events, copies)| {
            for (of, to) in copies {
                let copy = of.get(&events).clone();
                events.insert(to.index(events.len() + 1), copy);
            }
            (stories, events)
        })
    })
}

fn funded() -> Book {
    let mut book = Book::default();
    for number in 0..2 {
        let deposit = Draft::new(&format!("fund-{number}"), Kind::DepositSucceeded, FUNDS);
        book.take(&build(&[deposit.account(&account(number))]));
    }
    book
}

proptest! {
    #[test]
    fn any_order_of_a_storys_events_ends_in_the_same_money_and_payment(
        (stories, events) in shuffled_stories(),
        sizes in cuts(),
    ) {
        let mut book = funded();
        for batch in cut(&build(&events), &sizes) {
            book.take(batch);
        }
        let view = book.view();
        prop_assert!(view.cases.is_empty(), "nothing waits, nothing needs a person: {:?}", view.cases);
        let mut spent: BTreeMap<String, (i128, i128)> = BTreeMap::new();
        for (number, story) in stories.iter().enumerate() {
            let (less, held, row) = story.end(number);
            prop_assert_eq!(&view.payments[&("/providers/a".to_owned(), format!("pay-{number}"))], &row);
            let account = spent.entry(account(number)).or_default();
            *account = (account.0 + less, account.1 + held);
        }
        prop_assert_eq!(view.payments.len(), stories.len());
        for (account, (less, held)) in spent {
            let stored = &view.accounts[&account];
            prop_assert_eq!((stored.balance, stored.held), (i128::from(FUNDS) - less, held), "{}", account);
        }
    }
}

/// Every order of these events, one batch each and all in one, and where each order ends.
#[track_caller]
fn ends(events: &[Draft]) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut ends: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for order in orders(events) {
        let names: Vec<String> = order.iter().map(|event| event.id.clone()).collect();
        let [apart, together] = [1, usize::MAX].map(|size| {
            let mut book = funded();
            for batch in cut(&build(&order), &[size]) {
                book.take(batch);
            }
            in_words(&book.view())
        });
        assert_eq!(apart, together, "{names:?}");
        ends.entry(apart).or_default().push(names);
    }
    ends
}

fn orders(events: &[Draft]) -> Vec<Vec<Draft>> {
    if events.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for first in 0..events.len() {
        let mut rest = events.to_vec();
        let event = rest.remove(first);
        all.extend(orders(&rest).into_iter().map(|rest| [vec![event.clone()], rest].concat()));
    }
    all
}

fn in_words(view: &View) -> String {
    let account = &view.accounts["acct-0"];
    let mut words = format!("{:+} held {}", account.balance - i128::from(FUNDS), account.held);
    for payment in view.payments.values() {
        words += &format!(", {} {}/{}", payment.state, payment.captured, payment.authorized);
    }
    for (callback, (reason, _)) in &view.cases {
        words += &format!(", {}: {reason}", callback.id);
    }
    words
}

fn event(id: &str, kind: Kind, amount: i64) -> Draft {
    Draft::new(id, kind, amount).account("acct-0")
}

#[track_caller]
fn check_orders(events: &[Draft], expected: &[(&str, &[&str])]) {
    let found = ends(events);
    let found: BTreeMap<&str, Vec<String>> = found
        .iter()
        .map(|(end, orders)| (&**end, orders.iter().map(|names| names.join(" ")).collect()))
        .collect();
    let expected: BTreeMap<&str, Vec<String>> = expected
        .iter()
        .map(|(end, orders)| (*end, orders.iter().map(|names| (*names).to_owned()).collect()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_capture_that_comes_after_the_void_needs_a_person() {
    // The void has released the hold: that money may be spent by now.
    check_orders(
        &[
            event("auth", Kind::PaymentAuthorized, 100),
            event("capture", Kind::PaymentCaptured, 30),
            event("void", Kind::PaymentVoided, 100),
        ],
        &[
            ("-30 held 0, voided 30/100", &["auth capture void", "capture auth void"]),
            (
                "+0 held 0, voided 0/100, capture: invalid_transition",
                &["auth void capture", "capture void auth", "void auth capture", "void capture auth"],
            ),
        ],
    );
}

#[test]
fn a_void_that_comes_after_everything_is_captured_needs_a_person() {
    // Nothing is left to release; if the void is true, the provider owes a refund.
    check_orders(
        &[
            event("auth", Kind::PaymentAuthorized, 100),
            event("capture", Kind::PaymentCaptured, 40).finally(),
            event("void", Kind::PaymentVoided, 60),
        ],
        &[
            (
                "-40 held 0, captured 40/100, void: invalid_transition",
                &["auth capture void", "capture auth void"],
            ),
            (
                "+0 held 0, voided 0/100, capture: invalid_transition",
                &["auth void capture", "capture void auth", "void auth capture", "void capture auth"],
            ),
        ],
    );
}

#[test]
fn of_a_void_and_a_failure_the_first_closes_the_payment() {
    check_orders(
        &[
            event("auth", Kind::PaymentAuthorized, 100),
            event("void", Kind::PaymentVoided, 100),
            event("fail", Kind::PaymentFailed, 100),
        ],
        &[
            (
                "+0 held 0, voided 0/100, fail: invalid_transition",
                &["auth void fail", "void auth fail", "void fail auth"],
            ),
            (
                "+0 held 0, failed 0/100, void: invalid_transition",
                &["auth fail void", "fail auth void", "fail void auth"],
            ),
        ],
    );
}

#[test]
fn of_a_debit_and_a_failure_the_first_is_believed() {
    // Whether money left is for a person to find out.
    check_orders(
        &[event("debit", Kind::PaymentSucceeded, 100), event("fail", Kind::PaymentFailed, 100)],
        &[
            ("-100 held 0, succeeded 100/0, fail: invalid_transition", &["debit fail"]),
            ("+0 held 0, failed 0/0, debit: invalid_transition", &["fail debit"]),
        ],
    );
}

#[test]
fn of_captures_that_exceed_the_authorization_the_first_to_come_counts() {
    check_orders(
        &[
            event("auth", Kind::PaymentAuthorized, 100),
            event("sixty", Kind::PaymentCaptured, 60),
            event("fifty", Kind::PaymentCaptured, 50),
        ],
        &[
            (
                "-60 held 40, authorized 60/100, fifty: over_capture",
                &["auth sixty fifty", "sixty auth fifty", "sixty fifty auth"],
            ),
            (
                "-50 held 50, authorized 50/100, sixty: over_capture",
                &["auth fifty sixty", "fifty auth sixty", "fifty sixty auth"],
            ),
        ],
    );
}
