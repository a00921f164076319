//! `hostile`: somebody who can write to the queue and wants to mint money, in between real providers. Only what providers signed may be
//! applied; all else must be in quarantine for the right reason, each copy counted; and the workers' memory must stay flat.

mod audit;
mod noise;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use payonce::broker::{Confirm, Publisher};
use serde::Serialize;

use self::noise::Noise;
use crate::{
    cli::{Failure, HostileArgs},
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

/// Of each quarter of the messages.
type Quarters = [u64; 4];

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
        disorder: false,
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
    let own = workers::command(program, place).arg("audit").status().await.context("payonce does not run")?;
    audit.check("payonces_own_audit", (!own.success()).then(|| own.to_string()).into_iter().collect());
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

/// By the third quarter all that a worker keeps has its size: what is larger in the fourth grows with the messages. Nothing measured shows
/// nothing.
fn grown(memory_mib: Quarters) -> Option<String> {
    let [_, _, third, fourth] = memory_mib;
    let is_flat = fourth <= third + third / 8 + 8;
    (!is_flat || memory_mib.contains(&0)).then(|| format!("MiB at most, by quarter: {memory_mib:?}"))
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

/// The workers' resident sets, watched from outside.
struct Memory {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Quarters>,
}

impl Memory {
    fn watch(ids: Vec<u32>, settled: Arc<AtomicUsize>, total: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut quarters = Quarters::default();
            while !stopped.load(Ordering::Relaxed) {
                let quarter = settled.load(Ordering::Relaxed) * 4 / total.max(1);
                let largest = ids.iter().filter_map(|id| resident_kib(*id)).max().unwrap_or(0);
                if let Some(peak) = quarters.get_mut(quarter.min(3)) {
                    *peak = largest.div_ceil(1_024).max(*peak);
                }
                tokio::time::sleep(MEMORY_PAUSE).await;
            }
            quarters
        });
        Self { stop, task }
    }

    async fn stop(self) -> Quarters {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

fn resident_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
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

    #[test]
    fn memory_that_grows_with_the_messages_or_was_not_measured_is_found() {
        assert_eq!(grown([30, 60, 61, 62]), None);
        assert!(grown([30, 60, 90, 120]).is_some());
        assert!(grown([0, 0, 0, 0]).is_some());
    }

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
