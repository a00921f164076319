//! Callbacks as the tests write them: plain texts and numbers, with defaults.

use std::{cmp::Ordering, fmt};

use payonce_ledger::{
    AccountId, Amount, Callback, Currency, Direction, EventId, Fingerprint, Key, Kind, OperationId,
    PaymentId, Source,
};

/// A callback before it is a [`Callback`]. The model works on these, so that it shares neither keys nor hashes with the code.
#[derive(Clone)]
pub struct Draft {
    pub source: String,
    pub id: String,
    pub content: Content,
    /// Microseconds since 1970 by the provider's clock. Not part of the content.
    pub at_us: Option<i64>,
}

/// The members by which two messages with one key are the same callback (contract §2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    pub kind: Kind,
    pub account: Option<String>,
    pub payment: Option<String>,
    pub operation: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub is_final: bool,
    pub is_cumulative: bool,
    pub expires_at_us: Option<i64>,
    pub to: Option<String>,
    pub direction: Option<Direction>,
    pub reverses: Option<Kind>,
}

/// Drafts of one key and content are one callback, whatever the provider's clock says in each.
impl Ord for Draft {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.source, &self.id, &self.content).cmp(&(&other.source, &other.id, &other.content))
    }
}

impl PartialOrd for Draft {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Draft {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Draft {}

/// On one line: failing streams are long.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content { kind, amount, currency, .. } = &self.content;
        let content = &self.content;
        write!(f, "{} {} {} {amount} {currency}", self.source, self.id, kind.as_str())?;
        write!(f, " {}", content.account.as_deref().unwrap_or("(no account)"))?;
        for text in [&content.payment, &content.operation].into_iter().flatten() {
            write!(f, " {text}")?;
        }
        if let Some(to) = &content.to {
            write!(f, " to {to}")?;
        }
        if let Some(direction) = content.direction {
            write!(f, " {}", direction.as_str())?;
        }
        if let Some(reverses) = content.reverses {
            write!(f, " reverses {}", reverses.as_str())?;
        }
        if content.is_final != kind.is_final_by_default() {
            f.write_str(if content.is_final { " final" } else { " partial" })?;
        }
        if content.is_cumulative {
            f.write_str(" cumulative")?;
        }
        if let Some(at_us) = self.at_us {
            write!(f, " at {at_us}")?;
        }
        Ok(())
    }
}

impl Draft {
    /// About account `acct`, and payment `pay` where the type needs one; in CNY. A transfer goes to `other`.
    pub fn new(id: &str, kind: Kind, amount: i64) -> Self {
        Self {
            source: "/providers/a".to_owned(),
            id: id.to_owned(),
            content: Content {
                kind,
                account: Some("acct".to_owned()),
                payment: kind.needs_payment_id().then(|| "pay".to_owned()),
                operation: kind.reverses().map(|_| "op".to_owned()),
                amount,
                currency: "CNY".to_owned(),
                is_final: kind.is_final_by_default(),
                is_cumulative: false,
                expires_at_us: None,
                to: (kind == Kind::TransferSucceeded).then(|| "other".to_owned()),
                direction: (kind == Kind::AdjustmentPosted).then_some(Direction::Credit),
                reverses: None,
            },
            at_us: (kind == Kind::PaymentAuthorizationAdjusted).then_some(0),
        }
    }

    pub fn account(mut self, account: &str) -> Self {
        self.content.account = Some(account.to_owned());
        self
    }

    /// Takes back the movement of this kind with its operation id.
    pub fn reverses(mut self, kind: Kind) -> Self {
        self.content.reverses = Some(kind);
        self
    }

    /// Without a subject: its payment says whose it is.
    pub fn nameless(mut self) -> Self {
        self.content.account = None;
        self
    }

    pub fn payment(mut self, payment: &str) -> Self {
        self.content.payment = Some(payment.to_owned());
        self
    }

    pub fn operation(mut self, operation: &str) -> Self {
        self.content.operation = Some(operation.to_owned());
        self
    }

    pub fn currency(mut self, currency: &str) -> Self {
        self.content.currency = currency.to_owned();
        self
    }

    pub fn finally(mut self) -> Self {
        self.content.is_final = true;
        self
    }

    /// A void of just its amount.
    pub fn partly(mut self) -> Self {
        self.content.is_final = false;
        self
    }

    /// The amount is a running total.
    pub fn total(mut self) -> Self {
        self.content.is_cumulative = true;
        self
    }

    pub fn to(mut self, account: &str) -> Self {
        self.content.to = Some(account.to_owned());
        self
    }

    pub fn debit(mut self) -> Self {
        self.content.direction = Some(Direction::Debit);
        self
    }

    /// When it happened, microseconds since 1970.
    pub fn at(mut self, at_us: i64) -> Self {
        self.at_us = Some(at_us);
        self
    }

    /// The same content under another key: a second event for one fact, where it has an operation id.
    pub fn under(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    pub fn build(&self) -> Callback {
        let content = &self.content;
        let account = |text: &String| AccountId::new(text).unwrap();
        Callback {
            key: Key {
                source: Source::new(&self.source).unwrap(),
                event_id: EventId::new(&self.id).unwrap(),
            },
            kind: content.kind,
            account_id: content.account.as_ref().map(account),
            assigned_to: None,
            payment_id: content.payment.as_deref().map(|text| PaymentId::new(text).unwrap()),
            operation_id: content.operation.as_deref().map(|text| OperationId::new(text).unwrap()),
            amount: Amount::new(content.amount).unwrap(),
            currency: Currency::parse(&content.currency).unwrap(),
            is_final: content.is_final,
            is_cumulative: content.is_cumulative,
            expires_at_us: content.expires_at_us,
            to: content.to.as_ref().map(account),
            direction: content.direction,
            reverses: content.reverses,
            occurred_at_us: self.at_us,
            fingerprint: Fingerprint([0; 32]),
        }
        .sealed()
    }

    pub fn of(callback: &Callback) -> Self {
        Self {
            source: callback.key.source.to_string(),
            id: callback.key.event_id.to_string(),
            content: Content {
                kind: callback.kind,
                account: callback.account_id.as_ref().map(ToString::to_string),
                payment: callback.payment_id.as_ref().map(ToString::to_string),
                operation: callback.operation_id.as_ref().map(ToString::to_string),
                amount: callback.amount.minor_units(),
                currency: callback.currency.to_string(),
                is_final: callback.is_final,
                is_cumulative: callback.is_cumulative,
                expires_at_us: callback.expires_at_us,
                to: callback.to.as_ref().map(ToString::to_string),
                direction: callback.direction,
                reverses: callback.reverses,
            },
            at_us: callback.occurred_at_us,
        }
    }
}

/// Callbacks of these drafts, in their order.
pub fn build(drafts: &[Draft]) -> Vec<Callback> {
    drafts.iter().map(Draft::build).collect()
}
