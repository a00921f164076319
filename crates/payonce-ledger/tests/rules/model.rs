//! The contract once more, as naively as it can be said: one callback at a time, linear searches, no batches, no hashes, sums in 128
//! bits, and everything about a payment worked out from the list of its applied callbacks whenever it is asked. Nothing here may be
//! copied from `ledger::decide` or `ledger::payment`.
//!
//! Where the contract leaves a choice, the model takes this one, and so must the code:
//! - A copy of a known fact (same operation, same content) is a duplicate even where its own key is known with other content:
//!   otherwise a redelivered duplicate could become a case.
//! - A callback that is quarantined as a mismatch speaks neither for its key nor for its operation: the callback it
//!   contradicts does.
//! - A payment belongs to the account of its first applied event. Another account's event about it is an invalid transition,
//!   whether it comes after that event or waited for it.
//! - What is missing is said in this order: whose it is, the deposit, the account, the currency, the callback that it needs, room
//!   within the payment's sums, money.
//! - As long as anything that waits can be applied, the oldest such is applied. Only where none can by itself are those of one payment
//!   tried together: all, or where they are few all but one, the youngest left out first.
//! - Within a total of several amounts and running totals of one kind, the larger of the sum and the highest total counts.

#![allow(clippy::wildcard_enum_match_arm, reason = "a model lists the types that matter where it stands")]

use std::collections::{BTreeMap, BTreeSet};

use payonce_ledger::{Direction, Kind, Reason};

use crate::draft::Draft;

/// Of no more than so many that wait for one payment, each is left out once.
const LEFT_OUT_MAX: usize = 8;

/// All that the outside can see, in one comparable value.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Which callbacks are applied. Their order is the book's business.
    pub ledger: BTreeSet<Draft>,
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
    /// further copy is rejected as a copy of the case or as a known operation depends on the batch it comes in.
    pub fn add_case(&mut self, callback: Draft, reason: Reason, attempts: i64) {
        let is_known_fact = self.ledger.iter().any(|applied| is_same_fact(applied, &callback));
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

/// A callback that is applied, and the account that it was found to be about.
#[derive(Debug, Clone)]
struct Row {
    callback: Draft,
    account: String,
}

#[derive(Debug, Clone)]
struct Case {
    callback: Draft,
    reason: Reason,
    attempts: i64,
    /// Applied, or its fact is applied under another event.
    is_ended: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    ledger: Vec<Row>,
    accounts: BTreeMap<String, Account>,
    cases: Vec<Case>,
    duplicates: usize,
}

/// Why something is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Not {
    /// It needs a callback that has not come.
    NeedsCallback,
    /// It lacks money, an account, or room within its payment's sums.
    Short,
    Case(Reason),
}

