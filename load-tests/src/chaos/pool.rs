//! The worker processes of a chaos run: each can be killed, stopped and started again, and none may end by itself.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
    time::{Instant, sleep},
};

use super::{POLL_PAUSE, feeds::Feeds, servers::signal_all};
use crate::{
    place::Place,
    workers::{command, last_lines},
};

/// Where workers listen. Nothing connects from this address, so a port that is free on it stays free until the worker takes it;
/// on 127.0.0.1 any connection that leaves may be given the same port first.
const LISTEN_HOST: &str = "127.0.0.2";
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const HTTP_DEADLINE: Duration = Duration::from_secs(2);

/// Deadlines short enough that every fault outlasts some of them; batches small enough that there are always some in work.
const SETTINGS: [&str; 8] = [
    "--lanes=2",
    "--batch-size-max=100",
    "--prefetch-count=400",
    "--claim-lease-ms=1000",
    "--database-deadline-ms=2000",
    "--redis-timeout-ms=100",
    "--retry-delay-max-ms=500",
    "--waiting-sweep-ms=1000",
];

/// Every other worker's done markers end before most copies come: then the ledger alone rejects those.
const SHORT_MARKERS: (&str, &str) = ("PAYONCE_MARKER_TTL_MS", "1500");

/// As in [`SETTINGS`].
const LANES: usize = 2;

/// One more, as a variable: a fault may set it to another value.
const HOLD: (&str, &str) = ("PAYONCE_OUTAGE_HOLD_MS", "5000");

/// A running worker.
#[derive(Debug)]
pub struct Member {
    child: Child,
    log: PathBuf,
    port: u16,
}

impl Member {
    fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the worker is gone")
    }

    /// The status of a GET on its own port; `None`: no answer.
    pub async fn http_status(&self, path: &str) -> Option<u16> {
        let answer = async {
            let mut stream = TcpStream::connect((LISTEN_HOST, self.port)).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            text.split_whitespace().nth(1)?.parse().ok()
        };
        tokio::time::timeout(HTTP_DEADLINE, answer).await.ok().flatten()
    }

    /// Largest resident size so far, in MiB.
    fn peak_mib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
    }
}

/// All workers of the run.
pub struct Pool {
    program: PathBuf,
    place: Place,
    logs: TempDir,
    members: Vec<Member>,
    started: usize,
    /// Largest resident size of any worker, in MiB.
    peak_mib: u64,
    /// The feed processes beside them, where the run has any.
    pub feeds: Option<Feeds>,
}

impl Pool {
    pub fn start(count: usize, program: PathBuf, place: Place) -> anyhow::Result<Self> {
        let logs = TempDir::new().context("no folder for logs")?;
        let mut pool =
            Self { program, place, logs, members: Vec::new(), started: 0, peak_mib: 0, feeds: None };
        for _ in 0..count {
            let member = pool.spawn(&[])?;
            pool.members.push(member);
        }
        Ok(pool)
    }

    fn spawn(&mut self, environment: &[(&str, &str)]) -> anyhow::Result<Member> {
        self.started += 1;
        let log = self.logs.path().join(format!("worker-{}.log", self.started));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let port = std::net::TcpListener::bind((LISTEN_HOST, 0))?.local_addr()?.port();
        let mut command = command(&self.program, &self.place);
        command.arg("worker").args(SETTINGS).arg(format!("--listen={LISTEN_HOST}:{port}")).stderr(file);
        if self.started.is_multiple_of(2) {
            command.envs([SHORT_MARKERS]);
        }
        command.envs([HOLD]).envs(environment.iter().copied());
        Ok(Member { child: command.spawn().context("payonce does not run")?, log, port })
    }

    /// The feed processes.
    pub fn feeds(&mut self) -> anyhow::Result<&mut Feeds> {
        self.feeds.as_mut().context("this run has no feed: --feed")
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.members.len() * LANES
    }

