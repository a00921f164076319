//! The audit of a run: the database against the plan, with SQL and arithmetic that payonce has no part in.
//!
//! What the plan leaves open, because it depends on which callback comes first, is read from the ledger, bounded (of one fact or one key
//! one; of those that want the last of the money as many as it is enough for), and counted with from there on.

mod cases;
mod chains;
mod expected;
#[cfg(test)]
pub mod harms;
mod ledger;

use std::collections::BTreeMap;

use sqlx::PgConnection;

use self::{expected::Expected, ledger::Found};
use crate::{latency::Percentiles, plan::Plan};

/// How event ids begin that no plan has: of the messages of the `constant_key` fault, which may only be cases of `payload_mismatch`.
pub const CONSTANT_KEY: &str = "constant_key_";
/// Violations of one check that are shown.
const EXAMPLES_MAX: usize = 5;

/// What the audit found.
#[derive(Debug, Default)]
pub struct Audit {
    checks: Vec<(&'static str, usize, Vec<String>)>,
    pub applied: u64,
    /// Cases that are open or waiting, by reason.
    pub quarantined: BTreeMap<String, u64>,
    /// Callbacks that waited in quarantine before they were applied.
    pub waited: u64,
    /// Callbacks that waited in quarantine until their fact was applied under another event.
    pub ended_by_twin: u64,
    /// Holds that payonce released because their time was up: callbacks of its own.
    pub holds_expired: u64,
    pub duplicates: BTreeMap<String, u64>,
    pub latency: Percentiles,
    /// Accounts whose part of a batch was decided again, because a concurrent writer was first; as workers report it.
    pub conflicts: u64,
}

impl Audit {
    /// Enters a check's violations; none means that it holds.
    pub fn check(&mut self, name: &'static str, violations: Vec<String>) {
        let count = violations.len();
        self.checks.push((name, count, violations.into_iter().take(EXAMPLES_MAX).collect()));
    }

    /// Names of the checks that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.checks.iter().filter(|(_, count, _)| *count > 0).map(|(name, ..)| *name).collect()
    }

    /// Names of all checks.
    #[cfg(test)]
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.checks.iter().map(|(name, ..)| *name)
    }

    /// Every violation that is shown, behind the name of its check.
    pub fn violations(&self) -> Vec<String> {
        self.checks
            .iter()
            .flat_map(|(name, count, examples)| {
                examples.iter().map(move |text| format!("{name} ({count}): {text}"))
            })
            .collect()
    }

    pub fn print(&self) {
        println!("audit against the plan:");
        for (name, count, examples) in &self.checks {
            if *count == 0 {
                println!("  ok      {name}");
            } else {
                println!("  FAILED  {name}: {count} violations");
                examples.iter().for_each(|text| println!("            {text}"));
            }
        }
    }
}

/// How many copies there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Those of the plan.
    AsPlanned,
    /// So many, and no delivery came twice.
    Exactly(u64),
    /// At least so many: publishers and the broker may have sent some again.
    AtLeast(u64),
}

/// Compares everything that is stored with what the plan says must be.
pub async fn run(
    database: &mut PgConnection,
    plan: &Plan,
    published_at_us: &[u64],
    copies: Copies,
) -> anyhow::Result<Audit> {
    let (mut audit, found) = ledger_and_money(database, plan, published_at_us).await?;
    let due = found.payments.values().filter(|payment| payment.is_overdue());
    let due = due.map(|payment| format!("{}: holds {}", payment.account, payment.facts.held()));
    audit.check("holds_whose_time_is_up_are_released", due.collect());
    chains::check_journal(database, &mut audit).await?;
    cases::check(database, plan, &found, copies, &mut audit).await?;
    cases::check_counts(database, plan, &found, copies, &mut audit).await?;
    cases::check_layers(plan, &mut audit);
    Ok(audit)
}

/// The part of the audit that holds for anything that writes these tables: ledger, accounts and payments.
pub async fn money(
    database: &mut PgConnection,
    plan: &Plan,
    published_at_us: &[u64],
) -> anyhow::Result<Audit> {
    Ok(ledger_and_money(database, plan, published_at_us).await?.0)
}

async fn ledger_and_money(
    database: &mut PgConnection,
    plan: &Plan,
    published_at_us: &[u64],
) -> anyhow::Result<(Audit, Found)> {
    let mut audit = Audit::default();
    let found = ledger::check(database, plan, published_at_us, &mut audit).await?;
    let expected = Expected::of(plan, &found);
    expected.check_contenders(plan, &found, &mut audit);
    expected.check_accounts(database, plan, &mut audit).await?;
    expected::check_payments(database, &found, &mut audit).await?;
    chains::check(database, &mut audit).await?;
    Ok((audit, found))
}
