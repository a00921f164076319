//! Requests with many events: what cannot be mapped keeps its own part of the request, and all parts together are no more than came. And what
//! proves that a provider still sends.

use std::{fs, os::unix::fs::PermissionsExt};

use payonce::{
    config::EndpointConfig,
    ingress::{
        desk::BODY_BYTES_MAX,
        endpoint::{Endpoint, Received},
        envelope,
        mapping::Outcome,
        request::Request,
        verify::{Mac, to_base64, to_hex},
    },
};
use serde_json::{Value, json};

const NOW_S: i64 = 1_764_093_600;
const ADYEN_KEY: [u8; 16] = [7; 16];

/// An endpoint that looks for the account where none of these events has it.
fn endpoint(provider: &str, secrets: &str, account: Option<&str>) -> Endpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    fs::write(&path, secrets).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Endpoint::open(&EndpointConfig {
        path: "/here".to_owned(),
        provider: provider.to_owned(),
        source: "/providers/here".to_owned(),
        purpose: (provider != "cloudevents").then(|| "deposit".to_owned()),
        account: account.map(str::to_owned),
        account_until: None,
        references: Default::default(),
        secrets_file: path,
        capture: (provider == "adyen").then(|| "automatic".to_owned()),
        live: None,
    })
    .unwrap()
}

fn adyen(account: Option<&str>) -> Endpoint {
    endpoint("adyen", &to_hex(&ADYEN_KEY), account)
}

/// An item of Adyen's, signed; `padding`: bytes of a member that nobody reads.
fn adyen_item(event: &str, reference: &str, padding: usize) -> Value {
    let signed = format!("{reference}::Shop:acct-1:1999:EUR:{event}:true");
    let signature = to_base64(&Mac::sha256(&ADYEN_KEY).tag(&[signed.as_bytes()]));
    json!({"NotificationRequestItem": {
        "additionalData": {"hmacSignature": signature}, "eventCode": event, "success": "true", "pspReference": reference,
        "merchantAccountCode": "Shop", "merchantReference": "acct-1", "amount": {"value": 1_999, "currency": "EUR"},
        "reason": "x".repeat(padding),
    }})
}

fn adyen_request(items: &[Value]) -> Request {
    let body = json!({"live": "false", "notificationItems": items}).to_string();
    Request::new(Vec::<(String, String)>::new(), body.into_bytes())
}

/// As many events as a provider may send in one request, as large as they may be together, none of which can be mapped.
fn full_batches() -> Vec<(Endpoint, Request, usize)> {
    let padding = |count: usize, head: usize| BODY_BYTES_MAX / count - head;
    let adyen_items: Vec<Value> =
        (0..100).map(|n| adyen_item("MYSTERY", &format!("psp{n}"), padding(100, 600))).collect();
    let gocardless: Vec<Value> = (0..250)
        .map(|n| json!({"id": format!("EV{n}"), "resource_type": "payments", "action": "confirmed", "x": "x".repeat(padding(250, 200))}))
        .collect();
    let body = json!({ "events": gocardless }).to_string().into_bytes();
    let signature = to_hex(&Mac::sha256(b"gocardless-secret").tag(&[&body]));
    let gocardless = Request::new([("webhook-signature", signature)], body);
    let events: Vec<Value> = (0..1_000)
        .map(|n| json!({"specversion": "1.0", "id": format!("evt_{n}"), "type": "deposit.mystery", "x": "x".repeat(padding(1_000, 200))}))
        .collect();
    let headers = [
        ("authorization", "Bearer 0123456789abcdef"),
        ("content-type", "application/cloudevents-batch+json"),
    ];
    let cloudevents = Request::new(headers, Value::from(events).to_string().into_bytes());
    vec![
        (adyen(None), adyen_request(&adyen_items), 100),
        (endpoint("gocardless", "gocardless-secret", None), gocardless, 250),
        (endpoint("cloudevents", "bearer = 0123456789abcdef", None), cloudevents, 1_000),
    ]
}

fn received(endpoint: &Endpoint, request: &Request) -> Received {
    endpoint.receive(request, NOW_S).unwrap_or_else(|refused| panic!("{}: {refused:?}", endpoint.kind.name))
}

#[test]
fn a_batch_of_events_that_cannot_be_mapped_takes_no_more_memory_than_it_came_with() {
    for (endpoint, request, count) in full_batches() {
        let name = endpoint.kind.name;
        assert!(request.body.len() > BODY_BYTES_MAX / 2 && request.body.len() <= BODY_BYTES_MAX, "{name}");
        let received = received(&endpoint, &request);
        assert_eq!((received.messages.len(), received.unmapped.len()), (count, count), "{name}");
        let bytes: usize = received.messages.iter().map(|message| message.body.len()).sum();
        // Base64 makes four bytes of three; each message has a head of its own.
        let allowed = request.body.len() * 4 / 3 + count * 600;
        assert!(bytes <= allowed, "{name}: {bytes} bytes of a request of {}", request.body.len());
    }
}

