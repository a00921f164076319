//! One session with the broker: from connecting to the moment the channel is gone or the worker stops.

use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Refusal, SessionEnd, Worker,
    batch::Taken,
    budget::{Budget, Overflow},
    lane::{Lane, LaneEnd, Origin, Settling},
    stage::Timed,
};
use crate::{
    broker::{self, BrokerError, Consumer, Delivery, Settler, topology::TopologyError},
    config::WorkerConfig,
    crash::{self, Point},
    retry::Pauses,
    store::{self, SchemaError},
};

/// A quorum queue passes on at most 32 acknowledgements of a channel at a time and holds back the rest; those that it holds back
/// are dropped when the channel closes (seen on RabbitMQ 3.10: a few of the last ones came again). That loses nothing, but a
/// drained worker should leave nothing to reject. The broker has no answer to wait for, so it gets this long.
const SETTLE_GRACE: Duration = Duration::from_millis(300);

/// How much of each queue a worker holds, over all of its sessions.
pub(super) struct Budgets {
    queue: Budget,
    dead_letter: Budget,
}

impl Budgets {
    pub(super) fn new(config: &WorkerConfig) -> Self {
        Self {
            queue: Budget::new(config.prefetch_count, config.prefetch_bytes_max),
            dead_letter: Budget::new(DEAD_LETTER_PREFETCH, config.prefetch_bytes_max),
        }
    }

    /// Nothing could be written: see [`Budget::put_on_trial`].
    pub(super) fn put_on_trial(&mut self) {
        self.queue.put_on_trial();
        self.dead_letter.put_on_trial();
    }
}

/// Dead letters that a worker holds at most: few, because they are worked by one lane and can be large.
const DEAD_LETTER_PREFETCH: u16 = 100;

/// So many deliveries at once are a burst, with more to come.
const BURST: usize = 16;

/// In a burst the next ones are left to gather so long: each that finds its reader waiting costs a wake-up, on a busy machine
/// more than the delivery itself (a fifth of a worker's time was spent there).
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Takes messages until `stop` or until something breaks. `pauses` starts over when something was settled.
pub(super) async fn run(
    worker: &Arc<Worker>,
    stop: &CancellationToken,
    pauses: &mut Pauses,
    budgets: &mut Budgets,
) -> Result<(), SessionEnd> {
    let connection = broker::connect(worker.amqp_url.expose(), &worker.name, &worker.tls).await?;
    broker::topology::declare(&connection, &worker.names).await.map_err(|error| match error {
        wrong @ (TopologyError::Differs(..) | TopologyError::Missing(_)) => {
            SessionEnd::Refused(Refusal::Topology(wrong))
        }
        TopologyError::Broker(error) => SessionEnd::Broker(error),
    })?;
    if stop.is_cancelled() {
        return Ok(());
    }
    let config = &worker.config;
    budgets.queue.make_room();
    budgets.dead_letter.make_room();
    let prefetch_count = budgets.queue.prefetch();
    let dead_letter_prefetch = budgets.dead_letter.prefetch();
    let dead_letter_consumer =
        Consumer::open(&connection, &worker.names.dead_queue, dead_letter_prefetch).await?;
    // Last: what it brings gathers in memory until it is taken.
    let consumer = Consumer::open(&connection, &worker.names.queue, prefetch_count).await?;
    worker.readiness.open(true);
    info!(queue = worker.names.queue, prefetch_count, "taking messages");

    // Lanes stop with the session, however it ends, after the batch they have started.
    let lanes_stop = stop.child_token();
    let mut intake =
        Intake::start(worker, consumer, Origin::Queue, config.lanes, prefetch_count, &lanes_stop);
    // One lane is enough: the broker gives a message up once in a long while.
    let mut dead_letters =
        Intake::start(worker, dead_letter_consumer, Origin::DeadLetter, 1, dead_letter_prefetch, &lanes_stop);
    let ended = tokio::select! {
        ended = intake.take(stop, &mut budgets.queue) => ended,
        ended = dead_letters.take(stop, &mut budgets.dead_letter) => ended,
        never = settled_once(worker, pauses) => match never {},
        refused = watch_schema(worker) => Err(SessionEnd::Refused(refused)),
    };
    worker.readiness.open(false);
    lanes_stop.cancel();
    let is_in_order =
        matches!(ended, Ok(()) | Err(SessionEnd::TooMuch | SessionEnd::HeldTooLong | SessionEnd::Refused(_)));
    if is_in_order {
        // No new deliveries; those that no batch has started on go back when the channel closes.
        intake.consumer.wind_down();
        dead_letters.consumer.wind_down();
    }
    let lanes_finish = async {
        tokio::join!(intake.lanes.finish(), dead_letters.lanes.finish());
        if is_in_order {
            tokio::time::sleep(SETTLE_GRACE).await;
        }
    };
    let discard =
        async { tokio::join!(intake.consumer.discard_rest(), dead_letters.consumer.discard_rest()) };
    let finished = tokio::time::timeout(config.shutdown_deadline, async {
        tokio::pin!(lanes_finish, discard);
        tokio::select! {
            _ = &mut lanes_finish => return,
            _ = &mut discard => {}
        }
        lanes_finish.await;
    });
    if finished.await.is_err() {
        warn!("a batch did not finish within shutdown_deadline_ms; its deliveries will come again");
    }
    if is_in_order {
        let (one, other) = tokio::join!(intake.consumer.close(), dead_letters.consumer.close());
        one.and(other)?;
        broker::disconnect(connection).await?;
    }
    ended
}

