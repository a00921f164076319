//! The textbook consumer: per message a SETNX, one transaction, an acknowledgement; written as well as that design allows. A deposit, a
//! debit and a failed attempt, whose account is open and can pay, are one statement; the ledger's unique key is the authority; the done
//! marker goes out with the acknowledgement; the broker sends ahead. With `Take::Batch` it takes as many messages as there are, up to
//! 500, in one transaction, and one by one where that meets a copy.
//!
//! Tables and durability are payonce's, the rules are `rules`. What waits for something is stored as a case, and kept in memory: all
//! consumers run in this process, each with a connection to the broker of its own.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use lapin::{
    Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    ceilings,
    rules::{self, End},
};
use crate::{content::Content, money::Kind, place::Place};

const CLAIM_MS: u64 = 60_000;
const DONE_S: u64 = 3_600;
/// A transaction that another one was in the way of is tried so often.
const TRIES_MAX: u32 = 20;
const DEADLOCK: &str = "40P01";
const SERIALIZATION_FAILURE: &str = "40001";
/// Messages that the broker sends ahead, for each that is at work.
const AHEAD: u16 = 4;
/// Messages of one transaction.
const BATCH_MAX: usize = 500;

/// Counts of rejected copies, by layer.
type Duplicates = BTreeMap<String, u64>;

/// Where consumers say how many more they have settled.
type Told = mpsc::Sender<anyhow::Result<usize>>;

/// How messages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Each by itself, so many at once.
    Single(u16),
    /// Up to [`BATCH_MAX`] in one transaction.
    Batch,
}

struct Textbook {
    pool: PgPool,
    redis: MultiplexedConnection,
    prefix: String,
    by_redis: AtomicU64,
    by_ledger: AtomicU64,
    waiting: Mutex<HashMap<String, Vec<Arc<Content>>>>,
    /// How many wait: mostly none does, and then nobody looks.
    waiting_count: AtomicUsize,
}

/// What consumers have said and nobody has heard yet.
const TOLD_MAX: usize = 1_000;

/// Consumes `total` messages with `consumers` consumers. Returns the seconds and the duplicates by layer.
pub async fn run(
    place: &Place,
    consumers: u32,
    take: Take,
    total: usize,
) -> anyhow::Result<(f64, Duplicates)> {
    let started = Instant::now();
    let (at_work, ahead) = match take {
        Take::Single(at_work) => (at_work, at_work.saturating_mul(AHEAD)),
        Take::Batch => (1, u16::try_from(BATCH_MAX)?.saturating_mul(AHEAD)),
    };
    let client = redis::Client::open(place.redis_url.as_str()).context("PAYONCE_REDIS_URL")?;
    let textbook = Arc::new(Textbook {
        pool: PgPoolOptions::new()
            .max_connections(u32::from(at_work) * consumers + 1)
            // Or every message pays for a round trip that asks nothing.
            .test_before_acquire(false)
            .connect(&place.database_url)
            .await
            .context("PAYONCE_DATABASE_URL")?,
        redis: client.get_multiplexed_async_connection().await.context("PAYONCE_REDIS_URL")?,
        prefix: place.prefix.clone(),
        by_redis: AtomicU64::new(0),
        by_ledger: AtomicU64::new(0),
        waiting: Mutex::default(),
        waiting_count: AtomicUsize::new(0),
    });
    let (told, mut settled) = mpsc::channel(TOLD_MAX);
    let mut tasks = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..consumers {
        let connection = place.broker().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(ahead, BasicQosOptions::default()).await?;
        let (queue, options) = (place.names().queue, BasicConsumeOptions::default());
        let deliveries =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
        connections.push(connection);
        let (textbook, told) = (Arc::clone(&textbook), told.clone());
        tasks.spawn(async move {
            let ended = match take {
                Take::Single(at_work) => singly(&textbook, deliveries, at_work, &told).await,
                Take::Batch => in_batches(&textbook, deliveries, &told).await,
            };
            if let Err(error) = ended {
                // Nobody listens any more when all is settled.
                let _unheard = told.send(Err(error)).await;
            }
        });
    }
    ceilings::until_settled(total, &mut settled).await?;
    let seconds = started.elapsed().as_secs_f64();
    tasks.shutdown().await;
    for connection in connections {
        // A consumer that is dropped closes its channel by itself, and the connection cannot be closed meanwhile: all is settled, so no matter.
        let _closed = connection.close(200, "done".into()).await;
    }
    textbook.pool.close().await;
    let counts = [("redis", &textbook.by_redis), ("ledger", &textbook.by_ledger)];
    let duplicates = counts.map(|(layer, count)| (layer.to_owned(), count.load(Ordering::Relaxed)));
    Ok((seconds, duplicates.into_iter().filter(|(_, count)| *count > 0).collect()))
}

