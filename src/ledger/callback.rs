//! A payment callback that has been checked: identifiers, amount, and the fingerprint by which two copies are known to agree.
//!
//! Everything here is parsed once, at the edge (`wire`), and trusted from then on.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use super::Currency;

/// Longest identifier, in bytes of UTF-8 (contract §2). Keeps index rows well under PostgreSQL's 2 704-byte limit for B-trees.
pub const TEXT_BYTES_MAX: usize = 200;

/// Why a text cannot be an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextError {
    /// The text has no characters.
    Empty,
    /// The text is longer than [`TEXT_BYTES_MAX`] bytes.
    TooLong {
        /// Length found, in bytes.
        bytes: usize,
    },
    /// The text holds a control character (Unicode category Cc), which could forge log lines or break terminals.
    ControlCharacter,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty, expected 1 to {TEXT_BYTES_MAX} bytes"),
            Self::TooLong { bytes } => write!(f, "has {bytes} bytes, expected 1 to {TEXT_BYTES_MAX}"),
            Self::ControlCharacter => write!(f, "holds a control character"),
        }
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 200 bytes of UTF-8 without control characters. Cloning shares the text.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// [`TextError`] where the text is empty, too long, or holds a control character.
            pub fn new(text: &str) -> Result<Self, TextError> {
                if text.is_empty() {
                    return Err(TextError::Empty);
                }
                if text.len() > TEXT_BYTES_MAX {
                    return Err(TextError::TooLong { bytes: text.len() });
                }
                if text.chars().any(char::is_control) {
                    return Err(TextError::ControlCharacter);
                }
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// The provider a callback comes from (CloudEvents `source`).
    Source
}
identifier! {
    /// The provider's id of one event (CloudEvents `id`).
    EventId
}
identifier! {
    /// The account whose balance a callback changes (CloudEvents `subject`).
    AccountId
}
identifier! {
    /// The provider's id of a payment; holds, captures and refunds of one payment share it.
    PaymentId
}
identifier! {
    /// The provider's id of one money movement: a charge, capture, refund or transfer.
    OperationId
}

/// The idempotency key: CloudEvents 1.0 says that events with equal `source` and `id` are the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The provider.
    pub source: Source,
    /// The provider's id of the event.
    pub event_id: EventId,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.source, self.event_id)
    }
}

/// The second idempotency key: providers can send two different events for one fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationKey {
    /// The provider.
    pub source: Source,
    /// The kind of event; a charge and its refund may share an id with some providers.
    pub kind: Kind,
    /// The provider's id of the money movement.
    pub operation_id: OperationId,
}

/// A payment's identity. Payment ids are the provider's own, so two providers may use the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PaymentKey {
    /// The provider.
    pub source: Source,
    /// The provider's id of the payment.
    pub payment_id: PaymentId,
}

/// An amount of money in minor units (cents, fen; the ISO 4217 exponent of its currency): 1 to [`Amount::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    /// 2⁵³ − 1, the largest integer that every JSON implementation carries exactly (RFC 8259 §6).
    pub const MAX: i64 = 9_007_199_254_740_991;

    /// `None` where `minor_units` is outside 1 to [`Amount::MAX`].
    #[must_use]
    pub fn new(minor_units: i64) -> Option<Self> {
        (1..=Self::MAX).contains(&minor_units).then_some(Self(minor_units))
    }

    /// Minor units, always positive.
    #[must_use]
    pub fn minor_units(self) -> i64 {
        self.0
    }
}

/// What a callback reports (CloudEvents `type`). The list is closed: any other type is quarantined as unsupported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `deposit.succeeded`: money comes in; opens an unknown account.
    DepositSucceeded,
    /// `payment.authorized`: a hold on available money.
    PaymentAuthorized,
    /// `payment.captured`: takes held money, wholly or in part.
    PaymentCaptured,
    /// `payment.voided`: releases what is not captured.
    PaymentVoided,
    /// `payment.succeeded`: a direct debit.
    PaymentSucceeded,
    /// `payment.failed`: closes the payment; no money moves.
    PaymentFailed,
    /// `refund.succeeded`: gives back captured or debited money.
    RefundSucceeded,
}

