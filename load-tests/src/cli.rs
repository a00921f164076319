//! Arguments in, exit code out: 0 audit ok, 1 audit failed or stuck, 2 wrong usage, 3 a server could not be reached.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    api, chaos, compare, growth, hostile, ingress, pages, place::Place, plan::Ids, rebuild, replay,
    signing::Signing,
};

/// Load tests for payonce on real servers. Addresses come from PAYONCE_DATABASE_URL, PAYONCE_REDIS_URL and PAYONCE_AMQP_URL
/// (`make services`, then `. .local/env`).
#[derive(Debug, Parser)]
#[command(name = "load-tests", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publishes a seeded plan, runs worker processes, waits for the end, audits against its own arithmetic, reports.
    Replay(ReplayArgs),
    /// Like `replay`, with a second program that builds all balances from the feed alone while the feed is killed, and must come to the same.
    Rebuild(RebuildArgs),
    /// Measures payonce, the textbook consumer and the ceilings in turn on the same plan, and prints ratios.
    Compare(CompareArgs),
    /// Measures the rate with more workers, more accounts, or more rows in the ledger, and draws the curve.
    Growth(GrowthArgs),
    /// Breaks workers, servers of its own and the links between them under load, by a seeded schedule; then heals, drains, audits.
    Chaos(ChaosArgs),
    /// Floods workers with messages of somebody who can write to the queue and wants to mint money; audits, and watches their memory.
    Hostile(HostileArgs),
    /// Asks `payonce api` at a fixed rate beside a loaded pool: accounts, pages of entries, payments, balances of the past; checks the answers.
    Api(api::ApiArgs),
    /// Sends signed webhooks of several providers at `payonce ingress`, workers behind it; audits every answer and account.
    Ingress(IngressArgs),
    /// Measures how long each page of the dashboard takes over a big ledger and many cases; fails where one takes too long.
    Pages(PagesArgs),
    /// Drops and creates the database that PAYONCE_DATABASE_URL names; only one whose name starts with `payonce_`.
    RecreateDatabase,
}

/// What `replay` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Callbacks published in all, copies and bad messages included.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub events: u32,
    /// Share of the published callbacks that are copies of another one, 0 to 0.99.
    #[arg(long, default_value_t = 0.3, value_parser = share, value_name = "F")]
    pub duplicates: f64,
    /// How many accounts; each is opened by one of the callbacks.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub accounts: u32,
    /// Share of callbacks that go to 10 accounts, 0 to 0.99.
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "F")]
    pub hot: f64,
    /// Share of the published callbacks that are bad messages, 0 to 0.99.
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "F")]
    pub poison: f64,
    /// Share of callbacks that belong to authorize/capture/void/refund stories, 0 to 0.99.
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "F")]
    pub lifecycle: f64,
    /// Whether some accounts run short of money, and some callbacks are routed elsewhere than the others of their account: not where others
    /// than payonce work the same plan.
    #[arg(skip = true)]
    pub disorder: bool,
    /// How the ids of events, payments and operations are made.
    #[arg(long, value_enum, default_value_t = Ids::Random)]
    pub ids: Ids,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub workers: u32,
    /// Callbacks offered per second; 0: all at once.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000), value_name = "N")]
    pub rate: u32,
    /// Publish all before the first worker starts; the clock starts with the workers.
    #[arg(long, conflicts_with = "rate")]
    pub prefill: bool,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// One JSON object in place of tables.
    #[arg(long)]
    pub json: bool,
    /// Whether publishers sign and workers insist on it. With --in-place, the keys are those of PAYONCE_KEYS_FILE, where that is set.
    #[arg(long, env = "PAYONCE_SIGNATURES", default_value = "required", value_parser = ["required", "off"], value_name = "WORD")]
    pub signatures: String,
    /// Use PAYONCE_DATABASE_URL and PAYONCE_PREFIX as they are, in place of a fresh database and prefix. The database must be empty.
    #[arg(long)]
    pub in_place: bool,
    /// Keep the fresh database and queues afterwards, to look at.
    #[arg(long)]
    pub keep: bool,
    /// The payonce program. Without it: the one beside this program, built first where cargo runs this.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

