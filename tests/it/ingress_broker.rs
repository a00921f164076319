//! The ingress while the broker is not as it should be: never a yes for what is not on the queue, never a request without an answer, and
//! nothing that has to be restarted afterwards.

use std::time::Duration;

use futures_util::future::join_all;
use payonce::{
    config::IngressConfig,
    ingress::{endpoint::Message, outbox::NotPublished},
};

use crate::support::{Answered, DEADLINE, MuteProxy, OwnServer, RunningIngress, World, eventually};

/// An ingress that the broker has taken on, and says nothing to from then on.
async fn without_confirms(world: &World, config: IngressConfig) -> (MuteProxy, RunningIngress) {
    let proxy = MuteProxy::before(&world.amqp_url).await;
    let url = proxy.url(&world.amqp_url);
    let ingress = RunningIngress::start(world, &url, config, None).await;
    ingress.connected().await;
    proxy.mute(true);
    (proxy, ingress)
}

/// Waits until a webhook is answered with yes; every answer before that is a 503 that says when to come back.
async fn accepted_at_last(ingress: &RunningIngress, id: &str) {
    let made = ingress.sample("stripe", "", id, 100);
    eventually("the webhook is accepted", 200, || async {
        let answer = ingress.post("/stripe", &made).await;
        assert!(answer.status == 200 || is_refusal(&answer), "{answer:?}");
        answer.status
    })
    .await;
}

