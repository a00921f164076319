//! What plans that nobody writes would have left behind, so that the next batch of a dry run is decided as if they had been written.
//!
//! A dry run reads the database as everybody does, and lays this over what it read: [`Unwritten::cover`]. It grows with what was decided;
//! whoever fills it bounds how much. What must not live here: I/O, and rules, which are those of [`super::decide()`].

mod cover;

use std::collections::{BTreeSet, HashMap, hash_map};

use super::{
    Account, AccountId, Callback, CaseEnd, CaseId, CaseState, Deposit, Entry, Fingerprint, Key, Known,
    Movement, OperationKey, Payment, PaymentKey, Plan, Reason, Snapshot, StoredCase,
};

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
                CaseEnd::Open(reason, _) => {
                    if resolved.is_found {
                        case.account_id.clone_from(&resolved.account_id);
                    }
                    (state_of(*reason), *reason)
                }
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

    /// Ids are given in the order in which the messages came, as the store gives them.
    fn take_new_cases(&mut self, plan: &Plan) -> Vec<CaseId> {
        let mut ids = Vec::with_capacity(plan.new_cases.len());
        for new in &plan.new_cases {
            let id = CaseId(FIRST_CASE.saturating_add(self.cases_made));
            self.cases_made = self.cases_made.saturating_add(1);
            ids.push(id);
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
    let case = snapshot.waiting.iter().chain(&snapshot.assigned).chain(cases).find(|case| case.id == id);
    let found =
        case.map(|case| (&case.callback, case.account_id.as_ref(), case.reason, state_of(case.reason)));
    let (callback, account_id, reason, state) = found.or_else(|| {
        callbacks.iter().find_map(|callback| {
            let known = snapshot.known.get(&callback.key)?;
            known.iter().find_map(|known| match known {
                Known::Case { id: of, fingerprint, reason, state }
                    if *of == id && *fingerprint == callback.fingerprint =>
                {
                    Some((callback, callback.named_account(), *reason, *state))
                }
                Known::Case { .. } | Known::Ledger(_) => None,
            })
        })
    })?;
    Some(Case { callback: callback.clone(), account_id: account_id.cloned(), reason, state })
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
