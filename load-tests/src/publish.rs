//! Publishes parts of a plan over several channels, each message confirmed by the broker.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use payonce::{
    broker::{Confirm, Names, Publisher, topology},
    signature::{Headers, ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    body,
    failure::Failure,
    place::Place,
    plan::{Plan, Sending, Way},
};

/// Channels that publish at the same time.
const CHANNELS: usize = 4;
/// Messages of a channel that may wait for their confirm.
const UNCONFIRMED_MAX: usize = 500;

/// One distinct message in so many comes from a client library that gives headers as byte arrays.
const FOREIGN_EVERY: u32 = 3;

/// A publisher that is not payonce's own: AMQP knows several types for a text.
struct Foreign {
    channel: Channel,
    exchange: String,
}

impl Foreign {
    async fn open(connection: &lapin::Connection, names: &Names) -> anyhow::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, exchange: names.exchange.clone() })
    }

    async fn publish(&self, key: &str, body: &[u8], headers: &Headers) -> anyhow::Result<PublisherConfirm> {
        let mut table = FieldTable::default();
        for (name, value) in [
            (ID_HEADER, &headers.id),
            (TIMESTAMP_HEADER, &headers.timestamp),
            (SIGNATURE_HEADER, &headers.signature),
        ] {
            if let Some(value) = value {
                table.insert(name.into(), AMQPValue::ByteArray(value.as_bytes().into()));
            }
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(table);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = self.exchange.as_str().into();
        Ok(self.channel.basic_publish(exchange, key.into(), options, body, properties).await?)
    }
}

/// A channel, for each of both kinds of publishers.
struct Channels {
    own: Publisher,
    foreign: Foreign,
}

/// A message on its way.
enum OnItsWay {
    Own(Confirm),
    Foreign(PublisherConfirm),
}

impl OnItsWay {
    async fn wait(self) -> anyhow::Result<()> {
        match self {
            Self::Own(confirm) => Ok(confirm.wait().await?),
            Self::Foreign(confirm) => {
                let confirmation = confirm.await?;
                ensure!(confirmation == Confirmation::Ack(None), "not on a queue: {confirmation:?}");
                Ok(())
            }
        }
    }
}

/// Publishes a plan's parts one after the other.
pub struct Sender {
    plan: Arc<Plan>,
    publishers: Vec<Arc<Channels>>,
    place: Arc<Place>,
    /// Offered per second; 0: all at once.
    rate: u32,
    /// By distinct message: when its first copy was to be published, in microseconds since 1970. Under a rate that is the
    /// scheduled time, not the actual one, so that a publisher that falls behind does not hide latency.
    published_at_us: Arc<Vec<AtomicU64>>,
    sent: usize,
    bar: ProgressBar,
}

impl Sender {
    /// Declares the topology and opens the channels.
    pub async fn open(place: &Place, plan: Arc<Plan>, rate: u32) -> Result<Self, Failure> {
        let connection = place.broker().await?;
        topology::declare(&connection, &place.names()).await.context("the topology cannot be declared")?;
        let mut publishers = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let own = Publisher::open(&connection, &place.names()).await.context("no channel")?;
            let foreign = Foreign::open(&connection, &place.names()).await?;
            publishers.push(Arc::new(Channels { own, foreign }));
        }
        let published_at_us = Arc::new(plan.distinct.iter().map(|_| AtomicU64::new(0)).collect());
        // indicatif hides the bar where standard error is not a terminal.
        let bar = ProgressBar::new(plan.published() as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:40} {pos}/{len} confirmed, {per_sec}, {eta} left")
        {
            bar.set_style(style);
        }
        let place = Arc::new(place.clone());
        Ok(Self { plan, publishers, place, rate, published_at_us, sent: 0, bar })
    }

    /// Publishes these and waits for every confirm.
    pub async fn send(&mut self, part: impl Fn(&Plan) -> &[Sending]) -> Result<(), Failure> {
        let sendings = part(&self.plan);
        let mut by_channel: Vec<Vec<(usize, Sending)>> = vec![Vec::new(); self.publishers.len()];
        let mut channel = 0;
        for (at, sending) in sendings.iter().enumerate() {
            // A copy right behind its first goes the same way; all others go round, so that neighbours are sent at once.
            if sending.way != Some(Way::BackToBack) {
                channel = (channel + 1) % by_channel.len();
            }
            by_channel[channel].push((self.sent + at, *sending));
        }
        self.sent += sendings.len();
        let schedule = Schedule {
            start: Instant::now(),
            start_us: now_us(),
            first: self.sent - sendings.len(),
            rate: self.rate,
        };
        let mut tasks = JoinSet::new();
        for (sendings, publisher) in by_channel.into_iter().zip(&self.publishers) {
            let (plan, publisher, bar) = (Arc::clone(&self.plan), Arc::clone(publisher), self.bar.clone());
            let (place, published_at_us) = (Arc::clone(&self.place), Arc::clone(&self.published_at_us));
            tasks.spawn(async move {
                send_channel(&plan, &place, &publisher, sendings, schedule, &published_at_us, &bar).await
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a publisher died")??;
        }
        Ok(())
    }

    /// Publishes the whole plan, part by part.
    pub async fn send_all(&mut self) -> Result<(), Failure> {
        self.send(|plan| &plan.opening).await?;
        self.send(|plan| &plan.main).await?;
        self.send(|plan| &plan.late).await
    }

    /// Ends the progress bar, and says when each distinct message was published first.
    pub fn finish(self) -> Vec<u64> {
        self.bar.finish_and_clear();
        self.published_at_us.iter().map(|at| at.load(Ordering::Relaxed)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    start_us: u64,
    first: usize,
    rate: u32,
}

impl Schedule {
    /// How long after the start the message of this number is due; `None`: at once.
    fn due(&self, number: usize) -> Option<Duration> {
        let behind = u32::try_from(number - self.first).unwrap_or(u32::MAX);
        (self.rate > 0).then(|| Duration::from_secs(1) * behind / self.rate)
    }
}

async fn send_channel(
    plan: &Plan,
    place: &Place,
    channels: &Channels,
    sendings: Vec<(usize, Sending)>,
    schedule: Schedule,
    published_at_us: &[AtomicU64],
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let mut unconfirmed: VecDeque<OnItsWay> = VecDeque::with_capacity(UNCONFIRMED_MAX);
    for (number, sending) in sendings {
        let (key, body) = body::message(plan, sending, number);
        let headers = place.headers(plan, sending, &body)?;
        let at_us = match schedule.due(number) {
            Some(due) => {
                tokio::time::sleep_until(schedule.start + due).await;
                schedule.start_us + u64::try_from(due.as_micros()).unwrap_or(u64::MAX)
            }
            None => now_us(),
        };
        if let (None, Some(slot)) = (sending.way, published_at_us.get(sending.distinct as usize)) {
            slot.store(at_us, Ordering::Relaxed);
        }
        let is_foreign = !headers.is_empty() && sending.distinct.is_multiple_of(FOREIGN_EVERY);
        unconfirmed.push_back(if is_foreign {
            OnItsWay::Foreign(channels.foreign.publish(&key, &body, &headers).await?)
        } else {
            OnItsWay::Own(channels.own.publish_signed(&key, &body, &headers).await?)
        });
        if unconfirmed.len() >= UNCONFIRMED_MAX
            && let Some(confirm) = unconfirmed.pop_front()
        {
            confirm.wait().await?;
            bar.inc(1);
        }
    }
    for confirm in unconfirmed {
        confirm.wait().await?;
        bar.inc(1);
    }
    Ok(())
}

/// Microseconds since 1970 by this machine's clock, which the database shares.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
