//! What goes into a decision ([`Snapshot`]) and what comes out of it ([`Plan`]).

use std::collections::{HashMap, HashSet};

use super::{
    Account, AccountId, Callback, CaseState, Deposit, Fingerprint, Key, Layer, OperationKey, Payment,
    PaymentId, PaymentKey, Reason,
};

/// A row of `quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaseId(pub i64);

/// The rules that a team may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Captures may exceed what was ever authorized by so many percent of it (tips).
    pub over_capture_percent: u32,
    /// Whether what lacks money, an account, or room within its payment's sums waits for it; else it is a case at once.
    pub waits_for_funds: bool,
    /// Whether a deposit opens an unknown account; else only a command does.
    pub deposit_opens: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { over_capture_percent: 0, waits_for_funds: true, deposit_opens: true }
    }
}

/// What the database already holds under an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is applied, with this content.
    Ledger(Fingerprint),
    /// It is quarantined, with this content. One key can have several cases, one per content.
    Case {
        /// The case.
        id: CaseId,
        /// The content of the quarantined callback.
        fingerprint: Fingerprint,
        /// Why it is there.
        reason: Reason,
        /// Where it stands.
        state: CaseState,
    },
}

impl Known {
    /// Whether the same key with other content is a mismatch.
    #[must_use]
    pub fn owns_key(&self) -> bool {
        match self {
            Self::Ledger(_) => true,
            Self::Case { reason, .. } => reason.owns_key(),
        }
    }

    /// The case, where it is open and has this callback's content.
    #[must_use]
    pub fn open_case_of(&self, callback: &Callback) -> Option<CaseId> {
        match self {
            Self::Case { id, fingerprint, state: CaseState::Open, .. }
                if *fingerprint == callback.fingerprint =>
            {
                Some(*id)
            }
            Self::Case { .. } | Self::Ledger(_) => None,
        }
    }

    /// Of several owners of one second key, the lowest rank is the one that counts: the ledger, then the oldest case that a
    /// person has not discarded.
    #[must_use]
    pub fn rank(&self) -> (bool, i64) {
        match self {
            Self::Ledger(_) => (false, 0),
            Self::Case { id, state, .. } => (*state == CaseState::Discarded, id.0),
        }
    }
}

/// What the database knew when the batch was loaded. Reads may be slightly apart in time: the version guards and unique keys
/// that the plan is applied under catch whatever changed in between.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Keys of the batch that were seen before.
    pub known: HashMap<Key, Vec<Known>>,
    /// Second keys of the batch that were seen before, in the ledger or in a case.
    pub operations: HashMap<OperationKey, Known>,
    /// Accounts of the batch that are open.
    pub accounts: HashMap<AccountId, Account>,
    /// The newest case about an account of the batch that is not open, where there is one.
    pub unopened_cases: HashMap<AccountId, i64>,
    /// Payments of the batch that have a row.
    pub payments: HashMap<PaymentKey, Payment>,
    /// Deposits that callbacks of the batch take back, or give back again.
    pub deposits: HashMap<PaymentKey, Deposit>,
    /// Movements that callbacks of the batch take back, or by which a callback without a subject finds its account.
    pub movements: HashMap<OperationKey, Movement>,
    /// Callbacks that wait for those payments or for money of those accounts, oldest first; of each no more than a batch can bear.
    pub waiting: Vec<StoredCase>,
    /// Open cases that a person has assigned to another account, and of whose callbacks the batch has copies.
    pub assigned: Vec<StoredCase>,
}

impl Snapshot {
    /// The callback of a case as a person has assigned it; `None`: nobody has.
    #[must_use]
    pub fn assigned(&self, id: CaseId) -> Option<&Callback> {
        self.assigned.iter().find(|case| case.id == id).map(|case| &case.callback)
    }
}

/// A ledger row that another callback names by its operation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The account.
    pub account_id: AccountId,
    /// The payment.
    pub payment_id: Option<PaymentId>,
    /// What the callback said, minor units.
    pub amount: i64,
}

/// A callback that is stored in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCase {
    /// Its row.
    pub id: CaseId,
    /// Why it is there.
    pub reason: Reason,
    /// The account that its row is about, where that was known when it was written.
    pub account_id: Option<AccountId>,
    /// The callback, as it was when it came; or with the account that a person has assigned.
    pub callback: Callback,
}

/// Where one callback of the batch ends, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A copy of something settled before: counted and dropped.
    Duplicate(Layer),
    /// A new case for a person.
    Quarantined(Reason),
    /// A new case that is applied by itself when what it lacks comes: [`Reason::WaitingForPayment`] or
    /// [`Reason::WaitingForFunds`].
    Waiting(Reason),
    /// A ledger row.
    Applied,
}

/// What one callback does to one account: a ledger row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The account.
    pub account_id: AccountId,
    /// The account's version after this row.
    pub account_version: i64,
    /// Change of the balance, minor units.
    pub balance_delta: i64,
    /// Change of what is held, minor units.
    pub held_delta: i64,
    /// The balance after this row.
    pub balance_after: i64,
    /// What is held after this row.
    pub held_after: i64,
}

/// A callback to apply, with its legs: one, or two for a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is applied.
    pub callback: Callback,
    /// Leg 0.
    pub leg: Leg,
    /// Leg 1: what a transfer brings to the account that receives.
    pub second_leg: Option<Leg>,
}

