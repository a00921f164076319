//! What the mappings of all providers share: what an event means for money (`Step`), and which callback that is under an endpoint's
//! purpose. What must not live here: any provider's names.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::paths::{AccountPath, ReferencePaths, is_id};
use crate::ledger::Currency;

/// What an endpoint's money is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Money in: a payment at the provider tops an account up.
    Deposit,
    /// Money out: a payment at the provider is paid from an account.
    Payment,
}

/// Whether an authorisation is money at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// Yes: no capture follows that counts.
    Automatic,
    /// No: it is a hold until it is captured.
    Manual,
}

/// What an event says of money, whatever the provider calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An authorisation, which is money at once where capture is automatic.
    Approved,
    /// A hold; never money.
    Authorized,
    /// The hold has another total now.
    Adjusted,
    /// Money of a hold; where capture is automatic, the same fact as the authorisation.
    Captured,
    /// Money of a hold whose authorisation is told apart by the provider itself: counts whatever `capture` says.
    CapturedOfHold,
    /// A capture was taken back.
    CaptureFailed,
    /// The hold is released.
    Voided,
    /// The payment ended before any money moved; what was held of it, if anything, is released.
    Ended,
    /// Money at once.
    Succeeded,
    /// The payment failed for good.
    Failed,
    /// Money went back to the payer.
    Refunded,
    /// A refund was taken back.
    RefundFailed,
    /// A chargeback took money away.
    Disputed,
    /// A chargeback was won: what the dispute with the same operation id took came back.
    Reinstated,
    /// The same, of a dispute that the event does not name by the operation id that it came with.
    ReinstatedElsewhere,
}

/// The callback types that providers' events turn into (contract §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "contract §2 says what each is; `as_str` is its name there")]
pub enum Type {
    DepositSucceeded,
    DepositRefunded,
    DepositDisputed,
    DepositReinstated,
    PaymentAuthorized,
    PaymentAuthorizationAdjusted,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentVoided,
    PaymentSucceeded,
    PaymentFailed,
    RefundSucceeded,
    RefundFailed,
}

impl Type {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::DepositSucceeded,
        Self::DepositRefunded,
        Self::DepositDisputed,
        Self::DepositReinstated,
        Self::PaymentAuthorized,
        Self::PaymentAuthorizationAdjusted,
        Self::PaymentCaptured,
        Self::PaymentCaptureFailed,
        Self::PaymentVoided,
        Self::PaymentSucceeded,
        Self::PaymentFailed,
        Self::RefundSucceeded,
        Self::RefundFailed,
    ];

    /// The CloudEvents `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DepositSucceeded => "deposit.succeeded",
            Self::DepositRefunded => "deposit.refunded",
            Self::DepositDisputed => "deposit.disputed",
            Self::DepositReinstated => "deposit.reinstated",
            Self::PaymentAuthorized => "payment.authorized",
            Self::PaymentAuthorizationAdjusted => "payment.authorization_adjusted",
            Self::PaymentCaptured => "payment.captured",
            Self::PaymentCaptureFailed => "payment.capture_failed",
            Self::PaymentVoided => "payment.voided",
            Self::PaymentSucceeded => "payment.succeeded",
            Self::PaymentFailed => "payment.failed",
            Self::RefundSucceeded => "refund.succeeded",
            Self::RefundFailed => "refund.failed",
        }
    }

    /// Whether `payonce worker` finds the account by the payment where the message names none (contract §8).
    #[must_use]
    pub fn finds_its_account(self) -> bool {
        match self {
            Self::DepositRefunded
            | Self::DepositDisputed
            | Self::DepositReinstated
            | Self::PaymentCaptureFailed
            | Self::RefundSucceeded
            | Self::RefundFailed => true,
            Self::DepositSucceeded
            | Self::PaymentAuthorized
            | Self::PaymentAuthorizationAdjusted
            | Self::PaymentCaptured
            | Self::PaymentVoided
            | Self::PaymentSucceeded
            | Self::PaymentFailed => false,
        }
    }

    fn allows_zero(self) -> bool {
        matches!(self, Self::PaymentVoided | Self::PaymentFailed)
    }
}

