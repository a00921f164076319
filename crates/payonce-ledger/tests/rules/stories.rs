//! The whole life of money, in every order: stories as providers tell them, each order of their events, cut into batches and taken by
//! several workers that lose races and die. All ends are alike (contract §2, "Any order, any pool").
//!
//! What order may decide, and nothing else: who has the last of the money. Where the accounts have enough for all that is taken from them
//! at any time, there is one end. Where they have not, some of what needs available money waits, with what needs it in turn, and the
//! end is the one end of all the others.

use std::collections::BTreeMap;

use payonce_ledger::{Callback, CaseId, Expires, Kind, Plan};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    book::Book,
    draft::{Content, Draft, build},
    model::{Account, Model, PaymentRow, View},
    streams::{cut, cuts},
};

/// More than all stories together can hold or spend.
const FUNDS: i64 = 1_000_000;

/// What has to be alike: of two events of one fact, which one has the row is the order's business.
#[derive(Debug, PartialEq, Eq)]
struct End {
    accounts: BTreeMap<String, Account>,
    payments: BTreeMap<(String, String), PaymentRow>,
    /// Sorted.
    applied: Vec<(String, Content)>,
    /// Callbacks and reasons.
    cases: Vec<(String, &'static str)>,
}

impl End {
    fn of(view: View) -> Self {
        let mut applied: Vec<(String, Content)> =
            view.ledger.into_iter().map(|draft| (draft.source, draft.content)).collect();
        applied.sort();
        let cases = view.cases.into_iter().map(|(draft, (reason, _))| (draft.id, reason)).collect();
        Self { accounts: view.accounts, payments: view.payments, applied, cases }
    }

    fn of_model(events: &[Draft]) -> Self {
        let mut model = Model::default();
        model.take_all(events);
        Self::of(model.view())
    }

