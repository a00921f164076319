//! Following the ledger for one receiver: take the lease, read what has settled, deliver it, keep the position, until told to stop. Whatever
//! fails, the next turn begins at the stored position: what was delivered and not kept comes again, nothing is left out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Feed, Refusal};
use crate::{
    config::Start,
    metrics,
    retry::Pauses,
    store::{
        self, Epoch, SchemaError, StoreError,
        feed::{Entry, Lease, Log, Position},
    },
};

/// Rows of one look.
const PAGE_ROWS_MAX: usize = 1_000;
/// Pause after a look that found nothing.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// How long a delivery that has begun may take after a signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How many tails neither deliver nor stand by, and whether there are any yet; shared with the health endpoint.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<(AtomicUsize, AtomicBool)>);

impl Readiness {
    /// True while each receiver is served from here, or from another process.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let (unready, has_begun) = &*self.0;
        has_begun.load(Ordering::Acquire) && unready.load(Ordering::Relaxed) == 0
    }
}

/// Why a delivery ended early. What was confirmed by then is confirmed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SinkError {
    /// A person has to change something.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// The receiver has lost what it was sent after this position.
    #[error("the receiver has gone back to transaction {}", .0.txn)]
    Rewind(Position),
}

/// Where rows go.
pub(super) trait Sink {
    /// Connects, anew after each failure.
    async fn open(&mut self, epoch: &Epoch) -> Result<(), SinkError>;
    /// Tells that the rows after `position` belong to another history than those before.
    async fn history_changed(&mut self, before: &str, position: &Position) -> Result<(), SinkError>;
    /// Looks whether the receiver still has all before `position`: when it was opened, after each delivery, and while nothing comes.
    async fn check(&mut self, position: &Position) -> Result<(), SinkError>;
    /// Delivers rows in this order and counts those that are confirmed, with all before them, in `confirmed`.
    async fn deliver(&mut self, entries: &[Entry], confirmed: &mut usize) -> Result<(), SinkError>;
    /// Ends what it does by itself: the right to send is lost, or is given back.
    async fn close(&mut self);
}

/// Why a turn ended.
#[derive(Debug, thiserror::Error)]
enum TurnEnd {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the receiver has gone back")]
    Rewind(Position, Epoch),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another process has taken the lease, or the database goes on in another history")]
    LeaseLost,
}

/// How a turn ended well.
enum Turn {
    Stopped,
    StandBy,
}

/// One receiver's place in the ledger.
pub(super) struct Tail {
    feed: Arc<Feed>,
    name: String,
    from_beginning: bool,
    /// Whether a position that is new is after what is there.
    from_now: bool,
    connection: store::Connection,
    counts_as_unready: bool,
    /// Since when everything has failed; `None`: the last thing that it tried went well.
    failing_since: Option<Instant>,
}

impl Tail {
    pub(super) fn new(feed: &Arc<Feed>, name: &str, from_beginning: bool) -> Self {
        let connection = store::Connection::new(Arc::clone(&feed.database));
        let mut tail = Self {
            feed: Arc::clone(feed),
            name: name.to_owned(),
            from_beginning,
            from_now: false,
            connection,
            counts_as_unready: false,
            failing_since: None,
        };
        tail.is_ready(false);
        tail
    }

    /// One that begins here, the first time.
    pub(super) fn starting(mut self, start: Start) -> Self {
        self.from_now = start == Start::Now;
        self
    }

    fn is_ready(&mut self, ready: bool) {
        let (unready, has_begun) = &*self.feed.readiness.0;
        if ready && self.counts_as_unready {
            unready.fetch_sub(1, Ordering::Relaxed);
        } else if !ready && !self.counts_as_unready {
            unready.fetch_add(1, Ordering::Relaxed);
        }
        has_begun.store(true, Ordering::Release);
        self.counts_as_unready = !ready;
    }

