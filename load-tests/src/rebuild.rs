//! `rebuild`: a second program that knows nothing but the feed, and must come to the same balances to the last cent. It believes no balance
//! that it is told: it adds up deltas, and looks for gaps, while the feed is killed again and again.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::process::Child;

use crate::{
    cli::{Failure, RebuildArgs},
    place::Place,
    plan::Plan,
    publish::now_us,
    replay, workers,
};

const POLL_PAUSE: Duration = Duration::from_millis(50);
/// After so long without one more row, the feed is stuck.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
/// A feed lives for so many milliseconds before it is killed.
const LIFE_MS: std::ops::Range<u64> = 300..2_500;
const PROBLEMS_MAX: usize = 20;

/// An account as the feed has told of it.
#[derive(Default)]
struct Account {
    version: i64,
    balance: i64,
    held: i64,
    currency: String,
}

/// All that this program knows.
#[derive(Default)]
struct Books {
    accounts: HashMap<String, Account>,
    rows: i64,
    copies: u64,
    /// Events that came before one that they follow; they must come again.
    early: u64,
    problems: Vec<String>,
}

impl Books {
    fn take(&mut self, body: &[u8]) {
        if let Err(problem) = self.try_to_take(body)
            && self.problems.len() < PROBLEMS_MAX
        {
            self.problems.push(format!("{problem:#}"));
        }
    }

    fn try_to_take(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let event: Value = serde_json::from_slice(body).context("not JSON")?;
        if event["type"] != "payonce.ledger.posted.v1" {
            return Ok(());
        }
        let data = &event["data"];
        let number = |name: &str| data[name].as_i64().with_context(|| format!("{name} of {event}"));
        let id = event["subject"].as_str().context("no subject")?.to_owned();
        let version = number("account_version")?;
        let account = self.accounts.entry(id.clone()).or_default();
        if version <= account.version {
            self.copies += 1;
            return Ok(());
        }
        if version > account.version + 1 {
            self.early += 1;
            return Ok(());
        }
        let add = |sum: i64, delta: i64| sum.checked_add(delta).context("more than an account can hold");
        account.balance = add(account.balance, number("balance_delta")?)?;
        account.held = add(account.held, number("held_delta")?)?;
        account.version = version;
        account.currency = data["currency"].as_str().unwrap_or_default().to_owned();
        self.rows += 1;
        if (account.balance, account.held) != (number("balance_after")?, number("held_after")?) {
            bail!(
                "account {id} version {version}: the deltas add up to {}, {}",
                account.balance,
                account.held
            );
        }
        if event["id"] != format!("{version}:{id}") || event["sequence"] != version {
            bail!("account {id} version {version}: id {} and sequence {}", event["id"], event["sequence"]);
        }
        Ok(())
    }
}

pub async fn run(args: &RebuildArgs) -> Result<(), Failure> {
    let program = workers::program(args.replay.payonce.as_deref()).await?;
    let in_place = args.existing || args.replay.in_place;
    let place = Place::prepare(in_place, args.replay.seed).await?.signed_by(args.replay.signing()?);
    let result = tokio::select! {
        result = rebuild(args, &program, &place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    if !args.replay.keep {
        place.remove().await?;
    }
    result
}

async fn rebuild(args: &RebuildArgs, program: &Path, place: &Place) -> Result<(), Failure> {
    workers::migrate(program, place).await?;
    let logs = tempfile::tempdir().context("no folder for logs")?;
    let books = Arc::new(Mutex::new(Books::default()));
    let reading = read(place, Arc::clone(&books)).await?;
    let name = format!("rebuild-{}-{}", std::process::id(), now_us());
    let feeding = tokio::spawn(feed(
        args.clone(),
        program.to_owned(),
        place.clone(),
        name.clone(),
        logs.path().join("feed.log"),
    ));
    let started = Instant::now();
    if !args.existing {
        let plan = Arc::new(Plan::new(&replay::options(&args.replay)).map_err(Failure::Usage)?);
        let (_, audit) = replay::replay(&args.replay, &plan, program, place).await?;
        if !audit.failed().is_empty() {
            return Err(Failure::No(format!("audit failed: {}", audit.failed().join(", "))));
        }
    }
    let mut database = place.connect().await?;
    wait(&mut database, &books).await?;
    let mut feed = feeding.await.context("the feed's task ended")??;
    feed.kill().await.context("the feed cannot be ended")?;
    reading.abort();
    sqlx::query("delete from feeds where name = $1")
        .bind(&name)
        .execute(&mut database)
        .await
        .context("its position")?;
    let books = std::mem::take(&mut *books.lock().unwrap_or_else(PoisonError::into_inner));
    let checks = compare(&mut database, &books).await?;
    print(args, &books, &checks, started.elapsed());
    let failed: Vec<&str> =
        checks.iter().filter(|(_, found)| !found.is_empty()).map(|(name, _)| *name).collect();
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("the books differ: {}", failed.join(", ")))),
    }
}

