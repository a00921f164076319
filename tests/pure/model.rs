//! The contract once more, as naively as it can be said: one callback at a time, linear searches, no batches, no hashes, sums
//! in 128 bits. Nothing here may be copied from `ledger::decide` or `ledger::payment`.
//!
//! Where the contract leaves a choice, the model takes this one, and so must the code:
//! - A copy of a known fact (same operation, same content) is a duplicate even where its own key is known with other content:
//!   otherwise a redelivered duplicate could become a case.
//! - A callback that is quarantined as a mismatch speaks neither for its key nor for its operation: the callback it
//!   contradicts does.
//! - An unknown account is refused before a missing payment is waited for.
//! - A payment belongs to the account of its first applied event. Another account's event about it is an invalid transition,
//!   whether it comes after that event or waited for it.
//! - Of what waits for one payment, captures go first, those marked final last among them, then refunds; else oldest first.
//! - A partial capture that comes after the final one still counts, and is paid from what is available.

use std::collections::{BTreeMap, BTreeSet};

use payonce::ledger::{Kind, Reason};

use crate::draft::Draft;

/// All that the outside can see, in one comparable value.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    /// By account and version.
    pub ledger: BTreeMap<(String, i64), Row>,
    pub accounts: BTreeMap<String, Account>,
    /// By source and payment id.
    pub payments: BTreeMap<(String, String), PaymentRow>,
    /// Waiting and open cases: reason and attempts. Those that were applied are in the ledger.
    pub cases: BTreeMap<Draft, (&'static str, Option<i64>)>,
    /// How many callbacks were copies.
    pub duplicates: usize,
}

impl View {
    /// What one of them shows and the other does not, a line each; empty where they are equal.
    pub fn difference(&self, expected: &Self) -> String {
        let (found, expected) = (self.lines(), expected.lines());
        let only = |name: &str, these: &BTreeSet<String>, those: &BTreeSet<String>| -> String {
            these.difference(those).map(|line| format!("{name}: {line}\n")).collect()
        };
        only("expected", &expected, &found) + &only("found", &found, &expected)
    }

    /// Adds a waiting or open case. Its attempts are left out where the same fact is in the ledger under another key: whether a
    /// further copy is turned away as a copy of the case or as a known operation depends on the batch it comes in.
    pub fn add_case(&mut self, callback: Draft, reason: Reason, attempts: i64) {
        let is_known_fact = self.ledger.values().any(|row| is_same_fact(&row.callback, &callback));
        self.cases.insert(callback, (reason.as_str(), (!is_known_fact).then_some(attempts)));
    }

