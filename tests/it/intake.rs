//! How messages are read: what is accepted, what a case keeps of what is not, and what tells two of those apart.

use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, ByteArray, FieldTable},
};
use payonce::broker;
use serde_json::{Value, json};

use crate::support::{Dashboard, Event, Signer, World};

/// Publishes to the exchange with these properties, and waits for the confirms.
async fn publish(world: &World, messages: &[(&str, &[u8], BasicProperties)]) {
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(Default::default()).await.unwrap();
    for (routing_key, body, properties) in messages {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let exchange = world.names().exchange;
        channel
            .basic_publish(exchange.into(), (*routing_key).into(), options, body, properties.clone())
            .await
            .unwrap()
            .await
            .unwrap();
    }
}

fn with_headers(headers: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

async fn program(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = world.program(arguments).output().await.expect("the payonce binary runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

async fn shown(world: &World, case: i64) -> Value {
    let (code, text) = program(world, &["quarantine", "show", &case.to_string(), "--json"]).await;
    assert_eq!(code, Some(0));
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn three_events_in_binary_mode_are_three_cases_that_keep_their_ids() {
    let world = World::new().await;
    let body = br#"{"amount": 5000, "currency": "EUR"}"#.as_slice();
    let keys = ["acct-1", "acct-2", "acct-3"];
    let messages = keys.map(|key| {
        let id = key.replace("acct-", "evt_bin");
        let properties = with_headers(&[
            ("cloudEvents:specversion", long("1.0")),
            ("cloudEvents:id", long(&id)),
            ("cloudEvents:source", long("/providers/stripe")),
            ("cloudEvents:type", long("deposit.succeeded")),
            ("cloudEvents:subject", long(key)),
        ]);
        (key, body, properties.with_content_type("application/json".into()).with_message_id(id.into()))
    });
    publish(&world, &messages).await;
    // The same once more, and one that differs in a property alone.
    let other = messages[0].2.clone().with_message_id("other".into());
    publish(&world, &[messages[0].clone(), (keys[0], body, other)]).await;
    let worker = world.worker().await;
    world.settled(5).await;
    worker.stop().await;

    let case =
        |id: &str, attempts| (Some(id.to_owned()), "malformed".to_owned(), "open".to_owned(), attempts);
    let mut cases = world.cases().await;
    cases.sort();
    assert_eq!(cases, [case("evt_bin1", 1), case("evt_bin1", 2), case("evt_bin2", 1), case("evt_bin3", 1)]);
    let all = world.number("select min(id) from quarantine where event_id = 'evt_bin2'").await;
    let value = shown(&world, all).await;
    assert_eq!(
        (&value["routing_key"], &value["properties"]["message_id"], &value["source"]),
        (&json!("acct-2"), &json!("evt_bin2"), &json!("/providers/stripe"))
    );
    assert_eq!(value["headers"]["cloudEvents:subject"], "acct-2");
    let detail = value["detail"].as_str().unwrap();
    assert!(detail.contains("binary mode") && detail.contains("application/cloudevents+json"), "{detail}");
    let (_, text) = program(&world, &["quarantine", "show", &all.to_string()]).await;
    let ops = Dashboard::start(&world).await;
    let page = ops.get(&format!("/quarantine/{all}")).await.body;
    let api = ops.get(&format!("/api/quarantine/{all}")).await;
    assert_eq!((api.status, &api.json()["routing_key"]), (200, &json!("acct-2")), "{api:?}");
    for (what, output) in [("the command line", &text), ("the page", &page), ("the API", &api.body)] {
        for word in ["acct-2", "evt_bin2", "cloudEvents:subject", "deposit.succeeded"] {
            assert!(output.contains(word), "{what} does not show {word}: {output}");
        }
    }
    ops.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_body_that_is_sent_otherwise_than_expected_is_told_so() {
    let world = World::new().await;
    let typed = |kind: &str| BasicProperties::default().with_content_type(kind.to_owned().into());
    let gzip = BasicProperties::default().with_content_encoding("gzip".into());
    let headers = with_headers(&[("ce-id", long("e")), ("ce-source", long("/s"))]);
    publish(
        &world,
        &[
            ("a", b"\x1f\x8b\x08", gzip.clone()),
            ("a", b"<xml/>", typed("application/xml")),
            ("a", b"{}", headers),
            // What is a callback is one, whatever is said of it.
            ("a", &Event::deposit("d", "a", 5).body(), gzip.with_content_type("application/xml".into())),
        ],
    )
    .await;
    let worker = world.worker().await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((5, 0, 1)));
    let details: Vec<String> = sqlx::query_scalar("select detail from quarantine")
        .fetch_all(&mut world.connect().await)
        .await
        .unwrap();
    for words in [
        "content-encoding \"gzip\": compressed bodies are not read",
        "content type \"application/xml\", expected application/cloudevents+json",
        "CloudEvents binary mode (attributes in headers) is not read",
    ] {
        assert!(details.iter().any(|detail| detail.starts_with(words)), "{words:?} is not in {details:?}");
    }
    world.close().await;
}

/// Java, Go and Python clients write bytes as AMQP byte arrays, and gateways change the case of names.
#[tokio::test]
async fn a_signature_counts_whatever_type_and_case_its_headers_have() {
    let world = World::new().await;
    let signer = Signer::new();
    let bytes = |text: &Option<String>| {
        AMQPValue::ByteArray(ByteArray::from(text.as_deref().unwrap_or_default().as_bytes()))
    };
    let events = ["e1", "e2"].map(|id| Event::deposit(id, "a", 10));
    let bodies = events.each_ref().map(Event::body);
    let headers = events.each_ref().map(|event| signer.sign(event));
    let names = [
        ["webhook-id", "webhook-timestamp", "webhook-signature"],
        ["Webhook-Id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE"],
    ];
    let messages: Vec<(&str, &[u8], BasicProperties)> = (0..2)
        .map(|n| {
            let [id, timestamp, signature] = names[n];
            let values = [
                (id, &headers[n].id),
                (timestamp, &headers[n].timestamp),
                (signature, &headers[n].signature),
            ];
            let values = values.map(|(name, text)| (name, bytes(text)));
            ("a", bodies[n].as_slice(), with_headers(&values))
        })
        .collect();
    publish(&world, &messages).await;
    // What proves nothing is kept as it came.
    let unreadable =
        with_headers(&[("Webhook-Signature", AMQPValue::ByteArray(ByteArray::from(&[0xff, 1][..])))]);
    let forged = Event::deposit("forged", "a", 1_000).body();
    publish(&world, &[("a", &forged, unreadable)]).await;
    let worker = world.worker_with(&[("signatures", "required"), ("keys_file", &signer.file())]).await;
    world.settled(3).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((20, 0, 2)));
    assert_eq!(shown(&world, 1).await["headers"]["Webhook-Signature"], json!({ "hex": "ff01" }));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn card_data_in_headers_is_masked_and_no_header_makes_a_case_unwritable() {
    let world = World::new().await;
    let properties = with_headers(&[
        ("card", AMQPValue::LongLongInt(4_242_424_242_424_242)),
        ("cvv", AMQPValue::LongInt(123)),
        ("note", long("of 5555555555554444\0")),
        ("n", AMQPValue::LongInt(7)),
    ]);
    let properties = properties.with_correlation_id("4242424242424242".into());
    publish(&world, &[("a 4242424242424242", b"not a callback", properties)]).await;
    let worker = world.worker().await;
    world.settled(1).await;
    worker.stop().await;
    let value = shown(&world, 1).await;
    assert_eq!(
        value["headers"],
        json!({ "card": "424242******4242", "cvv": "***", "note": "of 555555******4444\0", "n": "7" })
    );
    assert_eq!(value["properties"]["correlation_id"], "424242******4242");
    assert_eq!(value["routing_key"], "a 424242******4242");
    world.close().await;
}

#[tokio::test]
async fn a_time_outside_of_the_years_that_can_be_written_spoils_no_answer() {
    let world = World::new().await;
    let timed = |event: &Event, time: &str| {
        let body = String::from_utf8(event.body()).unwrap();
        ("a".to_owned(), body.replace("2026-11-22T13:44:14Z", time).into_bytes())
    };
    let minus_one = "0000-01-01T00:00:00+08:00";
    let messages = [
        timed(&Event::deposit("d", "a", 100_000), minus_one),
        timed(&Event::payment("payment.succeeded", "year-1", "a", "pi", 1_999), minus_one),
        timed(&Event::payment("payment.succeeded", "year-0", "a", "pi-0", 1), "0000-01-01T00:00:00Z"),
        timed(&Event::payment("payment.succeeded", "poor", "a", "pi-2", 900_000), minus_one),
    ];
    world.publish_raw(&messages).await;
    let worker = world.worker().await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((98_000, 0, 3)));
    assert_eq!(world.number("select count(*) from ledger where occurred_at is null").await, 2);
    let event = ["event", "/providers/test", "year-1", "--json"];
    for command in [&["account", "a", "--json"][..], &event, &["payment", "/providers/test", "pi", "--json"]]
    {
        let (code, text) = program(&world, command).await;
        assert_eq!(code, Some(0), "{command:?}");
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{command:?}: {text}");
    }
    let ops = Dashboard::start(&world).await;
    for path in [
        "/api/account?id=a",
        "/api/event?source=/providers/test&id=year-1",
        "/account?id=a",
        "/api/quarantine/1",
    ] {
        assert_eq!(ops.get(path).await.status, 200, "{path}");
    }
    ops.stop().await;
    world.audit().await;
    world.close().await;
}

/// An account whose id holds a character that nobody sees is another account: it can be told from its twin wherever it is shown.
#[tokio::test]
async fn an_account_that_nobody_can_type_is_shown_with_what_cannot_be_seen() {
    let world = World::new().await;
    let hidden = ["acct-1\u{200b}", "acct-1\u{200d}", "acct-1\u{2060}"];
    let mut events = vec![Event::deposit("plain", "acct-1", 1)];
    events.extend(hidden.map(|account| Event::deposit(&format!("of {account}"), account, 777)));
    events.extend(hidden.map(|account| Event::payment("payment.succeeded", "p", account, account, 9_999)));
    world.publish(&events).await;
    let worker = world.worker().await;
    world.settled(events.len() as i64).await;
    worker.stop().await;
    assert_eq!(world.account("acct-1").await, Some((1, 0, 1)));
    let ops = Dashboard::start(&world).await;
    for account in hidden {
        assert_eq!(world.account(account).await, Some((777, 0, 1)));
        let code = u32::from(account.chars().last().unwrap());
        let (_, text) = program(&world, &["account", account]).await;
        assert!(text.contains(&format!("acct-1\\u{{{code:x}}}")), "{text}");
        let (_, text) = program(&world, &["account", account, "--json"]).await;
        assert!(text.contains(&format!("acct-1\\u{code:04x}")), "{text}");
        let answer = ops.get(&format!("/api/account?id=acct-1{}", percent(account))).await;
        assert!(
            answer.body.contains(&format!("acct-1\\u{code:04x}")) && answer.body.is_ascii(),
            "{answer:?}"
        );
        assert!(answer.json().to_string().contains(account), "the value is the same: {answer:?}");
        let page = ops.get(&format!("/account?id=acct-1{}", percent(account))).await;
        assert!(page.body.contains(&format!("acct-1‹U+{code:04X}›")), "{page:?}");
    }
    ops.stop().await;
    world.audit().await;
    world.close().await;
}

/// The last character of a text, as it stands in an address.
fn percent(text: &str) -> String {
    let last = text.chars().last().unwrap();
    last.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect()
}
