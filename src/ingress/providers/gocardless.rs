//! GoCardless: `Webhook-Signature`, hexadecimal HMAC-SHA256 over the body
//! (<https://developer.gocardless.com/getting-started/staying-up-to-date-with-webhooks>). Its events carry neither amount nor currency.

use serde_json::Value;

use super::{Answer, Kind, Provider, Refused, by_table, each_apart, json, one_event::one_claim};
use crate::ingress::{
    mapping::{Item, Means, Row, Terms, row},
    members::text,
    request::Request,
    verify::{Mac, any_mac, from_hex},
};

/// Events of one request (GoCardless sends at most 250).
const EVENTS_MAX: usize = 250;

pub(super) const KIND: Kind = Kind {
    name: "gocardless",
    title: "GoCardless",
    account: "metadata.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[],
    rows: &ROWS,
    build: |secrets| {
        let secrets = secrets.bare("the webhook endpoint's secret")?;
        Ok(Box::new(GoCardless {
            keys: secrets.iter().map(|secret| Mac::sha256(secret.as_bytes())).collect(),
        }))
    },
};

const NO_AMOUNT: &str = "the event carries no amount and no currency; look the payment up at GoCardless";

const ROWS: [Row; 22] = [
    row("payments.confirmed", Means::Unclear, NO_AMOUNT),
    row("payments.failed", Means::Unclear, "it may follow payments.confirmed; the event carries no amount"),
    row("payments.charged_back", Means::Unclear, NO_AMOUNT),
    row("payments.chargeback_cancelled", Means::Unclear, NO_AMOUNT),
    row("payments.chargeback_settled", Means::Nothing, "payments.charged_back says it"),
    row("payments.late_failure_settled", Means::Nothing, "payments.failed says it"),
    row("payments.paid_out", Means::Nothing, "the same money as payments.confirmed"),
    row("payments.created", Means::Nothing, "no money yet"),
    row("payments.customer_approval_granted", Means::Nothing, "no money yet"),
    row("payments.customer_approval_denied", Means::Nothing, "no money moves"),
    row("payments.submitted", Means::Nothing, "no money yet"),
    row("payments.resubmission_requested", Means::Nothing, "no money yet"),
    row("payments.surcharge_fee_debited", Means::Nothing, "not a customer's money"),
    row("payments.surcharge_fee_credited", Means::Nothing, "not a customer's money"),
    row("payments.cancelled", Means::Nothing, "no money moved"),
    row("refunds.paid", Means::Unclear, NO_AMOUNT),
    row("refunds.failed", Means::Unclear, NO_AMOUNT),
    row("refunds.bounced", Means::Unclear, NO_AMOUNT),
    row("refunds.funds_returned", Means::Unclear, NO_AMOUNT),
    row("refunds.created", Means::Nothing, "no money yet"),
    row("refunds.submitted", Means::Nothing, "no money yet"),
    row("refunds.refund_settled", Means::Nothing, "refunds.paid says it"),
];

struct GoCardless {
    keys: Vec<Mac>,
}

impl Provider for GoCardless {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        let claims = one_claim(request, "webhook-signature", from_hex)?;
        Ok(any_mac(&self.keys, &[&request.body], &claims)?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let body = json(&request.body)?;
        let events = body.get("events").and_then(Value::as_array).ok_or("events: expected an array")?;
        if events.len() > EVENTS_MAX {
            return Err(format!("events: {} of them, at most {EVENTS_MAX} are allowed", events.len()));
        }
        let item = |event: &Value| {
            let member = |name| text(event, name).unwrap_or_default();
            let kind = format!("{}.{}", member("resource_type"), member("action"));
            // No row is money: what moves it says neither how much nor in which currency.
            let reading = by_table(&ROWS, &["payments.", "refunds."], &kind, |_| Err(NO_AMOUNT.to_owned()));
            terms.item(text(event, "id"), &kind, reading)
        };
        Ok(events.iter().map(item).collect())
    }

    fn apart(&self, request: &Request) -> Result<Vec<Vec<u8>>, String> {
        each_apart(&request.body, "events")
    }

    fn yes(&self) -> Answer {
        Answer::empty(204)
    }

    fn no(&self, status: u16) -> Answer {
        // The status that GoCardless asks for.
        Answer::empty(if status == 401 { 498 } else { status })
    }
}
