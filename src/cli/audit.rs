//! `payonce audit`.

use serde_json::json;

use super::{Failure, print_json, table, with_database};
use crate::{
    config::Config,
    store::{self, Finding},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let show = |finding: &Finding| {
        if !args.json {
            print(finding);
        }
    };
    let findings = with_database(config, async |connection| store::audit(connection, show).await).await?;
    let failed: Vec<&str> =
        findings.iter().filter(|finding| !finding.ok).map(|finding| finding.name).collect();
    if args.json {
        let audit = if failed.is_empty() { json!("ok") } else { json!(failed) };
        print_json(&json!({ "audit": audit, "checks": findings }))?;
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("audit failed: {}", failed.join(", ")))),
    }
}

fn print(finding: &Finding) {
    if finding.ok {
        println!("ok      {}: {}", finding.name, finding.promise);
        return;
    }
    println!("FAILED  {}: {}; {} violations", finding.name, finding.promise, finding.violations);
    for example in &finding.examples {
        println!("          {}", table::safe(example));
    }
}
