//! The closed lists of contract §3: why a callback is quarantined, where its case stands, which check rejected a duplicate.

/// Where a case stands (`quarantine.state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CaseState {
    /// It is applied by itself when what it lacks comes.
    Waiting,
    /// It needs a person.
    Open,
    /// It was applied after all.
    Replayed,
    /// A person has ended it, or its fact was applied under another event.
    Discarded,
}

impl CaseState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Open, Self::Replayed, Self::Discarded];

    /// The `quarantine.state` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Which check rejected a duplicate, in the order they are tried (contract §3).
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

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)*) => {
        /// Why a callback is quarantined (contract §3, a closed list).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// The `quarantine.reason` column and the label in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// Not a callback of contract §2.
    Malformed = "malformed",
    /// A CloudEvents `type` that payonce does not know.
    UnsupportedType = "unsupported_type",
    /// Its signature is missing or wrong.
    BadSignature = "bad_signature",
    /// Same key as a known callback, other content.
    PayloadMismatch = "payload_mismatch",
    /// The account was never opened.
    UnknownAccount = "unknown_account",
    /// Not the account's currency.
    CurrencyMismatch = "currency_mismatch",
    /// More than is available.
    InsufficientFunds = "insufficient_funds",
    /// What is known of its payment, or the account's status, does not allow it.
    InvalidTransition = "invalid_transition",
    /// Captures would exceed the authorization.
    OverCapture = "over_capture",
    /// Refunds would exceed what was captured, debited or deposited.
    OverRefund = "over_refund",
    /// A sum would leave 64 bits.
    AmountOverflow = "amount_overflow",
    /// It waited longer than `waiting_max_ms` for a callback.
    WaitingExpired = "waiting_expired",
    /// The broker gave it up after `x-delivery-limit` returns.
    DeliveryLimit = "delivery_limit",
    /// The ingress could not make a callback of it.
    Unmapped = "unmapped",
    /// It waits for a callback that it needs.
    WaitingForPayment = "waiting_for_payment",
    /// It waits for money, for an account, or for room within its payment's sums.
    WaitingForFunds = "waiting_for_funds",
}

impl Reason {
    /// The reason of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
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
            | Self::DeliveryLimit
            | Self::Unmapped => false,
            Self::UnknownAccount
            | Self::CurrencyMismatch
            | Self::InsufficientFunds
            | Self::InvalidTransition
            | Self::OverCapture
            | Self::OverRefund
            | Self::AmountOverflow
            | Self::WaitingExpired
            | Self::WaitingForPayment
            | Self::WaitingForFunds => true,
        }
    }

    /// Their names, for a person who has to choose one.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a case with this reason waits by itself.
    #[must_use]
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::WaitingForPayment | Self::WaitingForFunds)
    }
}
