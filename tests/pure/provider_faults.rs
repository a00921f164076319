//! Faults that others had with these providers' webhooks, and told of in public (docs/providers/faults.md has where): each as an input here, with
//! what payonce makes of it.

use payonce::ingress::{
    mapping::Outcome,
    providers::Refused,
    request::Request,
    verify::{Cause, Mac, to_base64, to_hex},
};
use serde_json::{Value, json};

use crate::{
    provider_disputes::{ADYEN_KEY, becomes, endpoint, of_source, try_endpoint},
    provider_vectors,
};

const NOW_S: i64 = 1_764_093_600;

fn hmac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    Mac::sha256(secret).tag(parts)
}

fn stripe_header(secrets: &[&str], at_s: i64, body: &[u8]) -> String {
    let tag = |secret: &&str| to_hex(&hmac(secret.as_bytes(), &[at_s.to_string().as_bytes(), b".", body]));
    let tags: Vec<String> = secrets.iter().map(|secret| format!(",v1={}", tag(secret))).collect();
    format!("t={at_s}{}", tags.concat())
}

fn verified(provider: &str, secrets: &str, headers: &[(&str, String)], body: &[u8]) -> Result<(), Refused> {
    let request = Request::new(headers.to_vec(), body.to_vec());
    endpoint(provider, "deposit", secrets).provider.verify(&request, NOW_S)
}

const NO_MATCH: Result<(), Refused> = Err(Refused::BadSignature(Cause::NoMatch));

/// Bodies that no writer of JSON makes, and what middlewares make of them.
#[test]
fn a_body_is_verified_in_the_bytes_that_came_and_in_no_other_spelling() {
    let body = "{\n  \"amount\" : 1.0,\r\n  \"url\": \"https:\\/\\/example.com\\/\\u00e4\", \"note\": \"\\\"&amp;'<\", \"e\": 1e2 }\r\n\n";
    let parsed: Value = serde_json::from_str(body).unwrap();
    let others = [
        parsed.to_string(),
        serde_json::to_string_pretty(&parsed).unwrap(),
        body.trim().to_owned(),
        body.replace("\r\n", "\n"),
        body.replace("\\/", "/"),
        body.replace("\\u00e4", "ä"),
        body.replace("1.0", "1"),
        body.replace("&amp;", "&"),
        format!("\u{feff}{body}"),
        body.lines().collect(),
    ];
    let secret = "secret";
    let url = "https://hooks.example.com/square";
    let header = |provider: &str, body: &str| {
        let body = body.as_bytes();
        let plain = || to_hex(&hmac(secret.as_bytes(), &[body]));
        match provider {
            "stripe" => ("stripe-signature", stripe_header(&[secret], NOW_S, body)),
            "checkout" => ("cko-signature", plain()),
            "razorpay" => ("x-razorpay-signature", plain()),
            "gocardless" => ("webhook-signature", plain()),
            "mollie" => ("x-mollie-signature", format!("sha256={}", plain())),
            "square" => {
                let tag = hmac(secret.as_bytes(), &[url.as_bytes(), body]);
                ("x-square-hmacsha256-signature", to_base64(&tag))
            }
            other => unreachable!("{other}"),
        }
    };
    for provider in ["stripe", "checkout", "razorpay", "gocardless", "mollie", "square"] {
        let secrets = match provider {
            "square" => format!("{secret}\nnotification_url = {url}"),
            _ => secret.to_owned(),
        };
        let signed = [header(provider, body)];
        assert_eq!(verified(provider, &secrets, &signed, body.as_bytes()), Ok(()), "{provider}");
        for other in &others {
            assert_ne!(other, body);
            assert_eq!(
                verified(provider, &secrets, &signed, other.as_bytes()),
                NO_MATCH,
                "{provider}: {other}"
            );
        }
    }
}

