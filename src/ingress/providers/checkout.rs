//! Checkout.com: `Cko-Signature`, hexadecimal HMAC-SHA256 over the body
//! (<https://www.checkout.com/docs/developer-resources/webhooks/receive-webhooks>).

use serde_json::Value;

use super::{Kind, Provider, Refused, find, json};
use crate::ingress::{
    amount::Differences,
    mapping::{Fact, Item, Means, Reading, Row, Step, Terms, nothing, row},
    members::{currency, minor, needed, rfc3339, text},
    request::Request,
    verify::{Cause, Mac, any_mac, from_hex},
};

/// <https://www.checkout.com/docs/payments/accept-payments/calculating-the-amount>
const DIFFERENCES: Differences = Differences(&[("CLP", 2)]);

/// Events under these names that no row knows may be money.
const MONEY: [&str; 2] = ["payment_", "dispute_"];

pub(super) const KIND: Kind = Kind {
    name: "checkout",
    title: "Checkout.com",
    account: "metadata.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: true,
    names: &[],
    rows: &ROWS,
    build: |secrets| {
        let secrets = secrets.bare("the webhook's signature key")?;
        Ok(Box::new(Checkout { keys: secrets.iter().map(|secret| Mac::sha256(secret.as_bytes())).collect() }))
    },
};

const ROWS: [Row; 24] = [
    row(
        "payment_approved",
        Means::Money(Step::Approved),
        "data.amount; payment data.id, operation data.action_id",
    ),
    row(
        "payment_captured",
        Means::Money(Step::Captured),
        "data.amount, this capture's; operation data.action_id",
    ),
    row("payment_voided", Means::Money(Step::Voided), "data.amount; operation data.action_id"),
    row(
        "payment_refunded",
        Means::Money(Step::Refunded),
        "data.amount, this refund's; operation data.action_id",
    ),
    row("payment_returned", Means::Money(Step::Disputed), "data.amount; operation data.action_id"),
    row("payment_declined", Means::Money(Step::Failed), "data.amount"),
    row("payment_expired", Means::Money(Step::Failed), "data.amount"),
    row("payment_canceled", Means::Money(Step::Failed), "data.amount"),
    row("payment_pending", Means::Nothing, "no money yet"),
    row("payment_capture_pending", Means::Nothing, "no money yet"),
    row("payment_refund_pending", Means::Nothing, "no money yet"),
    row("payment_capture_declined", Means::Nothing, "the hold stays as it was"),
    row("payment_void_declined", Means::Nothing, "the hold stays as it was"),
    row("payment_refund_declined", Means::Nothing, "nothing was refunded"),
    row("payment_authentication_failed", Means::Nothing, "no money yet"),
    row("payment_compliance_review", Means::Nothing, "no money yet"),
    row("payment_retry_scheduled", Means::Nothing, "no money yet"),
    row("payment_instrument_verified", Means::Nothing, "no money moves"),
    row("dispute_received", Means::Nothing, "the end of the dispute says what money moves"),
    row("dispute_evidence_required", Means::Nothing, "no money moves"),
    row("dispute_evidence_submitted", Means::Nothing, "no money moves"),
    row("dispute_lost", Means::Unclear, "whether and when the money was taken is not in the event"),
    row("dispute_won", Means::Unclear, "whether and when the money came back is not in the event"),
    row("dispute_resolved", Means::Unclear, "whether money moved is not in the event"),
];

struct Checkout {
    keys: Vec<Mac>,
}

impl Provider for Checkout {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        let claim = request.header("cko-signature").ok_or(Cause::Missing)?;
        let claim = from_hex(claim).ok_or(Cause::Unreadable)?;
        Ok(any_mac(&self.keys, &[&request.body], &[claim])?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let event = json(&request.body)?;
        let kind = text(&event, "type").unwrap_or_default();
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
    let data = event.get("data").ok_or("data: missing")?;
    let money = currency(data, "currency")?;
    // A payment that failed may have had no action.
    let is_whole = step == Step::Failed && text(data, "action_id").is_none();
    let operation = if is_whole { "id" } else { "action_id" };
    Ok(Ok(Fact {
        step,
        account: terms.account.of(data),
        payment_id: needed(data, "id")?.to_owned(),
        operation_id: Some(needed(data, operation)?.to_owned()),
        amount: match minor(data, "amount", money, DIFFERENCES) {
            Err(_) if matches!(step, Step::Failed | Step::Voided) => 0,
            amount => amount?,
        },
        currency: money,
        time: text(event, "created_on").and_then(rfc3339),
        is_cumulative: false,
        is_final: None,
        expires_at: None,
    }))
}
