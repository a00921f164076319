//! `chaos`: load with copies, stories and bad messages, while a seeded schedule breaks workers, servers and links; then everything is
//! healed and drained, and audited against the plan.

mod args;
mod beside;
mod cache;
pub mod case_history;
mod database;
mod fault;
mod feeds;
pub mod inspect;
mod means;
mod missing;
mod offer;
mod operators;
mod pool;
mod progress;
mod proxy;
mod schedule;
mod servers;
mod site;
mod webhooks;
mod witness;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
pub use args::ChaosArgs;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
pub use fault::Fault;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::{
    feeds::{FeedReport, Feeds},
    missing::{is_lost, missing, send_lost_again},
    offer::{Offer, Published, publish_all},
    pool::Pool,
    progress::{settled, wait_for, wait_for_progress, wait_until_quiet},
    schedule::{Coming, Schedule},
    site::Site,
};
use crate::{
    arguments::ReplayArgs,
    audit::{self, Audit, Copies},
    body,
    failure::Failure,
    ids::Ids,
    plan::{Plan, Sending},
    replay,
    report::Report,
    signing::Signing,
    workers,
};

const POLL_PAUSE: Duration = Duration::from_millis(20);
/// After so long without one more callback settled, workers have not recovered.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(90);
/// Faults that have time in a run at most, with an eye on what the plan must allow for.
const FAULT_SECONDS_MIN: u64 = 2;

/// What a chaos run reports: what `replay` does, and the faults.
#[derive(Debug, Serialize)]
struct ChaosReport {
    #[serde(flatten)]
    report: Report,
    /// Name to how often it really happened.
    faults: BTreeMap<String, u64>,
    /// `NAME beside NAME` to how often the first was felt while the second came, and `NAME before recovery from NAME` to how often that was.
    together: BTreeMap<String, u64>,
    /// Name to seconds from the fault's end until every lane of every worker had settled a further callback, the longest.
    recovery_seconds: BTreeMap<String, f64>,
    /// Confirmed messages, copies that outages made necessary included.
    published_in_all: u64,
    /// Callbacks that asynchronous failovers lost and that were applied when they were sent again.
    lost_and_sent_again: usize,
    /// Largest resident size of any worker, in MiB.
    worker_peak_mib: u64,
    /// What a reader of the feed has met; nothing where the run has no feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<FeedReport>,
}

pub async fn run(args: &ChaosArgs) -> Result<(), Failure> {
    if args.list_faults {
        Fault::value_variants().iter().for_each(|fault| println!("{}", fault.name()));
        return Ok(());
    }
    if args.ingress {
        return webhooks::run(args).await;
    }
    if let Some(fault) = args.fault.iter().find(|fault| fault.is_of_ingress()) {
        return Err(Failure::Usage(format!("--fault {}: only with --ingress", fault.name())));
    }
    let has_feed = args.feed || args.fault.iter().any(|fault| fault.needs_feed());
    let mut schedule = Schedule::new(args.seed, &args.fault, has_feed, args.together);
    let faults_max = usize::try_from(u64::from(args.seconds) / FAULT_SECONDS_MIN).unwrap_or(1).max(1);
    let shape = shape(args);
    let plan = Arc::new(Plan::new(&replay::options(&shape)).map_err(Failure::Usage)?);
    let program = workers::program(args.payonce.as_deref()).await?;
    let has_small_disk = schedule.has_within(Fault::DiskFull, faults_max);
    eprintln!("chaos: seed {}, {} s; starting servers", args.seed, args.seconds);
    let mut site = Site::start(has_small_disk, shape.signing()?).await?;
    let result = tokio::select! {
        result = chaos(args, has_feed, &shape, &plan, &program, &mut site, &mut schedule) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    let (report, audit) = result?;
    report.print(args.json, &audit)?;
    match audit.failed().as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("seed {}: audit failed: {}", args.seed, failed.join(", ")))),
    }
}

/// How long the plan lasts beyond the last moment at which a fault may begin, in seconds. When all of it is out only copies keep the load up, which write
/// no row and lock no account: a fault that is felt by new rows would have nothing to hold up.
const PLAN_BEYOND_S: u32 = 15;

