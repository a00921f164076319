//! Stripe: `Stripe-Signature` (<https://docs.stripe.com/webhooks#verify-manually>) and its events.

use serde_json::Value;

use super::{Kind, Provider, Refused, by_table, json};
use crate::ingress::{
    amount::Differences,
    mapping::{Fact, Item, Means, Purpose, Reading, Row, Step, Terms, nothing, row},
    members::{currency, from_seconds, minor, needed, text, whole},
    request::Request,
    verify::{CLAIMS_MAX, Cause, Mac, any_mac, from_hex, is_recent, seconds},
};

/// How old a signature may be, in seconds: what Stripe's libraries allow.
const TOLERANCE_S: u64 = 300;

/// <https://docs.stripe.com/currencies#zero-decimal>: MGA is charged without decimals; ISK and UGX with two that must be zeros.
const DIFFERENCES: Differences = Differences(&[("MGA", 0), ("ISK", 2), ("UGX", 2)]);

/// Events under these names that no row knows may be money.
const MONEY: [&str; 4] = ["payment_intent.", "charge.", "refund.", "capital."];

pub(super) const KIND: Kind = Kind {
    name: "stripe",
    title: "Stripe",
    account: "metadata.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: true,
    names: &[],
    rows: &ROWS,
    build: |secrets| {
        let secrets = secrets.bare("the endpoint's signing secret (whsec_…)")?;
        // The key is the whole text: Stripe's whsec_ is not the base64 that Standard Webhooks puts behind the same prefix.
        Ok(Box::new(Stripe { keys: secrets.iter().map(|secret| Mac::sha256(secret.as_bytes())).collect() }))
    },
};

const ROWS: [Row; 30] = [
    row(
        "payment_intent.succeeded",
        Means::Money(Step::Succeeded),
        "amount_received; operation latest_charge. With capture_method manual and purpose payment: the end of the capture, a running total \
         with final",
    ),
    row(
        "payment_intent.amount_capturable_updated",
        Means::Money(Step::Authorized),
        "amount_capturable. After an increment (previous_attributes above 0): the new total; after a capture: nothing",
    ),
    row(
        "charge.captured",
        Means::Money(Step::CapturedOfHold),
        "purpose payment: amount_captured, a running total; purpose deposit: nothing, payment_intent.succeeded says it",
    ),
    row(
        "payment_intent.canceled",
        Means::Money(Step::Ended),
        "only with a latest_charge: else nothing was held",
    ),
    row("refund.created", Means::Money(Step::Refunded), "status succeeded only; operation the refund's id"),
    row("refund.updated", Means::Money(Step::Refunded), "status succeeded only; the same refund once"),
    row("charge.refund.updated", Means::Money(Step::Refunded), "status succeeded only; the same refund once"),
    row("refund.failed", Means::Money(Step::RefundFailed), "takes back the refund of the same id"),
    row("charge.dispute.funds_withdrawn", Means::Money(Step::Disputed), "amount; operation the dispute's id"),
    row(
        "charge.dispute.funds_reinstated",
        Means::Money(Step::Reinstated),
        "amount; operation the dispute's id",
    ),
    row("charge.succeeded", Means::Nothing, "the same fact as payment_intent.succeeded, or an authorisation"),
    row("charge.refunded", Means::Nothing, "the same fact as refund.*; amount_refunded is a running total"),
    row("payment_intent.payment_failed", Means::Nothing, "not final: the same intent may succeed later"),
    row("charge.failed", Means::Nothing, "not final: the same intent may succeed later"),
    row("charge.expired", Means::Nothing, "payment_intent.canceled says it"),
    row("charge.pending", Means::Nothing, "no money yet"),
    row("charge.updated", Means::Nothing, "no money moves"),
    row("charge.dispute.created", Means::Nothing, "no money moves"),
    row("charge.dispute.updated", Means::Nothing, "no money moves"),
    row(
        "charge.dispute.closed",
        Means::Nothing,
        "no money moves; funds_withdrawn and funds_reinstated say what does",
    ),
    row("payment_intent.created", Means::Nothing, "no money yet"),
    row("payment_intent.processing", Means::Nothing, "no money yet"),
    row("payment_intent.requires_action", Means::Nothing, "no money yet"),
    row("payment_intent.partially_funded", Means::Nothing, "no money yet"),
    row("checkout.session.completed", Means::Nothing, "the same fact as payment_intent.succeeded"),
    row(
        "checkout.session.async_payment_succeeded",
        Means::Nothing,
        "the same fact as payment_intent.succeeded",
    ),
    row("invoice.paid", Means::Nothing, "the same fact as payment_intent.succeeded"),
    row("invoice.payment_succeeded", Means::Nothing, "the same fact as payment_intent.succeeded"),
    row("payout.paid", Means::Nothing, "not a customer's money"),
    row("balance.available", Means::Nothing, "not a customer's money"),
];

struct Stripe {
    keys: Vec<Mac>,
}

