//! Bad messages, each with the reason it must be quarantined for.

use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

use crate::plan::{Distinct, Kind, Options, pick_account};

/// 2⁵³ − 1: the largest amount on the wire.
const AMOUNT_MAX: i64 = 9_007_199_254_740_991;

/// What is wrong with a bad message, with the quarantine reason that contract §3 gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// The body is broken in the way of this number; see `body::malformed`.
    Malformed(u8),
    UnsupportedType,
    UnknownAccount,
    CurrencyMismatch,
    InsufficientFunds,
    /// Another amount under the key of this callback.
    PayloadMismatch(u32),
    /// A second debit of the payment of this callback.
    InvalidTransition(u32),
    /// A capture of more than its story authorizes.
    OverCapture,
    /// A refund of more than its story debits.
    OverRefund,
    /// A sound deposit that its provider did not sign.
    BadSignature(Forgery),
}

/// In which way a signature is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    Unsigned,
    /// Made with a key that no worker knows.
    Stranger,
    /// The provider's, of another body.
    OtherBody,
    /// The provider's, of another event.
    OtherId,
}

impl Forgery {
    const ALL: [Self; 4] = [Self::Unsigned, Self::Stranger, Self::OtherBody, Self::OtherId];
}

impl Poison {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnsupportedType => "unsupported_type",
            Self::UnknownAccount => "unknown_account",
            Self::CurrencyMismatch => "currency_mismatch",
            Self::InsufficientFunds => "insufficient_funds",
            Self::PayloadMismatch(_) => "payload_mismatch",
            Self::InvalidTransition(_) => "invalid_transition",
            Self::OverCapture => "over_capture",
            Self::OverRefund => "over_refund",
            Self::BadSignature(_) => "bad_signature",
        }
    }

    /// Whether it may only come after the callback that it contradicts.
    pub fn is_late(self) -> bool {
        match self {
            Self::PayloadMismatch(_) | Self::InvalidTransition(_) => true,
            Self::Malformed(_)
            | Self::UnsupportedType
            | Self::UnknownAccount
            | Self::CurrencyMismatch
            | Self::InsufficientFunds
            | Self::OverCapture
            | Self::OverRefund
            | Self::BadSignature(_) => false,
        }
    }
}

/// Adds so many bad messages to a plan's sound callbacks.
pub fn add(options: &Options, count: usize, distinct: &mut Vec<Distinct>, random: &mut StdRng) {
    let debits: Vec<u32> = distinct
        .iter()
        .filter(|one| one.kind == Kind::Succeeded && one.story.is_none())
        .map(|one| one.number)
        .collect();
    // Each callback is contradicted at most once, so that the second contradiction is not itself a copy.
    let mut contradicted: Vec<u32> = (0..options.accounts).collect();
    contradicted.shuffle(random);
    let mut debited = debits;
    debited.shuffle(random);
    for n in 0..count {
        let number = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
        // Where nobody signs, nothing is wrong with a signature.
        let kinds = if options.signatures { 7 + Forgery::ALL.len() } else { 7 };
        let poison = match n % kinds {
            kind @ 7.. => Poison::BadSignature(Forgery::ALL[kind - 7]),
            1 => Poison::UnsupportedType,
            2 => Poison::UnknownAccount,
            3 => Poison::CurrencyMismatch,
            4 => Poison::InsufficientFunds,
            5 => contradicted.pop().map_or(Poison::Malformed(0), Poison::PayloadMismatch),
            // In a prefilled queue nothing says that the first debit is settled.
            6 if !options.prefill => debited.pop().map_or(Poison::Malformed(1), Poison::InvalidTransition),
            _ => Poison::Malformed(
                u8::try_from(random.random_range(0..crate::body::MALFORMED_WAYS)).unwrap_or(0),
            ),
        };
        let at = |number: u32| distinct.get(number as usize);
        let (kind, account, amount) = match poison {
            Poison::PayloadMismatch(of) => {
                (Kind::Deposit, at(of).map_or(0, |one| one.account), random.random_range(100_001..200_000))
            }
            Poison::InvalidTransition(of) => (Kind::Succeeded, at(of).map_or(0, |one| one.account), 1),
            Poison::InsufficientFunds => (Kind::Succeeded, pick_account(options, random), AMOUNT_MAX),
            Poison::UnknownAccount => (Kind::Succeeded, 0, random.random_range(1..=1_000)),
            Poison::Malformed(_)
            | Poison::UnsupportedType
            | Poison::CurrencyMismatch
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_) => {
                (Kind::Deposit, pick_account(options, random), random.random_range(1..=1_000))
            }
        };
        distinct.push(Distinct {
            poison: Some(poison),
            is_late: poison.is_late(),
            ..Distinct::single(number, kind, account, amount)
        });
    }
}