    /// Accounts with what they have and hold, payments, cases.
    fn in_words(&self) -> String {
        let mut words = Vec::new();
        for (name, account) in &self.accounts {
            let held = if account.held == 0 { String::new() } else { format!(" held {}", account.held) };
            words.push(format!("{name} {}{held}", account.balance));
        }
        for payment in self.payments.values() {
            let PaymentRow { state, authorized, captured, refunded, .. } = payment;
            words.push(format!("{state} {authorized}/{captured}/{refunded}"));
        }
        words.extend(self.cases.iter().map(|(id, reason)| format!("{id} {reason}")));
        words.join(", ")
    }
}

fn event(id: &str, kind: Kind, amount: i64) -> Draft {
    Draft::new(id, kind, amount)
}

/// Takes these one batch after the other.
fn in_batches(events: &[Draft], sizes: &[usize]) -> Book {
    let mut book = Book::default();
    for batch in cut(&build(events), sizes) {
        book.take(batch);
    }
    book
}

/// Two workers, each with one callback, decide on one snapshot; then both write.
fn in_pairs(events: &[Draft]) -> Book {
    let mut book = Book::default();
    for pair in build(events).chunks(2) {
        let plans: Vec<Plan> = pair.iter().map(|one| book.decide(std::slice::from_ref(one))).collect();
        for (one, plan) in pair.iter().zip(plans) {
            let mut left = vec![one.clone()];
            let mut plan = Some(plan);
            while !left.is_empty() {
                let decided = plan.take().unwrap_or_else(|| book.decide(&left));
                left = write(&mut book, &left, decided);
            }
        }
    }
    book
}

/// What is to be decided again.
fn write(book: &mut Book, batch: &[Callback], plan: Plan) -> Vec<Callback> {
    match book.apply(batch, plan.clone()) {
        // Nothing is written.
        Err(_) => batch.to_vec(),
        Ok(lost) => {
            let is_lost = plan.callbacks_about(&lost);
            batch.iter().zip(is_lost).filter(|(_, is_lost)| *is_lost).map(|(one, _)| one.clone()).collect()
        }
    }
}

/// Looks at all that waits until nothing changes; returns whether anything did.
fn sweep(book: &mut Book, sizes: &[usize]) -> bool {
    let mut any = false;
    loop {
        let before = book.view();
        book.sweep(sizes, Expires::Nothing);
        if book.view() == before {
            return any;
        }
        any = true;
    }
}

fn orders<T: Clone>(events: &[T]) -> Vec<Vec<T>> {
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

/// Every order of these events, in batches of one, two and all, and by two workers at once: each ends so.
#[track_caller]
fn all_orders_end(events: &[Draft], expected: &str) {
    assert!(events.len() <= 6, "{} events have too many orders", events.len());
    let told = End::of_model(events);
    assert_eq!(told.in_words(), expected, "in the provider's own order, by the model");
    for order in orders(events) {
        let names = || order.iter().map(|event| event.id.as_str()).collect::<Vec<_>>().join(" ");
        for size in [1, 2, events.len()] {
            let end = End::of(in_batches(&order, &[size]).view());
            assert_eq!(end, told, "{} in batches of {size}", names());
        }
        let mut book = in_pairs(&order);
        sweep(&mut book, &[1]);
        assert_eq!(End::of(book.view()), told, "{} by two workers", names());
    }
}

fn deposit(amount: i64) -> Draft {
    event("deposit", Kind::DepositSucceeded, amount)
}
fn auth(amount: i64) -> Draft {
    event("auth", Kind::PaymentAuthorized, amount)
}
fn capture(amount: i64) -> Draft {
    event("capture", Kind::PaymentCaptured, amount)
}
fn void(amount: i64) -> Draft {
    event("void", Kind::PaymentVoided, amount)
}
fn debit(amount: i64) -> Draft {
    event("debit", Kind::PaymentSucceeded, amount)
}
fn refund(id: &str, amount: i64) -> Draft {
    event(id, Kind::RefundSucceeded, amount)
}

/// Each end by hand: accounts with balance and hold; payments as state and authorized/captured/refunded.
#[test]
fn every_story_of_the_contract_ends_alike_in_all_its_orders() {
    let stories: &[(&[Draft], &str)] = &[
        // Authorized, captured in parts, the rest released (cases/01).
        (&[deposit(100_000), auth(1000), capture(400), void(600)], "acct 99600, captured 1000/400/0"),
        (
            &[deposit(500), auth(100), capture(30), capture(50).under("second"), refund("refund", 60)],
            "acct 480 held 20, authorized 100/80/60",
        ),
        (
            &[deposit(500), auth(100), capture(30).finally(), capture(20).under("late")],
            "acct 450, captured 100/50/0",
        ),
        (
            &[
                deposit(100),
                auth(100),
                capture(40).finally(),
                event("debit", Kind::PaymentSucceeded, 60).payment("next"),
            ],
            "acct 0, succeeded 0/60/0, captured 100/40/0",
        ),
        // A failure before the success (cases/12), of a hold and of a debit.
        (
            &[deposit(100_000), event("fail", Kind::PaymentFailed, 1999), debit(1999).operation("ch_2")],
            "acct 98001, succeeded 0/1999/0",
        ),
        (
            &[
                deposit(500),
                event("fail", Kind::PaymentFailed, 0),
                auth(100),
                event("again", Kind::PaymentFailed, 100),
                capture(100),
            ],
            "acct 400, captured 100/100/0",
        ),
        // A void of a part, and one of the rest (cases/13).
        (&[deposit(1000), auth(1000), void(200).partly(), capture(800)], "acct 200, captured 1000/800/0"),
        (
            &[
                deposit(1000),
                auth(1000),
                void(200).partly(),
                void(300).partly().under("more"),
                void(0).under("rest"),
            ],
            "acct 1000, voided 1000/0/0",
        ),
        (&[deposit(1000), auth(1000), void(1000)], "acct 1000, voided 1000/0/0"),
        // A direct debit, given back (cases/14), after a refund of a part too.
        (&[deposit(100_000), debit(1999), void(1999)], "acct 100000, voided 0/1999/0"),
        (
            &[deposit(500), debit(200), refund("one", 50), refund("two", 20), void(0)],
            "acct 500, voided 0/200/70",
        ),
        // Increments (cases/16), as sums and as new totals; of adjustments the latest by the provider's clock holds.
        (
            &[
                deposit(100_000),
                auth(1000).operation("a1"),
                auth(1500).operation("a2").under("more"),
                capture(1500),
            ],
            "acct 98500 held 1000, authorized 2500/1500/0",
        ),
        (
            &[
                deposit(2000),
                auth(100),
                event("up", Kind::PaymentAuthorizationAdjusted, 300).at(1),
                event("down", Kind::PaymentAuthorizationAdjusted, 200).at(2),
                capture(250),
            ],
            "acct 1750, captured 200/250/0",
        ),
        (
            &[
                deposit(150),
                auth(200),
                event("down", Kind::PaymentAuthorizationAdjusted, 120).at(1),
                capture(120),
            ],
            "acct 30, captured 120/120/0",
        ),
        // A capture that came back, and the one after it.
        (
            &[
                deposit(500),
                auth(100),
                capture(60).operation("c1"),
                event("back", Kind::PaymentCaptureFailed, 60).operation("c1"),
                capture(90).under("again").operation("c2"),
            ],
            "acct 410, captured 100/90/0",
        ),
        // Refunds that came back (cases/15), and the one after them.
        (
            &[
                deposit(2000),
                debit(1999),
                refund("refund", 1999).operation("r1"),
                event("back", Kind::RefundFailed, 1999).operation("r1"),
                refund("again", 1999).operation("r2"),
            ],
            "acct 2000, succeeded 0/1999/1999",
        ),
        // The refund had been spent: a debt, paid off by the next deposit.
        (
            &[
                deposit(100),
                debit(100),
                refund("refund", 100).operation("r1"),
                event("back", Kind::RefundFailed, 100).operation("r1"),
                event("fee", Kind::FeeCharged, 30),
            ],
            "acct -30, succeeded 0/100/0",
        ),
        // A deposit that goes back, is disputed, and comes again (cases/15).
        (
            &[
                deposit(1999).payment("top-up"),
                event("part", Kind::DepositRefunded, 500).payment("top-up"),
                event("dispute", Kind::DepositDisputed, 1499).payment("top-up"),
                event("won", Kind::DepositReinstated, 1499).payment("top-up"),
            ],
            "acct 1499",
        ),
        (
            &[
                deposit(100).payment("top-up"),
                event("dispute", Kind::DepositDisputed, 100).payment("top-up").operation("d1"),
                event("won", Kind::DepositReinstated, 100).payment("top-up"),
                event("again", Kind::DepositDisputed, 100).payment("top-up").operation("d2"),
                event("fee", Kind::FeeCharged, 15),
            ],
            "acct -15",
        ),
        // A refund that failed gives back what it took, beside another that succeeded.
        (
            &[
                deposit(10_000).payment("top-up"),
                event("a", Kind::DepositRefunded, 3_000).payment("top-up").operation("re_a"),
                event("b", Kind::DepositRefunded, 2_000).payment("top-up").operation("re_b"),
                event("failed", Kind::DepositReinstated, 2_000)
                    .payment("top-up")
                    .operation("re_b")
                    .reverses(Kind::DepositRefunded),
            ],
            "acct 7000",
        ),
        // A deposit that is announced as charge and as intent is credited once.
        (
            &[
                deposit(100).payment("pi_1"),
                event("charge", Kind::DepositSucceeded, 100).payment("pi_1"),
                debit(60),
                event("fee", Kind::FeeCharged, 5),
            ],
            "acct 35, succeeded 0/60/0",
        ),
        // Deposit, then spend; spend what a refund, a void, a transfer brings.
        (
            &[deposit(100), debit(60), debit(40).payment("pay-2").under("second")],
            "acct 0, succeeded 0/60/0, succeeded 0/40/0",
        ),
        (
            &[deposit(100), debit(100), refund("refund", 70), debit(70).payment("pay-2").under("second")],
            "acct 0, succeeded 0/100/70, succeeded 0/70/0",
        ),
        (
            &[deposit(100), auth(100), void(0), debit(100).payment("pay-2").under("second")],
            "acct 0, voided 100/0/0, succeeded 0/100/0",
        ),
        (
            &[
                deposit(100),
                event("opening", Kind::DepositSucceeded, 1).account("other"),
                event("transfer", Kind::TransferSucceeded, 80),
                event("back", Kind::TransferSucceeded, 50).account("other").to("acct"),
                debit(31).account("other"),
            ],
            "acct 70, other 0, succeeded 0/31/0",
        ),
        // Running totals, of captures and of refunds.
        (
            &[
                deposit(500),
                auth(100),
                capture(30).total(),
                capture(80).total().under("more"),
                refund("refund", 50).total(),
            ],
            "acct 470 held 20, authorized 100/80/50",
        ),
        (
            &[
                deposit(500),
                debit(200),
                refund("thirty", 30).total(),
                refund("fifty", 50).total(),
                refund("eighty", 80).total(),
            ],
            "acct 380, succeeded 0/200/80",
        ),
        // The hold's time is up before all is captured, or before anything is.
        (
            &[deposit(500), auth(100), event("payonce.expired:1", Kind::PaymentVoided, 0), capture(30)],
            "acct 470, captured 100/30/0",
        ),
        (
            &[deposit(500), auth(100), event("payonce.expired:1", Kind::PaymentVoided, 0)],
            "acct 500, expired 100/0/0",
        ),
        // The payment says whose it is.
        (
            &[
                deposit(500),
                auth(100),
                capture(60).nameless().operation("c1"),
                event("back", Kind::PaymentCaptureFailed, 60).nameless().operation("c1"),
                debit(500).payment("pay-2").under("second"),
                void(0).nameless(),
            ],
            "acct 0, voided 100/0/0, succeeded 0/500/0",
        ),
        // A correction by an operator.
        (
            &[
                deposit(10),
                event("credit", Kind::AdjustmentPosted, 50),
                event("debit", Kind::AdjustmentPosted, 90).debit(),
            ],
            "acct -30",
        ),
    ];
    for (events, expected) in stories {
        all_orders_end(events, expected);
    }
}

/// The latest end that an authorization names is the hold's, also where the sweep came before it.
#[test]
fn a_hold_is_released_when_the_last_of_its_authorizations_ends_in_whatever_order() {
    let ends = |id: &str, amount, at_us| {
        let mut event = auth(amount).under(id).operation(id);
        event.content.expires_at_us = at_us;
        event
    };
    let expiry = |at_us: i64| {
        let mut event = event(&format!("payonce.expired:{at_us}"), Kind::PaymentVoided, 0);
        event.at_us = Some(at_us);
        event
    };
    let both =
        [deposit(500), ends("a", 100, Some(10)), ends("b", 50, Some(20)), ends("c", 7, None), expiry(10)];
    let with_last = [both.as_slice(), &[capture(30), expiry(20)]].concat();
    let cases = [(both.as_slice(), (500, 157)), (&with_last[..6], (470, 127)), (&with_last, (470, 0))];
    for (events, (balance, held)) in cases {
        for order in orders(events) {
            let place = |id: &str| order.iter().position(|event| event.id == id);
            // payonce releases what an authorization has named.
            let is_sound = |end, by: &str| place(end).is_none_or(|end| place(by).is_some_and(|by| by < end));
            if is_sound("payonce.expired:10", "a") && is_sound("payonce.expired:20", "b") {
                let end = End::of(in_batches(&order, &[1]).view());
                let account = &end.accounts["acct"];
                assert_eq!((account.balance, account.held), (balance, held), "{order:?}");
            }
        }
    }
}

/// cases/17: the provider gives two refunds of equal amount the charge's id. The first to come has it, the second is a copy of it; another
/// amount is a mismatch, which needs a person. That is what a second idempotency key means, and providers do not do so.
#[test]
fn refunds_under_the_charges_id_are_one_refund() {
    let events = [
        deposit(100_000),
        debit(2000).operation("ch_r"),
        refund("r1", 500).operation("ch_r"),
        refund("r2", 500).operation("ch_r"),
        refund("r3", 700).operation("ch_r"),
    ];
    for order in orders(&events) {
        let end = End::of(in_batches(&order, &[1]).view());
        let first = order.iter().find(|event| event.id.starts_with('r')).unwrap().content.amount;
        assert_eq!(end.accounts["acct"].balance, i128::from(98_000 + first));
        assert!(end.cases.iter().all(|(_, reason)| *reason == "payload_mismatch"), "{:?}", end.cases);
    }
}

/// Order decides who has the last of the money, and nothing else.
#[test]
fn of_two_that_want_the_last_of_the_money_the_first_has_it_and_the_other_waits() {
    let events = [deposit(100), debit(70), debit(60).payment("pay-2").under("second")];
    for order in orders(&events) {
        let view = in_batches(&order, &[1]).view();
        let first = order.iter().find(|event| event.content.kind == Kind::PaymentSucceeded).unwrap();
        assert!(view.ledger.contains(first), "{order:?}");
        assert_eq!(view.accounts["acct"].balance, i128::from(100 - first.content.amount));
        assert_eq!(view.cases.values().map(|(reason, _)| *reason).collect::<Vec<_>>(), ["waiting_for_funds"]);
    }
}

/// What is needed to make a random story sound: each event's amount within what the others allow.
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

fn running(parts: &[i64]) -> Vec<i64> {
    let mut total = 0;
    parts
        .iter()
        .map(|part| {
            total += part;
            total
        })
        .collect()
}

/// The events of one story, in the provider's order, without ids and accounts.
fn story() -> impl Strategy<Value = Vec<Draft>> {
    let shares = || vec(prop_oneof![4 => 1..=80_u8, 1 => Just(100_u8)], 0..=3);
    let flags = || (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..6_u8);
    let held = (2..=500_i64, shares(), shares(), flags(), flags()).prop_map(
        |(authorized, capture_shares, refund_shares, flags, more)| {
            let (in_two, adjusts, totals, last_is_final, capture_fails, ending) = flags;
            let (refund_totals, refund_fails, fails_first, is_nameless, _, at) = more;
            let mut events = Vec::new();
            if fails_first {
                events.push(event("", Kind::PaymentFailed, 0));
            }
            let first = if in_two { authorized / 2 } else { authorized };
            events.push(auth(first).operation("a1"));
            if in_two {
                events.push(auth(authorized - first).operation("a2"));
            }
            let mut captured = parts(authorized, &capture_shares);
            if adjusts {
                events.push(event("", Kind::PaymentAuthorizationAdjusted, authorized * 2).at(i64::from(at)));
                events.push(event("", Kind::PaymentAuthorizationAdjusted, authorized).at(i64::from(at) + 1));
            }
            let amounts = if totals { running(&captured) } else { captured.clone() };
            let last = amounts.len().wrapping_sub(1);
            for (at, amount) in amounts.into_iter().enumerate() {
                let mut event = capture(amount).operation(&format!("c{at}"));
                event.content.is_cumulative = totals;
                event.content.is_final = last_is_final && at == last;
                if is_nameless {
                    event = event.nameless();
                }
                events.push(event);
            }
            if capture_fails && !totals && !captured.is_empty() {
                events.push(event("", Kind::PaymentCaptureFailed, captured[0]).operation("c0"));
                // Tried once more.
                events.push(capture(captured[0]).operation("c-again"));
            }
            let refunded = parts(captured.drain(..).sum(), &refund_shares);
            let amounts = if refund_totals { running(&refunded) } else { refunded.clone() };
            for (at, amount) in amounts.into_iter().enumerate() {
                let mut event = refund("", amount).operation(&format!("r{at}"));
                event.content.is_cumulative = refund_totals;
                events.push(event);
            }
            if refund_fails && !refund_totals && !refunded.is_empty() {
                events.push(event("", Kind::RefundFailed, refunded[0]).operation("r0"));
                events.push(refund("", refunded[0]).operation("r-again"));
            }
            match ending {
                0 => events.push(void(0)),
                1 => events.push(void(1 + authorized / 3).partly()),
                2 => events.push(event("payonce.expired:", Kind::PaymentVoided, 0)),
                3 => events.push(event("", Kind::PaymentFailed, authorized)),
                _ => {}
            }
            events
        },
    );
    let debited = (1..=500_i64, shares(), flags()).prop_map(|(amount, shares, flags)| {
        let (fails_first, totals, refund_fails, is_voided, released, _) = flags;
        let mut events = Vec::new();
        if fails_first {
            events.push(event("", Kind::PaymentFailed, amount));
        }
        events.push(debit(amount));
        let refunded = parts(amount, &shares);
        let amounts = if totals { running(&refunded) } else { refunded.clone() };
        for (at, amount) in amounts.into_iter().enumerate() {
            let mut event = refund("", amount).operation(&format!("r{at}"));
            event.content.is_cumulative = totals;
            events.push(event);
        }
        if refund_fails && !totals && !refunded.is_empty() {
            events.push(event("", Kind::RefundFailed, refunded[0]).operation("r0"));
        }
        if released {
            events.push(void(1 + amount / 4).partly());
        }
        if is_voided {
            events.push(void(amount));
        }
        events
    });
    let topped_up =
        (3..=500_i64, flags()).prop_map(|(amount, (refunds, disputes, wins, totals, twice, _))| {
            let mut events = vec![deposit(amount)];
            let part = amount / 3;
            if refunds {
                let mut event = event("", Kind::DepositRefunded, part).operation("b0");
                event.content.is_cumulative = totals;
                events.push(event);
            }
            if disputes {
                events.push(event("", Kind::DepositDisputed, amount - part).operation("d0"));
            }
            if disputes && wins {
                // By another id, or by the dispute's own, which is then what it takes back.
                events.push(if twice {
                    event("", Kind::DepositReinstated, amount - part).operation("w0")
                } else {
                    event("", Kind::DepositReinstated, amount - part)
                        .operation("d0")
                        .reverses(Kind::DepositDisputed)
                });
                if twice {
                    events.push(event("", Kind::DepositDisputed, amount - part).operation("d1"));
                }
            }
            events
        });
    let alone = (1..=500_i64, 0..3_u8).prop_map(|(amount, which)| {
        vec![match which {
            0 => event("", Kind::FeeCharged, amount).operation("fee"),
            1 => event("", Kind::AdjustmentPosted, amount).debit(),
            _ => event("", Kind::TransferSucceeded, amount).operation("t"),
        }]
    });
    prop_oneof![5 => held, 3 => debited, 2 => topped_up, 2 => alone]
}

const ACCOUNTS: usize = 3;

/// Stories over several accounts, in the provider's order, opened by deposits of so much; then the same with copies and second events
/// of one fact, in any order.
fn shuffled(funds: i64) -> impl Strategy<Value = (Vec<Draft>, Vec<Draft>)> {
    vec((story(), any::<bool>()), 1..=4).prop_flat_map(move |stories| {
        let account = |number: usize| format!("acct-{}", number % ACCOUNTS);
        let mut told: Vec<Draft> = (0..ACCOUNTS)
            .map(|at| event(&format!("fund-{at}"), Kind::DepositSucceeded, funds).account(&account(at)))
            .collect();
        let mut twins = Vec::new();
        for (number, (events, has_twins)) in stories.into_iter().enumerate() {
            for (at, mut event) in events.into_iter().enumerate() {
                event.id = format!("{}{number}-{at}", event.id);
                let content = &mut event.content;
                content.account = content.account.is_some().then(|| account(number));
                if content.kind.needs_payment_id() || content.kind == Kind::DepositSucceeded {
                    content.payment = Some(format!("pay-{number}"));
                }
                content.operation = content.operation.take().map(|id| format!("{id}-{number}"));
                content.to = content.to.take().map(|_| account(number + 1));
                if has_twins && content.operation.is_some() {
                    twins.push(event.clone().under(&format!("twin-{number}-{at}")));
                }
                told.push(event);
            }
        }
        let copies = vec((any::<Index>(), any::<Index>()), 0..=told.len() / 2);
        let all = [told.clone(), twins].concat();
        (Just(told), Just(all).prop_shuffle(), copies).prop_map(|(told, mut events, copies)| {
            for (of, to) in copies {
                let copy = of.get(&events).clone();
                events.insert(to.index(events.len() + 1), copy);
            }
            (told, events)
        })
    })
}

/// What happens next in a pool.
#[derive(Debug, Clone)]
enum Step {
    /// This worker, if idle, takes so many and decides; if busy, it writes.
    Work(usize, usize),
    /// This worker dies before it writes: its batch is delivered again.
    DieBeforeWrite(usize),
    /// It writes and dies before it acknowledges: its batch is delivered again.
    DieAfterWrite(usize),
    /// The sweep decides on so many, and writes later.
    Sweep(usize),
}

const WORKERS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (0..WORKERS, 1..=6_usize).prop_map(|(worker, size)| Step::Work(worker, size)),
        1 => (0..WORKERS).prop_map(Step::DieBeforeWrite),
        1 => (0..WORKERS).prop_map(Step::DieAfterWrite),
        1 => (1..=8_usize).prop_map(Step::Sweep),
    ];
    vec(step, 0..80)
}