impl Provider for Stripe {
    fn verify(&self, request: &Request, now_s: i64) -> Result<(), Refused> {
        let header = request.header("stripe-signature").ok_or(Cause::Missing)?;
        let (mut timestamp, mut claims) = (None, Vec::new());
        // Of every other scheme (v0) nothing is believed. `t` counts once: with two of them it is a matter of taste which was signed.
        for part in header.split(',') {
            match part.split_once('=') {
                Some(("t", _)) if timestamp.is_some() => return Err(Cause::Unreadable.into()),
                Some(("t", value)) => timestamp = Some(value),
                Some(("v1", value)) if claims.len() < CLAIMS_MAX => claims.extend(from_hex(value)),
                Some(_) | None => {}
            }
        }
        let timestamp = timestamp.ok_or(Cause::Missing)?;
        let signed_at_s = seconds(timestamp).ok_or(Cause::Unreadable)?;
        if claims.is_empty() {
            return Err(Cause::Unreadable.into());
        }
        any_mac(&self.keys, &[timestamp.as_bytes(), b".", &request.body], &claims)?;
        Ok(is_recent(signed_at_s, now_s, TOLERANCE_S)?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let event = json(&request.body)?;
        let id = text(&event, "id");
        if text(&event, "object") == Some("v2.core.event") {
            return Ok(vec![terms.item(id, "v2.core.event", nothing("a thin event carries no object"))]);
        }
        let kind = text(&event, "type").unwrap_or_default();
        let reading = by_table(&ROWS, &MONEY, kind, |step| fact(&event, kind, step, terms));
        Ok(vec![terms.item(id, kind, reading)])
    }
}

fn fact(event: &Value, kind: &str, step: Step, terms: &Terms) -> Reading {
    if let Some(is_live) = terms.is_live
        && event.get("livemode").and_then(Value::as_bool) != Some(is_live)
    {
        return Err(format!("livemode is not {is_live}, which this endpoint is for"));
    }
    let object = event.pointer("/data/object").ok_or("data.object: missing")?;
    let before = event.pointer("/data/previous_attributes").unwrap_or(&Value::Null);
    let is_manual = text(object, "capture_method") == Some("manual");
    let id = needed(object, "id")?;
    let charge = text(object, "latest_charge");
    let money = currency(object, "currency")?;
    let amount = |member| minor(object, member, money, DIFFERENCES);
    let mut fact = Fact {
        operation_id: charge.map(str::to_owned),
        time: event.get("created").and_then(Value::as_i64).and_then(from_seconds),
        references: terms.references.of(object),
        ..Fact::new(step, id, id, 0, money)
    };
    match kind {
        "payment_intent.succeeded" => {
            fact.account = terms.account.of(object);
            fact.amount = amount("amount_received")?;
            if is_manual && terms.purpose == Some(Purpose::Payment) {
                // charge.captured tells the same money as a running total: applied together they are applied once.
                fact.step = Step::CapturedOfHold;
                (fact.is_cumulative, fact.is_final) = (true, Some(true));
            }
        }
        "payment_intent.amount_capturable_updated" => {
            fact.account = terms.account.of(object);
            fact.amount = amount("amount_capturable")?;
            match whole(before, "amount_capturable") {
                Ok(before) if before > whole(object, "amount_capturable")? => {
                    return nothing(
                        "less can be captured than before: a capture, or the end of the hold, says it",
                    );
                }
                Ok(before) if before > 0 => {
                    fact.step = Step::Adjusted;
                    fact.operation_id = None;
                    let captured = amount("amount_received")?;
                    fact.amount = fact.amount.checked_add(captured).ok_or("amount_capturable: too large")?;
                }
                Ok(_) | Err(_) => {}
            }
        }
        "payment_intent.canceled" => {
            if charge.is_none() {
                return nothing("canceled before anything was held");
            }
            fact.account = terms.account.of(object);
            fact.amount = amount("amount")?;
        }
        "charge.captured" => {
            if terms.purpose == Some(Purpose::Deposit) {
                return nothing("payment_intent.succeeded says it");
            }
            fact.account = terms.account.of(object);
            fact.payment_id = text(object, "payment_intent").unwrap_or(id).to_owned();
            fact.amount = amount("amount_captured")?;
            // One charge is captured several times: each running total is a movement of its own.
            fact.operation_id = Some(format!("{id}:{}", fact.amount));
            fact.is_cumulative = true;
            // Where no more may be captured, the rest of the hold is released.
            let more = text(object, "payment_method_details.card.multicapture.status") == Some("available");
            fact.is_final = (!more).then_some(true);
        }
        // refund.* and charge.dispute.*: objects of their own, with metadata of their own. The account is that of the payment.
        _ => {
            let payment = text(object, "payment_intent").or_else(|| text(object, "charge"));
            fact.payment_id = payment.ok_or("payment_intent, charge: missing")?.to_owned();
            fact.operation_id = Some(id.to_owned());
            fact.amount = amount("amount")?;
            if step == Step::Refunded && text(object, "status") != Some("succeeded") {
                return nothing("a refund that has not succeeded");
            }
        }
    }
    Ok(Ok(fact))
}
