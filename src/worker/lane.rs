//! A lane: one batch at a time, over one database connection of its own, until told to stop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio_util::sync::CancellationToken;
use tracing::{Span, warn};

use super::{
    Worker,
    aside::{Aside, Retry},
    batch::{self, Taken},
    check_database,
    process::{self, Fate, Trial},
    sleep_unless,
    stage::{self, Timed},
};
use crate::{
    broker::{Receipt, Tag},
    metrics::{self, Stage},
    retry::Pauses,
    store::{self, StoreError},
};

/// A lane whose last batch was at least this part of a full one is behind, and waits for the next to fill: small batches cost more
/// for each callback, and a lane that makes them slows the broker down on a busy machine, which keeps them small. A quiet lane
/// takes what comes at once.
const BEHIND_PART: usize = 16;

/// Tries that may fail one by one before the lane asks whether anything can be written.
const FAILED_ALONE_MAX: u32 = 3;

/// Why a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneEnd {
    /// It was told to.
    Stopped,
    /// Nothing could be written for longer than deliveries may be held.
    Outage,
    /// A delivery that was set aside has been held as long as the broker allows.
    HeldTooLong,
}

/// What a lane does next.
enum Next {
    Batch(Vec<Taken>),
    Retry(Vec<Retry>),
    Stop,
}

/// Which queue a lane works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Callbacks that publishers sent.
    Queue,
    /// Those that the broker took off that queue, for whatever reason: decided like the others, but one that a worker had before becomes a
    /// case first (`dead_letter::decide_stored`).
    DeadLetter,
}

/// A lane's belongings.
pub(super) struct Lane {
    pub(super) worker: Arc<Worker>,
    pub(super) origin: Origin,
    /// Worker and lane: what its counts are kept under.
    pub(super) writer: String,
    pub(super) connection: store::Connection,
    /// So many batches more do not believe Redis that a callback is new.
    pub(super) batches_in_doubt: u32,
    /// So many batches more skip locked accounts instead of waiting for them.
    pub(super) batches_skipping_locks: u32,
    /// Deliveries that failed one by one since the worker last wrote any batch, and how many it had written by then.
    pub(super) failed_alone: (u32, u64),
    /// What waits for its next try.
    pub(super) aside: Aside,
    /// The batch in work, where traces are collected.
    pub(super) span: Span,
    settle: Sender<Settling>,
    stop: CancellationToken,
}

/// What is to be settled of a batch, what is not for now, and the stage that this ends.
pub(super) struct Settling {
    pub(super) settled: Vec<Receipt>,
    pub(super) aside: Vec<Tag>,
    pub(super) stage: Timed,
}

impl Lane {
    pub(super) fn new(
        worker: Arc<Worker>,
        origin: Origin,
        number: usize,
        settle: Sender<Settling>,
        stop: CancellationToken,
    ) -> Self {
        let writer = match origin {
            Origin::Queue => format!("{}/{number}", worker.name),
            Origin::DeadLetter => format!("{}/dead-letter", worker.name),
        };
        let connection = store::Connection::new(Arc::clone(&worker.database));
        let span = Span::none();
        Self {
            aside: Aside::new(worker.retry),
            worker,
            origin,
            writer,
            connection,
            batches_in_doubt: 0,
            batches_skipping_locks: 0,
            failed_alone: (0, 0),
            span,
            settle,
            stop,
        }
    }

    /// Works until stopped. A batch that has begun is finished, unless PostgreSQL is down.
    pub(super) async fn run(mut self, mut deliveries: UnboundedReceiver<Taken>) -> LaneEnd {
        let mut is_behind = false;
        let end = loop {
            self.worker.stats.in_flight(&self.writer, self.aside.oldest());
            if self.aside.oldest().is_some_and(|since| since.elapsed() > self.worker.config.aside_hold_max) {
                break LaneEnd::HeldTooLong;
            }
            let done = match self.next(&mut deliveries, is_behind).await {
                Next::Stop => break LaneEnd::Stopped,
                Next::Batch(batch) => {
                    is_behind = batch.len() >= self.worker.config.batch_size_max.div_ceil(BEHIND_PART);
                    self.begin(&batch);
                    match process::process(&mut self, &batch, Trial::First).await {
                        Ok(fates) => self.settle_batch(batch, fates).await,
                        Err(end) => break end,
                    }
                }
                Next::Retry(retries) => {
                    let (subjects, batch): (Vec<_>, Vec<_>) =
                        retries.into_iter().map(|retry| (retry.subject, retry.taken)).unzip();
                    self.begin(&batch);
                    match process::process(&mut self, &batch, Trial::Again).await {
                        Ok(fates) => {
                            let subjects = subjects.into_iter();
                            let retried =
                                subjects.zip(batch).map(|(subject, taken)| Retry { subject, taken });
                            self.settle_retried(retried.collect(), fates).await
                        }
                        Err(end) => break end,
                    }
                }
            };
            self.span = Span::none();
            if !done {
                break LaneEnd::Stopped;
            }
        };
        self.worker.stats.in_flight(&self.writer, None);
        self.connection.close().await;
        end
    }

