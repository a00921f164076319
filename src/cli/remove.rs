//! `payonce quarantine remove`: gets disk back after a flood. Only the owner of the tables may.

use serde_json::json;

use super::{Failure, print_json, progress};
use crate::{
    app,
    config::Config,
    ledger::Reason,
    store::{self, removal},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Discarded for this reason, such as bad_signature.
    #[arg(long, value_parser = reason, value_name = "REASON")]
    reason: Reason,
    /// From this provider.
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Discarded longer ago than this: a number and s, m, h or d. Providers send again for up to 30 days, and a callback whose case is
    /// removed is decided as a new one.
    #[arg(long, value_parser = super::values::age, default_value = "30d", value_name = "AGE")]
    older_than: time::Duration,
    /// Kept with the count of what is removed.
    #[arg(long, value_parser = super::values::words, value_name = "TEXT")]
    why: String,
    /// Who does this, kept beside it.
    #[arg(long, env = "USER", default_value = "operator", value_parser = super::values::name, value_name = "NAME")]
    by: String,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

fn reason(name: &str) -> Result<Reason, String> {
    let all = Reason::names;
    Reason::parse(name).ok_or_else(|| format!("expected one of {}", all()))
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let mut connection = app::database(config, "payonce")?.for_reading().connect().await?;
    store::check_schema(&mut connection).await?;
    if !removal::may_remove(&mut connection).await? {
        return Err(Failure::Usage(
            "only the owner of the tables may remove cases: set PAYONCE_DATABASE_URL to the role that runs `payonce migrate`".to_owned(),
        ));
    }
    let progress = progress::bar(None, "{spinner} {pos} cases removed, {elapsed}");
    let mut removed = 0;
    loop {
        let part = removal::remove_discarded(
            &mut connection,
            args.reason,
            args.source.as_deref(),
            args.older_than,
            (&args.by, &args.why),
        )
        .await?;
        removed += part;
        progress.set_position(removed);
        if part == 0 {
            break;
        }
    }
    progress.finish_and_clear();
    if args.json {
        print_json(&json!({ "removed": removed }))?;
    } else {
        say!("Removed {removed} discarded cases. `vacuum quarantine` gives their space to new ones.");
    }
    if removed == 0 { Err(Failure::No("no discarded case fits".to_owned())) } else { Ok(()) }
}