/// What a step is under a purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// This callback.
    Callback(Type),
    /// No money: the reason.
    Nothing(&'static str),
    /// Money that contract §2 has no type for: the reason.
    NoType(&'static str),
}

/// The table that all providers share.
#[must_use]
pub fn becomes(purpose: Purpose, capture: Capture, step: Step) -> Becomes {
    use Becomes::{Callback, NoType, Nothing};
    const SAME_FACT: &str = "told by the authorisation already (capture = \"automatic\")";
    const HOLD: &str = "a hold is no money yet";
    match (purpose, step, capture) {
        (Purpose::Deposit, Step::Succeeded | Step::CapturedOfHold, _)
        | (Purpose::Deposit, Step::Approved, Capture::Automatic)
        | (Purpose::Deposit, Step::Captured, Capture::Manual) => Callback(Type::DepositSucceeded),
        (Purpose::Payment, Step::Succeeded, _) | (Purpose::Payment, Step::Approved, Capture::Automatic) => {
            Callback(Type::PaymentSucceeded)
        }
        (Purpose::Payment, Step::Captured, Capture::Manual) | (Purpose::Payment, Step::CapturedOfHold, _) => {
            Callback(Type::PaymentCaptured)
        }
        (_, Step::Captured, Capture::Automatic) => Nothing(SAME_FACT),
        (Purpose::Deposit, Step::Authorized | Step::Adjusted, _)
        | (Purpose::Deposit, Step::Approved, Capture::Manual) => Nothing(HOLD),
        (Purpose::Payment, Step::Authorized, _) | (Purpose::Payment, Step::Approved, Capture::Manual) => {
            Callback(Type::PaymentAuthorized)
        }
        (Purpose::Payment, Step::Adjusted, _) => Callback(Type::PaymentAuthorizationAdjusted),
        // The money that was booked did not come after all.
        (Purpose::Deposit, Step::CaptureFailed, _) => Callback(Type::DepositDisputed),
        (Purpose::Payment, Step::CaptureFailed, Capture::Manual) => Callback(Type::PaymentCaptureFailed),
        (Purpose::Payment, Step::CaptureFailed, Capture::Automatic) => NoType(
            "the capture of a direct debit failed; no callback takes a direct debit back by its capture",
        ),
        (Purpose::Deposit, Step::Voided, Capture::Manual) => Nothing("a hold was released"),
        (Purpose::Deposit, Step::Ended, _) => Nothing("it ended before it was paid"),
        (Purpose::Deposit, Step::Voided, Capture::Automatic) => {
            NoType("cancelled after it was booked as money; should capture be \"manual\"?")
        }
        (Purpose::Payment, Step::Voided | Step::Ended, _) => Callback(Type::PaymentVoided),
        (Purpose::Deposit, Step::Failed, _) => Nothing("a deposit that failed brought nothing"),
        (Purpose::Payment, Step::Failed, _) => Callback(Type::PaymentFailed),
        (Purpose::Deposit, Step::Refunded, _) => Callback(Type::DepositRefunded),
        (Purpose::Payment, Step::Refunded, _) => Callback(Type::RefundSucceeded),
        (Purpose::Deposit, Step::RefundFailed | Step::Reinstated | Step::ReinstatedElsewhere, _) => {
            Callback(Type::DepositReinstated)
        }
        (Purpose::Deposit, Step::Disputed, _) => Callback(Type::DepositDisputed),
        // A dispute gives the payer back what a payment took from the account, as a refund does; where it is won, that is taken back.
        (Purpose::Payment, Step::Disputed, _) => Callback(Type::RefundSucceeded),
        (Purpose::Payment, Step::RefundFailed | Step::Reinstated, _) => Callback(Type::RefundFailed),
        (Purpose::Payment, Step::ReinstatedElsewhere, _) => {
            NoType("which dispute of this payment was taken back is not in the event")
        }
    }
}

/// Which movement a reinstatement takes back: the one with its operation id, be there others of the payment that it would fit. A refund that
/// failed and never succeeded took nothing, and its failure gives nothing back.
fn reversed(kind: Type, step: Step) -> Option<Type> {
    let is = |expected| kind == Type::DepositReinstated && step == expected;
    if is(Step::RefundFailed) {
        Some(Type::DepositRefunded)
    } else if is(Step::Reinstated) {
        Some(Type::DepositDisputed)
    } else {
        None
    }
}

/// One row of a provider's table: an event by name, and what it means. docs/providers shows the same rows.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The provider's name of the event.
    pub event: &'static str,
    /// What it means.
    pub means: Means,
    /// Which members it is read from, and when it means nothing after all.
    pub note: &'static str,
}