async fn singly(textbook: &Textbook, deliveries: Consumer, at_work: u16, told: &Told) -> anyhow::Result<()> {
    let mut ends = deliveries
        .map(async |delivery| textbook.settle(delivery?).await)
        .buffer_unordered(usize::from(at_work));
    while let Some(end) = ends.next().await {
        end?;
        told.send(Ok(1)).await?;
    }
    bail!("the broker cancelled the consumer")
}

async fn in_batches(textbook: &Textbook, deliveries: Consumer, told: &Told) -> anyhow::Result<()> {
    let mut batches = deliveries.ready_chunks(BATCH_MAX);
    while let Some(batch) = batches.next().await {
        let batch: Vec<Delivery> = batch.into_iter().collect::<Result<_, _>>()?;
        let count = batch.len();
        textbook.settle_batch(batch).await?;
        told.send(Ok(count)).await?;
    }
    bail!("the broker cancelled the consumer")
}

fn decode(delivery: &Delivery) -> anyhow::Result<Arc<Content>> {
    Content::parse(&delivery.data).map(Arc::new).context("not a callback")
}

/// What a callback may be waited for by, or wait for: its accounts and its payment.
fn ties(content: &Content) -> Vec<String> {
    let accounts = content.subject.iter().chain(&content.to).map(|id| format!("account {id}"));
    let payment = content.payment_id.iter().map(|id| format!("payment {} {id}", content.source));
    accounts.chain(payment).collect()
}

/// Each once.
fn waiting_for(moved: &HashSet<String>, waiting: &HashMap<String, Vec<Arc<Content>>>) -> Vec<Arc<Content>> {
    let mut seen = HashSet::new();
    let found = moved.iter().filter_map(|tie| waiting.get(tie)).flatten();
    found.filter(|content| seen.insert(Arc::as_ptr(content))).cloned().collect()
}

/// Whether another transaction was in the way, so that the same may be tried again. Whatever else fails would fail again.
fn passes(error: &anyhow::Error) -> bool {
    let Some(sqlx::Error::Database(cause)) = error.downcast_ref::<sqlx::Error>() else { return false };
    [DEADLOCK, SERIALIZATION_FAILURE].map(Some).contains(&cause.code().as_deref())
}

impl Textbook {
    fn marker(&self, content: &Content) -> String {
        format!("{}textbook:{}:{}:{}", self.prefix, content.source.len(), content.source, content.id)
    }

    /// Whether each is marked as done; the others are claimed.
    async fn claim(&self, contents: &[Arc<Content>]) -> anyhow::Result<Vec<bool>> {
        let mut pipe = redis::pipe();
        for content in contents {
            let set = pipe.cmd("SET").arg(self.marker(content)).arg("processing");
            set.arg("NX").arg("GET").arg("PX").arg(CLAIM_MS);
        }
        let seen: Vec<Option<String>> = pipe.query_async(&mut self.redis.clone()).await?;
        Ok(seen.into_iter().map(|value| value.as_deref() == Some("done")).collect())
    }

    async fn mark_done(&self, contents: &[Arc<Content>]) -> anyhow::Result<()> {
        let mut pipe = redis::pipe();
        for content in contents {
            pipe.cmd("SET").arg(self.marker(content)).arg("done").arg("EX").arg(DONE_S).ignore();
        }
        Ok(pipe.query_async(&mut self.redis.clone()).await?)
    }

    async fn settle(&self, delivery: Delivery) -> anyhow::Result<()> {
        let content = decode(&delivery)?;
        let contents = [content];
        if self.claim(&contents).await? == [true] {
            self.by_redis.fetch_add(1, Ordering::Relaxed);
            delivery.acker.ack(BasicAckOptions::default()).await?;
            return Ok(());
        }
        let [content] = &contents;
        self.take(content).await?;
        let acked = async { Ok(delivery.acker.ack(BasicAckOptions::default()).await.map(drop)?) };
        tokio::try_join!(self.mark_done(&contents), acked)?;
        Ok(())
    }

