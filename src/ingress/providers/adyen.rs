//! Adyen: standard webhooks (<https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures>), signed item by
//! item, and platform webhooks, signed as a whole.

use serde_json::Value;
use subtle::ConstantTimeEq;

use super::{Answer, Kind, Provider, Refused, by_table, each_apart, json};
use crate::ingress::{
    amount::Differences,
    mapping::{Fact, Item, Means, Purpose, Reading, Row, Step, Terms, nothing, row},
    members::{at, currency, minor, needed, rfc3339, text},
    request::Request,
    verify::{Cause, Mac, any_mac, from_base64, from_hex, to_base64},
};

/// <https://docs.adyen.com/development-resources/currency-codes>
const DIFFERENCES: Differences = Differences(&[("CLP", 2), ("ISK", 2), ("CVE", 0), ("IDR", 0)]);

/// Items of one request: JSON has one, SOAP up to six.
const ITEMS_MAX: usize = 100;

pub(super) const KIND: Kind = Kind {
    name: "adyen",
    title: "Adyen",
    account: "merchantReference",
    account_until: "/",
    needs_purpose: true,
    needs_capture: true,
    says_live: false,
    names: &[
        ("merchant_account", "an account whose items are money here; several lines for several"),
        ("basic", "user:password of the webhook's basic authentication"),
    ],
    rows: &ROWS,
    build: |secrets| {
        let keys = secrets.bare("the webhook's HMAC key, 64 hexadecimal digits")?.iter().map(|text| {
            let key = from_hex(&text.to_ascii_lowercase()).filter(|key| key.len() >= 16);
            Ok(Mac::sha256(&key.ok_or("an HMAC key is not hexadecimal digits")?))
        });
        Ok(Box::new(Adyen {
            keys: keys.collect::<Result<_, String>>()?,
            merchant_accounts: secrets.all("merchant_account").map(str::to_owned).collect(),
            basic: secrets.all("basic").map(|pair| format!("Basic {}", to_base64(pair.as_bytes()))).collect(),
        }))
    },
};