#[test]
fn the_time_of_a_signature_counts_on_both_sides_and_a_late_try_that_is_signed_anew_is_taken() {
    let body = br#"{"created": 1}"#;
    let at =
        |at_s: i64| verified("stripe", "s", &[("stripe-signature", stripe_header(&["s"], at_s, body))], body);
    let clock: Result<(), Refused> = Err(Refused::BadSignature(Cause::Clock));
    for (off_s, expected) in [(-301, &clock), (-300, &Ok(())), (0, &Ok(())), (300, &Ok(())), (301, &clock)] {
        assert_eq!(&at(NOW_S + off_s), expected, "{off_s} s");
    }
    // An event of long ago in a signature of now.
    assert_eq!(at(NOW_S), Ok(()));
}

#[test]
fn any_signature_of_a_request_may_fit_any_secret_of_the_endpoint() {
    let body = b"{}";
    let signed = |secrets: &[&str]| [("stripe-signature", stripe_header(secrets, NOW_S, body))];
    for order in [["new", "other"], ["other", "new"], ["old", "other"], ["other", "old"]] {
        assert_eq!(verified("stripe", "old\nnew", &signed(&order), body), Ok(()), "{order:?}");
    }
    assert_eq!(verified("stripe", "old\nnew", &signed(&["other", "another"]), body), NO_MATCH);
    // What Stripe calls v0 is for its own tests.
    let [(name, header)] = signed(&["new"]);
    let unreadable = Err(Refused::BadSignature(Cause::Unreadable));
    assert_eq!(verified("stripe", "new", &[(name, header.replace("v1=", "v0="))], body), unreadable);
}

fn stripe(kind: &str, object: &Value) -> Value {
    json!({"id": "evt_1", "object": "event", "created": NOW_S, "type": kind, "data": {"object": object}})
}

fn intent(amount: u64, currency: &str) -> Value {
    json!({"id": "pi_1", "object": "payment_intent", "amount": amount, "amount_received": amount, "currency": currency,
        "capture_method": "automatic", "latest_charge": "ch_1", "metadata": {"account_id": "acct-1"}})
}

#[test]
fn stripes_amounts_are_minor_units_of_iso_4217_whatever_stripe_multiplies() {
    let deposit = endpoint("stripe", "deposit", "s");
    let paid =
        |amount, currency| becomes(&deposit, &stripe("payment_intent.succeeded", &intent(amount, currency)));
    for (amount, currency, expected) in [
        (1_999, "eur", "1999"),
        (1_999, "jpy", "1999"),
        (1_999, "krw", "1999"),
        (500_000, "ugx", "5000"),
        (500_000, "isk", "5000"),
        (1_999, "mga", "199900"),
        (1_999, "huf", "1999"),
        (19_990, "kwd", "19990"),
    ] {
        assert_eq!(
            paid(amount, currency),
            format!("deposit.succeeded ch_1 {expected}"),
            "{amount} {currency}"
        );
    }
    for (amount, currency) in [(500_050, "ugx"), (1, "isk"), (u64::MAX, "mga")] {
        assert!(paid(amount, currency).starts_with("a case: "), "{amount} {currency}");
    }
}

