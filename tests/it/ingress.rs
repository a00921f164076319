//! The ingress: a webhook that is answered with yes is on the queue, whatever else happens; everything else is answered with no.

use payonce::{
    config::{EndpointConfig, IngressConfig},
    ingress::endpoint::Endpoints,
    ledger::Reason,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{RunningIngress, World, answered, head};

/// Samples of every provider, with the answer that each wants.
const PROVIDERS: [(&str, u16, &str); 6] = [
    ("stripe", 200, ""),
    ("adyen", 200, "[accepted]"),
    ("checkout", 200, ""),
    ("razorpay", 200, ""),
    ("square", 200, ""),
    ("standard-webhooks", 200, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_each_provider_moves_its_money_once_however_often_it_comes() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let worker = world.worker_with(&[("signatures", "required"), ("keys_file", &ingress.keys_file())]).await;
    for (provider, status, body) in PROVIDERS {
        let made = ingress.sample(provider, "", "1001", 1_999);
        for _ in 0..3 {
            let answer = ingress.post(&format!("/{provider}"), &made).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, body), "{provider}: {answer:?}");
        }
    }
    world.settled(3 * 6).await;
    assert_eq!(world.account("acct-1001").await, Some((6 * 1_999, 0, 6)));
    assert_eq!(world.cases().await, []);
    world.audit().await;
    worker.stop().await;
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_webhook_of_the_endpoint_is_refused_and_leaves_nothing_on_the_queue() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let good = ingress.sample("stripe", "", "7", 100);
    let mut forged = ingress.sample("stripe", "", "7", 100);
    forged.body = String::from_utf8(forged.body).unwrap().replace("100", "999").into_bytes();
    assert_eq!(ingress.post("/stripe", &forged).await.status, 401, "another body");
    assert_eq!(ingress.post("/razorpay", &good).await.status, 401, "another provider's");
    assert_eq!(ingress.request("POST", "/stripe", &[], b"{}").await.status, 401, "unsigned");
    assert_eq!(ingress.request("POST", "/adyen", &[], b"not JSON").await.status, 400, "not what Adyen sends");
    for path in ["/", "/stripe/", "/stripe/x", "/healthz", "/metrics", "/STRIPE", "/%73tripe"] {
        assert_eq!(ingress.post(path, &good).await.status, 404, "{path}");
    }
    let answer = ingress.request("GET", "/stripe", &[], b"").await;
    assert!(answer.status == 405 && answer.head.contains("allow: post"), "{answer:?}");
    assert_eq!(
        ingress.request("POST", "/adyen", &[], br#"{"id": 1}"#).await.status,
        400,
        "neither of Adyen's"
    );
    let platform = br#"{"type": "balancePlatform.transfer.updated", "data": {}}"#;
    assert_eq!(ingress.request("POST", "/adyen", &[], platform).await.status, 401, "unsigned");
    let packed = [("content-encoding", "gzip")];
    assert_eq!(ingress.request("POST", "/stripe", &packed, b"x").await.status, 415);
    assert_eq!(
        ingress.request("POST", "/stripe", &[("content-encoding", "Identity")], b"x").await.status,
        401
    );
    for coding in ["gzip, chunked", "GZIP,chunked"] {
        let mut stream = TcpStream::connect(ingress.address).await.unwrap();
        let request = format!(
            "POST /stripe HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: {coding}\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(answered(stream).await.status, 415, "{coding}");
    }
    let large = vec![b' '; 1_048_577];
    assert_eq!(ingress.request("POST", "/stripe", &[], &large).await.status, 413, "too large");
    let mut stream = TcpStream::connect(ingress.address).await.unwrap();
    stream
        .write_all(b"POST /stripe HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..17 {
        drop(stream.write_all(&[b"10000\r\n", vec![b' '; 65_536].as_slice(), b"\r\n"].concat()).await);
    }
    // A body that does not say how long it is, of a client that has not asked for the end of its connection.
    let refused = answered(stream).await;
    assert!(refused.status == 413 && refused.head.contains("connection: close"), "{refused:?}");
    assert_eq!(world.ready_messages(&world.names().queue).await, 0);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_no_webhook_is_answered_with_yes() {
    let world = World::new().await;
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("amqp://guest:guest@{closed}/%2f");
    let ingress = RunningIngress::start(&world, &url, IngressConfig::default(), None).await;
    for (provider, ..) in PROVIDERS {
        let made = ingress.sample(provider, "", "1", 100);
        let answer = ingress.post(&format!("/{provider}"), &made).await;
        assert!(answer.status == 503 && answer.head.contains("retry-after: "), "{provider}: {answer:?}");
    }
    // What moves no money needs no broker.
    let idle = ingress.sample("stripe", "charge.succeeded", "2", 100);
    assert_eq!(ingress.post("/stripe", &idle).await.status, 200);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_is_not_answered_with_yes() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let connection =
        payonce::broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let names = world.names();
    let (queue, exchange) = (names.queue.as_str().into(), names.exchange.as_str().into());
    channel.queue_unbind(queue, exchange, "#".into(), Default::default()).await.unwrap();
    let made = ingress.sample("stripe", "", "1", 100);
    let answer = ingress.post("/stripe", &made).await;
    assert!(answer.status == 503 && answer.head.contains("retry-after: "), "{answer:?}");
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_begun_is_finished_when_the_ingress_is_told_to_stop() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let made = ingress.sample("stripe", "", "1", 100);
    let headers: Vec<(&str, &str)> =
        made.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (first, rest) = made.body.split_at(10);
    let mut stream = TcpStream::connect(ingress.address).await.unwrap();
    stream.write_all(&head("POST", "/stripe", &headers, made.body.len())).await.unwrap();
    stream.write_all(first).await.unwrap();
    // An answer to somebody else shows that what was sent before has arrived.
    assert_eq!(ingress.request("POST", "/", &[], b"").await.status, 404);
    ingress.begin_to_stop();
    stream.write_all(rest).await.unwrap();
    assert_eq!(answered(stream).await.status, 200);
    assert_eq!(world.ready_messages(&world.names().queue).await, 1);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_sends_too_much_is_told_to_wait_and_no_other_is() {
    let world = World::new().await;
    let config = IngressConfig {
        rate_per_second_max: 1,
        rate_burst_max: 2,
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..IngressConfig::default()
    };
    let ingress = RunningIngress::start(&world, &world.amqp_url, config, None).await;
    let from = |address: &'static str| [("x-forwarded-for", address)];
    for _ in 0..2 {
        assert_eq!(ingress.request("POST", "/stripe", &from("192.0.2.1"), b"").await.status, 401);
    }
    // What a client writes before the proxy's own entry is not believed.
    let answer = ingress.request("POST", "/stripe", &from("198.51.100.9, 192.0.2.1"), b"").await;
    assert!(answer.status == 429 && answer.head.contains("retry-after: "), "{answer:?}");
    assert_eq!(ingress.request("POST", "/stripe", &from("192.0.2.2"), b"").await.status, 401);
    assert_eq!(ingress.request("POST", "/razorpay", &from("192.0.2.1"), b"").await.status, 401);
    ingress.stop().await;
    world.close().await;
}

/// A configuration file with the running ingress's endpoints; `account`: where Stripe's object holds the account.
fn configuration(ingress: &RunningIngress, is_signed: bool, account: &str) -> String {
    let mut text = String::new();
    if is_signed {
        text += &format!("keys_file = {:?}\n", ingress.keys_file());
    }
    for config in ingress.configs.iter().filter(|config| config.provider == "stripe") {
        text += &format!(
            "[[ingress.endpoint]]\npath = {:?}\nprovider = \"stripe\"\nsource = {:?}\npurpose = \"deposit\"\nsecrets_file = {:?}\n\
             account = {account:?}\n",
            config.path, config.source, config.secrets_file
        );
    }
    let path = ingress.folder.path().join("payonce.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mapped_is_a_case_once_and_a_replay_maps_it_when_the_configuration_is_fixed() {
    map_again(true).await;
}

/// As a first use is set up: no keys file.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_maps_again_without_keys_where_the_queue_is_trusted_without() {
    map_again(false).await;
}

async fn map_again(is_signed: bool) {
    let world = World::new().await;
    let mut ingress = RunningIngress::new(&world).await;
    let signatures = if is_signed { "required" } else { "off" };
    let keys_file = ingress.keys_file();
    let settings = [("signatures", signatures), ("keys_file", &keys_file)];
    let worker = world.worker_with(if is_signed { &settings } else { &settings[..1] }).await;
    // The account stands elsewhere than the endpoint says.
    let path = ingress.configs[0].secrets_file.clone();
    ingress.configs[0].account = Some("metadata.customer".to_owned());
    let replaced = Endpoints::open(&ingress.configs).unwrap_or_default();
    ingress.desk.replace(replaced);
    assert!(path.exists());
    let made = ingress.sample("stripe", "", "1001", 1_999);
    for _ in 0..2 {
        assert_eq!(ingress.post("/stripe", &made).await.status, 200);
    }
    world.settled(2).await;
    let reason = Reason::Unmapped.as_str().to_owned();
    let case = |state: &str| vec![(Some("evt_1001".to_owned()), reason.clone(), state.to_owned(), 2)];
    assert_eq!(world.cases().await, case("open"));
    let replay = async |account: &str| {
        let file = configuration(&ingress, is_signed, account);
        let mut program =
            world.program(&["--config", &file, "quarantine", "replay", "--all", "--why", "fixed"]);
        program.env("PAYONCE_SIGNATURES", signatures).output().await.expect("the program runs")
    };
    // Not fixed yet.
    drop(replay("metadata.customer").await);
    assert_eq!(world.cases().await, case("open"));
    assert_eq!(world.account("acct-1001").await, None);
    let done = replay("metadata.account_id").await;
    assert_eq!(world.cases().await, case("replayed"), "{done:?}");
    assert_eq!(world.account("acct-1001").await, Some((1_999, 0, 1)));
    // The provider sends it once more, long after.
    ingress.configs[0].account = None;
    ingress.desk.replace(Endpoints::open(&ingress.configs).unwrap_or_default());
    assert_eq!(ingress.post("/stripe", &made).await.status, 200);
    world.settled(3).await;
    assert_eq!(world.account("acct-1001").await, Some((1_999, 0, 1)));
    world.audit().await;
    worker.stop().await;
    ingress.stop().await;
    world.close().await;
}

/// Each of them with the whole request would be more than a gigabyte, and a 503 however often the provider sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_thousand_events_that_cannot_be_mapped_is_taken_and_each_has_its_own_part() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let secrets_file = ingress.folder.path().join("cloudevents");
    std::fs::write(&secrets_file, "bearer = 0123456789abcdef").unwrap();
    std::fs::set_permissions(&secrets_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let batches = EndpointConfig {
        path: "/batches".to_owned(),
        provider: "cloudevents".to_owned(),
        purpose: None,
        secrets_file,
        ..ingress.configs[0].clone()
    };
    ingress.desk.replace(Endpoints::open(&[batches]).unwrap());
    let event = |n: usize| serde_json::json!({"specversion": "1.0", "id": format!("evt_{n}"), "type": "deposit.mystery", "x": "x".repeat(900)});
    let body = serde_json::Value::from((0..1_000).map(event).collect::<Vec<_>>()).to_string().into_bytes();
    assert!((900_000..1_048_576).contains(&body.len()), "{} bytes", body.len());
    let headers = [
        ("authorization", "Bearer 0123456789abcdef"),
        ("content-type", "application/cloudevents-batch+json"),
    ];
    let answer = ingress.request("POST", "/batches", &headers, &body).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(world.ready_messages(&world.names().queue).await, 1_000);
    ingress.stop().await;
    world.close().await;
}