#[test]
fn each_part_of_a_batch_maps_as_it_does_in_the_batch_and_every_copy_is_the_same_message() {
    for (endpoint, request, count) in full_batches() {
        let name = endpoint.kind.name;
        let whole = endpoint.provider.map(&request, &endpoint.terms).unwrap();
        let messages = received(&endpoint, &request).messages;
        assert_eq!(messages.len(), count);
        for (message, item) in messages.iter().zip(whole) {
            let kept = envelope::read(&message.body).unwrap();
            let alone = endpoint.provider.map(&kept.request, &endpoint.terms).unwrap();
            assert_eq!(alone, [item], "{name}: {}", message.id);
        }
    }
}

#[test]
fn an_event_of_a_batch_is_mapped_again_when_the_configuration_is_fixed_and_by_no_other_part_of_it() {
    let items = [
        adyen_item("AUTHORISATION", "psp1", 0),
        adyen_item("REPORT_AVAILABLE", "psp2", 0),
        adyen_item("AUTHORISATION", "psp3", 0),
    ];
    let messages = received(&adyen(Some("elsewhere")), &adyen_request(&items)).messages;
    let fixed = adyen(None);
    let again: Vec<(String, Value)> = messages
        .iter()
        .map(|message| {
            let kept = envelope::read(&message.body).unwrap();
            let body = envelope::map_again(&kept, fixed.provider.as_ref(), &fixed.terms).unwrap();
            let event: Value = serde_json::from_slice(&body).unwrap();
            (message.id.clone(), event["data"]["payment_id"].clone())
        })
        .collect();
    let expected = ["psp1", "psp3"].map(|id| (format!("AUTHORISATION:{id}:true"), json!(id)));
    assert_eq!(again, expected);
    // What was in one request with others is, alone, the same message: a provider may put its repetition into another batch.
    let alone = received(&adyen(Some("elsewhere")), &adyen_request(&items[..1])).messages;
    let kept = |body: &[u8]| envelope::read(body).unwrap().id;
    assert_eq!(kept(&alone[0].body), kept(&messages[0].body));
}

#[test]
fn a_byte_order_mark_before_a_batch_loses_none_of_it() {
    let items = [adyen_item("AUTHORISATION", "psp1", 0), adyen_item("MYSTERY", "psp2", 0)];
    let plain = received(&adyen(None), &adyen_request(&items));
    let mut marked = adyen_request(&items);
    marked.body.splice(0..0, *b"\xef\xbb\xbf");
    let marked = received(&adyen(None), &marked);
    assert_eq!((marked.accepted, marked.unmapped.len()), (plain.accepted, plain.unmapped.len()));
    assert_eq!((marked.messages.len(), marked.unmapped.len()), (2, 1));
}

#[test]
fn a_request_that_names_its_events_twice_keeps_those_that_are_mapped() {
    let (first, second) = (adyen_item("MYSTERY", "psp1", 0), adyen_item("MYSTERY", "psp2", 0));
    let third = adyen_item("MYSTERY", "psp3", 0);
    let body = format!(
        r#"{{"notificationItems":[{third},{third},{third}],"notificationItems":[{first},{second}]}}"#
    );
    let request = Request::new(Vec::<(String, String)>::new(), body.into_bytes());
    let messages = received(&adyen(None), &request).messages;
    let ids: Vec<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids, ["MYSTERY:psp1:true", "MYSTERY:psp2:true"]);
}

#[test]
fn what_nobody_signed_is_no_sign_that_the_provider_still_sends() {
    let adyen = adyen(None);
    let unsigned = |event: &str, reference: &str| {
        let mut item = adyen_item(event, reference, 0);
        item["NotificationRequestItem"]["additionalData"] = json!({});
        item
    };
    let items = [unsigned("REPORT_AVAILABLE", "psp1"), unsigned("PENDING", "psp2")];
    let heard = received(&adyen, &adyen_request(&items));
    assert!(!heard.is_signed && heard.messages.is_empty() && heard.ignored == 2, "{heard:?}");
    let items = [unsigned("REPORT_AVAILABLE", "psp1"), adyen_item("REPORT_AVAILABLE", "psp2", 0)];
    assert!(received(&adyen, &adyen_request(&items)).is_signed);
    assert!(received(&adyen, &adyen_request(&[adyen_item("AUTHORISATION", "psp3", 0)])).is_signed);
    let outcomes = adyen.provider.map(&adyen_request(&items), &adyen.terms).unwrap();
    assert!(outcomes.iter().all(|item| matches!(item.outcome, Outcome::Ignored(_))));
}
