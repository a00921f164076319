//! Stories: everything that happens to one payment, or to an account that runs short, such that every order of arrival ends in the same
//! money. The plan shuffles them.

use rand::{RngExt, rngs::StdRng};

use crate::{
    plan::{Expires, Fate, Kind},
    poison::Poison,
};

/// 2⁵³ − 1: the largest amount on the wire.
pub const AMOUNT_MAX: i64 = 9_007_199_254_740_991;

/// Which of a story's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that the story is about.
    Own,
    /// Another one of the plan, in the same currency, with money enough.
    Other,
}

/// One callback of a story.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: Kind,
    pub amount: i64,
    pub account: Role,
    /// Of a transfer: who receives.
    pub to: Option<Role>,
    /// Which of the story's payments; `None`: it belongs to none.
    pub payment: Option<u32>,
    /// Which of the story's operations; `None`: the plan may give it one of its own.
    pub operation: Option<u32>,
    /// No operation: the payment's id stands in for it.
    pub has_no_operation: bool,
    pub is_final: Option<bool>,
    pub is_cumulative: bool,
    pub expires: Expires,
    /// Place among the adjustments of one payment.
    pub at_s: i64,
    pub poison: Option<Poison>,
    pub fate: EventFate,
}

/// What must become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFate {
    Applied,
    /// It wants the last of the money, as others do.
    Contends,
    /// Another event of the fact that the event before it reports.
    Twin,
    /// Other content under the key of the event before it.
    Contradicts,
}

impl EventFate {
    /// `first`: the number of the callback that it is a twin or a contradiction of.
    pub fn in_plan(self, first: u32) -> Fate {
        match self {
            Self::Applied => Fate::Applied,
            Self::Contends => Fate::Contends,
            Self::Twin => Fate::Twin(first),
            Self::Contradicts => Fate::Contradicts(first),
        }
    }
}

fn event(kind: Kind, amount: i64) -> Event {
    Event {
        kind,
        amount,
        account: Role::Own,
        to: None,
        payment: Some(0),
        operation: None,
        has_no_operation: false,
        is_final: None,
        is_cumulative: false,
        expires: Expires::Never,
        at_s: 0,
        poison: None,
        fate: EventFate::Applied,
    }
}

impl Event {
    fn of(self, payment: u32) -> Self {
        Self { payment: Some(payment), ..self }
    }

    fn alone(self) -> Self {
        Self { payment: None, ..self }
    }

    fn operation(self, operation: u32) -> Self {
        Self { operation: Some(operation), ..self }
    }

    fn last(self) -> Self {
        Self { is_final: Some(true), ..self }
    }

    fn fate(self, fate: EventFate) -> Self {
        Self { fate, ..self }
    }
}

/// A part of `whole`, and neither nothing nor all of it.
fn part(whole: i64, random: &mut StdRng) -> i64 {
    random.random_range(1..whole)
}

/// One to three callbacks of this sum: of amounts, or of running totals of it.
fn parts(kind: Kind, sum: i64, random: &mut StdRng) -> Vec<Event> {
    let is_cumulative = random.random_bool(0.3);
    let mut done = 0;
    let mut events = Vec::new();
    for _ in 0..random.random_range(0..3) {
        if sum - done > 1 {
            let next = part(sum - done, random);
            done += next;
            events.push(event(kind, if is_cumulative { done } else { next }));
        }
    }
    events.push(event(kind, if is_cumulative { sum } else { sum - done }));
    events.into_iter().map(|event| Event { is_cumulative, ..event }).collect()
}

fn refunds(captured: i64, random: &mut StdRng) -> Vec<Event> {
    if random.random_bool(0.5) {
        parts(Kind::Refunded, random.random_range(1..=captured), random)
    } else {
        Vec::new()
    }
}

/// A story of an account whose money covers it, whatever else happens. `knots`: also those in which callbacks can wait for each other, so
/// that only together they fit.
pub fn covered(knots: bool, random: &mut StdRng) -> Vec<Event> {
    let amount = random.random_range(1_000..=100_000);
    let less = amount - part(amount / 2, random);
    let authorized = event(Kind::Authorized, amount);
    let mut events = match random.random_range(0..10) {
        0..4 => vec![authorized],
        4..8 => vec![event(Kind::Succeeded, amount)],
        8 => return of_deposit(amount, random),
        _ => return alone(amount, random),
    };
    if events.iter().any(|event| event.kind == Kind::Succeeded) {
        debit(&mut events, amount, knots, random);
    } else {
        hold(&mut events, amount, less, knots, random);
    }
    // Attempts that failed before, or after, or with another card at the same time.
    for _ in 0..random.random_range(0..6_u32).saturating_sub(3) {
        events.push(event(Kind::Failed, if random.random_bool(0.5) { amount } else { 0 }));
    }
    if random.random_bool(0.1) {
        twin(&mut events, 0);
    }
    events
}