impl Not {
    fn reason(self) -> Reason {
        match self {
            Self::NeedsCallback => Reason::WaitingForPayment,
            Self::Short => Reason::WaitingForFunds,
            Self::Case(reason) => reason,
        }
    }
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
        if self.is_copy(callback) {
            self.duplicates += 1;
            self.decide_open_again(callback);
            return;
        }
        let applied = if self.contradicts(callback) {
            Err(Not::Case(Reason::PayloadMismatch))
        } else {
            self.apply(std::slice::from_ref(callback))
        };
        if let Err(not) = applied {
            let case =
                Case { callback: callback.clone(), reason: not.reason(), attempts: 1, is_ended: false };
            self.cases.push(case);
        }
        self.release();
    }

    /// Whether this very callback, or this very fact, is known already. A copy of a case is counted there.
    fn is_copy(&mut self, callback: &Draft) -> bool {
        let is_it = |row: &Row| is_same(&row.callback, callback) || is_same_fact(&row.callback, callback);
        if self.ledger.iter().any(is_it) {
            return true;
        }
        if let Some(case) = self.cases.iter_mut().find(|case| is_same(&case.callback, callback)) {
            case.attempts += 1;
            return true;
        }
        self.speakers().any(|known| is_same_fact(known, callback))
    }

    /// A further delivery of a callback whose case is open.
    fn decide_open_again(&mut self, callback: &Draft) {
        let is_it = |case: &Case| !case.is_ended && is_same(&case.callback, callback);
        let Some(at) = self.cases.iter().position(|case| is_it(case) && !case.reason.is_waiting()) else {
            return;
        };
        if !self.contradicts(callback) && self.apply(std::slice::from_ref(callback)).is_ok() {
            self.cases[at].is_ended = true;
            self.release();
        }
    }

    /// Whether a known callback has the key or the operation of this one, and another content.
    fn contradicts(&self, callback: &Draft) -> bool {
        self.speakers().any(|known| {
            let same_key = known.source == callback.source && known.id == callback.id;
            (same_key || is_same_operation(known, callback)) && known.content != callback.content
        })
    }

    /// Callbacks that stand for their key and operation.
    fn speakers(&self) -> impl Iterator<Item = &Draft> {
        let cases = self.cases.iter().filter(|case| case.reason != Reason::PayloadMismatch);
        self.ledger.iter().map(|row| &row.callback).chain(cases.map(|case| &case.callback))
    }

    /// As long as anything that waits can be applied, the oldest of it is.
    fn release(&mut self) {
        while self.release_one() || self.release_together() {}
    }

    fn waiting(&self) -> Vec<usize> {
        let waits = |at: &usize| !self.cases[*at].is_ended && self.cases[*at].reason.is_waiting();
        (0..self.cases.len()).filter(waits).collect()
    }

    fn release_one(&mut self) -> bool {
        for at in self.waiting() {
            let callback = self.cases[at].callback.clone();
            let applied = self.ledger.iter().any(|row| is_same_fact(&row.callback, &callback));
            if applied {
                self.cases[at].is_ended = true;
                continue;
            }
            match self.apply(std::slice::from_ref(&callback)) {
                Ok(()) => {
                    self.cases[at].is_ended = true;
                    return true;
                }
                Err(not) => self.cases[at].reason = not.reason(),
            }
        }
        false
    }

    fn release_together(&mut self) -> bool {
        // A payment and a deposit can have one id, and have nothing else in common.
        let whole = |callback: &Draft| Some((payment_key(callback)?, callback.content.kind.is_of_deposit()));
        let mut wholes: Vec<((String, String), bool)> = Vec::new();
        for at in self.waiting() {
            wholes.extend(whole(&self.cases[at].callback).filter(|found| !wholes.contains(found)));
        }
        for one in wholes {
            let waiting = self.waiting();
            let mut of_payment: Vec<usize> = Vec::new();
            for at in waiting {
                let callback = &self.cases[at].callback;
                let is_twin =
                    of_payment.iter().any(|other| is_same_operation(&self.cases[*other].callback, callback));
                if whole(callback).as_ref() == Some(&one) && !is_twin {
                    of_payment.push(at);
                }
            }
            let mut tries = vec![of_payment.clone()];
            if (3..=LEFT_OUT_MAX).contains(&of_payment.len()) {
                for left_out in (0..of_payment.len()).rev() {
                    let mut rest = of_payment.clone();
                    rest.remove(left_out);
                    tries.push(rest);
                }
            }
            for together in tries.into_iter().filter(|together| together.len() > 1) {
                let callbacks: Vec<Draft> =
                    together.iter().map(|at| self.cases[*at].callback.clone()).collect();
                if self.apply(&callbacks).is_ok() {
                    together.into_iter().for_each(|at| self.cases[at].is_ended = true);
                    return true;
                }
            }
        }
        false
    }

    /// The applied callbacks of a payment, or of a deposit.
    fn of(&self, callback: &Draft) -> Vec<Row> {
        let key = payment_key(callback);
        let of_deposit = callback.content.kind.is_of_deposit();
        let is_it = |row: &&Row| {
            key.is_some()
                && payment_key(&row.callback) == key
                && row.callback.content.kind.is_of_deposit() == of_deposit
        };
        self.ledger.iter().filter(is_it).cloned().collect()
    }

    /// Whose it is: whose it says, else whose its payment or deposit is. That another type has its operation id says nothing.
    fn subject(&self, callback: &Draft) -> Option<String> {
        let of_payment = || self.of(callback).first().map(|row| row.account.clone());
        callback.content.account.clone().or_else(of_payment)
    }

    /// Applies these callbacks of one payment, all or none.
    fn apply(&mut self, callbacks: &[Draft]) -> Result<(), Not> {
        let first = &callbacks[0];
        let content = &first.content;
        let subject =
            callbacks.iter().find_map(|callback| self.subject(callback)).ok_or(Not::NeedsCallback)?;
        if callbacks.iter().any(|callback| self.subject(callback).is_some_and(|other| other != subject)) {
            return Err(Not::Case(Reason::InvalidTransition));
        }
        let known = self.of(first);
        let is_theirs = known.first().is_some_and(|row| row.account != subject);
        if is_theirs && content.kind != Kind::DepositSucceeded {
            return Err(Not::Case(Reason::InvalidTransition));
        }
        if content.kind.is_of_deposit() && content.kind.needs_payment_id() && known.is_empty() {
            return Err(Not::NeedsCallback);
        }
        let account = self.accounts.get(&subject).cloned();
        let opened = Account { currency: content.currency.clone(), balance: 0, held: 0, version: 0 };
        let account = match account {
            Some(account) => account,
            None if content.kind == Kind::DepositSucceeded => opened,
            None => return Err(Not::Short),
        };
        if account.currency != content.currency {
            return Err(Not::Case(Reason::CurrencyMismatch));
        }
        // Of two deposits with one payment id each bounds what is taken back of its own account.
        let own = known.into_iter().filter(|row| row.account == subject);
        let mut before: Vec<Draft> = own.map(|row| row.callback).collect();
        if is_theirs {
            before.clear();
        }
        self.check(&before, callbacks)?;
        self.post(&subject, account, before, callbacks)
    }

    /// Needs and bounds, of all of them together.
    fn check(&self, before: &[Draft], callbacks: &[Draft]) -> Result<(), Not> {
        let all: Vec<Draft> = before.iter().chain(callbacks).cloned().collect();
        let is_known = |kind: Kind| all.iter().any(|draft| draft.content.kind == kind);
        let authorized = is_known(Kind::PaymentAuthorized);
        let debits = all.iter().filter(|draft| draft.content.kind == Kind::PaymentSucceeded).count();
        for callback in callbacks {
            match callback.content.kind {
                Kind::PaymentAuthorized | Kind::PaymentSucceeded
                    if (authorized && debits > 0) || debits > 1 =>
                {
                    return Err(Not::Case(Reason::InvalidTransition));
                }
                Kind::PaymentAuthorizationAdjusted | Kind::PaymentCaptured if debits > 0 => {
                    return Err(Not::Case(Reason::InvalidTransition));
                }
                Kind::PaymentAuthorizationAdjusted | Kind::PaymentCaptured if !authorized => {
                    return Err(Not::NeedsCallback);
                }
                Kind::RefundSucceeded if !authorized && debits == 0 => return Err(Not::NeedsCallback),
                Kind::PaymentCaptureFailed | Kind::RefundFailed | Kind::DepositReinstated
                    if callback.content.kind != Kind::DepositReinstated
                        || callback.content.reverses.is_some() =>
                {
                    let taken_back = callback.content.kind.reverses().or(callback.content.reverses);
                    let reversed = all.iter().find(|draft| {
                        Some(draft.content.kind) == taken_back
                            && draft.content.operation == callback.content.operation
                    });
                    match reversed {
                        None => return Err(Not::NeedsCallback),
                        Some(reversed) if reversed.content.amount < callback.content.amount => {
                            return Err(Not::Case(Reason::InvalidTransition));
                        }
                        Some(_) => {}
                    }
                }
                _ => {}
            }
        }
        // Nothing bounds what comes in, wherever its way back stands.
        if callbacks.iter().all(|draft| draft.content.kind == Kind::DepositSucceeded) {
            return Ok(());
        }
        let sums = Sums::of(&all);
        let fits = sums.captured <= sums.authorized_ever
            && sums.refunded <= sums.captured_ever + sums.debited
            && sums.captured >= 0
            && sums.refunded >= 0
            && sums.taken - sums.reinstated <= sums.brought
            && sums.reinstated <= sums.taken;
        if fits { Ok(()) } else { Err(Not::Short) }
    }

    /// The rows, in an order in which no row takes money that is not there: what raises the available money first, what may leave a
    /// debt last.
    fn post(
        &mut self,
        subject: &str,
        mut account: Account,
        mut done: Vec<Draft>,
        callbacks: &[Draft],
    ) -> Result<(), Not> {
        let mut left: Vec<Draft> = callbacks.to_vec();
        let mut rows = Vec::new();
        let mut receiver = None;
        while !left.is_empty() {
            let mut refused = Not::Short;
            let mut best: Option<(usize, i128, Account)> = None;
            for (at, callback) in left.iter().enumerate() {
                let after: Vec<Draft> = done.iter().chain([callback]).cloned().collect();
                let (before_sums, after_sums) = (Sums::of(&done), Sums::of(&after));
                let mut now = account.clone();
                now.balance += after_sums.balance() - before_sums.balance() + alone(callback);
                now.held += after_sums.held() - before_sums.held();
                now.version += 1;
                let (available, left) = (account.balance - account.held, now.balance - now.held);
                if now.balance > i128::from(i64::MAX) || left <= i128::from(i64::MIN) {
                    refused = Not::Case(Reason::AmountOverflow);
                    continue;
                }
                let may_owe = callback.content.kind.may_leave_debt();
                if left < 0 && left < available && !may_owe {
                    continue;
                }
                let gain = if may_owe { i128::MIN } else { left - available };
                if best.as_ref().is_none_or(|(_, so_far, _)| gain > *so_far) {
                    best = Some((at, gain, now));
                }
            }
            let Some((at, _, now)) = best else { return Err(refused) };
            account = now;
            let callback = left.remove(at);
            if let Some(to) = &callback.content.to {
                receiver = Some((to.clone(), self.receive(to, &callback)?));
            }
            done.push(callback.clone());
            rows.push(Row { callback, account: subject.to_owned() });
        }
        self.accounts.insert(subject.to_owned(), account);
        self.accounts.extend(receiver);
        self.ledger.append(&mut rows);
        Ok(())
    }

    fn receive(&self, to: &str, callback: &Draft) -> Result<Account, Not> {
        let account = self.accounts.get(to).ok_or(Not::Short)?;
        if account.currency != callback.content.currency {
            return Err(Not::Case(Reason::CurrencyMismatch));
        }
        let balance = account.balance + i128::from(callback.content.amount);
        if balance > i128::from(i64::MAX) {
            return Err(Not::Case(Reason::AmountOverflow));
        }
        Ok(Account { balance, version: account.version + 1, ..account.clone() })
    }

    pub fn view(&self) -> View {
        let mut view = View { accounts: self.accounts.clone(), ..View::default() };
        view.ledger.extend(self.ledger.iter().map(|row| row.callback.clone()));
        for row in &self.ledger {
            let Some(key) = payment_key(&row.callback) else { continue };
            if row.callback.content.kind.is_of_deposit() {
                continue;
            }
            let of_payment = self.of(&row.callback);
            let drafts: Vec<Draft> = of_payment.iter().map(|row| row.callback.clone()).collect();
            let sums = Sums::of(&drafts);
            let payment = PaymentRow {
                account: of_payment[0].account.clone(),
                currency: row.callback.content.currency.clone(),
                state: sums.state(),
                authorized: sums.authorized,
                captured: sums.captured + sums.debited,
                refunded: sums.refunded,
                version: i64::try_from(drafts.len()).unwrap(),
            };
            view.payments.insert(key, payment);
        }
        for case in self.cases.iter().filter(|case| !case.is_ended) {
            view.add_case(case.callback.clone(), case.reason, case.attempts);
        }
        view.duplicates = self.duplicates;
        view
    }
}

