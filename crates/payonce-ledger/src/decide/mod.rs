//! The whole business rule: a snapshot and a batch of callbacks in, a plan out.

mod known;
mod post;
mod waiting;

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};

use super::{
    Account, AccountChange, AccountId, Callback, CaseCopies, CaseEnd, CaseId, CaseState, Deposit, Entry,
    Fingerprint, Key, Layer, Movement, NewCase, OperationKey, Outcome, Payment, PaymentChange, PaymentKey,
    Plan, Reason, ResolvedCase, Rules, Snapshot, StoredCase, Unopened,
};

/// Decides a batch, callback by callback, in its order. Deciding never fails: every callback gets exactly one [`Outcome`].
///
/// Pure: equal arguments give equal plans. Any way of cutting a stream of sound callbacks into batches, and any order of it, gives the
/// same end; only which of several has the last of the money depends on who came first.
#[must_use]
pub fn decide(snapshot: &Snapshot, callbacks: &[Callback], rules: &Rules) -> Plan {
    let mut state = BatchState::new(snapshot, callbacks, &[], rules);
    for (index, callback) in callbacks.iter().enumerate() {
        state.admit(index, callback, BatchState::decide_one);
        state.decide_copy_again(index, callback);
    }
    state.into_plan()
}

/// Quarantines what the broker dead-lettered, unless it is known already: it may have been settled by the last of its deliveries.
#[must_use]
pub fn dead_letter(snapshot: &Snapshot, callbacks: &[Callback], rules: &Rules) -> Plan {
    let mut state = BatchState::new(snapshot, callbacks, &[], rules);
    for (index, callback) in callbacks.iter().enumerate() {
        state.admit(index, callback, |_, _| {
            let detail = "returned to the queue as often as x-delivery-limit allows";
            Decision::Case(Reason::DeliveryLimit, detail.to_owned())
        });
    }
    state.into_plan()
}

/// Whose time is up among the cases that are decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// Nobody's.
    Nothing,
    /// Of what waits for a payment: it becomes [`Reason::WaitingExpired`].
    Payment,
    /// Of what waits for funds: it becomes what it lacks.
    Funds,
}

/// Decides stored cases again, in their order, against what the database knows now. An open one that still lacks money stays open.
#[must_use]
pub fn decide_cases(snapshot: &Snapshot, cases: &[StoredCase], rules: &Rules, expires: Expires) -> Plan {
    let mut state = BatchState::new(snapshot, &[], cases, rules);
    for case in cases {
        state.replay(case, expires);
    }
    state.into_plan()
}

/// Where the decision about one callback stands; a waiting one can still change while the batch goes on.
#[derive(Debug, Clone)]
enum Decision {
    Duplicate(Layer),
    CopyOfCase(CaseId, CaseState),
    Case(Reason, String),
    Applied,
}

/// A callback that waits: stored by an earlier batch, or of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Stored(CaseId),
    InBatch(usize),
}

#[derive(Debug, Clone, Copy)]
struct Waiter<'a> {
    who: Who,
    callback: &'a Callback,
    /// One of the two that wait.
    reason: Reason,
}

struct AccountWork {
    opens: bool,
    before: Account,
    now: Account,
}

struct PaymentWork {
    expected: Option<i64>,
    now: Payment,
}

/// The snapshot as it changes while the batch is decided.
struct BatchState<'a> {
    snapshot: &'a Snapshot,
    callbacks: &'a [Callback],
    cases: &'a [StoredCase],
    rules: &'a Rules,
    /// Whether what is decided at this moment may wait for funds. What is new may until its batch ends, whatever the rules: what it
    /// lacks may be in the same batch.
    waits_for_funds: bool,
    /// Whether any callback names another's movement.
    tracks_movements: bool,
    /// Deposits that any callback takes back.
    tracks_deposits: HashSet<PaymentKey>,
    decisions: Vec<Decision>,
    /// First copy of each content seen in this batch, by key.
    seen: HashMap<&'a Key, Vec<usize>>,
    /// Second keys that this batch uses: (content, whether it is applied).
    operations: HashMap<OperationKey, (Fingerprint, bool)>,
    copies_in_batch: HashMap<usize, i32>,
    accounts: HashMap<AccountId, AccountWork>,
    payments: HashMap<PaymentKey, PaymentWork>,
    deposits: HashMap<PaymentKey, Deposit>,
    movements: HashMap<OperationKey, Movement>,
    /// Those that wait, oldest first; `None` once one does no more.
    waiters: Vec<Option<Waiter<'a>>>,
    waiters_of_payment: HashMap<PaymentKey, Vec<usize>>,
    waiters_of_account: HashMap<AccountId, Vec<usize>>,
    entries: Vec<Entry>,
    resolved: BTreeMap<CaseId, ResolvedCase>,
}

