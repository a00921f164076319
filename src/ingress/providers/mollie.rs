//! Mollie's next-generation webhooks: `X-Mollie-Signature` (<https://docs.mollie.com/reference/webhooks-new>). Classic ones are not signed and
//! name a payment only; they are refused.

use serde_json::Value;

use super::{Kind, Provider, Refused, find, json};
use crate::ingress::{
    mapping::{Fact, Item, Means, Reading, Row, Step, Terms, nothing, row},
    members::{at, currency, decimal_at, needed, rfc3339, text},
    request::Request,
    verify::{CLAIMS_MAX, Cause, Mac, any_mac, from_hex},
};

/// Events under these names that no row knows may be money.
const MONEY: [&str; 4] = ["payment.", "refund.", "capture.", "chargeback."];

pub(super) const KIND: Kind = Kind {
    name: "mollie",
    title: "Mollie",
    account: "metadata.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    names: &[],
    rows: &ROWS,
    build: |secrets| {
        let secrets = secrets.bare("the webhook's secret")?;
        Ok(Box::new(Mollie { keys: secrets.iter().map(|secret| Mac::sha256(secret.as_bytes())).collect() }))
    },
};

const ROWS: [Row; 14] = [
    row("payment.paid", Means::Money(Step::Succeeded), "amount of the embedded payment; operation its id"),
    row("payment.authorized", Means::Money(Step::Authorized), "amount of the embedded payment"),
    row("payment.canceled", Means::Money(Step::Voided), "amount of the embedded payment"),
    row("payment.expired", Means::Money(Step::Voided), "amount of the embedded payment"),
    row("payment.failed", Means::Money(Step::Failed), "amount of the embedded payment"),
    row(
        "capture.succeeded",
        Means::Money(Step::CapturedOfHold),
        "amount of the embedded capture; operation its id, payment paymentId",
    ),
    row("capture.failed", Means::Nothing, "the hold stays as it was"),
    row(
        "refund.refunded",
        Means::Money(Step::Refunded),
        "amount of the embedded refund; operation its id, payment paymentId",
    ),
    row("refund.failed", Means::Money(Step::RefundFailed), "takes back the refund of the same id"),
    row("refund.queued", Means::Nothing, "no money yet"),
    row("refund.canceled", Means::Nothing, "no money moved"),
    row(
        "chargeback.received",
        Means::Money(Step::Disputed),
        "amount of the embedded chargeback; payment paymentId",
    ),
    row(
        "chargeback.reversed",
        Means::Money(Step::Reinstated),
        "amount of the embedded chargeback; payment paymentId",
    ),
    row("payment-link.paid", Means::Nothing, "the same fact as payment.paid"),
];

struct Mollie {
    keys: Vec<Mac>,
}

impl Provider for Mollie {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        // After a rotation there are two lines, or one with a comma.
        let lines: Vec<&str> = request.lines("x-mollie-signature").collect();
        if lines.is_empty() {
            return Err(Cause::Missing.into());
        }
        let parts = lines.iter().flat_map(|line| line.split(',')).take(CLAIMS_MAX);
        let claims: Vec<Vec<u8>> =
            parts.filter_map(|part| from_hex(part.trim().strip_prefix("sha256=")?)).collect();
        if claims.is_empty() {
            return Err(Cause::Unreadable.into());
        }
        Ok(any_mac(&self.keys, &[&request.body], &claims)?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let event = json(&request.body)?;
        let kind = text(&event, "type").or_else(|| text(&event, "event_type")).unwrap_or_default();
        Ok(vec![terms.item(text(&event, "id"), kind, read(&event, kind, terms))])
    }
}

fn read(event: &Value, kind: &str, terms: &Terms) -> Reading {
    let step = match find(&ROWS, kind) {
        Some(Row { means: Means::Money(step), .. }) => *step,
        Some(Row { means: Means::Nothing, note, .. }) => return nothing(note),
        Some(Row { means: Means::Unclear, note, .. }) => return Err((*note).to_owned()),
        None if MONEY.iter().any(|prefix| kind.starts_with(prefix)) => {
            return Err(format!("event {kind:?} is not known"));
        }
        None => return nothing("not an event of a payment"),
    };
    let object = at(event, "_embedded.entity")
        .ok_or("_embedded.entity: missing; subscribe with the entity embedded")?;
    let is_payment = kind.starts_with("payment.");
    let money = currency(object, "amount.currency")?;
    let id = needed(object, "id")?;
    Ok(Ok(Fact {
        step,
        account: terms.account.of(object),
        payment_id: if is_payment { id } else { needed(object, "paymentId")? }.to_owned(),
        operation_id: Some(id.to_owned()),
        amount: decimal_at(object, "amount.value", money)?,
        currency: money,
        time: text(event, "createdAt").and_then(rfc3339),
        is_cumulative: false,
        is_final: None,
        expires_at: None,
    }))
}
