//! What callbacks do to accounts and payments: the ledger rows that follow from what is known, or the reason why there are none.

use super::{BatchState, Decision};
use crate::{
    Account, AccountId, Callback, Deposit, Direction, Entry, Facts, Kind, Leg, Movement, OperationKey,
    Payment, PaymentKey, Reason, Refusal,
    payment::{Obstacle, within_reversed},
};

/// What callbacks of one payment, one deposit, or none change besides accounts.
#[derive(Clone)]
enum Whole {
    Nothing,
    Payment(PaymentKey, Payment),
    Deposit(PaymentKey, Deposit),
}

impl<'a> BatchState<'a> {
    /// Applies these callbacks of one payment together, or leaves everything as it was and says why not. Together means that each
    /// bound holds for all of them, and their rows stand in an order in which no row takes money that is not there. One callback is the
    /// usual case.
    pub(super) fn post(&mut self, callbacks: &[&'a Callback]) -> Result<(), Decision> {
        let Some((first, rest)) = callbacks.split_first() else { return Ok(()) };
        // One that names no account is about that of its payment, which another of these may bring.
        let subject = callbacks
            .iter()
            .find_map(|callback| self.subject(callback))
            .ok_or_else(|| waits_for_payment(first, "its payment, which says whose it is"))?;
        if rest.iter().any(|callback| self.subject(callback).is_some_and(|other| other != subject)) {
            return Err(of_another_account(&subject));
        }
        let payment_key = first.payment_key();
        // Whose payment it is comes before what the account looks like: the account that was named may not exist at all.
        let before = self.whole(first, payment_key, &subject)?;
        let account = self.account_to_post(first, &subject)?;
        let after = self.add_all(&before, callbacks)?;
        let mut entries = Vec::with_capacity(callbacks.len());
        let mut account_now = account;
        let mut receiver: Option<(AccountId, Account)> = None;
        let mut whole = before;
        let mut left = callbacks.to_vec();
        while !left.is_empty() {
            let callback = left.remove(next_row(&whole, &account_now, &left));
            let (balance_delta, held_delta) =
                step(&mut whole, callback).map_err(|obstacle| self.stopped_by(callback, obstacle))?;
            account_now = account_now
                .post(balance_delta, held_delta, callback.kind.may_leave_debt())
                .map_err(|refusal| self.refused_by(&account_now, refusal))?;
            let leg = leg(&subject, &account_now, balance_delta, held_delta);
            let second_leg = match callback.receiver() {
                None => None,
                Some(to) => {
                    let amount = callback.amount.minor_units();
                    let before = self.account_to_post(callback, to)?;
                    let now =
                        before.post(amount, 0, false).map_err(|refusal| self.refused_by(&before, refusal))?;
                    receiver = Some((to.clone(), now));
                    Some(leg_of(to, &now, amount))
                }
            };
            entries.push(Entry { callback: callback.clone(), leg, second_leg });
        }
        self.put_account(&subject, account_now);
        if let Some((account_id, now)) = receiver {
            self.put_account(&account_id, now);
        }
        match after {
            Whole::Nothing => {}
            Whole::Payment(key, payment) => self.put_payment(key, payment, callbacks.len()),
            Whole::Deposit(key, deposit) => {
                self.deposits.insert(key, deposit);
            }
        }
        if self.tracks_movements {
            for entry in &entries {
                self.track(entry);
            }
        }
        self.entries.append(&mut entries);
        Ok(())
    }

    /// The account that a callback is about: the one it names, else that of its payment.
    pub(super) fn subject(&self, callback: &Callback) -> Option<AccountId> {
        if let Some(account_id) = callback.named_account() {
            return Some(account_id.clone());
        }
        let key = callback.payment_key()?;
        if callback.kind.is_of_deposit() {
            self.deposit(&key).map(|deposit| deposit.account_id.clone())
        } else {
            self.payment(&key).map(|payment| payment.account_id.clone())
        }
    }

    /// An open account in the callback's currency.
    fn account_to_post(&self, callback: &Callback, account_id: &AccountId) -> Result<Account, Decision> {
        let opens = callback.kind == Kind::DepositSucceeded && self.rules.deposit_opens;
        let account = self
            .account(account_id)
            .or_else(|| opens.then(|| self.unopened(account_id, callback.currency)))
            .ok_or_else(|| {
                let by = if self.rules.deposit_opens { "deposit" } else { "command" };
                self.short(Reason::UnknownAccount, format!("no {by} has opened the account"))
            })?;
        if account.currency == callback.currency {
            return Ok(account);
        }
        Err(Decision::Case(
            Reason::CurrencyMismatch,
            format!("the account is in {}, the callback in {}", account.currency, callback.currency),
        ))
    }

    fn whole(
        &self,
        callback: &Callback,
        key: Option<PaymentKey>,
        subject: &AccountId,
    ) -> Result<Whole, Decision> {
        let Some(key) = key else { return Ok(Whole::Nothing) };
        if callback.kind.is_of_deposit() {
            let known = self.deposit(&key).cloned();
            // A deposit alone needs no look at the others with its payment's id: nothing bounds it.
            if callback.kind == Kind::DepositSucceeded && known.is_none() {
                let deposit = Deposit::expected(subject.clone(), callback.currency);
                return Ok(if self.tracks_deposits.contains(&key) {
                    Whole::Deposit(key, deposit)
                } else {
                    Whole::Nothing
                });
            }
            let deposit = known.ok_or_else(|| waits_for_payment(callback, "its deposit"))?;
            if deposit.account_id == *subject {
                return Ok(Whole::Deposit(key, deposit));
            }
            if callback.kind == Kind::DepositSucceeded {
                return Ok(Whole::Nothing);
            }
            return Err(of_another_account(&deposit.account_id));
        }
        let payment = self.payment(&key).cloned().unwrap_or_else(|| Payment {
            account_id: subject.clone(),
            currency: callback.currency,
            facts: Facts::default(),
            version: 0,
        });
        if payment.account_id == *subject {
            return Ok(Whole::Payment(key, payment));
        }
        Err(of_another_account(&payment.account_id))
    }

    /// What is known after all of these, where each finds what it needs and every bound holds.
    fn add_all(&self, before: &Whole, callbacks: &[&Callback]) -> Result<Whole, Decision> {
        match before {
            Whole::Nothing => Ok(Whole::Nothing),
            Whole::Payment(key, payment) => {
                let mut facts = payment.facts;
                for callback in in_need_order(callbacks) {
                    let reversed = callback
                        .reversed_key()
                        .and_then(|key| self.reversed_amount(&key, callback, callbacks));
                    facts = facts
                        .check_needs(callback, reversed)
                        .and_then(|()| facts.add(callback))
                        .map_err(|obstacle| self.stopped_by(callback, obstacle))?;
                }
                if let Some(callback) = callbacks.last() {
                    // What was captured under another setting stands, and what comes of it is not measured by this one.
                    let captures = callbacks.iter().any(|it| it.kind == Kind::PaymentCaptured);
                    facts
                        .check_bounds(captures.then_some(self.rules.over_capture_percent), callback.currency)
                        .map_err(|obstacle| self.stopped_by(callback, obstacle))?;
                }
                Ok(Whole::Payment(key.clone(), Payment { facts, ..payment.clone() }))
            }
            Whole::Deposit(key, deposit) => {
                let mut deposit = deposit.clone();
                for callback in callbacks {
                    if let Some(key) = callback.reversed_key() {
                        let reversed = self.reversed_amount(&key, callback, callbacks);
                        within_reversed(callback, reversed, "what its operation_id names")
                            .map_err(|obstacle| self.stopped_by(callback, obstacle))?;
                    }
                    deposit =
                        deposit.add(callback).map_err(|obstacle| self.stopped_by(callback, obstacle))?;
                }
                if let Some(callback) = callbacks.iter().find(|it| it.kind != Kind::DepositSucceeded) {
                    deposit
                        .check_bounds(callback.currency)
                        .map_err(|obstacle| self.stopped_by(callback, obstacle))?;
                }
                Ok(Whole::Deposit(key.clone(), deposit))
            }
        }
    }

    /// The amount of the movement that is taken back: one of the same payment, applied before or together with this.
    fn reversed_amount(
        &self,
        key: &OperationKey,
        callback: &Callback,
        together: &[&Callback],
    ) -> Option<i64> {
        let applied = self
            .movement(key)
            .filter(|movement| movement.payment_id == callback.payment_id)
            .map(|movement| movement.amount);
        applied.or_else(|| {
            let other = together.iter().find(|other| other.operation_key().as_ref() == Some(key))?;
            Some(other.amount.minor_units())
        })
    }

    fn track(&mut self, entry: &Entry) {
        let Some(key) = entry.callback.operation_key() else { return };
        self.movements.insert(
            key,
            Movement {
                account_id: entry.leg.account_id.clone(),
                payment_id: entry.callback.payment_id.clone(),
                amount: entry.callback.amount.minor_units(),
            },
        );
    }

    fn stopped_by(&self, callback: &Callback, obstacle: Obstacle) -> Decision {
        match obstacle {
            Obstacle::Needs(what) => waits_for_payment(callback, what),
            Obstacle::TooMuch(reason, detail) => self.short(reason, detail),
            Obstacle::Refused(reason, detail) => Decision::Case(reason, detail),
        }
    }

    fn refused_by(&self, account: &Account, refusal: Refusal) -> Decision {
        let money = |minor_units: i64| account.currency.money(minor_units);
        match refusal {
            Refusal::Overflow => Decision::Case(
                Reason::AmountOverflow,
                format!(
                    "balance {}, held {}: the change would leave 64 bits",
                    money(account.balance),
                    money(account.held)
                ),
            ),
            Refusal::Insufficient { available, needed } => self.short(
                Reason::InsufficientFunds,
                format!("available {}, needed {}", money(available), money(needed)),
            ),
            Refusal::Status(status) => {
                Decision::Case(Reason::InvalidTransition, format!("the account is {}", status.as_str()))
            }
        }
    }

    /// What lacks money, an account, or room waits for it, or is a case at once.
    fn short(&self, reason: Reason, detail: String) -> Decision {
        Decision::Case(if self.waits_for_funds { Reason::WaitingForFunds } else { reason }, detail)
    }
}

/// Adds the callback to what is known, and returns what that changes of the account: balance and hold, minor units.
fn step(whole: &mut Whole, callback: &Callback) -> Result<(i64, i64), Obstacle> {
    let amount = callback.amount.minor_units();
    match whole {
        Whole::Payment(_, payment) => {
            let (balance, held) = payment.facts.effect();
            payment.facts = payment.facts.add(callback)?;
            let (balance_after, held_after) = payment.facts.effect();
            let difference = |after: i64, before: i64| {
                after
                    .checked_sub(before)
                    .ok_or_else(|| Obstacle::Refused(Reason::AmountOverflow, "the payment's sums".to_owned()))
            };
            Ok((difference(balance_after, balance)?, difference(held_after, held)?))
        }
        Whole::Deposit(_, deposit) => {
            let before = deposit.effect();
            *deposit = deposit.add(callback)?;
            Ok((deposit.effect().saturating_sub(before), 0))
        }
        Whole::Nothing => Ok((
            match callback.kind {
                Kind::DepositSucceeded => amount,
                Kind::FeeCharged | Kind::TransferSucceeded => amount.saturating_neg(),
                Kind::AdjustmentPosted => match callback.direction {
                    Some(Direction::Credit) => amount,
                    // The wire and the command refuse an adjustment without a direction.
                    Some(Direction::Debit) | None => amount.saturating_neg(),
                },
                // These belong to a payment or a deposit.
                Kind::DepositRefunded
                | Kind::DepositDisputed
                | Kind::DepositReinstated
                | Kind::PaymentAuthorized
                | Kind::PaymentAuthorizationAdjusted
                | Kind::PaymentCaptured
                | Kind::PaymentCaptureFailed
                | Kind::PaymentVoided
                | Kind::PaymentSucceeded
                | Kind::PaymentFailed
                | Kind::RefundSucceeded
                | Kind::RefundFailed => 0,
            },
            0,
        )),
    }
}

fn leg(account_id: &AccountId, now: &Account, balance_delta: i64, held_delta: i64) -> Leg {
    Leg {
        account_id: account_id.clone(),
        account_version: now.version,
        balance_delta,
        held_delta,
        balance_after: now.balance,
        held_after: now.held,
    }
}

fn leg_of(to: &AccountId, now: &Account, amount: i64) -> Leg {
    leg(to, now, amount, 0)
}

/// Each after those that it can need.
fn in_need_order<'a>(callbacks: &[&'a Callback]) -> Vec<&'a Callback> {
    let mut sorted = callbacks.to_vec();
    sorted.sort_by_key(|callback| match callback.kind {
        Kind::PaymentAuthorized | Kind::PaymentSucceeded | Kind::DepositSucceeded => 0,
        Kind::PaymentAuthorizationAdjusted => 1,
        Kind::PaymentCaptured | Kind::DepositRefunded | Kind::DepositDisputed => 2,
        Kind::PaymentCaptureFailed | Kind::DepositReinstated => 3,
        Kind::RefundSucceeded => 4,
        Kind::RefundFailed => 5,
        Kind::PaymentVoided
        | Kind::PaymentFailed
        | Kind::FeeCharged
        | Kind::TransferSucceeded
        | Kind::AdjustmentPosted => 6,
    });
    sorted
}

/// Which of these has the next row: of those that the account can bear the one that leaves most available, and what may leave a debt
/// last. The first where it bears none, which then says why.
fn next_row(whole: &Whole, account: &Account, left: &[&Callback]) -> usize {
    if left.len() < 2 {
        return 0;
    }
    let available = |callback: &Callback| {
        let (balance_delta, held_delta) = step(&mut whole.clone(), callback).ok()?;
        let may_leave_debt = callback.kind.may_leave_debt();
        let after = account.post(balance_delta, held_delta, may_leave_debt).ok()?;
        Some((!may_leave_debt, after.available()))
    };
    let borne = left.iter().enumerate().filter_map(|(at, callback)| Some((available(callback)?, at)));
    // Of equals the first.
    borne.max_by_key(|(available, at)| (*available, std::cmp::Reverse(*at))).map_or(0, |(_, at)| at)
}

fn waits_for_payment(callback: &Callback, what: &str) -> Decision {
    Decision::Case(
        Reason::WaitingForPayment,
        format!("{} needs {what}, which has not come", callback.kind.as_str()),
    )
}

fn of_another_account(account_id: &AccountId) -> Decision {
    Decision::Case(Reason::InvalidTransition, format!("the payment belongs to account {account_id}"))
}