impl<'a> BatchState<'a> {
    fn new(
        snapshot: &'a Snapshot,
        callbacks: &'a [Callback],
        cases: &'a [StoredCase],
        rules: &'a Rules,
    ) -> Self {
        let stored = snapshot.waiting.iter().chain(cases).map(|case| &case.callback);
        let mut tracks_movements = false;
        let mut tracks_deposits = HashSet::new();
        for callback in stored.chain(callbacks) {
            tracks_movements |= callback.reversed_kind().is_some();
            if takes_deposit_back(callback) {
                tracks_deposits.extend(callback.payment_key());
            }
        }
        let mut state = Self {
            snapshot,
            callbacks,
            cases,
            rules,
            waits_for_funds: true,
            tracks_movements,
            tracks_deposits,
            decisions: Vec::with_capacity(callbacks.len()),
            seen: HashMap::with_capacity(callbacks.len()),
            operations: HashMap::new(),
            copies_in_batch: HashMap::new(),
            accounts: HashMap::new(),
            payments: HashMap::new(),
            deposits: HashMap::new(),
            movements: HashMap::new(),
            waiters: Vec::new(),
            waiters_of_payment: HashMap::new(),
            waiters_of_account: HashMap::new(),
            entries: Vec::with_capacity(callbacks.len()),
            resolved: BTreeMap::new(),
        };
        for case in &snapshot.waiting {
            state.add_waiter(Who::Stored(case.id), &case.callback, case.reason);
        }
        state
    }