const ROWS: [Row; 37] = [
    row(
        "AUTHORISATION",
        Means::Money(Step::Approved),
        "success true; success false: payment.failed, or nothing for a deposit",
    ),
    row(
        "CAPTURE",
        Means::Money(Step::Captured),
        "success true and no acquirer's error; operation pspReference, payment originalReference",
    ),
    row(
        "CAPTURE_FAILED",
        Means::Money(Step::CaptureFailed),
        "takes back the CAPTURE of the same pspReference",
    ),
    row("CANCELLATION", Means::Money(Step::Voided), "success true; the amount may be 0"),
    row("TECHNICAL_CANCEL", Means::Money(Step::Voided), "success true; the amount may be 0"),
    row("EXPIRE", Means::Money(Step::Voided), "success true; the amount may be 0"),
    row(
        "AUTHORISATION_ADJUSTMENT",
        Means::Money(Step::Adjusted),
        "success true; the amount is the new total",
    ),
    row(
        "REFUND",
        Means::Money(Step::Refunded),
        "success true; operation pspReference, payment originalReference",
    ),
    row("REFUND_WITH_DATA", Means::Money(Step::Refunded), "as REFUND"),
    row("REFUND_FAILED", Means::Money(Step::RefundFailed), "takes back the REFUND of the same pspReference"),
    row(
        "REFUNDED_REVERSED",
        Means::Money(Step::RefundFailed),
        "takes back the REFUND of the same pspReference",
    ),
    row("CHARGEBACK", Means::Money(Step::Disputed), DISPUTE),
    row("SECOND_CHARGEBACK", Means::Money(Step::Disputed), DISPUTE),
    row("PREARBITRATION_LOST", Means::Money(Step::Disputed), DISPUTE),
    row(
        "CHARGEBACK_REVERSED",
        Means::Money(Step::Reinstated),
        "success true; takes back the CHARGEBACK of the same pspReference",
    ),
    row("PREARBITRATION_WON", Means::Money(Step::ReinstatedElsewhere), DISPUTE),
    row("CANCEL_OR_REFUND", Means::Unclear, "which of the two it was stands in a member that is not signed"),
    row("NOTIFICATION_OF_CHARGEBACK", Means::Nothing, "no money moves"),
    row("REQUEST_FOR_INFORMATION", Means::Nothing, "no money moves"),
    row("NOTIFICATION_OF_FRAUD", Means::Nothing, "no money moves"),
    row("DISPUTE_DEFENSE_PERIOD_ENDED", Means::Nothing, "no money moves"),
    row("INFORMATION_SUPPLIED", Means::Nothing, "no money moves"),
    row("ISSUER_RESPONSE_TIMEFRAME_EXPIRED", Means::Nothing, "no money moves"),
    row("OFFER_CLOSED", Means::Nothing, "no money moves"),
    row("PENDING", Means::Nothing, "no money yet"),
    row("ORDER_OPENED", Means::Nothing, "no money moves"),
    row("ORDER_CLOSED", Means::Nothing, "the sum of payments that were told one by one"),
    row("RECURRING_CONTRACT", Means::Nothing, "no money moves"),
    row("REPORT_AVAILABLE", Means::Nothing, "no money moves"),
    row("PAYMENT_REQUESTED", Means::Nothing, "no money yet"),
    row("HANDLED_EXTERNALLY", Means::Nothing, "no money moves"),
    row("VOID_PENDING_REFUND", Means::Unclear, "which of the two it was is told by another event"),
    row("PAIDOUT_REVERSED", Means::Nothing, "not a customer's money"),
    row("POSTPONED_REFUND", Means::Nothing, "no money yet"),
    row("balancePlatform.transfer.created", Means::Money(Step::Succeeded), TRANSFER),
    row("balancePlatform.transfer.updated", Means::Money(Step::Succeeded), TRANSFER),
    row(
        "balancePlatform.transaction.created",
        Means::Nothing,
        "the same fact as balancePlatform.transfer.updated",
    ),
];

const DISPUTE: &str =
    "success true; operation the eventCode and pspReference, which all events of the dispute have";
const TRANSFER: &str = "category bank and status booked; deposit: incoming, payment: outgoing, the other way a case; data.amount; operation data.id";
/// How the names of platform webhooks begin.
const PLATFORM: &str = "balancePlatform.";

/// Where an item's signature stands.
const SIGNATURE: &str = "additionalData.hmacSignature";
/// Not signed by Adyen at times, and never money.
const UNSIGNED: [&str; 2] = ["REPORT_AVAILABLE", "PENDING"];

struct Adyen {
    keys: Vec<Mac>,
    /// Empty: any. The signed text is not injective, so that an account is part of what is believed.
    merchant_accounts: Vec<String>,
    basic: Vec<String>,
}

/// The items, or `None` for a platform webhook.
fn items(body: &Value) -> Result<Option<Vec<&Value>>, String> {
    let Some(found) = body.get("notificationItems") else { return Ok(None) };
    let found = found.as_array().ok_or("notificationItems: expected an array")?;
    if found.is_empty() || found.len() > ITEMS_MAX {
        return Err(format!("notificationItems: {} items, expected 1 to {ITEMS_MAX}", found.len()));
    }
    let item =
        |item: &'_ Value| -> Option<()> { item.get("NotificationRequestItem")?.as_object().map(|_| ()) };
    if !found.iter().all(|found| item(found).is_some()) {
        return Err("notificationItems: expected objects with a NotificationRequestItem".to_owned());
    }
    Ok(Some(found.iter().filter_map(|found| found.get("NotificationRequestItem")).collect()))
}

/// A member as it stands in the signed text: missing and null are empty; numbers and texts as they are written.
fn signed(item: &Value, path: &str) -> Result<String, Cause> {
    match at(item, path) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(Cause::Unreadable),
    }
}

