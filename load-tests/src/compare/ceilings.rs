//! What bounds payonce on this machine: the queue drained by a consumer that does nothing, and payonce's SQL without a queue.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use lapin::{
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use payonce::{
    ledger::{Callback, Fingerprint, Key, Layer, Outcome, Rules, Snapshot, decide},
    store::{self, Batch, Database, Locking, Remembered, Resolver, StoreError, engine},
    wire,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{body, place::Place, plan::Plan};

/// payonce's defaults: `prefetch_count`, `batch_size_max`.
const PREFETCH: u16 = 4_000;
const BATCH: usize = 1_000;
const STATEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Takes `total` messages from the queue with `consumers` connections and acknowledges them in runs. Returns the seconds.
pub async fn drain(place: &Place, consumers: u16, total: usize) -> anyhow::Result<f64> {
    let started = Instant::now();
    let (taken, mut counts) = mpsc::channel::<anyhow::Result<usize>>(1_000);
    let mut tasks = JoinSet::new();
    for _ in 0..consumers {
        let connection = place.broker().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        let (queue, taken) = (place.names().queue, taken.clone());
        tasks.spawn(async move {
            let result = take(&connection, &queue, &taken).await;
            if let Err(error) = result {
                // Nobody listens any more when all is taken.
                let _unheard = taken.send(Err(error)).await;
            }
        });
    }
    until_settled(total, &mut counts).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Adds up what consumers have settled until it is so much.
pub async fn until_settled(
    total: usize,
    counts: &mut mpsc::Receiver<anyhow::Result<usize>>,
) -> anyhow::Result<()> {
    let mut left = total;
    while left > 0 {
        left = left.saturating_sub(counts.recv().await.context("no consumer is left")??);
    }
    Ok(())
}

async fn take(
    connection: &lapin::Connection,
    queue: &str,
    taken: &mpsc::Sender<anyhow::Result<usize>>,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let deliveries = channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let mut runs = deliveries.ready_chunks(BATCH);
    while let Some(run) = runs.next().await {
        let count = run.len();
        if let Some(last) = run.into_iter().last() {
            last?.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
        if taken.send(Ok(count)).await.is_err() {
            return Ok(());
        }
    }
    bail!("the broker cancelled the consumer")
}

/// Runs the plan's callbacks through payonce's look-ups, rules and transaction, from memory, over so many lanes: as a worker does whose Redis
/// answers at once and is always right. Returns the seconds.
pub async fn sql_only(place: &Place, lanes: u16, plan: &Plan) -> anyhow::Result<f64> {
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    let mut by_lane: Vec<Vec<(Callback, Vec<u8>)>> = vec![Vec::new(); usize::from(lanes)];
    for (number, sending) in plan.sendings().enumerate() {
        let (account, body) = body::message(plan, *sending, number);
        let callback = wire::decode(&body).map_err(|error| anyhow::anyhow!("not a callback: {error:?}"))?;
        let lane = usize::try_from(hasher.hash_one(account) % u64::from(lanes))?;
        by_lane[lane].push((callback, body));
    }
    let database =
        Database::new(&place.database_url, "sql-only", STATEMENT_DEADLINE).map_err(anyhow::Error::msg)?;
    let database = Arc::new(database);
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, callbacks) in by_lane.into_iter().enumerate() {
        let connection = store::Connection::new(Arc::clone(&database));
        tasks.spawn(async move { lane(connection, &format!("sql-only-{number}"), &callbacks).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn lane(
    mut connection: store::Connection,
    writer: &str,
    messages: &[(Callback, Vec<u8>)],
) -> anyhow::Result<()> {
    // All copies of one callback come to one lane.
    let mut markers: HashMap<Key, Fingerprint> = HashMap::new();
    let mut claimed: HashSet<&Key> = HashSet::new();
    for batch in messages.chunks(BATCH) {
        let mut callbacks: Vec<Callback> = Vec::with_capacity(batch.len());
        let mut bodies: Vec<&[u8]> = Vec::with_capacity(batch.len());
        let mut remembered: Vec<Remembered> = Vec::new();
        let mut is_new: Vec<bool> = Vec::with_capacity(batch.len());
        let mut hits: HashSet<&Key> = HashSet::new();
        for (callback, body) in batch {
            if markers.get(&callback.key) == Some(&callback.fingerprint) {
                let layer = if hits.insert(&callback.key) { Layer::Redis } else { Layer::Batch };
                let (key, fingerprint) = (callback.key.clone(), callback.fingerprint);
                remembered.push(Remembered { key, fingerprint, layer });
            } else {
                callbacks.push(callback.clone());
                bodies.push(body);
                is_new.push(!claimed.contains(&callback.key));
            }
        }
        claimed.extend(batch.iter().map(|(callback, _)| &callback.key));
        while !callbacks.is_empty() || !remembered.is_empty() {
            connection.renew_plans(callbacks.len()).await?;
            let decide =
                |snapshot: &Snapshot, callbacks: &[Callback]| decide(snapshot, callbacks, &Rules::default());
            let plan = engine::plan(&mut connection, &callbacks, &is_new, decide, |_| {}).await?;
            let outcomes = plan.outcomes.clone();
            let batch = Batch {
                writer,
                plan,
                callbacks: &callbacks,
                bodies: &bodies,
                // As the workers of the load tests.
                mask_cards: false,
                references: &[],
                undecodable: &[],
                resolver: Resolver::WORKER,
                locking: Locking::Wait,
                remembered: &remembered,
                proven: &[],
            };
            match connection.run(async |connection| store::apply(connection, batch).await).await {
                Ok(applied) => {
                    remembered.clear();
                    // A transfer changes an account of another lane.
                    let is_lost = |at: usize| applied.lost_callbacks.get(at).copied().unwrap_or(false);
                    for (at, (callback, outcome)) in callbacks.iter().zip(outcomes).enumerate() {
                        if !is_lost(at) && outcome == Outcome::Applied {
                            markers.insert(callback.key.clone(), callback.fingerprint);
                        }
                    }
                    callbacks = kept(callbacks, is_lost);
                    bodies = kept(bodies, is_lost);
                    is_new = kept(is_new, is_lost);
                }
                Err(StoreError::Conflict(_)) => is_new.fill(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
    connection.close().await;
    Ok(())
}

fn kept<T>(list: Vec<T>, is_kept: impl Fn(usize) -> bool) -> Vec<T> {
    list.into_iter().enumerate().filter(|(at, _)| is_kept(*at)).map(|(_, one)| one).collect()
}
