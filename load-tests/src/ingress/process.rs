//! A real `payonce ingress`: started, killed, told to stop, and looked at from outside. What must not live here: what is sent to it.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use super::{front::Front, http::Client};
use crate::{
    place::Place,
    workers::{self, last_lines},
};

/// Where it listens. Nothing connects from this address, so a port that is free on it stays free until the ingress takes it.
const LISTEN_HOST: &str = "127.0.0.2";
const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// The process. Killed when dropped.
#[derive(Debug)]
pub struct Ingress {
    child: Child,
    pub address: SocketAddr,
    health: SocketAddr,
    program: PathBuf,
    place: Place,
    config: PathBuf,
    keys: PathBuf,
    logs: PathBuf,
    started: usize,
}

impl Ingress {
    /// Starts it with the endpoints of a front, and waits until it has found the broker.
    pub async fn start(program: &Path, place: &Place, front: &Front, logs: &Path) -> anyhow::Result<Self> {
        let free = || Ok::<_, anyhow::Error>(std::net::TcpListener::bind((LISTEN_HOST, 0))?.local_addr()?);
        let (address, health) = (free()?, free()?);
        let (config, keys) = (front.folder.path().join("payonce.toml"), front.keys());
        let child = spawn(program, place, (address, health), (&config, &keys), &log(logs, 1))?;
        let mut ingress = Self {
            child,
            address,
            health,
            program: program.to_owned(),
            place: place.clone(),
            config,
            keys,
            logs: logs.to_owned(),
            started: 1,
        };
        ingress.wait_ready().await?;
        Ok(ingress)
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        loop {
            let answer = Client::new(self.health).ask(request).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            self.check()?;
            if began.elapsed() > READY_DEADLINE {
                bail!("the ingress is not ready\n{}", last_lines(&log(&self.logs, self.started)));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    /// Fails where it has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let words = last_lines(&log(&self.logs, self.started));
            bail!("the ingress ended by itself: {status}\n{words}");
        }
        Ok(())
    }

    /// Ends it as a crash would, and starts it again at the same address.
    pub async fn crash(&mut self) -> anyhow::Result<u64> {
        self.check()?;
        self.child.kill().await.context("the ingress cannot be killed")?;
        self.start_again().await
    }

    /// Tells it to stop, and starts another one when it has finished what it had begun.
    pub async fn replace(&mut self) -> anyhow::Result<u64> {
        self.check()?;
        let ended = self.terminate().await?;
        anyhow::ensure!(ended.success(), "the ingress did not end well after SIGTERM: {ended}");
        self.start_again().await
    }

    async fn start_again(&mut self) -> anyhow::Result<u64> {
        self.started += 1;
        let log = log(&self.logs, self.started);
        let addresses = (self.address, self.health);
        self.child = spawn(&self.program, &self.place, addresses, (&self.config, &self.keys), &log)?;
        self.wait_ready().await?;
        Ok(1)
    }

    /// Tells it to stop, and how it ended.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let id = self.id()?.to_string();
        Command::new("kill").args(["-s", "TERM", &id]).status().await.context("no kill")?;
        let ended = tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await;
        Ok(ended
            .with_context(|| format!("the ingress did not end within {STOP_DEADLINE:?} of SIGTERM"))??)
    }

    /// The process.
    pub fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the ingress is gone")
    }

    /// Its resident memory, in MiB; `name`: `VmRSS` now, `VmHWM` at most so far.
    pub fn memory_mib(&self, name: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib: Option<u32> = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
        Ok(f64::from(kib.with_context(|| format!("no {name}"))?) / 1_024.0)
    }

    /// All that it has logged.
    pub fn said(&self) -> String {
        let logs = (1..=self.started).map(|number| log(&self.logs, number));
        logs.map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }
}

fn log(logs: &Path, number: usize) -> PathBuf {
    logs.join(format!("ingress-{number}.log"))
}

fn spawn(
    program: &Path,
    place: &Place,
    (address, health): (SocketAddr, SocketAddr),
    (config, keys): (&Path, &Path),
    log: &Path,
) -> anyhow::Result<Child> {
    workers::command(program, place)
        .arg("ingress")
        .args(["--listen", &address.to_string(), "--health-listen", &health.to_string()])
        .arg("--config")
        .arg(config)
        .env("PAYONCE_KEYS_FILE", keys)
        .env("PAYONCE_SIGNATURES", "required")
        .env("PAYONCE_RETRY_DELAY_MAX_MS", "500")
        .stderr(File::create(log).with_context(|| format!("cannot write {}", log.display()))?)
        .stdout(Stdio::null())
        .spawn()
        .context("payonce does not run")
}
