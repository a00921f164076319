//! A payment callback that has been checked: identifiers, amount, and the fingerprint by which two copies are known to agree.
//!
//! Everything here is parsed once, at the edge (`wire`), and trusted from then on.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use super::{Currency, Direction, Kind};

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

/// An amount of money in minor units (cents, fen; the ISO 4217 exponent of its currency): 0 to [`Amount::MAX`]. Zero only where the type
/// moves no money by it (contract §2): [`Kind::takes_zero`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    /// 2⁵³ − 1, the largest integer that every JSON implementation carries exactly (RFC 8259 §6).
    pub const MAX: i64 = 9_007_199_254_740_991;

    /// `None` where `minor_units` is outside 0 to [`Amount::MAX`].
    #[must_use]
    pub fn new(minor_units: i64) -> Option<Self> {
        (0..=Self::MAX).contains(&minor_units).then_some(Self(minor_units))
    }

    /// Minor units, never negative.
    #[must_use]
    pub fn minor_units(self) -> i64 {
        self.0
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
    /// The account it is about; `None` where the provider does not name it, and its payment will say ([`Kind::finds_account`]).
    pub account_id: Option<AccountId>,
    /// The account that a person has assigned it to, whatever it names. Not part of its content.
    pub assigned_to: Option<AccountId>,
    /// The payment it belongs to; always present where [`Kind::needs_payment_id`].
    pub payment_id: Option<PaymentId>,
    /// The provider's id of the money movement, where it has one; always present where it takes one back.
    pub operation_id: Option<OperationId>,
    /// How much.
    pub amount: Amount,
    /// In which currency.
    pub currency: Currency,
    /// `data.final`: a capture after which the rest of the hold is released; a void of all that is left.
    pub is_final: bool,
    /// `data.cumulative`: the amount is the running total of its kind for its payment.
    pub is_cumulative: bool,
    /// `data.expires_at`: when payonce releases the hold by itself, in microseconds since 1970-01-01T00:00:00Z.
    pub expires_at_us: Option<i64>,
    /// `data.to`: the account that receives a transfer.
    pub to: Option<AccountId>,
    /// `data.direction` of an adjustment.
    pub direction: Option<Direction>,
    /// `data.reverses` of a reinstatement: the kind of the movement with its `operation_id` that it takes back, and no other.
    pub reverses: Option<Kind>,
    /// When it happened, by the provider's clock, in microseconds since 1970-01-01T00:00:00Z. Recorded; decided on only among several
    /// adjustments of one authorization, of which the latest holds.
    pub occurred_at_us: Option<i64>,
    /// The hash by which copies are compared.
    pub fingerprint: Fingerprint,
}

impl Callback {
    /// The hash of a canonical form of exactly the members that count (contract §2): type, subject, payment_id, operation_id,
    /// amount, currency, final; then, where present, cumulative, expires_at (microseconds since 1970), to, direction, reverses, each after its
    /// name. Every text is written as its length in bytes (big-endian `u32`) and itself; an absent one of the first seven has the
    /// length `u32::MAX` and no text. So no two different contents have one canonical form, and the spelling of the JSON, `time`
    /// and unknown members do not count. `final` is `true` or `false` for a capture; for a void, whose default is to release all, it
    /// is `false` where all is released and `partial` where not. The last five are not written where they are absent, and hashes of
    /// versions that did not know them stay what they were.
    #[must_use]
    pub fn canonical_fingerprint(&self) -> Fingerprint {
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
        write(Some(self.kind.as_str()));
        write(self.account_id.as_ref().map(AccountId::as_str));
        write(self.payment_id.as_ref().map(PaymentId::as_str));
        write(self.operation_id.as_ref().map(OperationId::as_str));
        write(Some(&self.amount.minor_units().to_string()));
        write(Some(self.currency.as_str()));
        write(Some(match (self.kind, self.is_final) {
            (Kind::PaymentVoided, false) => "partial",
            (Kind::PaymentVoided, true) | (_, false) => "false",
            (_, true) => "true",
        }));
        if self.is_cumulative {
            write(Some("cumulative"));
            write(Some("true"));
        }
        if let Some(expires_at_us) = self.expires_at_us {
            write(Some("expires_at"));
            write(Some(&expires_at_us.to_string()));
        }
        if let Some(to) = &self.to {
            write(Some("to"));
            write(Some(to.as_str()));
        }
        if let Some(direction) = self.direction {
            write(Some("direction"));
            write(Some(direction.as_str()));
        }
        if let Some(reverses) = self.reverses {
            write(Some("reverses"));
            write(Some(reverses.as_str()));
        }
        Fingerprint(hash.finalize().into())
    }

