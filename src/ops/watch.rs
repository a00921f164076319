//! What is going on now: read every second by one task, whoever looks, and shown to all who do. So an open page costs the database
//! nothing, and ten open pages cost it no more.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    audits::AuditStatus,
    backlog::Backlog,
    clock,
    totals::{Sample, Today, Totals, rates},
};
use crate::{
    broker::{BrokerError, Depths, Gauge, Names},
    config::{Secret, TlsConfig},
    dedupe::Dedupe,
    latency::Counted,
    store::{
        self, Reader, StoreError,
        case_sums::{self, Standing},
        history,
        report::TotalRow,
        workers,
    },
};

/// Pause between two readings.
const TICK: Duration = Duration::from_secs(1);
/// Pause before the broker is asked again, where it is down or has no such queue.
const BROKER_PAUSE: Duration = Duration::from_secs(5);
/// Readings between two looks at the counts of today and of last week.
const TICKS_PER_LOOK_BACK: u32 = 5;
/// Readings kept: what the finest chart shows.
const SAMPLES_MAX: usize = 301;
/// Rates are over this many seconds.
const RATE_S: i64 = 10;

/// A server, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Unknown,
    Up,
    Down,
}

impl Link {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    fn of(is_up: bool) -> Self {
        if is_up { Self::Up } else { Self::Down }
    }
}

/// One reading. Where a server is down, its numbers are those of the reading before.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Of the numbers from PostgreSQL, by its clock.
    pub(super) at: Option<OffsetDateTime>,
    pub(super) totals: Totals,
    /// Today and an hour of it.
    pub(super) today: Today,
    /// Per second, over the last seconds: as [`Totals::stack`], and of all that was received.
    pub(super) rates: ([f64; 7], f64),
    /// Cases that need a person, or another callback, and what they are about.
    pub(super) cases: Standing,
    pub(super) workers: Vec<workers::WorkerRow>,
    pub(super) postgres: Link,
    pub(super) readiness: Result<(), String>,
    pub(super) redis: Link,
    pub(super) broker: Link,
    /// `None`: not known, or not declared yet.
    pub(super) depths: Option<Depths>,
    /// How long the oldest callback on the queue has waited, about; `None`: none waits, or it is not known. While PostgreSQL does not
    /// answer nothing is settled, as far as is known here: what waited goes on waiting.
    pub(super) backlog_age: Option<Duration>,
    /// What the audits found.
    pub(super) audit: AuditStatus,
    /// What latencies are marked above.
    pub(super) latency_target: Duration,
    /// When PostgreSQL was last read.
    read: Option<Instant>,
    pub(super) texts: BTreeMap<&'static str, String>,
}

impl Now {
    fn first(audit: AuditStatus, latency_target: Duration) -> Self {
        let mut now = Self {
            at: None,
            totals: Totals::default(),
            today: Today::default(),
            rates: ([0.0; 7], 0.0),
            cases: Standing::default(),
            workers: Vec::new(),
            postgres: Link::Unknown,
            readiness: Err("PostgreSQL was not asked yet".to_owned()),
            redis: Link::Unknown,
            broker: Link::Unknown,
            depths: None,
            backlog_age: None,
            audit,
            latency_target,
            read: None,
            texts: BTreeMap::new(),
        };
        now.write();
        now
    }

    /// A number or word as it stands on the page.
    pub(super) fn text(&self, name: &str) -> &str {
        self.texts.get(name).map_or("–", String::as_str)
    }

    /// All of them, for pages that are open.
    pub(super) fn texts(&self) -> &BTreeMap<&'static str, String> {
        &self.texts
    }

    /// Latencies of all workers over their last reports.
    pub(super) fn latencies(&self) -> Counted {
        let mut all = Counted::default();
        for worker in self.workers.iter().filter(|worker| worker.is_up) {
            all.add(&worker.latency_buckets);
        }
        all
    }

    /// For how long the oldest delivery has been held by a worker, in milliseconds, as workers reported.
    pub(super) fn oldest_held_ms(&self) -> Option<i64> {
        self.workers
            .iter()
            .filter(|worker| worker.is_up)
            .filter_map(|worker| worker.oldest_unsettled_ms)
            .max()
    }

    /// How long the backlog will take at the present rate, in seconds.
    pub(super) fn drain_s(&self) -> Option<f64> {
        let ready = f64::from(self.depths?.ready);
        (self.rates.1 > 0.0 && ready > 0.0).then(|| ready / self.rates.1)
    }

    /// How old the numbers from PostgreSQL are, where it does not answer.
    pub(super) fn stale(&self) -> Option<Duration> {
        match self.postgres {
            Link::Up => None,
            Link::Unknown | Link::Down => self.read.map(|read| read.elapsed()),
        }
    }
}

/// What is read from.
pub(super) struct Sources {
    pub(super) audit: watch::Receiver<AuditStatus>,
    pub(super) reader: Reader,
    pub(super) dedupe: Arc<Dedupe>,
    /// `None`: no broker was named.
    pub(super) amqp_url: Option<Secret>,
    pub(super) tls: TlsConfig,
    pub(super) names: Names,
    /// Of the connection to the broker.
    pub(super) process_name: String,
}

/// The readings.
pub(super) struct Watch {
    now: watch::Sender<Arc<Now>>,
    samples: Mutex<VecDeque<Sample>>,
    cases_changed: Notify,
}

