//! Razorpay: `X-Razorpay-Signature`, hexadecimal HMAC-SHA256 over the body (<https://razorpay.com/docs/webhooks/validate-test/>).

use serde_json::Value;

use super::{Kind, Provider, Refused, find, json};
use crate::ingress::{
    amount::Differences,
    mapping::{Capture, Fact, Item, Means, Reading, Row, Step, Terms, nothing, row},
    members::{currency, from_seconds, minor, needed, text},
    request::Request,
    verify::{Cause, Mac, any_mac, from_hex},
};

/// Events under these names that no row knows may be money.
const MONEY: [&str; 3] = ["payment.", "refund.", "order."];

pub(super) const KIND: Kind = Kind {
    name: "razorpay",
    title: "Razorpay",
    account: "notes.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    names: &[],
    rows: &ROWS,
    build: |secrets| {
        let secrets = secrets.bare("the webhook's secret")?;
        Ok(Box::new(Razorpay { keys: secrets.iter().map(|secret| Mac::sha256(secret.as_bytes())).collect() }))
    },
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
        "amount, this refund's; operation the refund's id; of a payment that was never captured: the hold is given up",
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

struct Razorpay {
    keys: Vec<Mac>,
}

impl Provider for Razorpay {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        let claim = request.header("x-razorpay-signature").ok_or(Cause::Missing)?;
        let claim = from_hex(claim).ok_or(Cause::Unreadable)?;
        Ok(any_mac(&self.keys, &[&request.body], &[claim])?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let event = json(&request.body)?;
        let kind = text(&event, "event").unwrap_or_default();
        // The event's id stands in a header that is not signed. The entity tells one event from another as well.
        let entity = if kind.starts_with("refund.") {
            "payload.refund.entity.id"
        } else {
            "payload.payment.entity.id"
        };
        let id = text(&event, entity).map(|entity| format!("{kind}:{entity}"));
        Ok(vec![terms.item(id.as_deref(), kind, read(&event, kind, terms))])
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
    Ok(Ok(Fact {
        step,
        // The payment's notes also where the event is of a refund; none are an empty array.
        account: terms.account.of(payment),
        payment_id: needed(payment, "id")?.to_owned(),
        operation_id: Some(needed(object, "id")?.to_owned()),
        amount: minor(object, "amount", money, Differences::NONE)?,
        currency: money,
        time: event.get("created_at").and_then(Value::as_i64).and_then(from_seconds),
        is_cumulative: false,
        is_final: (step == Step::Captured).then_some(true),
        expires_at: None,
    }))
}
