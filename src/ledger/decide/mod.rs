//! The whole business rule: a snapshot and a batch of callbacks in, a plan out.

mod known;
mod waiting;

use std::collections::{BTreeMap, HashMap, hash_map};

use super::{
    Account, AccountChange, AccountId, Callback, CaseCopies, CaseId, Entry, Fingerprint, Key, Kind, Layer,
    NewCase, OperationKey, Outcome, Payment, PaymentChange, PaymentKey, Plan, Reason, Refusal, ResolvedCase,
    Snapshot, StoredCase, Unopened, payment::Step,
};

/// Decides a batch, callback by callback, in its order. Deciding never fails: every callback gets exactly one [`Outcome`].
///
/// Pure: equal arguments give equal plans, and any way of cutting a stream of callbacks into batches gives the same ledger.
#[must_use]
pub fn decide(snapshot: &Snapshot, callbacks: &[Callback]) -> Plan {
    let mut book = Book::new(snapshot, callbacks);
    for (index, callback) in callbacks.iter().enumerate() {
        book.take(index, callback, Book::judge);
    }
    book.into_plan()
}

/// Quarantines what the broker gave up, unless it is known already: it may have been settled by the last of its deliveries.
#[must_use]
pub fn give_up(snapshot: &Snapshot, callbacks: &[Callback]) -> Plan {
    let mut book = Book::new(snapshot, callbacks);
    for (index, callback) in callbacks.iter().enumerate() {
        book.take(index, callback, |_, _| {
            let detail = "returned to the queue as often as x-delivery-limit allows";
            Verdict::Case(Reason::DeliveryLimit, detail.to_owned())
        });
    }
    book.into_plan()
}

/// Decides stored cases again, in their order, against what the database knows now. One that `expires` does not go on waiting.
#[must_use]
pub fn decide_cases(snapshot: &Snapshot, cases: &[StoredCase], expires: bool) -> Plan {
    let mut book = Book::new(snapshot, &[]);
    for case in cases {
        book.replay(case, expires);
    }
    book.into_plan()
}

/// Where the decision about one callback stands; a waiting one can still change while the batch goes on.
#[derive(Debug, Clone)]
enum Verdict {
    Duplicate(Layer),
    CopyOfCase(CaseId),
    Case(Reason, String),
    Applied,
}

/// A callback that waits for a payment: stored by an earlier batch, or of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiter {
    Stored(CaseId),
    InBatch(usize),
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
struct Book<'a> {
    snapshot: &'a Snapshot,
    callbacks: &'a [Callback],
    verdicts: Vec<Verdict>,
    /// First copy of each content seen in this batch, by key.
    seen: HashMap<&'a Key, Vec<usize>>,
    /// Second keys that this batch uses: (content, whether it is applied).
    operations: HashMap<OperationKey, (Fingerprint, bool)>,
    copies_in_batch: HashMap<usize, i32>,
    accounts: HashMap<AccountId, AccountWork>,
    payments: HashMap<PaymentKey, PaymentWork>,
    waiting: HashMap<PaymentKey, Vec<(Waiter, &'a Callback)>>,
    entries: Vec<Entry>,
    resolved: BTreeMap<CaseId, ResolvedCase>,
}

impl<'a> Book<'a> {
    fn new(snapshot: &'a Snapshot, callbacks: &'a [Callback]) -> Self {
        let waiting = snapshot
            .waiting
            .iter()
            .map(|(key, cases)| {
                (key.clone(), cases.iter().map(|case| (Waiter::Stored(case.id), &case.callback)).collect())
            })
            .collect();
        Self {
            snapshot,
            callbacks,
            verdicts: Vec::with_capacity(callbacks.len()),
            seen: HashMap::with_capacity(callbacks.len()),
            operations: HashMap::new(),
            copies_in_batch: HashMap::new(),
            accounts: HashMap::new(),
            payments: HashMap::new(),
            waiting,
            entries: Vec::with_capacity(callbacks.len()),
            resolved: BTreeMap::new(),
        }
    }

