//! Checkout.com: `Cko-Signature`, hexadecimal HMAC-SHA256 over the body
//! (<https://www.checkout.com/docs/developer-resources/webhooks/receive-webhooks>).

use serde_json::Value;

use super::{
    Kind,
    one_event::{OneEvent, one_claim},
};
use crate::ingress::{
    amount::Differences,
    mapping::{Fact, Means, Reading, Row, Step, Terms, row},
    members::{currency, minor, needed, rfc3339, text},
    verify::from_hex,
};

/// <https://www.checkout.com/docs/payments/accept-payments/calculating-the-amount>
const DIFFERENCES: Differences = Differences(&[("CLP", 2)]);

pub(super) const KIND: Kind = Kind {
    name: "checkout",
    title: "Checkout.com",
    account: "metadata.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: true,
    says_live: false,
    names: &[],
    rows: &ROWS,
    build: |secrets| SAYS.with(secrets, "the webhook's signature key", ""),
};

static SAYS: OneEvent = OneEvent {
    claims: |request| one_claim(request, "cko-signature", from_hex),
    kind: &["type"],
    id: |event, _| text(event, "id").map(str::to_owned),
    rows: &ROWS,
    money: &["payment_", "dispute_"],
    fact,
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

fn fact(event: &Value, _kind: &str, step: Step, terms: &Terms) -> Reading {
    let data = event.get("data").ok_or("data: missing")?;
    let money = currency(data, "currency")?;
    // A payment that failed may have had no action.
    let is_whole = step == Step::Failed && text(data, "action_id").is_none();
    let operation = if is_whole { "id" } else { "action_id" };
    let amount = match minor(data, "amount", money, DIFFERENCES) {
        Err(_) if matches!(step, Step::Failed | Step::Voided) => 0,
        amount => amount?,
    };
    Ok(Ok(Fact {
        account: terms.account.of(data),
        references: terms.references.of(data),
        time: text(event, "created_on").and_then(rfc3339),
        ..Fact::new(step, needed(data, "id")?, needed(data, operation)?, amount, money)
    }))
}
