//! An in-memory database that plays `store`: `load` gives what the store's queries give and no more, `apply` writes under the
//! same guards. What a transaction would refuse is an error; what no correct plan may hold is a panic.

use std::collections::{BTreeMap, HashMap, HashSet};

use payonce::ledger::{
    Account, AccountId, Callback, CaseEnd, CaseId, Currency, Entry, Key, Known, Layer, Outcome, Payment,
    PaymentKey, Plan, Reason, Snapshot, StoredCase, decide, decide_cases, give_up,
};

use crate::{draft::Draft, model, streams::cut};

/// A unique key or a guard that did not hold: the transaction would be rolled back.
type Conflict = String;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Replayed,
    Discarded,
}

#[derive(Debug, Clone)]
struct Case {
    callback: Callback,
    reason: Reason,
    attempts: i64,
    state: State,
}

#[derive(Debug, Clone, Default)]
pub struct Book {
    ledger: Vec<Entry>,
    accounts: HashMap<AccountId, Account>,
    payments: HashMap<PaymentKey, Payment>,
    /// A case's id is its position plus one.
    cases: Vec<Case>,
    duplicates: usize,
}

impl Book {
    /// An account that has money already.
    pub fn open(&mut self, account: &str, balance: i64) {
        let opened = Account { balance, ..Account::unopened(Currency::parse("CNY").unwrap(), 0) };
        self.accounts.insert(AccountId::new(account).unwrap(), opened);
    }

    /// Decides and writes these callbacks as one batch, with no rival about.
    pub fn take(&mut self, callbacks: &[Callback]) -> Plan {
        let plan = decide(&self.load(callbacks), callbacks);
        let lost = self.apply(callbacks, plan.clone()).unwrap();
        assert!(lost.is_empty(), "lost {lost:?} with no rival about");
        plan
    }

    /// Quarantines what the broker gave up.
    pub fn give_up(&mut self, callbacks: &[Callback]) -> Plan {
        let plan = give_up(&self.load(callbacks), callbacks);
        let lost = self.apply(callbacks, plan.clone()).unwrap();
        assert!(lost.is_empty(), "lost {lost:?} with no rival about");
        plan
    }

    /// Decides all cases that no person and no callback has ended, in batches of these sizes.
    pub fn replay(&mut self, sizes: &[usize], expires: bool) {
        let unended: Vec<StoredCase> = self.stored(|case| matches!(case.state, State::Waiting | State::Open));
        for cases in cut(&unended, sizes) {
            let still: Vec<StoredCase> = cases
                .iter()
                .filter(|case| matches!(self.cases[at(case.id)].state, State::Waiting | State::Open))
                .cloned()
                .collect();
            let callbacks: Vec<Callback> = still.iter().map(|case| case.callback.clone()).collect();
            let plan = decide_cases(&self.load(&callbacks), &still, expires);
            let lost = self.apply(&[], plan).unwrap();
            assert!(lost.is_empty(), "lost {lost:?} with no rival about");
        }
    }

