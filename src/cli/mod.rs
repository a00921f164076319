//! The command line: arguments in, exit code out. One file a command, thin: what it does lives in the modules below.
//!
//! Exit codes (contract §5): 0 done, 1 the answer is no, 2 wrong usage or configuration, 3 a server could not be reached.

/// `println!` panics where its reader has gone, as in `payonce quarantine list | head`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print_line(format_args!($($text)*))
    };
}

mod account;
mod adjust;
mod api;
mod approvals;
mod audit;
mod case_work;
mod cases;
mod dry_run;
mod event;
mod feed;
mod find;
mod ingress;
mod keys;
mod manual;
mod migrate;
mod payment;
mod progress;
mod publish;
mod quarantine;
mod remove;
mod report;
mod settings;
mod statement;
mod style;
mod table;
mod values;
mod which;

use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::warn;

use style::Style;

use crate::{
    answers,
    app::{self, AppError},
    broker::{BrokerError, topology::TopologyError},
    config::{self, Config, ConfigErrors, StrayVariables},
    shown::{safe, safe_json},
    store::{self, GrantError, PgConnection, SchemaError, StoreError},
    telemetry,
    worker::Refusal,
};

/// Applies each payment callback at most once per idempotency key, acknowledged only after the commit.
#[derive(Debug, Parser)]
#[command(name = "payonce", version, about, long_about = None)]
#[command(
    after_help = "Settings come from flags, else PAYONCE_* variables, else the file of --config, else defaults;\n\
                        `payonce COMMAND --help` lists those that the command uses.\n\
                        Addresses with passwords have no flag: PAYONCE_DATABASE_URL, PAYONCE_REDIS_URL, PAYONCE_AMQP_URL, or each\n\
                        with _FILE, naming a file that holds it.\n\
                        Exit codes: 0 done, 1 the answer is no, 2 wrong usage or configuration, 3 a server could not be reached."
)]
struct Cli {
    /// TOML file with settings; payonce.example.toml lists all of them.
    #[arg(long, global = true, env = "PAYONCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings the schema up to date; gives roles the rights they need; declares the broker's objects.
    Migrate(migrate::Args),
    /// Runs one member of the worker pool, until SIGTERM or SIGINT.
    Worker {
        /// Serve /healthz, /readyz and /metrics here.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Serves the dashboard, the operators' API, health and metrics of the whole pool, until SIGTERM or SIGINT.
    Ops {
        /// Where to listen. Other than on loopback a token is needed: PAYONCE_OPS_TOKEN.
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9300")]
        listen: SocketAddr,
    },
    /// Answers applications' reads over HTTP, until SIGTERM or SIGINT.
    Api(api::Args),
    /// Sends every committed ledger row to other services, until SIGTERM or SIGINT.
    Feed(feed::Args),
    /// Publishes callbacks from NDJSON files, with confirms; reports each refused line by number.
    Publish(publish::Args),
    /// Takes providers' webhooks over HTTP, verifies, maps, publishes and answers them, until SIGTERM or SIGINT.
    Ingress(ingress::Args),
    /// Makes, lists and rotates the keys that sources sign with.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Finds events, payments and accounts by the beginning of an id, without knowing the source.
    Find(find::Args),
    /// The whole story of one callback: where it ended, when, by which duplicates it was followed.
    Event(event::Args),
    /// Balance, held, debt, status, version, and the last entries of an account; opens, closes and freezes accounts.
    Account(account::Args),
    /// Posts a correction to an account, once per id. It may leave a debt.
    Adjust(adjust::Args),
    /// State, sums and entries of a payment.
    Payment(payment::Args),
    /// Works the cases: callbacks that are not in the ledger.
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Lists, approves and rejects what waits for a second person (setting approvals).
    #[command(subcommand)]
    Approvals(approvals::Command),
    /// Closes a period for finance: movements by day, balances, clearing accounts, debts, the trial balance.
    Report(report::Args),
    /// Checks every stored invariant with its own SQL; exits 1 where one fails.
    Audit(audit::Args),
    /// Prints a script that completes commands and flags: `payonce completions bash > /etc/bash_completion.d/payonce`.
    Completions(manual::CompletionsArgs),
    /// Prints the manual page: `payonce man | man -l -`.
    Man(manual::ManArgs),
}

/// Why a command did not end with exit code 0.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The answer is no; it is printed already, or these words say it.
    #[error("{0}")]
    No(String),
    /// Wrong usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// A server could not be reached.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::No(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Usage(text) => Self::Usage(text),
            AppError::Refused(
                refusal @ (Refusal::Database(_) | Refusal::Schema(_) | Refusal::Topology(_)),
            ) => Self::Usage(refusal.to_string()),
            AppError::FeedRefused(refusal) => Self::Usage(refusal.to_string()),
            AppError::Failed(text) => Self::No(text),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unreachable(format!(
                "{error}. Does the server run, and is PAYONCE_DATABASE_URL (or database_url) its address?"
            )),
            StoreError::Unfit(_) => Self::Usage(error.to_string()),
            StoreError::Conflict(_) | StoreError::Blocked(_) => {
                Self::Unreachable(format!("{error}. Run the command again"))
            }
            StoreError::Refused(_) => Self::No(error.to_string()),
        }
    }
}

impl From<SchemaError> for Failure {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::TooOld { .. }
            | SchemaError::TooNew { .. }
            | SchemaError::FromDump
            | SchemaError::Migration(_) => Self::Usage(error.to_string()),
            SchemaError::Store(error) => error.into(),
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Url | BrokerError::Tls(_) => Self::Usage(error.to_string()),
            BrokerError::NoAnswer { .. } | BrokerError::Lapin(_) | BrokerError::NotAcked => {
                Self::Unreachable(format!(
                    "{error}. Does the server run, and is PAYONCE_AMQP_URL (or amqp_url) its address?"
                ))
            }
        }
    }
}

