//! Webhooks as a provider would send them, signed with an endpoint's own secret: for the first minute, for tests, and for load. Only of
//! providers that sign with a shared secret. What must not live here: sending.

use serde_json::{Value, json};

use super::{
    amount::exponent,
    endpoint::Endpoint,
    members::from_seconds,
    secrets::Secrets,
    verify::{Mac, to_base64, to_hex},
};
use crate::{
    ledger::Currency,
    signature::{Key, Policy, Rule},
};

/// Providers that samples can be made of: all but those that sign with a private key of their own.
pub const PROVIDERS: [&str; 10] = [
    "stripe",
    "adyen",
    "checkout",
    "razorpay",
    "square",
    "standard-webhooks",
    "mollie",
    "cloudevents",
    "gocardless",
    "braintree",
];

/// What a sample says.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The provider's name of the event; empty: the usual one of money that came.
    pub event: String,
    /// What makes its ids its own.
    pub id: String,
    /// The account.
    pub account: String,
    /// The provider's minor units.
    pub amount: u64,
    /// ISO 4217.
    pub currency: String,
}

/// A request to be sent.
pub struct Made {
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The usual event of money that came, by provider.
#[must_use]
pub fn usual_event(provider: &str) -> &'static str {
    match provider {
        "stripe" => "payment_intent.succeeded",
        "adyen" => "AUTHORISATION",
        "checkout" => "payment_captured",
        "razorpay" => "payment.captured",
        "square" => "payment.updated",
        "mollie" => "payment.paid",
        "gocardless" => "payments.confirmed",
        "braintree" => "transaction_settled",
        _ => "deposit.succeeded",
    }
}