    /// How many lanes have settled nothing between these counts, by worker and lane.
    pub fn without_progress(
        &self,
        before: &BTreeMap<String, i64>,
        now: &BTreeMap<String, i64>,
    ) -> anyhow::Result<usize> {
        let mut left = 0;
        for member in &self.members {
            for lane in 0..LANES {
                // The name of a writer is `payonce-worker@HOST:PROCESS/LANE`.
                let writer = format!(":{}/{lane}", member.id()?);
                let of_lane = |counts: &BTreeMap<String, i64>| -> i64 {
                    counts.iter().filter(|(name, _)| name.ends_with(&writer)).map(|(_, n)| n).sum()
                };
                left += usize::from(of_lane(now) <= of_lane(before));
            }
        }
        Ok(left)
    }

    /// The last lines of every worker's log.
    pub fn last_words(&self) -> String {
        self.members.iter().map(|member| last_lines(&member.log)).collect::<Vec<_>>().join("\n\n")
    }

    /// Fails where a worker has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            self.peak_mib = self.peak_mib.max(member.peak_mib().unwrap_or(0));
            if let Some(status) = member.child.try_wait()? {
                bail!("a worker ended by itself: {status}\n{}", last_lines(&member.log));
            }
        }
        self.feeds.as_mut().map_or(Ok(()), Feeds::check)
    }

    /// Kills the first `count` workers and starts others; says how many there were.
    pub async fn kill(&mut self, count: usize) -> anyhow::Result<u64> {
        self.check()?;
        for _ in 0..count {
            let mut member = self.members.remove(0);
            member.child.kill().await.context("a worker cannot be killed")?;
            let next = self.spawn(&[])?;
            self.members.push(next);
        }
        Ok(count as u64)
    }

    /// Stops the first worker in mid-work for a while. Returns 1 where it was seen to stand still.
    pub async fn pause_first(&self, time: Duration) -> anyhow::Result<u64> {
        let id = self.members.first().context("no worker")?.id()?;
        signal_all("STOP", &[id]).await?;
        sleep(time).await;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        signal_all("CONT", &[id]).await?;
        // Behind the program's name, which may hold anything: the state, T where it is stopped.
        Ok(u64::from(stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))))
    }

    /// The newest worker's clock, as it has logged it, in seconds since 1970.
    pub async fn clock_of_newest(&self) -> anyhow::Result<i64> {
        let log = &self.members.last().context("no worker")?.log;
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let time = text.split_whitespace().find_map(|word| OffsetDateTime::parse(word, &Rfc3339).ok());
            if let Some(time) = time {
                return Ok(time.unix_timestamp());
            }
            anyhow::ensure!(started.elapsed() < STOP_DEADLINE, "{}: no time in it", log.display());
            sleep(POLL_PAUSE).await;
        }
    }

    /// Replaces the first worker by one with this environment, politely.
    pub async fn replace_first(&mut self, environment: &[(&str, &str)]) -> anyhow::Result<u64> {
        self.check()?;
        let next = self.spawn(environment)?;
        self.members.push(next);
        let member = self.members.remove(0);
        terminate(member).await?;
        Ok(1)
    }

    /// Stops all, and fails where one does not drain and end well. Returns what they logged and the largest resident size.
    pub async fn stop(mut self) -> anyhow::Result<(String, u64)> {
        self.check()?;
        for member in self.members.drain(..) {
            terminate(member).await?;
        }
        Ok((self.said(), self.peak_mib))
    }

    /// What all workers have logged.
    pub fn said(&self) -> String {
        let log = |number| self.logs.path().join(format!("worker-{number}.log"));
        (1..=self.started).map(|number| std::fs::read_to_string(log(number)).unwrap_or_default()).collect()
    }
}

async fn terminate(mut member: Member) -> anyhow::Result<()> {
    signal_all("TERM", &[member.id()?]).await?;
    match tokio::time::timeout(STOP_DEADLINE, member.child.wait()).await {
        Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
        Ok(status) => {
            bail!("a worker did not end well after SIGTERM: {}\n{}", status?, last_lines(&member.log))
        }
        Err(_) => {
            bail!("a worker did not end within {STOP_DEADLINE:?} after SIGTERM\n{}", last_lines(&member.log))
        }
    }
}
