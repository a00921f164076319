//! What is unwritten, laid over what the database says: the snapshot that a batch is decided on.

use std::collections::{BTreeSet, HashSet};

use super::{Unwritten, is_unended};
use crate::{AccountId, Callback, CaseId, Deposit, Known, PaymentKey, Running, Snapshot, StoredCase};

/// Waiting callbacks of one payment or one account that a batch looks at, as many as it reads of stored ones.
const WAITING_PER_KEY_MAX: usize = 64;

/// Owners of one idempotency key that a batch looks at, as many as it reads of stored ones.
const OWNERS_PER_KEY_MAX: usize = 4;

impl Unwritten {
    /// Lays what became of stored cases over them: takes out those that have ended, and gives the others their reason.
    pub fn cover_cases(&self, cases: &mut Vec<StoredCase>) {
        cases.retain_mut(|case| {
            let Some(now) = self.cases.get(&case.id) else { return true };
            case.reason = now.reason;
            is_unended(now.state)
        });
    }

    /// The accounts of callbacks that name none, by payments and deposits that are not stored.
    #[must_use]
    pub fn found_accounts(&self, callbacks: &[Callback]) -> Vec<AccountId> {
        let mut found = Vec::new();
        for callback in callbacks.iter().filter(|callback| callback.named_account().is_none()) {
            if let Some(key) = callback.payment_key() {
                found.extend(self.payments.get(&key).map(|payment| payment.account_id.clone()));
                let deposits = self.deposits.get(&key).into_iter().flatten();
                found.extend(deposits.map(|deposit| deposit.account_id.clone()));
            }
        }
        found
    }

    /// Lays what waits over stored cases that were found to wait: takes out those that have ended, and adds those that wait for the
    /// payments of the batch, or for money of its accounts and of those `found` for it.
    pub fn cover_waiting(&self, callbacks: &[Callback], found: &[AccountId], waiting: &mut Vec<StoredCase>) {
        if self.cases.is_empty() {
            return;
        }
        // What is kept here of a stored case is newer.
        waiting.retain(|case| !self.cases.contains_key(&case.id));
        let mut ids = self.waiting_for_funds(callbacks, found, waiting);
        let new = ids.iter().filter_map(|id| self.callback_of(*id));
        let all = callbacks.iter().chain(new).chain(waiting.iter().map(|case| &case.callback));
        let payments: HashSet<PaymentKey> = all.filter_map(Callback::payment_key).collect();
        for key in payments {
            let of_payment = self.waiting_of_payment.get(&key).into_iter().flatten();
            ids.extend(of_payment.take(WAITING_PER_KEY_MAX));
        }
        waiting.extend(ids.iter().filter_map(|id| self.stored(*id)));
        waiting.sort_by_key(|case| case.id);
    }

    /// Payments of what waits for money of the batch: what else waits for those is looked at too.
    #[must_use]
    pub fn waiting_payments(&self, callbacks: &[Callback], found: &[AccountId]) -> HashSet<PaymentKey> {
        let ids = self.waiting_for_funds(callbacks, found, &[]);
        ids.iter().filter_map(|id| self.callback_of(*id)?.payment_key()).collect()
    }

    /// What waits for money of these accounts, and of those that a waiting transfer brings money to.
    fn waiting_for_funds(
        &self,
        callbacks: &[Callback],
        found: &[AccountId],
        waiting: &[StoredCase],
    ) -> BTreeSet<CaseId> {
        let mut ids = BTreeSet::new();
        let bring_funds = callbacks.iter().filter(|callback| callback.kind.may_bring_funds());
        let named =
            bring_funds.flat_map(|callback| callback.named_account().into_iter().chain(callback.receiver()));
        let receivers = waiting.iter().filter_map(|case| case.callback.receiver());
        let mut next: Vec<&AccountId> = named.chain(found).chain(receivers).collect();
        let mut looked_at = HashSet::new();
        while let Some(account_id) = next.pop() {
            let Some(of_account) = self.waiting_of_account.get(account_id) else { continue };
            if !looked_at.insert(account_id) {
                continue;
            }
            for id in of_account.iter().take(WAITING_PER_KEY_MAX) {
                let Some(case) = self.cases.get(id).filter(|_| ids.insert(*id)) else { continue };
                next.extend(case.callback.receiver());
            }
        }
        ids
    }

