//! Same key, other content: never a silent duplicate.

use crate::support::{Event, World};

#[tokio::test]
async fn the_same_key_with_another_amount_is_quarantined_whichever_layer_sees_it_first() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    // A done marker with another hash, then a known case, then both contents in one batch.
    world.publish(&[Event::deposit("e1", "a", 101)]).await;
    world.settled(2).await;
    world.publish(&[Event::deposit("e1", "a", 101)]).await;
    world.settled(3).await;
    worker.stop().await;
    world
        .publish(&[Event::deposit("e2", "a", 5), Event::deposit("e2", "a", 6), Event::deposit("e2", "a", 6)])
        .await;
    let worker = world.worker().await;
    world.settled(6).await;
    worker.stop().await;
    let mismatch = |id: &str| (Some(id.to_owned()), "payload_mismatch".to_owned(), "open".to_owned(), 2);
    assert_eq!(world.cases().await, [mismatch("e1"), mismatch("e2")]);
    assert_eq!(world.account("a").await, Some((105, 0, 2)));
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
