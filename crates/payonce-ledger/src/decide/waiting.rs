//! Callbacks that wait, and stored cases that are decided again: what a movement of a payment or of money releases.
//!
//! Two ways of trying: each waiter alone, oldest first, and those of one payment together, where each needs the others (a debit whose
//! money only its own refund brings back). Every pass over waiters is bounded, whatever waits: the sweep of the worker comes to the
//! rest (`store::waiting::ripe`).

use super::{BatchState, Decision, Waiter, Who};
use crate::{
    AccountId, Callback, CaseEnd, CaseId, CaseState, Expires, PaymentKey, Reason, ResolvedCase, StoredCase,
};

/// Waiters of one payment or account that one movement tries at most.
const TRIED_MAX: usize = 64;

/// Waiters of one payment that are tried together at most.
const TOGETHER_MAX: usize = 32;

/// Of no more than so many, each is left out once, where not all fit together.
const LEFT_OUT_MAX: usize = 8;

/// What has moved, so that what waits for it is tried.
#[derive(Debug, PartialEq, Eq)]
enum Moved {
    Payment(PaymentKey),
    Funds(AccountId),
}

impl<'a> BatchState<'a> {
    pub(super) fn add_waiter(&mut self, who: Who, callback: &'a Callback, reason: Reason) {
        let at = self.waiters.len();
        self.waiters.push(Some(Waiter { who, callback, reason }));
        if let Some(key) = callback.payment_key() {
            self.waiters_of_payment.entry(key).or_default().push(at);
        }
        self.index_by_account(at, callback);
    }

    /// Whose it is may not be known before its payment is.
    fn index_by_account(&mut self, at: usize, callback: &Callback) {
        for account_id in self.subject(callback).iter().chain(callback.receiver()) {
            let waiters = self.waiters_of_account.entry(account_id.clone()).or_default();
            if !waiters.contains(&at) {
                waiters.push(at);
            }
        }
    }

    /// After a callback was applied: what it releases, and what that releases in turn.
    pub(super) fn release_waiting(&mut self, applied: &Callback) {
        if self.waiters.iter().all(Option::is_none) {
            return;
        }
        let mut moved = Vec::new();
        self.note(applied, &mut moved);
        self.release_all(moved);
    }

    /// As long as anything that has moved lets one that waits be applied, the oldest such is; where none can by itself, those of one
    /// payment together. Each turn applies a waiter or is the last.
    fn release_all(&mut self, mut moved: Vec<Moved>) {
        loop {
            let waiters = self.released_by(&moved);
            let is_applied = waiters.iter().any(|at| self.try_alone(*at, &mut moved));
            if !is_applied && !self.try_payments_together(&waiters, &mut moved) {
                return;
            }
        }
    }

    /// Waiters that these movements may release, oldest first.
    fn released_by(&self, moved: &[Moved]) -> Vec<usize> {
        let mut waiters: Vec<usize> = Vec::new();
        for moved in moved {
            match moved {
                Moved::Payment(key) => waiters.extend(self.of_payment(key)),
                Moved::Funds(account_id) => waiters.extend(self.of_account(account_id)),
            }
        }
        waiters.sort_unstable();
        waiters.dedup();
        waiters
    }

    fn try_payments_together(&mut self, waiters: &[usize], moved: &mut Vec<Moved>) -> bool {
        let mut tried = Vec::new();
        for at in waiters {
            let Some(waiter) = self.waiter(*at) else { continue };
            let Some(key) = waiter.callback.payment_key() else { continue };
            let whole = (key, waiter.callback.kind.is_of_deposit());
            if tried.contains(&whole) {
                continue;
            }
            if self.try_payment_together(&whole.0, whole.1, moved) {
                return true;
            }
            tried.push(whole);
        }
        false
    }

