//! The well-known bug of "SETNX, then work" is absent: a claim proves nothing.

use crate::support::{Event, World};

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