    async fn settle_batch(&self, batch: Vec<Delivery>) -> anyhow::Result<()> {
        let contents: Vec<Arc<Content>> = batch.iter().map(decode).collect::<Result<_, _>>()?;
        let done = self.claim(&contents).await?;
        let mut keys = HashSet::new();
        let mut fresh = Vec::with_capacity(contents.len());
        for (content, is_done) in contents.into_iter().zip(done) {
            if is_done || !keys.insert((content.source.clone(), content.id.clone())) {
                self.by_redis.fetch_add(1, Ordering::Relaxed);
            } else {
                fresh.push(content);
            }
        }
        match self.together(&fresh, true).await? {
            Some(ends) => self.follow_up(&fresh, &ends).await?,
            // A copy is among them.
            None => {
                for content in &fresh {
                    self.take(content).await?;
                }
            }
        }
        if !fresh.is_empty() {
            self.mark_done(&fresh).await?;
        }
        if let Some(last) = batch.into_iter().last() {
            last.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
        Ok(())
    }

    /// Settles one, and what waited for it.
    async fn take(&self, content: &Arc<Content>) -> anyhow::Result<()> {
        let end = self.apply(content).await?;
        self.follow_up(std::slice::from_ref(content), &[end]).await
    }

    /// Remembers what waits, and tries once more what waited for these.
    async fn follow_up(&self, contents: &[Arc<Content>], ends: &[End]) -> anyhow::Result<()> {
        let of = |wanted: End| contents.iter().zip(ends).filter(move |(_, end)| **end == wanted);
        self.by_ledger.fetch_add(of(End::InLedger).count() as u64, Ordering::Relaxed);
        let waits = of(End::Waits).count();
        // Whoever begins to wait after this look tries once more by itself.
        if waits == 0 && self.waiting_count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let mut waiting = self.waiting.lock().await;
        self.waiting_count.fetch_add(waits, Ordering::SeqCst);
        for (content, _) in of(End::Waits) {
            for tie in ties(content) {
                waiting.entry(tie).or_default().push(Arc::clone(content));
            }
        }
        // What begins to wait too: what it lacks may have come between its transaction and this.
        let moved = of(End::Applied).chain(of(End::Waits)).flat_map(|(content, _)| ties(content));
        self.wake(&mut waiting, moved.collect()).await
    }

    /// Tries again, in one transaction, what waits for these, and what waits for that in turn.
    async fn wake(
        &self,
        waiting: &mut HashMap<String, Vec<Arc<Content>>>,
        mut moved: HashSet<String>,
    ) -> anyhow::Result<()> {
        while !moved.is_empty() {
            let tried = waiting_for(&moved, waiting);
            moved.clear();
            if tried.is_empty() {
                break;
            }
            let ends = match self.together(&tried, false).await? {
                Some(ends) => ends,
                None => {
                    let mut ends = Vec::with_capacity(tried.len());
                    for content in &tried {
                        ends.push(self.apply(content).await?);
                    }
                    ends
                }
            };
            for (content, _) in tried.iter().zip(&ends).filter(|(_, end)| **end != End::Waits) {
                self.waiting_count.fetch_sub(1, Ordering::SeqCst);
                for tie in ties(content) {
                    if let Some(others) = waiting.get_mut(&tie) {
                        others.retain(|other| !Arc::ptr_eq(other, content));
                    }
                    moved.insert(tie);
                }
            }
        }
        Ok(())
    }

    async fn apply(&self, content: &Arc<Content>) -> anyhow::Result<End> {
        for _ in 1..TRIES_MAX {
            match self.try_apply(content).await {
                Err(error) if passes(&error) => {}
                ended => return ended,
            }
        }
        self.try_apply(content).await
    }

    /// All in one transaction; `None` where one of them is in the ledger already.
    async fn together(&self, contents: &[Arc<Content>], are_new: bool) -> anyhow::Result<Option<Vec<End>>> {
        for _ in 1..TRIES_MAX {
            match self.transaction(contents, are_new).await {
                Err(error) if passes(&error) => {}
                ended => return ended,
            }
        }
        self.transaction(contents, are_new).await
    }

    async fn try_apply(&self, content: &Arc<Content>) -> anyhow::Result<End> {
        if let Some(end) = self.one_statement(content).await? {
            return Ok(end);
        }
        Ok(self.transaction(std::slice::from_ref(content), true).await?.map_or(End::InLedger, |ends| ends[0]))
    }

    /// One transaction; `None` where the ledger has one of these already, and nothing is written. Those that wait and are new are stored too.
    async fn transaction(
        &self,
        contents: &[Arc<Content>],
        are_new: bool,
    ) -> anyhow::Result<Option<Vec<End>>> {
        let mut transaction = self.pool.begin().await?;
        let contents: Vec<&Content> = contents.iter().map(Arc::as_ref).collect();
        let Some(ends) = rules::apply(&mut transaction, &contents).await? else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let waits = contents.iter().zip(&ends).filter(|(_, end)| are_new && **end == End::Waits);
        for (content, _) in waits {
            store_case(&mut transaction, content).await?;
        }
        transaction.commit().await?;
        Ok(Some(ends))
    }

    /// What needs no look at anything first is one statement; `None`: it is none of these, or met something.
    async fn one_statement(&self, content: &Content) -> anyhow::Result<Option<End>> {
        let account = match content.kind {
            Kind::Deposit => {
                "insert into accounts as a (account_id, currency, balance, held, version) values ($4, $5, $6, 0, 1)
                 on conflict (account_id) do update set balance = a.balance + excluded.balance, version = a.version + 1
                 where a.currency = excluded.currency returning balance, held, version"
            }
            Kind::Succeeded | Kind::Failed => {
                "update accounts set balance = balance - $9, version = version + 1
                 where account_id = $4 and currency = $5 and balance - held >= $9 returning balance, held, version"
            }
            Kind::DepositRefunded
            | Kind::DepositDisputed
            | Kind::DepositReinstated
            | Kind::Authorized
            | Kind::Adjusted
            | Kind::Captured
            | Kind::CaptureFailed
            | Kind::Voided
            | Kind::Refunded
            | Kind::RefundFailed
            | Kind::Fee
            | Kind::Transfer => return Ok(None),
        };
        let payment = if content.kind == Kind::Deposit {
            ""
        } else {
            ", p as (insert into payments (source, payment_id, account_id, currency, state, authorized, captured, refunded, version)
                     select $1, $7, $4, $5, $10, 0, $9, 0, 1 from a)"
        };
        let is_debit = content.kind == Kind::Succeeded;
        let (state, taken) = if is_debit { ("succeeded", content.amount) } else { ("failed", 0) };
        let delta = if content.kind == Kind::Deposit { content.amount } else { -taken };
        let statement = format!(
            "with a as ({account}){payment}
             insert into ledger (source, event_id, type, account_id, account_version, payment_id, operation_id, amount, currency,
                                 balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at)
             select $1, $2, $3, $4, a.version, $7, $8, $6, $5, $11, 0, a.balance, a.held, $12, to_timestamp($13)
             from a where $9::bigint is not null and $10::text is not null"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(&content.source)
            .bind(&content.id)
            .bind(content.kind.name())
            .bind(&content.subject)
            .bind(&content.currency)
            .bind(content.amount)
            .bind(&content.payment_id)
            .bind(&content.operation_id)
            .bind(taken)
            .bind(state)
            .bind(delta)
            .bind(content.sha256())
            .bind(content.at_s as f64)
            .execute(&self.pool)
            .await;
        match done {
            Ok(done) => Ok((done.rows_affected() == 1).then_some(End::Applied)),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                // Of a payment that was begun already more has to be known.
                let is_copy = error.constraint().is_some_and(|name| name.starts_with("ledger"));
                Ok(is_copy.then_some(End::InLedger))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// It waits, and is not lost with the process.
async fn store_case(transaction: &mut sqlx::PgConnection, content: &Content) -> anyhow::Result<()> {
    sqlx::query(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint)
         values ($1, $2, 'waiting_for_payment', '', '', 'waiting', 1, $3)
         on conflict on constraint quarantine_content do update set attempts = quarantine.attempts + 1",
    )
    .bind(&content.source)
    .bind(&content.id)
    .bind(content.sha256())
    .execute(transaction)
    .await?;
    Ok(())
}
