//! `hostile`: somebody who can write to the queue and wants to mint money, in between real providers. Only what providers signed may be
//! applied; all else must be in quarantine for the right reason, each copy counted; and the workers' memory must stay flat.

mod audit;
mod noise;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use payonce::broker::{Confirm, Publisher};
use serde::Serialize;

use self::noise::Noise;
use crate::{
    failure::Failure,
    ids::Ids,
    memory::{Memory, Quarters, grown},
    place::Place,
    plan::{Options, Plan},
    publish::Sender,
    replay,
    signing::Signing,
    workers::{self, Workers},
};

/// Hostile messages that may wait for their confirm: few, because some have 256 KiB.
const UNCONFIRMED_MAX: usize = 200;
/// How far publishers may be ahead of the workers, in messages: what lies in the queue costs the broker's memory.
const AHEAD_MAX: usize = 20_000;
const MEMORY_PAUSE: Duration = Duration::from_millis(200);

/// The figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    hostile: u32,
    valid_published: usize,
    applied: u64,
    quarantined_by_reason: BTreeMap<String, u64>,
    duplicates: BTreeMap<String, u64>,
    seconds: f64,
    per_second: f64,
    /// The largest resident set of a worker, in MiB, while each quarter of the messages was settled.
    worker_memory_mib: Quarters,
    /// `"ok"`, or the violations.
    audit: serde_json::Value,
    seed: u64,
}

/// What `hostile` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct HostileArgs {
    /// Hostile messages.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub messages: u32,
    /// Callbacks of real providers in between, copies included.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub events: u32,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub workers: u32,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// One JSON object in place of a table.
    #[arg(long)]
    pub json: bool,
    /// The payonce program. Without it: the one beside this program, built first where cargo runs this.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