    fn take(
        &mut self,
        index: usize,
        callback: &'a Callback,
        judge: impl FnOnce(&mut Self, &Callback) -> Verdict,
    ) {
        let verdict = self.known(index, callback).unwrap_or_else(|| judge(self, callback));
        self.verdicts.push(verdict.clone());
        match (verdict, callback.payment_key()) {
            (Verdict::Applied, Some(key)) => self.wake(&key),
            (Verdict::Case(Reason::WaitingForPayment, _), Some(key)) => {
                self.waiting.entry(key).or_default().push((Waiter::InBatch(index), callback));
            }
            (Verdict::Applied | Verdict::Case(..) | Verdict::CopyOfCase(_) | Verdict::Duplicate(_), _) => {}
        }
    }

    /// What a new callback does to its account and payment.
    fn judge(&mut self, callback: &Callback) -> Verdict {
        let verdict = self.post(callback);
        if let Some(key) = callback.operation_key() {
            match &verdict {
                Verdict::Applied => {
                    self.operations.insert(key, (callback.fingerprint, true));
                }
                Verdict::Case(reason, _) if reason.owns_key() => {
                    self.operations.entry(key).or_insert((callback.fingerprint, false));
                }
                Verdict::Case(..) | Verdict::CopyOfCase(_) | Verdict::Duplicate(_) => {}
            }
        }
        verdict
    }

    fn post(&mut self, callback: &Callback) -> Verdict {
        let Some(account) = self.account(callback) else {
            return Verdict::Case(
                Reason::UnknownAccount,
                format!("no deposit has opened the account, {} cannot", callback.kind.as_str()),
            );
        };
        if account.currency != callback.currency {
            return Verdict::Case(
                Reason::CurrencyMismatch,
                format!("the account is in {}, the callback in {}", account.currency, callback.currency),
            );
        }
        let payment_key = callback.payment_key();
        let step = match &payment_key {
            None => deposit(callback),
            Some(key) => {
                let payment = self.payment(key, callback);
                if let Some(verdict) = of_another_account(&payment, callback) {
                    return verdict;
                }
                payment.step(callback)
            }
        };
        match step {
            Step::Refuse(reason, detail) => Verdict::Case(reason, detail),
            Step::Wait => Verdict::Case(
                Reason::WaitingForPayment,
                format!("{} needs a payment that has not come", callback.kind.as_str()),
            ),
            Step::Post { after, balance_delta, held_delta } => {
                match account.post(balance_delta, held_delta) {
                    Err(Refusal::Overflow) => Verdict::Case(
                        Reason::AmountOverflow,
                        format!("balance {}, this change {balance_delta}", account.balance),
                    ),
                    Err(Refusal::Insufficient { available }) => Verdict::Case(
                        Reason::InsufficientFunds,
                        format!("available {available}, needed {}", callback.amount.minor_units()),
                    ),
                    Ok(account) => {
                        self.put_account(callback, account);
                        if let Some(key) = payment_key {
                            self.put_payment(key, after);
                        }
                        self.entries.push(Entry {
                            callback: callback.clone(),
                            account_version: account.version,
                            balance_delta,
                            held_delta,
                            balance_after: account.balance,
                            held_after: account.held,
                        });
                        Verdict::Applied
                    }
                }
            }
        }
    }

    fn account(&self, callback: &Callback) -> Option<Account> {
        if let Some(work) = self.accounts.get(&callback.account_id) {
            return Some(work.now);
        }
        let open = self.snapshot.accounts.get(&callback.account_id).copied();
        match callback.kind {
            Kind::DepositSucceeded => Some(open.unwrap_or_else(|| self.unopened(callback))),
            Kind::PaymentAuthorized
            | Kind::PaymentCaptured
            | Kind::PaymentVoided
            | Kind::PaymentSucceeded
            | Kind::PaymentFailed
            | Kind::RefundSucceeded => open,
        }
    }

    fn unopened(&self, deposit: &Callback) -> Account {
        Account::unopened(deposit.currency, self.unopened_cases(&deposit.account_id))
    }

    fn unopened_cases(&self, account_id: &AccountId) -> i64 {
        self.snapshot.unopened_cases.get(account_id).copied().unwrap_or(0)
    }

