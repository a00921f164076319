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
    batch::{self, Taken},
    process, sleep_unless,
    stage::{self, Timed},
};
use crate::{
    broker::{Settlement, Verb},
    metrics::{self, Stage},
    retry::Pauses,
    store::{self, StoreError},
};

/// A lane whose last batch was at least this part of a full one is behind, and waits for the next to fill: small batches cost more
/// for each callback, and a lane that makes them slows the broker down on a busy machine, which keeps them small. A quiet lane
/// takes what comes at once.
const BEHIND_PART: usize = 16;

/// Why a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneEnd {
    /// It was told to.
    Stopped,
    /// PostgreSQL stayed away longer than deliveries may be held.
    Outage,
}

/// Which queue a lane works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Callbacks that publishers sent.
    Queue,
    /// Those that the broker took off that queue, for whatever reason: decided like the others, but one that a worker had before becomes a
    /// case first (`dead_letter::decide_stored`).
    GivenUp,
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
    /// The batch in work, where traces are collected.
    pub(super) span: Span,
    settle: Sender<Settling>,
    stop: CancellationToken,
}

/// What is to be settled of a batch, and the stage that this ends.
pub(super) type Settling = (Vec<Settlement>, Timed);

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
            Origin::GivenUp => format!("{}/given-up", worker.name),
        };
        let connection = store::Connection::new(Arc::clone(&worker.database));
        let span = Span::none();
        Self { worker, origin, writer, connection, batches_in_doubt: 0, span, settle, stop }
    }

    /// Works until stopped. A batch that has begun is finished, unless PostgreSQL is away.
    pub(super) async fn run(mut self, mut deliveries: UnboundedReceiver<Taken>) -> LaneEnd {
        let mut is_behind = false;
        let end = loop {
            let size_max = self.worker.config.batch_size_max;
            let linger = if is_behind { self.worker.config.batch_linger } else { Duration::ZERO };
            let Some(batch) = batch::next(&mut deliveries, size_max, linger, &self.stop).await else {
                break LaneEnd::Stopped;
            };
            is_behind = batch.len() >= size_max.div_ceil(BEHIND_PART);
            metrics::batch_closed(batch.len());
            self.worker.vitals.holds(&self.writer, batch.iter().map(|taken| taken.at).min());
            self.span = stage::batch_span(&self, self.queue(), &batch);
            match process::process(&mut self, &batch).await {
                Ok(verbs) => {
                    if !self.settle_batch(batch, verbs).await {
                        break LaneEnd::Stopped;
                    }
                }
                Err(end) => break end,
            }
            self.worker.vitals.holds(&self.writer, None);
            self.span = Span::none();
        };
        self.worker.vitals.holds(&self.writer, None);
        self.connection.close().await;
        end
    }

    /// Hands the batch to the settler. False where that is gone, and with it the channel.
    async fn settle_batch(&self, batch: Vec<Taken>, verbs: Vec<Option<Verb>>) -> bool {
        let stage = Timed::begin(&self.span, Stage::Settle);
        let now = Instant::now();
        let mut settlements = Vec::with_capacity(batch.len());
        for (taken, verb) in batch.into_iter().zip(verbs) {
            let Some(verb) = verb else { continue };
            self.worker.vitals.settled(now.duration_since(taken.at));
            if verb == Verb::DeadLetter {
                metrics::dead_lettered();
            }
            settlements.push(Settlement { receipt: taken.delivery.receipt, verb });
        }
        self.settle.send((settlements, stage)).await.is_ok()
    }

    fn queue(&self) -> &str {
        match self.origin {
            Origin::Queue => &self.worker.names.queue,
            Origin::GivenUp => &self.worker.names.dead_queue,
        }
    }

    /// Waits before the next try of a batch that PostgreSQL could not take; gives up where the lane was told to stop, or has
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
        self.worker.vitals.failed(cause);
        warn!(writer = self.writer, cause = %cause, pause_ms = pause.as_millis(), "batch not written; trying again");
        sleep_unless(pause, &self.stop).await;
        Ok(())
    }
}
