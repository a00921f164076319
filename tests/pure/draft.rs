//! Callbacks as the tests write them: plain texts and numbers, with defaults.

use std::fmt;

use payonce::ledger::{
    AccountId, Amount, Callback, Currency, EventId, Key, Kind, OperationId, PaymentId, Source,
};

/// A callback before it is a [`Callback`]. The model works on these, so that it shares neither keys nor hashes with the code.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draft {
    pub source: String,
    pub id: String,
    pub content: Content,
}

/// The seven members by which two messages with one key are the same callback (contract §2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    pub kind: Kind,
    pub account: String,
    pub payment: Option<String>,
    pub operation: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub is_final: bool,
}

/// On one line: failing streams are long.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content { kind, account, payment, operation, amount, currency, is_final } = &self.content;
        write!(f, "{} {} {} {amount} {currency} {account}", self.source, self.id, kind.as_str())?;
        for text in [payment, operation].into_iter().flatten() {
            write!(f, " {text}")?;
        }
        if *is_final { f.write_str(" final") } else { Ok(()) }
    }
}

impl Draft {
    /// About account `acct`, and payment `pay` but for deposits; in CNY.
    pub fn new(id: &str, kind: Kind, amount: i64) -> Self {
        let payment = (kind != Kind::DepositSucceeded).then(|| "pay".to_owned());
        Self {
            source: "/providers/a".to_owned(),
            id: id.to_owned(),
            content: Content {
                kind,
                account: "acct".to_owned(),
                payment,
                operation: None,
                amount,
                currency: "CNY".to_owned(),
                is_final: false,
            },
        }
    }

    pub fn account(mut self, account: &str) -> Self {
        self.content.account = account.to_owned();
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

    /// The same content under another key: a second event for one fact, where it has an operation id.
    pub fn under(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    pub fn build(&self) -> Callback {
        let Content { kind, account, payment, operation, amount, currency, is_final } = &self.content;
        let account_id = AccountId::new(account).unwrap();
        let payment_id = payment.as_deref().map(|text| PaymentId::new(text).unwrap());
        let operation_id = operation.as_deref().map(|text| OperationId::new(text).unwrap());
        let amount = Amount::new(*amount).unwrap();
        let currency = Currency::parse(currency).unwrap();
        Callback {
            key: Key {
                source: Source::new(&self.source).unwrap(),
                event_id: EventId::new(&self.id).unwrap(),
            },
            fingerprint: Callback::canonical_fingerprint(
                *kind,
                &account_id,
                payment_id.as_ref(),
                operation_id.as_ref(),
                amount,
                currency,
                *is_final,
            ),
            kind: *kind,
            account_id,
            payment_id,
            operation_id,
            amount,
            currency,
            is_final: *is_final,
            occurred_at_us: None,
        }
    }

    pub fn of(callback: &Callback) -> Self {
        Self {
            source: callback.key.source.to_string(),
            id: callback.key.event_id.to_string(),
            content: Content {
                kind: callback.kind,
                account: callback.account_id.to_string(),
                payment: callback.payment_id.as_ref().map(ToString::to_string),
                operation: callback.operation_id.as_ref().map(ToString::to_string),
                amount: callback.amount.minor_units(),
                currency: callback.currency.to_string(),
                is_final: callback.is_final,
            },
        }
    }
}

/// Callbacks of these drafts, in their order.
pub fn build(drafts: &[Draft]) -> Vec<Callback> {
    drafts.iter().map(Draft::build).collect()
}
