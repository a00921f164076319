//! `growth`: the same plan with more workers, more accounts, or more rows in the ledger; a table and a curve.
//!
//! Each step is a prefilled `replay` in a place of its own, audited. The rounds are interleaved, so that whatever else the machine
//! does meets all steps.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use plotters::prelude::*;
use serde::Serialize;
use serde_json::Value;

use crate::{
    arguments::ReplayArgs,
    failure::Failure,
    ids::Ids,
    place::Place,
    plan::Plan,
    replay,
    report::{Report, WalPerRow},
    workers,
};

/// Accounts of a run in which something else grows.
const ACCOUNTS: u32 = 20_000;

#[derive(Debug, Serialize)]
struct Step {
    /// Workers, accounts, or rows.
    value: u32,
    /// Callbacks per second: the median round.
    per_second: f64,
    /// Of the first step's rate.
    share: f64,
    /// Per second, of every round.
    rounds: Vec<f64>,
    /// Accounts whose part of a batch was decided again because a concurrent writer was first, for each 1 000 messages; the most of a round.
    conflicts_per_thousand: f64,
    /// What PostgreSQL wrote ahead for each row of the ledger, in every round.
    wal_per_row: Vec<WalPerRow>,
    /// `"ok"`, or the violations of a round that failed.
    audit: Value,
}

#[derive(Debug, Serialize)]
struct Growth {
    by: &'static str,
    events: u32,
    seed: u64,
    steps: Vec<Step>,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Worker processes: 1 to 4.
    Workers,
    /// Accounts: 1 to 1 000 000.
    Accounts,
    /// Rows in the ledger before the run: 0, 1 and 10 million.
    Rows,
}

/// What `growth` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct GrowthArgs {
    /// What grows.
    #[arg(long, value_enum)]
    pub by: By,
    /// The values of --by, in place of its usual ones.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=100_000_000), value_name = "N,N…")]
    pub steps: Option<Vec<u32>>,
    /// Callbacks published in each run; as many as there are accounts, where those are more.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub events: u32,
    /// How the ids of events, payments and operations are made. The rows before are random and of the same providers.
    #[arg(long, value_enum, default_value_t = Ids::Random)]
    pub ids: Ids,
    /// Every step runs so often, in turn; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99), value_name = "N")]
    pub rounds: u32,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Draws the curve into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// One JSON object in place of a table.
    #[arg(long)]
    pub json: bool,
    /// The payonce program. Without it: the one beside this program, built first where cargo runs this.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