    fn note(&self, applied: &Callback, moved: &mut Vec<Moved>) {
        let mut add = |next: Moved| {
            if !moved.contains(&next) {
                moved.push(next);
            }
        };
        if let Some(key) = applied.payment_key() {
            add(Moved::Payment(key));
        }
        let entry = self.entries.iter().rev().find(|entry| entry.callback.key == applied.key);
        for leg in entry.iter().flat_map(|entry| entry.legs()) {
            let raises = leg.balance_delta.saturating_sub(leg.held_delta) > 0;
            if raises || leg.account_version == 1 {
                add(Moved::Funds(leg.account_id.clone()));
            }
        }
    }

    fn waiter(&self, at: usize) -> Option<Waiter<'a>> {
        self.waiters.get(at).copied().flatten()
    }

    fn of_payment(&self, key: &PaymentKey) -> Vec<usize> {
        self.alive(self.waiters_of_payment.get(key))
    }

    fn of_account(&self, account_id: &AccountId) -> Vec<usize> {
        let mut waiters = self.alive(self.waiters_of_account.get(account_id));
        waiters.retain(|at| self.waiter(*at).is_some_and(|waiter| waiter.reason == Reason::WaitingForFunds));
        waiters
    }

    fn alive(&self, waiters: Option<&Vec<usize>>) -> Vec<usize> {
        let all = waiters.map_or(&[][..], Vec::as_slice).iter().copied();
        all.filter(|at| self.waiter(*at).is_some()).take(TRIED_MAX).collect()
    }

    /// Decides a waiter again; true where it is applied.
    fn try_alone(&mut self, at: usize, moved: &mut Vec<Moved>) -> bool {
        let Some(waiter) = self.waiter(at) else { return false };
        let decision = match waiter.who {
            Who::Stored(id) => self.decide_again(id, waiter.callback, true),
            Who::InBatch(_) => self.decide_waiting(waiter.callback, true),
        };
        let is_applied = matches!(decision, Decision::Applied);
        self.settle_waiter(at, waiter, decision, moved);
        is_applied
    }

    /// Records what became of a waiter.
    fn settle_waiter(&mut self, at: usize, waiter: Waiter<'a>, decision: Decision, moved: &mut Vec<Moved>) {
        let still = match &decision {
            Decision::Case(reason, _) if reason.is_waiting() => Some(*reason),
            Decision::Case(..) | Decision::Applied | Decision::Duplicate(_) | Decision::CopyOfCase(..) => {
                None
            }
        };
        if still == Some(waiter.reason) {
            return;
        }
        if let Some(slot) = self.waiters.get_mut(at) {
            *slot = still.map(|reason| Waiter { reason, ..waiter });
        }
        if still.is_some() {
            self.index_by_account(at, waiter.callback);
        }
        let is_applied = matches!(decision, Decision::Applied);
        match waiter.who {
            Who::InBatch(index) => {
                if let Some(slot) = self.decisions.get_mut(index) {
                    *slot = decision;
                }
            }
            Who::Stored(id) => self.end_case(id, waiter.callback, decision),
        }
        if is_applied {
            self.note(waiter.callback, moved);
        }
    }

    /// A callback has just begun to wait: with others of its payment it may fit.
    pub(super) fn try_together(&mut self, callback: &Callback) {
        let Some(key) = callback.payment_key() else { return };
        let mut moved = Vec::new();
        if self.try_payment_together(&key, callback.kind.is_of_deposit(), &mut moved) {
            self.release_all(moved);
        }
    }

    /// A payment and a deposit can have one id, and have nothing else in common.
    fn try_payment_together(&mut self, key: &PaymentKey, of_deposit: bool, moved: &mut Vec<Moved>) -> bool {
        let mut waiters = self.of_payment(key);
        // Of two events of one fact only one can be applied, and of one that a concurrent writer applied none.
        let mut operations = Vec::new();
        waiters.retain(|at| {
            let Some(waiter) = self.waiter(*at) else { return false };
            if waiter.callback.kind.is_of_deposit() != of_deposit || self.is_settled(waiter) {
                return false;
            }
            let operation = waiter.callback.operation_key();
            let is_first = operation.as_ref().is_none_or(|key| !operations.contains(key));
            operations.extend(operation);
            is_first
        });
        waiters.truncate(TOGETHER_MAX);
        if waiters.len() < 2 {
            return false;
        }
        if self.apply_together(&waiters, moved) {
            return true;
        }
        if !(3..=LEFT_OUT_MAX).contains(&waiters.len()) {
            return false;
        }
        (0..waiters.len()).rev().any(|left_out| {
            let mut rest = waiters.clone();
            rest.remove(left_out);
            self.apply_together(&rest, moved)
        })
    }

    /// Whether what is known of its key or its fact by now ends a waiter.
    fn is_settled(&self, waiter: Waiter<'a>) -> bool {
        let by_key = match waiter.who {
            Who::Stored(id) => self.known_excluding(id, waiter.callback),
            Who::InBatch(_) => None,
        };
        by_key.or_else(|| self.settled_operation(waiter.callback)).is_some()
    }

    fn apply_together(&mut self, waiters: &[usize], moved: &mut Vec<Moved>) -> bool {
        let together: Vec<(usize, Waiter<'a>)> =
            waiters.iter().filter_map(|at| Some((*at, self.waiter(*at)?))).collect();
        let callbacks: Vec<&'a Callback> = together.iter().map(|(_, waiter)| waiter.callback).collect();
        if self.post(&callbacks).is_err() {
            return false;
        }
        for (at, waiter) in together {
            self.use_operation(waiter.callback, &Decision::Applied);
            self.settle_waiter(at, waiter, Decision::Applied, moved);
        }
        true
    }

    fn end_case(&mut self, id: CaseId, callback: &Callback, decision: Decision) {
        let end = match decision {
            Decision::Applied => CaseEnd::Applied,
            Decision::Duplicate(_) | Decision::CopyOfCase(..) => {
                CaseEnd::Duplicate("the same operation was applied under another event".to_owned())
            }
            Decision::Case(reason, detail) => CaseEnd::Open(reason, detail),
        };
        let account_id = self.subject(callback);
        self.resolved.insert(id, ResolvedCase { id, account_id, is_found: false, end });
    }

    /// A further delivery of what needs a person decides it again, whether its case is stored or of this batch.
    pub(super) fn decide_copy_again(&mut self, index: usize, callback: &'a Callback) {
        let Some(first) = self.first_in_batch(callback) else { return };
        match self.decisions.get(first) {
            Some(Decision::CopyOfCase(id, CaseState::Open)) => self.decide_open_again(*id, callback),
            // It waited before this batch, and needs a person since.
            Some(Decision::CopyOfCase(id, CaseState::Waiting)) if self.needs_a_person(*id) => {
                self.decide_open_again(*id, callback);
            }
            // A mismatch stays one: what it contradicts is still there.
            Some(Decision::Case(reason, _)) if first < index && !reason.is_waiting() && reason.owns_key() => {
                let decision = self.decide_waiting(callback, false);
                if matches!(decision, Decision::Applied) {
                    if let Some(slot) = self.decisions.get_mut(first) {
                        *slot = decision;
                    }
                    self.release_waiting(callback);
                }
            }
            Some(
                Decision::Case(..)
                | Decision::CopyOfCase(_, CaseState::Waiting | CaseState::Replayed | CaseState::Discarded)
                | Decision::Duplicate(_)
                | Decision::Applied,
            )
            | None => {}
        }
    }

    /// Whether this batch has made an open case of one that waited.
    fn needs_a_person(&self, id: CaseId) -> bool {
        let end = self.resolved.get(&id).map(|case| &case.end);
        end.is_some_and(|end| matches!(end, CaseEnd::Open(reason, _) if !reason.is_waiting()))
    }

    /// Where the callback of an open case can be applied by now, it is.
    fn decide_open_again(&mut self, id: CaseId, callback: &'a Callback) {
        let is_ended = self.resolved.get(&id).is_some_and(|case| !matches!(case.end, CaseEnd::Open(..)));
        if is_ended {
            return;
        }
        // The copy names the account that the sender named, whoever it was assigned to since.
        let callback = self.snapshot.assigned(id).unwrap_or(callback);
        let decision = self.decide_again(id, callback, false);
        if matches!(decision, Decision::Applied) {
            self.end_case(id, callback, decision);
            self.release_waiting(callback);
        }
    }

    pub(super) fn replay(&mut self, case: &'a StoredCase, expires: Expires) {
        if self.resolved.get(&case.id).is_some_and(|resolved| !matches!(resolved.end, CaseEnd::Open(..))) {
            // One before it in this plan has released it.
            return;
        }
        let who = Who::Stored(case.id);
        for slot in &mut self.waiters {
            if slot.is_some_and(|waiter| waiter.who == who) {
                *slot = None;
            }
        }
        match self.decide_again(case.id, &case.callback, true) {
            Decision::Case(Reason::WaitingForPayment, _) if expires == Expires::Payment => {
                let detail = "what it needs did not come within waiting_max_ms".to_owned();
                self.end_case(case.id, &case.callback, Decision::Case(Reason::WaitingExpired, detail));
            }
            Decision::Case(reason, detail) if reason.is_waiting() => {
                if reason != case.reason {
                    self.end_case(case.id, &case.callback, Decision::Case(reason, detail));
                }
                self.add_waiter(who, &case.callback, reason);
                // Also where its time is up: it may have been stored at the same moment as what it needs, unseen by either batch.
                self.try_together(&case.callback);
                let may_wait = case.reason.is_waiting() && expires != Expires::Funds;
                if reason == Reason::WaitingForFunds && !may_wait {
                    self.stop_waiting(who, case);
                }
            }
            decision @ (Decision::Case(..)
            | Decision::Applied
            | Decision::Duplicate(_)
            | Decision::CopyOfCase(..)) => {
                let is_applied = matches!(decision, Decision::Applied);
                self.end_case(case.id, &case.callback, decision);
                if is_applied {
                    self.release_waiting(&case.callback);
                }
            }
        }
    }

    /// Where it still waits, and its time is up: it is a case with what it lacks.
    fn stop_waiting(&mut self, who: Who, case: &'a StoredCase) {
        let is_it = |slot: &&mut Option<Waiter<'a>>| slot.is_some_and(|waiter| waiter.who == who);
        let Some(slot) = self.waiters.iter_mut().find(is_it) else { return };
        *slot = None;
        let decision = self.decide_again(case.id, &case.callback, false);
        self.end_case(case.id, &case.callback, decision);
    }

    /// A stored case once more: what is known of its key and its fact by now comes first.
    fn decide_again(&mut self, id: CaseId, callback: &'a Callback, may_wait: bool) -> Decision {
        self.known_excluding(id, callback).unwrap_or_else(|| self.decide_waiting(callback, may_wait))
    }

    /// Decides a callback that waited. Two events of one fact can wait side by side; the first one applied ends the other.
    fn decide_waiting(&mut self, waiting: &'a Callback, may_wait: bool) -> Decision {
        if let Some(decision) = self.settled_operation(waiting) {
            return decision;
        }
        self.waits_for_funds = may_wait;
        let decision = self.decide_one(waiting);
        self.waits_for_funds = true;
        decision
    }

    /// Where nothing may wait for funds: what still does at the end of its batch is a case with what it lacks.
    pub(super) fn end_waiting_for_funds(&mut self) {
        for at in 0..self.waiters.len() {
            let Some(waiter) = self.waiter(at).filter(|waiter| waiter.reason == Reason::WaitingForFunds)
            else {
                continue;
            };
            let decision = match waiter.who {
                Who::InBatch(_) => self.decide_waiting(waiter.callback, false),
                Who::Stored(id) if self.resolved.contains_key(&id) => {
                    self.decide_again(id, waiter.callback, false)
                }
                // The sweep comes to it.
                Who::Stored(_) => continue,
            };
            self.settle_waiter(at, waiter, decision, &mut Vec::new());
        }
    }
}