/// The plan of a chaos run, as a replay's.
fn shape(args: &ChaosArgs) -> ReplayArgs {
    ReplayArgs {
        events: args.rate.saturating_mul(args.seconds.saturating_add(PLAN_BEYOND_S)).max(1_000),
        duplicates: 0.3,
        accounts: 200,
        hot: 0.2,
        poison: 0.03,
        lifecycle: 0.4,
        transfers: false,
        disorder: true,
        ids: Ids::Random,
        workers: args.workers,
        rate: args.rate,
        prefill: false,
        seed: args.seed,
        json: args.json,
        signatures: args.signatures.clone(),
        in_place: false,
        keep: false,
        payonce: args.payonce.clone(),
    }
}

async fn chaos(
    args: &ChaosArgs,
    has_feed: bool,
    shape: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
    site: &mut Site,
    schedule: &mut Schedule,
) -> Result<(ChaosReport, Audit), Failure> {
    site.create_database().await?;
    let direct = site.direct()?;
    workers::migrate(program, &direct).await?;
    case_history::keep_first_transactions(&mut site.connect().await?).await?;
    let published = Arc::new(Published::new(Arc::clone(plan)));
    publish_all(&published, &direct, &plan.opening).await?;
    let mut pool = Pool::start(args.workers as usize, program.to_owned(), site.place())?;
    if has_feed {
        pool.feeds = Some(Feeds::start(program.to_owned(), site).await?);
    }
    // Nothing breaks before something was settled.
    let opened = "select count(*) from accounts";
    wait_for(site, &mut pool, opened, i64::from(plan.own_from)).await?;

    let started = Instant::now();
    let offer = Offer::start(Arc::clone(&published), direct, plan.main.clone(), args.rate);
    let mut happened: BTreeMap<String, u64> = BTreeMap::new();
    let mut together: BTreeMap<String, u64> = BTreeMap::new();
    let mut recovery: BTreeMap<String, f64> = BTreeMap::new();
    // Faults that nobody has recovered from yet.
    let mut recent: Vec<String> = Vec::new();
    let mut rows_seen = inspect::RowVersions::new();
    let mut cases_seen = case_history::Constants::new();
    let (mut sent_again, mut repeats_nothing) = (0, true);
    let mut due = if args.fault.is_empty() { usize::MAX } else { args.fault.len() };
    while due > 0
        && (!args.fault.is_empty() || started.elapsed() < Duration::from_secs(u64::from(args.seconds)))
    {
        due -= 1;
        if recent.is_empty() {
            wait_for_progress(site, &mut pool).await?;
        }
        let Coming { fault, hold, beside, is_hasty } = schedule.next();
        let name = fault.name();
        let with = beside.map_or_else(String::new, |beside| format!(", {} beside it", beside.name()));
        eprintln!("chaos: {:6.1} s  {name}, {} ms{with}", started.elapsed().as_secs_f64(), hold.as_millis());
        if fault == Fault::QueueDeleted {
            // What is in a queue that is deleted is gone: that is the broker's doing, and not what this is about.
            offer.pause().await;
            wait_until_settled(site, &mut pool, &published).await?;
        }
        repeats_nothing &= fault.repeats_nothing() && beside.is_none();
        let begun = beside.map(|beside| (beside, beside.begin(site)));
        let times = fault.inject(site, &mut pool, hold).await.with_context(|| name.clone())?;
        if let Some((beside, begun)) = begun {
            let felt = beside.end(site, begun);
            *together.entry(format!("{} beside {name}", beside.name())).or_default() += felt;
        }
        site.heal();
        if let Some(feeds) = &pool.feeds {
            feeds.moved(site)?;
        }
        offer.go_on();
        if fault.loses_commits() {
            // As providers do, who have their yes from a history that is no more: before anybody discards what waits for it.
            sent_again += send_lost_again(site, &published).await?;
        }
        if times == 0 {
            return Err(Failure::No(format!("seed {}: void: {name} had no effect", args.seed)));
        }
        if let Some(before) = recent.last() {
            *together.entry(format!("{name} before recovery from {before}")).or_default() += 1;
        }
        if fault.loses_commits() {
            // Ids of cases that are gone belong to others by now.
            cases_seen.clear();
        }
        *happened.entry(name.clone()).or_default() += times;
        recent.push(name);
        if is_hasty && due > 0 {
            continue;
        }
        recover(site, &mut pool, &mut recent, &mut recovery).await?;
        let mut database = site.connect().await?;
        inspect::add_row_versions(&mut rows_seen, &mut database).await?;
        case_history::add_constants(&mut cases_seen, &mut database).await?;
    }
    recover(site, &mut pool, &mut recent, &mut recovery).await?;
    together.retain(|_, felt| *felt > 0);
    offer.finish().await?;
    // Late ones contradict what was before them.
    let mut lost = settle_all(site, &mut pool, &published).await?;
    publish_all(&published, &site.direct()?, &plan.late).await?;
    let late = settle_all(site, &mut pool, &published).await?;
    lost.sent_again += late.sent_again;
    lost.unexplained.extend(late.unexplained);
    let seconds = started.elapsed().as_secs_f64();
    wait_until_nothing_waits(site, &mut pool).await?;
    let workers_left = inspect::sessions(&mut site.connect().await?).await?;
    let feeds = pool.feeds.take();
    let (mut logs, worker_peak_mib) = pool.stop().await?;

    let copies = published.confirmed.load(Ordering::Relaxed).saturating_sub(plan.distinct.len() as u64);
    // What a failover lost was counted by the rows that it lost.
    let copies = match (repeats_nothing, site.lost.is_empty()) {
        (true, _) => Copies::Exactly(copies),
        (false, true) => Copies::AtLeast(copies),
        (false, false) => Copies::AtLeast(0),
    };
    let at_us: Vec<u64> = published.at_us.iter().map(|at| at.load(Ordering::Relaxed)).collect();
    let mut database = site.connect().await?;
    let mut audit = audit::run(&mut database, plan, &at_us, copies).await?;
    let direct = site.direct()?;
    let names = direct.names();
    let left = replay::messages_left(&direct, &[&names.queue, &names.dead_queue]).await?;
    audit.check("queues_are_empty", left);
    audit.check("no_session_is_left_in_a_transaction", workers_left);
    audit.check("only_a_failover_loses_commits", lost.unexplained);
    let changed = inspect::changed_rows(&mut database, rows_seen, &site.lost).await?;
    audit.check("rows_are_never_changed", changed);
    let changed = case_history::changed_cases(&mut database, cases_seen).await?;
    audit.check("cases_keep_what_came", changed);
    let (acked, returned) = site.witness.take();
    let twins = inspect::twins(plan);
    let lost_rows = inspect::LostRows { keys: &site.lost, bodies: &site.lost_bodies };
    let early = inspect::acknowledged_early(&mut database, acked, &lost_rows, &twins, &site.held).await?;
    audit.check("nothing_is_acknowledged_before_its_commit", early);
    audit.check("nothing_is_returned_to_the_queue", inspect::any("messages were returned", returned));
    let mut feed = None;
    if let Some(feeds) = feeds {
        logs.push_str(&feeds.said());
        feed = Some(FeedReport::new(&feeds.finish(site, &mut audit).await?));
    }
    inspect::redis(&direct, &mut database, &site.lost, &mut audit).await?;
    let keys = direct.signing().map(Signing::secrets).unwrap_or_default();
    audit.check("logs_hold_no_password", inspect::secrets(&logs, &keys));
    let report = ChaosReport {
        report: Report::new(shape, plan, &audit, seconds),
        faults: happened,
        together,
        recovery_seconds: recovery,
        published_in_all: published.confirmed.load(Ordering::Relaxed),
        lost_and_sent_again: sent_again + lost.sent_again,
        worker_peak_mib,
        feed,
    };
    Ok((report, audit))
}

