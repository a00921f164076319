//! What `chaos` can be told.

use std::path::PathBuf;

use super::Fault;

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
    pub fault: Vec<Fault>,
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