    /// Delivers to `sink` until `stop`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) async fn run(mut self, mut sink: impl Sink, stop: &CancellationToken) -> Result<(), Refusal> {
        let mut pauses = Pauses::new(self.feed.retry);
        let mut stood_by = false;
        let result = loop {
            if stop.is_cancelled() {
                break Ok(());
            }
            if let Err(end) = self.check_schema().await {
                match end {
                    SchemaError::Store(cause) => self.pause(&mut pauses, &cause, stop).await,
                    end @ (SchemaError::TooOld { .. }
                    | SchemaError::TooNew { .. }
                    | SchemaError::FromDump
                    | SchemaError::Migration(_)) => break Err(Refusal::Schema(end)),
                }
                continue;
            }
            let turn = self.turn(&mut sink, &mut pauses, stop).await;
            sink.close().await;
            match turn {
                Ok(Turn::Stopped) => break Ok(()),
                Ok(Turn::StandBy) => {
                    if !stood_by {
                        info!(feed = self.name, "another process has the lease; standing by");
                    }
                    stood_by = true;
                    self.failing_since = None;
                    self.is_ready(true);
                    sleep_unless(self.feed.config.lease / 4, stop).await;
                    continue;
                }
                Err(TurnEnd::Sink(SinkError::Refused(refusal))) => break Err(refusal),
                Err(TurnEnd::Rewind(position, epoch)) => {
                    warn!(
                        feed = self.name,
                        txn = position.txn,
                        "the receiver has lost what came after; sending it again"
                    );
                    if let Err(end) = self.keep(&position, &epoch, 0).await {
                        self.pause(&mut pauses, &end, stop).await;
                    }
                }
                Err(
                    end @ (TurnEnd::Sink(SinkError::Unreachable(_) | SinkError::Rewind(_))
                    | TurnEnd::Store(_)
                    | TurnEnd::LeaseLost),
                ) => {
                    self.pause(&mut pauses, &end, stop).await;
                }
            }
            stood_by = false;
        };
        metrics::feed_is_leader(&self.name, false);
        let (name, holder) = (self.name.clone(), self.feed.name.clone());
        let released = self
            .connection
            .run(async |connection| store::feed::release(connection, &name, &holder, None).await);
        if let Err(cause) = released.await {
            info!(feed = self.name, cause = %cause, "the lease was not given back; it ends by itself");
        }
        self.connection.close().await;
        result
    }

    /// Waits after a failure. For as long as a lease it keeps the lease meanwhile; then it gives it back and lets others go first: one of them
    /// may reach the receiver that this process cannot.
    async fn pause(
        &mut self,
        pauses: &mut Pauses,
        cause: &(dyn std::error::Error + Sync),
        stop: &CancellationToken,
    ) {
        self.is_ready(false);
        metrics::feed_is_leader(&self.name, false);
        let (name, holder, lease) = (self.name.clone(), self.feed.name.clone(), self.feed.config.lease);
        let returns_lease = self.failing_since.get_or_insert_with(Instant::now).elapsed() >= lease;
        // Who stands by looks four times in a lease.
        let pause = pauses.next_pause().max(if returns_lease { lease / 2 } else { Duration::ZERO });
        warn!(
            feed = self.name,
            cause = %cause,
            gives_the_lease_back = returns_lease,
            pause_ms = pause.as_millis(),
            "the feed waits; workers do not"
        );
        // For people. Where PostgreSQL is what is down, nobody can be told there, and the lease ends by itself.
        let problem = cause.to_string();
        let told = self.connection.run(async |connection| {
            if returns_lease {
                return store::feed::release(connection, &name, &holder, Some(&problem)).await;
            }
            store::feed::renew(connection, &name, &holder, lease, Some(&problem)).await.map(|_| ())
        });
        drop(told.await);
        sleep_unless(pause, stop).await;
    }

    /// Something went well: the next failure is the first.
    fn recovered(&mut self, pauses: &mut Pauses) {
        self.failing_since = None;
        pauses.reset();
    }

    async fn check_schema(&mut self) -> Result<(), SchemaError> {
        self.connection.run(async |connection| Ok(store::check_schema(connection).await)).await?
    }

    async fn turn(
        &mut self,
        sink: &mut impl Sink,
        pauses: &mut Pauses,
        stop: &CancellationToken,
    ) -> Result<Turn, TurnEnd> {
        let lease_for = self.feed.config.lease;
        let (name, holder, from_now) = (self.name.clone(), self.feed.name.clone(), self.from_now);
        let taken = self
            .connection
            .run(async |connection| store::feed::take(connection, &name, &holder, lease_for, from_now).await)
            .await?;
        let Some(Lease { mut position, epoch_before, epoch }) = taken else { return Ok(Turn::StandBy) };
        if self.from_beginning {
            position = Position::default();
            info!(feed = self.name, "sending all rows again");
        }
        sink.open(&epoch).await?;
        if let Some(before) = epoch_before.filter(|before| before != epoch.as_str()) {
            warn!(feed = self.name, before, now = %epoch, "the database goes on in another history; readers are told");
            sink.history_changed(&before, &position).await?;
        }
        check(sink, &position, &epoch).await?;
        // Not before the news of another history is out: with this epoch kept, nobody would send it any more.
        self.keep(&position, &epoch, 0).await?;
        self.from_beginning = false;
        self.is_ready(true);
        metrics::feed_is_leader(&self.name, true);
        info!(feed = self.name, txn = position.txn, "has the lease and feeds");
        let mut log = Log::at(position);
        let mut renewals = tokio::time::interval(lease_for / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let page =
                self.connection.run(async |connection| log.look(connection, PAGE_ROWS_MAX).await).await?;
            if !page.entries.is_empty() {
                let mut confirmed = 0;
                let delivered = self.deliver(sink, &page.entries, &mut confirmed, &mut renewals, stop).await;
                let position = match page.entries.get(..confirmed).and_then(<[Entry]>::last) {
                    Some(_) if confirmed == page.entries.len() => page.next.clone(),
                    Some(last) => Position::after(last),
                    None => log.position().clone(),
                };
                log.go_to(position);
                self.keep(log.position(), &epoch, confirmed).await?;
                metrics::feed_sent(&self.name, confirmed);
                delivered?;
                check(sink, log.position(), &epoch).await?;
                self.recovered(pauses);
            } else {
                log.go_to(page.next);
            }
            if stop.is_cancelled() {
                return Ok(Turn::Stopped);
            }
            if page.is_end {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(POLL_PAUSE) => {}
                    _ = renewals.tick() => {
                        check(sink, log.position(), &epoch).await?;
                        self.keep(log.position(), &epoch, 0).await?;
                        self.recovered(pauses);
                    }
                }
            }
        }
    }

    /// Keeps the lease while a slow receiver is waited for.
    async fn deliver(
        &mut self,
        sink: &mut impl Sink,
        entries: &[Entry],
        confirmed: &mut usize,
        renewals: &mut tokio::time::Interval,
        stop: &CancellationToken,
    ) -> Result<(), TurnEnd> {
        let (name, holder, lease) = (self.name.clone(), self.feed.name.clone(), self.feed.config.lease);
        let delivering = sink.deliver(entries, confirmed);
        tokio::pin!(delivering);
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                delivered = &mut delivering => return Ok(delivered?),
                () = &mut stopped => return Ok(()),
                _ = renewals.tick() => {
                    let kept = self.connection.run(async |connection| {
                        store::feed::renew(connection, &name, &holder, lease, None).await
                    });
                    if !kept.await? {
                        return Err(TurnEnd::LeaseLost);
                    }
                }
            }
        }
    }

    async fn keep(&mut self, position: &Position, epoch: &Epoch, sent: usize) -> Result<(), TurnEnd> {
        let (name, holder, lease) = (self.name.clone(), self.feed.name.clone(), self.feed.config.lease);
        let kept = self
            .connection
            .run(async |connection| {
                store::feed::keep(connection, &name, &holder, lease, position, epoch, sent).await
            })
            .await?;
        if kept { Ok(()) } else { Err(TurnEnd::LeaseLost) }
    }
}

async fn check(sink: &mut impl Sink, position: &Position, epoch: &Epoch) -> Result<(), TurnEnd> {
    sink.check(position).await.map_err(|problem| match problem {
        SinkError::Rewind(position) => TurnEnd::Rewind(position, epoch.clone()),
        problem @ (SinkError::Unreachable(_) | SinkError::Refused(_)) => TurnEnd::Sink(problem),
    })
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.is_ready(true);
    }
}

pub(super) async fn sleep_unless(pause: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
