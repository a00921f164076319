//! Disputes and platform webhooks: money that goes back and forth under one reference is booked as often as it moved, and no oftener.

use std::{fs, os::unix::fs::PermissionsExt};

use payonce::{
    config::EndpointConfig,
    ingress::{endpoint::Endpoint, mapping::Outcome, request::Request},
};
use serde_json::{Value, json};

/// An endpoint whose events are only mapped here.
pub(crate) fn endpoint(provider: &str, purpose: &str, secret: &str) -> Endpoint {
    try_endpoint(provider, purpose, secret).unwrap()
}

/// The same, or why these secrets are none.
pub(crate) fn try_endpoint(provider: &str, purpose: &str, secret: &str) -> Result<Endpoint, String> {
    of_source("/providers/here", provider, purpose, secret)
}

pub(crate) fn of_source(
    source: &str,
    provider: &str,
    purpose: &str,
    secret: &str,
) -> Result<Endpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    fs::write(&path, secret).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Endpoint::open(&EndpointConfig {
        path: "/here".to_owned(),
        provider: provider.to_owned(),
        source: source.to_owned(),
        purpose: Some(purpose.to_owned()),
        account: None,
        account_until: None,
        references: Default::default(),
        secrets_file: path,
        capture: ["adyen", "checkout"].contains(&provider).then(|| "manual".to_owned()),
        live: None,
    })
}

/// What one event becomes: `type operation amount`, or the words for why it is none.
pub(crate) fn becomes(endpoint: &Endpoint, body: &Value) -> String {
    let request = Request::new(Vec::<(String, String)>::new(), body.to_string().into_bytes());
    let items = endpoint.provider.map(&request, &endpoint.terms).unwrap();
    match &items[0].outcome {
        Outcome::Accepted(accepted) => {
            let event: Value = serde_json::from_slice(&accepted.body).unwrap();
            let operation = event["data"]["operation_id"].as_str().unwrap();
            format!("{} {operation} {}", event["type"].as_str().unwrap(), event["data"]["amount"])
        }
        Outcome::Ignored(why) => format!("nothing: {why}"),
        Outcome::Unmapped(why) => format!("a case: {why}"),
    }
}

pub(crate) const ADYEN_KEY: &str = "8E339EFD66564BAE60BDD289C69607E672CE34C97D237161C5AD2A42B6952544";

#[test]
fn every_movement_of_an_adyen_dispute_is_booked_although_all_have_one_reference() {
    let item = |kind: &str| {
        json!({"notificationItems": [{"NotificationRequestItem": {
            "eventCode": kind, "success": "true", "pspReference": "DISPUTE", "originalReference": "PAYMENT",
            "merchantAccountCode": "Shop", "merchantReference": "acct-1", "amount": {"value": 100, "currency": "EUR"},
        }}]})
    };
    let kinds = [
        "CHARGEBACK",
        "CHARGEBACK_REVERSED",
        "SECOND_CHARGEBACK",
        "PREARBITRATION_LOST",
        "PREARBITRATION_WON",
    ];
    let all = |purpose| kinds.map(|kind| becomes(&endpoint("adyen", purpose, ADYEN_KEY), &item(kind)));
    assert_eq!(
        all("deposit"),
        [
            "deposit.disputed CHARGEBACK:DISPUTE 100",
            "deposit.reinstated CHARGEBACK:DISPUTE 100",
            "deposit.disputed SECOND_CHARGEBACK:DISPUTE 100",
            "deposit.disputed PREARBITRATION_LOST:DISPUTE 100",
            "deposit.reinstated PREARBITRATION_WON:DISPUTE 100",
        ]
    );
    assert_eq!(
        all("payment"),
        [
            "refund.succeeded CHARGEBACK:DISPUTE 100",
            // Takes back the refund of the same operation.
            "refund.failed CHARGEBACK:DISPUTE 100",
            "refund.succeeded SECOND_CHARGEBACK:DISPUTE 100",
            "refund.succeeded PREARBITRATION_LOST:DISPUTE 100",
            "a case: which dispute of this payment was taken back is not in the event",
        ]
    );
}

