//! `compare`: payonce, the textbook consumer and the ceilings in one run, in turn, on the same plan; ratios of medians, with their spread.
//!
//! Each run has a fresh database and queue, filled before its clock starts, and ends with an audit. The rounds are interleaved, so
//! that whatever else the machine does meets all of them. Whoever can be tuned by how much it does at once is measured with several
//! values first, on a quarter of the callbacks, and goes on with the fastest.

mod args;
mod ceilings;
mod plain;
mod ratio;
mod rules;
mod textbook;

use std::{collections::BTreeMap, path::Path, process::Stdio, sync::Arc};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

pub use self::args::CompareArgs;
use self::{ratio::Ratio, textbook::Take};
use crate::{
    arguments::ReplayArgs,
    audit::{self, Audit},
    books::EventQueue,
    failure::Failure,
    place::Place,
    plan::Plan,
    publish::{Sender, now_us},
    replay,
    report::Report,
    workers,
};

/// The part of the callbacks with which a width is chosen, and at least so many.
const SWEEP_PART: u32 = 4;
const SWEEP_EVENTS_MIN: u32 = 2_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// Itself.
    Payonce,
    /// Itself, with nothing signed or verified.
    SignaturesOff,
    /// Itself, with `payonce feed` beside it and a queue bound for all of its events. Only where it is asked for.
    FeedRunning,
    Textbook,
    TextbookSequential,
    TextbookBatched,
    Drain,
    SqlOnly,
    PlainSql,
}

impl Runner {
    const ALL: [Self; 9] = [
        Self::Payonce,
        Self::SignaturesOff,
        Self::FeedRunning,
        Self::Textbook,
        Self::TextbookSequential,
        Self::TextbookBatched,
        Self::Drain,
        Self::SqlOnly,
        Self::PlainSql,
    ];

    /// How much it can do at once: messages, transactions, consumers, lanes or connections. The fastest on this machine counts.
    fn widths(self) -> &'static [u16] {
        match self {
            Self::Payonce | Self::SignaturesOff | Self::FeedRunning | Self::TextbookSequential => &[1],
            Self::Textbook => &[8, 16, 32, 64],
            Self::TextbookBatched | Self::Drain => &[1, 2, 4],
            Self::SqlOnly | Self::PlainSql => &[1, 2, 4, 8],
        }
    }

    fn label(self, width: u16) -> String {
        match self {
            Self::Payonce => "payonce".to_owned(),
            Self::SignaturesOff => "payonce, signatures off".to_owned(),
            Self::FeedRunning => "payonce, feed running".to_owned(),
            Self::Textbook => format!("textbook consumer, {width} at once"),
            Self::TextbookSequential => "textbook consumer, one at a time".to_owned(),
            Self::TextbookBatched => {
                format!("textbook consumer, 500 in one transaction, {width} at once")
            }
            Self::Drain => format!("ceiling: drain the queue, {width} consumers"),
            Self::SqlOnly => format!("ceiling: payonce's SQL alone, {width} lanes"),
            Self::PlainSql => format!("ceiling: rows and accounts in plain SQL, {width} connections"),
        }
    }

    /// Only payonce verifies anything.
    fn shape(self, shape: &ReplayArgs) -> ReplayArgs {
        let signatures = match self {
            Self::Payonce | Self::FeedRunning => shape.signatures.clone(),
            Self::SignaturesOff
            | Self::Textbook
            | Self::TextbookSequential
            | Self::TextbookBatched
            | Self::Drain
            | Self::SqlOnly
            | Self::PlainSql => "off".to_owned(),
        };
        ReplayArgs { signatures, ..shape.clone() }
    }
}

/// Per second, by how much was done at once.
type Swept = BTreeMap<u16, f64>;

/// One runner's figures: those of its median round.
#[derive(Debug, Serialize)]
struct Median {
    #[serde(flatten)]
    report: Report,
    /// Per second, of every round.
    rounds: Vec<f64>,
    /// How much it did at once.
    at_once: u16,
    /// With what that was chosen, where it was.
    swept: Swept,
}

