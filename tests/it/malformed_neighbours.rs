//! A bad message goes to quarantine with its body; its neighbours in the batch are applied.

use crate::support::{Event, World};

#[tokio::test]
async fn bad_messages_are_quarantined_byte_for_byte_and_their_neighbours_applied() {
    let world = World::new().await;
    let mut unknown_type = Event::deposit("e-type", "a", 1);
    unknown_type.kind = "customer.created";
    let mut wrong_currency = Event::deposit("e-currency", "a", 1);
    wrong_currency.currency = "JPY";
    let fraction = String::from_utf8(Event::deposit("e-fraction", "a", 1).body()).unwrap();
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("malformed", b"not json".to_vec()),
        ("malformed", vec![0xff, 0xfe, 0x00]),
        ("malformed", Vec::new()),
        ("malformed", fraction.replace("\"amount\":1", "\"amount\":1.5").into_bytes()),
        ("malformed", vec![b' '; payonce::wire::BODY_BYTES_MAX + 1]),
        ("unsupported_type", unknown_type.body()),
        ("currency_mismatch", wrong_currency.body()),
        ("unknown_account", Event::payment("payment.succeeded", "e-nobody", "nobody", "p-nobody", 1).body()),
        (
            "insufficient_funds",
            Event::payment("payment.succeeded", "e-poor", "a", "p-poor", 1_000_000).body(),
        ),
    ];
    let mut messages = vec![("a".to_owned(), Event::deposit("first", "a", 10).body())];
    messages.extend(bad.iter().map(|(_, body)| ("a".to_owned(), body.clone())));
    messages.push(("a".to_owned(), Event::deposit("last", "a", 20).body()));
    world.publish_raw(&messages).await;

    let worker = world.worker().await;
    world.settled(messages.len() as i64).await;
    worker.stop().await;

    assert_eq!(world.account("a").await, Some((30, 0, 2)));
    let stored: Vec<(String, Vec<u8>)> = sqlx::query_as("select reason, body from quarantine")
        .fetch_all(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(stored.len(), bad.len());
    for (reason, body) in bad {
        assert!(
            stored.contains(&(reason.to_owned(), body)),
            "a {reason} message is missing or its body changed"
        );
    }
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_deposit_that_would_leave_64_bits_is_quarantined() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("open", "a", 1)]).await;
    world.settled(1).await;
    // As if 1 024 of the largest deposits had come: the balance is one short of the limit.
    let near_the_limit = "update accounts set balance = 9223372036854775806 where account_id = 'a'";
    sqlx::raw_sql(near_the_limit).execute(&mut world.connect().await).await.unwrap();
    world.publish(&[Event::deposit("over", "a", 2), Event::deposit("fits", "a", 1)]).await;
    world.settled(3).await;
    worker.stop().await;
    let case = (Some("over".to_owned()), "amount_overflow".to_owned(), "open".to_owned(), 1);
    assert_eq!(world.cases().await, [case]);
    assert_eq!(world.account("a").await, Some((i64::MAX, 0, 2)));
    world.close().await;
}

/// Identifiers and details may hold anything but control characters; PostgreSQL, Redis and the audit take them as they are.
#[tokio::test]
async fn identifiers_of_any_characters_are_applied_once() {
    let world = World::new().await;
    let worker = world.worker().await;
    let ids = ["a:b", "5:x:y", "日本語", "'; drop table ledger; --", "{\"a\":1}", "%s %d \\0", "émoji 🦀"];
    let events: Vec<Event> = ids.iter().map(|id| Event::deposit(id, id, 7)).collect();
    world.publish(&events).await;
    world.settled(ids.len() as i64).await;
    world.publish(&events).await;
    world.settled(2 * ids.len() as i64).await;
    worker.stop().await;
    for id in ids {
        assert_eq!(world.account(id).await, Some((7, 0, 1)), "{id}");
    }
    world.audit().await;
    world.close().await;
}