#[test]
fn a_dispute_of_a_payment_gives_the_account_its_money_back_and_one_that_is_won_takes_it_again() {
    let stripe = endpoint("stripe", "payment", "whsec_x");
    let event = |kind: &str| {
        json!({"id": format!("evt_{kind}"), "object": "event", "type": format!("charge.dispute.{kind}"), "created": 1,
            "data": {"object": {"id": "du_1", "payment_intent": "pi_1", "amount": 500, "currency": "eur"}}})
    };
    assert_eq!(becomes(&stripe, &event("funds_withdrawn")), "refund.succeeded du_1 500");
    assert_eq!(becomes(&stripe, &event("funds_reinstated")), "refund.failed du_1 500");
    let mollie = endpoint("mollie", "payment", "secret");
    let event = |kind: &str| {
        json!({"id": kind, "type": kind, "_embedded": {"entity": {"id": "chb_1", "paymentId": "tr_1",
            "amount": {"value": "5.00", "currency": "EUR"}}}})
    };
    assert_eq!(becomes(&mollie, &event("chargeback.received")), "refund.succeeded chb_1 500");
    assert_eq!(becomes(&mollie, &event("chargeback.reversed")), "refund.failed chb_1 500");
}

#[test]
fn money_of_mollie_that_was_held_first_is_told_by_its_captures_alone() {
    let amount = json!({"value": "5.00", "currency": "EUR"});
    let event = |kind: &str, entity: Value| {
        let mut entity = entity;
        entity["amount"] = amount.clone();
        entity["metadata"] = json!({"account_id": "acct-1"});
        json!({"id": kind, "type": kind, "_embedded": {"entity": entity}})
    };
    let paid = |held: Value| {
        let mut payment = json!({"id": "tr_1"});
        payment.as_object_mut().unwrap().extend(held.as_object().unwrap().clone());
        event("payment.paid", payment)
    };
    let captured = |id: &str| event("capture.succeeded", json!({"id": id, "paymentId": "tr_1"}));
    for (purpose, at_once, by_capture) in [
        ("deposit", "deposit.succeeded", "deposit.succeeded"),
        ("payment", "payment.succeeded", "payment.captured"),
    ] {
        let mollie = endpoint("mollie", purpose, "secret");
        let of = |event: &Value| becomes(&mollie, event);
        assert_eq!(of(&paid(json!({}))), format!("{at_once} tr_1 500"));
        assert_eq!(
            of(&paid(json!({"captureMode": "automatic", "captureDelay": null}))),
            format!("{at_once} tr_1 500")
        );
        // Each capture is money of its own; the payment, which is paid by them, is not.
        assert_eq!(of(&captured("cpt_1")), format!("{by_capture} cpt_1 500"));
        assert_eq!(of(&captured("cpt_2")), format!("{by_capture} cpt_2 500"));
        let manual = paid(json!({"captureMode": "manual", "authorizedAt": "2026-11-26T05:00:00+00:00"}));
        assert!(of(&manual).starts_with("nothing: capture.succeeded says it"), "{}", of(&manual));
        // Held, and captured by Mollie: nobody says whether as a capture.
        for held in [
            json!({"captureMode": "automatic", "captureDelay": "2 days"}),
            json!({"authorizedAt": "2026-11-26T05:00:00+00:00"}),
            json!({"amountCaptured": {"value": "5.00", "currency": "EUR"}}),
            json!({"_links": {"captures": {"href": "https://api.mollie.com/v2/payments/tr_1/captures"}}}),
        ] {
            let found = of(&paid(held.clone()));
            assert!(found.starts_with("a case: paid after a hold"), "{held}: {found}");
        }
    }
}

