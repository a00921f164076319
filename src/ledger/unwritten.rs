//! What plans that nobody writes would have left behind, so that the next batch of a dry run is decided as if they had been written.
//!
//! A dry run reads the database as everybody does, and lays this over what it read: [`Unwritten::cover`]. It grows with what was decided;
//! whoever fills it bounds how much. What must not live here: I/O, and rules, which are those of [`super::decide()`].

use std::collections::{BTreeSet, HashMap, HashSet, hash_map};

use super::{
    Account, AccountId, Callback, CaseEnd, CaseId, CaseState, Deposit, Entry, Fingerprint, Key, Kind, Known,
    Movement, OperationKey, Payment, PaymentKey, Plan, Reason, Running, Snapshot, StoredCase,
};

/// Waiting callbacks of one payment or one account that a batch looks at, as many as it reads of stored ones.
const WAITING_PER_KEY_MAX: usize = 64;

/// Owners of one idempotency key that a batch looks at, as many as it reads of stored ones.
const OWNERS_PER_KEY_MAX: usize = 4;

/// Cases that were never stored have ids from here on: after all that a sequence will ever give.
const FIRST_CASE: i64 = 1 << 62;

/// A case that is new, or a stored one that has changed.
#[derive(Debug, Clone)]
struct Case {
    callback: Callback,
    /// The account that its row would name.
    account_id: Option<AccountId>,
    reason: Reason,
    state: CaseState,
}

/// A ledger row's second key: its content, and what others that name it have to know.
#[derive(Debug, Clone)]
struct Row {
    fingerprint: Fingerprint,
    movement: Movement,
}

/// The unwritten part of what is known. Empty, it changes nothing.
#[derive(Debug, Default)]
pub struct Unwritten {
    accounts: HashMap<AccountId, Account>,
    payments: HashMap<PaymentKey, Payment>,
    /// The sums of unwritten rows alone, one per account, the first one first.
    deposits: HashMap<PaymentKey, Vec<Deposit>>,
    rows: HashMap<Key, Fingerprint>,
    operations: HashMap<OperationKey, Row>,
    cases: HashMap<CaseId, Case>,
    case_of_content: HashMap<(Key, Fingerprint), CaseId>,
    owners_of_key: HashMap<Key, Vec<CaseId>>,
    owners_of_operation: HashMap<OperationKey, Vec<CaseId>>,
    /// All that wait, and by what they wait for, oldest first.
    waiting: BTreeSet<CaseId>,
    waiting_of_payment: HashMap<PaymentKey, BTreeSet<CaseId>>,
    waiting_of_account: HashMap<AccountId, BTreeSet<CaseId>>,
    /// New cases so far.
    cases_made: i64,
}

impl Unwritten {
    /// An account as it would be; `None`: nothing has changed it.
    #[must_use]
    pub fn account(&self, account_id: &AccountId) -> Option<&Account> {
        self.accounts.get(account_id)
    }

    /// The callback of a case that is new or has changed.
    #[must_use]
    pub fn callback_of(&self, id: CaseId) -> Option<&Callback> {
        self.cases.get(&id).map(|case| &case.callback)
    }

    /// Waiting cases after `after`, oldest first, at most `limit`: new ones, and stored ones that began to wait for something else.
    #[must_use]
    pub fn waiting_after(&self, after: CaseId, limit: usize) -> Vec<StoredCase> {
        let from = CaseId(after.0.saturating_add(1));
        self.waiting.range(from..).take(limit).filter_map(|id| self.stored(*id)).collect()
    }

    /// Lays what became of stored cases over them: takes out those that have ended, and gives the others their reason.
    pub fn cover_cases(&self, cases: &mut Vec<StoredCase>) {
        cases.retain_mut(|case| {
            let Some(now) = self.cases.get(&case.id) else { return true };
            case.reason = now.reason;
            is_unended(now.state)
        });
    }

