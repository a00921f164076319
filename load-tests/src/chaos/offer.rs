//! A publisher that outlives its broker: what was not confirmed is published again, as a payment provider's endpoint would.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use payonce::broker::{Publisher, topology};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    body,
    place::Place,
    plan::{Plan, Sending, Way},
    publish::now_us,
};

/// Published and confirmed together.
const BURST: usize = 20;
const CONFIRM_DEADLINE: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What publishers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Go,
    Pause,
    Finish,
}

/// What is left out by somebody who is told to finish: nothing of the plan, on whose copies the audit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Plan,
    /// Those that only keep the load up.
    Copies,
}

/// Publishes on its own until told to finish.
pub struct Offer {
    published: Arc<Published>,
    order: watch::Sender<Order>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Offer {
    /// Publishes these at `rate` per second; when all are out, copies of them, so that the load never ends.
    pub fn start(published: Arc<Published>, place: Place, sendings: Vec<Sending>, rate: u32) -> Self {
        let (order, orders) = watch::channel(Order::Go);
        let ledger = Arc::clone(&published);
        let task = tokio::spawn(async move {
            let copies = sendings.iter().map(|first| Sending { way: Some(Way::Spread), ..*first });
            let copies: Vec<Sending> = copies.collect();
            publish(&ledger, &place, &sendings, rate, Some((orders.clone(), Whose::Plan))).await?;
            while *orders.borrow() != Order::Finish {
                publish(&ledger, &place, &copies, rate, Some((orders.clone(), Whose::Copies))).await?;
            }
            Ok(())
        });
        Self { published, order, task }
    }

    /// Publishes nothing until told to go on; returns when all that was begun is confirmed.
    pub async fn pause(&self) {
        self.order.send_replace(Order::Pause);
        let _begun = self.published.sending.lock().await;
    }

    pub fn go_on(&self) {
        self.order.send_replace(Order::Go);
    }

    /// Publishes what is left of the plan, its copies too, since the audit counts on them; and ends.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.order.send_replace(Order::Finish);
        self.task.await.context("the publisher died")?
    }
}

/// A plan, and what of it was published.
pub struct Published {
    pub plan: Arc<Plan>,
    /// By distinct message: when it was confirmed first, in microseconds since 1970; 0: never.
    pub at_us: Vec<AtomicU64>,
    /// Confirmed messages.
    pub confirmed: AtomicU64,
    /// Held while a burst is published and not confirmed yet.
    sending: Mutex<()>,
}

impl Published {
    pub fn new(plan: Arc<Plan>) -> Self {
        let at_us = plan.distinct.iter().map(|_| AtomicU64::new(0)).collect();
        Self { plan, at_us, confirmed: AtomicU64::new(0), sending: Mutex::new(()) }
    }

    /// Whether the broker has this message.
    pub fn is_confirmed(&self, distinct: u32) -> bool {
        self.at_us.get(distinct as usize).is_some_and(|at| at.load(Ordering::Relaxed) > 0)
    }
}

/// Publishes these until each is confirmed, `rate` per second; 0: at once.
async fn publish(
    published: &Published,
    place: &Place,
    sendings: &[Sending],
    rate: u32,
    mut orders: Option<(watch::Receiver<Order>, Whose)>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut publisher: Option<(lapin::Connection, Publisher)> = None;
    for (number, burst) in sendings.chunks(BURST).enumerate() {
        if rate > 0 {
            let due = u32::try_from(number * BURST).unwrap_or(u32::MAX);
            sleep_until(started + Duration::from_secs(1) * due / rate).await;
        }
        let (order, _sending) = begin(published, orders.as_mut().map(|(orders, _)| orders)).await?;
        if order == Order::Finish && orders.as_ref().is_some_and(|(_, whose)| *whose == Whose::Copies) {
            return Ok(());
        }
        let mut left: Vec<Sending> = burst.to_vec();
        while !left.is_empty() {
            if publisher.is_none() {
                publisher = timeout(CONFIRM_DEADLINE, open(place)).await.ok().and_then(Result::ok);
            }
            let sent = match &publisher {
                Some((_, publisher)) => {
                    timeout(CONFIRM_DEADLINE, send(published, place, publisher, &left)).await.unwrap_or(0)
                }
                None => 0,
            };
            left.drain(..sent);
            if !left.is_empty() {
                publisher = None;
                sleep(RETRY_PAUSE).await;
            }
        }
    }
    Ok(())
}

/// Waits while told to pause. With the guard no pause begins.
async fn begin<'a>(
    published: &'a Published,
    mut orders: Option<&mut watch::Receiver<Order>>,
) -> anyhow::Result<(Order, MutexGuard<'a, ()>)> {
    loop {
        if let Some(orders) = &mut orders {
            orders.wait_for(|order| *order != Order::Pause).await.context("nobody gives orders")?;
        }
        let sending = published.sending.lock().await;
        let order = orders.as_ref().map_or(Order::Go, |orders| *orders.borrow());
        if order != Order::Pause {
            return Ok((order, sending));
        }
    }
}

/// Publishes these as fast as the broker confirms them.
pub async fn publish_all(published: &Published, place: &Place, sendings: &[Sending]) -> anyhow::Result<()> {
    publish(published, place, sendings, 0, None).await
}

/// A publisher to a place's queue.
pub async fn open(place: &Place) -> anyhow::Result<(lapin::Connection, Publisher)> {
    let connection = place.broker().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    topology::declare(&connection, &place.names()).await?;
    let publisher = Publisher::open(&connection, &place.names()).await?;
    Ok((connection, publisher))
}

/// How many, from the first on, were confirmed.
async fn send(published: &Published, place: &Place, publisher: &Publisher, sendings: &[Sending]) -> usize {
    let mut confirms = Vec::with_capacity(sendings.len());
    for sending in sendings {
        // The number only makes bodies of copies differ where the format allows it.
        let number = usize::try_from(published.confirmed.load(Ordering::Relaxed)).unwrap_or(0);
        let (key, body) = body::message(&published.plan, *sending, number);
        let Ok(headers) = place.headers(&published.plan, *sending, &body) else { break };
        let Ok(confirm) = publisher.publish_signed(&key, &body, &headers).await else { break };
        confirms.push(confirm);
    }
    let mut confirmed = 0;
    for (confirm, sending) in confirms.into_iter().zip(sendings) {
        if confirm.wait().await.is_err() {
            break;
        }
        confirmed += 1;
        published.confirmed.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = published.at_us.get(sending.distinct as usize) {
            // Only the first time; a copy keeps it.
            let _earlier = slot.compare_exchange(0, now_us(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }
    confirmed
}