#[test]
fn of_stripes_events_for_one_fact_one_is_money_and_a_failed_attempt_is_none() {
    let deposit = endpoint("stripe", "deposit", "s");
    let charge = json!({"id": "ch_1", "object": "charge", "amount": 500, "amount_captured": 500, "amount_refunded": 200,
        "currency": "eur", "payment_intent": "pi_1", "metadata": {"account_id": "acct-1"}});
    assert_eq!(
        becomes(&deposit, &stripe("payment_intent.succeeded", &intent(500, "eur"))),
        "deposit.succeeded ch_1 500"
    );
    for kind in ["charge.succeeded", "charge.captured", "charge.refunded", "charge.failed", "charge.updated"]
    {
        assert!(becomes(&deposit, &stripe(kind, &charge)).starts_with("nothing: "), "{kind}");
    }
    for kind in [
        "payment_intent.payment_failed",
        "payment_intent.requires_action",
        "checkout.session.completed",
        "invoice.paid",
        "invoice.payment_succeeded",
    ] {
        assert!(becomes(&deposit, &stripe(kind, &intent(500, "eur"))).starts_with("nothing: "), "{kind}");
    }
    // A refund is its own amount, by whichever of its events it is told, and taken back by its own id.
    let refund = |status: &str| {
        json!({"id": "re_1", "object": "refund", "amount": 200, "currency": "eur", "charge": "ch_1", "payment_intent": "pi_1",
            "status": status})
    };
    for kind in ["refund.created", "refund.updated", "charge.refund.updated"] {
        assert_eq!(
            becomes(&deposit, &stripe(kind, &refund("succeeded"))),
            "deposit.refunded re_1 200",
            "{kind}"
        );
        for status in ["pending", "requires_action", "failed", "canceled"] {
            assert!(
                becomes(&deposit, &stripe(kind, &refund(status))).starts_with("nothing: "),
                "{kind} {status}"
            );
        }
    }
    assert_eq!(becomes(&deposit, &stripe("refund.failed", &refund("failed"))), "deposit.reinstated re_1 200");
}

/// An item of Adyen, signed as Adyen does: nothing is escaped, what is missing is empty.
fn adyen_item(mut item: Value) -> Value {
    let text = |path: &str| match item.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(_) | None => String::new(),
    };
    let members = [
        "/pspReference",
        "/originalReference",
        "/merchantAccountCode",
        "/merchantReference",
        "/amount/value",
    ];
    let signed: Vec<String> =
        members.into_iter().chain(["/amount/currency", "/eventCode", "/success"]).map(text).collect();
    let key: Vec<u8> = (0..ADYEN_KEY.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&ADYEN_KEY[at..at + 2], 16).unwrap())
        .collect();
    let tag = to_base64(&hmac(&key, &[signed.join(":").as_bytes()]));
    item["additionalData"]["hmacSignature"] = json!(tag);
    item
}

fn adyen_body(items: &[Value]) -> Value {
    let items: Vec<Value> = items.iter().map(|item| json!({"NotificationRequestItem": item})).collect();
    json!({"live": "true", "notificationItems": items})
}

fn adyen(kind: &str, success: &str, value: Value) -> Value {
    json!({"eventCode": kind, "success": success, "pspReference": "PSP2", "originalReference": "PSP1", "merchantAccountCode": "Shop",
        "merchantReference": "acct-1/order-1", "amount": {"value": value, "currency": "EUR"}, "additionalData": {}})
}

#[test]
fn adyens_items_verify_whatever_their_members_hold_and_one_that_says_little_holds_up_no_other() {
    let deposit = endpoint("adyen", "deposit", ADYEN_KEY);
    let verify = |items: &[Value]| {
        let body = adyen_body(items).to_string();
        deposit.provider.verify(&Request::new(Vec::<(&str, &str)>::new(), body.into_bytes()), NOW_S)
    };
    for (member, value) in [
        ("merchantReference", json!("a\\b")),
        ("merchantReference", json!("a:b")),
        ("merchantReference", json!("ä中\"")),
        ("merchantReference", Value::Null),
        ("originalReference", Value::Null),
        ("amount", json!({"value": 0, "currency": "EUR"})),
        ("amount", json!({"value": "0", "currency": "EUR"})),
        ("amount", json!({"value": null, "currency": null})),
    ] {
        let mut item = adyen("CANCELLATION", "true", json!(100));
        item[member] = value.clone();
        assert_eq!(verify(&[adyen_item(item)]), Ok(()), "{member} {value}");
    }
    for claim in [Value::Null, json!(""), json!(7), json!({})] {
        let mut item = adyen("AUTHORISATION", "true", json!(100));
        item["additionalData"]["hmacSignature"] = claim.clone();
        assert!(verify(&[item]).is_err(), "{claim}");
    }
    let mut bare = adyen("AUTHORISATION", "true", json!(100));
    bare.as_object_mut().unwrap().remove("additionalData");
    assert!(verify(&[bare]).is_err());
    // A report has no reference of a merchant, and no signature.
    let report = json!({"eventCode": "REPORT_AVAILABLE", "success": "true", "pspReference": "report.csv", "merchantAccountCode": "Shop",
        "amount": {"value": 0, "currency": "EUR"}});
    let items = [report, adyen_item(adyen("CAPTURE", "true", json!(100)))];
    assert_eq!(verify(&items), Ok(()));
    let request = Request::new(Vec::<(&str, &str)>::new(), adyen_body(&items).to_string().into_bytes());
    let received = deposit.receive(&request, NOW_S).unwrap();
    assert_eq!((received.ignored, received.accepted, received.unmapped.len()), (1, 1, 0));
}

