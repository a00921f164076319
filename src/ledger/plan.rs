//! What goes into a decision ([`Snapshot`]) and what comes out of it ([`Plan`]).

use std::collections::{HashMap, HashSet};

use super::{Account, AccountId, Callback, Fingerprint, Key, OperationKey, Payment, PaymentKey};

/// A row of `quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaseId(pub i64);

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
        /// Whether a person has discarded it, or its fact was applied under another event.
        is_discarded: bool,
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

    /// Of several owners of one second key, the lowest rank is the one that counts: the ledger, then the oldest case that a
    /// person has not discarded.
    #[must_use]
    pub fn rank(&self) -> (bool, i64) {
        match self {
            Self::Ledger(_) => (false, 0),
            Self::Case { id, is_discarded, .. } => (*is_discarded, id.0),
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
    /// Callbacks that wait for those payments, oldest first.
    pub waiting: HashMap<PaymentKey, Vec<StoredCase>>,
}

/// A callback that is stored in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCase {
    /// Its row.
    pub id: CaseId,
    /// The callback, as it was when it came.
    pub callback: Callback,
}

/// Where one callback of the batch ends, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A copy of something settled before: counted and dropped.
    Duplicate(Layer),
    /// A new case for a person.
    Quarantined(Reason),
    /// A new case that is applied by itself when the callback it needs comes.
    Waiting,
    /// A ledger row.
    Applied,
}

/// Which check turned a duplicate away, in the order they are tried (contract §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// A copy inside the same batch.
    Batch,
    /// A done marker in Redis.
    Redis,
    /// The ledger's unique key.
    Ledger,
    /// The second idempotency key.
    Operation,
    /// A copy of a quarantined callback.
    Quarantine,
}

impl Layer {
    /// Every layer, in the order they are tried.
    pub const ALL: [Self; 5] = [Self::Batch, Self::Redis, Self::Ledger, Self::Operation, Self::Quarantine];

    /// The label in metrics and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Redis => "redis",
            Self::Ledger => "ledger",
            Self::Operation => "operation",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Why a callback is quarantined (contract §3, a closed list).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not a callback of contract §2.
    Malformed,
    /// A CloudEvents `type` that payonce does not know.
    UnsupportedType,
    /// Its signature is missing or wrong.
    BadSignature,
    /// Same key as a known callback, other content.
    PayloadMismatch,
    /// The account was never opened by a deposit.
    UnknownAccount,
    /// Not the account's currency.
    CurrencyMismatch,
    /// More than is available.
    InsufficientFunds,
    /// The payment's state does not allow it.
    InvalidTransition,
    /// Captures would exceed the authorization.
    OverCapture,
    /// Refunds would exceed what was captured or debited.
    OverRefund,
    /// The balance would leave 64 bits.
    AmountOverflow,
    /// It waited longer than `waiting_max_ms`.
    WaitingExpired,
    /// The broker gave it up after `x-delivery-limit` returns.
    DeliveryLimit,
    /// It waits for its payment.
    WaitingForPayment,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Malformed,
        Self::UnsupportedType,
        Self::BadSignature,
        Self::PayloadMismatch,
        Self::UnknownAccount,
        Self::CurrencyMismatch,
        Self::InsufficientFunds,
        Self::InvalidTransition,
        Self::OverCapture,
        Self::OverRefund,
        Self::AmountOverflow,
        Self::WaitingExpired,
        Self::DeliveryLimit,
        Self::WaitingForPayment,
    ];

    /// The `quarantine.reason` column and the label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnsupportedType => "unsupported_type",
            Self::BadSignature => "bad_signature",
            Self::PayloadMismatch => "payload_mismatch",
            Self::UnknownAccount => "unknown_account",
            Self::CurrencyMismatch => "currency_mismatch",
            Self::InsufficientFunds => "insufficient_funds",
            Self::InvalidTransition => "invalid_transition",
            Self::OverCapture => "over_capture",
            Self::OverRefund => "over_refund",
            Self::AmountOverflow => "amount_overflow",
            Self::WaitingExpired => "waiting_expired",
            Self::DeliveryLimit => "delivery_limit",
            Self::WaitingForPayment => "waiting_for_payment",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Whether a case with this reason stands for its idempotency key, so that the same key with other content is a
    /// mismatch. A message that could not be decoded, or that itself contradicts the key's owner, does not.
    #[must_use]
    pub fn owns_key(self) -> bool {
        match self {
            Self::Malformed
            | Self::UnsupportedType
            | Self::BadSignature
            | Self::PayloadMismatch
            | Self::DeliveryLimit => false,
            Self::UnknownAccount
            | Self::CurrencyMismatch
            | Self::InsufficientFunds
            | Self::InvalidTransition
            | Self::OverCapture
            | Self::OverRefund
            | Self::AmountOverflow
            | Self::WaitingExpired
            | Self::WaitingForPayment => true,
        }
    }
}

/// A ledger row to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is applied.
    pub callback: Callback,
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
/// further case about it: a rival may have decided a copy of the same callback.
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
    /// Why.
    pub reason: Reason,
    /// What exactly, in words for an operator.
    pub detail: String,
    /// How often it came in this batch, at least 1.
    pub attempts: i32,
}

/// More copies of a callback that is quarantined already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseCopies {
    /// The case.
    pub id: CaseId,
    /// The account its callback is about.
    pub account_id: AccountId,
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
    /// It is not applied: it needs a person, or, with [`Reason::WaitingForPayment`], another callback.
    Open(Reason, String),
}

/// A stored case that this plan ends or changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedCase {
    /// The case.
    pub id: CaseId,
    /// The account its callback is about.
    pub account_id: AccountId,
    /// How.
    pub end: CaseEnd,
}

/// All that one batch changes, decided on one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// One per callback of the batch, in its order.
    pub outcomes: Vec<Outcome>,
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
    /// Takes out all that concerns these accounts: a rival changed them after the snapshot, so what was decided about them is
    /// void and must be decided again. The rest of the plan stands.
    pub fn drop_accounts(&mut self, lost: &HashSet<AccountId>) {
        self.entries.retain(|entry| !lost.contains(&entry.callback.account_id));
        self.accounts.retain(|change| !lost.contains(&change.account_id));
        self.payments.retain(|change| !lost.contains(&change.after.account_id));
        self.unopened.retain(|unopened| !lost.contains(&unopened.account_id));
        self.case_copies.retain(|copies| !lost.contains(&copies.account_id));
        self.new_cases.retain(|case| !lost.contains(&case.callback.account_id));
        self.resolved_cases.retain(|case| !lost.contains(&case.account_id));
    }
}