#[derive(Debug, Serialize)]
struct Comparison {
    runs: BTreeMap<Runner, Median>,
    /// payonce's rate over that of each other run.
    ratios: BTreeMap<Runner, f64>,
    /// The same, with its spread over the rounds.
    spreads: BTreeMap<Runner, Ratio>,
    /// Those whose spread is larger than what they claim: the table does not print them.
    not_shown: Vec<Runner>,
}

pub async fn run(args: &CompareArgs) -> Result<(), Failure> {
    let shape = args.shape();
    let plan = Arc::new(Plan::new(&replay::options(&shape)).map_err(Failure::Usage)?);
    let program = workers::program(args.payonce.as_deref()).await?;
    if shape.rate > 0 && shape.lifecycle > 0.0 {
        return Err(Failure::Usage(
            "--rate: not with payments (--lifecycle), which need their accounts opened before: use replay --rate".to_owned(),
        ));
    }
    let runners = if shape.prefill { &Runner::ALL[..] } else { &[Runner::Payonce, Runner::Textbook][..] };
    let is_wanted = |runner: &Runner| match runner {
        Runner::Payonce => true,
        _ if !args.against.is_empty() => args.against.contains(runner),
        Runner::SignaturesOff => shape.signatures == "required",
        Runner::FeedRunning => false,
        Runner::Textbook
        | Runner::TextbookSequential
        | Runner::TextbookBatched
        | Runner::Drain
        | Runner::SqlOnly
        | Runner::PlainSql => true,
    };
    let runners: Vec<Runner> = runners.iter().copied().filter(is_wanted).collect();
    let measured = async {
        let mut widths: BTreeMap<Runner, (u16, Swept)> = BTreeMap::new();
        for runner in runners.iter().copied() {
            widths.insert(runner, sweep(runner, args, &program).await?);
        }
        let mut reports: BTreeMap<Runner, Vec<Report>> = BTreeMap::new();
        for round in 1..=args.rounds {
            for (runner, (width, _)) in &widths {
                eprintln!("round {round} of {}: {}", args.rounds, runner.label(*width));
                let report = measure(*runner, *width, &shape, &plan, &program).await?;
                eprintln!("  {:.0} per second, audit {}", report.per_second(), report.audit());
                reports.entry(*runner).or_default().push(report);
            }
        }
        Ok::<_, Failure>((widths, reports))
    };
    let (mut widths, reports) = tokio::select! {
        measured = measured => measured?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::No("interrupted".to_owned())),
    };
    let runs = reports.into_iter().map(|(runner, reports)| {
        let (at_once, swept) = widths.remove(&runner).unwrap_or_default();
        (runner, Median::new(reports, at_once, swept))
    });
    let comparison = Comparison::new(runs.collect());
    comparison.print(args.json)?;
    let failed: Vec<String> = comparison
        .runs
        .iter()
        .filter(|(_, run)| !run.report.is_ok())
        .map(|(runner, run)| runner.label(run.at_once))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::No(format!("audit failed: {}", failed.join(", ")))) }
}

/// How much this runner does at once: the width with which it was the fastest, once each, on fewer callbacks of the same shape.
async fn sweep(runner: Runner, args: &CompareArgs, program: &Path) -> Result<(u16, Swept), Failure> {
    let [width] = runner.widths() else {
        let events = (args.events / SWEEP_PART).max(SWEEP_EVENTS_MIN).min(args.events);
        let shape = CompareArgs { events, rate: 0, ..args.clone() }.shape();
        let plan = Arc::new(Plan::new(&replay::options(&shape)).map_err(Failure::Usage)?);
        let mut swept = Swept::new();
        for width in runner.widths() {
            eprintln!("which is the fastest: {}", runner.label(*width));
            let report = measure(runner, *width, &shape, &plan, program).await?;
            if !report.is_ok() {
                let label = runner.label(*width);
                return Err(Failure::No(format!("audit failed: {label}: {}", report.audit())));
            }
            eprintln!("  {:.0} per second", report.per_second());
            swept.insert(*width, report.per_second());
        }
        let fastest = swept.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or(1, |(width, _)| *width);
        return Ok((fastest, swept));
    };
    Ok((*width, Swept::new()))
}

