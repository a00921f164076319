//! Same key, other content: never a silent duplicate.

use crate::support::{Dashboard, Event, World};

#[tokio::test]
async fn the_same_key_with_another_amount_is_quarantined_whichever_layer_sees_it_first() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    let mut redis = world.redis().await;
    let marker: Vec<u8> = redis::cmd("GET").arg(world.redis_key("e1")).query_async(&mut redis).await.unwrap();
    assert!(marker.starts_with(b"done:"), "the next one meets a done marker with another hash");
    world.publish(&[Event::deposit("e1", "a", 101)]).await;
    world.settled(2).await;
    // Of which now a case is known.
    world.publish(&[Event::deposit("e1", "a", 101)]).await;
    world.settled(3).await;
    worker.stop().await;
    // Both contents in one batch: a lane takes its first callback as it comes, and lets the next batch fill.
    let worker = world.worker_with(&[("batch_size_max", "3"), ("batch_linger_ms", "10000")]).await;
    world.publish(&[Event::deposit("e0", "a", 1)]).await;
    world.settled(4).await;
    world
        .publish(&[Event::deposit("e2", "a", 5), Event::deposit("e2", "a", 6), Event::deposit("e2", "a", 6)])
        .await;
    world.settled(7).await;
    worker.stop().await;
    let mismatch = |id: &str| (Some(id.to_owned()), "payload_mismatch".to_owned(), "open".to_owned(), 2);
    assert_eq!(world.cases().await, [mismatch("e1"), mismatch("e2")]);
    // The second copy of the first contradiction met its case, that of the second the one before it in its batch.
    let copies = [("batch".to_owned(), 1), ("quarantine".to_owned(), 1)];
    assert_eq!(world.duplicates().await, copies);
    assert_eq!(world.account("a").await, Some((106, 0, 3)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn the_same_operation_with_another_amount_is_quarantined() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100).operation("op")]).await;
    world.settled(1).await;
    world.publish(&[Event::deposit("e2", "a", 101).operation("op")]).await;
    world.settled(2).await;
    worker.stop().await;
    let case = (Some("e2".to_owned()), "payload_mismatch".to_owned(), "open".to_owned(), 1);
    assert_eq!(world.cases().await, [case]);
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_mismatch_is_shown_field_by_field() {
    let world = World::new().await;
    let worker = world.worker().await;
    let first = Event::payment("payment.succeeded", "p", "a", "pay", 40).operation("op");
    let by_operation = Event::payment("payment.succeeded", "q", "a", "pay", 42).operation("op");
    let held = Event::payment("payment.authorized", "h", "a", "held", 9);
    let events = [
        Event::deposit("d", "a", 1_000),
        Event::deposit("d", "b", 1_001),
        first,
        by_operation,
        held.clone().with("expires_at", "2099-01-01T00:00:00Z"),
        held.with("expires_at", "2099-01-01T00:00:00.5Z"),
        Event::payment("payment.captured", "c", "a", "held", 2),
        Event { is_final: true, ..Event::payment("payment.captured", "c", "a", "held", 2) }
            .with("cumulative", true),
        Event::new("transfer.succeeded", "t", "a", None, 3).operation("t1").with("to", "b"),
        Event::deposit("b", "b", 1),
        Event::deposit("z", "z", 1),
        Event::new("transfer.succeeded", "t", "a", None, 3).operation("t1").with("to", "z"),
    ];
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(n as i64 + 1).await;
    }
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let expires = ("expires_at", "2099-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.500000Z");
    for (reason_at, expected) in [
        vec![("subject", "a", "b"), ("amount", "1000", "1001")],
        vec![("amount", "40", "42")],
        vec![expires],
        vec![("final", "false", "true"), ("cumulative", "-", "true")],
        vec![("to", "b", "z")],
    ]
    .into_iter()
    .enumerate()
    {
        let case: i64 = sqlx::query_scalar(
            "select id from quarantine where reason = 'payload_mismatch' order by id offset $1 limit 1",
        )
        .bind(reason_at as i64)
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
        let answer = dashboard.get(&format!("/api/quarantine/{case}")).await.json();
        let fields = answer["difference"].as_array().expect("both contents").clone();
        assert_eq!(fields.len(), 12, "{answer}");
        let differ = fields.iter().filter(|field| field["differs"] == true);
        let text = |field: &serde_json::Value, name: &str| field[name].as_str().unwrap_or("-").to_owned();
        let found: Vec<_> =
            differ.map(|f| (text(f, "field"), text(f, "first"), text(f, "received"))).collect();
        let expected: Vec<_> =
            expected.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
        assert_eq!(found, expected);
        let page = dashboard.get(&format!("/quarantine/{case}")).await.body;
        assert_eq!(page.matches("<strong>differs</strong>").count(), expected.len(), "{page}");
    }
    // In words that a person can read out, and side by side on the command line too.
    let details =
        "select count(*) from quarantine where reason = 'payload_mismatch' and detail ~ '[0-9a-f]{16}'";
    assert_eq!(world.number(details).await, 0, "no hashes");
    let id =
        world.number("select min(id) from quarantine where reason = 'payload_mismatch'").await.to_string();
    let output = world.program(&["quarantine", "show", &id]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("same source and event id") && text.contains("differs") && text.contains("1001"),
        "{text}"
    );
    let output = world.program(&["quarantine", "show", &id, "--json"]).output().await.unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["difference"].as_array().map(Vec::len), Some(12));
    dashboard.stop().await;
    world.close().await;
}
