//! What exists on the broker but differs is refused in words.

use lapin::{
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use payonce::broker;

use crate::support::World;

#[tokio::test]
async fn a_queue_that_differs_is_refused_with_the_difference() {
    let world = World::new().await;
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = world.names().queue;
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();

    let output = world.program(&["worker"]).output().await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains(&queue) && words.contains("x-d"), "the difference is not named: {words}");
    let refused = world.start_worker(&[]).ended().await.expect_err("the worker must not run");
    assert!(refused.to_string().contains("differs"), "{refused}");
    world.close().await;
}