    /// What the database knows about these callbacks, as `store::load` reads it.
    pub fn load(&self, callbacks: &[Callback]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for callback in callbacks {
            let account_id = &callback.account_id;
            match self.accounts.get(account_id) {
                Some(account) => {
                    snapshot.accounts.insert(account_id.clone(), *account);
                }
                None => {
                    let cases = self.cases_about(account_id);
                    if cases > 0 {
                        snapshot.unopened_cases.insert(account_id.clone(), cases);
                    }
                }
            }
            let known = self.known(|known| known.key == callback.key);
            if !known.is_empty() {
                snapshot.known.insert(callback.key.clone(), known);
            }
            if let Some(operation) = callback.operation_key() {
                let mut owners = self.known(|known| known.operation_key().as_ref() == Some(&operation));
                owners.retain(Known::owns_key);
                if let Some(owner) = owners.into_iter().min_by_key(Known::rank) {
                    snapshot.operations.insert(operation, owner);
                }
            }
            if let Some(key) = callback.payment_key() {
                if let Some(payment) = self.payments.get(&key) {
                    snapshot.payments.insert(key.clone(), payment.clone());
                }
                let waiting = self.waiting(&key);
                if !waiting.is_empty() {
                    snapshot.waiting.insert(key, waiting);
                }
            }
        }
        snapshot
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
                is_discarded: case.state == State::Discarded,
            }))
            .collect()
    }

    fn waiting(&self, key: &PaymentKey) -> Vec<StoredCase> {
        self.stored(|case| case.state == State::Waiting && case.callback.payment_key().as_ref() == Some(key))
    }

    fn stored(&self, is_it: impl Fn(&Case) -> bool) -> Vec<StoredCase> {
        let cases = self.cases.iter().enumerate().filter(|(_, case)| is_it(case));
        cases.map(|(at, case)| StoredCase { id: id(at), callback: case.callback.clone() }).collect()
    }

    fn cases_about(&self, account_id: &AccountId) -> i64 {
        let about = self.cases.iter().filter(|case| case.callback.account_id == *account_id);
        i64::try_from(about.count()).unwrap()
    }

    /// Writes all of the plan but what concerns accounts that a rival changed, which it returns; or nothing.
    pub fn apply(&mut self, callbacks: &[Callback], mut plan: Plan) -> Result<HashSet<AccountId>, Conflict> {
        let mut after = self.clone();
        check_shape(callbacks, &plan);
        after.guard_openings(&plan)?;
        let lost = after.write_accounts(&plan);
        let mut applied = plan.clone();
        applied.drop_accounts(&lost);
        std::mem::swap(&mut plan, &mut applied);
        after.write_entries(&plan)?;
        after.write_payments(&plan)?;
        after.write_cases(&plan)?;
        for (callback, outcome) in callbacks.iter().zip(&plan.outcomes) {
            if !lost.contains(&callback.account_id) {
                after.check_outcome(callback, *outcome);
                after.duplicates += usize::from(matches!(outcome, Outcome::Duplicate(_)));
            }
        }
        after.check_promises();
        *self = after;
        Ok(lost)
    }

    fn guard_openings(&self, plan: &Plan) -> Result<(), Conflict> {
        for unopened in &plan.unopened {
            if self.accounts.contains_key(&unopened.account_id) {
                return Err(format!("{} was opened by a rival", unopened.account_id));
            }
            if self.cases_about(&unopened.account_id) != unopened.cases {
                return Err(format!("a rival stored a case about {}", unopened.account_id));
            }
        }
        for change in plan.accounts.iter().filter(|change| change.opens) {
            if self.cases_about(&change.account_id) != change.before.cases {
                return Err(format!("a rival stored a case about {}", change.account_id));
            }
        }
        Ok(())
    }

    fn write_accounts(&mut self, plan: &Plan) -> HashSet<AccountId> {
        let mut lost = HashSet::new();
        for change in &plan.accounts {
            let stored = self.accounts.get(&change.account_id);
            let holds = if change.opens {
                stored.is_none()
            } else {
                stored.is_some_and(|account| {
                    (account.version, account.cases) == (change.before.version, change.before.cases)
                })
            };
            if !holds {
                lost.insert(change.account_id.clone());
                continue;
            }
            if let Some(stored) = stored {
                assert_eq!(*stored, change.before, "{}: decided on what is stored", change.account_id);
            }
            self.accounts.insert(change.account_id.clone(), change.after);
        }
        lost
    }

    fn write_entries(&mut self, plan: &Plan) -> Result<(), Conflict> {
        for entry in &plan.entries {
            let taken = self.ledger.iter().any(|row| {
                row.callback.key == entry.callback.key
                    || (&row.callback.account_id, row.account_version)
                        == (&entry.callback.account_id, entry.account_version)
                    || (entry.callback.operation_id.is_some()
                        && row.callback.operation_key() == entry.callback.operation_key())
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
            self.payments.insert(change.key.clone(), change.after.clone());
        }
        Ok(())
    }

    fn write_cases(&mut self, plan: &Plan) -> Result<(), Conflict> {
        for case in &plan.new_cases {
            let is_stored = |stored: &Case| {
                (&stored.callback.key, stored.callback.fingerprint)
                    == (&case.callback.key, case.callback.fingerprint)
            };
            if self.cases.iter().any(is_stored) {
                return Err(format!("{} is quarantined already", case.callback.key));
            }
            let is_waiting = case.reason == Reason::WaitingForPayment;
            self.cases.push(Case {
                callback: case.callback.clone(),
                reason: case.reason,
                attempts: i64::from(case.attempts),
                state: if is_waiting { State::Waiting } else { State::Open },
            });
        }
        for copies in &plan.case_copies {
            let case = &mut self.cases[at(copies.id)];
            assert_eq!(case.callback.account_id, copies.account_id);
            case.attempts += i64::from(copies.copies);
        }
        for resolved in &plan.resolved_cases {
            let case = &mut self.cases[at(resolved.id)];
            assert_eq!(case.callback.account_id, resolved.account_id);
            if !matches!(case.state, State::Waiting | State::Open) {
                return Err(format!("{:?} has ended", resolved.id));
            }
            case.state = match &resolved.end {
                CaseEnd::Applied => State::Replayed,
                CaseEnd::Duplicate(_) => State::Discarded,
                CaseEnd::Open(reason, _) => {
                    case.reason = *reason;
                    if *reason == Reason::WaitingForPayment { State::Waiting } else { State::Open }
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
            Outcome::Quarantined(_) | Outcome::Waiting | Outcome::Duplicate(Layer::Quarantine) => in_cases,
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
            assert!(0 <= account.held && account.held <= account.balance, "{account_id}: {account:?}");
            let entries = self.ledger.iter().filter(|entry| entry.callback.account_id == *account_id);
            assert_eq!(i64::try_from(entries.count()).unwrap(), account.version, "{account_id}");
            assert_eq!(self.cases_about(account_id), account.cases, "{account_id}: cases");
        }
        for (key, payment) in &self.payments {
            assert!(0 <= payment.refunded && payment.refunded <= payment.captured, "{key:?}: {payment:?}");
            assert!(
                payment.authorized == 0 || payment.captured <= payment.authorized,
                "{key:?}: {payment:?}"
            );
        }
        for case in &self.cases {
            let in_ledger = self.ledger.iter().any(|entry| is_copy(&entry.callback, &case.callback));
            assert_eq!(
                in_ledger,
                case.state == State::Replayed,
                "{}: ledger or quarantine",
                case.callback.key
            );
            let is_waiting = case.reason == Reason::WaitingForPayment;
            assert!(is_waiting || case.state != State::Waiting, "{}: waits for nothing", case.callback.key);
        }
    }

    pub fn ledger(&self) -> &[Entry] {
        &self.ledger
    }

    pub fn view(&self) -> model::View {
        let mut view = model::View { duplicates: self.duplicates, ..model::View::default() };
        for entry in &self.ledger {
            let row = model::Row {
                callback: Draft::of(&entry.callback),
                balance_delta: entry.balance_delta.into(),
                held_delta: entry.held_delta.into(),
                balance_after: entry.balance_after.into(),
                held_after: entry.held_after.into(),
            };
            view.ledger.insert((entry.callback.account_id.to_string(), entry.account_version), row);
        }
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
                state: payment.state.as_str(),
                authorized: payment.authorized.into(),
                captured: payment.captured.into(),
                refunded: payment.refunded.into(),
                version: payment.version,
            };
            view.payments.insert((key.source.to_string(), key.payment_id.to_string()), row);
        }
        for case in &self.cases {
            if matches!(case.state, State::Waiting | State::Open) {
                view.add_case(Draft::of(&case.callback), case.reason, case.attempts);
            }
        }
        view
    }
}

/// What no correct plan may hold, whatever the database says.
#[track_caller]
fn check_shape(callbacks: &[Callback], plan: &Plan) {
    assert_eq!(plan.outcomes.len(), callbacks.len(), "one outcome per callback");
    let mut accounts: HashMap<&AccountId, Account> = HashMap::new();
    for change in &plan.accounts {
        let is_first = accounts.insert(&change.account_id, change.before).is_none();
        assert!(is_first, "{} is changed twice", change.account_id);
        assert_eq!(change.before.currency, change.after.currency);
    }
    for entry in &plan.entries {
        let account = accounts.get_mut(&entry.callback.account_id).expect("an entry changes its account");
        account.version += 1;
        account.balance = account.balance.checked_add(entry.balance_delta).expect("fits in 64 bits");
        account.held = account.held.checked_add(entry.held_delta).expect("fits in 64 bits");
        assert!(0 <= account.held && account.held <= account.balance, "{entry:?}");
        assert_eq!(entry.account_version, account.version, "{entry:?}");
        assert_eq!((entry.balance_after, entry.held_after), (account.balance, account.held), "{entry:?}");
    }
    for case in &plan.new_cases {
        assert_eq!(callbacks[case.index], case.callback, "a case is about its callback");
        let told = if case.reason == Reason::WaitingForPayment {
            Outcome::Waiting
        } else {
            Outcome::Quarantined(case.reason)
        };
        assert_eq!(plan.outcomes[case.index], told);
        assert!(case.attempts >= 1 && !case.detail.is_empty(), "{case:?}");
        match accounts.get_mut(&case.callback.account_id) {
            Some(account) => account.cases += 1,
            None => {
                let mut guarded = plan.unopened.iter().map(|unopened| &unopened.account_id);
                assert!(guarded.any(|id| *id == case.callback.account_id), "{case:?} is not guarded");
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
    let mut applied: Vec<&Key> = plan.entries.iter().map(|entry| &entry.callback.key).collect();
    let told = callbacks.iter().zip(&plan.outcomes).filter(|(_, outcome)| **outcome == Outcome::Applied);
    for (callback, _) in told {
        let at = applied.iter().position(|key| **key == callback.key).expect("applied means a ledger row");
        applied.swap_remove(at);
    }
    let ended = plan.resolved_cases.iter().filter(|case| case.end == CaseEnd::Applied).count();
    assert_eq!(applied.len(), ended, "a ledger row is a callback of the batch or a case that ends");
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
