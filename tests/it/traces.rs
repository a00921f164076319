//! Traces: a collector of the test's own gets one tree of spans per batch, linked to those who published, and is not needed for work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use payonce::broker;
use prost::Message;
use tokio::process::Child;

use crate::support::{Event, World, eventually};

type Spans = Arc<Mutex<Vec<Span>>>;

/// An OTLP receiver; its address and what it got.
async fn collector() -> (String, Spans) {
    async fn receive(State(spans): State<Spans>, headers: HeaderMap, body: Bytes) {
        assert_eq!(headers.get("content-type").expect("a type"), "application/x-protobuf");
        let request = ExportTraceServiceRequest::decode(body).expect("OTLP in protobuf");
        let of_scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        spans.lock().expect("no test panicked").extend(of_scopes.flat_map(|scope| scope.spans));
    }
    let spans = Spans::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&spans));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, spans)
}

async fn publish_in_trace(world: &World, event: &Event, traceparent: &str) {
    let connection =
        broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.expect("RabbitMQ answers");
    let channel = connection.create_channel().await.expect("a channel");
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
    channel
        .basic_publish(
            world.names().exchange.into(),
            event.account.as_str().into(),
            BasicPublishOptions { mandatory: true, ..Default::default() },
            &event.body(),
            BasicProperties::default().with_delivery_mode(2).with_headers(headers),
        )
        .await
        .expect("written");
    connection.close(200, "done".into()).await.expect("closed after the broker has read all");
}

async fn stop(mut worker: Child) {
    let id = worker.id().expect("it runs").to_string();
    let killed = tokio::process::Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(killed.expect("kill runs").success());
    assert_eq!(worker.wait().await.expect("it ends").code(), Some(0));
}

fn text(span: &Span, name: &str) -> String {
    let value = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == name)
        .and_then(|attribute| attribute.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn each_batch_is_one_tree_of_spans_linked_to_its_publishers() {
    let world = World::new().await;
    let (address, spans) = collector().await;
    // Published first, so that one batch has them all.
    let traces = ["4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4737"];
    for (n, trace) in traces.iter().enumerate() {
        let event = Event::deposit(&format!("d{n}"), "a", 10);
        publish_in_trace(&world, &event, &format!("00-{trace}-00f067aa0ba902b7-01")).await;
    }
    publish_in_trace(&world, &Event::deposit("d2", "a", 10), "not a traceparent").await;
    world.publish(&[Event::deposit("d3", "a", 10)]).await;
    let worker = world.worker_process(&["--otlp-endpoint", &address, "--lanes", "1"]);
    world.settled(4).await;
    stop(worker).await;
    let spans = spans.lock().unwrap().clone();
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    let queue = world.names().queue;
    let mut linked = BTreeSet::new();
    let mut messages = 0;
    assert!(!roots.is_empty(), "{spans:#?}");
    for root in &roots {
        assert_eq!(root.name, format!("process {queue}"));
        assert_eq!(root.kind, SpanKind::Consumer as i32);
        for (name, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.type", "process"),
            ("messaging.operation.name", "process"),
            ("messaging.destination.name", queue.as_str()),
        ] {
            assert_eq!(text(root, name), value, "{name}: {root:#?}");
        }
        messages += text(root, "messaging.batch.message_count").parse::<i32>().expect("a number");
        linked.extend(root.links.iter().map(|link| hex(&link.trace_id)));
        let mut stages: BTreeMap<u64, &str> = BTreeMap::new();
        for child in spans.iter().filter(|span| span.parent_span_id == root.span_id) {
            assert_eq!(child.trace_id, root.trace_id);
            assert!(child.start_time_unix_nano >= root.start_time_unix_nano, "{child:#?}");
            stages.insert(child.start_time_unix_nano, &child.name);
        }
        let stages: Vec<&str> = stages.into_values().collect();
        assert_eq!(stages, ["decode", "verify", "dedupe", "load", "decide", "apply", "mark", "settle"]);
    }
    assert_eq!(messages, 4);
    assert_eq!(linked, traces.iter().map(|trace| (*trace).to_owned()).collect());
    assert_eq!(spans.len(), 9 * roots.len(), "nothing but batches and their stages");
    world.close().await;
}

#[tokio::test]
async fn a_collector_that_is_down_stops_nothing_and_is_logged() {
    let world = World::new().await;
    let mut command = world.program(&["worker", "--otlp-endpoint", "http://127.0.0.1:1"]);
    let worker = command.stderr(std::process::Stdio::piped()).spawn().expect("the payonce binary runs");
    world.publish(&[Event::deposit("d", "a", 10)]).await;
    world.settled(1).await;
    let id = worker.id().expect("it runs").to_string();
    tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs");
    let output = worker.wait_with_output().await.expect("it ends");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("opentelemetry"), "{log}");
    assert!(!log.contains("payonce::span"), "spans are not for the log: {log}");
    eventually("the callback", Some((10, 0, 1)), || world.account("a")).await;
    world.close().await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_is_refused_in_words() {
    let world = World::new().await;
    for endpoint in ["https://collector:4318", "localhost:4318", "http://"] {
        let output = world.program(&["worker", "--otlp-endpoint", endpoint]).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("otlp_endpoint") && text.contains("http://"), "{text}");
    }
    world.close().await;
}
