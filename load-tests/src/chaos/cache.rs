//! A reader of the balance cache, as `docs/feed.md` describes one, that looks again and again while things break. It compares what it is shown
//! with the ledger: every entry is a state that the account had, and none is older than the mark beside it says.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use sqlx::{Connection, PgConnection};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{books::Checks, place::Place};

const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// A look that takes longer is canceled: a server is down.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// How long the cache may take to have all, once nothing breaks any more.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(60);
const PROBLEMS_MAX: usize = 20;

/// Version, balance, held, currency.
type Entry = (i64, i64, i64, String);

/// Looks at the cache until it is finished.
pub struct CacheWatch {
    place: watch::Sender<Place>,
    looking: JoinHandle<Seen>,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    looks: u64,
    entries: u64,
    problems: Vec<String>,
}

/// Connections of one reader, and the history that the database has for as long as they last.
struct Eyes {
    redis: MultiplexedConnection,
    database: PgConnection,
    epoch: String,
    prefix: String,
}

impl CacheWatch {
    pub fn start(direct: Place) -> Self {
        let place = watch::Sender::new(direct);
        let stop = watch::Sender::new(false);
        let looking = tokio::spawn(look_on(place.subscribe(), stop.subscribe()));
        Self { place, looking, stop }
    }

    /// Where the servers are from now on.
    pub fn look_at(&self, direct: Place) {
        self.place.send_replace(direct);
    }

    /// Waits until the cache has all, and says what was wrong with it at any time, and how often it was looked at.
    pub async fn finish(self, database: &mut PgConnection) -> anyhow::Result<(Checks, u64)> {
        let mut eyes = Eyes::open(&self.place.borrow().clone()).await?;
        let newest: i64 = sqlx::query_scalar("select max(txn) from ledger").fetch_one(database).await?;
        let end = Instant::now() + CATCH_UP_DEADLINE;
        let mut late = Vec::new();
        loop {
            let mark = eyes.mark().await?;
            if mark.as_ref().is_some_and(|(epoch, txn)| *epoch == eyes.epoch && *txn >= newest) {
                break;
            }
            if Instant::now() > end {
                late.push(format!("the mark is {mark:?}, the ledger ends at {newest} of {}", eyes.epoch));
                break;
            }
            sleep(LOOK_PAUSE).await;
        }
        let mut last = Seen::default();
        eyes.look(&mut last).await?;
        self.stop.send_replace(true);
        let mut seen = self.looking.await.context("the reader of the cache ended")?;
        if seen.entries == 0 {
            seen.problems.push("the cache was never seen with an entry".to_owned());
        }
        seen.problems.extend(last.problems);
        let checks = Checks::from([
            ("the_balance_cache_is_never_older_than_it_says", seen.problems),
            ("the_balance_cache_catches_up", late),
        ]);
        Ok((checks, seen.looks))
    }
}

async fn look_on(mut place: watch::Receiver<Place>, stop: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen::default();
    let mut eyes: Option<Eyes> = None;
    while !*stop.borrow() {
        let look = async {
            let open = match eyes.take() {
                Some(open) if !place.has_changed().unwrap_or(false) => open,
                Some(_) | None => {
                    let now = place.borrow_and_update().clone();
                    Eyes::open(&now).await?
                }
            };
            eyes.insert(open).look(&mut seen).await
        };
        if !matches!(timeout(LOOK_DEADLINE, look).await, Ok(Ok(()))) {
            eyes = None;
        }
        sleep(LOOK_PAUSE).await;
    }
    seen
}

impl Eyes {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        let redis = redis::Client::open(place.redis_url.as_str())?.get_multiplexed_async_connection().await?;
        let mut database = PgConnection::connect(&place.database_url).await?;
        let epoch = payonce::store::epoch(&mut database).await?.as_str().to_owned();
        Ok(Self { redis, database, epoch, prefix: place.prefix.clone() })
    }

    async fn mark(&mut self) -> anyhow::Result<Option<(String, i64)>> {
        let name = format!("{}payonce:balances", self.prefix);
        let found: (Option<String>, Option<i64>) =
            redis::cmd("HMGET").arg(name).arg("epoch").arg("txn").query_async(&mut self.redis).await?;
        Ok(found.0.zip(found.1))
    }

    /// One look. What goes back between its two readings of the mark is another look's matter.
    async fn look(&mut self, seen: &mut Seen) -> anyhow::Result<()> {
        let accounts: Vec<String> =
            sqlx::query_scalar("select account_id from accounts").fetch_all(&mut self.database).await?;
        let Some((epoch, txn)) = self.mark().await? else { return Ok(()) };
        let mut trip = redis::pipe();
        for account in &accounts {
            let name = format!("{}payonce:{epoch}:balance:{{{account}}}", self.prefix);
            trip.cmd("HMGET").arg(name).arg(&["version", "balance", "held", "currency"]);
        }
        type Fields = (Option<i64>, Option<i64>, Option<i64>, Option<String>);
        let found: Vec<Fields> = trip.query_async(&mut self.redis).await?;
        let after = self.mark().await?;
        if epoch != self.epoch || after.is_none_or(|(after, at)| after != epoch || at < txn) {
            return Ok(());
        }
        let entries: HashMap<String, Entry> = accounts
            .into_iter()
            .zip(found)
            .filter_map(|(account, (version, balance, held, currency))| {
                Some((account, (version?, balance?, held?, currency?)))
            })
            .collect();
        seen.looks += 1;
        seen.entries += entries.len() as u64;
        let problems = self.compare(&entries, txn).await?;
        let room = PROBLEMS_MAX.saturating_sub(seen.problems.len());
        seen.problems.extend(problems.into_iter().take(room));
        Ok(())
    }

    /// What is wrong with entries beside which stood that all transactions up to `txn` are in them.
    async fn compare(&mut self, entries: &HashMap<String, Entry>, txn: i64) -> anyhow::Result<Vec<String>> {
        let (accounts, versions): (Vec<&str>, Vec<i64>) =
            entries.iter().map(|(account, entry)| (account.as_str(), entry.0)).unzip();
        let rows: Vec<(String, Option<i64>, i64, i64, String)> = sqlx::query_as(
            "select shown.account_id, (select max(account_version) from ledger l
                                       where l.account_id = shown.account_id and l.txn <= $3),
                    l.balance_after, l.held_after, l.currency
             from unnest($1::text[], $2::bigint[]) as shown(account_id, version)
             join ledger l on l.account_id = shown.account_id and l.account_version = shown.version",
        )
        .bind(&accounts)
        .bind(&versions)
        .bind(txn)
        .fetch_all(&mut self.database)
        .await?;
        let mut problems = Vec::new();
        let mut known = 0;
        for (account, marked, balance, held, currency) in rows {
            known += 1;
            let Some(entry) = entries.get(&account) else { continue };
            if (entry.1, entry.2, &entry.3) != (balance, held, &currency) {
                problems.push(format!("{account} is shown as {entry:?}; then it was {balance}, {held}"));
            }
            if marked > Some(entry.0) {
                problems.push(format!(
                    "{account} is shown as {entry:?}; transaction {txn} has version {marked:?}"
                ));
            }
        }
        if known < entries.len() {
            problems.push(format!("{} entries have a version that no ledger row has", entries.len() - known));
        }
        Ok(problems)
    }
}
