//! An in-memory database that plays `store`: `load` gives what the store's queries give and no more, `apply` writes under the
//! same guards. What a transaction would refuse is an error; what no correct plan may hold is a panic.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use payonce_ledger::{
    Account, AccountId, Callback, CaseEnd, CaseId, CaseState, Currency, Deposit, Entry, Expires, Facts, Key,
    Kind, Known, Layer, Movement, OperationKey, Outcome, Payment, PaymentKey, PaymentState, Plan, Reason,
    Rules, Running, Snapshot, StoredCase, Unwritten, dead_letter, decide, decide_cases,
};

use crate::{draft::Draft, model, streams::cut};

/// A unique key or a guard that did not hold: the transaction would be rolled back.
type Conflict = String;

/// `store::load::WAITING_PER_KEY_MAX`.
const WAITING_PER_KEY_MAX: usize = 64;

/// `store::known::OWNERS_PER_KEY_MAX`.
const OWNERS_PER_KEY_MAX: usize = 4;

#[derive(Debug, Clone)]
struct Case {
    callback: Callback,
    /// The account that it is about, as far as the plan knew.
    account_id: Option<AccountId>,
    reason: Reason,
    attempts: i64,
    state: CaseState,
}

impl Case {
    fn is_unended(&self) -> bool {
        matches!(self.state, CaseState::Waiting | CaseState::Open)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Book {
    rules: Rules,
    ledger: Vec<Entry>,
    accounts: HashMap<AccountId, Account>,
    payments: HashMap<PaymentKey, Payment>,
    /// A case's id is its position plus one.
    cases: Vec<Case>,
    duplicates: usize,
}

impl Book {
    pub fn with(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// An account that has money already.
    pub fn open(&mut self, account: &str, balance: i64) {
        let opened = Account { balance, ..Account::unopened(Currency::parse("CNY").unwrap(), 0) };
        self.accounts.insert(AccountId::new(account).unwrap(), opened);
    }

    pub fn account(&mut self, account: &str) -> &mut Account {
        self.accounts.get_mut(&AccountId::new(account).unwrap()).unwrap()
    }

    /// What these callbacks would do now, by the rules of this book.
    pub fn decide(&self, callbacks: &[Callback]) -> Plan {
        decide(&self.load(callbacks), callbacks, &self.rules)
    }

    /// Decides and writes these callbacks as one batch, with no concurrent writer.
    pub fn take(&mut self, callbacks: &[Callback]) -> Plan {
        let plan = self.decide(callbacks);
        let lost = self.apply(callbacks, plan.clone()).unwrap();
        assert!(lost.is_empty(), "lost {lost:?} without a concurrent writer");
        plan
    }

    /// Quarantines what the broker dead-lettered.
    pub fn dead_letter(&mut self, callbacks: &[Callback]) -> Plan {
        let plan = dead_letter(&self.load(callbacks), callbacks, &self.rules);
        let lost = self.apply(callbacks, plan.clone()).unwrap();
        assert!(lost.is_empty(), "lost {lost:?} without a concurrent writer");
        plan
    }

    /// Decides all cases that no person and no callback has ended, in batches of these sizes.
    pub fn replay(&mut self, sizes: &[usize], expires: Expires) {
        self.replay_those(sizes, expires, Case::is_unended);
    }

    /// Decides all that waits, as the sweep of a worker does.
    pub fn sweep(&mut self, sizes: &[usize], expires: Expires) {
        let reason = |case: &Case| match expires {
            Expires::Nothing => true,
            Expires::Payment => case.reason == Reason::WaitingForPayment,
            Expires::Funds => case.reason == Reason::WaitingForFunds,
        };
        self.replay_those(sizes, expires, |case| case.state == CaseState::Waiting && reason(case));
    }

    fn replay_those(&mut self, sizes: &[usize], expires: Expires, which: impl Fn(&Case) -> bool) {
        let chosen: Vec<StoredCase> = self.stored(which);
        for cases in cut(&chosen, sizes) {
            let still: Vec<CaseId> =
                cases.iter().map(|case| case.id).filter(|id| self.cases[at(*id)].is_unended()).collect();
            let plan = self.decide_cases(&still, expires);
            let lost = self.apply(&[], plan).unwrap();
            assert!(lost.is_empty(), "lost {lost:?} without a concurrent writer");
        }
    }

    /// What a dry run would say of these stored cases.
    pub fn decide_cases_over(&self, ids: &[CaseId], unwritten: &mut Unwritten) -> Plan {
        let mut cases: Vec<StoredCase> = ids.iter().map(|id| self.stored_case(at(*id))).collect();
        unwritten.cover_cases(&mut cases);
        let callbacks: Vec<Callback> = cases.iter().map(|case| case.callback.clone()).collect();
        let snapshot = self.load_over(&callbacks, unwritten);
        let plan = decide_cases(&snapshot, &cases, &self.rules, Expires::Nothing);
        unwritten.take(&snapshot, &[], &cases, &plan);
        plan
    }

    /// What a dry run would say of these callbacks.
    pub fn decide_over(&self, callbacks: &[Callback], unwritten: &mut Unwritten) -> Plan {
        let snapshot = self.load_over(callbacks, unwritten);
        let plan = decide(&snapshot, callbacks, &self.rules);
        unwritten.take(&snapshot, callbacks, &[], &plan);
        plan
    }

    /// Ids of all cases that nobody has ended.
    pub fn unended(&self) -> Vec<CaseId> {
        self.stored(Case::is_unended).iter().map(|case| case.id).collect()
    }

    /// Decides these cases and writes that, as a replay does.
    pub fn replay_ids(&mut self, ids: &[CaseId]) -> Plan {
        let still: Vec<CaseId> = ids.iter().copied().filter(|id| self.cases[at(*id)].is_unended()).collect();
        let plan = self.decide_cases(&still, Expires::Nothing);
        let lost = self.apply(&[], plan.clone()).unwrap();
        assert!(lost.is_empty(), "lost {lost:?} without a concurrent writer");
        plan
    }

    /// What a sweep or a person would do to these cases now.
    pub fn decide_cases(&self, ids: &[CaseId], expires: Expires) -> Plan {
        let cases: Vec<StoredCase> = ids.iter().map(|id| self.stored_case(at(*id))).collect();
        let callbacks: Vec<Callback> = cases.iter().map(|case| case.callback.clone()).collect();
        decide_cases(&self.load(&callbacks), &cases, &self.rules, expires)
    }

    /// Ids of all that waits.
    pub fn waiting(&self) -> Vec<CaseId> {
        self.stored(|case| case.state == CaseState::Waiting).iter().map(|case| case.id).collect()
    }

    /// A person ends the case of this callback.
    pub fn discard(&mut self, draft: &Draft) {
        let case = self.cases.iter_mut().find(|case| Draft::of(&case.callback) == *draft).unwrap();
        assert!(case.is_unended());
        case.state = CaseState::Discarded;
    }

    /// What the database knows about these callbacks, as `store::load` reads it.
    pub fn load(&self, callbacks: &[Callback]) -> Snapshot {
        self.load_over(callbacks, &Unwritten::default())
    }

    /// The same for a dry run, as `store::load_over` reads it.
    pub fn load_over(&self, callbacks: &[Callback], unwritten: &Unwritten) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut accounts: BTreeSet<AccountId> = named(callbacks.iter());
        let mut found: Vec<AccountId> = Vec::new();
        for callback in callbacks.iter().filter(|callback| callback.named_account().is_none()) {
            found.extend(self.find_account(callback, &mut snapshot));
        }
        found.extend(unwritten.found_accounts(callbacks));
        accounts.extend(found.iter().cloned());
        let payments = unwritten.waiting_payments(callbacks, &found);
        let mut waiting = self.load_waiting(callbacks, &accounts, &found, payments.into_iter().collect());
        unwritten.cover_waiting(callbacks, &found, &mut waiting);
        accounts.extend(named(waiting.iter().map(|case| &case.callback)));
        let nameless = waiting.iter().filter(|case| case.callback.named_account().is_none());
        for case in nameless {
            let Some(key) = case.callback.payment_key() else { continue };
            accounts.extend(self.payments.get(&key).map(|payment| payment.account_id.clone()));
            if case.callback.kind.is_of_deposit() {
                accounts.extend(self.deposit(&key).map(|deposit| deposit.account_id));
            }
        }
        for account_id in accounts {
            match self.accounts.get(&account_id) {
                Some(account) => {
                    snapshot.accounts.insert(account_id, *account);
                }
                None => {
                    if let Some(newest) = self.newest_case_about(&account_id) {
                        snapshot.unopened_cases.insert(account_id, newest);
                    }
                }
            }
        }
        let all: Vec<&Callback> = callbacks.iter().chain(waiting.iter().map(|case| &case.callback)).collect();
        for callback in all {
            self.load_known(callback, &mut snapshot);
            if let Some(key) = callback.payment_key() {
                if callback.kind.is_of_deposit() {
                    if callback.kind.needs_payment_id()
                        && let Some(deposit) = self.deposit(&key)
                    {
                        snapshot.deposits.insert(key, deposit);
                    }
                } else if let Some(payment) = self.payments.get(&key) {
                    snapshot.payments.insert(key, payment.clone());
                }
            }
            if let Some(key) = callback.reversed_key()
                && let Some(movement) = self.movement(&key)
            {
                snapshot.movements.insert(key, movement);
            }
        }
        snapshot.waiting = waiting;
        unwritten.cover(callbacks, &mut snapshot);
        snapshot
    }

    /// The row, the case with this content, and of all cases of the key the first owners.
    fn load_known(&self, callback: &Callback, snapshot: &mut Snapshot) {
        let of_key = self.known(|known| known.key == callback.key);
        let (mut cases, mut known): (Vec<Known>, Vec<Known>) =
            of_key.into_iter().partition(|known| matches!(known, Known::Case { .. }));
        cases.sort_by_key(|case| (!case.owns_key(), case.rank()));
        let is_it = |case: &Known| matches!(case, Known::Case { fingerprint, .. } if *fingerprint == callback.fingerprint);
        let owners = cases.iter().take(OWNERS_PER_KEY_MAX);
        known.extend(owners.chain(cases.iter().skip(OWNERS_PER_KEY_MAX).filter(|case| is_it(case))));
        if !known.is_empty() {
            let of_batch = snapshot.known.entry(callback.key.clone()).or_default();
            known.retain(|known| !of_batch.contains(known));
            of_batch.append(&mut known);
        }
        if let Some(operation) = callback.operation_key() {
            let mut owners = self.known(|known| known.operation_key().as_ref() == Some(&operation));
            owners.retain(Known::owns_key);
            if let Some(owner) = owners.into_iter().min_by_key(Known::rank) {
                snapshot.operations.insert(operation, owner);
            }
        }
    }

    /// The accounts of a callback that names none: of its payment or deposit, and of movements with its operation id.
    fn find_account(&self, callback: &Callback, snapshot: &mut Snapshot) -> Vec<AccountId> {
        let mut found = Vec::new();
        if let Some(key) = callback.payment_key() {
            found.extend(self.payments.get(&key).map(|payment| payment.account_id.clone()));
            found.extend(self.deposit(&key).map(|deposit| deposit.account_id));
        }
        let Some(operation_id) = &callback.operation_id else { return found };
        for kind in Kind::ALL {
            let source = callback.key.source.clone();
            let key = OperationKey { source, kind: *kind, operation_id: operation_id.clone() };
            let own = |entry: &&Entry| entry.callback.operation_id.as_ref() == Some(operation_id);
            if let Some(movement) = self.movement_of(&key, own) {
                found.push(movement.account_id.clone());
                snapshot.movements.insert(key, movement);
            }
        }
        found
    }

    fn movement(&self, key: &OperationKey) -> Option<Movement> {
        self.movement_of(key, |_| true)
    }

    fn movement_of(&self, key: &OperationKey, which: impl Fn(&&Entry) -> bool) -> Option<Movement> {
        let is_it = |entry: &&Entry| entry.callback.operation_key().as_ref() == Some(key);
        self.ledger.iter().filter(is_it).find(which).map(|entry| Movement {
            account_id: entry.leg.account_id.clone(),
            payment_id: entry.callback.payment_id.clone(),
            amount: entry.callback.amount.minor_units(),
        })
    }

    fn deposit(&self, key: &PaymentKey) -> Option<Deposit> {
        let rows = self.ledger.iter().filter(|entry| {
            entry.callback.kind.is_of_deposit() && entry.callback.payment_key().as_ref() == Some(key)
        });
        let mut deposit: Option<Deposit> = None;
        for Entry { callback, leg, .. } in rows {
            let deposit =
                deposit.get_or_insert_with(|| Deposit::expected(leg.account_id.clone(), callback.currency));
            if deposit.account_id != leg.account_id {
                continue;
            }
            let Running { sum, total } = deposit.sum_of(callback.kind).unwrap();
            let amount = callback.amount.minor_units();
            if callback.is_cumulative && callback.kind != Kind::DepositSucceeded {
                *total = amount.max(*total);
            } else {
                *sum += amount;
            }
        }
        deposit
    }

    fn known(&self, is_it: impl Fn(&Callback) -> bool) -> Vec<Known> {
        let entries = self.ledger.iter().filter(|entry| is_it(&entry.callback));
        let cases = self.cases.iter().enumerate().filter(|(_, case)| is_it(&case.callback));
        entries
            .map(|entry| Known::Ledger(entry.callback.fingerprint))
            .chain(cases.map(|(at, case)| Known::Case {
                id: id(at),
                fingerprint: case.callback.fingerprint,
                reason: case.reason,
                state: case.state,
            }))
            .collect()
    }

    /// What waits for the payments of the batch, for money of the accounts that it may bring money to, `found` ones included, and of those
    /// that a waiting transfer brings money to; then what else waits for the payments of those.
    fn load_waiting(
        &self,
        callbacks: &[Callback],
        of_batch: &BTreeSet<AccountId>,
        found: &[AccountId],
        mut payments: BTreeSet<PaymentKey>,
    ) -> Vec<StoredCase> {
        let bring_funds = callbacks.iter().filter(|callback| callback.kind.may_bring_funds());
        let mut accounts: Vec<AccountId> = named(bring_funds).into_iter().collect();
        accounts.extend(found.iter().cloned());
        payments.extend(callbacks.iter().filter_map(Callback::payment_key));
        let mut found: BTreeSet<usize> = BTreeSet::new();
        let mut looked_at: BTreeSet<AccountId> = BTreeSet::new();
        while let Some(account_id) = accounts.pop() {
            // Only an account with cases can have one that waits.
            let has_none = self.accounts.get(&account_id).is_some_and(|account| account.cases == 0);
            if !looked_at.insert(account_id.clone()) || (has_none && of_batch.contains(&account_id)) {
                continue;
            }
            let waits =
                |case: &Case| case.state == CaseState::Waiting && case.reason == Reason::WaitingForFunds;
            let of_account = self.some(|case| waits(case) && case.account_id.as_ref() == Some(&account_id));
            let receives = self.some(|case| waits(case) && case.callback.to.as_ref() == Some(&account_id));
            found.extend(of_account.into_iter().chain(receives));
            accounts.extend(found.iter().filter_map(|at| self.cases[*at].callback.receiver().cloned()));
        }
        payments.extend(found.iter().filter_map(|at| self.cases[*at].callback.payment_key()));
        for key in payments {
            found.extend(self.some(|case| {
                case.state == CaseState::Waiting && case.callback.payment_key().as_ref() == Some(&key)
            }));
        }
        found.into_iter().map(|at| self.stored_case(at)).collect()
    }

    /// Positions of the oldest such cases.
    fn some(&self, is_it: impl Fn(&Case) -> bool) -> Vec<usize> {
        let found = self.cases.iter().enumerate().filter(|(_, case)| is_it(case)).map(|(at, _)| at);
        found.take(WAITING_PER_KEY_MAX).collect()
    }

    fn stored(&self, is_it: impl Fn(&Case) -> bool) -> Vec<StoredCase> {
        let cases = self.cases.iter().enumerate().filter(|(_, case)| is_it(case));
        cases.map(|(at, _)| self.stored_case(at)).collect()
    }

    fn stored_case(&self, at: usize) -> StoredCase {
        let case = &self.cases[at];
        StoredCase {
            id: id(at),
            reason: case.reason,
            account_id: case.account_id.clone(),
            callback: case.callback.clone(),
        }
    }

    fn newest_case_about(&self, account_id: &AccountId) -> Option<i64> {
        let newest = self.cases.iter().rposition(|case| case.account_id.as_ref() == Some(account_id))?;
        Some(id(newest).0)
    }

    fn cases_about(&self, account_id: &AccountId) -> i64 {
        let about = self.cases.iter().filter(|case| case.account_id.as_ref() == Some(account_id));
        i64::try_from(about.count()).unwrap()
    }

    /// Writes all of the plan but what concerns accounts that a concurrent writer changed, which it returns; or nothing.
    pub fn apply(&mut self, callbacks: &[Callback], mut plan: Plan) -> Result<HashSet<AccountId>, Conflict> {
        let mut after = self.clone();
        check_shape(callbacks, &plan);
        let mut lost = after.guard_openings(&plan);
        lost.extend(plan.accounts.iter().filter(|change| !after.holds(change)).map(|c| c.account_id.clone()));
        plan.close_over_transfers(&mut lost);
        let is_lost = plan.callbacks_about(&lost);
        plan.drop_accounts(&lost);
        check_sums(&plan, |id| self.cases[at(id)].account_id.as_ref());
        after.write_accounts(&plan);
        after.write_entries(&plan)?;
        after.write_payments(&plan)?;
        after.write_cases(&plan)?;
        for ((callback, outcome), is_lost) in callbacks.iter().zip(&plan.outcomes).zip(is_lost) {
            if !is_lost {
                after.check_outcome(callback, *outcome);
                after.duplicates += usize::from(matches!(outcome, Outcome::Duplicate(_)));
            }
        }
        after.check_promises();
        *self = after;
        Ok(lost)
    }

    fn guard_openings(&self, plan: &Plan) -> HashSet<AccountId> {
        let newest = |account_id: &AccountId| self.newest_case_about(account_id).unwrap_or(0);
        let unopened = plan.unopened.iter().filter(|unopened| {
            self.accounts.contains_key(&unopened.account_id) || newest(&unopened.account_id) != unopened.cases
        });
        let opened = plan
            .accounts
            .iter()
            .filter(|change| change.opens && newest(&change.account_id) != change.before.cases);
        unopened.map(|it| it.account_id.clone()).chain(opened.map(|it| it.account_id.clone())).collect()
    }

    fn holds(&self, change: &payonce_ledger::AccountChange) -> bool {
        match self.accounts.get(&change.account_id) {
            None => change.opens,
            Some(stored) => {
                let before = change.before;
                let holds = !change.opens && (stored.version, stored.cases) == (before.version, before.cases);
                assert!(!holds || *stored == before, "{}: decided on what is stored", change.account_id);
                holds
            }
        }
    }

    fn write_accounts(&mut self, plan: &Plan) {
        for change in &plan.accounts {
            let mut after = change.after;
            if change.opens {
                after.cases = self.cases_about(&change.account_id) + after.cases - change.before.cases;
            }
            self.accounts.insert(change.account_id.clone(), after);
        }
    }

    fn write_entries(&mut self, plan: &Plan) -> Result<(), Conflict> {
        for entry in &plan.entries {
            let operation = entry.callback.operation_key();
            let taken = self.ledger.iter().any(|row| {
                row.callback.key == entry.callback.key
                    || (operation.is_some() && row.callback.operation_key() == operation)
                    || row.legs().any(|one| entry.legs().any(|other| is_same_version(one, other)))
            });
            if taken {
                return Err(format!("a unique key of the ledger has {} already", entry.callback.key));
            }
            self.ledger.push(entry.clone());
        }
        Ok(())
    }

    fn write_payments(&mut self, plan: &Plan) -> Result<(), Conflict> {
        for change in &plan.payments {
            let stored = self.payments.get(&change.key).map(|payment| payment.version);
            if stored != change.expected {
                return Err(format!("payment {:?} is at {stored:?}", change.key.payment_id));
            }
            self.payments.insert(change.key.clone(), stored_payment(&change.after));
        }
        Ok(())
    }

    fn write_cases(&mut self, plan: &Plan) -> Result<(), Conflict> {
        for case in &plan.new_cases {
            if self.cases.iter().any(|stored| is_copy(&stored.callback, &case.callback)) {
                return Err(format!("{} is quarantined already", case.callback.key));
            }
            self.cases.push(Case {
                callback: case.callback.clone(),
                account_id: case.account_id.clone(),
                reason: case.reason,
                attempts: i64::from(case.attempts),
                state: state_of(case.reason),
            });
        }
        for copies in &plan.case_copies {
            self.cases[at(copies.id)].attempts += i64::from(copies.copies);
        }
        for resolved in &plan.resolved_cases {
            let case = &mut self.cases[at(resolved.id)];
            if !case.is_unended() {
                return Err(format!("{:?} has ended", resolved.id));
            }
            case.state = match &resolved.end {
                CaseEnd::Applied => CaseState::Replayed,
                CaseEnd::Duplicate(_) => CaseState::Discarded,
                CaseEnd::Open(reason, _) => {
                    if resolved.is_found {
                        if case.account_id.is_some() {
                            return Err(format!("{:?} has an account", resolved.id));
                        }
                        case.account_id.clone_from(&resolved.account_id);
                    }
                    case.reason = *reason;
                    state_of(*reason)
                }
            };
        }
        Ok(())
    }

    /// Whether what the caller will tell the broker is what the database now shows.
    #[track_caller]
    fn check_outcome(&self, callback: &Callback, outcome: Outcome) {
        let in_ledger = self.ledger.iter().any(|entry| is_copy(&entry.callback, callback));
        let in_cases = self.cases.iter().any(|case| is_copy(&case.callback, callback));
        let same_fact = |known: &Callback| {
            known.operation_key().is_some()
                && known.operation_key() == callback.operation_key()
                && known.fingerprint == callback.fingerprint
        };
        let known_fact = self.ledger.iter().any(|entry| same_fact(&entry.callback))
            || self.cases.iter().any(|case| same_fact(&case.callback));
        let is_true = match outcome {
            Outcome::Applied | Outcome::Duplicate(Layer::Ledger) => in_ledger,
            Outcome::Quarantined(_) | Outcome::Waiting(_) | Outcome::Duplicate(Layer::Quarantine) => in_cases,
            Outcome::Duplicate(Layer::Operation) => known_fact,
            Outcome::Duplicate(Layer::Batch) => in_ledger || in_cases || known_fact,
            Outcome::Duplicate(Layer::Redis) => false,
        };
        assert!(is_true, "{}: the database does not show {outcome:?}", callback.key);
    }

    /// What holds at every commit.
    #[track_caller]
    fn check_promises(&self) {
        for (account_id, account) in &self.accounts {
            assert!(0 <= account.held, "{account_id}: {account:?}");
            let legs = self.ledger.iter().flat_map(Entry::legs).filter(|leg| leg.account_id == *account_id);
            assert_eq!(i64::try_from(legs.count()).unwrap(), account.version, "{account_id}");
            assert_eq!(self.cases_about(account_id), account.cases, "{account_id}: cases");
        }
        for (key, Payment { facts, .. }) in &self.payments {
            assert!(0 <= facts.refunded() && 0 <= facts.held(), "{key:?}: {facts:?}");
            assert!(facts.refunded() <= facts.captured_ever() + facts.debited, "{key:?}: {facts:?}");
            let authorized = facts.authorizations.max(facts.adjusted_max);
            let most = authorized + authorized * i64::from(self.rules.over_capture_percent) / 100;
            assert!(facts.captured_ever() - facts.captures_failed <= most, "{key:?}: {facts:?}");
        }
        for case in &self.cases {
            let in_ledger = self.ledger.iter().any(|entry| is_copy(&entry.callback, &case.callback));
            // No account guards a case of which nobody knows whose it is: a slow worker can store it after another has applied a copy.
            // The next look at it ends it as a duplicate.
            let is_late_copy = case.callback.named_account().is_none()
                && matches!(case.state, CaseState::Waiting | CaseState::Discarded);
            assert!(
                in_ledger == (case.state == CaseState::Replayed) || (in_ledger && is_late_copy),
                "{}: ledger or quarantine",
                case.callback.key
            );
            let waits = case.state == CaseState::Waiting;
            assert!(!waits || case.reason.is_waiting(), "{}: waits for nothing", case.callback.key);
        }
    }

    /// What the payments of each account hold.
    pub fn held_by_payments(&self) -> BTreeMap<String, i128> {
        let mut held: BTreeMap<String, i128> = BTreeMap::new();
        for payment in self.payments.values() {
            *held.entry(payment.account_id.to_string()).or_default() += i128::from(payment.facts.held());
        }
        held
    }

    pub fn ledger(&self) -> &[Entry] {
        &self.ledger
    }

    pub fn view(&self) -> model::View {
        let mut view = model::View { duplicates: self.duplicates, ..model::View::default() };
        view.ledger.extend(self.ledger.iter().map(|entry| Draft::of(&entry.callback)));
        for (account_id, account) in &self.accounts {
            let account = model::Account {
                currency: account.currency.to_string(),
                balance: account.balance.into(),
                held: account.held.into(),
                version: account.version,
            };
            view.accounts.insert(account_id.to_string(), account);
        }
        for (key, payment) in &self.payments {
            let row = model::PaymentRow {
                account: payment.account_id.to_string(),
                currency: payment.currency.to_string(),
                state: payment.facts.state().as_str(),
                authorized: payment.facts.authorized().into(),
                captured: payment.facts.captured().into(),
                refunded: payment.facts.refunded().into(),
                version: payment.version,
            };
            view.payments.insert((key.source.to_string(), key.payment_id.to_string()), row);
        }
        for case in self.cases.iter().filter(|case| case.is_unended()) {
            view.add_case(Draft::of(&case.callback), case.reason, case.attempts);
        }
        view
    }
}

/// As the row gives it back: a payment of which state and sums say all is stored as these (`store::members::facts`).
fn stored_payment(after: &Payment) -> Payment {
    let facts = after.facts;
    let plain = Facts::plain(facts.state(), facts.authorized(), facts.captured(), facts.refunded());
    assert!(!facts.is_plain() || plain == facts, "{facts:?}");
    assert_ne!(facts.state(), PaymentState::Expected, "a payment that nothing is known of has no row");
    after.clone()
}

fn named<'a>(callbacks: impl Iterator<Item = &'a Callback>) -> BTreeSet<AccountId> {
    callbacks
        .flat_map(|callback| callback.named_account().into_iter().chain(callback.receiver()))
        .cloned()
        .collect()
}

fn state_of(reason: Reason) -> CaseState {
    if reason.is_waiting() { CaseState::Waiting } else { CaseState::Open }
}

fn is_same_version(one: &payonce_ledger::Leg, other: &payonce_ledger::Leg) -> bool {
    (&one.account_id, one.account_version) == (&other.account_id, other.account_version)
}

/// What no correct plan may hold, whatever the database says.
#[track_caller]
fn check_shape(callbacks: &[Callback], plan: &Plan) {
    assert_eq!(plan.outcomes.len(), callbacks.len(), "one outcome per callback");
    assert_eq!(plan.subjects.len(), callbacks.len(), "one subject per callback");
    for entry in &plan.entries {
        let is_transfer = entry.callback.kind == Kind::TransferSucceeded;
        assert_eq!(entry.second_leg.is_some(), is_transfer, "{entry:?}");
    }
    for case in &plan.new_cases {
        assert_eq!(callbacks[case.index], case.callback, "a case is about its callback");
        assert_eq!(plan.subjects[case.index], case.account_id, "{case:?}");
        let told = if case.reason.is_waiting() {
            Outcome::Waiting(case.reason)
        } else {
            Outcome::Quarantined(case.reason)
        };
        assert_eq!(plan.outcomes[case.index], told);
        assert!(case.attempts >= 1 && !case.detail.is_empty(), "{case:?}");
    }
    let mut applied: Vec<&Key> = plan.entries.iter().map(|entry| &entry.callback.key).collect();
    let told = callbacks.iter().zip(&plan.outcomes).filter(|(_, outcome)| **outcome == Outcome::Applied);
    for (callback, _) in told {
        let at = applied.iter().position(|key| **key == callback.key).expect("applied means a ledger row");
        applied.swap_remove(at);
    }
    let ended = plan.resolved_cases.iter().filter(|case| case.end == CaseEnd::Applied).count();
    assert_eq!(applied.len(), ended, "a ledger row is a callback of the batch or a case that ends");
}

/// That each account of what is written is what its rows and its cases make it.
#[track_caller]
fn check_sums<'a>(plan: &Plan, account_of_row: impl Fn(CaseId) -> Option<&'a AccountId>) {
    let mut accounts: HashMap<&AccountId, Account> = HashMap::new();
    for change in &plan.accounts {
        let is_first = accounts.insert(&change.account_id, change.before).is_none();
        assert!(is_first, "{} is changed twice", change.account_id);
        assert_eq!(change.before.currency, change.after.currency);
    }
    for entry in &plan.entries {
        for leg in entry.legs() {
            let account = accounts.get_mut(&leg.account_id).expect("a leg changes its account");
            account.version += 1;
            let before = account.available();
            account.balance = account.balance.checked_add(leg.balance_delta).expect("fits in 64 bits");
            account.held = account.held.checked_add(leg.held_delta).expect("fits in 64 bits");
            let available = account.balance.checked_sub(account.held).expect("fits in 64 bits");
            let may_owe = entry.callback.kind.may_leave_debt() || available >= before;
            assert!(0 <= account.held && (0 <= available || may_owe), "{entry:?}");
            assert_eq!(leg.account_version, account.version, "{entry:?}");
            assert_eq!((leg.balance_after, leg.held_after), (account.balance, account.held), "{entry:?}");
        }
    }
    let new = plan.new_cases.iter().filter_map(|case| case.account_id.as_ref());
    let found = plan.resolved_cases.iter().filter_map(|case| {
        let is_unended = matches!(case.end, CaseEnd::Open(..));
        case.account_id.as_ref().filter(|now| is_unended && account_of_row(case.id) != Some(now))
    });
    for account_id in new.chain(found) {
        match accounts.get_mut(account_id) {
            Some(account) => account.cases += 1,
            None => {
                let mut guarded = plan.unopened.iter().map(|unopened| &unopened.account_id);
                assert!(guarded.any(|id| id == account_id), "a case about {account_id} is not guarded");
            }
        }
    }
    for change in &plan.accounts {
        assert_eq!(accounts[&change.account_id], change.after, "{} adds up", change.account_id);
    }
    let mut payments: BTreeMap<&PaymentKey, i64> = BTreeMap::new();
    for change in &plan.payments {
        let is_first = payments.insert(&change.key, change.after.version).is_none();
        assert!(is_first, "{:?} is changed twice", change.key);
        assert!(change.after.version > change.expected.unwrap_or(0), "{change:?}");
        assert!(accounts.contains_key(&change.after.account_id), "{change:?} is not guarded by its account");
    }
}

fn is_copy(one: &Callback, other: &Callback) -> bool {
    (&one.key, one.fingerprint) == (&other.key, other.fingerprint)
}

fn id(at: usize) -> CaseId {
    CaseId(i64::try_from(at + 1).unwrap())
}

fn at(id: CaseId) -> usize {
    usize::try_from(id.0 - 1).unwrap()
}
