//! `payonce feed`.

use std::net::SocketAddr;

use super::Failure;
use crate::{app, config::Config};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every ledger row, after its commit, once or more, to the topic exchange payment.events with the account id as routing \
                  key; per account in the order of versions. Any number may run; one at a time works."
)]
pub(super) struct Args {
    /// Serve /healthz, /readyz and /metrics here.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Send all rows again, from the first; then go on.
    #[arg(long)]
    from_beginning: bool,
}

pub(super) async fn run(config: Config, args: Args) -> Result<(), Failure> {
    Ok(app::run_feed(config, args.listen, args.from_beginning).await?)
}