/// What `rebuild` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct RebuildArgs {
    /// The callbacks, as for `replay`.
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// How often the feed is killed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1_000), value_name = "N")]
    pub kills: u32,
    /// Publish nothing: rebuild what PAYONCE_DATABASE_URL has. All its rows are sent again, under a feed name of its own, to whoever is bound.
    #[arg(long)]
    pub existing: bool,
}

/// What `compare` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// A named shape of the plan, in place of --duplicates, --accounts, --hot and --lifecycle.
    #[arg(long, value_enum, conflicts_with_all = ["duplicates", "accounts", "hot", "lifecycle"])]
    pub profile: Option<Profile>,
    /// Callbacks published in each run, copies included.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub events: u32,
    /// Share of the published callbacks that are copies of another one, 0 to 0.99.
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "F")]
    pub duplicates: f64,
    /// How many accounts; each is opened by one of the callbacks.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub accounts: u32,
    /// Share of callbacks that go to 10 accounts, 0 to 0.99.
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "F")]
    pub hot: f64,
    /// Share of callbacks that belong to authorize/capture/void/refund stories, 0 to 0.99.
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "F")]
    pub lifecycle: f64,
    /// How the ids of events, payments and operations are made.
    #[arg(long, value_enum, default_value_t = Ids::Random)]
    pub ids: Ids,
    /// payonce's worker processes; the textbook consumer has as many connections to the broker.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub workers: u32,
    /// Callbacks offered per second while payonce and the textbook consumer work, to compare latencies; the other runs are left
    /// out. 0: the queue is filled first, to compare throughput.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000), value_name = "N")]
    pub rate: u32,
    /// Every runner runs so often, in turn; the median counts. A ratio is printed only where its rounds differ less than it claims, so never
    /// of one round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99), value_name = "N")]
    pub rounds: u32,
    /// Whether payonce's callbacks are signed and verified. With `required`, one more run measures payonce without that.
    #[arg(long, env = "PAYONCE_SIGNATURES", default_value = "required", value_parser = ["required", "off"], value_name = "WORD")]
    pub signatures: String,
    /// Only payonce and these.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "RUN,RUN…")]
    pub against: Vec<compare::Runner>,
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

/// Named shapes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// No copies; an account for every callback, up to 100 000.
    Unique,
    /// No copies, 10 accounts.
    Hot,
    /// 90 % copies, 1 000 accounts.
    Duplicates,
    /// 70 % of whole payments, 5 000 accounts.
    Lifecycle,
}

impl ReplayArgs {
    /// The providers' keys, where they sign.
    pub fn signing(&self) -> anyhow::Result<Option<Arc<Signing>>> {
        match std::env::var_os("PAYONCE_KEYS_FILE").filter(|path| !path.is_empty()) {
            Some(path) if self.in_place && self.signatures == "required" => {
                Ok(Some(Arc::new(Signing::load(path.into(), None)?)))
            }
            Some(_) | None => Signing::of_flag(&self.signatures),
        }
    }
}

