//! Mollie's next-generation webhooks: `X-Mollie-Signature` (<https://docs.mollie.com/reference/webhooks-new>). Classic ones are not signed and
//! name a payment only; they are refused.

use serde_json::Value;

use super::{Kind, one_event::OneEvent};
use crate::ingress::{
    mapping::{Fact, Means, Reading, Row, Step, Terms, nothing, row},
    members::{at, currency, decimal_at, needed, rfc3339, text},
    request::Request,
    verify::{CLAIMS_MAX, Cause, from_hex},
};

pub(super) const KIND: Kind = Kind {
    name: "mollie",
    title: "Mollie",
    account: "metadata.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[],
    rows: &ROWS,
    build: |secrets| SAYS.with(secrets, "the webhook's secret", ""),
};

static SAYS: OneEvent = OneEvent {
    claims,
    kind: &["type", "event_type"],
    id: |event, _| text(event, "id").map(str::to_owned),
    rows: &ROWS,
    money: &["payment.", "refund.", "capture.", "chargeback."],
    fact,
};

const ROWS: [Row; 14] = [
    row(
        "payment.paid",
        Means::Money(Step::Succeeded),
        "amount of the embedded payment; operation its id. Of a payment that was held before: nothing where captureMode is manual, because \
         capture.succeeded says it; else a case",
    ),
    row("payment.authorized", Means::Money(Step::Authorized), "amount of the embedded payment"),
    row("payment.canceled", Means::Money(Step::Ended), "amount of the embedded payment"),
    row("payment.expired", Means::Money(Step::Ended), "amount of the embedded payment"),
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

/// Members that a payment has only where it was held before it was captured, or has captures (<https://docs.mollie.com/reference/get-payment>).
const HELD: [&str; 4] = ["authorizedAt", "captureDelay", "amountCaptured", "_links.captures"];

/// After a rotation there are two lines, or one with a comma.
fn claims(request: &Request) -> Result<Vec<Vec<u8>>, Cause> {
    let lines: Vec<&str> = request.lines("x-mollie-signature").collect();
    if lines.is_empty() {
        return Err(Cause::Missing);
    }
    let parts = lines.iter().flat_map(|line| line.split(',')).take(CLAIMS_MAX);
    let claims: Vec<Vec<u8>> =
        parts.filter_map(|part| from_hex(part.trim().strip_prefix("sha256=")?)).collect();
    if claims.is_empty() { Err(Cause::Unreadable) } else { Ok(claims) }
}

fn fact(event: &Value, kind: &str, step: Step, terms: &Terms) -> Reading {
    let object = at(event, "_embedded.entity")
        .ok_or("_embedded.entity: missing; subscribe with the entity embedded")?;
    let is_payment = kind.starts_with("payment.");
    if step == Step::Succeeded {
        // Mollie calls a payment paid once it is captured, too. Which captures told of it is not in this event; that there are any is.
        if text(object, "captureMode") == Some("manual") {
            return nothing("capture.succeeded says it (captureMode manual)");
        }
        if HELD.iter().any(|path| at(object, path).is_some_and(|found| !found.is_null())) {
            return Err("paid after a hold that was not captured by hand; whether capture.succeeded told of this money is not in the event"
                .to_owned());
        }
    }
    let money = currency(object, "amount.currency")?;
    let id = needed(object, "id")?;
    let payment = if is_payment { id } else { needed(object, "paymentId")? };
    Ok(Ok(Fact {
        account: terms.account.of(object),
        references: terms.references.of(object),
        time: text(event, "createdAt").and_then(rfc3339),
        ..Fact::new(step, payment, id, decimal_at(object, "amount.value", money)?, money)
    }))
}