impl Watch {
    pub(super) fn new(audit: AuditStatus, latency_target: Duration) -> Self {
        Self {
            now: watch::Sender::new(Arc::new(Now::first(audit, latency_target))),
            samples: Mutex::default(),
            cases_changed: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> Arc<Now> {
        Arc::clone(&self.now.borrow())
    }

    pub(super) fn follow(&self) -> watch::Receiver<Arc<Now>> {
        self.now.subscribe()
    }

    /// The readings of the last five minutes, oldest first.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Somebody worked cases: read again at once.
    pub(super) fn cases_changed(&self) {
        self.cases_changed.notify_one();
    }

    /// Reads again and again, until `stop`.
    pub(super) async fn run(&self, sources: &Sources, stop: &CancellationToken) {
        let depths = watch::Sender::new((Link::Unknown, None));
        let follow = depths.subscribe();
        tokio::join!(self.read_all(sources, follow, stop), ask_broker(sources, depths, stop));
    }

    async fn read_all(
        &self,
        sources: &Sources,
        depths: watch::Receiver<(Link, Option<Depths>)>,
        stop: &CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks_to_look_back = 0;
        let mut backlog = Backlog::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.cases_changed.notified() => {}
                _ = ticks.tick() => {}
            }
            let mut now = Now::clone(&self.now());
            (now.broker, now.depths) = *depths.borrow();
            now.audit = sources.audit.borrow().clone();
            now.redis = Link::of(sources.dedupe.is_available());
            now.readiness = sources.reader.check_schema().await.map_err(|cause| cause.to_string());
            match read(&sources.reader, ticks_to_look_back == 0).await {
                Ok(reading) => self.take(&mut now, reading),
                Err(cause) => {
                    if now.postgres != Link::Down {
                        warn!(cause = %cause, "PostgreSQL does not answer; the pages show what was last known");
                    }
                    now.postgres = Link::Down;
                }
            }
            ticks_to_look_back =
                if ticks_to_look_back == 0 { TICKS_PER_LOOK_BACK } else { ticks_to_look_back - 1 };
            now.backlog_age = match (now.depths, now.postgres) {
                (Some(depths), Link::Up) => {
                    backlog.look(Instant::now(), now.totals.received.unsigned_abs(), depths.ready.into())
                }
                (Some(depths), Link::Down) => backlog.look_at_queue(Instant::now(), depths.ready.into()),
                (None, Link::Up | Link::Down) => backlog.queue_unknown(Instant::now()),
                (_, Link::Unknown) => None,
            };
            now.write();
            self.now.send_replace(Arc::new(now));
        }
    }

    fn take(&self, now: &mut Now, reading: Reading) {
        let at = reading.at;
        clock::observe(at);
        now.postgres = Link::Up;
        now.at = Some(at);
        now.read = Some(Instant::now());
        now.totals = Totals::of(&reading.totals);
        now.workers = reading.workers;
        now.cases = reading.cases;
        if let Some(lately) = reading.lately {
            now.today = Today::of(&lately);
        }
        let at_ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let sample = Sample { at_ms, totals: now.totals };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
        let before = samples.iter().rev().find(|before| at_ms - before.at_ms >= RATE_S * 1_000);
        now.rates =
            before.or_else(|| samples.front()).map_or(([0.0; 7], 0.0), |before| rates(before, &sample));
    }
}

struct Reading {
    /// By the database's clock.
    at: OffsetDateTime,
    totals: Vec<TotalRow>,
    workers: Vec<workers::WorkerRow>,
    cases: Standing,
    /// `None`: not read this time.
    lately: Option<Vec<history::Lately>>,
}

async fn read(reader: &Reader, looks_back: bool) -> Result<Reading, StoreError> {
    reader
        .run(async |connection| {
            Ok(Reading {
                at: store::now(connection).await?,
                totals: history::totals(connection).await?,
                workers: workers::list(connection).await?,
                cases: case_sums::standing(connection).await?,
                lately: if looks_back { Some(history::lately(connection).await?) } else { None },
            })
        })
        .await
}

async fn ask_broker(
    sources: &Sources,
    depths: watch::Sender<(Link, Option<Depths>)>,
    stop: &CancellationToken,
) {
    let Some(url) = &sources.amqp_url else { return };
    let mut gauge: Option<Gauge> = None;
    loop {
        let asking = async {
            // Taken out, so that a connection that failed is dropped.
            let open = match gauge.take() {
                Some(open) => open,
                None => {
                    Gauge::open(url.expose(), &sources.process_name, &sources.tls, &sources.names).await?
                }
            };
            let found = open.read().await?;
            gauge = Some(open);
            Ok::<_, BrokerError>(found)
        };
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = asking => found,
        };
        depths.send_replace(match found {
            Ok(found) => (Link::Up, found),
            Err(cause) => {
                if depths.borrow().0 != Link::Down {
                    warn!(cause = %cause, "RabbitMQ does not answer; the backlog is not known");
                }
                (Link::Down, None)
            }
        });
        // Asking for a queue that is not there costs a channel each time, and a line of the log.
        let is_there = depths.borrow().1.is_some();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if is_there { TICK } else { BROKER_PAUSE }) => {}
        }
    }
}
