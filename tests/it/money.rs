//! The life of money over the real servers: each story of contract §2 in several orders, over several batches, ends alike.

use std::time::Instant;

use crate::support::{DEADLINE, Event, POLL_PAUSE, RunningWorker, World, eventually};

const DAY: &str = "2026-11-22T13:44:14Z";

/// Publishes one by one, each settled before the next.
async fn one_by_one(world: &World, events: &[Event]) {
    let before =
        world.number("select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'").await;
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(before + n as i64 + 1).await;
    }
}

/// A worker that waits for money, as one does unless told otherwise.
async fn patient(world: &World) -> RunningWorker {
    world.worker_with(&[("order_wait_ms", "60000"), ("waiting_sweep_ms", "50")]).await
}

/// Waits until no case waits any more.
async fn nothing_waits(world: &World) {
    let started = Instant::now();
    while world.number("select count(*) from quarantine where state = 'waiting'").await > 0 {
        assert!(started.elapsed() < DEADLINE, "cases still wait: {:?}", world.cases().await);
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

struct Story {
    name: &'static str,
    events: Vec<Event>,
    /// Balance and held of account `a`.
    end: (i64, i64),
    /// State, authorized, captured, refunded of payment `p`, where it has a row.
    payment: Option<(&'static str, i64, i64, i64)>,
}

fn stories() -> Vec<Story> {
    let deposit = || Event::deposit("d", "a", 1_000).operation("top-up");
    let p = |kind, id, amount| Event::payment(kind, id, "a", "p", amount);
    vec![
        Story {
            name: "a partial void, and the capture of the rest",
            events: vec![
                deposit(),
                p("payment.authorized", "auth", 1_000),
                p("payment.voided", "part", 200).with("final", false),
                p("payment.captured", "cap", 800),
            ],
            end: (200, 0),
            payment: Some(("captured", 1_000, 800, 0)),
        },
        Story {
            name: "a capture in part, the void of the rest, a refund",
            events: vec![
                deposit(),
                p("payment.authorized", "auth", 500),
                p("payment.captured", "cap", 300),
                p("payment.voided", "void", 0),
                p("refund.succeeded", "back", 100),
            ],
            end: (800, 0),
            payment: Some(("captured", 500, 300, 100)),
        },
        Story {
            name: "a failed attempt, then a success",
            events: vec![
                deposit(),
                p("payment.failed", "no", 0),
                p("payment.succeeded", "yes", 199).operation("ch"),
            ],
            end: (801, 0),
            payment: Some(("succeeded", 0, 199, 0)),
        },
        Story {
            name: "a void of a debit gives back what is not refunded",
            events: vec![
                deposit(),
                p("payment.succeeded", "sale", 300),
                p("refund.succeeded", "back", 100),
                p("payment.voided", "void", 300),
            ],
            end: (1_000, 0),
            payment: Some(("voided", 0, 300, 100)),
        },
        Story {
            name: "increments and an adjustment",
            events: vec![
                deposit(),
                p("payment.authorized", "auth", 100).operation("a1"),
                p("payment.authorized", "more", 50).operation("a2"),
                p("payment.authorization_adjusted", "late", 90).at("2026-11-22T15:00:00Z"),
                p("payment.authorization_adjusted", "early", 400).at(DAY),
                p("payment.captured", "cap", 60),
            ],
            end: (940, 30),
            payment: Some(("authorized", 90, 60, 0)),
        },
        Story {
            name: "an adjustment upwards, captured and given back, of an account that could not bear it alone",
            events: vec![
                Event::deposit("d", "a", 60),
                p("payment.authorized", "auth", 100),
                p("payment.authorization_adjusted", "up", 150),
                p("payment.captured", "cap", 150).operation("c1"),
                p("refund.succeeded", "back", 150).operation("r1"),
            ],
            end: (60, 0),
            payment: Some(("captured", 150, 150, 150)),
        },
        Story {
            name: "a capture and a refund that fail",
            events: vec![
                deposit(),
                p("payment.authorized", "auth", 1_000),
                p("payment.captured", "c1", 1_000).operation("c1"),
                p("payment.capture_failed", "f1", 1_000).operation("c1"),
                p("payment.captured", "c2", 1_000).operation("c2"),
                p("refund.succeeded", "r1", 400).operation("r1"),
                p("refund.failed", "rf", 400).operation("r1"),
            ],
            end: (0, 0),
            payment: Some(("captured", 1_000, 1_000, 0)),
        },
        Story {
            name: "a dispute of a deposit that is won, and a refund of it without a subject",
            events: vec![
                Event::payment("deposit.succeeded", "d", "a", "top-up", 1_000),
                Event::payment("deposit.disputed", "lost", "a", "top-up", 1_000).operation("dp"),
                Event::payment("deposit.reinstated", "won", "a", "top-up", 1_000).operation("dp"),
                Event::payment("deposit.refunded", "back", "a", "top-up", 300).nameless(),
            ],
            end: (700, 0),
            payment: None,
        },
        Story {
            name: "running totals",
            events: vec![
                deposit(),
                p("payment.authorized", "auth", 900),
                p("payment.captured", "c1", 200).with("cumulative", true),
                p("payment.captured", "c2", 500).with("cumulative", true).with("final", true),
                p("refund.succeeded", "r1", 100).with("cumulative", true),
                p("refund.succeeded", "r2", 250).with("cumulative", true).nameless(),
            ],
            end: (750, 0),
            payment: Some(("captured", 900, 500, 250)),
        },
        Story {
            name: "a transfer, a fee, and a debit that spends what is left",
            events: vec![
                deposit(),
                Event::deposit("other", "b", 5),
                Event::new("transfer.succeeded", "move", "a", None, 400).with("to", "b"),
                Event::new("fee.charged", "fee", "a", None, 30),
                p("payment.succeeded", "sale", 570),
            ],
            end: (0, 0),
            payment: Some(("succeeded", 0, 570, 0)),
        },
    ]
}

/// Every rotation of the events, forwards and backwards: with each as the first, and as the last.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let rotations = (0..count).map(|first| (0..count).map(|at| (first + at) % count).collect::<Vec<_>>());
    rotations.flat_map(|order| [order.clone(), order.into_iter().rev().collect()]).collect()
}

#[tokio::test]
async fn every_story_ends_alike_in_whatever_order_and_batch_it_comes() {
    let world = World::new().await;
    let workers = [patient(&world).await, patient(&world).await];
    for (n, story) in stories().into_iter().enumerate() {
        for (m, order) in orders(story.events.len()).into_iter().enumerate() {
            let name = |text: &str| if text.is_empty() { String::new() } else { format!("{n}-{m}-{text}") };
            let events: Vec<Event> = order
                .iter()
                .map(|at| {
                    let mut event = story.events[*at].clone();
                    event.id = name(&event.id);
                    event.account = name(&event.account);
                    event.payment = event.payment.as_deref().map(name);
                    event.operation = event.operation.as_deref().map(name);
                    for (member, value) in &mut event.more {
                        if *member == "to" {
                            *value = name("b").into();
                        }
                    }
                    event
                })
                .collect();
            // Half of them one batch each, the others as the workers take them.
            if m % 2 == 0 {
                one_by_one(&world, &events).await;
            } else {
                let before = world
                    .number("select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'")
                    .await;
                world.publish(&events).await;
                world.settled(before + events.len() as i64).await;
            }
            nothing_waits(&world).await;
            let what = format!("{}: {events:#?}", story.name);
            let open = world.number("select count(*) from quarantine where state = 'open'").await;
            assert_eq!(open, 0, "{what} {:?}", world.cases().await);
            let account = world.account(&name("a")).await.map(|(balance, held, _)| (balance, held));
            assert_eq!(account, Some(story.end), "{what}");
            let payment: Option<(String, i64, i64, i64)> = sqlx::query_as(
                "select state, authorized, captured, refunded from payments where payment_id = $1",
            )
            .bind(name("p"))
            .fetch_optional(&mut world.connect().await)
            .await
            .expect("payments can be read");
            let expected = story.payment.map(|(state, a, c, r)| (state.to_owned(), a, c, r));
            assert_eq!(payment, expected, "{what}");
        }
    }
    for worker in workers {
        worker.stop().await;
    }
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_debt_is_paid_off_by_the_next_money_that_comes() {
    let world = World::new().await;
    let worker = patient(&world).await;
    let events = [
        Event::payment("deposit.succeeded", "d", "a", "top-up", 100),
        Event::payment("payment.succeeded", "sale", "a", "p", 100),
        Event::payment("deposit.disputed", "lost", "a", "top-up", 100),
        Event::payment("payment.succeeded", "more", "a", "q", 10),
        Event::deposit("d2", "a", 105),
    ];
    one_by_one(&world, &events[..4]).await;
    assert_eq!(world.account("a").await, Some((-100, 0, 3)));
    world.audit().await;
    one_by_one(&world, &events[4..]).await;
    assert_eq!(world.account("a").await, Some((5, 0, 4)), "the debit needs more than the 5 that are left");
    one_by_one(&world, &[Event::deposit("d3", "a", 5)]).await;
    assert_eq!(
        world.account("a").await,
        Some((0, 0, 6)),
        "released in the transaction that brings the money"
    );
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_lacks_money_longer_than_order_wait_is_a_case_and_a_further_delivery_decides_it_again() {
    let world = World::new().await;
    let worker = world.worker_with(&[("order_wait_ms", "1"), ("waiting_sweep_ms", "10")]).await;
    let sale = Event::payment("payment.succeeded", "sale", "a", "p", 50);
    one_by_one(&world, &[Event::deposit("d", "a", 10), sale.clone()]).await;
    nothing_waits(&world).await;
    let case = |state: &str, attempts| {
        (Some("sale".to_owned()), "insufficient_funds".to_owned(), state.to_owned(), attempts)
    };
    assert_eq!(world.cases().await, [case("open", 1)]);
    one_by_one(&world, std::slice::from_ref(&sale)).await;
    assert_eq!(world.cases().await, [case("open", 2)], "still too little");
    one_by_one(&world, &[Event::deposit("d2", "a", 40), sale.clone()]).await;
    assert_eq!(world.cases().await, [case("replayed", 3)]);
    one_by_one(&world, &[sale]).await;
    assert_eq!(world.account("a").await, Some((0, 0, 3)));
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_waited_through_an_outage_is_no_case_before_its_cause_can_come() {
    let world = World::new().await;
    let worker = patient(&world).await;
    one_by_one(&world, &[Event::payment("payment.succeeded", "sale", "a", "p", 50)]).await;
    worker.stop().await;
    // As if nothing had been written for an hour; the deposit lies in the queue.
    sqlx::raw_sql("update quarantine set waits_since = waits_since - interval '1 hour'")
        .execute(&mut world.connect().await)
        .await
        .expect("the case can be made older");
    world.publish(&[Event::deposit("d", "a", 50)]).await;
    let worker = patient(&world).await;
    world.settled(2).await;
    assert_eq!(world.account("a").await, Some((0, 0, 2)));
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_hold_whose_time_is_up_is_released_by_payonce_itself() {
    let world = World::new().await;
    let workers = [
        world.worker_with(&[("waiting_sweep_ms", "10")]).await,
        world.worker_with(&[("waiting_sweep_ms", "10")]).await,
    ];
    let events = [
        Event::deposit("d", "a", 100),
        Event::payment("payment.authorized", "auth", "a", "p", 80).with("expires_at", "2026-01-01T00:00:00Z"),
        Event::payment("payment.authorized", "kept", "a", "q", 10).with("expires_at", "2100-01-01T00:00:00Z"),
    ];
    one_by_one(&world, &events).await;
    let started = Instant::now();
    while world.account("a").await.is_none_or(|(_, held, _)| held != 10) {
        assert!(started.elapsed() < DEADLINE, "{:?}", world.account("a").await);
        tokio::time::sleep(POLL_PAUSE).await;
    }
    // A late capture counts, from what is available.
    one_by_one(&world, &[Event::payment("payment.captured", "cap", "a", "p", 80)]).await;
    assert_eq!(world.account("a").await, Some((20, 10, 5)));
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(world.number("select count(*) from payments where state = 'captured'").await, 1);
    world.audit().await;
    world.close().await;
}

/// The sweep comes when it comes: before the authorization that puts the end off, or after.
#[tokio::test]
async fn a_hold_that_an_authorization_prolongs_is_held_whenever_that_comes() {
    let world = World::new().await;
    let worker = world.worker_with(&[("waiting_sweep_ms", "10")]).await;
    let ends = |id: &str, payment: &str, amount, at: &str| {
        Event::payment("payment.authorized", id, "a", payment, amount).operation(id).with("expires_at", at)
    };
    let (past, future) = ("2026-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
    one_by_one(&world, &[Event::deposit("d", "a", 1_000), ends("p1", "p", 80, past)]).await;
    let states = "select count(*) from payments where state = 'expired'";
    eventually("the time of the first is up", 1, || world.number(states)).await;
    one_by_one(&world, &[ends("p2", "p", 20, future)]).await;
    one_by_one(&world, &[ends("q2", "q", 20, future), ends("q1", "q", 80, past)]).await;
    let held = async || world.account("a").await.map(|(balance, held, _)| (balance, held));
    eventually("both are held", Some((1_000, 200)), held).await;
    assert_eq!(world.number("select count(*) from payments where state = 'authorized'").await, 2);
    world.audit().await;
    // The second end is one of its own.
    let ended = "with u as (update payments set expires_at = '2026-01-01T00:00:01Z',
                                   facts = jsonb_set(facts, '{expires_at_us}', '1767225601000000') returning 1)
                 select count(*) from u";
    assert_eq!(world.number(ended).await, 2);
    eventually("the time of both is up", 2, || world.number(states)).await;
    assert_eq!(held().await, Some((1_000, 0)));
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_refund_for_another_account_does_not_wait_for_ever() {
    let world = World::new().await;
    let worker = world.worker_with(&[("waiting_sweep_ms", "10")]).await;
    let events = [
        Event::deposit("da", "a", 1_000),
        Event::deposit("db", "b", 1_000),
        Event::payment("refund.succeeded", "w", "b", "p", 100),
        Event::payment("payment.succeeded", "s", "a", "p", 100),
    ];
    one_by_one(&world, &events).await;
    nothing_waits(&world).await;
    let case = (Some("w".to_owned()), "invalid_transition".to_owned(), "open".to_owned(), 1);
    assert_eq!(world.cases().await, [case]);
    worker.stop().await;
    world.audit().await;
    world.close().await;
}