impl Kind {
    /// Every kind, in the order of the contract's table.
    pub const ALL: [Self; 7] = [
        Self::DepositSucceeded,
        Self::PaymentAuthorized,
        Self::PaymentCaptured,
        Self::PaymentVoided,
        Self::PaymentSucceeded,
        Self::PaymentFailed,
        Self::RefundSucceeded,
    ];

    /// The `type` member on the wire and the `type` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DepositSucceeded => "deposit.succeeded",
            Self::PaymentAuthorized => "payment.authorized",
            Self::PaymentCaptured => "payment.captured",
            Self::PaymentVoided => "payment.voided",
            Self::PaymentSucceeded => "payment.succeeded",
            Self::PaymentFailed => "payment.failed",
            Self::RefundSucceeded => "refund.succeeded",
        }
    }

    /// The kind of this name, `None` for a type that payonce does not support.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// SHA-256 over the canonical form of what makes two messages with one key the same callback. See [`Callback::fingerprint`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The hash of raw bytes: the identity of a message that could not be decoded.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A checked callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// The idempotency key.
    pub key: Key,
    /// What it reports.
    pub kind: Kind,
    /// The account it is about.
    pub account_id: AccountId,
    /// The payment it belongs to; always present but for deposits.
    pub payment_id: Option<PaymentId>,
    /// The provider's id of the money movement, where it has one.
    pub operation_id: Option<OperationId>,
    /// How much.
    pub amount: Amount,
    /// In which currency.
    pub currency: Currency,
    /// `data.final`: a capture after which the rest of the hold is released.
    pub is_final: bool,
    /// When it happened, by the provider's clock, in microseconds since 1970-01-01T00:00:00Z. Recorded, never decided on.
    pub occurred_at_us: Option<i64>,
    /// The hash by which copies are compared.
    pub fingerprint: Fingerprint,
}

impl Callback {
    /// The hash of a canonical form of exactly the members that count (contract §2): type, subject, payment_id, operation_id,
    /// amount, currency, final. Each is written as its length in bytes (big-endian `u32`) and its text; an absent one has the
    /// length `u32::MAX` and no text. So no two different contents have one canonical form, and the spelling of the JSON,
    /// `time` and unknown members do not count.
    #[must_use]
    pub fn canonical_fingerprint(
        kind: Kind,
        account_id: &AccountId,
        payment_id: Option<&PaymentId>,
        operation_id: Option<&OperationId>,
        amount: Amount,
        currency: Currency,
        is_final: bool,
    ) -> Fingerprint {
        const ABSENT: u32 = u32::MAX;
        let mut hash = Sha256::new();
        let mut write = |text: Option<&str>| match text {
            // Identifiers are at most 200 bytes, the others shorter: the length always fits.
            Some(text) => {
                hash.update(u32::try_from(text.len()).unwrap_or(ABSENT - 1).to_be_bytes());
                hash.update(text.as_bytes());
            }
            None => hash.update(ABSENT.to_be_bytes()),
        };
        write(Some(kind.as_str()));
        write(Some(account_id.as_str()));
        write(payment_id.map(PaymentId::as_str));
        write(operation_id.map(OperationId::as_str));
        write(Some(&amount.minor_units().to_string()));
        write(Some(currency.as_str()));
        write(Some(if is_final { "true" } else { "false" }));
        Fingerprint(hash.finalize().into())
    }

    /// The payment this callback belongs to; `None` for a deposit, which stands alone.
    #[must_use]
    pub fn payment_key(&self) -> Option<PaymentKey> {
        match self.kind {
            Kind::DepositSucceeded => None,
            Kind::PaymentAuthorized
            | Kind::PaymentCaptured
            | Kind::PaymentVoided
            | Kind::PaymentSucceeded
            | Kind::PaymentFailed
            | Kind::RefundSucceeded => self
                .payment_id
                .clone()
                .map(|payment_id| PaymentKey { source: self.key.source.clone(), payment_id }),
        }
    }

    /// The second idempotency key, where the provider gave one.
    #[must_use]
    pub fn operation_key(&self) -> Option<OperationKey> {
        let operation_id = self.operation_id.clone()?;
        Some(OperationKey { source: self.key.source.clone(), kind: self.kind, operation_id })
    }
}