/// How often a worker looks whether a migration has brought a schema that it must not write to.
const SCHEMA_CHECK_PAUSE: Duration = Duration::from_secs(5);

/// Resolves when the schema does not fit this program any more.
async fn watch_schema(worker: &Worker) -> Refusal {
    let mut connection = store::Connection::new(Arc::clone(&worker.database));
    loop {
        tokio::time::sleep(SCHEMA_CHECK_PAUSE).await;
        let checked = connection.run(async |connection| Ok(store::check_schema(connection).await)).await;
        match checked {
            // The lanes say more, and more often, about a database that is down.
            Ok(Ok(()) | Err(SchemaError::Store(_))) | Err(_) => {}
            Ok(Err(
                unfit @ (SchemaError::TooOld { .. }
                | SchemaError::TooNew { .. }
                | SchemaError::FromDump
                | SchemaError::Migration(_)),
            )) => return Refusal::Schema(unfit),
        }
    }
}

/// The first batch that is written shows that the next session need not wait as long as this one had to.
async fn settled_once(worker: &Worker, pauses: &mut Pauses) -> Infallible {
    let before = worker.stats.written();
    worker.stats.written_after(before).await;
    pauses.reset();
    std::future::pending().await
}

/// A consumer and the lanes that work what it takes.
struct Intake {
    worker: Arc<Worker>,
    consumer: Consumer,
    lanes: Lanes,
}

impl Intake {
    fn start(
        worker: &Arc<Worker>,
        consumer: Consumer,
        origin: Origin,
        lanes: usize,
        prefetch_count: u16,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            worker: Arc::clone(worker),
            consumer,
            lanes: Lanes::start(worker, origin, lanes, prefetch_count, stop),
        }
    }

    /// Hands deliveries to lanes until `stop`, until they are too many bytes, or until something breaks.
    /// A prefetch grows when messages have become small, when some were set aside, and when the first batch was written after a time in
    /// which none was.
    async fn take(&mut self, stop: &CancellationToken, budget: &mut Budget) -> Result<(), SessionEnd> {
        // The consumer is winding down, to go on with another prefetch.
        let mut is_resizing = false;
        let worker = Arc::clone(&self.worker);
        let written_before = worker.stats.written();
        let mut is_proven = false;
        loop {
            let grows = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                end = self.lanes.ended() => return Err(end),
                () = worker.stats.written_after(written_before), if !is_proven => {
                    is_proven = true;
                    budget.proven()
                }
                () = budget.aside_grew() => budget.make_room(),
                run = self.consumer.next() => {
                    let Some(run) = run else {
                        if !std::mem::take(&mut is_resizing) {
                            return Err(SessionEnd::ConsumerCancelled);
                        }
                        let prefetch_count = budget.prefetch();
                        self.consumer.restart(prefetch_count).await?;
                        info!(prefetch_count, "taking another number of messages at a time");
                        continue;
                    };
                    let run = run?;
                    let count = run.len();
                    self.worker.stats.received(count);
                    crash::hit(Point::AfterConsume)
                        .await
                        .map_err(|injected| SessionEnd::LaneDied(injected.to_string()))?;
                    self.hand_over(run, budget)?;
                    if count >= BURST {
                        tokio::time::sleep(BURST_PAUSE).await;
                    }
                    budget.grown().is_some()
                }
            };
            if grows && !is_resizing {
                self.consumer.wind_down();
                is_resizing = true;
            }
        }
    }

    fn hand_over(&self, run: Vec<Delivery>, budget: &mut Budget) -> Result<(), SessionEnd> {
        let at = Instant::now();
        for delivery in run {
            let held = budget.take(delivery.bytes()).map_err(|Overflow| SessionEnd::TooMuch)?;
            self.lanes.hand_over(Taken { delivery, at, held });
        }
        Ok(())
    }
}

