//! Callbacks to publish.

use serde_json::{Value, json};

/// A callback that a test spells out only as far as it matters.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub kind: &'static str,
    pub account: String,
    pub payment: Option<String>,
    pub operation: Option<String>,
    pub amount: i64,
    pub currency: &'static str,
    pub is_final: bool,
    /// Further members of `data`.
    pub more: Vec<(&'static str, Value)>,
    pub time: &'static str,
}

pub const SOURCE: &str = "/providers/test";

impl Event {
    pub fn new(kind: &'static str, id: &str, account: &str, payment: Option<&str>, amount: i64) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            account: account.to_owned(),
            payment: payment.map(str::to_owned),
            operation: None,
            amount,
            currency: "EUR",
            is_final: false,
            more: Vec::new(),
            time: "2026-11-22T13:44:14Z",
        }
    }

    /// With this member of `data`.
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        self.more.push((member, value.into()));
        self
    }

    pub fn at(mut self, time: &'static str) -> Self {
        self.time = time;
        self
    }

    /// Without a subject: its payment says whose it is.
    pub fn nameless(mut self) -> Self {
        self.account.clear();
        self
    }

    pub fn deposit(id: &str, account: &str, amount: i64) -> Self {
        Self::new("deposit.succeeded", id, account, None, amount)
    }

    /// `kind` without its noun: `authorized`, `captured`, `voided`, `succeeded`, `failed`.
    pub fn payment(kind: &'static str, id: &str, account: &str, payment: &str, amount: i64) -> Self {
        Self::new(kind, id, account, Some(payment), amount)
    }

    pub fn operation(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    pub fn body(&self) -> Vec<u8> {
        let mut data = json!({ "amount": self.amount, "currency": self.currency });
        if let Some(payment) = &self.payment {
            data["payment_id"] = Value::from(payment.as_str());
        }
        if let Some(operation) = &self.operation {
            data["operation_id"] = Value::from(operation.as_str());
        }
        if self.is_final {
            data["final"] = Value::from(true);
        }
        for (member, value) in &self.more {
            data[member] = value.clone();
        }
        let mut event = json!({
            "specversion": "1.0", "id": self.id, "source": SOURCE, "type": self.kind,
            "time": self.time, "datacontenttype": "application/json", "data": data,
        });
        if !self.account.is_empty() {
            event["subject"] = Value::from(self.account.as_str());
        }
        event.to_string().into_bytes()
    }
}