    /// The accounts of callbacks that name none, by payments, deposits and movements that are not stored.
    #[must_use]
    pub fn found_accounts(&self, callbacks: &[Callback]) -> Vec<AccountId> {
        let mut found = Vec::new();
        for callback in callbacks.iter().filter(|callback| callback.named_account().is_none()) {
            if let Some(key) = callback.payment_key() {
                found.extend(self.payments.get(&key).map(|payment| payment.account_id.clone()));
                let deposits = self.deposits.get(&key).into_iter().flatten();
                found.extend(deposits.map(|deposit| deposit.account_id.clone()));
            }
            found.extend(self.movements_named(callback).map(|(_, movement)| movement.account_id.clone()));
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
        let mut ids = BTreeSet::new();
        let bring_funds = callbacks.iter().filter(|callback| callback.kind.may_bring_funds());
        let named =
            bring_funds.flat_map(|callback| callback.named_account().into_iter().chain(callback.receiver()));
        let receivers = waiting.iter().filter_map(|case| case.callback.receiver());
        let mut next: Vec<AccountId> = named.chain(found).chain(receivers).cloned().collect();
        let mut looked_at = HashSet::new();
        let mut payments: HashSet<PaymentKey> = callbacks.iter().filter_map(Callback::payment_key).collect();
        while let Some(account_id) = next.pop() {
            let Some(of_account) = self.waiting_of_account.get(&account_id) else { continue };
            if !looked_at.insert(account_id) {
                continue;
            }
            for id in of_account.iter().take(WAITING_PER_KEY_MAX) {
                let Some(case) = self.cases.get(id).filter(|_| ids.insert(*id)) else { continue };
                next.extend(case.callback.receiver().cloned());
                payments.extend(case.callback.payment_key());
            }
        }
        for key in payments {
            let of_payment = self.waiting_of_payment.get(&key).into_iter().flatten();
            ids.extend(of_payment.take(WAITING_PER_KEY_MAX));
        }
        waiting.extend(ids.iter().filter_map(|id| self.stored(*id)));
        waiting.sort_by_key(|case| case.id);
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
        let found = self.found_accounts(std::slice::from_ref(callback));
        let named = callback.named_account().into_iter().chain(callback.receiver()).cloned();
        for account_id in named.chain(found) {
            if let Some(account) = self.accounts.get(&account_id) {
                snapshot.accounts.insert(account_id, *account);
            }
        }
        if callback.named_account().is_none() {
            for (key, movement) in self.movements_named(callback) {
                snapshot.movements.insert(key, movement.clone());
            }
        }
    }

    /// Movements, of any kind, that a callback names by its operation id.
    fn movements_named(&self, callback: &Callback) -> impl Iterator<Item = (OperationKey, &Movement)> {
        let id = callback.operation_id.clone().filter(|_| callback.named_account().is_none());
        let source = callback.key.source.clone();
        id.into_iter().flat_map(move |operation_id| {
            let source = source.clone();
            Kind::ALL.iter().filter_map(move |kind| {
                let key =
                    OperationKey { source: source.clone(), kind: *kind, operation_id: operation_id.clone() };
                self.operations.get(&key).map(|row| (key, &row.movement))
            })
        })
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

    fn stored(&self, id: CaseId) -> Option<StoredCase> {
        let case = self.cases.get(&id)?;
        Some(StoredCase { id, reason: case.reason, callback: case.callback.clone() })
    }

    /// Takes in what a plan would have written, had it been. `snapshot` and `cases`: what it was decided on. Returns the ids of its new
    /// cases, in the order of [`Plan::new_cases`].
    pub fn take(
        &mut self,
        snapshot: &Snapshot,
        callbacks: &[Callback],
        cases: &[StoredCase],
        plan: &Plan,
    ) -> Vec<CaseId> {
        for change in &plan.accounts {
            self.accounts.insert(change.account_id.clone(), change.after);
        }
        for change in &plan.payments {
            self.payments.insert(change.key.clone(), change.after.clone());
        }
        for entry in &plan.entries {
            self.take_entry(entry);
        }
        let ids = self.take_new_cases(plan);
        for resolved in &plan.resolved_cases {
            let kept = self.cases.get(&resolved.id).cloned();
            let Some(mut case) = kept.or_else(|| decided_on(resolved.id, snapshot, callbacks, cases)) else {
                continue;
            };
            (case.state, case.reason) = match &resolved.end {
                CaseEnd::Applied => (CaseState::Replayed, case.reason),
                CaseEnd::Duplicate(_) => (CaseState::Discarded, case.reason),
                CaseEnd::Open(reason, _) => (state_of(*reason), *reason),
            };
            self.put_case(resolved.id, case);
        }
        ids
    }

    fn take_entry(&mut self, Entry { callback, leg, .. }: &Entry) {
        self.rows.insert(callback.key.clone(), callback.fingerprint);
        if let Some(key) = callback.operation_key() {
            let movement = Movement {
                account_id: leg.account_id.clone(),
                payment_id: callback.payment_id.clone(),
                amount: callback.amount.minor_units(),
            };
            self.operations.insert(key, Row { fingerprint: callback.fingerprint, movement });
        }
        if let Some(key) = callback.payment_key().filter(|_| callback.kind.is_of_deposit()) {
            let parts = self.deposits.entry(key).or_default();
            let at = parts.iter().position(|part| part.account_id == leg.account_id).unwrap_or_else(|| {
                parts.push(Deposit::expected(leg.account_id.clone(), callback.currency));
                parts.len() - 1
            });
            if let Some(part) = parts.get_mut(at)
                && let Ok(sums) = part.add(callback)
            {
                *part = sums;
            }
        }
    }

    /// Ids are given in the order in which the rows would be written: by key and content.
    fn take_new_cases(&mut self, plan: &Plan) -> Vec<CaseId> {
        let mut order: Vec<usize> = (0..plan.new_cases.len()).collect();
        order.sort_by_key(|at| {
            plan.new_cases.get(*at).map(|case| (&case.callback.key, case.callback.fingerprint))
        });
        let mut ids = vec![CaseId(0); plan.new_cases.len()];
        for at in order {
            let (Some(new), Some(slot)) = (plan.new_cases.get(at), ids.get_mut(at)) else { continue };
            let id = CaseId(FIRST_CASE.saturating_add(self.cases_made));
            self.cases_made = self.cases_made.saturating_add(1);
            *slot = id;
            let key = &new.callback.key;
            self.case_of_content.insert((key.clone(), new.callback.fingerprint), id);
            if new.reason.owns_key() {
                self.owners_of_key.entry(key.clone()).or_default().push(id);
                if let Some(operation) = new.callback.operation_key() {
                    self.owners_of_operation.entry(operation).or_default().push(id);
                }
            }
            self.put_case(
                id,
                Case {
                    callback: new.callback.clone(),
                    account_id: new.account_id.clone(),
                    reason: new.reason,
                    state: state_of(new.reason),
                },
            );
        }
        ids
    }

    fn put_case(&mut self, id: CaseId, case: Case) {
        let accounts: Vec<AccountId> =
            case.account_id.iter().chain(case.callback.receiver()).cloned().collect();
        let is_waiting = case.state == CaseState::Waiting;
        let waits_for_funds = is_waiting && case.reason == Reason::WaitingForFunds;
        keep(&mut self.waiting, id, is_waiting);
        if let Some(key) = case.callback.payment_key() {
            keep_under(&mut self.waiting_of_payment, key, id, is_waiting);
        }
        for account_id in accounts {
            keep_under(&mut self.waiting_of_account, account_id, id, waits_for_funds);
        }
        self.cases.insert(id, case);
    }
}

/// The stored case with this id, as the database has it: one that waited or was decided again, or an open one of whose callback a further
/// delivery came.
fn decided_on(id: CaseId, snapshot: &Snapshot, callbacks: &[Callback], cases: &[StoredCase]) -> Option<Case> {
    let case = snapshot.waiting.iter().chain(cases).find(|case| case.id == id);
    let found = case.map(|case| (&case.callback, case.reason, state_of(case.reason)));
    let (callback, reason, state) = found.or_else(|| {
        callbacks.iter().find_map(|callback| {
            let known = snapshot.known.get(&callback.key)?;
            known.iter().find_map(|known| match known {
                Known::Case { id: of, fingerprint, reason, state }
                    if *of == id && *fingerprint == callback.fingerprint =>
                {
                    Some((callback, *reason, *state))
                }
                Known::Case { .. } | Known::Ledger(_) => None,
            })
        })
    })?;
    Some(Case { callback: callback.clone(), account_id: callback.named_account().cloned(), reason, state })
}

fn keep(ids: &mut BTreeSet<CaseId>, id: CaseId, is_in: bool) {
    if is_in {
        ids.insert(id);
    } else {
        ids.remove(&id);
    }
}

fn keep_under<K: Eq + std::hash::Hash>(
    map: &mut HashMap<K, BTreeSet<CaseId>>,
    key: K,
    id: CaseId,
    is_in: bool,
) {
    match map.entry(key) {
        hash_map::Entry::Occupied(mut entry) => {
            keep(entry.get_mut(), id, is_in);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        hash_map::Entry::Vacant(entry) => {
            if is_in {
                entry.insert(BTreeSet::from([id]));
            }
        }
    }
}

fn state_of(reason: Reason) -> CaseState {
    if reason.is_waiting() { CaseState::Waiting } else { CaseState::Open }
}

fn is_unended(state: CaseState) -> bool {
    match state {
        CaseState::Waiting | CaseState::Open => true,
        CaseState::Replayed | CaseState::Discarded => false,
    }
}