#[test]
fn adyens_failures_are_of_their_own_payment_and_what_is_taken_back_is_taken_back() {
    let deposit = endpoint("adyen", "deposit", ADYEN_KEY);
    let payment = endpoint("adyen", "payment", ADYEN_KEY);
    let of = |endpoint: &_, item: Value| becomes(endpoint, &adyen_body(&[item]));
    assert_eq!(of(&deposit, adyen("CAPTURE", "true", json!(100))), "deposit.succeeded PSP2 100");
    assert!(of(&deposit, adyen("CAPTURE", "false", json!(100))).starts_with("nothing: "));
    assert_eq!(of(&deposit, adyen("CAPTURE_FAILED", "true", json!(100))), "deposit.disputed PSP2 100");
    assert_eq!(of(&payment, adyen("CAPTURE_FAILED", "true", json!(100))), "payment.capture_failed PSP2 100");
    assert_eq!(of(&deposit, adyen("REFUND", "true", json!(100))), "deposit.refunded PSP2 100");
    assert!(of(&deposit, adyen("REFUND", "false", json!(100))).starts_with("nothing: "));
    // What says neither is nobody's to guess.
    for said in ["TRUE", "True", "", "1", "yes"] {
        for kind in ["AUTHORISATION", "CAPTURE", "REFUND"] {
            assert!(of(&deposit, adyen(kind, said, json!(100))).starts_with("a case: "), "{kind} {said:?}");
        }
    }
    assert_eq!(of(&deposit, adyen("REFUND_FAILED", "true", json!(100))), "deposit.reinstated PSP2 100");
    assert_eq!(of(&payment, adyen("REFUND_FAILED", "true", json!(100))), "refund.failed PSP2 100");
    for name in ["paypalErrorCode", "acquirerErrorCode"] {
        let mut item = adyen("CAPTURE", "true", json!(100));
        item["additionalData"][name] = json!("10009");
        assert!(of(&deposit, item).starts_with("a case: "), "{name}");
    }
    // A later try that failed is a payment of its own, and closes no other.
    let mut failed = adyen("AUTHORISATION", "false", json!(100));
    (failed["pspReference"], failed["eventDate"]) = (json!("PSP9"), json!("2099-01-01T00:00:00+00:00"));
    failed.as_object_mut().unwrap().remove("originalReference");
    assert_eq!(of(&payment, failed), "payment.failed PSP9 100");
    for (currency, value, expected) in
        [("ISK", 10_000, "100"), ("CLP", 10_000, "100"), ("IDR", 100, "10000"), ("JPY", 100, "100")]
    {
        let mut item = adyen("CAPTURE", "true", json!(value));
        item["amount"]["currency"] = json!(currency);
        assert_eq!(of(&deposit, item), format!("deposit.succeeded PSP2 {expected}"), "{currency}");
    }
}