    /// The callback with the hash of its own content.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.fingerprint = self.canonical_fingerprint();
        self
    }

    /// The account that is known without a look at anything else: the assigned one, else the one it names.
    #[must_use]
    pub fn named_account(&self) -> Option<&AccountId> {
        self.assigned_to.as_ref().or(self.account_id.as_ref())
    }

    /// The broker's routing key: the account, or where none is named the payment (contract §1, §8).
    #[must_use]
    pub fn routing_key(&self) -> &str {
        let account_id = self.named_account().map(AccountId::as_str);
        account_id.or(self.payment_id.as_ref().map(PaymentId::as_str)).unwrap_or_default()
    }

    /// The account that a transfer goes to; `None` for every other kind.
    #[must_use]
    pub fn receiver(&self) -> Option<&AccountId> {
        self.to.as_ref().filter(|_| self.kind == Kind::TransferSucceeded)
    }

    /// The payment or the deposit this callback belongs to; `None` for one that stands alone.
    #[must_use]
    pub fn payment_key(&self) -> Option<PaymentKey> {
        let payment_id = self.payment_id.clone()?;
        let belongs = self.kind.needs_payment_id() || self.kind == Kind::DepositSucceeded;
        belongs.then(|| PaymentKey { source: self.key.source.clone(), payment_id })
    }

    /// The second idempotency key: the provider's id of the movement or, where a type happens once per payment, the payment's.
    #[must_use]
    pub fn operation_key(&self) -> Option<OperationKey> {
        let stand_in = || {
            let payment_id = self.payment_id.as_ref().filter(|_| self.kind.is_once_per_payment())?;
            // Both are identifiers of the same form.
            OperationId::new(payment_id.as_str()).ok()
        };
        let operation_id = self.operation_id.clone().or_else(stand_in)?;
        Some(OperationKey { source: self.key.source.clone(), kind: self.kind, operation_id })
    }

    /// The kind of the movement that this one takes back: by its type, or because it says so.
    #[must_use]
    pub fn reversed_kind(&self) -> Option<Kind> {
        self.kind.reverses().or(self.reverses)
    }

    /// The movement that this one takes back.
    #[must_use]
    pub fn reversed_key(&self) -> Option<OperationKey> {
        let kind = self.reversed_kind()?;
        Some(OperationKey { source: self.key.source.clone(), kind, operation_id: self.operation_id.clone()? })
    }

    /// What releases a hold whose time is up. Its key is made from the payment's and the time, so that it can happen once for each end
    /// that an authorization names; it is no provider's event, though it stands under the provider's source, where the payment is.
    #[must_use]
    pub fn expiry(
        payment: &PaymentKey,
        account_id: &AccountId,
        currency: Currency,
        expires_at_us: i64,
    ) -> Self {
        let payment_sha256 = Fingerprint::of_bytes(payment.payment_id.as_str().as_bytes());
        let name = format!("{EXPIRY_ID}{payment_sha256}:{expires_at_us}");
        Self {
            key: Key { source: payment.source.clone(), event_id: EventId(name.as_str().into()) },
            kind: Kind::PaymentVoided,
            account_id: Some(account_id.clone()),
            assigned_to: None,
            payment_id: Some(payment.payment_id.clone()),
            operation_id: None,
            amount: Amount(0),
            currency,
            is_final: true,
            is_cumulative: false,
            expires_at_us: None,
            to: None,
            direction: None,
            reverses: None,
            occurred_at_us: Some(expires_at_us),
            fingerprint: Fingerprint([0; 32]),
        }
        .sealed()
    }

    /// Whether it is [`Callback::expiry`].
    #[must_use]
    pub fn is_expiry(&self) -> bool {
        self.kind == Kind::PaymentVoided && self.key.event_id.as_str().starts_with(EXPIRY_ID)
    }
}

/// How the event id of [`Callback::expiry`] begins; the SHA-256 of the payment's id follows, in hexadecimal digits, then
/// a colon and the end of the hold, in microseconds since 1970-01-01T00:00:00Z.
pub const EXPIRY_ID: &str = "payonce.expired:";
