//! The feed processes of a chaos run, each of which can be killed and paused, and those who listen: the books that are kept from the feed
//! alone, and a reader of the balance cache.

use std::{collections::HashSet, fs::File, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use serde::Serialize;
use sqlx::PgConnection;
use tempfile::TempDir;
use tokio::{process::Child, time::Instant};

use super::{cache::CacheWatch, servers::signal_all, site::Site};
use crate::{
    audit::Audit,
    books::{Books, Reader},
    failure::Failure,
    place::Place,
    workers::{command, last_lines},
};

/// One works, one stands by.
const PROCESSES: usize = 2;
/// Deadlines short enough that every fault outlasts some of them.
const SETTINGS: [&str; 5] = [
    "--feed-lease-ms=1000",
    "--balance-cache=true",
    "--database-deadline-ms=2000",
    "--redis-timeout-ms=100",
    "--retry-delay-max-ms=500",
];
/// How long a lease may take to be somebody else's.
const TAKEOVER_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(50);

struct Member {
    child: Child,
    log: PathBuf,
}

/// All feed processes of the run, and their readers.
pub struct Feeds {
    program: PathBuf,
    place: Place,
    logs: TempDir,
    members: Vec<Member>,
    started: usize,
    reader: Reader,
    cache: CacheWatch,
}

impl Feeds {
    /// `program`: payonce. The readers are there before the first row is sent.
    pub async fn start(program: PathBuf, site: &Site) -> Result<Self, Failure> {
        let direct = site.direct()?;
        let reader = Reader::start(&direct).await?;
        let cache = CacheWatch::start(direct);
        let logs = TempDir::new().context("no folder for logs")?;
        let (members, started) = (Vec::new(), 0);
        let mut feeds = Self { program, place: site.place(), logs, members, started, reader, cache };
        for _ in 0..PROCESSES {
            feeds.spawn()?;
        }
        Ok(feeds)
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let log = self.log(self.started);
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command(&self.program, &self.place).arg("feed").args(SETTINGS).stderr(file).spawn();
        self.members.push(Member { child: child.context("payonce does not run")?, log });
        Ok(())
    }

    fn log(&self, number: usize) -> PathBuf {
        self.logs.path().join(format!("feed-{number}.log"))
    }

    /// Servers may be elsewhere since a fault.
    pub fn moved(&self, site: &Site) -> anyhow::Result<()> {
        self.cache.look_at(site.direct()?);
        Ok(())
    }

    /// Fails where one has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if let Some(status) = member.child.try_wait()? {
                bail!("a feed ended by itself: {status}\n{}", last_lines(&member.log));
            }
        }
        Ok(())
    }

    /// Kills every process that has a lease, and starts others; says how many there were.
    pub async fn kill(&mut self, site: &Site) -> anyhow::Result<u64> {
        self.check()?;
        let holders = some_holders(&mut site.connect().await?).await?;
        let mut killed = 0;
        for mut member in std::mem::take(&mut self.members) {
            if member.child.id().is_some_and(|id| holders.contains(&id)) {
                member.child.kill().await.context("a feed cannot be killed")?;
                killed += 1;
                self.spawn()?;
            } else {
                self.members.push(member);
            }
        }
        Ok(killed)
    }

    /// Stops a process that has a lease, waits until others have all its leases, and lets it go on.
    pub async fn pause(&mut self, site: &Site, hold: Duration) -> anyhow::Result<u64> {
        self.check()?;
        let mut database = site.connect().await?;
        let holders_before = some_holders(&mut database).await?;
        let mut ids = self.members.iter().filter_map(|member| member.child.id());
        let Some(paused) = ids.find(|id| holders_before.contains(id)) else {
            return Ok(0);
        };
        signal_all("STOP", &[paused]).await?;
        let end = Instant::now() + TAKEOVER_DEADLINE;
        let mut is_taken = false;
        while !is_taken && Instant::now() < end {
            is_taken = !holders(&mut database).await?.contains(&paused);
            tokio::time::sleep(POLL_PAUSE).await;
        }
        tokio::time::sleep(hold).await;
        signal_all("CONT", &[paused]).await?;
        anyhow::ensure!(is_taken, "nobody took the lease over within {TAKEOVER_DEADLINE:?}");
        Ok(1)
    }

    /// What all have logged.
    pub fn said(&self) -> String {
        (1..=self.started)
            .map(|number| std::fs::read_to_string(self.log(number)).unwrap_or_default())
            .collect()
    }

    /// Waits until the feed has told all, compares what its readers know with the database, and ends it.
    pub async fn finish(mut self, site: &Site, audit: &mut Audit) -> Result<Books, Failure> {
        self.check()?;
        let mut database = site.connect().await?;
        for (name, found) in self.reader.checks(&mut database).await? {
            audit.check(name, found);
        }
        self.moved(site)?;
        let (cache, looks) = self.cache.finish(&mut database).await?;
        eprintln!("chaos: {looks} looks at the balance cache");
        for (name, found) in cache {
            audit.check(name, found);
        }
        for member in &mut self.members {
            member.child.kill().await.context("a feed cannot be ended")?;
        }
        self.reader.close().await
    }
}

/// Events that a reader of the feed had to leave, or to take again.
#[derive(Debug, Serialize)]
pub struct FeedReport {
    pub rows: i64,
    pub copies: u64,
    pub early: u64,
    pub outdated: u64,
    pub replaced: u64,
}

impl FeedReport {
    pub fn new(books: &Books) -> Self {
        let Books { copies, early, outdated, replaced, .. } = *books;
        Self { rows: books.rows(), copies, early, outdated, replaced }
    }
}

/// The same once there are any: at the start, and for a moment after a fault of the broker, nobody has a lease.
async fn some_holders(database: &mut PgConnection) -> anyhow::Result<HashSet<u32>> {
    let end = Instant::now() + TAKEOVER_DEADLINE;
    loop {
        let holders = holders(database).await?;
        if !holders.is_empty() || Instant::now() > end {
            return Ok(holders);
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Processes that have a lease: `payonce-feed@HOST:PID-RANDOM`.
async fn holders(database: &mut PgConnection) -> anyhow::Result<HashSet<u32>> {
    let holders: Vec<String> = sqlx::query_scalar(
        "select distinct holder from feeds where holder is not null and lease_until > clock_timestamp()",
    )
    .fetch_all(database)
    .await?;
    let pid = |holder: &String| holder.rsplit(':').next()?.split('-').next()?.parse().ok();
    Ok(holders.iter().filter_map(pid).collect())
}