/// What follows an authorization.
fn hold(events: &mut Vec<Event>, amount: i64, less: i64, knots: bool, random: &mut StdRng) {
    match random.random_range(0..14) {
        // Captured in parts, of which one says that it is the last.
        0 | 1 => {
            let mut captures = parts(Kind::Captured, less, random);
            if let Some(last) = captures.pop() {
                captures.push(last.last());
            }
            events.extend(captures);
            events.extend(refunds(less, random));
        }
        // All of it.
        2 | 3 => {
            events.extend(parts(Kind::Captured, amount, random));
            events.extend(refunds(amount, random));
        }
        // Some, and the rest stays held.
        4 => {
            events.extend(parts(Kind::Captured, less, random));
            events.extend(refunds(less, random));
        }
        5 => events.push(event(Kind::Voided, if random.random_bool(0.5) { amount } else { 0 })),
        // The rest is released, sooner or later than the captures.
        6 => {
            events.extend(parts(Kind::Captured, less, random));
            events.push(event(Kind::Voided, amount - less));
            events.extend(refunds(less, random));
        }
        // A part is released.
        7 => {
            events.extend(parts(Kind::Captured, less / 2 + 1, random));
            events.push(Event { is_final: Some(false), ..event(Kind::Voided, part(amount / 2, random)) });
        }
        // A hotel: more is held, then another total; what is captured in the end only fits into the highest.
        8 | 9 => {
            let second = random.random_range(1_000..=50_000);
            events.push(event(Kind::Authorized, second).operation(1));
            let mut total = amount + second;
            for at_s in 1..=random.random_range(0..3) {
                total += random.random_range(-500..=5_000);
                events.push(Event { at_s, ..event(Kind::Adjusted, total) });
            }
            let highest = events.iter().map(|event| event.amount).max().unwrap_or(0).max(amount + second);
            events.extend(parts(Kind::Captured, highest, random));
        }
        // A capture comes back, and is tried again.
        10 => {
            events.push(event(Kind::Captured, less).operation(1));
            events.push(event(Kind::CaptureFailed, less).operation(1));
            if knots {
                events.push(event(Kind::Captured, amount).operation(2));
                events.extend(refunds(less, random));
            }
        }
        // Its time is up before it is captured, or never.
        11 | 12 => {
            events[0].expires = if random.random_bool(0.7) { Expires::Past } else { Expires::Future };
            if random.random_bool(0.5) {
                events.extend(parts(Kind::Captured, less, random));
            }
        }
        // More than it allows.
        _ => {
            events.push(Event { poison: Some(Poison::OverCapture), ..event(Kind::Captured, amount + 1) });
            events.push(event(Kind::Captured, amount / 2).last());
        }
    }
}

/// What follows a direct debit.
fn debit(events: &mut Vec<Event>, amount: i64, knots: bool, random: &mut StdRng) {
    match random.random_range(0..8) {
        0..3 => events.extend(refunds(amount, random)),
        // The charge and its refund have one id; the refund comes back.
        3 => {
            let refunded = random.random_range(1..=amount);
            events[0].operation = Some(0);
            events.push(event(Kind::Refunded, refunded).operation(0));
            events.push(event(Kind::RefundFailed, refunded).operation(0));
            if knots {
                events.push(event(Kind::Refunded, refunded).operation(1));
            }
        }
        // All of it is given back, refunded or not.
        4 => {
            events.push(event(Kind::Voided, amount));
            events.extend(refunds(amount, random));
        }
        5 => events.push(Event { is_final: Some(false), ..event(Kind::Voided, part(amount, random)) }),
        6 => events.push(Event { poison: Some(Poison::OverRefund), ..event(Kind::Refunded, amount + 1) }),
        _ => {}
    }
}