    fn put_account(&mut self, callback: &Callback, now: Account) {
        let before = self.snapshot.accounts.get(&callback.account_id).copied();
        let opens = before.is_none();
        let before = before.unwrap_or_else(|| self.unopened(callback));
        let work = AccountWork { opens, before, now };
        self.accounts.entry(callback.account_id.clone()).and_modify(|work| work.now = now).or_insert(work);
    }

    fn payment(&self, key: &PaymentKey, callback: &Callback) -> Payment {
        self.payments
            .get(key)
            .map(|work| &work.now)
            .or_else(|| self.snapshot.payments.get(key))
            .cloned()
            .unwrap_or_else(|| Payment::expected(callback.account_id.clone(), callback.currency))
    }

    fn put_payment(&mut self, key: PaymentKey, after: Payment) {
        let now = Payment { version: after.version.saturating_add(1), ..after };
        match self.payments.entry(key) {
            hash_map::Entry::Occupied(mut entry) => entry.get_mut().now = now,
            hash_map::Entry::Vacant(entry) => {
                let expected = self.snapshot.payments.get(entry.key()).map(|payment| payment.version);
                entry.insert(PaymentWork { expected, now });
            }
        }
    }

    fn into_plan(mut self) -> Plan {
        let mut plan = Plan::default();
        let verdicts = std::mem::take(&mut self.verdicts);
        for (index, (verdict, callback)) in verdicts.into_iter().zip(self.callbacks).enumerate() {
            // How often this content came in this batch.
            let copies = self.copies_in_batch.get(&index).copied().unwrap_or(0).saturating_add(1);
            plan.outcomes.push(match verdict {
                Verdict::Applied => Outcome::Applied,
                Verdict::Duplicate(layer) => Outcome::Duplicate(layer),
                Verdict::CopyOfCase(id) => {
                    plan.case_copies.push(CaseCopies { id, account_id: callback.account_id.clone(), copies });
                    Outcome::Duplicate(Layer::Quarantine)
                }
                Verdict::Case(reason, detail) => {
                    self.count_case(callback, &mut plan.unopened);
                    plan.new_cases.push(NewCase {
                        index,
                        callback: callback.clone(),
                        reason,
                        detail,
                        attempts: copies,
                    });
                    if reason == Reason::WaitingForPayment {
                        Outcome::Waiting
                    } else {
                        Outcome::Quarantined(reason)
                    }
                }
            });
        }
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
        // Maps have no order; sorted, equal arguments give equal plans, and rivals lock rows in one order.
        plan.accounts.sort_by(|a, b| a.account_id.cmp(&b.account_id));
        plan.payments.sort_by(|a, b| a.key.cmp(&b.key));
        plan.case_copies.sort_by_key(|copies| copies.id);
        plan.unopened.sort_by(|a, b| a.account_id.cmp(&b.account_id));
        plan.unopened.dedup();
        plan
    }

    /// A new case changes its account too, so that a rival who decides a copy of the same callback at this moment loses its
    /// guard and looks again, instead of applying what is quarantined here.
    fn count_case(&mut self, callback: &Callback, unopened: &mut Vec<Unopened>) {
        let open = self.snapshot.accounts.get(&callback.account_id).copied();
        let work = match self.accounts.entry(callback.account_id.clone()) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => match open {
                Some(account) => entry.insert(AccountWork { opens: false, before: account, now: account }),
                None => {
                    let account_id = callback.account_id.clone();
                    return unopened.push(Unopened { cases: self.unopened_cases(&account_id), account_id });
                }
            },
        };
        work.now.cases = work.now.cases.saturating_add(1);
    }
}

fn of_another_account(payment: &Payment, callback: &Callback) -> Option<Verdict> {
    (payment.account_id != callback.account_id).then(|| {
        Verdict::Case(
            Reason::InvalidTransition,
            format!("the payment belongs to account {}", payment.account_id),
        )
    })
}

fn deposit(callback: &Callback) -> Step {
    // A deposit belongs to no payment; the placeholder is never stored.
    Payment::expected(callback.account_id.clone(), callback.currency).step(callback)
}

fn mismatch(key: &str, seen: Fingerprint, found: Fingerprint) -> Verdict {
    Verdict::Case(
        Reason::PayloadMismatch,
        format!(
            "same {key} as a known callback, other content: stored payload_sha256 {seen}, this one {found}"
        ),
    )
}