struct Pool {
    book: Book,
    queue: Vec<Callback>,
    busy: Vec<Option<(Vec<Callback>, Plan)>>,
    swept: Option<Plan>,
}

impl Pool {
    fn new(events: &[Draft]) -> Self {
        let queue = build(events).into_iter().rev().collect();
        Self { book: Book::default(), queue, busy: vec![None; WORKERS], swept: None }
    }

    fn work(&mut self, worker: usize, size: usize) {
        match self.busy[worker].take() {
            None => {
                let batch: Vec<Callback> = (0..size).filter_map(|_| self.queue.pop()).collect();
                self.decide(worker, batch);
            }
            Some((batch, plan)) => {
                let left = write(&mut self.book, &batch, plan);
                self.decide(worker, left);
            }
        }
    }

    fn decide(&mut self, worker: usize, batch: Vec<Callback>) {
        if !batch.is_empty() {
            let plan = self.book.decide(&batch);
            self.busy[worker] = Some((batch, plan));
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Work(worker, size) => self.work(*worker, *size),
            Step::DieBeforeWrite(worker) => {
                let batch = self.busy[*worker].take().map(|(batch, _)| batch);
                self.queue.extend(batch.into_iter().flatten());
            }
            Step::DieAfterWrite(worker) => {
                if let Some((batch, plan)) = self.busy[*worker].take() {
                    write(&mut self.book, &batch, plan);
                    self.queue.extend(batch);
                }
            }
            Step::Sweep(size) => match self.swept.take() {
                None => {
                    let ids: Vec<CaseId> = self.book.waiting().into_iter().take(*size).collect();
                    self.swept = Some(self.book.decide_cases(&ids, Expires::Nothing));
                }
                // Of a conflict nothing is written; the next sweep looks again.
                Some(plan) => drop(self.book.apply(&[], plan)),
            },
        }
    }

