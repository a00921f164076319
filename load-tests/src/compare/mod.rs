//! `compare`: payonce, the textbook consumer and the ceilings in one run, in turn, on the same plan; ratios of medians.
//!
//! Each run has a fresh database and queue, filled before its clock starts, and ends with an audit. The rounds are interleaved, so
//! that whatever else the machine does meets all of them.

mod ceilings;
mod rules;
mod textbook;

use std::{collections::BTreeMap, path::Path, process::Stdio, sync::Arc};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use self::textbook::Take;
use crate::{
    audit::{self, Audit},
    books::EventQueue,
    cli::{CompareArgs, Failure, ReplayArgs},
    place::Place,
    plan::Plan,
    publish::{Sender, now_us},
    replay,
    report::Report,
    workers,
};

/// Messages that the textbook consumer has at work at once.
const TEXTBOOK_AT_WORK: u16 = 32;

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
}

impl Runner {
    const ALL: [Self; 8] = [
        Self::Payonce,
        Self::SignaturesOff,
        Self::FeedRunning,
        Self::Textbook,
        Self::TextbookSequential,
        Self::TextbookBatched,
        Self::Drain,
        Self::SqlOnly,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Payonce => "payonce",
            Self::SignaturesOff => "payonce, signatures off",
            Self::FeedRunning => "payonce, feed running",
            Self::Textbook => "textbook consumer, 32 at once",
            Self::TextbookSequential => "textbook consumer, one at a time",
            Self::TextbookBatched => "textbook consumer, 500 in one transaction",
            Self::Drain => "ceiling: drain the queue",
            Self::SqlOnly => "ceiling: the same SQL, no queue",
        }
    }
}

/// One runner's figures: those of its median round.
#[derive(Debug, Serialize)]
struct Median {
    #[serde(flatten)]
    report: Report,
    /// Per second, of every round.
    rounds: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Comparison {
    runs: BTreeMap<Runner, Median>,
    /// payonce's rate over that of each other run.
    ratios: BTreeMap<Runner, f64>,
}

pub async fn run(args: &CompareArgs) -> Result<(), Failure> {
    let shape = args.shape();
    let plan = Arc::new(Plan::new(&replay::options(&shape)).map_err(Failure::Usage)?);
    let program = workers::program(args.payonce.as_deref()).await?;
    let mut reports: BTreeMap<Runner, Vec<Report>> = BTreeMap::new();
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
        | Runner::SqlOnly => true,
    };
    let runners: Vec<Runner> = runners.iter().copied().filter(is_wanted).collect();
    for round in 1..=args.rounds {
        for runner in runners.iter().copied() {
            eprintln!("round {round} of {}: {}", args.rounds, runner.label());
            let report = tokio::select! {
                report = measure(runner, &shape, &plan, &program) => report?,
                _ = tokio::signal::ctrl_c() => return Err(Failure::No("interrupted".to_owned())),
            };
            eprintln!("  {:.0} per second, audit {}", report.per_second(), report.audit());
            reports.entry(runner).or_default().push(report);
        }
    }
    let runs = reports.into_iter().map(|(runner, reports)| (runner, median(reports))).collect();
    let comparison = Comparison::new(runs);
    comparison.print(args.json)?;
    let failed: Vec<&str> = comparison
        .runs
        .iter()
        .filter(|(_, run)| !run.report.is_ok())
        .map(|(runner, _)| runner.label())
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::No(format!("audit failed: {}", failed.join(", ")))) }
}

/// One run in a place of its own, which is removed whatever happens.
async fn measure(
    runner: Runner,
    shape: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
) -> Result<Report, Failure> {
    let place = Place::prepare(false, shape.seed).await?;
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
        | Runner::SqlOnly => other(runner, shape, plan, program, &place).await,
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

/// Every runner but payonce.
async fn other(
    runner: Runner,
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
        Runner::SqlOnly => ceilings::sql_only(place, shape.workers, plan).await?,
        Runner::Drain => ceilings::drain(place, shape.workers, plan.published()).await?,
        Runner::Payonce
        | Runner::SignaturesOff
        | Runner::FeedRunning
        | Runner::Textbook
        | Runner::TextbookSequential
        | Runner::TextbookBatched => {
            let take = match runner {
                Runner::TextbookBatched => Take::Batch,
                Runner::Textbook => Take::Single(TEXTBOOK_AT_WORK),
                Runner::Payonce
                | Runner::SignaturesOff
                | Runner::FeedRunning
                | Runner::TextbookSequential
                | Runner::Drain
                | Runner::SqlOnly => Take::Single(1),
            };
            let publish = async {
                if !shape.prefill {
                    sender.send_all().await?;
                }
                Ok::<_, Failure>(())
            };
            let consume = async { Ok(textbook::run(place, take, plan.published()).await?) };
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

/// The round in the middle; the lower of two.
fn median(mut reports: Vec<Report>) -> Median {
    let rounds = reports.iter().map(Report::per_second).collect();
    // A failed audit must not hide behind a round that went well.
    reports.sort_by(|a, b| a.is_ok().cmp(&b.is_ok()).then(a.per_second().total_cmp(&b.per_second())));
    let failed = reports.iter().position(|report| !report.is_ok());
    let middle = failed.unwrap_or((reports.len() - 1) / 2);
    Median { report: reports.swap_remove(middle), rounds }
}

impl Comparison {
    fn new(runs: BTreeMap<Runner, Median>) -> Self {
        let rate = |runner: &Runner| runs.get(runner).map(|run| run.report.per_second());
        let payonce = rate(&Runner::Payonce).unwrap_or_default();
        let others = runs.keys().filter(|runner| **runner != Runner::Payonce);
        let ratios = others
            .filter_map(|runner| {
                let ratio = payonce / rate(runner)?.max(f64::EPSILON);
                Some((*runner, (ratio * 1_000.0).round() / 1_000.0))
            })
            .collect();
        Self { runs, ratios }
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
            "",
            "per second",
            "rounds",
            "payonce is",
            "latency p50, p99 ms",
            "audit",
        ]);
        for (runner, run) in &self.runs {
            let rounds: Vec<String> = run.rounds.iter().map(|rate| format!("{rate:.0}")).collect();
            table.add_row([
                runner.label().to_owned(),
                format!("{:.0}", run.report.per_second()),
                rounds.join(" "),
                self.ratios.get(runner).map_or_else(String::new, |ratio| format!("x {ratio:.2}")),
                run.report.latency(),
                if run.report.is_ok() { "ok".to_owned() } else { "FAILED".to_owned() },
            ]);
        }
        for number in [1, 3, 4] {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{table}");
        Ok(())
    }
}