impl Entry {
    /// Leg 0, and leg 1 where there is one.
    pub fn legs(&self) -> impl Iterator<Item = &Leg> {
        std::iter::once(&self.leg).chain(&self.second_leg)
    }
}

/// An account to open or to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// Which.
    pub account_id: AccountId,
    /// Whether this opens it.
    pub opens: bool,
    /// What the change was decided on. It stands only while version and number of cases are still these.
    pub before: Account,
    /// What it becomes.
    pub after: Account,
}

/// An account that a new case is about and that is not open. The plan stands only while it is not, and while there is no
/// further case about it: a concurrent writer may have decided a copy of the same callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unopened {
    /// Which.
    pub account_id: AccountId,
    /// The newest case about it when this was decided; 0: none.
    pub cases: i64,
}

/// A payment to insert or to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentChange {
    /// Which.
    pub key: PaymentKey,
    /// The version the change was decided on; `None` inserts it.
    pub expected: Option<i64>,
    /// What it becomes.
    pub after: Payment,
}

/// A callback to quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCase {
    /// Its index in the batch; the caller has the body.
    pub index: usize,
    /// The callback.
    pub callback: Callback,
    /// The account it is about, where that is known.
    pub account_id: Option<AccountId>,
    /// Why.
    pub reason: Reason,
    /// The detail, in words for an operator.
    pub detail: String,
    /// How often it came in this batch, at least 1.
    pub attempts: i32,
}

/// More copies of a callback that is quarantined already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseCopies {
    /// The case.
    pub id: CaseId,
    /// The account its callback is about, where that is known.
    pub account_id: Option<AccountId>,
    /// How many more, at least 1.
    pub copies: i32,
}

/// What becomes of a stored case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseEnd {
    /// Its ledger row is in this plan.
    Applied,
    /// The same fact was applied under another event; nothing is left to do.
    Duplicate(String),
    /// It is not applied: it needs a person or, with a reason that waits, something that may still come.
    Open(Reason, String),
}

/// A stored case that this plan ends or changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedCase {
    /// The case.
    pub id: CaseId,
    /// The account its callback is about, where that is known.
    pub account_id: Option<AccountId>,
    /// Whether the case was of no account before, and is of this one from here on, because it has not ended: what waits for money is found by
    /// it. Once known, a case's account is changed by people only.
    pub is_found: bool,
    /// How.
    pub end: CaseEnd,
}

/// All that one batch changes, decided on one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// One per callback of the batch, in its order.
    pub outcomes: Vec<Outcome>,
    /// The account that each callback of the batch is about, where that is known.
    pub subjects: Vec<Option<AccountId>>,
    /// Ledger rows, in the order of each account's versions.
    pub entries: Vec<Entry>,
    /// At most one per account; one whose only change is a new case included.
    pub accounts: Vec<AccountChange>,
    /// Accounts that new cases are about and that are not open.
    pub unopened: Vec<Unopened>,
    /// At most one per payment.
    pub payments: Vec<PaymentChange>,
    /// New cases, waiting ones included.
    pub new_cases: Vec<NewCase>,
    /// Copies of stored cases.
    pub case_copies: Vec<CaseCopies>,
    /// Stored cases that end or change here, by id.
    pub resolved_cases: Vec<ResolvedCase>,
}

impl Plan {
    /// Takes out all that concerns these accounts: a concurrent writer changed them after the snapshot, so what was decided about
    /// them is void and must be decided again. The rest of the plan stands.
    pub fn drop_accounts(&mut self, lost: &HashSet<AccountId>) {
        if lost.is_empty() {
            return;
        }
        let is_lost =
            |account_id: &Option<AccountId>| account_id.as_ref().is_some_and(|id| lost.contains(id));
        self.entries.retain(|entry| !entry.legs().any(|leg| lost.contains(&leg.account_id)));
        self.accounts.retain(|change| !lost.contains(&change.account_id));
        self.payments.retain(|change| !lost.contains(&change.after.account_id));
        self.unopened.retain(|unopened| !lost.contains(&unopened.account_id));
        self.case_copies.retain(|copies| !is_lost(&copies.account_id));
        self.new_cases.retain(|case| !is_lost(&case.account_id));
        self.resolved_cases.retain(|case| !is_lost(&case.account_id));
    }

    /// Whether an entry ties two accounts together.
    #[must_use]
    pub fn has_transfers(&self) -> bool {
        self.entries.iter().any(|entry| entry.second_leg.is_some())
    }

    /// Adds the accounts that are tied to lost ones by transfers: rows of theirs that come after a dropped one would not follow it.
    pub fn close_over_transfers(&self, lost: &mut HashSet<AccountId>) {
        let tied: Vec<(&AccountId, &AccountId)> = self
            .entries
            .iter()
            .filter_map(|entry| Some((&entry.leg.account_id, &entry.second_leg.as_ref()?.account_id)))
            .collect();
        loop {
            let before = lost.len();
            for (one, other) in &tied {
                if lost.contains(*one) || lost.contains(*other) {
                    lost.insert((*one).clone());
                    lost.insert((*other).clone());
                }
            }
            if lost.len() == before {
                return;
            }
        }
    }

    /// Of the callbacks of the batch, in its order, those that are about one of these accounts.
    #[must_use]
    pub fn callbacks_about(&self, accounts: &HashSet<AccountId>) -> Vec<bool> {
        let is_one = |subject: &Option<AccountId>| subject.as_ref().is_some_and(|id| accounts.contains(id));
        self.subjects.iter().map(is_one).collect()
    }
}
