//! A callback as data: what a message says, read back from its bytes, and the hash that contract §2 defines over it, made by code of
//! the load tests' own.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::money::{Fact, Kind};

/// What a sound message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub source: String,
    pub id: String,
    pub kind: Kind,
    /// The account; `None`: its payment says whose it is.
    pub subject: Option<String>,
    pub payment_id: Option<String>,
    pub operation_id: Option<String>,
    /// Minor units.
    pub amount: i64,
    pub currency: String,
    /// As the message says it; `None`: it does not.
    pub is_final: Option<bool>,
    pub is_cumulative: bool,
    /// Seconds since 1970.
    pub expires_at_s: Option<i64>,
    /// The account that a transfer goes to.
    pub to: Option<String>,
    /// When it happened, in seconds since 1970.
    pub at_s: i64,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: Option<String>,
    time: Option<String>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    payment_id: Option<String>,
    operation_id: Option<String>,
    amount: i64,
    currency: String,
    #[serde(rename = "final")]
    is_final: Option<bool>,
    cumulative: Option<bool>,
    expires_at: Option<String>,
    to: Option<String>,
}

fn seconds(text: &str) -> Option<i64> {
    Some(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp())
}

impl Content {
    /// What a message says; `None` for one that is no callback.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let event: Event = serde_json::from_slice(body).ok()?;
        let data = event.data;
        Some(Self {
            source: event.source,
            id: event.id,
            kind: Kind::of_name(&event.kind)?,
            subject: event.subject,
            payment_id: data.payment_id,
            operation_id: data.operation_id,
            amount: data.amount,
            currency: data.currency,
            is_final: data.is_final,
            is_cumulative: data.cumulative.unwrap_or(false),
            expires_at_s: data.expires_at.as_deref().and_then(seconds),
            to: data.to,
            at_s: event.time.as_deref().and_then(seconds).unwrap_or_default(),
        })
    }

    /// Whether it is the last capture, or releases all that is left.
    pub fn is_final(&self) -> bool {
        self.is_final.unwrap_or(self.kind == Kind::Voided)
    }

    /// What of it counts for its payment or deposit.
    pub fn fact(&self) -> Fact {
        Fact {
            kind: self.kind,
            amount: self.amount,
            is_final: self.is_final(),
            is_cumulative: self.is_cumulative,
            at_s: self.at_s,
        }
    }

    /// `payload_sha256`: each text behind its length in four bytes, most significant first; an absent one is four bytes of ones.
    pub fn sha256(&self) -> Vec<u8> {
        let mut form = Vec::new();
        let mut put = |text: Option<&str>| match text {
            None => form.extend_from_slice(&[0xff; 4]),
            Some(text) => {
                form.extend_from_slice(&(text.len() as u32).to_be_bytes());
                form.extend_from_slice(text.as_bytes());
            }
        };
        put(Some(self.kind.name()));
        put(self.subject.as_deref());
        put(self.payment_id.as_deref());
        put(self.operation_id.as_deref());
        put(Some(&self.amount.to_string()));
        put(Some(&self.currency));
        put(Some(match (self.kind, self.is_final()) {
            (Kind::Voided, true) => "false",
            (Kind::Voided, false) => "partial",
            (_, true) => "true",
            (_, false) => "false",
        }));
        let micros = self.expires_at_s.map(|seconds| (seconds * 1_000_000).to_string());
        let rare = [
            ("cumulative", self.is_cumulative.then_some("true")),
            ("expires_at", micros.as_deref()),
            ("to", self.to.as_deref()),
        ];
        for (name, value) in rare.into_iter().filter(|(_, value)| value.is_some()) {
            put(Some(name));
            put(value);
        }
        Sha256::digest(&form).to_vec()
    }
}