/// Waits until workers go on after the faults that came since they last did, and says of each how long that took.
async fn recover(
    site: &Site,
    pool: &mut Pool,
    recent: &mut Vec<String>,
    recovery: &mut BTreeMap<String, f64>,
) -> anyhow::Result<()> {
    if recent.is_empty() {
        return Ok(());
    }
    let seconds =
        wait_for_progress(site, pool).await.with_context(|| format!("after {}", recent.join(", ")))?;
    for name in recent.drain(..) {
        let longest = recovery.entry(name).or_default();
        *longest = longest.max((seconds * 100.0).round() / 100.0);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Lost {
    sent_again: usize,
    /// Callbacks that are nowhere, though no failover lost them.
    unexplained: Vec<String>,
}

/// Waits until all that the broker has confirmed is settled: each distinct callback stored, each copy counted, no message left. Returns
/// what is not stored when nothing more happens.
async fn wait_until_settled(site: &Site, pool: &mut Pool, published: &Published) -> anyhow::Result<Vec<u32>> {
    let mut progressed = (None, Instant::now());
    loop {
        wait_until_quiet(site).await?;
        pool.check()?;
        let now = settled(&mut None, site).await;
        let missing = missing(site, published).await?;
        let confirmed = published.confirmed.load(Ordering::Relaxed) + site.beyond_plan;
        let confirmed = i64::try_from(confirmed).unwrap_or(i64::MAX);
        // What a failover lost was counted by the rows that it lost.
        let is_counted = !site.lost.is_empty() || now >= Some(confirmed);
        if missing.iter().all(|one| is_lost(site, &published.plan, *one))
            && is_counted
            && is_queue_empty(site).await?
        {
            return Ok(missing);
        }
        if now != progressed.0 {
            progressed = (now, Instant::now());
        }
        if progressed.1.elapsed() > RECOVERY_DEADLINE {
            return Ok(missing);
        }
    }
}

async fn is_queue_empty(site: &Site) -> anyhow::Result<bool> {
    let direct = site.direct()?;
    let left = replay::messages_left(&direct, &[&direct.names().queue]).await;
    Ok(left.map_err(|failure| anyhow::anyhow!("{failure:?}"))?.is_empty())
}

/// Waits until every distinct callback is somewhere. What a failover lost is sent again, as its provider would.
async fn settle_all(site: &Site, pool: &mut Pool, published: &Published) -> anyhow::Result<Lost> {
    let mut lost = Lost::default();
    for is_last in [false, true] {
        let missing = wait_until_settled(site, pool, published).await?;
        let mut sendings = Vec::new();
        for one in missing {
            if is_lost(site, &published.plan, one) && !is_last {
                sendings.push(Sending { distinct: one, way: None });
            } else {
                let key = body::key(&published.plan, &published.plan.distinct[one as usize]);
                lost.unexplained.push(format!("{key:?} was confirmed by the broker, and is nowhere"));
            }
        }
        if sendings.is_empty() {
            break;
        }
        lost.sent_again += sendings.len();
        publish_all(published, &site.direct()?, &sendings).await?;
    }
    Ok(lost)
}

/// What waits for money waits as long as `order_wait_ms` says.
async fn wait_until_nothing_waits(site: &Site, pool: &mut Pool) -> anyhow::Result<()> {
    let mut database = site.connect().await?;
    let started = Instant::now();
    while replay::left_to_sweep(&mut database).await? > 0 && started.elapsed() < replay::waiting_deadline() {
        pool.check()?;
        sleep(POLL_PAUSE).await;
    }
    Ok(())
}

impl ChaosReport {
    fn print(&self, json: bool, audit: &Audit) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        self.report.print(false, audit)?;
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
            "fault",
            "times it happened",
            "recovered after, s",
        ]);
        for (name, times) in &self.faults {
            let seconds = self.recovery_seconds.get(name).copied().unwrap_or_default();
            table.add_row([name.clone(), times.to_string(), format!("{seconds:.2}")]);
        }
        for column in 1..=2 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{table}");
        self.together.iter().for_each(|(what, times)| println!("{what}: {times}"));
        println!(
            "published in all: {}; lost by failovers and sent again: {}; a worker's peak: {} MiB",
            self.published_in_all, self.lost_and_sent_again, self.worker_peak_mib
        );
        if let Some(feed) = &self.feed {
            println!(
                "{} rows read from the feed; {} copies, {} came early and again, {} of a history that was over, {} replaced by another \
                 history",
                feed.rows, feed.copies, feed.early, feed.outdated, feed.replaced
            );
        }
        Ok(())
    }
}