/// What an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Money moves, or is held.
    Money(Step),
    /// No money, or the same fact as another event.
    Nothing,
    /// Money that cannot be told from this event alone.
    Unclear,
}

/// A row of a table.
#[must_use]
pub const fn row(event: &'static str, means: Means, note: &'static str) -> Row {
    Row { event, means, note }
}

/// What a provider's event says, in the words of contract §2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What happened.
    pub step: Step,
    /// The account, where the event names it.
    pub account: Option<String>,
    /// The provider's id of the payment: one that all later events repeat.
    pub payment_id: String,
    /// The provider's id of this one movement.
    pub operation_id: Option<String>,
    /// Minor units of ISO 4217.
    pub amount: u64,
    /// Its currency.
    pub currency: Currency,
    /// When it happened.
    pub time: Option<String>,
    /// Whether `amount` is a running total.
    pub is_cumulative: bool,
    /// `data.final`, where the event says it.
    pub is_final: Option<bool>,
    /// `data.expires_at`.
    pub expires_at: Option<String>,
    /// `data.references`, by name.
    pub references: BTreeMap<String, String>,
}

impl Fact {
    /// A movement of this payment, by an operation of its own, that says nothing more.
    #[must_use]
    pub fn new(step: Step, payment_id: &str, operation_id: &str, amount: u64, currency: Currency) -> Self {
        Self {
            step,
            account: None,
            payment_id: payment_id.to_owned(),
            operation_id: Some(operation_id.to_owned()),
            amount,
            currency,
            time: None,
            is_cumulative: false,
            is_final: None,
            expires_at: None,
            references: BTreeMap::new(),
        }
    }
}

/// What one event of a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The event's id, where it has one: 1 to 200 bytes.
    pub id: Option<String>,
    /// The provider's name of the kind of event.
    pub kind: String,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This CloudEvents event is published.
    Accepted(Accepted),
    /// No money.
    Ignored(String),
    /// Money that could not be mapped: the reason, for a person.
    Unmapped(String),
}

/// A callback ready to be signed and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The account id, else the payment's.
    pub routing_key: String,
    /// The event's id.
    pub id: String,
    /// The event as JSON, as contract §2 has it.
    pub body: Vec<u8>,
}

/// What an endpoint says of how its events are to be read.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The CloudEvents `source` of all that it publishes.
    pub source: String,
    /// `None` only for senders whose events are callbacks already.
    pub purpose: Option<Purpose>,
    /// Whether an authorisation is money at once.
    pub capture: Capture,
    /// Where the account stands in the provider's object.
    pub account: AccountPath,
    /// Where references stand there.
    pub references: ReferencePaths,
    /// Whether only live (`true`) or only test events (`false`) are money here; `None`: both.
    pub is_live: Option<bool>,
}

/// What reading an event gives: money, nothing (the reason), or money that cannot be told (the reason).
pub type Reading = Result<Result<Fact, String>, String>;

/// An event that is no money after all.
///
/// # Errors
/// None: the type is that of a reading.
pub fn nothing(why: &str) -> Reading {
    Ok(Err(why.to_owned()))
}

