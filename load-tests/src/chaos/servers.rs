//! Servers to be broken: PostgreSQL, Redis and RabbitMQ of a run's own, as `scripts/services` starts them, each in a folder of its
//! own, so that each can be killed, stopped and removed by itself.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/services");
/// The addresses of servers that run already, which must not be taken for the run's own.
const ADDRESSES: [&str; 3] = ["PAYONCE_DATABASE_URL", "PAYONCE_REDIS_URL", "PAYONCE_AMQP_URL"];

/// One server process with its data.
#[derive(Debug)]
pub struct Server {
    /// As `scripts/services` calls it.
    name: &'static str,
    folder: PathBuf,
}

impl Server {
    /// Starts `postgres`, `redis` or `rabbitmq` in a new folder `label` under `parent`.
    pub async fn start(name: &'static str, parent: &TempDir, label: &str) -> anyhow::Result<Self> {
        let server = Self { name, folder: parent.path().join(label) };
        server.script("start", &[name]).await?;
        Ok(server)
    }

    /// Starts a streaming standby of the PostgreSQL that answers on `port`.
    pub async fn start_standby(port: u16, parent: &TempDir, label: &str) -> anyhow::Result<Self> {
        let server = Self { name: "postgres", folder: parent.path().join(label) };
        server.script("standby", &[&port.to_string()]).await?;
        Ok(server)
    }

    /// Starts PgBouncer in session mode before the PostgreSQL on `port`. It drops the options with which a session begins.
    pub async fn start_pooler(port: u16, parent: &TempDir, label: &str) -> anyhow::Result<Self> {
        let server = Self { name: "pgbouncer", folder: parent.path().join(label) };
        server.script("pooler", &["session", &port.to_string()]).await?;
        Ok(server)
    }

    /// Keeps a copy of a PostgreSQL's data: a `snapshot` of its disk while it is killed, or a `standby`.
    pub async fn copy(&self, label: &str, how: &str) -> anyhow::Result<()> {
        self.script("copy", &[label, how]).await
    }

    /// Kills a PostgreSQL and starts it on that copy, on the same port.
    pub async fn restore(&self, label: &str) -> anyhow::Result<()> {
        self.script("restore", &[label]).await
    }

    pub fn port(&self) -> anyhow::Result<u16> {
        let file = self.folder.join(format!("{}.port", self.name));
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        text.trim().parse().context("not a port")
    }

    /// Ends it as a crash would.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.script("kill", &[self.name]).await
    }

    /// Whether anybody answers on its port.
    pub async fn answers(&self) -> anyhow::Result<bool> {
        Ok(TcpStream::connect(("127.0.0.1", self.port()?)).await.is_ok())
    }

    /// Ends it politely.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.script("stop", &[self.name]).await
    }

    /// Starts it again on the same port and data.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.script("start", &[self.name]).await
    }

    /// Ends it and removes its data.
    pub async fn clean(&self) -> anyhow::Result<()> {
        self.script("clean", &[]).await
    }

    /// Sends a signal to its process and all of that one's children, and says how many there were.
    pub async fn signal(&self, signal: &str) -> anyhow::Result<u64> {
        let family = family_of(self.process_id()?);
        signal_all(signal, &family).await?;
        Ok(family.len() as u64)
    }

    /// Sends a signal to its first process only.
    pub async fn signal_first(&self, signal: &str) -> anyhow::Result<()> {
        signal_all(signal, &[self.process_id()?]).await
    }

    fn process_id(&self) -> anyhow::Result<u32> {
        let text = std::fs::read_to_string(self.folder.join(format!("{}.pid", self.name)))?;
        text.split_whitespace().next().and_then(|id| id.parse().ok()).context("no process id")
    }

    /// Runs `rabbitmqctl` on this broker, and returns what it printed.
    pub async fn rabbitmqctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.output("rabbitmqctl", arguments).await
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        let Ok(folder) = std::fs::read_dir(self.folder.join("log")) else { return String::new() };
        let texts = folder.filter_map(|file| std::fs::read(file.ok()?.path()).ok());
        texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    async fn script(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.output(verb, arguments).await.map(drop)
    }

    async fn output(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(verb, arguments).output().await.context("scripts/services does not run")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("services {verb} {}: {said}{}", self.name, String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg(verb).args(arguments).env("PAYONCE_LOCAL_DIR", &self.folder).stdin(Stdio::null());
        ADDRESSES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort, also after a run that was interrupted: a stopped process must go on to be ended.
        if let Ok(id) = self.process_id() {
            let ids = family_of(id).into_iter().map(|id| id.to_string());
            drop(std::process::Command::new("kill").arg("-CONT").args(ids).stderr(Stdio::null()).status());
        }
        drop(self.command("clean", &[]).into_std().stdout(Stdio::null()).status());
    }
}

/// A process and all its descendants.
fn family_of(id: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let mut family = vec![id];
    family.extend(children.split_whitespace().filter_map(|id| id.parse().ok()).flat_map(family_of));
    family
}

/// `kill -SIGNAL ID…`; processes that are gone do not matter.
pub async fn signal_all(signal: &str, ids: &[u32]) -> anyhow::Result<()> {
    let ids = ids.iter().map(u32::to_string);
    let mut kill = Command::new("kill");
    kill.arg(format!("-{signal}")).args(ids).stderr(Stdio::null());
    kill.status().await.context("kill does not run")?;
    Ok(())
}