/// What the contract adds up, of all callbacks of a payment or of a deposit ("Sums and bounds").
#[derive(Debug, Default)]
struct Sums {
    authorized: i128,
    authorized_ever: i128,
    is_authorized: bool,
    captured_ever: i128,
    captured: i128,
    debited: i128,
    refunded: i128,
    released: i128,
    is_voided: bool,
    is_expired: bool,
    is_final: bool,
    has_failed: bool,
    brought: i128,
    taken: i128,
    reinstated: i128,
}

impl Sums {
    fn of(all: &[Draft]) -> Self {
        let sum = |kind: Kind| {
            let of_kind = all.iter().filter(|draft| draft.content.kind == kind);
            of_kind.map(|draft| i128::from(draft.content.amount)).sum::<i128>()
        };
        let running = |kind: Kind| {
            let of_kind = |is_total: bool| {
                let of_kind = all.iter().filter(move |draft| draft.content.kind == kind);
                let of_kind = of_kind.filter(move |draft| draft.content.is_cumulative == is_total);
                of_kind.map(|draft| i128::from(draft.content.amount))
            };
            of_kind(false).sum::<i128>().max(of_kind(true).max().unwrap_or(0))
        };
        let adjustments = || all.iter().filter(|d| d.content.kind == Kind::PaymentAuthorizationAdjusted);
        let latest = adjustments().map(|draft| (draft.at_us, draft.content.amount)).max();
        let highest = adjustments().map(|draft| draft.content.amount).max().unwrap_or(0);
        let voids = || all.iter().filter(|draft| draft.content.kind == Kind::PaymentVoided);
        let is_expiry = |draft: &&Draft| draft.id.starts_with("payonce.expired:");
        let ends = |draft: &Draft| draft.content.expires_at_us;
        let captures = || all.iter().filter(|draft| draft.content.kind == Kind::PaymentCaptured);
        let authorizations = sum(Kind::PaymentAuthorized);
        let captured_ever = running(Kind::PaymentCaptured);
        Self {
            authorized: latest.map_or(authorizations, |(_, amount)| i128::from(amount)),
            authorized_ever: authorizations.max(i128::from(highest)),
            is_authorized: authorizations > 0,
            captured_ever,
            captured: captured_ever - sum(Kind::PaymentCaptureFailed),
            debited: sum(Kind::PaymentSucceeded),
            refunded: running(Kind::RefundSucceeded) - sum(Kind::RefundFailed),
            released: voids()
                .filter(|draft| !draft.content.is_final && !is_expiry(draft))
                .map(|draft| i128::from(draft.content.amount))
                .sum(),
            is_voided: voids().any(|draft| draft.content.is_final && !is_expiry(&draft)),
            // Its time is up for all when it is for the authorization that ends last.
            is_expired: voids()
                .any(|draft| is_expiry(&draft) && draft.at_us >= all.iter().filter_map(ends).max()),
            is_final: captures().any(|draft| draft.content.is_final),
            has_failed: all.iter().any(|draft| draft.content.kind == Kind::PaymentFailed),
            brought: sum(Kind::DepositSucceeded),
            taken: running(Kind::DepositRefunded) + running(Kind::DepositDisputed),
            reinstated: running(Kind::DepositReinstated),
        }
    }

