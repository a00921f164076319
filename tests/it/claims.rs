//! The well-known bug of "SETNX, then work" is absent: a claim proves nothing.

use std::time::Duration;

use payonce::{
    dedupe::{Advice, Dedupe},
    ledger::{EventId, Fingerprint, Key, Source},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Event, World, eventually};

#[tokio::test]
async fn a_claim_left_by_a_dead_worker_does_not_swallow_the_payment() {
    let world = World::new().await;
    // What a worker leaves that died between its claim and its commit.
    let claim = world.redis_key("e1");
    let mut redis = world.redis().await;
    redis::cmd("SET").arg(&claim).arg("claim").query_async::<()>(&mut redis).await.unwrap();

    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    let worker = world.worker().await;
    world.settled(1).await;
    worker.stop().await;

    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    // The name above is the one that payonce uses: the claim has become a done marker.
    let marker: Vec<u8> = redis::cmd("GET").arg(&claim).query_async(&mut redis).await.unwrap();
    assert!(marker.starts_with(b"done:"), "the claim's key was not the one that the worker looked at");
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_done_marker_with_another_hash_does_not_turn_a_callback_away() {
    let world = World::new().await;
    let marker = world.redis_key("e1");
    let mut redis = world.redis().await;
    let other = [b"done:".as_slice(), &[7; 32]].concat();
    redis::cmd("SET").arg(&marker).arg(other).query_async::<()>(&mut redis).await.unwrap();

    let event = Event::deposit("e1", "a", 100);
    world.publish(std::slice::from_ref(&event)).await;
    let worker = world.worker().await;
    world.settled(1).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    // The name above is the one that payonce uses: the marker is now that of what was applied.
    let found: Vec<u8> = redis::cmd("GET").arg(&marker).query_async(&mut redis).await.unwrap();
    let fingerprint = payonce::wire::decode(&event.body()).unwrap().fingerprint;
    assert!(found.starts_with(&[b"done:".as_slice(), &fingerprint.0].concat()), "{found:?}");
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_redis_that_knows_most_keys_is_asked_first_and_what_it_does_not_know_is_claimed() {
    let world = World::new().await;
    let dedupe = Dedupe::new(&world.redis_url, &world.prefix, world.config(&[]).dedupe).unwrap();
    let stop = CancellationToken::new();
    let source = Source::new("/providers/one").unwrap();
    let keys: Vec<Key> = (0..8)
        .map(|n| Key { source: source.clone(), event_id: EventId::new(&format!("e{n}")).unwrap() })
        .collect();
    let [a, b, c, d, e, f, g, h] = std::array::from_fn(|n| &keys[n]);
    let content = Fingerprint([7; 32]);
    let ask = async {
        eventually("Redis is there", true, || std::future::ready(dedupe.is_available())).await;
        dedupe.remember([a, b, c].into_iter().map(|key| (key, content))).await;
        let done = Advice::Done(content);
        assert_eq!(dedupe.claim(&[a, b, d]).await, [done, done, Advice::New]);
        // It knew most of them, so the next are asked about first; what is new among them is claimed all the same.
        assert_eq!(dedupe.claim(&[e, a, f, b, c]).await, [Advice::New, done, Advice::New, done, done]);
        assert_eq!(dedupe.claim(&[d, e, f]).await, [Advice::Nothing; 3], "claimed, each in its way");
        assert_eq!(dedupe.claim(&[g, h]).await, [Advice::New; 2]);
        assert_eq!(dedupe.claim(&[g, h]).await, [Advice::Nothing; 2], "claimed again in one step");
        stop.cancel();
    };
    tokio::join!(dedupe.keep_connected(Duration::from_secs(60), &stop), ask);
    world.close().await;
}