/// Makes a signed sample for an endpoint, at `now_s` (seconds since 1970).
///
/// # Errors
/// Words for a provider whose signatures only it can make, or a secret that cannot sign.
pub fn make(endpoint: &Endpoint, secrets: &Secrets, sample: &Sample, now_s: u64) -> Result<Made, String> {
    let provider = endpoint.kind.name;
    let event = if sample.event.is_empty() { usual_event(provider) } else { sample.event.as_str() };
    let secret = secrets.bare("a secret").map(|bare| bare.first().cloned().unwrap_or_default());
    let Sample { id, account, amount, currency, .. } = sample;
    let time = from_seconds(i64::try_from(now_s).unwrap_or(i64::MAX)).unwrap_or_default();
    let mut headers = vec![("content-type", "application/json".to_owned())];
    let hmac = |key: &[u8], parts: &[&[u8]]| Mac::sha256(key).tag(parts);
    let body = match provider {
        "stripe" => {
            let object = stripe_object(event, sample);
            let body = json!({
                "id": format!("evt_{id}"), "object": "event", "created": now_s, "type": event,
                "livemode": endpoint.terms.is_live.unwrap_or(false), "data": {"object": object},
            });
            let body = body.to_string();
            let timestamp = now_s.to_string();
            let tag = hmac(secret?.as_bytes(), &[timestamp.as_bytes(), b".", body.as_bytes()]);
            headers.push(("stripe-signature", format!("t={timestamp},v1={}", to_hex(&tag))));
            body
        }
        "adyen" => {
            let merchant = secrets.all("merchant_account").next().unwrap_or("SampleECOM").to_owned();
            let original = if event == "AUTHORISATION" { String::new() } else { id.clone() };
            let reference = if original.is_empty() { id.clone() } else { format!("{id}M") };
            let order = format!("{account}/{id}");
            let signed =
                format!("{reference}:{original}:{merchant}:{order}:{amount}:{currency}:{event}:true");
            let key =
                super::verify::from_hex(&secret?.to_ascii_lowercase()).ok_or("the key is not hexadecimal")?;
            let tag = to_base64(&hmac(&key, &[signed.as_bytes()]));
            let mut item = json!({
                "additionalData": {"hmacSignature": tag}, "amount": {"currency": currency, "value": amount},
                "eventCode": event, "eventDate": time, "merchantAccountCode": merchant,
                "merchantReference": order, "pspReference": reference, "success": "true",
            });
            if let Some(item) = item.as_object_mut().filter(|_| !original.is_empty()) {
                item.insert("originalReference".to_owned(), json!(original));
            }
            if let Some(pair) = secrets.all("basic").next() {
                headers.push(("authorization", format!("Basic {}", to_base64(pair.as_bytes()))));
            }
            json!({"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}).to_string()
        }
        "checkout" => {
            let body = json!({
                "id": format!("evt_{id}"), "type": event, "created_on": time,
                "data": {
                    "id": format!("pay_{id}"), "action_id": format!("act_{id}_{event}"), "amount": amount,
                    "currency": currency, "reference": account, "metadata": {"account_id": account},
                },
            });
            let body = body.to_string();
            headers.push(("cko-signature", to_hex(&hmac(secret?.as_bytes(), &[body.as_bytes()]))));
            body
        }
        "razorpay" => {
            let payment = json!({
                "id": format!("pay_{id}"), "entity": "payment", "amount": amount, "currency": currency,
                "captured": true, "notes": {"account_id": account},
            });
            let refund = json!({"id": format!("rfnd_{id}"), "entity": "refund", "amount": amount, "currency": currency,
                "payment_id": format!("pay_{id}"), "notes": []});
            let payload = if event.starts_with("refund.") {
                json!({"payment": {"entity": payment}, "refund": {"entity": refund}})
            } else {
                json!({"payment": {"entity": payment}})
            };
            let body = json!({"entity": "event", "event": event, "payload": payload, "created_at": now_s});
            let body = body.to_string();
            headers.push(("x-razorpay-signature", to_hex(&hmac(secret?.as_bytes(), &[body.as_bytes()]))));
            body
        }
        "square" => {
            let money = json!({"amount": amount, "currency": currency});
            let object = if event.starts_with("refund.") {
                json!({"refund": {"id": format!("{id}_R"), "payment_id": id, "status": "COMPLETED", "amount_money": money}})
            } else {
                json!({"payment": {"id": id, "status": "COMPLETED", "reference_id": account, "amount_money": money}})
            };
            let body = json!({"type": event, "event_id": format!("{id}:{event}"), "created_at": time, "data": {"object": object}});
            let body = body.to_string();
            let url = secrets.one("notification_url")?;
            let tag = to_base64(&hmac(secret?.as_bytes(), &[url.as_bytes(), body.as_bytes()]));
            headers.push(("x-square-hmacsha256-signature", tag));
            body
        }
        "standard-webhooks" => {
            let body = json!({
                "type": event, "timestamp": time,
                "data": {
                    "account_id": account, "payment_id": format!("pay_{id}"), "operation_id": format!("op_{id}"),
                    "amount": amount, "currency": currency,
                },
            });
            let body = body.to_string();
            headers.extend(standard(&secret?, &format!("msg_{id}"), now_s, &body)?);
            body
        }
        "cloudevents" => {
            let body = json!({
                "specversion": "1.0", "id": format!("evt_{id}"), "source": endpoint.terms.source, "type": event,
                "subject": account, "time": time, "datacontenttype": "application/json",
                "data": {"payment_id": format!("pay_{id}"), "operation_id": format!("op_{id}"), "amount": amount, "currency": currency},
            });
            let body = body.to_string();
            headers = vec![("content-type", "application/cloudevents+json".to_owned())];
            headers.extend(
                secrets.all("bearer").next().map(|token| ("authorization", format!("Bearer {token}"))),
            );
            if let Some(secret) = secrets.bare_or_none().first() {
                headers.extend(standard(secret, &format!("evt_{id}"), now_s, &body)?);
            }
            body
        }
        "mollie" => {
            let of_payment = event.starts_with("payment.");
            let entity_id = if of_payment { format!("tr_{id}") } else { format!("re_{id}") };
            let mut entity = json!({
                "id": entity_id, "amount": {"value": decimal_text(*amount, currency)?, "currency": currency},
                "metadata": {"account_id": account},
            });
            if let Some(entity) = entity.as_object_mut().filter(|_| !of_payment) {
                entity.insert("paymentId".to_owned(), json!(format!("tr_{id}")));
            }
            let body = json!({
                "resource": "event", "id": format!("event_{id}_{event}"), "type": event, "entityId": entity_id,
                "createdAt": time, "_embedded": {"entity": entity},
            });
            let body = body.to_string();
            let tag = to_hex(&hmac(secret?.as_bytes(), &[body.as_bytes()]));
            headers.push(("x-mollie-signature", format!("sha256={tag}")));
            body
        }
        // The next two say nothing of the amount, or nothing that payonce reads: what comes of them is a case.
        "gocardless" => {
            let (resource, action) =
                event.split_once('.').ok_or("expected an event such as payments.confirmed")?;
            let link = resource.strip_suffix('s').unwrap_or(resource);
            let one = json!({
                "id": format!("EV{id}"), "created_at": time, "resource_type": resource, "action": action,
                "links": {link: format!("PM{id}")},
            });
            let body = json!({"events": [one]}).to_string();
            headers.push(("webhook-signature", to_hex(&hmac(secret?.as_bytes(), &[body.as_bytes()]))));
            body
        }
        "braintree" => {
            let xml = format!(
                "<notification><timestamp type=\"datetime\">{time}</timestamp><kind>{}</kind><subject><transaction><id>{id}</id>\
                 <amount>{}</amount></transaction></subject></notification>",
                event.replace(['<', '&'], ""),
                decimal_text(*amount, currency)?
            );
            let payload = to_base64(xml.as_bytes()) + "\n";
            let tag = Mac::sha1_of(secrets.one("private_key")?.as_bytes()).tag(&[payload.as_bytes()]);
            let signature = format!("{}|{}", secrets.one("public_key")?, to_hex(&tag));
            headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
            url::form_urlencoded::Serializer::new(String::new())
                .append_pair("bt_signature", &signature)
                .append_pair("bt_payload", &payload)
                .finish()
        }
        _ => {
            return Err(format!(
                "only {} can make its signatures; samples are made for {}",
                endpoint.kind.title,
                PROVIDERS.join(", ")
            ));
        }
    };
    Ok(Made { headers, body: body.into_bytes() })
}

/// Headers of Standard Webhooks.
fn standard(secret: &str, id: &str, now_s: u64, body: &str) -> Result<Vec<(&'static str, String)>, String> {
    let key = Key::parse(secret).map_err(|problem| problem.to_string())?;
    let rule = Rule { policy: Policy::Required, keys: vec![key] };
    let signed = rule.sign(id, now_s, body.as_bytes());
    let signed = signed.ok_or("the key cannot sign: it is the public half of a pair")?;
    let named = [
        ("webhook-id", signed.id),
        ("webhook-timestamp", signed.timestamp),
        ("webhook-signature", signed.signature),
    ];
    Ok(named.map(|(name, value)| (name, value.unwrap_or_default())).into())
}

/// Minor units of ISO 4217 as decimal text.
fn decimal_text(amount: u64, currency: &str) -> Result<String, String> {
    let currency = Currency::parse(currency).ok_or("the currency is no code of ISO 4217")?;
    let digits = exponent(currency);
    let unit = 10_u64.pow(digits);
    let (whole, rest) = (amount / unit, amount % unit);
    Ok(if digits == 0 {
        whole.to_string()
    } else {
        format!("{whole}.{rest:0width$}", width = digits as usize)
    })
}

fn stripe_object(event: &str, Sample { id, account, amount, currency, .. }: &Sample) -> Value {
    let currency = currency.to_ascii_lowercase();
    let (intent, charge) = (format!("pi_{id}"), format!("ch_{id}"));
    if event.starts_with("refund.") || event.starts_with("charge.refund.") {
        return json!({"id": format!("re_{id}"), "object": "refund", "amount": amount, "currency": currency,
            "charge": charge, "payment_intent": intent, "status": "succeeded", "metadata": {}});
    }
    if event.starts_with("charge.dispute.") {
        return json!({"id": format!("du_{id}"), "object": "dispute", "amount": amount, "currency": currency,
            "charge": charge, "payment_intent": intent});
    }
    if event.starts_with("charge.") {
        return json!({"id": charge, "object": "charge", "amount": amount, "amount_captured": amount,
            "currency": currency, "payment_intent": intent, "metadata": {"account_id": account}});
    }
    let is_hold = event == "payment_intent.amount_capturable_updated";
    json!({"id": intent, "object": "payment_intent", "amount": amount,
        "amount_received": if is_hold { 0 } else { *amount }, "amount_capturable": if is_hold { *amount } else { 0 },
        "capture_method": if is_hold { "manual" } else { "automatic" }, "currency": currency,
        "latest_charge": charge, "metadata": {"account_id": account}})
}