    fn admit(
        &mut self,
        index: usize,
        callback: &'a Callback,
        decide_new: impl FnOnce(&mut Self, &'a Callback) -> Decision,
    ) {
        let decision = self.known(index, callback).unwrap_or_else(|| decide_new(self, callback));
        self.decisions.push(decision.clone());
        match decision {
            Decision::Applied => self.release_waiting(callback),
            Decision::Case(reason, _) if reason.is_waiting() => {
                self.add_waiter(Who::InBatch(index), callback, reason);
                self.try_together(callback);
            }
            Decision::Case(..) | Decision::CopyOfCase(..) | Decision::Duplicate(_) => {}
        }
    }

    /// What a new callback does to its account and payment.
    fn decide_one(&mut self, callback: &'a Callback) -> Decision {
        let decision = match self.post(&[callback]) {
            Ok(()) => Decision::Applied,
            Err(decision) => decision,
        };
        self.use_operation(callback, &decision);
        decision
    }

    fn use_operation(&mut self, callback: &Callback, decision: &Decision) {
        let Some(key) = callback.operation_key() else { return };
        match decision {
            Decision::Applied => {
                self.operations.insert(key, (callback.fingerprint, true));
            }
            Decision::Case(reason, _) if reason.owns_key() => {
                self.operations.entry(key).or_insert((callback.fingerprint, false));
            }
            Decision::Case(..) | Decision::CopyOfCase(..) | Decision::Duplicate(_) => {}
        }
    }

    fn account(&self, account_id: &AccountId) -> Option<Account> {
        let work = self.accounts.get(account_id).map(|work| work.now);
        work.or_else(|| self.snapshot.accounts.get(account_id).copied())
    }

    fn unopened(&self, account_id: &AccountId, currency: super::Currency) -> Account {
        Account::unopened(currency, self.unopened_cases(account_id))
    }

    fn unopened_cases(&self, account_id: &AccountId) -> i64 {
        self.snapshot.unopened_cases.get(account_id).copied().unwrap_or(0)
    }

    fn put_account(&mut self, account_id: &AccountId, now: Account) {
        if let Some(work) = self.accounts.get_mut(account_id) {
            work.now = now;
            return;
        }
        let before = self.snapshot.accounts.get(account_id).copied();
        let opens = before.is_none();
        let before = before.unwrap_or_else(|| self.unopened(account_id, now.currency));
        self.accounts.insert(account_id.clone(), AccountWork { opens, before, now });
    }

    fn payment(&self, key: &PaymentKey) -> Option<&Payment> {
        self.payments.get(key).map(|work| &work.now).or_else(|| self.snapshot.payments.get(key))
    }

    fn deposit(&self, key: &PaymentKey) -> Option<&Deposit> {
        self.deposits.get(key).or_else(|| self.snapshot.deposits.get(key))
    }

    fn movement(&self, key: &OperationKey) -> Option<&Movement> {
        self.movements.get(key).or_else(|| self.snapshot.movements.get(key))
    }

    /// `callbacks`: how many have changed it.
    fn put_payment(&mut self, key: PaymentKey, after: Payment, callbacks: usize) {
        let changes = i64::try_from(callbacks).unwrap_or(i64::MAX);
        let now = Payment { version: after.version.saturating_add(changes), ..after };
        match self.payments.entry(key) {
            hash_map::Entry::Occupied(mut entry) => entry.get_mut().now = now,
            hash_map::Entry::Vacant(entry) => {
                let expected = self.snapshot.payments.get(entry.key()).map(|payment| payment.version);
                entry.insert(PaymentWork { expected, now });
            }
        }
    }

    fn into_plan(mut self) -> Plan {
        if !self.rules.waits_for_funds {
            self.end_waiting_for_funds();
        }
        let mut plan = Plan::default();
        let decisions = std::mem::take(&mut self.decisions);
        let decided = decisions.iter().zip(self.callbacks).map(|(decision, callback)| match decision {
            // A copy of an assigned case is about the account that the case is about.
            Decision::CopyOfCase(id, _) => self.snapshot.assigned(*id).unwrap_or(callback),
            Decision::Applied | Decision::Duplicate(_) | Decision::Case(..) => callback,
        });
        plan.subjects = decided.map(|callback| self.subject(callback)).collect();
        for (index, (decision, callback)) in decisions.into_iter().zip(self.callbacks).enumerate() {
            // How often this content came in this batch.
            let copies = self.copies_in_batch.get(&index).copied().unwrap_or(0).saturating_add(1);
            plan.outcomes.push(match decision {
                Decision::Applied => Outcome::Applied,
                Decision::Duplicate(layer) => Outcome::Duplicate(layer),
                Decision::CopyOfCase(id, _) => {
                    let account_id = plan.subjects.get(index).cloned().flatten();
                    plan.case_copies.push(CaseCopies { id, account_id, copies });
                    Outcome::Duplicate(Layer::Quarantine)
                }
                Decision::Case(reason, detail) => {
                    let account_id = plan.subjects.get(index).cloned().flatten();
                    if let Some(account_id) = &account_id {
                        self.count_case(account_id, &mut plan.unopened);
                    }
                    plan.new_cases.push(NewCase {
                        index,
                        callback: callback.clone(),
                        account_id,
                        reason,
                        detail,
                        attempts: copies,
                    });
                    if reason.is_waiting() { Outcome::Waiting(reason) } else { Outcome::Quarantined(reason) }
                }
            });
        }
        self.count_found_accounts(&mut plan.unopened);
        plan.entries = self.entries;
        plan.resolved_cases = self.resolved.into_values().collect();
        plan.accounts = self
            .accounts
            .into_iter()
            .map(|(account_id, AccountWork { opens, before, now })| AccountChange {
                account_id,
                opens,
                before,
                after: now,
            })
            .collect();
        plan.payments = self
            .payments
            .into_iter()
            .map(|(key, work)| PaymentChange { key, expected: work.expected, after: work.now })
            .collect();
        // Maps have no order; sorted, equal arguments give equal plans, and concurrent writers lock rows in one order.
        plan.accounts.sort_by(|a, b| a.account_id.cmp(&b.account_id));
        plan.payments.sort_by(|a, b| a.key.cmp(&b.key));
        plan.case_copies.sort_by_key(|copies| copies.id);
        plan.unopened.sort_by(|a, b| a.account_id.cmp(&b.account_id));
        plan.unopened.dedup();
        plan
    }

    /// A stored case that turns out to be about an account is a new one to that account.
    fn count_found_accounts(&mut self, unopened: &mut Vec<Unopened>) {
        let mut found: BTreeMap<CaseId, AccountId> = BTreeMap::new();
        for case in self.snapshot.waiting.iter().chain(self.cases).filter(|case| case.account_id.is_none()) {
            if let Some(resolved) = self.resolved.get_mut(&case.id)
                && let (CaseEnd::Open(..), Some(account_id)) = (&resolved.end, &resolved.account_id)
            {
                resolved.is_found = true;
                found.insert(case.id, account_id.clone());
            }
        }
        for account_id in found.into_values() {
            self.count_case(&account_id, unopened);
        }
    }

    /// A new case changes its account too, so that a concurrent writer who decides a copy of the same callback at this moment, or
    /// brings what this one lacks, loses its guard and looks again.
    fn count_case(&mut self, account_id: &AccountId, unopened: &mut Vec<Unopened>) {
        let open = self.snapshot.accounts.get(account_id).copied();
        let cases = self.unopened_cases(account_id);
        let work = match self.accounts.entry(account_id.clone()) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => match open {
                Some(account) => entry.insert(AccountWork { opens: false, before: account, now: account }),
                None => return unopened.push(Unopened { cases, account_id: account_id.clone() }),
            },
        };
        work.now.cases = work.now.cases.saturating_add(1);
    }
}

/// Whether it can only be decided with what is known of its deposit.
pub(super) fn takes_deposit_back(callback: &Callback) -> bool {
    callback.kind.is_of_deposit() && callback.kind.needs_payment_id()
}

fn mismatch(key: &str) -> Decision {
    Decision::Case(
        Reason::PayloadMismatch,
        format!("a callback with the same {key} is known, and its content is another: the case shows both"),
    )
}