impl CompareArgs {
    /// The same plan as a prefilled replay.
    pub fn shape(&self) -> ReplayArgs {
        let given = (self.duplicates, self.accounts, self.hot, self.lifecycle);
        let (duplicates, accounts, hot, lifecycle) = match self.profile {
            None => given,
            Some(Profile::Unique) => (0.0, self.events.min(100_000), 0.0, 0.0),
            Some(Profile::Hot) => (0.0, self.events.min(10), 0.0, 0.0),
            Some(Profile::Duplicates) => (0.9, (self.events / 10).clamp(1, 1_000), 0.0, 0.0),
            Some(Profile::Lifecycle) => (0.0, self.events.min(5_000), 0.0, 0.7),
        };
        ReplayArgs {
            events: self.events,
            duplicates,
            accounts,
            hot,
            poison: 0.0,
            lifecycle,
            disorder: false,
            ids: self.ids,
            workers: self.workers,
            rate: self.rate,
            prefill: self.rate == 0,
            seed: self.seed,
            json: self.json,
            signatures: self.signatures.clone(),
            in_place: false,
            keep: false,
            payonce: self.payonce.clone(),
        }
    }
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

/// What `pages` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct PagesArgs {
    /// Rows in the ledger.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(0..=100_000_000), value_name = "N")]
    pub rows: u32,
    /// Cases, most of them open.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000), value_name = "N")]
    pub cases: u32,
    /// Each page is asked for so often; the median counts.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "N")]
    pub times: u32,
    /// One JSON object in place of a table.
    #[arg(long)]
    pub json: bool,
    /// The payonce program. Without it: the one beside this program, built first where cargo runs this.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

/// What `chaos` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct ChaosArgs {
    /// Everything random follows from this number; runs with consecutive seeds go on in the list of faults where others stop.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// No fault begins after so many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400), value_name = "N")]
    pub seconds: u32,
    /// Only these faults, each once, in this order; repeat for several.
    #[arg(long, value_enum, value_name = "NAME")]
    pub fault: Vec<chaos::Fault>,
    /// With --fault: one fault in three has a silent Redis (or a slow PostgreSQL) beside it, and some come while workers recover from the one
    /// before, as they do where no fault is named.
    #[arg(long, requires = "fault", conflicts_with = "ingress")]
    pub together: bool,
    /// Callbacks come as signed webhooks at a real ingress, from senders that repeat them until they are answered with yes.
    #[arg(long)]
    pub ingress: bool,
    /// Two feed processes beside the workers, which keep the balance cache, and every other fault one that they are afraid of. A reader of the feed
    /// and one of the cache must come to what the database has.
    #[arg(long, conflicts_with = "ingress")]
    pub feed: bool,
    /// Prints the names of all faults, one a line, and ends.
    #[arg(long)]
    pub list_faults: bool,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=64), value_name = "N")]
    pub workers: u32,
    /// Whether publishers sign and workers insist on it.
    #[arg(long, env = "PAYONCE_SIGNATURES", default_value = "required", value_parser = ["required", "off"], value_name = "WORD")]
    pub signatures: String,
    /// Callbacks offered per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=10_000), value_name = "N")]
    pub rate: u32,
    /// One JSON object in place of tables.
    #[arg(long)]
    pub json: bool,
    /// The payonce program. Without it: the one beside this program, built first where cargo runs this.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

/// What `ingress` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct IngressArgs {
    /// Webhooks sent in all, copies included.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub events: u32,
    /// Share of them that are copies of another one, 0 to 0.99.
    #[arg(long, default_value_t = 0.3, value_parser = share, value_name = "F")]
    pub duplicates: f64,
    /// Webhooks offered per second in the part of the run that measures latency; 0: a quarter of what was answered per second before.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000), value_name = "N")]
    pub rate: u32,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub workers: u32,
    /// Hostile requests, after the webhooks.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000), value_name = "N")]
    pub hostile: u32,
    /// Idle connections with which the ingress's memory is measured.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000), value_name = "N")]
    pub idle: u32,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Use the database, prefix and servers of the environment as they are, callbacks of before included, in place of fresh ones.
    #[arg(long)]
    pub in_place: bool,
    /// One JSON object in place of text.
    #[arg(long)]
    pub json: bool,
    /// The payonce program; without it, the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub payonce: Option<PathBuf>,
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

/// Why a command did not end with exit code 0.
#[derive(Debug)]
pub enum Failure {
    /// The audit failed, or the run did; these words say how.
    No(String),
    /// Wrong usage.
    Usage(String),
    /// A server could not be reached.
    Unreachable(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::No(format!("{error:#}"))
    }
}

/// Parses the arguments, runs the command, says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::No(format!("cannot start threads: {error}"))),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Replay(args) => replay::run(&args).await,
        Command::Rebuild(args) => rebuild::run(&args).await,
        Command::Compare(args) => compare::run(&args).await,
        Command::Growth(args) => growth::run(&args).await,
        Command::Chaos(args) => chaos::run(&args).await,
        Command::Hostile(args) => hostile::run(&args).await,
        Command::Api(args) => api::run(&args).await,
        Command::Ingress(args) => ingress::run(&args).await,
        Command::Pages(args) => pages::run(&args).await,
        Command::RecreateDatabase => Place::recreate_database().await,
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=0.99).contains(&share) { Ok(share) } else { Err("expected 0 to 0.99".to_owned()) }
}

fn fail(failure: &Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::No(text) => (text, 1),
        Failure::Usage(text) => (text, 2),
        Failure::Unreachable(text) => (text, 3),
    };
    eprintln!("load-tests: {text}");
    ExitCode::from(code)
}