    fn lines(&self) -> BTreeSet<String> {
        let ledger = self.ledger.iter().map(|row| format!("{row:?}"));
        let accounts = self.accounts.iter().map(|account| format!("{account:?}"));
        let payments = self.payments.iter().map(|payment| format!("{payment:?}"));
        let cases = self.cases.iter().map(|case| format!("{case:?}"));
        let duplicates = format!("{} duplicates", self.duplicates);
        ledger.chain(accounts).chain(payments).chain(cases).chain([duplicates]).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub callback: Draft,
    pub balance_delta: i128,
    pub held_delta: i128,
    pub balance_after: i128,
    pub held_after: i128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub currency: String,
    pub balance: i128,
    pub held: i128,
    pub version: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRow {
    pub account: String,
    pub currency: String,
    pub state: &'static str,
    pub authorized: i128,
    pub captured: i128,
    pub refunded: i128,
    pub version: i64,
}

/// What is known of a payment: facts, not a state.
#[derive(Debug, Clone)]
struct Payment {
    account: String,
    currency: String,
    authorized: Option<i128>,
    captured: i128,
    refunded: i128,
    /// `None` while a hold is open.
    ended: Option<End>,
    events: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Captured,
    Debited,
    Voided,
    Failed,
}

#[derive(Debug, Clone)]
struct Case {
    callback: Draft,
    reason: Reason,
    attempts: i64,
    is_applied: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    ledger: Vec<Row>,
    accounts: BTreeMap<String, Account>,
    payments: BTreeMap<(String, String), Payment>,
    cases: Vec<Case>,
    duplicates: usize,
}

enum Fate {
    Post { balance_delta: i128, held_delta: i128, payment: Option<Payment> },
    Wait,
    Case(Reason),
}

impl Model {
    /// An account that has money already.
    pub fn open(&mut self, account: &str, balance: i64) {
        let currency = "CNY".to_owned();
        self.accounts.insert(
            account.to_owned(),
            Account { currency, balance: i128::from(balance), held: 0, version: 0 },
        );
    }

    pub fn take_all(&mut self, callbacks: &[Draft]) {
        for callback in callbacks {
            self.take(callback);
        }
    }

    pub fn take(&mut self, callback: &Draft) {
        let reason = if self.is_copy(callback) {
            self.duplicates += 1;
            return;
        } else if self.contradicts(callback) {
            Reason::PayloadMismatch
        } else {
            match self.judge(callback) {
                Fate::Post { balance_delta, held_delta, payment } => {
                    self.post(callback, balance_delta, held_delta, payment);
                    self.release(callback);
                    return;
                }
                Fate::Wait => Reason::WaitingForPayment,
                Fate::Case(reason) => reason,
            }
        };
        self.cases.push(Case { callback: callback.clone(), reason, attempts: 1, is_applied: false });
    }

    /// Whether this very callback, or this very fact, is known already. A copy of a case is counted there.
    fn is_copy(&mut self, callback: &Draft) -> bool {
        if self.ledger.iter().any(|row| row.callback == *callback || is_same_fact(&row.callback, callback)) {
            return true;
        }
        if let Some(case) = self.cases.iter_mut().find(|case| case.callback == *callback) {
            case.attempts += 1;
            return true;
        }
        self.speakers().any(|known| is_same_fact(known, callback))
    }

    /// Whether a known callback has the key or the operation of this one. It is not a copy, so the content is another.
    fn contradicts(&self, callback: &Draft) -> bool {
        self.speakers().any(|known| {
            let same_key = known.source == callback.source && known.id == callback.id;
            same_key || is_same_operation(known, callback)
        })
    }

    /// Callbacks that stand for their key and operation.
    fn speakers(&self) -> impl Iterator<Item = &Draft> {
        let cases = self.cases.iter().filter(|case| case.reason != Reason::PayloadMismatch);
        self.ledger.iter().map(|row| &row.callback).chain(cases.map(|case| &case.callback))
    }

    fn judge(&self, callback: &Draft) -> Fate {
        let content = &callback.content;
        let amount = i128::from(content.amount);
        let is_deposit = content.kind == Kind::DepositSucceeded;
        let account = match self.accounts.get(&content.account) {
            Some(account) => account.clone(),
            None if is_deposit => {
                Account { currency: content.currency.clone(), balance: 0, held: 0, version: 0 }
            }
            None => return Fate::Case(Reason::UnknownAccount),
        };
        if account.currency != content.currency {
            return Fate::Case(Reason::CurrencyMismatch);
        }
        if is_deposit {
            if account.balance + amount > i128::from(i64::MAX) {
                return Fate::Case(Reason::AmountOverflow);
            }
            return Fate::Post { balance_delta: amount, held_delta: 0, payment: None };
        }
        let known = payment_key(callback).and_then(|key| self.payments.get(&key));
        if known.is_some_and(|payment| payment.account != content.account) {
            return Fate::Case(Reason::InvalidTransition);
        }
        match content.kind {
            Kind::DepositSucceeded => unreachable!("handled above"),
            Kind::PaymentAuthorized => authorize(known, callback, amount, &account),
            Kind::PaymentCaptured => capture(known, amount, content.is_final, &account),
            Kind::PaymentVoided => close(known, callback, End::Voided),
            Kind::PaymentFailed => close(known, callback, End::Failed),
            Kind::PaymentSucceeded => debit(known, callback, amount, &account),
            Kind::RefundSucceeded => refund(known, amount, &account),
        }
    }

    fn post(&mut self, callback: &Draft, balance_delta: i128, held_delta: i128, payment: Option<Payment>) {
        let content = &callback.content;
        let account = self.accounts.entry(content.account.clone()).or_insert_with(|| Account {
            currency: content.currency.clone(),
            balance: 0,
            held: 0,
            version: 0,
        });
        account.balance += balance_delta;
        account.held += held_delta;
        account.version += 1;
        self.ledger.push(Row {
            callback: callback.clone(),
            balance_delta,
            held_delta,
            balance_after: account.balance,
            held_after: account.held,
        });
        if let (Some(key), Some(mut payment)) = (payment_key(callback), payment) {
            payment.events += 1;
            self.payments.insert(key, payment);
        }
    }

    /// Applies what waited for the payment of `callback`, one by one, until all that still waits has to.
    fn release(&mut self, callback: &Draft) {
        let Some(key) = payment_key(callback) else { return };
        while let Some((at, fate)) = self.next_ready(&key) {
            match fate {
                Fate::Post { balance_delta, held_delta, payment } => {
                    let waiting = self.cases[at].callback.clone();
                    self.cases[at].is_applied = true;
                    self.post(&waiting, balance_delta, held_delta, payment);
                }
                Fate::Case(reason) => self.cases[at].reason = reason,
                Fate::Wait => unreachable!("it is ready"),
            }
        }
    }

    fn next_ready(&self, key: &(String, String)) -> Option<(usize, Fate)> {
        let mut waiting: Vec<usize> = (0..self.cases.len())
            .filter(|at| {
                let case = &self.cases[*at];
                let waits = !case.is_applied && case.reason == Reason::WaitingForPayment;
                waits && payment_key(&case.callback).as_ref() == Some(key)
            })
            .collect();
        // A stable sort: the oldest first among equals.
        waiting.sort_by_key(|at| {
            let content = &self.cases[*at].callback.content;
            match content.kind == Kind::PaymentCaptured {
                true if !content.is_final => 0,
                true => 1,
                false => 2,
            }
        });
        waiting.into_iter().map(|at| (at, self.judge(&self.cases[at].callback))).find(
            |(_, fate)| match fate {
                Fate::Wait => false,
                Fate::Post { .. } | Fate::Case(_) => true,
            },
        )
    }

    pub fn view(&self) -> View {
        let mut view = View { accounts: self.accounts.clone(), ..View::default() };
        let mut versions: BTreeMap<String, i64> = BTreeMap::new();
        for row in &self.ledger {
            let account = row.callback.content.account.clone();
            let version = versions.entry(account.clone()).or_default();
            *version += 1;
            view.ledger.insert((account, *version), row.clone());
        }
        for (key, payment) in &self.payments {
            let row = PaymentRow {
                account: payment.account.clone(),
                currency: payment.currency.clone(),
                state: match payment.ended {
                    None => "authorized",
                    Some(End::Captured) => "captured",
                    Some(End::Debited) => "succeeded",
                    Some(End::Voided) => "voided",
                    Some(End::Failed) => "failed",
                },
                authorized: payment.authorized.unwrap_or(0),
                captured: payment.captured,
                refunded: payment.refunded,
                version: payment.events,
            };
            view.payments.insert(key.clone(), row);
        }
        for case in self.cases.iter().filter(|case| !case.is_applied) {
            view.add_case(case.callback.clone(), case.reason, case.attempts);
        }
        view.duplicates = self.duplicates;
        view
    }
}

fn is_same_operation(one: &Draft, other: &Draft) -> bool {
    one.source == other.source
        && one.content.kind == other.content.kind
        && one.content.operation.is_some()
        && one.content.operation == other.content.operation
}

fn is_same_fact(one: &Draft, other: &Draft) -> bool {
    is_same_operation(one, other) && one.content == other.content
}

fn payment_key(callback: &Draft) -> Option<(String, String)> {
    if callback.content.kind == Kind::DepositSucceeded {
        return None;
    }
    Some((callback.source.clone(), callback.content.payment.clone()?))
}

impl Payment {
    fn new(callback: &Draft) -> Self {
        Self {
            account: callback.content.account.clone(),
            currency: callback.content.currency.clone(),
            authorized: None,
            captured: 0,
            refunded: 0,
            ended: None,
            events: 0,
        }
    }

    fn hold(&self) -> i128 {
        match self.ended {
            None => self.authorized.unwrap_or(0) - self.captured,
            Some(_) => 0,
        }
    }
}

fn authorize(known: Option<&Payment>, callback: &Draft, amount: i128, account: &Account) -> Fate {
    match known {
        None if account.balance - account.held < amount => Fate::Case(Reason::InsufficientFunds),
        None => {
            let payment = Payment { authorized: Some(amount), ..Payment::new(callback) };
            Fate::Post { balance_delta: 0, held_delta: amount, payment: Some(payment) }
        }
        // Void or failure came first, and makes this void.
        Some(payment)
            if payment.authorized.is_none() && matches!(payment.ended, Some(End::Voided | End::Failed)) =>
        {
            let payment = Payment { authorized: Some(amount), ..payment.clone() };
            Fate::Post { balance_delta: 0, held_delta: 0, payment: Some(payment) }
        }
        Some(_) => Fate::Case(Reason::InvalidTransition),
    }
}

fn capture(known: Option<&Payment>, amount: i128, is_final: bool, account: &Account) -> Fate {
    let Some(payment) = known else { return Fate::Wait };
    if matches!(payment.ended, Some(End::Debited | End::Voided | End::Failed)) {
        return Fate::Case(Reason::InvalidTransition);
    }
    let authorized = payment.authorized.unwrap_or(0);
    let captured = payment.captured + amount;
    if captured > authorized {
        return Fate::Case(Reason::OverCapture);
    }
    let ends = is_final || captured == authorized || payment.ended.is_some();
    let after = Payment { captured, ended: if ends { Some(End::Captured) } else { None }, ..payment.clone() };
    // What is still held for it changes from the old hold to the new one.
    let held_delta = after.hold() - payment.hold();
    if account.balance - amount < account.held + held_delta {
        return Fate::Case(Reason::InsufficientFunds);
    }
    Fate::Post { balance_delta: -amount, held_delta, payment: Some(after) }
}

fn close(known: Option<&Payment>, callback: &Draft, end: End) -> Fate {
    match known {
        None => {
            let payment = Payment { ended: Some(end), ..Payment::new(callback) };
            Fate::Post { balance_delta: 0, held_delta: 0, payment: Some(payment) }
        }
        Some(payment) if payment.ended.is_none() => {
            let after = Payment { ended: Some(end), ..payment.clone() };
            Fate::Post { balance_delta: 0, held_delta: -payment.hold(), payment: Some(after) }
        }
        Some(_) => Fate::Case(Reason::InvalidTransition),
    }
}

fn debit(known: Option<&Payment>, callback: &Draft, amount: i128, account: &Account) -> Fate {
    if known.is_some() {
        return Fate::Case(Reason::InvalidTransition);
    }
    if account.balance - account.held < amount {
        return Fate::Case(Reason::InsufficientFunds);
    }
    let payment = Payment { captured: amount, ended: Some(End::Debited), ..Payment::new(callback) };
    Fate::Post { balance_delta: -amount, held_delta: 0, payment: Some(payment) }
}

fn refund(known: Option<&Payment>, amount: i128, account: &Account) -> Fate {
    let Some(payment) = known else { return Fate::Wait };
    let refunded = payment.refunded + amount;
    let still_capturable = match payment.ended {
        // A partial capture can come after the final one.
        None | Some(End::Captured) => payment.authorized.unwrap_or(0),
        Some(End::Debited | End::Voided | End::Failed) => payment.captured,
    };
    if refunded > still_capturable {
        return Fate::Case(Reason::OverRefund);
    }
    if refunded > payment.captured {
        return Fate::Wait;
    }
    if account.balance + amount > i128::from(i64::MAX) {
        return Fate::Case(Reason::AmountOverflow);
    }
    let after = Payment { refunded, ..payment.clone() };
    Fate::Post { balance_delta: amount, held_delta: 0, payment: Some(after) }
}