impl From<TopologyError> for Failure {
    fn from(error: TopologyError) -> Self {
        match error {
            TopologyError::Differs(..) | TopologyError::Missing(_) => Self::Usage(error.to_string()),
            TopologyError::Broker(error) => error.into(),
        }
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Role(_) => Self::Usage(error.to_string()),
            GrantError::Store(error) => error.into(),
        }
    }
}

/// Parses the arguments, runs the command, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    // These two need nothing, so nothing that is wrong elsewhere may stop them.
    if let Command::Completions(args) = &cli.command {
        return end(manual::completions(command(), args));
    }
    if let Command::Man(args) = &cli.command {
        return end(manual::man(command(), args));
    }
    // A name that is not UTF-8 is none of ours.
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let stray = config::stray_variables(variables);
    let config = match configured(cli.config.as_deref(), &settings::given(&matches), &stray) {
        Ok(config) => config,
        Err(failure) => return fail(&failure),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::No(format!("cannot start threads: {error}"))),
    };
    let started = {
        let _inside = runtime.enter();
        telemetry::start(&config.log_level, config.log_json, config.otlp_endpoint.as_deref())
    };
    let telemetry = match started {
        Ok(telemetry) => telemetry,
        Err(problem) => return fail(&Failure::Usage(problem)),
    };
    for (variable, meant) in &stray.unknown {
        let meant = meant.map(|setting| format!("; did you mean PAYONCE_{}?", setting.to_uppercase()));
        warn!(variable, "this variable sets nothing{}", meant.unwrap_or_default());
    }
    let result = runtime.block_on(run(cli.command, config, cli.config));
    telemetry.stop();
    end(result)
}

/// The settings; or all that is wrong with them, misspelled variables included.
fn configured(
    file: Option<&Path>,
    flags: &BTreeMap<String, String>,
    stray: &StrayVariables,
) -> Result<Config, Failure> {
    let loaded = config::load(file, flags, |name| std::env::var(name).ok());
    match loaded {
        Ok(config) if stray.misspelled.is_empty() => Ok(config),
        loaded => {
            let mut errors = stray.misspelled.clone();
            errors.extend(loaded.err().map(|errors| errors.0).unwrap_or_default());
            Err(Failure::Usage(ConfigErrors(errors).to_string()))
        }
    }
}

fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

async fn run(command: Command, config: Config, file: Option<PathBuf>) -> Result<(), Failure> {
    match command {
        Command::Migrate(args) => migrate::run(&config, args).await,
        Command::Worker { listen } => Ok(app::run_worker(config, listen).await?),
        Command::Ops { listen } => Ok(app::run_ops(config, listen).await?),
        Command::Api(args) => api::run(config, args).await,
        Command::Feed(args) => feed::run(config, args).await,
        Command::Publish(args) => publish::run(&config, args).await,
        Command::Ingress(args) => ingress::run(config, file, args).await,
        Command::Keys(command) => keys::run(&config, command),
        Command::Find(args) => find::run(&config, args).await,
        Command::Event(args) => event::run(&config, args).await,
        Command::Account(args) => account::run(&config, args).await,
        Command::Adjust(args) => adjust::run(&config, args).await,
        Command::Payment(args) => payment::run(&config, args).await,
        Command::Quarantine(command) => quarantine::run(&config, command).await,
        Command::Approvals(command) => approvals::run(&config, command).await,
        Command::Report(args) => report::run(&config, args).await,
        Command::Audit(args) => audit::run(&config, args).await,
        Command::Completions(args) => manual::completions(self::command(), &args),
        Command::Man(args) => manual::man(self::command(), &args),
    }
}

/// The derived commands, and a flag for each setting that is not a secret.
fn command() -> clap::Command {
    settings::with_flags(Cli::command())
}

fn fail(failure: &Failure) -> ExitCode {
    let text = failure.to_string();
    if !text.is_empty() {
        // A refusal may quote what it refuses.
        let lines: Vec<String> = text.lines().map(safe).collect();
        eprintln!("{} {}", style::err(Style::Bad, "payonce:"), lines.join("\n"));
    }
    ExitCode::from(failure.code())
}

/// Connects for one question, and refuses a schema that does not fit.
async fn with_database<T>(
    config: &Config,
    question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
) -> Result<T, Failure> {
    let database = app::database(config, "payonce")?.for_reading();
    let mut connection = database.connect().await?;
    store::check_schema(&mut connection).await?;
    Ok(question(&mut connection).await?)
}

/// Prints one JSON value on a line.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::No(error.to_string()))?;
    say!("{}", safe_json(&text));
    Ok(())
}

/// Prints an answer as the API gives it, with the decimal text of each amount beside it.
fn print_answer(value: &impl serde::Serialize) -> Result<(), Failure> {
    print_json(&answers::answer(value).map_err(|error| Failure::No(error.to_string()))?)
}

/// Writes bytes to standard output, as [`print_line`] does.
fn print_bytes(bytes: &[u8]) {
    if let Err(error) = std::io::stdout().lock().write_all(bytes) {
        let code = if error.kind() == ErrorKind::BrokenPipe { 0 } else { 1 };
        std::process::exit(code);
    }
}

/// Writes a line to standard output. A reader that has seen enough ends the program in peace.
fn print_line(text: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}") {
        let code = if error.kind() == ErrorKind::BrokenPipe { 0 } else { 1 };
        std::process::exit(code);
    }
}