fn is_refusal(answer: &Answered) -> bool {
    answer.status == 503 && answer.head.contains("retry-after: ")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_killed_or_in_alarm_webhooks_are_refused_and_taken_again_without_a_restart() {
    let rabbitmq = OwnServer::start("rabbitmq", "PAYONCE_AMQP_URL").await;
    let shared =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"));
    let world =
        World::on(&shared("PAYONCE_DATABASE_URL"), &shared("PAYONCE_REDIS_URL"), rabbitmq.url()).await;
    let watermark = async |share: &str| {
        let mut script = rabbitmq.script("scripts/services");
        let output =
            script.args(["rabbitmqctl", "set_vm_memory_high_watermark", share]).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let ingress = RunningIngress::new(&world).await;
    accepted_at_last(&ingress, "before").await;
    // The broker says that it is in alarm to who publishes, and confirms nothing from then on.
    watermark("0").await;
    for round in 0..2 {
        let posts = (0..20).map(|n| {
            let made = ingress.sample("stripe", "", &format!("alarm{round}x{n}"), 100);
            let ingress = &ingress;
            async move { ingress.post("/stripe", &made).await }
        });
        let answers = join_all(posts).await;
        assert!(answers.iter().all(is_refusal), "{answers:?}");
        assert!(!ingress.outbox.is_ready(), "/readyz says so");
    }
    watermark("0.4").await;
    accepted_at_last(&ingress, "after the alarm").await;
    rabbitmq.kill().await;
    let made = ingress.sample("stripe", "", "away", 100);
    let answer = ingress.post("/stripe", &made).await;
    assert!(is_refusal(&answer), "{answer:?}");
    rabbitmq.start_again().await;
    accepted_at_last(&ingress, "after the crash").await;
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_never_comes_is_not_waited_for_and_what_waits_is_bounded() {
    let world = World::new().await;
    let (proxy, ingress) = without_confirms(&world, IngressConfig::default()).await;
    let made = ingress.sample("stripe", "", "1", 100);
    let answer = tokio::time::timeout(DEADLINE, ingress.post("/stripe", &made)).await.expect("an answer");
    assert!(is_refusal(&answer), "{answer:?}");
    // 200 MiB, of which 64 may wait.
    let publishing = (0..400).map(|n| {
        let outbox = ingress.outbox.clone();
        let message = Message {
            routing_key: "large".to_owned(),
            id: format!("large{n}"),
            body: vec![b'x'; 512 * 1_024],
            is_callback: true,
        };
        async move { outbox.publish("/providers/stripe", vec![message]).await }
    });
    let outcomes = tokio::time::timeout(DEADLINE, join_all(publishing)).await.expect("all are answered");
    let count = |what: NotPublished| outcomes.iter().filter(|outcome| **outcome == Err(what)).count();
    assert_eq!(count(NotPublished::Late) + count(NotPublished::Full), outcomes.len(), "{outcomes:?}");
    let waited = count(NotPublished::Late);
    assert!((64..=128).contains(&waited), "{waited} waited for a confirm");
    // A further one finds no room, and is told so at once.
    let answer = ingress.post("/stripe", &made).await;
    assert!(is_refusal(&answer), "{answer:?}");
    proxy.mute(false);
    accepted_at_last(&ingress, "2").await;
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_confirm_when_the_ingress_is_told_to_stop_has_its_answer() {
    let world = World::new().await;
    let (_proxy, ingress) = without_confirms(&world, IngressConfig::default()).await;
    let (confirmed, lost) =
        (ingress.sample("stripe", "", "confirmed", 100), ingress.sample("stripe", "", "lost", 100));
    let queue = world.names().queue;
    // What is on the queue shows that the request is past its body, and waits for the confirm.
    let stops = async {
        eventually("both messages are on the queue", 2, || world.ready_messages(&queue)).await;
        ingress.begin_to_stop();
    };
    let (first, second, ()) =
        tokio::join!(ingress.post("/stripe", &confirmed), ingress.post("/stripe", &lost), stops);
    assert!(is_refusal(&first) && is_refusal(&second), "{first:?} {second:?}");
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_there_is_room_for_are_shed() {
    let world = World::new().await;
    let (_proxy, ingress) =
        without_confirms(&world, IngressConfig { requests_max: 1, ..IngressConfig::default() }).await;
    let made = ingress.sample("stripe", "", "1", 100);
    let queue = world.names().queue;
    // What is on the queue shows that the first request holds the only place.
    let further = async {
        eventually("the message is on the queue", 1, || world.ready_messages(&queue)).await;
        ingress.request("POST", "/stripe", &[], b"").await
    };
    let (_, further) = tokio::join!(ingress.post("/stripe", &made), further);
    assert!(is_refusal(&further), "{further:?}");
    assert_eq!(ingress.request("POST", "/stripe", &[], b"").await.status, 401, "the place is free again");
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_was_deleted_is_made_again_and_webhooks_are_taken_without_a_restart() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let connection =
        payonce::broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.exchange_delete(world.names().exchange.as_str().into(), Default::default()).await.unwrap();
    let made = ingress.sample("stripe", "", "1", 100);
    let answer = ingress.post("/stripe", &made).await;
    assert!(is_refusal(&answer), "{answer:?}");
    accepted_at_last(&ingress, "2").await;
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_several_events_has_one_yes_after_all_are_on_the_queue() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let item = |id: &str| {
        let made = ingress.sample("adyen", "", id, 100);
        let body: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
        body["notificationItems"][0].clone()
    };
    let mut made = ingress.sample("adyen", "", "1", 100);
    let items: Vec<serde_json::Value> = (1..=5).map(|n| item(&n.to_string())).collect();
    made.body = serde_json::json!({"live": "false", "notificationItems": items}).to_string().into_bytes();
    let answer = ingress.post("/adyen", &made).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "[accepted]"), "{answer:?}");
    assert_eq!(world.ready_messages(&world.names().queue).await, 5);
    // One forged item spoils the request, and none of the others is published.
    let mut items = items;
    items[4]["NotificationRequestItem"]["amount"]["value"] = 999.into();
    made.body = serde_json::json!({"live": "false", "notificationItems": items}).to_string().into_bytes();
    assert_eq!(ingress.post("/adyen", &made).await.status, 401);
    assert_eq!(world.ready_messages(&world.names().queue).await, 5);
    ingress.stop().await;
    world.close().await;
}

/// Longer than a confirm is waited for would be a hang.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_accepts_connections_and_says_nothing_makes_no_request_hang() {
    let world = World::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", silent.local_addr().unwrap());
    let ingress = RunningIngress::start(&world, &url, IngressConfig::default(), None).await;
    let made = ingress.sample("stripe", "", "1", 100);
    let answer = tokio::time::timeout(Duration::from_secs(30), ingress.post("/stripe", &made)).await;
    assert!(answer.as_ref().is_ok_and(is_refusal), "{answer:?}");
    ingress.stop().await;
    world.close().await;
}
