//! Arguments in, exit code out: 0 audit ok, 1 audit failed or stuck, 2 wrong usage, 3 a server could not be reached.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    api, arguments::ReplayArgs, chaos, compare, failure::Failure, growth, hostile, ingress, pages,
    place::Place, rebuild, replay,
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
    Rebuild(rebuild::RebuildArgs),
    /// Measures payonce, the textbook consumer and the ceilings in turn on the same plan, and prints ratios.
    Compare(compare::CompareArgs),
    /// Measures the rate with more workers, more accounts, or more rows in the ledger, and draws the curve.
    Growth(growth::GrowthArgs),
    /// Breaks workers, servers of its own and the links between them under load, by a seeded schedule; then heals, drains, audits.
    Chaos(chaos::ChaosArgs),
    /// Floods workers with messages of somebody who can write to the queue and wants to mint money; audits, and watches their memory.
    Hostile(hostile::HostileArgs),
    /// Asks `payonce api` at a fixed rate beside a loaded pool: accounts, pages of entries, payments, balances of the past; checks the answers.
    Api(api::ApiArgs),
    /// Sends signed webhooks of several providers at `payonce ingress`, workers behind it; audits every answer and account.
    Ingress(ingress::IngressArgs),
    /// Measures how long each page of the dashboard takes over a big ledger and many cases; fails where one takes too long.
    Pages(pages::PagesArgs),
    /// Drops and creates the database that PAYONCE_DATABASE_URL names; only one whose name starts with `payonce_`.
    RecreateDatabase,
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

fn fail(failure: &Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::No(text) => (text, 1),
        Failure::Usage(text) => (text, 2),
        Failure::Unreachable(text) => (text, 3),
    };
    eprintln!("load-tests: {text}");
    ExitCode::from(code)
}
