//! Razorpay: `X-Razorpay-Signature`, hexadecimal HMAC-SHA256 over the body (<https://razorpay.com/docs/webhooks/validate-test/>).

use serde_json::Value;

use super::{
    Kind,
    one_event::{OneEvent, one_claim},
};
use crate::ingress::{
    amount::Differences,
    mapping::{Capture, Fact, Means, Reading, Row, Step, Terms, nothing, row},
    members::{currency, from_seconds, minor, needed, text},
    verify::from_hex,
};

pub(super) const KIND: Kind = Kind {
    name: "razorpay",
    title: "Razorpay",
    account: "notes.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[],
    rows: &ROWS,
    build: |secrets| SAYS.with(secrets, "the webhook's secret", ""),
};

static SAYS: OneEvent = OneEvent {
    claims: |request| one_claim(request, "x-razorpay-signature", from_hex),
    kind: &["event"],
    // The event's id stands in a header that is not signed. The entity tells one event from another as well.
    id: |event, kind| {
        let of = if kind.starts_with("refund.") { "refund" } else { "payment" };
        Some(format!("{kind}:{}", text(event, &format!("payload.{of}.entity.id"))?))
    },
    rows: &ROWS,
    money: &["payment.", "refund.", "order."],
    fact,
};

const ROWS: [Row; 15] = [
    row(
        "payment.authorized",
        Means::Money(Step::Authorized),
        "capture manual: amount; automatic: nothing, payment.captured follows",
    ),
    row(
        "payment.captured",
        Means::Money(Step::Captured),
        "amount; operation the payment's id; capture automatic: money at once",
    ),
    row(
        "refund.processed",
        Means::Money(Step::Refunded),
        "amount, this refund's; operation the refund's id; of a payment that was never captured: the hold is released",
    ),
    row("payment.failed", Means::Nothing, "not final: an authorisation may come late"),
    row("order.paid", Means::Nothing, "the same fact as payment.captured"),
    row("refund.created", Means::Nothing, "no money yet; refund.processed says it"),
    row("refund.failed", Means::Nothing, "a refund that was never processed"),
    row("refund.speed_changed", Means::Nothing, "no money moves"),
    row("payment.downtime.started", Means::Nothing, "no money moves"),
    row("payment.downtime.updated", Means::Nothing, "no money moves"),
    row("payment.downtime.resolved", Means::Nothing, "no money moves"),
    row("payment.dispute.created", Means::Nothing, "the end of the dispute says what money moves"),
    row("payment.dispute.under_review", Means::Nothing, "no money moves"),
    row("payment.dispute.lost", Means::Unclear, "what was deducted when is not in the event"),
    row("payment.dispute.won", Means::Unclear, "what came back when is not in the event"),
];

fn fact(event: &Value, _kind: &str, step: Step, terms: &Terms) -> Reading {
    let payment = event.pointer("/payload/payment/entity").ok_or("payload.payment.entity: missing")?;
    let object = if step == Step::Refunded {
        event.pointer("/payload/refund/entity").ok_or("payload.refund.entity: missing")?
    } else {
        payment
    };
    let is_manual = terms.capture == Capture::Manual;
    let was_captured = payment.get("captured").and_then(Value::as_bool) != Some(false);
    let step = if step == Step::Refunded && !was_captured {
        if !is_manual {
            return nothing("the refund of a payment that was never captured");
        }
        Step::Voided
    } else if step == Step::Captured && !is_manual {
        Step::Succeeded
    } else if step == Step::Authorized && !is_manual {
        return nothing("payment.captured follows (capture = \"automatic\")");
    } else {
        step
    };
    let money = currency(object, "currency")?;
    let amount = minor(object, "amount", money, Differences::NONE)?;
    Ok(Ok(Fact {
        // The payment's notes also where the event is of a refund; none are an empty array.
        account: terms.account.of(payment),
        references: terms.references.of(payment),
        time: event.get("created_at").and_then(Value::as_i64).and_then(from_seconds),
        is_final: (step == Step::Captured).then_some(true),
        ..Fact::new(step, needed(payment, "id")?, needed(object, "id")?, amount, money)
    }))
}