impl Adyen {
    fn verify_item(&self, item: &Value) -> Result<(), Cause> {
        let Some(claim) = text(item, SIGNATURE) else {
            let kind = text(item, "eventCode").unwrap_or_default();
            return if UNSIGNED.contains(&kind) { Ok(()) } else { Err(Cause::Missing) };
        };
        let claim = from_base64(claim).ok_or(Cause::Unreadable)?;
        let members = [
            "pspReference",
            "originalReference",
            "merchantAccountCode",
            "merchantReference",
            "amount.value",
            "amount.currency",
            "eventCode",
            "success",
        ];
        // Nothing is escaped: older guides do so, Adyen does not.
        let texts: Result<Vec<String>, Cause> = members.iter().map(|path| signed(item, path)).collect();
        any_mac(&self.keys, &[texts?.join(":").as_bytes()], &[claim])?;
        let account = text(item, "merchantAccountCode").unwrap_or_default();
        let is_ours =
            self.merchant_accounts.is_empty() || self.merchant_accounts.iter().any(|ours| ours == account);
        if is_ours { Ok(()) } else { Err(Cause::OtherAccount) }
    }
}

impl Provider for Adyen {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        if !self.basic.is_empty() {
            let claimed = request.header("authorization").ok_or(Cause::Missing)?;
            let is_right = self.basic.iter().any(|basic| basic.as_bytes().ct_eq(claimed.as_bytes()).into());
            if !is_right {
                return Err(Cause::NoMatch.into());
            }
        }
        if let Some(claim) = request.header("hmacsignature") {
            let claim = from_base64(claim).ok_or(Cause::Unreadable)?;
            any_mac(&self.keys, &[&request.body], &[claim])?;
            // A standard webhook with that header: its items are signed one by one all the same.
        }
        let body = json(&request.body).map_err(Refused::Malformed)?;
        match items(&body).map_err(Refused::Malformed)? {
            None if request.header("hmacsignature").is_some() => Ok(()),
            // A platform webhook has its signature in that header.
            None if text(&body, "type").is_some() => Err(Cause::Missing.into()),
            // Neither of the two that Adyen sends: there is nothing whose signature could be wrong.
            None => Err(Refused::Malformed("expected notificationItems, or a type".to_owned())),
            Some(items) => Ok(items.iter().try_for_each(|item| self.verify_item(item))?),
        }
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let body = json(&request.body)?;
        let Some(items) = items(&body)? else {
            return Ok(vec![platform(&body, terms)]);
        };
        Ok(items.into_iter().map(|item| one(item, terms)).collect())
    }

    fn apart(&self, request: &Request) -> Result<Vec<Vec<u8>>, String> {
        each_apart(&request.body, "notificationItems")
    }

    fn is_signed(&self, request: &Request) -> bool {
        // A password, the signature of the whole, or that of an item: `verify` has looked at all that there are.
        let has_signed_item = || {
            let body = json(&request.body).unwrap_or_default();
            let items = items(&body).ok().flatten().unwrap_or_default();
            items.iter().any(|item| text(item, SIGNATURE).is_some())
        };
        !self.basic.is_empty() || request.header("hmacsignature").is_some() || has_signed_item()
    }

    fn yes(&self) -> Answer {
        // Older accounts count nothing but this text as a yes.
        Answer::text(200, "[accepted]")
    }
}

fn one(item: &Value, terms: &Terms) -> Item {
    let kind = text(item, "eventCode").unwrap_or_default();
    let said = text(item, "success").map(str::to_owned).or_else(|| Some(item.get("success")?.to_string()));
    let said = said.unwrap_or_default();
    let id = text(item, "pspReference").map(|reference| format!("{kind}:{reference}:{said}"));
    terms.item(id.as_deref(), kind, read(item, kind, &said, terms))
}