    fn finish(mut self) -> Book {
        while !self.queue.is_empty() || self.busy.iter().any(Option::is_some) {
            (0..WORKERS).for_each(|worker| self.work(worker, 4));
        }
        self.book
    }
}

proptest! {
    /// Nothing is left to a sweep where one worker takes all.
    #[test]
    fn any_order_cut_into_any_batches_ends_in_the_same_money(
        (told, events) in shuffled(FUNDS),
        sizes in cuts(),
    ) {
        let expected = End::of_model(&told);
        prop_assert_eq!(&expected.cases, &[]);
        prop_assert_eq!(End::of(in_batches(&events, &sizes).view()), expected);
    }

    /// Whatever races they lose and wherever they die; the sweep comes to what two workers stored at the same moment.
    #[test]
    fn any_pool_ends_in_the_same_money(
        (told, events) in shuffled(FUNDS),
        steps in steps(),
    ) {
        let mut pool = Pool::new(&events);
        steps.iter().for_each(|step| pool.step(step));
        let mut book = pool.finish();
        sweep(&mut book, &[4]);
        prop_assert_eq!(End::of(book.view()), End::of_model(&told));
    }

    /// Where there is not enough for all, what waits is what lacks money, and what needs such a one; nothing that fits waits; and the end
    /// is that of the others alone, in whatever order.
    #[test]
    fn order_decides_only_who_has_the_last_of_the_money(
        (_, events) in shuffled(150),
        sizes in cuts(),
        other_order in any::<prop::sample::Selector>(),
    ) {
        let mut book = in_batches(&events, &sizes);
        prop_assert!(!sweep(&mut book, &[4]), "nothing that fits waits");
        let view = book.view();
        for (callback, (reason, _)) in &view.cases {
            prop_assert!(["waiting_for_funds", "waiting_for_payment"].contains(reason), "{:?} {}", callback, reason);
        }
        // A debt is what others may spend before it or not: without debts the order of the others decides nothing.
        let owes = view.ledger.iter().any(|draft| draft.content.kind.may_leave_debt());
        if !owes {
            let mut others: Vec<Draft> = view.ledger.iter().cloned().collect();
            let len = others.len();
            let first = other_order.select(0..len);
            others.rotate_left(first);
            let end = End::of(in_batches(&others, &sizes).view());
            prop_assert_eq!(&end.cases, &[]);
            prop_assert_eq!(&end.accounts, &view.accounts);
            prop_assert_eq!(&end.payments, &view.payments);
        }
    }
}