/// One run in a place of its own, which is removed whatever happens.
async fn measure(
    runner: Runner,
    width: u16,
    shape: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
) -> Result<Report, Failure> {
    let place = Place::prepare(false, shape.seed).await?;
    let shape = &runner.shape(shape);
    let report = match runner {
        Runner::Payonce => {
            let place = place.clone().signed_by(shape.signing()?);
            replay::replay(shape, plan, program, &place).await.map(|(report, _)| report)
        }
        Runner::SignaturesOff => replay::replay(shape, plan, program, &place).await.map(|(report, _)| report),
        Runner::FeedRunning => {
            let place = place.clone().signed_by(shape.signing()?);
            with_feed(shape, plan, program, &place).await
        }
        Runner::Textbook
        | Runner::TextbookSequential
        | Runner::TextbookBatched
        | Runner::Drain
        | Runner::SqlOnly => other(runner, width, shape, plan, program, &place).await,
        Runner::PlainSql => plain_sql(width, shape, plan, program, &place).await,
    };
    place.remove().await?;
    report
}

/// payonce while a feed sends its rows to a queue, which nobody empties.
async fn with_feed(
    shape: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
    place: &Place,
) -> Result<Report, Failure> {
    workers::migrate(program, place).await?;
    let queue = EventQueue::declare(place).await?;
    let mut feed = workers::command(program, place)
        .arg("feed")
        .stderr(Stdio::null())
        .spawn()
        .context("payonce does not run")?;
    let (report, _) = replay::replay(shape, plan, program, place).await?;
    let sent: Option<i64> = sqlx::query_scalar("select sum(sent)::bigint from feeds")
        .fetch_one(&mut place.connect().await?)
        .await
        .context("feeds cannot be read")?;
    feed.kill().await.context("the feed cannot be ended")?;
    queue.remove(place).await?;
    match sent {
        Some(sent) if sent > 0 => Ok(report),
        Some(_) | None => Err(Failure::No("the feed sent nothing meanwhile".to_owned())),
    }
}

/// The rows that payonce makes of this plan, written once more by nobody's program.
async fn plain_sql(
    width: u16,
    shape: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
    place: &Place,
) -> Result<Report, Failure> {
    // Declares the queues, which `Place::remove` takes away.
    let _sender = Sender::open(place, Arc::clone(plan), 0).await?;
    workers::migrate(program, place).await?;
    let original = Place::prepare(false, shape.seed).await?;
    let rows = async {
        let _sender = Sender::open(&original, Arc::clone(plan), 0).await?;
        workers::migrate(program, &original).await?;
        ceilings::sql_only(&original, width, plan).await?;
        replay::sweep(program, &original).await?;
        Ok::<_, Failure>(plain::ledger_rows(&mut original.connect().await?).await?)
    };
    let rows = rows.await;
    original.remove().await?;
    let rows = rows?;
    let seconds = plain::write(place, width, rows.clone()).await?;
    let mut audit = Audit::default();
    audit.applied = rows.len() as u64;
    let differences = plain::differences(&mut place.connect().await?, &rows).await?;
    audit.check("rows_and_accounts_are_those_of_payonce", differences);
    Ok(Report::new(shape, plan, &audit, seconds))
}