    fn left(&self) -> i128 {
        self.authorized - self.captured_ever - self.released
    }

    fn is_closed(&self) -> bool {
        self.is_voided || self.is_expired || self.is_final
    }

    fn held(&self) -> i128 {
        if self.is_authorized && !self.is_closed() { self.left().max(0) } else { 0 }
    }

    fn balance(&self) -> i128 {
        let of_deposit = self.brought + self.reinstated - self.taken;
        if self.debited == 0 {
            return of_deposit + self.refunded - self.captured;
        }
        if self.is_voided {
            return of_deposit;
        }
        let kept = self.debited - self.refunded;
        of_deposit - (kept - self.released).max(kept.min(0))
    }

    fn state(&self) -> &'static str {
        let is_used_up = self.is_authorized && self.left() <= 0;
        match () {
            () if self.debited > 0 && self.is_voided => "voided",
            () if self.debited > 0 => "succeeded",
            () if self.is_authorized && !self.is_closed() && !is_used_up => "authorized",
            () if self.captured > 0 => "captured",
            () if self.is_expired && !self.is_voided => "expired",
            () if self.is_closed() || is_used_up || self.released > 0 => "voided",
            () if self.has_failed => "failed",
            () => "expected",
        }
    }
}

/// What a callback that belongs to no payment and to no deposit moves.
fn alone(callback: &Draft) -> i128 {
    let amount = i128::from(callback.content.amount);
    match callback.content.kind {
        Kind::FeeCharged | Kind::TransferSucceeded => -amount,
        Kind::AdjustmentPosted if callback.content.direction == Some(Direction::Credit) => amount,
        Kind::AdjustmentPosted => -amount,
        _ => 0,
    }
}

fn is_same(one: &Draft, other: &Draft) -> bool {
    one.source == other.source && one.id == other.id && one.content == other.content
}

/// What stands for the movement: its own id or, where the type happens once per payment, the payment's.
fn operation(callback: &Draft) -> Option<&String> {
    let content = &callback.content;
    let is_once =
        matches!(content.kind, Kind::DepositSucceeded | Kind::PaymentAuthorized | Kind::PaymentSucceeded);
    content.operation.as_ref().or(content.payment.as_ref().filter(|_| is_once))
}

pub fn is_same_operation(one: &Draft, other: &Draft) -> bool {
    one.source == other.source
        && one.content.kind == other.content.kind
        && operation(one).is_some()
        && operation(one) == operation(other)
}

pub fn is_same_fact(one: &Draft, other: &Draft) -> bool {
    is_same_operation(one, other) && one.content == other.content
}

fn payment_key(callback: &Draft) -> Option<(String, String)> {
    let alone = [Kind::FeeCharged, Kind::TransferSucceeded, Kind::AdjustmentPosted];
    if alone.contains(&callback.content.kind) {
        return None;
    }
    Some((callback.source.clone(), callback.content.payment.clone()?))
}