#[test]
fn a_payment_that_ended_unpaid_is_no_case_of_a_deposit_and_releases_the_hold_of_a_payment() {
    let mollie = |kind: &str| {
        json!({"id": kind, "type": kind, "_embedded": {"entity": {"id": "tr_1", "amount": {"value": "5.00", "currency": "EUR"},
            "metadata": {"account_id": "acct-1"}}}})
    };
    for kind in ["payment.canceled", "payment.expired"] {
        let found = becomes(&endpoint("mollie", "deposit", "secret"), &mollie(kind));
        assert!(found.starts_with("nothing: it ended before it was paid"), "{kind}: {found}");
        assert_eq!(
            becomes(&endpoint("mollie", "payment", "secret"), &mollie(kind)),
            "payment.voided tr_1 500"
        );
    }
    let canceled = json!({"id": "evt_1", "object": "event", "type": "payment_intent.canceled", "created": 1, "data": {"object": {
        "id": "pi_1", "latest_charge": "ch_1", "amount": 500, "currency": "eur", "metadata": {"account_id": "acct-1"}}}});
    let found = becomes(&endpoint("stripe", "deposit", "whsec_x"), &canceled);
    assert!(found.starts_with("nothing: it ended before it was paid"), "{found}");
}

#[test]
fn a_transfer_of_adyens_platform_is_money_once_when_it_is_booked_and_only_in_the_endpoints_direction() {
    let event = |kind: &str, status: &str, direction: &str, category: &str| {
        json!({"type": kind, "environment": "test", "data": {
            "id": "TRANSFER", "status": status, "direction": direction, "category": category, "sequenceNumber": 3,
            "amount": {"value": 700, "currency": "EUR"}, "balanceAccount": {"id": "BA1", "reference": "acct-1/main"},
        }})
    };
    let updated = "balancePlatform.transfer.updated";
    let (deposit, payment) =
        (endpoint("adyen", "deposit", ADYEN_KEY), endpoint("adyen", "payment", ADYEN_KEY));
    let booked = |direction| event(updated, "booked", direction, "bank");
    assert_eq!(becomes(&deposit, &booked("incoming")), "deposit.succeeded TRANSFER 700");
    assert_eq!(becomes(&payment, &booked("outgoing")), "payment.succeeded TRANSFER 700");
    for (endpoint, event, expected) in [
        (&deposit, booked("outgoing"), "a case: a transfer in the other direction"),
        (&payment, booked("incoming"), "a case: a transfer in the other direction"),
        (&deposit, booked("sideways"), "a case: data.direction"),
        (&payment, event(updated, "returned", "outgoing", "bank"), "a case: a transfer came back"),
        (&deposit, event(updated, "authorised", "incoming", "bank"), "nothing: "),
        (&deposit, event(updated, "booked", "incoming", "platformPayment"), "nothing: "),
        (
            &deposit,
            event("balancePlatform.transaction.created", "booked", "incoming", "bank"),
            "nothing: the same fact",
        ),
        (&deposit, event("balancePlatform.transfer.mystery", "booked", "incoming", "bank"), "a case: event"),
        (&deposit, event("balancePlatform.accountHolder.created", "active", "", ""), "nothing: "),
    ] {
        let found = becomes(endpoint, &event);
        assert!(found.starts_with(expected), "{found}, expected {expected}: {event}");
    }
    // Every copy is the same event; another state of the transfer is another.
    let id = |body: &Value| {
        let request = Request::new(Vec::<(String, String)>::new(), body.to_string().into_bytes());
        deposit.provider.map(&request, &deposit.terms).unwrap()[0].id.clone().unwrap()
    };
    assert_eq!(id(&booked("incoming")), "balancePlatform.transfer:TRANSFER:booked");
    assert_ne!(id(&booked("incoming")), id(&event(updated, "authorised", "incoming", "bank")));
}

const PAYPAL: &str = "webhook_id = 1234567890";