/// A top-up and a payment can have one id with their provider.
#[test]
fn a_payment_and_a_deposit_with_one_id_have_nothing_in_common() {
    let adjusted = event("adjusted", Kind::PaymentAuthorizationAdjusted, 1);
    let back = event("back", Kind::DepositRefunded, 1);
    for order in orders(&[adjusted, back, auth(5), deposit(2)]) {
        let end = End::of(in_batches(&order, &[1]).view());
        assert_eq!(end.in_words(), "acct 2 held 1, authorized 1/0/0, back waiting_for_payment", "{order:?}");
    }
}

/// What failed had taken nothing: another refund or dispute of the deposit, which its amount would fit, is not what it gives back. An event that
/// does not say what it takes back is bounded by all of them (contract §2).
#[test]
fn a_refund_that_failed_and_never_succeeded_gives_nothing_back() {
    let of = |event: Draft| event.payment("top-up");
    for taken in [Kind::DepositRefunded, Kind::DepositDisputed] {
        let other = of(event("other", taken, 3_000)).operation("re_a");
        let failed = of(event("failed", Kind::DepositReinstated, 2_000)).operation("re_b");
        for order in orders(&[of(deposit(10_000)), other.clone(), failed.clone().reverses(taken)]) {
            let end = End::of(in_batches(&order, &[1]).view());
            assert_eq!(end.in_words(), "acct 7000, failed waiting_for_payment", "{order:?}");
            let end = End::of(in_batches(&order, &[3]).view());
            assert_eq!(end.in_words(), "acct 7000, failed waiting_for_payment", "{order:?}");
        }
        all_orders_end(&[of(deposit(10_000)), other, failed], "acct 9000");
    }
    // Nor more than it took.
    let taken = of(event("taken", Kind::DepositRefunded, 1_000)).operation("re_a");
    let more =
        of(event("more", Kind::DepositReinstated, 1_001)).operation("re_a").reverses(Kind::DepositRefunded);
    let end = End::of(in_batches(&[of(deposit(10_000)), taken, more], &[1]).view());
    assert_eq!(end.in_words(), "acct 9000, more invalid_transition");
}
