//! `payonce audit`.

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Failure,
    paint::{self, Ink},
    print_json, progress, table, with_database,
};
use crate::{
    app,
    config::Config,
    store::{self, CHECKS, Finding, PgConnection, StoreError},
};

/// Violations that are shown.
const EXAMPLES_MAX: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look only at what was recorded from then on, where a check would read the whole ledger: RFC 3339, such as
    /// 2026-11-22T00:00:00Z. The checks that are about the whole ledger are left out.
    #[arg(long, value_parser = timestamp, value_name = "TIME")]
    since: Option<OffsetDateTime>,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    // And one for the markers.
    let progress = progress::bar(Some(CHECKS.len() as u64 + 1), "{wide_bar} {pos}/{len} checks, {elapsed}");
    let show = |finding: &Finding| {
        if !args.json {
            progress.suspend(|| print(finding));
        }
        progress.inc(1);
    };
    let (findings, markers) = with_database(config, async |connection| {
        let findings = store::audit(connection, args.since, show).await?;
        Ok((findings, markers(config, connection).await?))
    })
    .await?;
    progress.finish_and_clear();
    let mut findings = findings;
    match markers {
        Ok(finding) => {
            if !args.json {
                print(&finding);
            }
            findings.push(finding);
        }
        Err(why) => eprintln!("payonce: done markers were not checked: {why}"),
    }
    let failed: Vec<&str> =
        findings.iter().filter(|finding| !finding.ok).map(|finding| finding.name).collect();
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

/// Every done marker has its ledger row. One without names a callback that was committed and acknowledged, and that this database does
/// not have: it was restored, or lost commits. (Or Redis was restored, or written to by somebody else.) No marker can hide a payment;
/// this says which payments to ask the provider for again. Words where Redis cannot be asked: the rest of the audit stands without it.
async fn markers(
    config: &Config,
    connection: &mut PgConnection,
) -> Result<Result<Finding, String>, StoreError> {
    let dedupe = match app::dedupe(config) {
        Ok(dedupe) => dedupe,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (mut missing, mut examples) = (0, Vec::new());
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let (remembered, next) = match dedupe.markers(at).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(format!("Redis: {error}"))),
        };
        let without = store::not_in_ledger(connection, &remembered).await?;
        missing += without.len();
        let shown = EXAMPLES_MAX.saturating_sub(examples.len());
        examples.extend(without.iter().take(shown).map(ToString::to_string));
        cursor = next;
    }
    Ok(Ok(Finding {
        name: "markers_have_rows",
        promise: "every callback that Redis remembers as committed has its ledger row",
        ok: missing == 0,
        violations: i64::try_from(missing).unwrap_or(i64::MAX),
        examples,
    }))
}

fn print(finding: &Finding) {
    if finding.ok {
        say!("{}      {}: {}", paint::out(Ink::Good, "ok"), finding.name, finding.promise);
        return;
    }
    let failed = paint::out(Ink::Bad, "FAILED");
    say!("{failed}  {}: {}; {} violations", finding.name, finding.promise, finding.violations);
    for example in &finding.examples {
        say!("          {}", table::safe(example));
    }
}

fn timestamp(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected an RFC 3339 time such as 2026-11-22T00:00:00Z".to_owned())
}
