//! `payonce audit`.

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Failure, print_json, progress,
    style::{self, Style},
    table, with_database,
};
use crate::{
    app,
    audit::{self, Place},
    config::Config,
    store::{self, CHECKS, Finding},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look only at what was recorded from then on, where a check would read the whole ledger: RFC 3339, such as
    /// 2026-11-22T00:00:00Z. Every account is still compared with its last entry. The checks that are about the whole ledger are skipped.
    #[arg(long, value_parser = timestamp, value_name = "TIME")]
    since: Option<OffsetDateTime>,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    // And those of payload hashes and of markers.
    let progress = progress::bar(Some(CHECKS.len() as u64 + 2), "{wide_bar} {pos}/{len} checks, {elapsed}");
    let show = |finding: &Finding| {
        if !args.json {
            progress.suspend(|| print(finding));
        }
        progress.inc(1);
    };
    let findings = with_database(config, async |connection| {
        let mut findings = store::audit(connection, args.since, &config.worker.rules, show).await?;
        let markers = match app::dedupe(config) {
            Ok(dedupe) => audit::markers(&dedupe, connection, &mut Place::default(), usize::MAX).await?,
            Err(error) => audit::not_checked(error.to_string()),
        };
        show(&markers);
        findings.push(markers);
        Ok(findings)
    })
    .await?;
    progress.finish_and_clear();
    let failed: Vec<&str> =
        findings.iter().filter(|finding| finding.is_violated()).map(|finding| finding.name).collect();
    if args.json {
        let audit = if failed.is_empty() { json!("ok") } else { json!(failed) };
        print_json(&json!({ "audit": audit, "checks": findings }))?;
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!(
            "audit failed: {}. Stop the workers; docs/monitoring.md, PayonceAuditFailed, says what to do next",
            failed.join(", ")
        ))),
    }
}

fn print(finding: &Finding) {
    if let Some(why) = &finding.skipped {
        let skipped = style::out(Style::Attention, "skipped");
        say!("{skipped} {}: {}; {}", finding.name, finding.promise, table::safe(why));
        return;
    }
    let rows = match finding.skipped_rows {
        0 => String::new(),
        rows => {
            let rows = table::count(rows, "row");
            format!("; {rows} skipped, written before the schema kept what this needs")
        }
    };
    if !finding.is_violated() {
        say!("{}      {}: {}{rows}", style::out(Style::Good, "ok"), finding.name, finding.promise);
        return;
    }
    let failed = style::out(Style::Bad, "FAILED");
    say!(
        "{failed}  {}: {}; {}{rows}",
        finding.name,
        finding.promise,
        table::count(finding.violations, "violation")
    );
    for example in &finding.examples {
        say!("          {}", table::safe(example));
    }
}

fn timestamp(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected an RFC 3339 time such as 2026-11-22T00:00:00Z".to_owned())
}
