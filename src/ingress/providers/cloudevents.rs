//! Senders of CloudEvents over HTTP (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>), in
//! structured or batched mode, whose events are callbacks already. Binary mode is refused: its id, type and subject stand in headers outside
//! what is signed.

use serde_json::value::RawValue;
use subtle::ConstantTimeEq;

use super::{Answer, Kind, Probe, Provider, Refused, standard_webhooks};
use crate::{
    ingress::{
        mapping::{Accepted, Item, Outcome, Terms},
        members::text,
        paths::is_id,
        request::Request,
        verify::Cause,
    },
    signature::Rule,
    wire,
};

/// Events of one batch.
const BATCH_MAX: usize = 1_000;
/// Shortest bearer token, in bytes.
const TOKEN_BYTES_MIN: usize = 16;
/// Types under these names are money.
const MONEY: [&str; 6] = ["deposit.", "payment.", "refund.", "fee.", "transfer.", "adjustment."];

pub(super) const KIND: Kind = Kind {
    name: "cloudevents",
    title: "CloudEvents",
    account: "subject",
    account_until: "",
    needs_purpose: false,
    needs_capture: false,
    says_live: false,
    names: &[("bearer", "a token of 16 bytes or more, where the sender cannot sign")],
    rows: &[],
    build: |secrets| {
        let rule = standard_webhooks::rule(secrets)?;
        let tokens: Vec<String> = secrets.all("bearer").map(|token| format!("Bearer {token}")).collect();
        if rule.keys.is_empty() && tokens.is_empty() {
            return Err("expected a key (whsec_… or whpk_…), or a line `bearer = …`".to_owned());
        }
        if tokens.iter().any(|token| token.len() < "Bearer ".len() + TOKEN_BYTES_MIN) {
            return Err(format!("bearer: shorter than {TOKEN_BYTES_MIN} bytes"));
        }
        Ok(Box::new(CloudEvents { rule, tokens }))
    },
};

struct CloudEvents {
    rule: Rule,
    tokens: Vec<String>,
}

impl Provider for CloudEvents {
    fn verify(&self, request: &Request, now_s: i64) -> Result<(), Refused> {
        if !self.tokens.is_empty() {
            let claimed = request.header("authorization").ok_or(Cause::Missing)?;
            let is_right = self.tokens.iter().any(|token| token.as_bytes().ct_eq(claimed.as_bytes()).into());
            if !is_right {
                return Err(Cause::NoMatch.into());
            }
        }
        if self.rule.keys.is_empty() { Ok(()) } else { standard_webhooks::verify(&self.rule, request, now_s) }
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let kind = request.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/cloudevents+json" => Ok(vec![item(&request.body, terms)]),
            "application/cloudevents-batch+json" => {
                let events = batch(&request.body)?;
                if events.len() > BATCH_MAX {
                    return Err(format!("{} events, at most {BATCH_MAX} are allowed in a batch", events.len()));
                }
                Ok(events.into_iter().map(|event| item(event.get().as_bytes(), terms)).collect())
            }
            _ => Err("expected content type application/cloudevents+json or application/cloudevents-batch+json; binary mode \
                 is refused, because what it says stands in headers that are not signed"
                .to_owned()),
        }
    }

    fn apart(&self, request: &Request) -> Result<Vec<Vec<u8>>, String> {
        let events = batch(&request.body)?;
        Ok(events.into_iter().map(|event| format!("[{event}]").into_bytes()).collect())
    }

    fn kept_headers(&self) -> &'static [&'static str] {
        &["content-type"]
    }

    fn yes(&self) -> Answer {
        Answer::empty(204)
    }

    fn probe(&self, probe: Probe<'_>) -> Option<Answer> {
        let origin = probe.request.header("webhook-request-origin").filter(|_| probe.method == "OPTIONS")?;
        let allowed = [
            ("allow", "POST, OPTIONS".to_owned()),
            ("webhook-allowed-origin", origin.to_owned()),
            ("webhook-allowed-rate", "*".to_owned()),
        ];
        Some(Answer { headers: allowed.into(), ..Answer::empty(200) })
    }
}

/// The events of a batch.
fn batch(body: &[u8]) -> Result<Vec<&RawValue>, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is not a JSON array of events: {error}"))
}

/// Whether a type is one of money.
pub(super) fn is_money(kind: &str) -> bool {
    MONEY.iter().any(|prefix| kind.starts_with(prefix))
}

/// An event that is a callback already: what the worker would accept, unchanged.
pub(super) fn item(event: &[u8], terms: &Terms) -> Item {
    let value: serde_json::Value = serde_json::from_slice(event).unwrap_or_default();
    let (id, kind) = (text(&value, "id").filter(|id| is_id(id)), text(&value, "type").unwrap_or_default());
    let outcome = if value.get("specversion").is_some() && !kind.is_empty() && !is_money(kind) {
        Outcome::Ignored("not an event of a payment".to_owned())
    } else {
        match wire::decode(event) {
            Err(problem) => Outcome::Unmapped(problem.detail),
            Ok(callback) if callback.key.source.as_str() != terms.source => {
                Outcome::Unmapped(format!("source: this endpoint speaks for {:?} only", terms.source))
            }
            Ok(callback) => Outcome::Accepted(Accepted {
                routing_key: callback.routing_key().to_owned(),
                id: callback.key.event_id.as_str().to_owned(),
                body: event.to_vec(),
            }),
        }
    };
    Item {
        id: id.map(str::to_owned),
        kind: kind.chars().filter(|c| !c.is_control()).take(80).collect(),
        outcome,
    }
}
