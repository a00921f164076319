//! Callbacks that are stored or wait: what a payment's movement releases, and stored cases that are decided again.

use super::{Book, Verdict, Waiter, of_another_account};
use crate::ledger::{Callback, CaseEnd, CaseId, Kind, PaymentKey, Reason, ResolvedCase, StoredCase};

impl<'a> Book<'a> {
    /// After a payment has moved: what waited for it is decided again, captures before refunds (which need them), and the final
    /// capture last among them (it releases the rest of the hold); else oldest first.
    pub(super) fn wake(&mut self, payment: &PaymentKey) {
        let Some(mut waiters) = self.waiting.remove(payment) else { return };
        waiters.sort_by_key(|(_, waiting)| {
            let is_capture = waiting.kind == Kind::PaymentCaptured;
            (!is_capture, is_capture && waiting.is_final)
        });
        // A refund that is applied can leave nothing to wait for to one that was looked at before it.
        loop {
            let waited = waiters.len();
            waiters.retain(|(waiter, waiting)| self.still_waits(*waiter, waiting));
            if waiters.len() == waited {
                break;
            }
        }
        if !waiters.is_empty() {
            self.waiting.insert(payment.clone(), waiters);
        }
    }

    fn still_waits(&mut self, waiter: Waiter, waiting: &Callback) -> bool {
        let verdict = match waiter {
            Waiter::Stored(id) => self.reconsider(id, waiting),
            Waiter::InBatch(_) => self.judge_waiting(waiting),
        };
        if matches!(&verdict, Verdict::Case(Reason::WaitingForPayment, _)) {
            return true;
        }
        match waiter {
            Waiter::InBatch(index) => {
                if let Some(slot) = self.verdicts.get_mut(index) {
                    *slot = verdict;
                }
            }
            Waiter::Stored(id) => self.end_case(id, waiting, verdict),
        }
        false
    }

    fn end_case(&mut self, id: CaseId, callback: &Callback, verdict: Verdict) {
        let end = match verdict {
            Verdict::Applied => CaseEnd::Applied,
            Verdict::Duplicate(_) | Verdict::CopyOfCase(_) => {
                CaseEnd::Duplicate("the same operation was applied under another event".to_owned())
            }
            Verdict::Case(reason, detail) => CaseEnd::Open(reason, detail),
        };
        self.resolved.insert(id, ResolvedCase { id, account_id: callback.account_id.clone(), end });
    }

    pub(super) fn replay(&mut self, case: &'a StoredCase, expires: bool) {
        if self.resolved.contains_key(&case.id) {
            // One before it in this plan has released it.
            return;
        }
        let payment = case.callback.payment_key();
        let waiters = payment.as_ref().and_then(|key| self.waiting.get_mut(key));
        let was_waiting = waiters.is_some_and(|waiters| {
            let before = waiters.len();
            waiters.retain(|(waiter, _)| *waiter != Waiter::Stored(case.id));
            waiters.len() < before
        });
        match (self.reconsider(case.id, &case.callback), payment) {
            (Verdict::Case(Reason::WaitingForPayment, _), _) if expires => {
                let detail = "what it needs did not come within waiting_max_ms".to_owned();
                self.end_case(case.id, &case.callback, Verdict::Case(Reason::WaitingExpired, detail));
            }
            (verdict @ Verdict::Case(Reason::WaitingForPayment, _), Some(key)) => {
                if !was_waiting {
                    self.end_case(case.id, &case.callback, verdict);
                }
                self.waiting.entry(key).or_default().push((Waiter::Stored(case.id), &case.callback));
            }
            (verdict, payment) => {
                let released = payment.filter(|_| matches!(verdict, Verdict::Applied));
                self.end_case(case.id, &case.callback, verdict);
                if let Some(key) = released {
                    self.wake(&key);
                }
            }
        }
    }

    /// A stored case once more: what is known of its key and its fact by now comes first.
    fn reconsider(&mut self, id: CaseId, callback: &Callback) -> Verdict {
        self.known_besides(id, callback).unwrap_or_else(|| self.judge_waiting(callback))
    }

    /// Judges a callback that waited. Two events of one fact can wait side by side; the first one applied ends the other.
    fn judge_waiting(&mut self, waiting: &Callback) -> Verdict {
        if let Some(verdict) = self.settled_operation(waiting) {
            return verdict;
        }
        // Asked before the account: that of a callback which another account's event wakes may not be in the snapshot.
        let stranger =
            waiting.payment_key().and_then(|key| of_another_account(&self.payment(&key, waiting), waiting));
        stranger.unwrap_or_else(|| self.judge(waiting))
    }
}
