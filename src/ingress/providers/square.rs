//! Square: `x-square-hmacsha256-signature` over the notification address and the body
//! (<https://developer.squareup.com/docs/webhooks/step3validate>).

use serde_json::Value;

use super::{Kind, Provider, Refused, find, json};
use crate::ingress::{
    amount::Differences,
    mapping::{Capture, Fact, Item, Means, Reading, Row, Step, Terms, nothing, row},
    members::{at, currency, minor, needed, rfc3339, text},
    request::Request,
    verify::{Cause, Mac, any_mac, from_base64},
};

/// Events under these names that no row knows may be money.
const MONEY: [&str; 3] = ["payment.", "refund.", "dispute."];

pub(super) const KIND: Kind = Kind {
    name: "square",
    title: "Square",
    account: "reference_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    names: &[(
        "notification_url",
        "the address of this endpoint, byte for byte as Square's dashboard has it",
    )],
    rows: &ROWS,
    build: |secrets| {
        let url = secrets.one("notification_url")?.to_owned();
        let keys = secrets.bare("the subscription's signature key")?;
        Ok(Box::new(Square { url, keys: keys.iter().map(|key| Mac::sha256(key.as_bytes())).collect() }))
    },
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

struct Square {
    url: String,
    keys: Vec<Mac>,
}

impl Provider for Square {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        let claim = request.header("x-square-hmacsha256-signature").ok_or(Cause::Missing)?;
        let claim = from_base64(claim).ok_or(Cause::Unreadable)?;
        Ok(any_mac(&self.keys, &[self.url.as_bytes(), &request.body], &[claim])?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let event = json(&request.body)?;
        let kind = text(&event, "type").unwrap_or_default();
        Ok(vec![terms.item(text(&event, "event_id"), kind, read(&event, kind, terms))])
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
    let id = needed(object, "id")?;
    Ok(Ok(Fact {
        step,
        account: if is_refund { None } else { terms.account.of(object) },
        payment_id: needed(object, if is_refund { "payment_id" } else { "id" })?.to_owned(),
        operation_id: Some(id.to_owned()),
        amount: minor(object, &format!("{amount}.amount"), money, Differences::NONE)?,
        currency: money,
        time: text(event, "created_at").and_then(rfc3339),
        is_cumulative: false,
        is_final: (step == Step::Captured).then_some(true),
        expires_at: None,
    }))
}