pub async fn run(args: &HostileArgs) -> Result<(), Failure> {
    let plan = Arc::new(Plan::new(&options(args)).map_err(Failure::Usage)?);
    let program = workers::program(args.payonce.as_deref()).await?;
    let signing = Arc::new(Signing::new()?);
    let place = Place::prepare(false, args.seed).await?.signed_by(Some(Arc::clone(&signing)));
    let result = tokio::select! {
        result = hostile(args, &plan, &signing, &program, &place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    place.remove().await?;
    let report = result?;
    report.print(args.json)?;
    if report.audit == "ok" { Ok(()) } else { Err(Failure::No("audit failed".to_owned())) }
}

/// What the providers' part of the plan is made from.
fn options(args: &HostileArgs) -> Options {
    Options {
        events: args.events as usize,
        duplicates: 0.2,
        accounts: (args.events / 10).max(1),
        hot: 0.2,
        poison: 0.0,
        // Each callback by itself: every order ends in the same money, and nothing has to wait for a part of the run.
        lifecycle: 0.0,
        transfers: false,
        disorder: false,
        ids: Ids::Random,
        prefill: false,
        signatures: true,
        seed: args.seed,
    }
}

async fn hostile(
    args: &HostileArgs,
    plan: &Arc<Plan>,
    signing: &Arc<Signing>,
    program: &Path,
    place: &Place,
) -> Result<Report, Failure> {
    workers::migrate(program, place).await?;
    let mut database = place.connect().await?;
    let logs =
        tempfile::Builder::new().prefix("payonce-load-tests-").tempdir().context("no folder for logs")?;
    let mut sender = Sender::open(place, Arc::clone(plan), 0).await?;
    let mut workers = Workers::start(args.workers, program, place, logs.path())?;
    let started = Instant::now();
    sender.send(|plan| &plan.opening).await?;
    replay::wait_settled(&mut database, &mut workers, plan.opening.len()).await?;

    let settled = Arc::new(AtomicUsize::new(0));
    let total = plan.published() + args.messages as usize;
    let memory = Memory::watch(workers.ids(), Arc::clone(&settled), total);
    let noise = Noise::new(args.seed, Arc::clone(plan), Arc::clone(signing));
    let flood = flood(place, &noise, args.messages, &settled);
    let honest = async {
        sender.send(|plan| &plan.main).await?;
        sender.send(|plan| &plan.late).await
    };
    let watch = watch_settled(place, &settled, total);
    tokio::select! {
        published = async { tokio::try_join!(flood, honest) } => { published?; }
        // Ends only where the database does not answer.
        watched = watch => watched?,
    }
    let counting = watch_settled(place, &settled, total);
    tokio::select! {
        waited = replay::wait_settled(&mut database, &mut workers, total) => waited?,
        watched = counting => watched?,
    }
    let seconds = started.elapsed().as_secs_f64();
    let worker_memory_mib = memory.stop().await;
    workers.stop().await?;
    sender.finish();

    let mut audit = audit::run(&mut database, plan, &noise, args.messages).await?;
    let names = place.names();
    audit.check("queues_are_empty", replay::messages_left(place, &[&names.queue, &names.dead_queue]).await?);
    audit.check("payonce_audit", workers::audit(program, place).await?);
    audit.check("memory_is_flat", grown(worker_memory_mib).into_iter().collect());
    let violations = audit.violations();
    #[expect(clippy::cast_precision_loss, reason = "at most 20 million messages")]
    let per_second = (total as f64 / seconds).round();
    Ok(Report {
        hostile: args.messages,
        valid_published: plan.published(),
        applied: audit.applied,
        quarantined_by_reason: audit.quarantined.clone(),
        duplicates: audit.duplicates.clone(),
        seconds: (seconds * 1_000.0).round() / 1_000.0,
        per_second,
        worker_memory_mib,
        audit: if violations.is_empty() { "ok".into() } else { violations.into() },
        seed: args.seed,
    })
}

/// Publishes all hostile messages, never far ahead of the workers.
async fn flood(place: &Place, noise: &Noise, messages: u32, settled: &AtomicUsize) -> Result<(), Failure> {
    let connection = place.broker().await?;
    let publisher = Publisher::open(&connection, &place.names()).await.context("no channel")?;
    let mut unconfirmed = std::collections::VecDeque::<Confirm>::new();
    for number in 0..messages {
        while number as usize > settled.load(Ordering::Relaxed) + AHEAD_MAX {
            tokio::time::sleep(MEMORY_PAUSE).await;
        }
        let message = noise.message(number)?;
        let sent = publisher.publish_signed(&message.routing_key, &message.body, &message.headers);
        unconfirmed.push_back(sent.await.context("a message is not written")?);
        if unconfirmed.len() >= UNCONFIRMED_MAX
            && let Some(confirm) = unconfirmed.pop_front()
        {
            confirm.wait().await.context("a message is not confirmed")?;
        }
    }
    for confirm in unconfirmed {
        confirm.wait().await.context("a message is not confirmed")?;
    }
    Ok(())
}

/// Keeps the count of settled messages fresh. Does not end by itself.
async fn watch_settled(place: &Place, settled: &AtomicUsize, total: usize) -> Result<(), Failure> {
    let mut database = place.connect().await?;
    loop {
        settled.store(replay::settled(&mut database).await?.min(total), Ordering::Relaxed);
        tokio::time::sleep(MEMORY_PAUSE).await;
    }
}

impl Report {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["hostile", ""]);
        let mut line = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        line("hostile messages", self.hostile.to_string());
        line("callbacks of providers", self.valid_published.to_string());
        line("applied", self.applied.to_string());
        for (reason, n) in &self.quarantined_by_reason {
            line(&format!("  {reason}"), n.to_string());
        }
        for (layer, n) in &self.duplicates {
            line(&format!("  copies, by {layer}"), n.to_string());
        }
        line("messages per second", format!("{:.0}", self.per_second));
        line("memory of a worker, MiB, by quarter", format!("{:?}", self.worker_memory_mib));
        println!("{table}");
        match self.audit.as_array() {
            Some(violations) => violations.iter().for_each(|violation| println!("FAILED  {violation}")),
            None => println!("audit: {}", self.audit),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::harms::OPEN_UP, hostile::audit::HARMS};

    #[tokio::test]
    async fn every_check_of_the_hostile_audit_finds_the_harm_it_is_there_for() {
        let seed = 43;
        println!("seed {seed}");
        let args = HostileArgs { messages: 600, events: 200, workers: 1, seed, json: false, payonce: None };
        let program = workers::program(None).await.unwrap();
        let signing = Arc::new(Signing::new().unwrap());
        let plan = Arc::new(Plan::new(&options(&args)).unwrap());
        let place = Place::prepare(false, seed).await.unwrap().signed_by(Some(Arc::clone(&signing)));
        let report = hostile(&args, &plan, &signing, &program, &place).await.unwrap();
        // So few messages may be gone before anybody has looked at the memory.
        let violations = report.audit.as_array().cloned().unwrap_or_default();
        let others = violations.iter().filter(|one| !one.to_string().contains("memory_is_flat"));
        assert_eq!(others.count(), 0, "{violations:?}");
        let noise = Noise::new(seed, Arc::clone(&plan), signing);
        let mut database = place.connect().await.unwrap();
        for (check, harm) in HARMS {
            for sql in ["begin", OPEN_UP] {
                sqlx::raw_sql(sql).execute(&mut database).await.expect(sql);
            }
            let harmed = sqlx::raw_sql(harm).execute(&mut database).await.expect(harm);
            assert!(harmed.rows_affected() > 0, "{harm}");
            let found = audit::run(&mut database, &plan, &noise, args.messages).await.unwrap();
            assert!(found.failed().contains(&check), "{harm}: {check} is not among {:?}", found.failed());
            sqlx::raw_sql("rollback").execute(&mut database).await.unwrap();
        }
        drop(database);
        place.remove().await.unwrap();
    }
}
