//! What a run reports: one JSON object, or a table for people.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;
use serde_json::Value;

use crate::{
    audit::Audit,
    cli::ReplayArgs,
    latency::Percentiles,
    plan::{Plan, Way},
};

/// The figures of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    published: usize,
    distinct: usize,
    applied: u64,
    quarantined: u64,
    quarantined_by_reason: BTreeMap<String, u64>,
    /// Applied after they had waited in quarantine for another callback.
    waited: u64,
    /// Ended in quarantine, because their fact was applied under another event.
    ended_by_twin: u64,
    /// Holds that were released because their time was up; not published by anybody.
    holds_expired: u64,
    /// Rejected, per layer.
    duplicates: BTreeMap<String, u64>,
    duplicates_total: u64,
    /// Copies in the plan, per way of coming.
    copies_by_way: BTreeMap<&'static str, usize>,
    /// Accounts whose part of a batch was decided again, because a concurrent writer was first.
    conflicts: u64,
    seconds: f64,
    per_second: f64,
    latency_ms: Percentiles,
    /// `"ok"`, or the violations.
    audit: Value,
    seed: u64,
    accounts: u32,
    workers: u32,
    hot: f64,
    poison: f64,
    lifecycle: f64,
    rate: u32,
    prefill: bool,
    /// Whether each message was signed and verified (`required`), or not (`off`).
    signatures: String,
    /// Whether workers masked card numbers in what cases keep: never in load tests, whose audit compares the bytes.
    masks_cards: bool,
}

impl Report {
    pub fn new(args: &ReplayArgs, plan: &Plan, audit: &Audit, seconds: f64) -> Self {
        let mut copies_by_way = BTreeMap::new();
        for way in plan.sendings().filter_map(|sending| sending.way) {
            let name = match way {
                Way::BackToBack => "back_to_back",
                Way::Concurrent => "concurrent",
                Way::Spread => "spread",
                Way::Late => "late",
            };
            *copies_by_way.entry(name).or_default() += 1;
        }
        let violations = audit.violations();
        #[expect(clippy::cast_precision_loss, reason = "at most 10 million callbacks")]
        let per_second = plan.published() as f64 / seconds.max(f64::EPSILON);
        Self {
            published: plan.published(),
            distinct: plan.distinct.len(),
            applied: audit.applied,
            quarantined: audit.quarantined.values().sum(),
            quarantined_by_reason: audit.quarantined.clone(),
            waited: audit.waited,
            ended_by_twin: audit.ended_by_twin,
            holds_expired: audit.holds_expired,
            duplicates: audit.duplicates.clone(),
            duplicates_total: audit.duplicates.values().sum(),
            copies_by_way,
            conflicts: audit.conflicts,
            seconds: (seconds * 1_000.0).round() / 1_000.0,
            per_second: per_second.round(),
            latency_ms: audit.latency,
            audit: if violations.is_empty() { Value::from("ok") } else { Value::from(violations) },
            seed: args.seed,
            accounts: args.accounts,
            workers: args.workers,
            hot: args.hot,
            poison: args.poison,
            lifecycle: args.lifecycle,
            rate: args.rate,
            prefill: args.prefill,
            signatures: args.signatures.clone(),
            masks_cards: false,
        }
    }

    /// Callbacks settled per second.
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Accounts whose part of a batch was decided again, for each 1 000 messages.
    pub fn conflicts_per_thousand(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 10 million callbacks")]
        let share = self.conflicts as f64 / self.published.max(1) as f64;
        share * 1_000.0
    }

    /// `"ok"`, or the violations.
    pub fn audit(&self) -> &Value {
        &self.audit
    }

    /// `required`, or `off`.
    pub fn signatures(&self) -> &str {
        &self.signatures
    }

    /// Median and 99th percentile, in milliseconds; nothing where none was measured.
    pub fn latency(&self) -> String {
        let Percentiles { p50, p99, max } = self.latency_ms;
        if max == 0.0 {
            return String::new();
        }
        format!("{p50:.1}, {p99:.1}")
    }

    /// Whether the audit found nothing.
    pub fn is_ok(&self) -> bool {
        self.audit == "ok"
    }

    pub fn print(&self, json: bool, audit: &Audit) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["replay", ""]);
        let mut line = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        line("published", self.published.to_string());
        line("distinct", self.distinct.to_string());
        line("applied", self.applied.to_string());
        line("applied after waiting", self.waited.to_string());
        line("holds whose time was up", self.holds_expired.to_string());
        line("quarantined", self.quarantined.to_string());
        for (reason, n) in &self.quarantined_by_reason {
            line(&format!("  {reason}"), n.to_string());
        }
        line("duplicates rejected", self.duplicates_total.to_string());
        for (layer, n) in &self.duplicates {
            line(&format!("  by {layer}"), n.to_string());
        }
        line("version conflicts", self.conflicts.to_string());
        line("seconds", format!("{:.2}", self.seconds));
        line("callbacks per second", format!("{:.0}", self.per_second));
        line("latency p50 / p99 / max, ms", {
            let Percentiles { p50, p99, max } = self.latency_ms;
            format!("{p50:.1} / {p99:.1} / {max:.1}")
        });
        line("workers, seed", format!("{}, {}", self.workers, self.seed));
        line("signatures, masking of cards", format!("{}, off", self.signatures));
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        audit.print();
        Ok(())
    }
}