#[test]
fn a_pending_capture_of_paypal_is_no_money_and_the_simulators_webhook_id_is_refused() {
    let deposit = endpoint("paypal", "deposit", "webhook_id = W1");
    let event = |kind: &str| {
        json!({"id": "WH-1", "event_type": kind, "resource": {"id": "C1", "status": "PENDING", "custom_id": "acct-1",
            "amount": {"currency_code": "EUR", "value": "1.00"}}})
    };
    assert!(becomes(&deposit, &event("PAYMENT.CAPTURE.PENDING")).starts_with("nothing: "));
    assert_eq!(becomes(&deposit, &event("PAYMENT.CAPTURE.COMPLETED")), "deposit.succeeded C1 100");
    for secrets in ["webhook_id = WEBHOOK_ID", "webhook_id = W1\nwebhook_id = WEBHOOK_ID", ""] {
        let problem = try_endpoint("paypal", "deposit", secrets).err().unwrap();
        assert!(problem.contains("not WEBHOOK_ID"), "{secrets:?}: {problem}");
    }
}

#[test]
fn a_key_of_another_length_or_place_is_told_at_once() {
    let recorded = include_bytes!("../vectors/wechat/own-transaction-public-key.json");
    let recorded: Value = serde_json::from_slice(recorded).unwrap();
    let wechat = |key: &str| {
        let (mut vector, folder) = (recorded.clone(), tempfile::tempdir().unwrap());
        vector["keys"]["apiv3_key"] = json!(key);
        provider_vectors::endpoint(&vector, &folder).map(drop)
    };
    assert_eq!(wechat(&"k".repeat(32)), Ok(()));
    for length in [1, 16, 31, 33, 64] {
        let problem = wechat(&"k".repeat(length)).unwrap_err();
        assert!(problem.contains("apiv3_key") && problem.contains("32"), "{problem}");
    }
    for (provider, secrets, word) in [
        ("square", "key", "notification_url"),
        ("adyen", "not hexadecimal", "hexadecimal"),
        ("alipay", "not base64", "key"),
    ] {
        let problem = try_endpoint(provider, "deposit", secrets).err().unwrap();
        assert!(problem.contains(word), "{provider}: {problem}");
    }
    // Square signs the address that it was given: the one of the configuration counts, not what a proxy makes of it.
    let url = "https://hooks.example.com/square";
    let signed = |url: &str| {
        [
            ("x-square-hmacsha256-signature", to_base64(&hmac(b"key", &[url.as_bytes(), b"{}"]))),
            ("host", "10.0.0.1".to_owned()),
            ("x-forwarded-proto", "http".to_owned()),
        ]
    };
    let secrets = format!("key\nnotification_url = {url}");
    assert_eq!(verified("square", &secrets, &signed(url), b"{}"), Ok(()));
    for other in
        ["http://hooks.example.com/square", "https://hooks.example.com/square/", "https://10.0.0.1/square"]
    {
        assert_eq!(verified("square", &secrets, &signed(other), b"{}"), NO_MATCH, "{other}");
    }
}

#[test]
fn mollies_refunds_and_chargebacks_are_told_by_events_of_their_own_and_a_name_of_a_payment_is_no_money() {
    let deposit = endpoint("mollie", "deposit", "secret");
    let event = |kind: &str, id: &str, entity: Value| json!({"id": "event_1", "type": kind, "entityId": id, "createdAt": "2025-11-25T10:00:00Z", "_embedded": {"entity": entity}});
    let amount = json!({"value": "10.00", "currency": "EUR"});
    // Paid, refunded, charged back: its status says paid all along.
    let paid = json!({"id": "tr_1", "status": "paid", "amount": amount, "amountRefunded": {"value": "4.00", "currency": "EUR"},
        "amountChargedBack": {"value": "6.00", "currency": "EUR"}, "metadata": {"account_id": "acct-1"}});
    assert_eq!(becomes(&deposit, &event("payment.paid", "tr_1", paid)), "deposit.succeeded tr_1 1000");
    let of =
        |id: &str| json!({"id": id, "paymentId": "tr_1", "amount": {"value": "4.00", "currency": "EUR"}});
    assert_eq!(becomes(&deposit, &event("refund.refunded", "re_1", of("re_1"))), "deposit.refunded re_1 400");
    assert!(becomes(&deposit, &event("refund.queued", "re_1", of("re_1"))).starts_with("nothing: "));
    assert_eq!(
        becomes(&deposit, &event("chargeback.received", "chb_1", of("chb_1"))),
        "deposit.disputed chb_1 400"
    );
    // The classic form names a payment only, and anybody can send it.
    assert_eq!(verified("mollie", "secret", &[], b"id=tr_1"), Err(Refused::BadSignature(Cause::Missing)));
}

