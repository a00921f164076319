//! A program that knows nothing but the feed, and must come to the database's balances to the last cent. It believes no balance that it is
//! told: it adds up deltas, and looks for gaps. Kept by `rebuild` and by `chaos`. What must not live here: what is done to the feed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use lapin::{
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use sqlx::PgConnection;
use tokio::task::JoinHandle;

use crate::{failure::Failure, place::Place, publish::now_us};

const POLL_PAUSE: Duration = Duration::from_millis(100);
/// Before a reader that has lost the broker looks for it again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// After so long without one more row, the feed is stuck.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
/// Events that the broker sends ahead of the acknowledgements.
const PREFETCH_MAX: u16 = 1_000;
const PROBLEMS_MAX: usize = 20;
/// A queue that nobody reads for so long, in milliseconds, is removed by the broker.
const UNUSED_MAX_MS: u32 = 600_000;

const POSTED: &str = "payonce.ledger.posted.v1";
const HISTORY: &str = "payonce.ledger.history.v1";

/// What was found wrong, by the name of the check.
pub type Checks = BTreeMap<&'static str, Vec<String>>;

/// An account as the feed has told of it.
#[derive(Default)]
struct Account {
    /// (balance, held) after each version, from 1 on.
    after: Vec<(i64, i64)>,
    currency: String,
    /// The history that the newest version belongs to.
    epoch: usize,
}

impl Account {
    fn version(&self) -> i64 {
        i64::try_from(self.after.len()).unwrap_or(i64::MAX)
    }

    fn sums(&self) -> (i64, i64) {
        self.after.last().copied().unwrap_or_default()
    }
}

/// All that this program knows.
#[derive(Default)]
pub struct Books {
    accounts: HashMap<String, Account>,
    /// Histories in the order in which they were heard of; the last is the present one.
    epochs: Vec<String>,
    pub copies: u64,
    /// Events that came before one that they follow; they must come again.
    pub early: u64,
    /// Events of a history that is over, sent by a feed that had not heard of it.
    pub outdated: u64,
    /// Versions of a history that is over, replaced by those of the present one.
    pub replaced: u64,
    problems: Vec<String>,
}

impl Books {
    pub fn rows(&self) -> i64 {
        self.accounts.values().map(Account::version).sum()
    }

    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    fn take(&mut self, body: &[u8]) {
        if let Err(problem) = self.try_to_take(body)
            && self.problems.len() < PROBLEMS_MAX
        {
            self.problems.push(format!("{problem:#}"));
        }
    }

    fn try_to_take(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let event: Value = serde_json::from_slice(body).context("not JSON")?;
        let kind = event["type"].as_str().context("no type")?;
        let told = event["epoch"].as_str().context("no epoch")?;
        match self.epochs.iter().position(|epoch| epoch == told) {
            None => self.epochs.push(told.to_owned()),
            Some(at) if at + 1 < self.epochs.len() => {
                self.outdated += 1;
                return Ok(());
            }
            Some(_) => {}
        }
        match kind {
            POSTED => self.post(&event),
            HISTORY => Ok(()),
            other => bail!("an event of type {other}"),
        }
    }

    fn post(&mut self, event: &Value) -> anyhow::Result<()> {
        let present = self.epochs.len();
        let data = &event["data"];
        let number = |name: &str| data[name].as_i64().with_context(|| format!("{name} of {event}"));
        let id = event["subject"].as_str().context("no subject")?.to_owned();
        let version = number("account_version")?;
        let account = self.accounts.entry(id.clone()).or_default();
        if version > account.version() + 1 {
            self.early += 1;
            return Ok(());
        }
        if version <= account.version() {
            if account.epoch == present {
                self.copies += 1;
                return Ok(());
            }
            // What the former history had from here on may be void; all that is left of it comes again.
            let kept = usize::try_from(version - 1).context("a version below 1")?;
            self.replaced += u64::try_from(account.after.len() - kept)?;
            account.after.truncate(kept);
        }
        let add = |sum: i64, delta: i64| sum.checked_add(delta).context("more than an account can hold");
        let (balance, held) = account.sums();
        let sums = (add(balance, number("balance_delta")?)?, add(held, number("held_delta")?)?);
        account.after.push(sums);
        account.epoch = present;
        account.currency = data["currency"].as_str().unwrap_or_default().to_owned();
        if sums != (number("balance_after")?, number("held_after")?) {
            bail!("account {id} version {version}: the deltas add up to {sums:?}, not to {data}");
        }
        if event["id"] != format!("{version}:{id}") || event["sequence"] != version {
            bail!("account {id} version {version}: id {} and sequence {}", event["id"], event["sequence"]);
        }
        Ok(())
    }

