//! `payonce api`.

use std::net::SocketAddr;

use super::Failure;
use crate::{app, config::Config};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs a file of tokens (api_tokens_file, PAYONCE_API_TOKENS_FILE); docs/api.md shows one. /v1/openapi.json describes what is \
                  served."
)]
pub(super) struct Args {
    /// Where to listen. TLS is for a proxy before it.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9340")]
    listen: SocketAddr,
}

pub(super) async fn run(config: Config, args: Args) -> Result<(), Failure> {
    Ok(app::run_api(config, args.listen).await?)
}