/// Another refund or dispute of the same deposit, which the amount would fit, is not what is given back.
#[test]
fn a_failed_refund_or_a_won_dispute_says_what_it_takes_back() {
    let published = |provider: &str, purpose: &str, body: &Value| -> Value {
        let endpoint = endpoint(provider, purpose, if provider == "paypal" { PAYPAL } else { "s" });
        let request = Request::new(Vec::<(String, String)>::new(), body.to_string().into_bytes());
        let items = endpoint.provider.map(&request, &endpoint.terms).unwrap();
        let Outcome::Accepted(accepted) = &items[0].outcome else { panic!("{provider}: {:?}", items[0]) };
        serde_json::from_slice(&accepted.body).unwrap()
    };
    let stripe = |kind: &str, object: Value| json!({"id": "evt_1", "created": 1, "type": kind, "data": {"object": object}});
    let refund = json!({"id": "re_b", "object": "refund", "amount": 2_000, "currency": "eur", "payment_intent": "pi_1", "status": "failed"});
    let dispute = json!({"id": "du_1", "object": "dispute", "amount": 2_000, "currency": "eur", "payment_intent": "pi_1", "charge": "ch_1",
        "balance_transactions": [{"amount": 2_000, "currency": "eur", "type": "adjustment"}]});
    for (kind, object, taken) in [
        ("refund.failed", refund, "deposit.refunded"),
        ("charge.dispute.funds_reinstated", dispute, "deposit.disputed"),
    ] {
        let event = published("stripe", "deposit", &stripe(kind, object.clone()));
        assert_eq!(
            (&event["type"], &event["data"]["reverses"]),
            (&json!("deposit.reinstated"), &json!(taken))
        );
        // By its type alone it is known for a payment.
        let event = published("stripe", "payment", &stripe(kind, object));
        assert_eq!((&event["type"], &event["data"]["reverses"]), (&json!("refund.failed"), &Value::Null));
    }
    let mollie = json!({"id": "event_1", "type": "refund.failed", "entityId": "re_1", "createdAt": "2025-11-25T10:00:00Z",
        "_embedded": {"entity": {"id": "re_1", "paymentId": "tr_1", "amount": {"value": "4.00", "currency": "EUR"}}}});
    let paypal = json!({"id": "WH-1", "event_type": "PAYMENT.REFUND.FAILED", "resource": {"id": "RF", "amount": {"currency_code": "EUR", "value": "4.00"},
        "links": [{"rel": "up", "href": "https://api.paypal.com/v2/payments/captures/CAP"}]}});
    for (provider, body) in [("mollie", mollie), ("paypal", paypal)] {
        let event = published(provider, "deposit", &body);
        assert_eq!(event["data"]["reverses"], "deposit.refunded", "{provider}: {event}");
    }
}

/// What goes back of a capture names the capture: so a deposit by PayPal is the capture, be there an authorization or not.
#[test]
fn a_refund_of_an_authorized_paypal_deposit_names_the_payment_that_was_booked() {
    let amount = json!({"currency_code": "EUR", "value": "100.00"});
    let capture = json!({"id": "WH-1", "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource": {"id": "CAP", "amount": amount, "custom_id": "acct-1",
        "final_capture": true, "supplementary_data": {"related_ids": {"authorization_id": "AUTH"}}}});
    let refund = json!({"id": "WH-2", "event_type": "PAYMENT.CAPTURE.REFUNDED", "resource": {"id": "RF", "amount": amount,
        "links": [{"rel": "up", "href": "https://api.paypal.com/v2/payments/captures/CAP"}]}});
    let payment = |purpose: &str, body: &Value| -> Value {
        let endpoint = endpoint("paypal", purpose, PAYPAL);
        let request = Request::new(Vec::<(String, String)>::new(), body.to_string().into_bytes());
        let items = endpoint.provider.map(&request, &endpoint.terms).unwrap();
        let Outcome::Accepted(accepted) = &items[0].outcome else { panic!("{:?}", items[0]) };
        let event: Value = serde_json::from_slice(&accepted.body).unwrap();
        event["data"]["payment_id"].clone()
    };
    assert_eq!((payment("deposit", &capture), payment("deposit", &refund)), (json!("CAP"), json!("CAP")));
    // Money out by an authorization is a hold, whose captures and end name the authorization; docs/providers/paypal.md says what a refund needs.
    assert_eq!(payment("payment", &capture), "AUTH");
}