pub async fn run(args: &GrowthArgs) -> Result<(), Failure> {
    let program = workers::program(args.payonce.as_deref()).await?;
    let values = args.steps.clone().unwrap_or_else(|| args.by.steps().to_vec());
    let mut histories = Vec::new();
    let result = tokio::select! {
        result = measure_all(args, &values, &program, &mut histories) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    for history in histories {
        history.remove().await?;
    }
    let growth = result?;
    if let Some(path) = &args.svg {
        growth.draw(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    growth.print(args.json)?;
    if growth.steps.iter().all(|step| step.audit == "ok") {
        Ok(())
    } else {
        Err(Failure::No("audit failed".to_owned()))
    }
}

async fn measure_all(
    args: &GrowthArgs,
    values: &[u32],
    program: &Path,
    histories: &mut Vec<Place>,
) -> Result<Growth, Failure> {
    let mut reports: Vec<Vec<Report>> = values.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for (at, value) in values.iter().enumerate() {
            let shape = shape(args, *value);
            let plan = Arc::new(Plan::new(&replay::options(&shape)).map_err(Failure::Usage)?);
            let place = if args.by == By::Rows {
                if round == 1 {
                    eprintln!("writing a history of {value} rows");
                    histories.push(Place::prepare(false, args.seed).await?);
                    workers::migrate(program, &histories[at]).await?;
                    histories[at].write_history(*value).await?;
                }
                Place::copy_of(&histories[at], args.seed).await?
            } else {
                Place::prepare(false, args.seed).await?
            };
            eprintln!("round {round} of {}: {value} {}", args.rounds, args.by.label());
            let report = replay::replay(&shape, &plan, program, &place).await.map(|(report, _)| report);
            place.remove().await?;
            let report = report?;
            eprintln!("  {:.0} per second, audit {}", report.per_second(), report.audit());
            reports[at].push(report);
        }
    }
    let mut steps: Vec<Step> =
        values.iter().zip(reports).map(|(value, reports)| Step::new(*value, &reports)).collect();
    let first = steps.first().map_or(1.0, |step| step.per_second);
    for step in &mut steps {
        step.share = (step.per_second / first.max(f64::EPSILON) * 1_000.0).round() / 1_000.0;
    }
    Ok(Growth { by: args.by.label(), events: args.events, seed: args.seed, steps })
}

fn shape(args: &GrowthArgs, value: u32) -> ReplayArgs {
    let accounts = if args.by == By::Accounts { value.max(1) } else { ACCOUNTS.min(args.events) };
    ReplayArgs {
        events: args.events.max(accounts),
        duplicates: 0.0,
        accounts,
        hot: 0.0,
        poison: 0.0,
        disorder: true,
        ids: args.ids,
        lifecycle: 0.0,
        transfers: false,
        workers: if args.by == By::Workers { value.max(1) } else { 1 },
        rate: 0,
        prefill: true,
        seed: args.seed,
        json: args.json,
        signatures: "off".to_owned(),
        in_place: false,
        keep: false,
        payonce: args.payonce.clone(),
    }
}

impl By {
    fn steps(self) -> &'static [u32] {
        match self {
            Self::Workers => &[1, 2, 3, 4],
            Self::Accounts => &[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000],
            Self::Rows => &[0, 1_000_000, 10_000_000],
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Accounts => "accounts",
            Self::Rows => "rows in the ledger before",
        }
    }
}

impl Step {
    fn new(value: u32, reports: &[Report]) -> Self {
        let rounds: Vec<f64> = reports.iter().map(Report::per_second).collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let per_second = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        let failed = reports.iter().find(|report| !report.is_ok());
        let audit = failed.map_or_else(|| Value::from("ok"), |report| report.audit().clone());
        let conflicts_per_thousand = reports.iter().map(Report::conflicts_per_thousand).fold(0.0, f64::max);
        let wal_per_row = reports.iter().filter_map(Report::wal_per_row).collect();
        Self { value, per_second, share: 1.0, rounds, conflicts_per_thousand, wal_per_row, audit }
    }
}

impl Growth {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
            self.by,
            "per second, signatures off",
            "rounds",
            "of the first",
            "conflicts per 1 000",
            "write-ahead log per row, KB",
            "audit",
        ]);
        for step in &self.steps {
            let rounds: Vec<String> = step.rounds.iter().map(|rate| format!("{rate:.0}")).collect();
            table.add_row([
                step.value.to_string(),
                format!("{:.0}", step.per_second),
                rounds.join(" "),
                format!("{:.2}", step.share),
                format!("{:.1}", step.conflicts_per_thousand),
                step.wal_per_row
                    .iter()
                    .map(|wal| format!("{:.1}", wal.bytes / 1_000.0))
                    .collect::<Vec<_>>()
                    .join(" "),
                if step.audit == "ok" { "ok".to_owned() } else { "FAILED".to_owned() },
            ]);
        }
        for number in [0, 1, 3, 4] {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{table}");
        Ok(())
    }

    /// The steps stand side by side, whatever lies between their values: they grow by factors.
    fn draw(&self, path: &Path) -> anyhow::Result<()> {
        const SIZE: (u32, u32) = (720, 360);
        let highest = self.steps.iter().flat_map(|step| step.rounds.iter().copied()).fold(1.0, f64::max);
        let steps = self.steps.len();
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.5..steps as f64 - 0.5, 0.0..highest * 1.1)?;
        let name = |at: &f64| {
            let is_step = (at - at.round()).abs() < 1e-6;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small position")]
            let step = self.steps.get(at.round().max(0.0) as usize);
            step.filter(|_| is_step && *at > -0.1).map_or_else(String::new, |step| step.value.to_string())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(steps * 2 + 1)
            .x_label_formatter(&name)
            .x_desc(self.by)
            .y_desc("callbacks per second, signatures off")
            .y_label_formatter(&|rate| format!("{rate:.0}"))
            .draw()?;
        let points = |at: fn(&Step) -> f64| {
            self.steps.iter().enumerate().map(move |(number, step)| (number as f64, at(step)))
        };
        chart.draw_series(LineSeries::new(points(|step| step.per_second), BLUE.stroke_width(2)))?;
        chart
            .draw_series(points(|step| step.per_second).map(|point| Circle::new(point, 4, BLUE.filled())))?;
        let each_round = self.steps.iter().enumerate().flat_map(|(number, step)| {
            step.rounds
                .iter()
                .map(move |rate| Circle::new((number as f64, *rate), 2, BLACK.mix(0.4).filled()))
        });
        chart.draw_series(each_round)?;
        area.present().context("the drawing is not written")?;
        Ok(())
    }
}
