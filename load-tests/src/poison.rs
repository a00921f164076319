//! Bad messages, each with the reason it must be quarantined for.

use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

use crate::{
    content::Content,
    plan::{Distinct, Kind, Options},
    sound::pick_account,
    story::AMOUNT_MAX,
};

/// One in so many of those that cannot be decoded has the body of the others of this kind.
const SAME_BODY_EVERY: usize = 4;

/// What is wrong with a bad message, with the quarantine reason that contract §3 gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// The body is broken in the way of this number; see `body::malformed`.
    Malformed(u8),
    UnsupportedType,
    UnknownAccount,
    CurrencyMismatch,
    InsufficientFunds,
    /// Another content under the key of this callback: this member differs.
    PayloadMismatch(u32, Member),
    /// Another amount under the operation of this callback.
    OperationMismatch(u32),
    /// A second debit of the payment of this callback.
    InvalidTransition(u32),
    /// A refund of the payment of this callback, for another account.
    OtherAccount(u32),
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

/// A member that two messages with one key must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    Type,
    Subject,
    PaymentId,
    OperationId,
    Amount,
    Currency,
    Final,
    Cumulative,
    ExpiresAt,
    To,
}

impl Member {
    const ALL: [Self; 10] = [
        Self::Type,
        Self::Subject,
        Self::PaymentId,
        Self::OperationId,
        Self::Amount,
        Self::Currency,
        Self::Final,
        Self::Cumulative,
        Self::ExpiresAt,
        Self::To,
    ];

    /// Gives this member of a deposit another value.
    pub fn change(self, content: &mut Content, other_account: String) {
        match self {
            Self::Type => content.kind = Kind::Fee,
            Self::Subject => content.subject = Some(other_account),
            Self::PaymentId => content.payment_id = Some("pay_other".to_owned()),
            Self::OperationId => content.operation_id = Some(format!("op_other_{}", content.id)),
            Self::Amount => content.amount += 1,
            Self::Currency => content.currency = "GBP".to_owned(),
            Self::Final => content.is_final = Some(true),
            Self::Cumulative => content.is_cumulative = true,
            Self::ExpiresAt => content.expires_at_s = Some(crate::body::EXPIRES[0].0),
            Self::To => content.to = Some(other_account),
        }
    }
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
            Self::PayloadMismatch(..) | Self::OperationMismatch(_) => "payload_mismatch",
            Self::InvalidTransition(_) | Self::OtherAccount(_) => "invalid_transition",
            Self::OverCapture => "over_capture",
            Self::OverRefund => "over_refund",
            Self::BadSignature(_) => "bad_signature",
        }
    }

    /// Whether it may only come after the callback that it contradicts.
    pub fn is_late(self) -> bool {
        match self {
            Self::PayloadMismatch(..)
            | Self::OperationMismatch(_)
            | Self::InvalidTransition(_)
            | Self::OtherAccount(_) => true,
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
    let mut shuffled = |mut numbers: Vec<u32>| {
        numbers.shuffle(random);
        numbers
    };
    let of_kind = |kind: Kind| {
        let alone = distinct.iter().filter(move |one| one.kind == kind && one.story.is_none());
        alone.map(|one| one.number)
    };
    // Each callback is contradicted at most once, so that the second contradiction is not itself a copy.
    let mut openings = shuffled((0..options.accounts).collect());
    let mut debits = shuffled(of_kind(Kind::Succeeded).collect());
    let with_operation = of_kind(Kind::Deposit).skip(options.accounts as usize);
    let mut operations = shuffled(
        with_operation
            .filter(|of| distinct.get(*of as usize).is_some_and(|one| one.operation.is_some()))
            .collect(),
    );
    for n in 0..count {
        let number = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
        // Where nobody signs, nothing is wrong with a signature.
        let kinds = if options.signatures { 9 + Forgery::ALL.len() } else { 9 };
        // In a prefilled queue nothing says that what is contradicted is settled.
        let contradicted = |numbers: &mut Vec<u32>| if options.prefill { None } else { numbers.pop() };
        let poison = match n % kinds {
            kind @ 9.. => Some(Poison::BadSignature(Forgery::ALL[kind - 9])),
            1 => Some(Poison::UnsupportedType),
            2 => Some(Poison::UnknownAccount),
            3 => Some(Poison::CurrencyMismatch),
            4 => Some(Poison::InsufficientFunds),
            5 => contradicted(&mut openings)
                .map(|of| Poison::PayloadMismatch(of, Member::ALL[n / kinds % Member::ALL.len()])),
            6 => contradicted(&mut debits).map(Poison::InvalidTransition),
            7 => contradicted(&mut debits).map(Poison::OtherAccount),
            8 => contradicted(&mut operations).map(Poison::OperationMismatch),
            _ => None,
        };
        let any_way = random.random_range(0..crate::body::MALFORMED_WAYS);
        let way = match n / kinds % SAME_BODY_EVERY {
            1 => crate::body::SAME_BODY,
            _ => u8::try_from(any_way).unwrap_or(0),
        };
        let poison = poison.unwrap_or(Poison::Malformed(way));
        let at = |number: u32| distinct.get(number as usize);
        let account_of = |number: u32| at(number).map_or(0, |one| one.account);
        let anybody = pick_account(options, random);
        let (kind, account, amount, payment) = match poison {
            Poison::PayloadMismatch(of, _) | Poison::OperationMismatch(of) => {
                (Kind::Deposit, account_of(of), at(of).map_or(0, |one| one.amount), None)
            }
            Poison::InvalidTransition(of) => (Kind::Succeeded, account_of(of), 1, Some(of)),
            Poison::OtherAccount(of) => {
                // The next account has another currency, if not another owner: whose payment it is comes first.
                let next = (account_of(of) + 1) % options.accounts.max(2);
                (Kind::Refunded, next, 1, Some(of))
            }
            Poison::InsufficientFunds => (Kind::Succeeded, anybody, AMOUNT_MAX, Some(number)),
            // A deposit would open the account in its currency, where it is the first.
            Poison::CurrencyMismatch => {
                (Kind::Succeeded, anybody, 1 + i64::from(number % 1_000), Some(number))
            }
            Poison::UnknownAccount => (Kind::Succeeded, 0, 1 + i64::from(number % 1_000), Some(number)),
            Poison::Malformed(_)
            | Poison::UnsupportedType
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_) => (Kind::Deposit, anybody, random.random_range(1..=1_000), None),
        };
        // A second debit of a payment has an operation of its own: else it would be another amount of the first.
        let is_second = matches!(poison, Poison::InvalidTransition(_) | Poison::OtherAccount(_));
        distinct.push(Distinct {
            payment,
            operation: is_second.then_some(number),
            poison: Some(poison),
            is_late: poison.is_late(),
            ..Distinct::single(number, kind, account, amount)
        });
    }
}
