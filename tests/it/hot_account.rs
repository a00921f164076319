//! Many workers on few accounts: nothing is lost and nothing doubled, whoever wins each race.

use crate::support::{Event, World};

#[tokio::test]
async fn four_workers_on_one_hot_account_keep_every_cent() {
    const CALLBACKS: usize = 2_000;
    let world = World::new().await;
    let mut events = vec![Event::deposit("open", "hot", 1_000_000)];
    for n in 0..CALLBACKS {
        events.push(match n % 3 {
            0 => Event::deposit(&format!("d{n}"), "hot", 3),
            1 => Event::payment("payment.succeeded", &format!("p{n}"), "hot", &format!("pay{n}"), 2),
            _ => Event::deposit(&format!("d{}", n - 2), "hot", 3),
        });
    }
    world.publish(&events[..1]).await;
    // Small batches and several lanes make the workers meet as often as they can.
    let settings = [("batch_size_max", "20"), ("prefetch_count", "160"), ("retry_delay_max_ms", "50")];
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(world.worker_with(&settings).await);
    }
    world.settled(1).await;
    world.publish(&events[1..]).await;
    world.settled(events.len() as i64).await;
    for worker in workers {
        worker.stop().await;
    }
    let deposits = CALLBACKS.div_ceil(3) as i64;
    let debits = ((CALLBACKS + 1) / 3) as i64;
    let version = 1 + deposits + debits;
    assert_eq!(world.account("hot").await, Some((1_000_000 + 3 * deposits - 2 * debits, 0, version)));
    assert_eq!(world.cases().await, []);
    world.audit().await;
    world.close().await;
}
