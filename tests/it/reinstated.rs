//! What gives back to a deposit what was taken of it: all that it says, and nothing else.

use crate::support::{Event, World};

/// Direct and over the queue: what failed had taken nothing, and gives nothing back of what another refund took.
#[tokio::test]
async fn a_refund_that_failed_gives_back_what_it_took_and_no_other() {
    let world = World::new().await;
    let worker = world.worker().await;
    let of = |kind, id: &str, operation: &str, amount| {
        Event::new(kind, id, "a", Some("pi_1"), amount).operation(operation)
    };
    let failed = |id: &str, operation: &str, amount| {
        of("deposit.reinstated", id, operation, amount).with("reverses", "deposit.refunded")
    };
    world
        .publish(&[
            of("deposit.succeeded", "d", "ch_1", 10_000),
            of("deposit.refunded", "r_a", "re_a", 3_000),
            failed("f_b", "re_b", 2_000),
            // Another content under the same id.
            of("deposit.reinstated", "f_b", "re_b", 2_000),
            // Of a type that does not know it, it means nothing.
            of("deposit.refunded", "r_a", "re_a", 3_000)
                .with("reverses", "nothing")
                .with("direction", "inbound"),
            // No such movement can be taken back, and nothing is without its id.
            of("deposit.reinstated", "f_c", "re_c", 1).with("reverses", "deposit.succeeded"),
            Event::new("deposit.reinstated", "f_d", "a", Some("pi_1"), 1)
                .with("reverses", "deposit.refunded"),
        ])
        .await;
    world.settled(7).await;
    assert_eq!(world.account("a").await, Some((7_000, 0, 2)));
    let reasons: Vec<(String, String)> =
        world.cases().await.into_iter().map(|(id, reason, ..)| (id.unwrap_or_default(), reason)).collect();
    let case = |id: &str, reason: &str| (id.to_owned(), reason.to_owned());
    for expected in [
        case("f_b", "waiting_for_payment"),
        case("f_b", "payload_mismatch"),
        case("f_c", "malformed"),
        case("f_d", "malformed"),
    ] {
        assert!(reasons.contains(&expected), "{expected:?} is not in {reasons:?}");
    }
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    // It had been made after all, and only its message was late.
    world.publish(&[of("deposit.refunded", "r_b", "re_b", 2_000)]).await;
    world.settled(8).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((7_000, 0, 4)));
    world.audit().await;
    world.close().await;
}