/// The lanes of a session and the task that settles what they finish.
struct Lanes {
    inputs: Vec<mpsc::UnboundedSender<Taken>>,
    tasks: JoinSet<LaneEnd>,
    /// `None` once its end is known.
    settler: Option<JoinHandle<Result<(), BrokerError>>>,
}

impl Lanes {
    /// `prefetch_count`: of the channel whose deliveries they get.
    fn start(
        worker: &Arc<Worker>,
        origin: Origin,
        count: usize,
        prefetch_count: u16,
        stop: &CancellationToken,
    ) -> Self {
        // As many finished batches as there are lanes may wait to be acknowledged; then lanes wait.
        let (settle, finished) = mpsc::channel(count);
        let out_of_order_max = usize::from(prefetch_count) / 2;
        let settler = Some(tokio::spawn(settle_finished(finished, out_of_order_max)));
        let mut tasks = JoinSet::new();
        let mut inputs = Vec::with_capacity(count);
        for number in 0..count {
            // Never holds more than `prefetch_count`, because the broker delivers no more.
            let (input, deliveries) = mpsc::unbounded_channel();
            let lane = Lane::new(Arc::clone(worker), origin, number, settle.clone(), stop.clone());
            tasks.spawn(lane.run(deliveries));
            inputs.push(input);
        }
        Self { inputs, tasks, settler }
    }

    /// An account belongs to one lane, so that lanes of one process do not lose races to each other. The routing key is the
    /// account id by contract; where a publisher breaks that, the version guards still hold.
    fn hand_over(&self, taken: Taken) {
        let mut hasher = DefaultHasher::new();
        taken.delivery.envelope.routing_key.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % self.inputs.len().max(1) as u64).unwrap_or(0);
        if let Some(input) = self.inputs.get(lane) {
            // A lane that is gone shows in `ended`; the delivery goes back with the channel.
            drop(input.send(taken));
        }
    }

    /// Resolves when a lane or the settler ends, which none does by itself.
    async fn ended(&mut self) -> SessionEnd {
        let settler = async {
            match &mut self.settler {
                Some(settler) => settler.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            settled = settler => {
                self.settler = None;
                match settled {
                    Ok(Err(error)) => SessionEnd::Broker(error),
                    Ok(Ok(())) => SessionEnd::LaneDied("the settler stopped".to_owned()),
                    Err(panic) => SessionEnd::LaneDied(panic.to_string()),
                }
            }
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(LaneEnd::Outage) => SessionEnd::Outage,
                Ok(LaneEnd::HeldTooLong) => SessionEnd::HeldTooLong,
                Ok(LaneEnd::Stopped) => SessionEnd::LaneDied("a lane stopped by itself".to_owned()),
                Err(panic) => SessionEnd::LaneDied(panic.to_string()),
            },
        }
    }

    /// Waits for the started batches and their acknowledgements.
    async fn finish(mut self) {
        self.inputs.clear();
        while self.tasks.join_next().await.is_some() {}
        let Some(settler) = self.settler else { return };
        match settler.await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => {
                warn!(cause = %cause, "not all was acknowledged; it will come again and be rejected")
            }
            Err(panic) => {
                warn!(cause = %panic, "the settler died; what it had not acknowledged will come again")
            }
        }
    }
}

/// Acknowledges what lanes finish, in as few frames as it can, until all lanes are gone or the channel is.
async fn settle_finished(
    mut finished: mpsc::Receiver<Settling>,
    out_of_order_max: usize,
) -> Result<(), BrokerError> {
    let mut settler = Settler::new(out_of_order_max);
    while let Some(Settling { mut settled, mut aside, stage }) = finished.recv().await {
        let mut stages = vec![stage];
        while let Ok(more) = finished.try_recv() {
            settled.extend(more.settled);
            aside.extend(more.aside);
            stages.push(more.stage);
        }
        settler.set_aside(aside);
        settler.settle(settled).await?;
        stages.into_iter().for_each(Timed::end);
    }
    settler.settle_rest().await
}
