//! What `compare` can be told.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Runner;
use crate::{
    arguments::{ReplayArgs, share},
    ids::Ids,
};

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
    pub against: Vec<Runner>,
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
    /// Transfers between 100 000 accounts chosen by Zipf's law, as in SoftwareMill's tb-perf; the deposits that open the accounts come first, and
    /// are half of all callbacks where those are fewer than 200 000.
    Transfers,
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
            Some(Profile::Transfers) => (0.0, (self.events / 2).clamp(1, 100_000), 0.0, 0.0),
        };
        ReplayArgs {
            events: self.events,
            duplicates,
            accounts,
            hot,
            poison: 0.0,
            lifecycle,
            transfers: self.profile == Some(Profile::Transfers),
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