/// A deposit, refunded, disputed, won again, in parts.
fn of_deposit(amount: i64, random: &mut StdRng) -> Vec<Event> {
    let mut events = vec![event(Kind::Deposit, amount)];
    let refunded = part(amount / 2, random);
    let disputed = part(amount / 2, random);
    if random.random_bool(0.7) {
        events.extend(parts(Kind::DepositRefunded, refunded, random));
    }
    if random.random_bool(0.5) {
        events.push(event(Kind::DepositDisputed, disputed));
        if random.random_bool(0.5) {
            events.push(event(Kind::DepositReinstated, random.random_range(1..=disputed)));
        }
    }
    // Announced as a charge and as an intent.
    if random.random_bool(0.3) {
        events[0].has_no_operation = true;
        twin(&mut events, 0);
    }
    events
}

/// What belongs to no payment.
fn alone(amount: i64, random: &mut StdRng) -> Vec<Event> {
    match random.random_range(0..4) {
        0 => vec![event(Kind::Fee, amount).alone()],
        // One key, two amounts: whichever comes first counts.
        1 => vec![
            event(Kind::Deposit, amount).alone(),
            event(Kind::Deposit, amount + 1).alone().fate(EventFate::Contradicts),
        ],
        _ => {
            let mut events = vec![Event { to: Some(Role::Other), ..event(Kind::Transfer, amount).alone() }];
            if random.random_bool(0.3) {
                events[0].operation = Some(0);
                twin(&mut events, 0);
            }
            events
        }
    }
}

/// The event `at` once more, under another id. It needs an operation, or a payment that stands in for one.
fn twin(events: &mut Vec<Event>, at: usize) {
    if events[at].operation.is_none() && !events[at].has_no_operation {
        events[at].operation = Some(0);
    }
    let twin = events[at].clone().fate(EventFate::Twin);
    events.insert(at + 1, twin);
}

/// A story of an account of its own, which has no money but what the story brings; also its deposit may come last.
pub fn short(random: &mut StdRng) -> Vec<Event> {
    let money = random.random_range(1_000..=100_000);
    let debit = |payment| event(Kind::Succeeded, money).of(payment);
    let mut events = vec![event(Kind::Deposit, money).alone()];
    match random.random_range(0..9) {
        // Several want the last of it; one gets it.
        0 | 1 => {
            for payment in 0..random.random_range(2..6) {
                let amount = money / 2 + 1 + random.random_range(0..money / 4);
                let wants = match random.random_range(0..4) {
                    0 => event(Kind::Authorized, amount).of(payment),
                    1 => Event { to: Some(Role::Other), ..event(Kind::Transfer, amount).alone() },
                    _ => event(Kind::Succeeded, amount).of(payment),
                };
                events.push(wants.fate(EventFate::Contends));
            }
        }
        // All of it is spent at once, in parts.
        2 => {
            let first = part(money, random);
            events.push(event(Kind::Succeeded, first).of(0));
            events.push(event(Kind::Authorized, money - first).of(1));
            events.push(event(Kind::Captured, money - first).of(1));
        }
        // What was held, and what was captured, comes back and is spent.
        3 => events.extend([event(Kind::Authorized, money), event(Kind::Voided, 0), debit(1)]),
        4 => events.extend([
            event(Kind::Authorized, money),
            event(Kind::Captured, money).operation(1),
            event(Kind::CaptureFailed, money).operation(1),
            debit(1),
        ]),
        // What a refund brings back is spent.
        5 => events.extend([debit(0), event(Kind::Refunded, money), debit(1)]),
        // And the refund comes back, after or before that: a debt, or nothing to spend.
        6 => events.extend([
            debit(0),
            event(Kind::Refunded, money).operation(1),
            event(Kind::RefundFailed, money).operation(1),
            debit(1).fate(EventFate::Contends),
        ]),
        // What comes from another account is spent, and a fee leaves a debt.
        7 => {
            let sent = random.random_range(1..=10_000);
            let transfer = event(Kind::Transfer, sent).alone();
            events.push(Event { account: Role::Other, to: Some(Role::Own), ..transfer });
            events.push(event(Kind::Succeeded, money + sent).fate(EventFate::Contends));
            events.push(event(Kind::Fee, money).alone());
        }
        // The largest amounts.
        _ => {
            events = vec![
                event(Kind::Deposit, AMOUNT_MAX).alone(),
                event(Kind::Succeeded, AMOUNT_MAX),
                event(Kind::Refunded, AMOUNT_MAX),
            ];
        }
    }
    events
}
