//! A shop on payonce's feed: three services, each a process with a schema of its own, and `shop run`, which starts them with a payonce of their
//! own, sells, kills them again and again, and checks the ends. README.md tells the story.

#![forbid(unsafe_code)]

mod ends;
mod orders;
mod outbox;
mod points;
mod run;
mod step;
mod stock;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Where everything is: the same variables as payonce's.
#[derive(Debug, Clone)]
pub struct Place {
    /// PostgreSQL.
    pub database_url: String,
    /// RabbitMQ.
    pub amqp_url: String,
    /// Before each name on the broker.
    pub prefix: String,
    /// The shop's key as a provider of callbacks.
    pub keys_file: PathBuf,
}

impl Place {
    fn of_environment() -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("{name} is not set: run `make services`, then `. .local/env`"))
        };
        Ok(Self {
            database_url: variable("PAYONCE_DATABASE_URL")?,
            amqp_url: variable("PAYONCE_AMQP_URL")?,
            prefix: std::env::var("PAYONCE_PREFIX").unwrap_or_default(),
            keys_file: variable("PAYONCE_KEYS_FILE")?.into(),
        })
    }
}

/// An order, a stock and a points service on payonce's feed.
#[derive(Debug, Parser)]
#[command(name = "shop", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes orders, asks for their money, and knows what became of them.
    Orders,
    /// Reserves what is ordered, captures or voids the payment, refunds what it cannot ship.
    Stock,
    /// Gives points for what is paid, and takes them back for what is refunded.
    Points,
    /// Starts the services and a payonce of their own, sells, kills them again and again, and checks the ends: exit code 0.
    Run(run::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("shop: no threads: {cause}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match command {
            Command::Orders => step::serve::<orders::Orders>(&Place::of_environment()?).await,
            Command::Stock => step::serve::<stock::Stock>(&Place::of_environment()?).await,
            Command::Points => step::serve::<points::Points>(&Place::of_environment()?).await,
            Command::Run(args) => run::run(&args).await,
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("shop: {problem:#}");
            ExitCode::FAILURE
        }
    }
}