    /// Lays all the rest over what the database knows about `callbacks` and about what waits: accounts, payments, deposits, movements and
    /// keys.
    pub fn cover(&self, callbacks: &[Callback], snapshot: &mut Snapshot) {
        if self.accounts.is_empty() && self.cases.is_empty() {
            return;
        }
        let waiting: Vec<Callback> = snapshot.waiting.iter().map(|case| case.callback.clone()).collect();
        let mut covered = HashSet::new();
        for (account_id, account) in &mut snapshot.accounts {
            *account = self.accounts.get(account_id).copied().unwrap_or(*account);
        }
        for callback in callbacks.iter().chain(&waiting) {
            self.cover_accounts(callback, snapshot);
            if let Some(key) = callback.payment_key() {
                if !callback.kind.is_of_deposit() {
                    if let Some(payment) = self.payments.get(&key) {
                        snapshot.payments.insert(key, payment.clone());
                    }
                } else if callback.kind.needs_payment_id() && covered.insert(key.clone()) {
                    self.cover_deposit(key, snapshot);
                }
            }
            if let Some(key) = callback.reversed_key()
                && let Some(row) = self.operations.get(&key)
            {
                snapshot.movements.insert(key, row.movement.clone());
            }
            self.cover_key(callback, snapshot);
            self.cover_operation(callback, snapshot);
        }
    }

    fn cover_accounts(&self, callback: &Callback, snapshot: &mut Snapshot) {
        let named = callback.named_account().into_iter().chain(callback.receiver()).cloned();
        let found = self.found_accounts(std::slice::from_ref(callback));
        for account_id in named.chain(found) {
            if let Some(account) = self.accounts.get(&account_id) {
                snapshot.accounts.insert(account_id, *account);
            }
        }
    }

    fn cover_deposit(&self, key: PaymentKey, snapshot: &mut Snapshot) {
        let Some(parts) = self.deposits.get(&key) else { return };
        // Of two deposits with one payment's id the older one's account has it.
        let owner = snapshot.deposits.get(&key).map(|deposit| deposit.account_id.clone());
        let is_owners = |part: &&Deposit| owner.as_ref().is_none_or(|owner| *owner == part.account_id);
        let Some(part) = parts.iter().find(is_owners) else { return };
        let deposit = snapshot.deposits.entry(key);
        let deposit = deposit.or_insert_with(|| Deposit::expected(part.account_id.clone(), part.currency));
        for (kept, added) in [
            (&mut deposit.brought, part.brought),
            (&mut deposit.refunded, part.refunded),
            (&mut deposit.disputed, part.disputed),
            (&mut deposit.reinstated, part.reinstated),
        ] {
            *kept = Running { sum: kept.sum.saturating_add(added.sum), total: kept.total.max(added.total) };
        }
    }

    fn cover_key(&self, callback: &Callback, snapshot: &mut Snapshot) {
        let key = &callback.key;
        let of_content = self.case_of_content.get(&(key.clone(), callback.fingerprint));
        let owners = self.owners_of_key.get(key).into_iter().flatten().take(OWNERS_PER_KEY_MAX);
        let cases: Vec<Known> =
            of_content.into_iter().chain(owners).filter_map(|id| self.known(*id)).collect();
        let row = self.rows.get(key).map(|fingerprint| Known::Ledger(*fingerprint));
        if let Some(known) = snapshot.known.get_mut(key) {
            known.iter_mut().for_each(|known| self.renew(known));
        }
        if !cases.is_empty() || row.is_some() {
            let known = snapshot.known.entry(key.clone()).or_default();
            for one in cases.into_iter().chain(row) {
                if !known.contains(&one) {
                    known.push(one);
                }
            }
        }
    }

    fn cover_operation(&self, callback: &Callback, snapshot: &mut Snapshot) {
        let Some(key) = callback.operation_key() else { return };
        if let Some(known) = snapshot.operations.get_mut(&key) {
            self.renew(known);
        }
        let stored = snapshot.operations.get(&key).copied();
        let row = self.operations.get(&key).map(|row| Known::Ledger(row.fingerprint));
        let cases = self.owners_of_operation.get(&key).into_iter().flatten().filter_map(|id| self.known(*id));
        let owner =
            stored.into_iter().chain(row).chain(cases).filter(Known::owns_key).min_by_key(Known::rank);
        match owner {
            Some(owner) => snapshot.operations.insert(key, owner),
            None => snapshot.operations.remove(&key),
        };
    }

    /// A stored case as it would be by now.
    fn renew(&self, known: &mut Known) {
        if let Known::Case { id, .. } = known
            && let Some(now) = self.known(*id)
        {
            *known = now;
        }
    }

    fn known(&self, id: CaseId) -> Option<Known> {
        let case = self.cases.get(&id)?;
        Some(Known::Case {
            id,
            fingerprint: case.callback.fingerprint,
            reason: case.reason,
            state: case.state,
        })
    }

    pub(super) fn stored(&self, id: CaseId) -> Option<StoredCase> {
        let case = self.cases.get(&id)?;
        Some(StoredCase {
            id,
            reason: case.reason,
            account_id: case.account_id.clone(),
            callback: case.callback.clone(),
        })
    }
}