/// Takes every event from a queue of its own.
async fn read(place: &Place, books: Arc<Mutex<Books>>) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let connection = place.broker().await?;
    let channel = connection.create_channel().await.context("no channel")?;
    let exchange = place.names().events_exchange;
    let queue = format!("{}rebuild-{}", place.prefix, now_us());
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel
        .exchange_declare(
            exchange.as_str().into(),
            lapin::ExchangeKind::Topic,
            durable,
            FieldTable::default(),
        )
        .await
        .context("no exchange of events")?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.context("no queue")?;
    channel
        .queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("no binding")?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel
        .basic_consume(queue.as_str().into(), "rebuild".into(), options, FieldTable::default())
        .await
        .context("no consumer")?;
    Ok(tokio::spawn(async move {
        let _open = (connection, channel);
        while let Some(delivery) = consumer.next().await {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            match delivery {
                Ok(delivery) => books.take(&delivery.data),
                Err(error) => books.problems.push(format!("the queue is gone: {error}")),
            }
        }
    }))
}

/// Runs the feed, kills it `--kills` times, and leaves the last one running.
async fn feed(
    args: RebuildArgs,
    program: std::path::PathBuf,
    place: Place,
    name: String,
    log: std::path::PathBuf,
) -> anyhow::Result<Child> {
    let file = File::create(&log).context("no log")?;
    let start = || {
        workers::command(&program, &place)
            .arg("feed")
            .env("PAYONCE_FEED_NAME", &name)
            .env("PAYONCE_FEED_LEASE_MS", "500")
            .stderr(file.try_clone()?)
            .spawn()
            .context("payonce does not run")
    };
    let mut random = StdRng::seed_from_u64(args.replay.seed);
    for _ in 0..args.kills {
        let mut child = start()?;
        tokio::time::sleep(Duration::from_millis(random.random_range(LIFE_MS))).await;
        if let Some(status) = child.try_wait()? {
            bail!("the feed ended by itself: {status}\n{}", workers::last_lines(&log));
        }
        child.kill().await?;
    }
    start()
}

/// Until the feed has told of every row.
async fn wait(database: &mut PgConnection, books: &Mutex<Books>) -> anyhow::Result<()> {
    let expected: i64 =
        sqlx::query_scalar("select count(*) from ledger").fetch_one(database).await.context("no ledger")?;
    let mut before = -1;
    let mut progressed = Instant::now();
    loop {
        let rows = books.lock().unwrap_or_else(PoisonError::into_inner).rows;
        if rows >= expected {
            return Ok(());
        }
        if rows > before {
            (before, progressed) = (rows, Instant::now());
        }
        if progressed.elapsed() > PROGRESS_DEADLINE {
            bail!("stuck: {rows} of {expected} rows came, none more for {PROGRESS_DEADLINE:?}");
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

async fn compare(
    database: &mut PgConnection,
    books: &Books,
) -> anyhow::Result<BTreeMap<&'static str, Vec<String>>> {
    let accounts: Vec<(String, String, i64, i64, i64)> =
        sqlx::query_as("select account_id, currency, balance, held, version from accounts where version > 0")
            .fetch_all(database)
            .await
            .context("no accounts")?;
    let mut differ = Vec::new();
    for (id, currency, balance, held, version) in &accounts {
        let known = books.accounts.get(id);
        let is_same = known.is_some_and(|known| {
            (known.version, known.balance, known.held) == (*version, *balance, *held)
                && known.currency == *currency
        });
        if !is_same {
            let known = known.map_or((0, 0, 0), |known| (known.version, known.balance, known.held));
            differ.push(format!("account {id}: {version}, {balance}, {held}; the feed told {known:?}"));
        }
    }
    differ.truncate(PROBLEMS_MAX);
    let more = books.accounts.len().abs_diff(accounts.len());
    let more = if more > 0 {
        vec![format!("{} accounts, the feed told of {}", accounts.len(), books.accounts.len())]
    } else {
        Vec::new()
    };
    Ok(BTreeMap::from([
        ("balances_and_holds_are_the_same", differ),
        ("accounts_are_the_same", more),
        ("events_are_sound", books.problems.clone()),
    ]))
}

fn print(args: &RebuildArgs, books: &Books, checks: &BTreeMap<&'static str, Vec<String>>, took: Duration) {
    let failed: BTreeMap<_, _> = checks.iter().filter(|(_, found)| !found.is_empty()).collect();
    let report = json!({
        "rows": books.rows, "accounts": books.accounts.len(), "copies": books.copies, "early": books.early, "kills": args.kills,
        "seconds": took.as_secs_f64(), "audit": if failed.is_empty() { json!("ok") } else { json!(failed) },
    });
    if args.replay.json {
        println!("{report}");
        return;
    }
    println!(
        "{} rows of {} accounts rebuilt from the feed in {:.1} s; {} copies, {} came early and again; the feed was killed {} times",
        books.rows,
        books.accounts.len(),
        took.as_secs_f64(),
        books.copies,
        books.early,
        args.kills
    );
    for (name, found) in checks {
        println!("{} {name}", if found.is_empty() { "ok    " } else { "FAILED" });
        found.iter().for_each(|line| println!("       {line}"));
    }
}
