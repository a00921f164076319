//! Square: `x-square-hmacsha256-signature` over the notification address and the body
//! (<https://developer.squareup.com/docs/webhooks/step3validate>).

use serde_json::Value;

use super::{
    Kind,
    one_event::{OneEvent, one_claim},
};
use crate::ingress::{
    amount::Differences,
    mapping::{Capture, Fact, Means, Reading, Row, Step, Terms, nothing, row},
    members::{at, currency, minor, needed, rfc3339, text},
    verify::from_base64,
};

pub(super) const KIND: Kind = Kind {
    name: "square",
    title: "Square",
    account: "reference_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[(
        "notification_url",
        "the address of this endpoint, byte for byte as Square's dashboard has it",
    )],
    rows: &ROWS,
    build: |secrets| SAYS.with(secrets, "the subscription's signature key", secrets.one("notification_url")?),
};

static SAYS: OneEvent = OneEvent {
    claims: |request| one_claim(request, "x-square-hmacsha256-signature", from_base64),
    kind: &["type"],
    id: |event, _| text(event, "event_id").map(str::to_owned),
    rows: &ROWS,
    money: &["payment.", "refund.", "dispute."],
    fact,
};

const ROWS: [Row; 9] = [
    row(
        "payment.created",
        Means::Money(Step::Captured),
        "by status: COMPLETED total_money, once, operation the payment's id; capture manual: APPROVED a hold, CANCELED gives it up; FAILED",
    ),
    row(
        "payment.updated",
        Means::Money(Step::Captured),
        "as payment.created; comes again with COMPLETED for fees and refunds",
    ),
    row(
        "refund.created",
        Means::Money(Step::Refunded),
        "status COMPLETED only; amount_money; operation the refund's id",
    ),
    row("refund.updated", Means::Money(Step::Refunded), "as refund.created"),
    row("dispute.created", Means::Nothing, "the end of the dispute says what money moves"),
    row("dispute.evidence.created", Means::Nothing, "no money moves"),
    row("dispute.evidence.added", Means::Nothing, "no money moves"),
    row("dispute.evidence.removed", Means::Nothing, "no money moves"),
    row("dispute.state.updated", Means::Unclear, "what was taken or given back when is not in the event"),
];

fn fact(event: &Value, _kind: &str, step: Step, terms: &Terms) -> Reading {
    let is_refund = step == Step::Refunded;
    let member = if is_refund { "data.object.refund" } else { "data.object.payment" };
    let object = at(event, member).ok_or_else(|| format!("{member}: missing"))?;
    let status = needed(object, "status")?;
    let step = match (is_refund, status, terms.capture) {
        (true, "COMPLETED", _) => Step::Refunded,
        (true, _, _) => return nothing("a refund that is not COMPLETED"),
        (false, "COMPLETED", Capture::Automatic) => Step::Succeeded,
        (false, "COMPLETED", Capture::Manual) => Step::Captured,
        (false, "APPROVED", Capture::Manual) => Step::Authorized,
        (false, "CANCELED", Capture::Manual) => Step::Voided,
        (false, "FAILED", _) => Step::Failed,
        (false, "APPROVED" | "CANCELED" | "PENDING", _) => return nothing("a payment that is not COMPLETED"),
        (false, other, _) => return Err(format!("status {other:?} is not known")),
    };
    let amount = if at(object, "total_money").is_some() { "total_money" } else { "amount_money" };
    let money = currency(object, &format!("{amount}.currency"))?;
    let payment = needed(object, if is_refund { "payment_id" } else { "id" })?;
    let minor_units = minor(object, &format!("{amount}.amount"), money, Differences::NONE)?;
    Ok(Ok(Fact {
        account: if is_refund { None } else { terms.account.of(object) },
        references: terms.references.of(object),
        time: text(event, "created_at").and_then(rfc3339),
        is_final: (step == Step::Captured).then_some(true),
        ..Fact::new(step, payment, needed(object, "id")?, minor_units, money)
    }))
}