/// A platform webhook: one event, all of it signed. Only transfers are money; each is told once for every state that it goes through.
fn platform(body: &Value, terms: &Terms) -> Item {
    let kind = text(body, "type").unwrap_or_default();
    let data = body.get("data").unwrap_or(&Value::Null);
    let member = |path| text(data, path).unwrap_or_default();
    let id = format!("{PLATFORM}transfer:{}:{}", member("id"), member("status"));
    let reading = by_table(&ROWS, &["balancePlatform.transfer."], kind, |step| {
        if member("category") != "bank" {
            return nothing("a transfer inside the platform, or told by the webhook of its payment");
        }
        let is_mine = match (member("direction"), terms.purpose) {
            ("incoming", Some(Purpose::Deposit)) | ("outgoing", Some(Purpose::Payment)) => true,
            ("incoming" | "outgoing", _) => false,
            (other, _) => return Err(format!("data.direction {other:?} is not known")),
        };
        match member("status") {
            "booked" if is_mine => {}
            "booked" => {
                return Err("a transfer in the other direction than this endpoint's purpose".to_owned());
            }
            "returned" => return Err("a transfer came back; which part of it is not in the event".to_owned()),
            _ => return nothing("a transfer that is not booked"),
        }
        let money = currency(data, "amount.currency")?;
        let transfer = needed(data, "id")?;
        let amount = minor(data, "amount.value", money, DIFFERENCES)?;
        Ok(Ok(Fact {
            account: terms
                .account
                .of(data)
                .or_else(|| terms.account.cut(text(data, "balanceAccount.reference")?)),
            time: text(data, "updatedAt").and_then(rfc3339),
            references: terms.references.of(data),
            ..Fact::new(step, transfer, transfer, amount, money)
        }))
    });
    terms.item(text(data, "id").map(|_| id.as_str()), kind, reading)
}

/// `success` as its item says it, empty where that says nothing.
fn read(item: &Value, kind: &str, success: &str, terms: &Terms) -> Reading {
    // Of events that no row knows each may be money.
    by_table(&ROWS, &[""], kind, |step| fact(item, kind, step, success, terms))
}

fn fact(item: &Value, kind: &str, mut step: Step, success: &str, terms: &Terms) -> Reading {
    match success {
        "true" => {}
        "false" if kind == "AUTHORISATION" => step = Step::Failed,
        "false" => return nothing("an attempt that failed: what it wanted to change stays as it was"),
        _ => return Err("success: expected true or false".to_owned()),
    }
    let reference = needed(item, "pspReference")?;
    // A colon here would let the signed text be read in two ways, with another account in one of them.
    for member in ["pspReference", "originalReference", "merchantAccountCode", "merchantReference"] {
        if text(item, member).is_some_and(|text| text.contains(':')) {
            return Err(format!(
                "{member}: holds a colon, so that its signature does not tell where it ends"
            ));
        }
    }
    let money = currency(item, "amount.currency")?;
    // These stand outside what is signed; they can only make an item less than it says, never more.
    let has_error = ["paypalErrorCode", "acquirerErrorCode"]
        .iter()
        .any(|name| text(item, &format!("additionalData.{name}")).is_some());
    if step == Step::Captured && has_error {
        return Err("a CAPTURE that says success and carries an acquirer's error".to_owned());
    }
    let is_of_dispute = matches!(step, Step::Disputed | Step::Reinstated | Step::ReinstatedElsewhere);
    let names_account =
        !is_of_dispute && !matches!(step, Step::Refunded | Step::RefundFailed | Step::CaptureFailed);
    // All events of a dispute have one pspReference, and may take and give back more than once: the kind tells the movements apart.
    let operation = match kind {
        "CHARGEBACK_REVERSED" => format!("CHARGEBACK:{reference}"),
        _ if is_of_dispute => format!("{kind}:{reference}"),
        _ => reference.to_owned(),
    };
    let amount = match minor(item, "amount.value", money, DIFFERENCES) {
        Err(_) if step == Step::Voided => 0,
        amount => amount?,
    };
    let payment = text(item, "originalReference").unwrap_or(reference);
    Ok(Ok(Fact {
        // A refund's merchantReference may be its own.
        account: if names_account { terms.account.of(item) } else { None },
        time: text(item, "eventDate").and_then(rfc3339),
        references: terms.references.of(item),
        ..Fact::new(step, payment, &operation, amount, money)
    }))
}
