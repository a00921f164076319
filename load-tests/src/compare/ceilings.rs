//! What bounds payonce on this machine: the queue drained by a consumer that does nothing, and payonce's SQL without a queue.

use std::{
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
    ledger::{Callback, Rules, decide},
    store::{self, Batch, Database, Locking, Resolver, StoreError},
    wire,
};
use tokio::task::JoinSet;

use crate::{body, place::Place, plan::Plan};

/// payonce's defaults: `prefetch_count`, `lanes`, `batch_size_max`.
const PREFETCH: u16 = 4_000;
const LANES: usize = 2;
const BATCH: usize = 1_000;
const STATEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Takes `total` messages from the queue with `consumers` connections and acknowledges them in runs. Returns the seconds.
pub async fn drain(place: &Place, consumers: u32, total: usize) -> anyhow::Result<f64> {
    let started = Instant::now();
    let (taken, mut counts) = tokio::sync::mpsc::channel::<anyhow::Result<usize>>(1_000);
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
    let mut left = total;
    while left > 0 {
        left = left.saturating_sub(counts.recv().await.context("no consumer is left")??);
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn take(
    connection: &lapin::Connection,
    queue: &str,
    taken: &tokio::sync::mpsc::Sender<anyhow::Result<usize>>,
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

/// Runs the plan's callbacks through payonce's load, decide and apply, from memory: as many lanes and as large batches as
/// `workers` workers have. Returns the seconds.
pub async fn sql_only(place: &Place, workers: u32, plan: &Plan) -> anyhow::Result<f64> {
    let lanes = workers as usize * LANES;
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    let mut by_lane: Vec<Vec<(Callback, Vec<u8>)>> = vec![Vec::new(); lanes];
    for (number, sending) in plan.sendings().enumerate() {
        let (account, body) = body::message(plan, *sending, number);
        let callback = wire::decode(&body).map_err(|error| anyhow::anyhow!("not a callback: {error:?}"))?;
        let lane = usize::try_from(hasher.hash_one(account) % lanes as u64)?;
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
    for batch in messages.chunks(BATCH) {
        let mut callbacks: Vec<Callback> = batch.iter().map(|(callback, _)| callback.clone()).collect();
        let mut bodies: Vec<&[u8]> = batch.iter().map(|(_, body)| body.as_slice()).collect();
        while !callbacks.is_empty() {
            connection.renew_plans(callbacks.len()).await?;
            let snapshot =
                connection.run(async |connection| store::load(connection, &callbacks).await).await?;
            let batch = Batch {
                writer,
                plan: decide(&snapshot, &callbacks, &Rules::default()),
                callbacks: &callbacks,
                bodies: &bodies,
                mask_cards: true,
                undecodable: &[],
                resolver: Resolver::WORKER,
                locking: Locking::Wait,
                remembered: &[],
                proven: &[],
            };
            match connection.run(async |connection| store::apply(connection, batch).await).await {
                Ok(applied) => {
                    // A transfer changes an account of another lane.
                    let mut is_lost = applied.lost_callbacks.iter();
                    callbacks.retain(|_| is_lost.next().copied().unwrap_or(false));
                    let mut is_lost = applied.lost_callbacks.iter();
                    bodies.retain(|_| is_lost.next().copied().unwrap_or(false));
                }
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    connection.close().await;
    Ok(())
}