    /// Waits for deliveries without limit; what is set aside comes first when its time has come, and alone when there is too much of it.
    async fn next(&mut self, deliveries: &mut UnboundedReceiver<Taken>, is_behind: bool) -> Next {
        let size_max = self.worker.config.batch_size_max;
        let due = self.aside.next_due();
        let wait_until_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Next::Stop,
            () = wait_until_due => Next::Retry(self.aside.take_due(Instant::now(), size_max)),
            first = deliveries.recv(), if !self.aside.is_full() => {
                let Some(first) = first else { return Next::Stop };
                let linger = if is_behind { self.worker.config.batch_linger } else { Duration::ZERO };
                let batch = batch::fill(first, deliveries, size_max, linger, &self.stop).await;
                batch.map_or(Next::Stop, Next::Batch)
            }
        }
    }

    fn begin(&mut self, batch: &[Taken]) {
        metrics::batch_closed(batch.len());
        let oldest = batch.iter().map(|taken| taken.at).chain(self.aside.oldest()).min();
        self.worker.stats.in_flight(&self.writer, oldest);
        self.span = stage::batch_span(self, self.queue(), batch);
    }

    /// Hands the batch to the settler. False where that is gone, and with it the channel.
    async fn settle_batch(&mut self, batch: Vec<Taken>, fates: Vec<Fate>) -> bool {
        let now = Instant::now();
        let mut settled = Vec::with_capacity(batch.len());
        let mut aside = Vec::new();
        for (taken, fate) in batch.into_iter().zip(fates) {
            match fate {
                Fate::Settled => settled.push(self.settled(taken, now)),
                Fate::Aside(subject, why) => {
                    aside.push(taken.delivery.receipt.tag());
                    self.aside.put(subject, taken, why);
                }
            }
        }
        self.hand_over(settled, aside).await
    }

    /// The same for what was tried again: what failed again is known to the settler.
    async fn settle_retried(&mut self, retried: Vec<Retry>, fates: Vec<Fate>) -> bool {
        let now = Instant::now();
        let mut settled = Vec::with_capacity(retried.len());
        for (retry, fate) in retried.into_iter().zip(fates) {
            match fate {
                Fate::Settled => {
                    self.aside.settled(&retry.subject);
                    settled.push(self.settled(retry.taken, now));
                }
                Fate::Aside(_, why) => self.aside.put_back(retry, why),
            }
        }
        self.hand_over(settled, Vec::new()).await
    }

    fn settled(&self, taken: Taken, now: Instant) -> Receipt {
        self.worker.stats.settled(now.duration_since(taken.at));
        taken.delivery.receipt
    }

    async fn hand_over(&self, settled: Vec<Receipt>, aside: Vec<Tag>) -> bool {
        let stage = Timed::begin(&self.span, Stage::Settle);
        self.settle.send(Settling { settled, aside, stage }).await.is_ok()
    }

    fn queue(&self) -> &str {
        match self.origin {
            Origin::Queue => &self.worker.names.queue,
            Origin::DeadLetter => &self.worker.names.dead_queue,
        }
    }

    /// Whether so many tries in a row failed one by one, with no batch of this worker written in between, and nothing else can be written
    /// either: then it is not about any of the deliveries. A quiet lane tries only what it has set aside, which says nothing by itself.
    pub(super) async fn fails_at_everything(&mut self) -> bool {
        let written = self.worker.stats.written();
        let (failed, written_then) = self.failed_alone;
        let failed = if written == written_then { failed.saturating_add(1) } else { 1 };
        self.failed_alone = (failed, written);
        if failed <= FAILED_ALONE_MAX {
            return false;
        }
        let is_well = check_database(&self.worker).await.is_ok();
        if is_well {
            self.failed_alone = (0, written);
        }
        !is_well
    }

    /// Waits before the next try of a batch that PostgreSQL could not take; stops waiting where the lane was told to stop, or has
    /// held its deliveries too long.
    pub(super) async fn pause(
        &self,
        cause: &StoreError,
        since: Instant,
        pauses: &mut Pauses,
    ) -> Result<(), LaneEnd> {
        if self.stop.is_cancelled() {
            return Err(LaneEnd::Stopped);
        }
        if since.elapsed() > self.worker.config.outage_hold {
            return Err(LaneEnd::Outage);
        }
        let pause = pauses.next_pause();
        self.worker.stats.failed(cause);
        self.worker.readiness.wrote(false);
        warn!(writer = self.writer, cause = %cause, pause_ms = pause.as_millis(), "batch not written; trying again");
        sleep_unless(pause, &self.stop).await;
        Ok(())
    }
}