    /// What the books and the database do not agree on.
    fn compare(&self, database: &[Row]) -> Checks {
        let mut differ = Vec::new();
        for (id, currency, balance, held, version) in database {
            let known = self.accounts.get(id);
            let is_same = known.is_some_and(|known| {
                (known.version(), known.sums()) == (*version, (*balance, *held))
                    && known.currency == *currency
            });
            if !is_same {
                let known = known.map_or((0, (0, 0)), |known| (known.version(), known.sums()));
                differ.push(format!("account {id}: {version}, {balance}, {held}; the feed told {known:?}"));
            }
        }
        differ.truncate(PROBLEMS_MAX);
        let (told, there) = (self.accounts.len(), database.len());
        let more = (told != there).then(|| format!("{there} accounts have rows, the feed told of {told}"));
        BTreeMap::from([
            ("balances_and_holds_are_the_same", differ),
            ("accounts_are_the_same", more.into_iter().collect()),
            ("events_are_sound", self.problems.clone()),
        ])
    }
}

/// Account, currency, balance, held, version.
type Row = (String, String, i64, i64, i64);

/// Takes every event from a durable queue of its own, also after the broker was down.
pub struct Reader {
    books: Arc<Mutex<Books>>,
    place: Place,
    queue: EventQueue,
    reading: JoinHandle<()>,
}