/// Every runner but payonce and plain SQL.
async fn other(
    runner: Runner,
    width: u16,
    shape: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
    place: &Place,
) -> Result<Report, Failure> {
    workers::migrate(program, place).await?;
    // Declares the queues also where nothing is sent, since `Place::remove` takes them away.
    let mut sender = Sender::open(place, Arc::clone(plan), shape.rate).await?;
    if shape.prefill && runner != Runner::SqlOnly {
        sender.send_all().await?;
    }
    let started_us = now_us();
    let mut duplicates = BTreeMap::new();
    let seconds = match runner {
        Runner::SqlOnly => ceilings::sql_only(place, width, plan).await?,
        Runner::Drain => ceilings::drain(place, width, plan.published()).await?,
        Runner::Payonce
        | Runner::SignaturesOff
        | Runner::FeedRunning
        | Runner::PlainSql
        | Runner::Textbook
        | Runner::TextbookSequential
        | Runner::TextbookBatched => {
            // As many processes as payonce has would be as many consumers.
            let (consumers, take) = match runner {
                Runner::TextbookBatched => (shape.workers * u32::from(width), Take::Batch),
                Runner::Textbook
                | Runner::TextbookSequential
                | Runner::Payonce
                | Runner::SignaturesOff
                | Runner::FeedRunning
                | Runner::Drain
                | Runner::SqlOnly
                | Runner::PlainSql => (shape.workers, Take::Single(width)),
            };
            let publish = async {
                if !shape.prefill {
                    sender.send_all().await?;
                }
                Ok::<_, Failure>(())
            };
            let consume = async { Ok(textbook::run(place, consumers, take, plan.published()).await?) };
            let (_, (seconds, rejected)) = tokio::try_join!(publish, consume)?;
            duplicates = rejected;
            seconds
        }
    };
    let mut published_at_us = sender.finish();
    if shape.prefill {
        // In a prefilled queue a callback's time starts with the run.
        published_at_us.fill(started_us);
    }
    if runner == Runner::SqlOnly {
        // It sweeps nothing.
        replay::sweep(program, place).await?;
    }
    let audit = if runner == Runner::Drain {
        // Nothing is written; that every message came is what ended the run.
        Audit::default()
    } else {
        let mut database = place.connect().await?;
        let mut audit = audit::money(&mut database, plan, &published_at_us).await?;
        audit.duplicates = duplicates;
        audit
    };
    Ok(Report::new(shape, plan, &audit, seconds))
}

impl Median {
    /// The round in the middle; the lower of two.
    fn new(mut reports: Vec<Report>, at_once: u16, swept: Swept) -> Self {
        let rounds = reports.iter().map(Report::per_second).collect();
        // A failed audit must not hide behind a round that went well.
        reports.sort_by(|a, b| a.is_ok().cmp(&b.is_ok()).then(a.per_second().total_cmp(&b.per_second())));
        let failed = reports.iter().position(|report| !report.is_ok());
        let middle = failed.unwrap_or((reports.len() - 1) / 2);
        Self { report: reports.swap_remove(middle), rounds, at_once, swept }
    }
}

impl Comparison {
    fn new(runs: BTreeMap<Runner, Median>) -> Self {
        let mut spreads = BTreeMap::new();
        if let Some(payonce) = runs.get(&Runner::Payonce) {
            for (runner, other) in runs.iter().filter(|(runner, _)| **runner != Runner::Payonce) {
                let medians = payonce.report.per_second() / other.report.per_second().max(f64::EPSILON);
                let rounds = payonce.rounds.iter().copied().zip(other.rounds.iter().copied());
                spreads.extend(Ratio::new(medians, rounds).map(|ratio| (*runner, ratio)));
            }
        }
        let rounds = |runner: &Runner| runs.get(runner).map_or(0, |run| run.rounds.len());
        let not_shown = spreads.iter().filter(|(runner, ratio)| !ratio.is_shown(rounds(runner)));
        let not_shown = not_shown.map(|(runner, _)| *runner).collect();
        let ratios = spreads.iter().map(|(runner, ratio)| (*runner, ratio.of_medians)).collect();
        Self { runs, ratios, spreads, not_shown }
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
            "",
            "signatures",
            "per second",
            "rounds",
            "payonce is (lowest to highest round)",
            "latency p50, p99 ms",
            "audit",
        ]);
        for (runner, run) in &self.runs {
            let rounds: Vec<String> = run.rounds.iter().map(|rate| format!("{rate:.0}")).collect();
            let ratio = self.spreads.get(runner).map(|ratio| ratio.text(run.rounds.len()));
            table.add_row([
                runner.label(run.at_once),
                run.report.signatures().to_owned(),
                format!("{:.0}", run.report.per_second()),
                rounds.join(" "),
                ratio.unwrap_or_default(),
                run.report.latency(),
                if run.report.is_ok() { "ok".to_owned() } else { "FAILED".to_owned() },
            ]);
        }
        for number in [2, 4, 5] {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{table}");
        println!("Only payonce verifies signatures; card numbers are masked by nobody.");
        Ok(())
    }
}
