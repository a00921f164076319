//! The arguments of a run, which several commands share or make.

use std::{path::PathBuf, sync::Arc};

use crate::{ids::Ids, signing::Signing};

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
    /// After the openings only transfers between two accounts, both chosen by Zipf's law with exponent 1: the workload of SoftwareMill's
    /// tb-perf, for which 100 000 accounts are usual.
    #[arg(long, conflicts_with_all = ["hot", "lifecycle"])]
    pub transfers: bool,
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

/// Reads a share: 0 to 0.99.
pub fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=0.99).contains(&share) { Ok(share) } else { Err("expected 0 to 0.99".to_owned()) }
}