impl Reader {
    /// The queue is there when this returns: all that is sent from now on is read.
    pub async fn start(place: &Place) -> Result<Self, Failure> {
        let books = Arc::new(Mutex::new(Books::default()));
        let queue = EventQueue::declare(place).await?;
        let reading = tokio::spawn({
            let (books, place, queue) = (Arc::clone(&books), place.clone(), queue.0.clone());
            async move {
                loop {
                    // How it ended does not matter: what was not acknowledged comes again.
                    drop(read(&place, &queue, &books).await);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        });
        Ok(Self { books, place: place.clone(), queue, reading })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the books say what the database says, or nothing more comes. Nobody may write meanwhile.
    pub async fn checks(&self, database: &mut PgConnection) -> anyhow::Result<Checks> {
        let rows: Vec<Row> = sqlx::query_as(
            "select account_id, currency, balance, held, version from accounts where version > 0",
        )
        .fetch_all(database)
        .await
        .context("no accounts")?;
        let (mut before, mut progressed) = (None, Instant::now());
        loop {
            let (checks, now) = {
                let books = self.books();
                (books.compare(&rows), (books.rows(), books.copies, books.replaced))
            };
            if checks.values().all(Vec::is_empty) || progressed.elapsed() > PROGRESS_DEADLINE {
                return Ok(checks);
            }
            if before != Some(now) {
                (before, progressed) = (Some(now), Instant::now());
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    /// Ends the reading, removes the queue, and hands over the books.
    pub async fn close(self) -> Result<Books, Failure> {
        self.reading.abort();
        let books = std::mem::take(&mut *self.books());
        self.queue.remove(&self.place).await?;
        Ok(books)
    }
}

/// A queue of a run's own for all events. It lives through a broker that is killed, so that nothing that was confirmed is missed.
pub struct EventQueue(String);

impl EventQueue {
    /// Declares and binds it: from now on it gets all that is sent.
    pub async fn declare(place: &Place) -> Result<Self, Failure> {
        let connection = place.broker().await?;
        let channel = connection.create_channel().await.context("no channel")?;
        let (name, exchange) =
            (format!("{}events-{}", place.prefix, now_us()), place.names().events_exchange);
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let topic = lapin::ExchangeKind::Topic;
        channel
            .exchange_declare(exchange.as_str().into(), topic, durable, FieldTable::default())
            .await
            .context("no exchange of events")?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        // A run that is interrupted leaves no queue behind for long.
        arguments.insert("x-expires".into(), AMQPValue::LongUInt(UNUSED_MAX_MS));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.as_str().into(), durable, arguments).await.context("no queue")?;
        let (all, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(name.as_str().into(), exchange.as_str().into(), "#".into(), all, none)
            .await
            .context("no binding")?;
        Ok(Self(name))
    }

    /// Removes it, with what is in it.
    pub async fn remove(self, place: &Place) -> Result<(), Failure> {
        let connection = place.broker().await?;
        let channel = connection.create_channel().await.context("no channel")?;
        let removed = channel.queue_delete(self.0.as_str().into(), Default::default()).await;
        removed.context("the queue of events is not deleted")?;
        Ok(())
    }
}

/// Reads until the connection is gone.
async fn read(place: &Place, queue: &str, books: &Mutex<Books>) -> anyhow::Result<()> {
    let connection = place.broker().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH_MAX, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(queue.into(), "rebuild".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        books.lock().unwrap_or_else(PoisonError::into_inner).take(&delivery.data);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(epoch: &str, version: i64, delta: i64, balance: i64) -> Vec<u8> {
        let data = json!({
            "account_version": version, "balance_delta": delta, "held_delta": 0, "balance_after": balance, "held_after": 0,
            "currency": "EUR",
        });
        let event = json!({
            "type": POSTED, "epoch": epoch, "subject": "a", "id": format!("{version}:a"), "sequence": version, "data": data,
        });
        event.to_string().into_bytes()
    }

    fn told(events: &[Vec<u8>]) -> Books {
        let mut books = Books::default();
        events.iter().for_each(|event| books.take(event));
        books
    }

    #[test]
    fn copies_and_gaps_change_nothing() {
        let books =
            told(&[event("1", 1, 5, 5), event("1", 3, 1, 7), event("1", 1, 5, 5), event("1", 2, 1, 6)]);
        assert_eq!((books.rows(), books.copies, books.early), (2, 1, 1));
        assert_eq!(books.accounts["a"].sums(), (6, 0));
        assert_eq!(books.problems, Vec::<String>::new());
    }

    #[test]
    fn a_new_history_replaces_what_the_former_one_had_from_there_on_and_the_former_one_is_not_heard_again() {
        let books = told(&[
            event("1", 1, 5, 5),
            event("1", 2, 1, 6),
            event("1", 3, 1, 7),
            event("2", 2, 9, 14),
            event("1", 3, 1, 7),
            event("2", 2, 9, 14),
        ]);
        assert_eq!(books.accounts["a"].after, [(5, 0), (14, 0)]);
        assert_eq!((books.replaced, books.outdated, books.copies), (2, 1, 1));
        assert_eq!(books.problems, Vec::<String>::new());
    }

    #[test]
    fn a_wrong_sum_is_found() {
        assert_eq!(told(&[event("1", 1, 5, 6)]).problems.len(), 1);
    }

    #[test]
    fn every_difference_from_the_database_is_found() {
        let books = told(&[event("1", 1, 5, 5)]);
        let row = |balance: i64| vec![("a".to_owned(), "EUR".to_owned(), balance, 0, 1)];
        assert!(books.compare(&row(5)).values().all(Vec::is_empty));
        assert_eq!(books.compare(&row(4))["balances_and_holds_are_the_same"].len(), 1);
        assert_eq!(books.compare(&[])["accounts_are_the_same"].len(), 1);
    }
}