impl Terms {
    /// What becomes of an event that reads so. `id` must be the same for every copy of the event.
    #[must_use]
    pub fn item(&self, id: Option<&str>, kind: &str, reading: Reading) -> Item {
        let id = id.filter(|id| is_id(id)).map(str::to_owned);
        let outcome = match reading {
            Err(why) => Outcome::Unmapped(why),
            Ok(Err(why)) => Outcome::Ignored(why),
            Ok(Ok(fact)) => self.decide(id.as_deref(), &fact),
        };
        Item { id, kind: kind.chars().filter(|c| !c.is_control()).take(80).collect(), outcome }
    }

    fn decide(&self, id: Option<&str>, fact: &Fact) -> Outcome {
        let Some(purpose) = self.purpose else {
            return Outcome::Unmapped(
                "the endpoint has no purpose: set \"deposit\" or \"payment\"".to_owned(),
            );
        };
        let kind = match becomes(purpose, self.capture, fact.step) {
            Becomes::Callback(kind) => kind,
            Becomes::Nothing(why) => return Outcome::Ignored(why.to_owned()),
            Becomes::NoType(why) => return Outcome::Unmapped(why.to_owned()),
        };
        let Some(id) = id else {
            return Outcome::Unmapped("the event has no id of 1 to 200 bytes".to_owned());
        };
        if !is_id(&fact.payment_id) || fact.operation_id.as_deref().is_some_and(|id| !is_id(id)) {
            return Outcome::Unmapped("a payment or operation id is not 1 to 200 bytes of text".to_owned());
        }
        let account = fact.account.as_ref();
        if account.is_none() && !kind.finds_its_account() {
            return Outcome::Unmapped(format!("no account at {}", self.account.path));
        }
        if fact.amount == 0 && !kind.allows_zero() {
            return Outcome::Unmapped("amount: 0".to_owned());
        }
        let routing_key = account.unwrap_or(&fact.payment_id).clone();
        Outcome::Accepted(Accepted {
            routing_key,
            id: id.to_owned(),
            body: self.event(id, kind, account, fact),
        })
    }

    /// Members that are absent stay out: what was published before a member existed keeps its hash.
    fn event(&self, id: &str, kind: Type, account: Option<&String>, fact: &Fact) -> Vec<u8> {
        let mut data = json!({ "amount": fact.amount, "currency": fact.currency.as_str(), "payment_id": fact.payment_id });
        let is_capture = kind == Type::PaymentCaptured;
        let is_refund = matches!(kind, Type::RefundSucceeded | Type::DepositRefunded);
        let optional = [
            ("operation_id", fact.operation_id.as_ref().map(|id| json!(id))),
            ("cumulative", Some(json!(true)).filter(|_| fact.is_cumulative && (is_capture || is_refund))),
            (
                "final",
                fact.is_final
                    .filter(|_| is_capture || kind == Type::PaymentVoided)
                    .map(|is_final| json!(is_final)),
            ),
            (
                "expires_at",
                fact.expires_at.as_ref().filter(|_| kind == Type::PaymentAuthorized).map(|time| json!(time)),
            ),
            ("reverses", reversed(kind, fact.step).map(|kind| json!(kind.as_str()))),
            ("references", Some(json!(fact.references)).filter(|_| !fact.references.is_empty())),
        ];
        let mut event = json!({
            "specversion": "1.0",
            "id": id,
            "source": self.source,
            "type": kind.as_str(),
            "datacontenttype": "application/json",
        });
        if let (Some(event), Some(data)) = (event.as_object_mut(), data.as_object_mut()) {
            data.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            event.extend(account.map(|account| ("subject".to_owned(), json!(account))));
            event.extend(fact.time.as_ref().map(|time| ("time".to_owned(), json!(time))));
            event.insert("data".to_owned(), Value::Object(std::mem::take(data)));
        }
        event.to_string().into_bytes()
    }
}
