//! Real worker processes: built, started, watched, stopped.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use crate::place::Place;

const STOP_DEADLINE: Duration = Duration::from_secs(60);
const LOG_LINES_SHOWN: usize = 15;

/// The payonce program: the one given, else the one beside this program, built first where cargo runs us.
pub async fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("where is this program?")?;
    let folder = own.parent().unwrap_or(Path::new("."));
    // Tests of this package lie one folder below.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let beside = folder.join("payonce");
    // `cargo run -p load-tests` builds only this package; cargo has let go of its lock by now. The tests' run has built it already, with other
    // features of its dependencies: to build it here would be to build all of those anew.
    let is_built = std::env::var_os("NEXTEST").is_some() && is_newer_than_its_sources(&beside);
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| !is_built) {
        let release = folder.ends_with("release");
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "payonce", "--bin", "payonce"]);
        build.args(release.then_some("--release")).stdout(Stdio::null());
        let status = build.status().await.context("cargo does not run")?;
        if !status.success() {
            bail!("cargo could not build payonce");
        }
    }
    if !beside.exists() {
        bail!("{} does not exist; build it, or name it with --payonce", beside.display());
    }
    Ok(beside)
}

/// What payonce is made of. One that is gone would look like one that has changed, and payonce be built anew by every run.
const SOURCES: [&str; 5] = ["src", "crates", "migrations", "Cargo.toml", "Cargo.lock"];

/// Whether a program was linked after the last change of what it is made of.
fn is_newer_than_its_sources(program: &Path) -> bool {
    let changed_at = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let Some(linked_at) = changed_at(program) else { return false };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut left: Vec<PathBuf> = SOURCES.map(|name| root.join(name)).into();
    while let Some(path) = left.pop() {
        if let Ok(folder) = path.read_dir() {
            let paths = folder.filter_map(|entry| Some(entry.ok()?.path()));
            left.extend(paths.filter(|path| !path.ends_with("tests")));
        } else if changed_at(&path).is_none_or(|at| at > linked_at) {
            return false;
        }
    }
    true
}

/// `payonce` with a place's addresses.
pub fn command(program: &Path, place: &Place) -> Command {
    let mut command = Command::new(program);
    command
        .env("PAYONCE_DATABASE_URL", &place.database_url)
        .env("PAYONCE_REDIS_URL", &place.redis_url)
        .env("PAYONCE_AMQP_URL", &place.amqp_url)
        .env("PAYONCE_PREFIX", &place.prefix)
        .env("PAYONCE_SIGNATURES", if place.signing().is_some() { "required" } else { "off" })
        .env_remove("PAYONCE_KEYS_FILE")
        // The audit compares bodies byte for byte, and some of a million random ones look like card numbers.
        .env("PAYONCE_MASK_CARDS", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if let Some(signing) = place.signing() {
        command.env("PAYONCE_KEYS_FILE", signing.path());
    }
    if let Some(wait) = place.order_wait {
        command.env("PAYONCE_ORDER_WAIT_MS", wait.as_millis().to_string());
    }
    command
}

/// Brings the place's schema up to date.
pub async fn migrate(program: &Path, place: &Place) -> anyhow::Result<()> {
    let status = command(program, place).arg("migrate").status().await.context("payonce does not run")?;
    if !status.success() {
        bail!("payonce migrate failed: {status}");
    }
    Ok(())
}

/// What `payonce audit` says of the place where it does not say yes.
pub async fn audit(program: &Path, place: &Place) -> anyhow::Result<Vec<String>> {
    let status = command(program, place).arg("audit").status().await.context("payonce does not run")?;
    Ok((!status.success()).then(|| format!("payonce audit: {status}")).into_iter().collect())
}

/// The worker processes of a run. Killed when dropped.
pub struct Workers {
    children: Vec<(Child, PathBuf)>,
}

impl Workers {
    /// Starts `count` workers, each with a log in `logs`.
    pub fn start(count: u32, program: &Path, place: &Place, logs: &Path) -> anyhow::Result<Self> {
        Self::start_each(count, logs, || command(program, place))
    }

    fn start_each(count: u32, logs: &Path, command: impl Fn() -> Command) -> anyhow::Result<Self> {
        let mut children = Vec::new();
        for number in 1..=count {
            let log = logs.join(format!("worker-{number}.log"));
            let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
            let child = command().arg("worker").stderr(file).spawn().context("payonce does not run")?;
            children.push((child, log));
        }
        Ok(Self { children })
    }

    /// The same, with a keys file of the run's own that they insist on.
    pub fn start_with_keys(
        count: u32,
        program: &Path,
        place: &Place,
        logs: &Path,
        keys: &Path,
    ) -> anyhow::Result<Self> {
        Self::start_each(count, logs, || {
            let mut worker = command(program, place);
            worker.env("PAYONCE_KEYS_FILE", keys).env("PAYONCE_SIGNATURES", "required");
            worker
        })
    }

    /// Their process ids.
    pub fn ids(&self) -> Vec<u32> {
        self.children.iter().filter_map(|(child, _)| child.id()).collect()
    }

    /// Fails where one has ended by itself, with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for (child, log) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("a worker ended by itself: {status}\n{}", last_lines(log));
            }
        }
        Ok(())
    }

    /// Asks each to stop, and fails where one does not drain and end with exit code 0.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for (child, _) in &self.children {
            if let Some(id) = child.id() {
                let status = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await?;
                if !status.success() {
                    bail!("worker {id} cannot be told to stop");
                }
            }
        }
        let started = Instant::now();
        for (child, log) in &mut self.children {
            let left = STOP_DEADLINE.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, child.wait()).await {
                Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => {}
                Ok(status) => {
                    bail!("a worker did not end well after SIGTERM: {}\n{}", status?, last_lines(log))
                }
                Err(_) => {
                    bail!("a worker did not end within {STOP_DEADLINE:?} after SIGTERM\n{}", last_lines(log))
                }
            }
        }
        Ok(())
    }
}

pub fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    format!("{}:\n{}", log.display(), lines.get(from..).unwrap_or_default().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_that_is_looked_at_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let gone: Vec<&str> = SOURCES.into_iter().filter(|name| !root.join(name).exists()).collect();
        assert!(gone.is_empty(), "{gone:?}");
    }
}
