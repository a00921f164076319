//! What a run reports: one JSON object, or a table for people.

use std::collections::BTreeMap;

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use crate::{
    arguments::ReplayArgs,
    audit::Audit,
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
    /// What PostgreSQL wrote ahead for each row of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    wal_per_row: Option<WalPerRow>,
    latency_ms: Percentiles,
    /// `"ok"`, or the violations.
    audit: Value,
    seed: u64,
    accounts: u32,
    workers: u32,
    hot: f64,
    poison: f64,
    lifecycle: f64,
    transfers: bool,
    rate: u32,
    prefill: bool,
    /// Whether each message was signed and verified (`required`), or not (`off`).
    signatures: String,
    /// Whether workers masked card numbers in what cases keep: never in load tests, whose audit compares the bytes.
    masks_cards: bool,
}

/// What the server has written to its write-ahead log, for all of its databases: nothing else may be at work on it.
#[derive(Debug, Clone, Copy)]
pub struct Wal {
    bytes: i64,
    /// Pages written whole, because each was the first change of it after a checkpoint.
    full_page_images: i64,
}

/// Per row of the ledger that the run wrote.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WalPerRow {
    pub bytes: f64,
    pub full_page_images: f64,
}

impl Wal {
    /// So far. The number of full pages lags by up to a second (PostgreSQL: "The Cumulative Statistics System").
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn now(database: &mut PgConnection) -> anyhow::Result<Self> {
        let (bytes, full_page_images) =
            sqlx::query_as("select (pg_current_wal_insert_lsn() - '0/0')::bigint, wal_fpi from pg_stat_wal")
                .fetch_one(database)
                .await
                .context("the write-ahead log's position cannot be read")?;
        Ok(Self { bytes, full_page_images })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            full_page_images: self.full_page_images - before.full_page_images,
        }
    }
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
            wal_per_row: None,
            latency_ms: audit.latency,
            audit: if violations.is_empty() { Value::from("ok") } else { Value::from(violations) },
            seed: args.seed,
            accounts: args.accounts,
            workers: args.workers,
            hot: args.hot,
            poison: args.poison,
            lifecycle: args.lifecycle,
            transfers: args.transfers,
            rate: args.rate,
            prefill: args.prefill,
            signatures: args.signatures.clone(),
            masks_cards: false,
        }
    }

    /// The same, with what was written ahead until all was settled.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a run")]
    pub fn with_wal(self, wal: Wal) -> Self {
        let rows = self.applied.max(1) as f64;
        let wal_per_row = WalPerRow {
            bytes: (wal.bytes as f64 / rows).round(),
            full_page_images: (wal.full_page_images as f64 / rows * 1_000.0).round() / 1_000.0,
        };
        Self { wal_per_row: Some(wal_per_row), ..self }
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

    /// What was written ahead, where it was measured.
    pub fn wal_per_row(&self) -> Option<WalPerRow> {
        self.wal_per_row
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
        if let Some(WalPerRow { bytes, full_page_images }) = self.wal_per_row {
            line("write-ahead log: bytes, full pages, per row", format!("{bytes:.0}, {full_page_images:.2}"));
        }
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
