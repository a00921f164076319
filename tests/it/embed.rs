//! The example of a program that settles callbacks without a broker (`examples/embed.rs`) does what its reader is told.

use payonce::ledger::{Layer, Outcome};

use crate::support::World;

#[path = "../../examples/embed.rs"]
#[allow(dead_code, reason = "its `main` is for people")]
mod example;

#[tokio::test]
async fn a_program_settles_callbacks_without_a_broker_each_once() {
    let world = World::new().await;
    let outcomes = example::settle(&world.database_url).await.expect("it is settled");
    let copy = |layer| Some(Outcome::Duplicate(layer));
    assert_eq!(outcomes, [Some(Outcome::Applied), copy(Layer::Batch), Some(Outcome::Applied)]);
    assert_eq!(world.account("acct-1").await, Some((1_900, 0, 2)));
    // All of it again, as after an answer that was lost.
    let again = example::settle(&world.database_url).await.expect("it is settled");
    assert_eq!(again, [copy(Layer::Ledger), copy(Layer::Batch), copy(Layer::Ledger)]);
    assert_eq!(world.account("acct-1").await, Some((1_900, 0, 2)));
    world.audit().await;
    world.close().await;
}