#[test]
fn braintrees_pairs_are_read_in_whatever_order_and_its_payload_with_or_without_its_last_line_feed() {
    let secrets = "public_key = ours\nprivate_key = private";
    let payload = to_base64(b"<notification><kind>check</kind></notification>") + "\n";
    let tag = to_hex(&Mac::sha1_of(b"private").tag(&[payload.as_bytes()]));
    let form = |signature: &str, payload: &str| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("bt_signature", signature).append_pair("bt_payload", payload).finish().into_bytes()
    };
    let right = format!("ours|{tag}");
    for signature in
        [right.clone(), format!("theirs|00&{right}"), format!("{right}&theirs|00"), format!("broken&{right}")]
    {
        for payload in [payload.as_str(), payload.trim_end()] {
            assert_eq!(
                verified("braintree", secrets, &[], &form(&signature, payload)),
                Ok(()),
                "{signature}"
            );
        }
    }
    for (signature, payload) in [
        (format!("theirs|{tag}"), payload.clone()),
        (right.clone(), format!("{payload}\n")),
        (right.clone(), format!(" {payload}")),
        (right.clone(), payload.replacen('P', "Q", 1)),
        (right.to_uppercase(), payload.clone()),
        (String::new(), payload.clone()),
    ] {
        assert!(
            verified("braintree", secrets, &[], &form(&signature, &payload)).is_err(),
            "{signature} {payload:?}"
        );
    }
}

/// A description that was cut in the midst of an emoji is signed as it is, and the payment is no less true.
#[test]
fn half_a_character_or_a_byte_order_mark_loses_no_payment() {
    let deposit = endpoint("stripe", "deposit", "s");
    let body = |description: &str| {
        let intent =
            intent(500, "eur").to_string().replacen('{', &format!("{{\"description\":\"{description}\","), 1);
        stripe("payment_intent.succeeded", &Value::Null).to_string().replace("null", &intent)
    };
    for (description, is_read) in [
        ("caf\\ud83d", true),
        ("\\udc00\\ud83d\\u0041", true),
        ("\\ud83d\\ude00", true),
        ("\\\\ud83d", true),
        ("\\ud83d\\ud83d\\ude00", true),
        ("\\ud83g", false),
        ("\\x", false),
    ] {
        for mark in ["", "\u{feff}"] {
            let body = format!("{mark}{}", body(description));
            let request = Request::new(Vec::<(String, String)>::new(), body.clone().into_bytes());
            let items = deposit.provider.map(&request, &deposit.terms);
            let is_money = items.is_ok_and(|items| matches!(&items[0].outcome, Outcome::Accepted(_)));
            assert_eq!(is_money, is_read, "{body}");
        }
    }
}

/// No worker believes on the queue what says that it comes from payonce's own operators: found at the start, not by the first webhook.
#[test]
fn no_endpoint_publishes_as_payonces_own_operators() {
    let refused = of_source("urn:payonce:operator", "stripe", "deposit", "s").err();
    assert!(refused.is_some_and(|words| words.contains("is that of `payonce adjust`")));
    assert!(of_source("urn:payonce:operators", "stripe", "deposit", "s").is_ok());
}
