//! The audit of a run: the database against the plan, with SQL and arithmetic that payonce has no part in.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use crate::{
    body,
    latency::{Latencies, Percentiles},
    plan::{Distinct, Kind, Plan, Sending},
};

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
    pub duplicates: BTreeMap<String, u64>,
    pub latency: Percentiles,
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
    let mut audit = money(database, plan, published_at_us).await?;
    check_quarantine(database, plan, copies, &mut audit).await?;
    check_counts(database, plan, copies, &mut audit).await?;
    Ok(audit)
}

/// The part of the audit that holds for anything that writes these tables: ledger, accounts and payments.
pub async fn money(
    database: &mut PgConnection,
    plan: &Plan,
    published_at_us: &[u64],
) -> anyhow::Result<Audit> {
    let mut audit = Audit::default();
    let expected = Expected::of(plan);
    check_ledger(database, plan, &expected, published_at_us, &mut audit).await?;
    check_accounts(database, plan, &expected, &mut audit).await?;
    check_chains(database, &mut audit).await?;
    check_payments(database, expected.payments, &mut audit).await?;
    Ok(audit)
}

/// What the plan's arithmetic says.
struct Expected {
    balances: Vec<i128>,
    held: Vec<i64>,
    rows: Vec<i64>,
    applied: HashMap<(String, String), u32>,
    /// By source and payment id.
    payments: HashMap<(String, String), Payment>,
}

/// Where a payment ends, whatever the order of its callbacks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Payment {
    account: String,
    authorized: i64,
    captured: i64,
    refunded: i64,
    state: &'static str,
}

impl Expected {
    fn of(plan: &Plan) -> Self {
        let accounts = plan.accounts as usize;
        let mut expected = Self {
            balances: vec![0; accounts],
            held: vec![0; accounts],
            rows: vec![0; accounts],
            applied: HashMap::new(),
            payments: HashMap::new(),
        };
        for one in plan.distinct.iter().filter(|one| one.poison.is_none()) {
            expected.balances[one.account as usize] += i128::from(delta(one));
            expected.rows[one.account as usize] += 1;
            let key = body::key(plan, one);
            if let Some(payment_id) = body::payment_id(one) {
                expected.payments.entry((key.0.clone(), payment_id)).or_default().add(one);
            }
            expected.applied.insert(key, one.number);
        }
        for payment in expected.payments.values() {
            if payment.state == "authorized" {
                let number: usize = payment.account.trim_start_matches("acct-").parse().unwrap_or(usize::MAX);
                expected.held[number] += payment.authorized - payment.captured;
            }
        }
        expected
    }
}

impl Payment {
    fn add(&mut self, one: &Distinct) {
        self.account = body::account(one.account);
        let state = match one.kind {
            Kind::Deposit => return,
            Kind::Authorized => {
                self.authorized = one.amount;
                "authorized"
            }
            Kind::Captured => {
                self.captured += one.amount;
                if one.is_final { "captured" } else { "authorized" }
            }
            Kind::Succeeded => {
                self.captured = one.amount;
                "succeeded"
            }
            Kind::Refunded => {
                self.refunded += one.amount;
                self.state
            }
            Kind::Voided => "voided",
            Kind::Failed => "failed",
        };
        // Callbacks of a story stand in the plan in their natural order; nothing ends what a final capture has ended.
        if self.state != "captured" {
            self.state = state;
        }
        if self.state == "authorized" && self.captured == self.authorized {
            self.state = "captured";
        }
    }
}

fn delta(one: &Distinct) -> i64 {
    match one.kind {
        Kind::Deposit => one.amount,
        Kind::Refunded => one.amount,
        Kind::Succeeded | Kind::Captured => -one.amount,
        Kind::Failed | Kind::Authorized | Kind::Voided => 0,
    }
}

async fn check_ledger(
    database: &mut PgConnection,
    plan: &Plan,
    expected: &Expected,
    published_at_us: &[u64],
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let (mut unexpected, mut wrong, mut twice) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = vec![false; plan.distinct.len()];
    let mut latencies = Latencies::new()?;
    let mut rows = sqlx::query(
        "select source, event_id, type, account_id, payment_id, operation_id, amount, currency, balance_delta, held_delta,
                held_after, (extract(epoch from recorded_at) * 1000000)::bigint as recorded_at_us
         from ledger",
    )
    .fetch(database);
    while let Some(row) = rows.try_next().await.context("the ledger cannot be read")? {
        audit.applied += 1;
        let key: (String, String) = (row.try_get("source")?, row.try_get("event_id")?);
        let Some(one) = expected.applied.get(&key).map(|number| &plan.distinct[*number as usize]) else {
            unexpected.push(format!("{key:?} is in the ledger, but the plan has no such sound callback"));
            continue;
        };
        if std::mem::replace(&mut seen[one.number as usize], true) {
            twice.push(format!("{key:?} is in the ledger twice"));
        }
        // What a callback of a story holds or releases depends on the order; the account's and payment's ends do not.
        let held_delta = if one.story.is_none() { row.try_get("held_delta")? } else { 0 };
        let mut texts: [Option<String>; 5] = Default::default();
        for (text, column) in
            texts.iter_mut().zip(["type", "account_id", "payment_id", "operation_id", "currency"])
        {
            *text = row.try_get(column)?;
        }
        let found: (_, i64, i64, i64) =
            (texts, row.try_get("amount")?, row.try_get("balance_delta")?, held_delta);
        let texts = [
            Some(body::type_name(one.kind).to_owned()),
            Some(body::account(one.account)),
            body::payment_id(one),
            body::operation_id(one),
            Some(body::currency(one.account).to_owned()),
        ];
        let planned = (texts, one.amount, delta(one), 0);
        if found != planned {
            wrong.push(format!("{key:?}: planned {planned:?}, found {found:?}"));
        }
        let recorded_at_us = u64::try_from(row.try_get::<i64, _>("recorded_at_us")?).unwrap_or(0);
        latencies.record_us(recorded_at_us.saturating_sub(published_at_us[one.number as usize]));
    }
    let missing = plan.distinct.iter().filter(|one| one.poison.is_none() && !seen[one.number as usize]);
    audit.check(
        "every_sound_callback_is_applied",
        missing.map(|one| format!("{:?}", body::key(plan, one))).collect(),
    );
    audit.check("nothing_is_applied_twice", twice);
    audit.check("nothing_is_invented", unexpected);
    audit.check("rows_say_what_was_published", wrong);
    audit.latency = latencies.percentiles();
    Ok(())
}

async fn check_accounts(
    database: &mut PgConnection,
    plan: &Plan,
    expected: &Expected,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let rows: Vec<(String, String, i64, i64, i64)> =
        sqlx::query_as("select account_id, currency, balance, held, version from accounts")
            .fetch_all(&mut *database)
            .await
            .context("accounts cannot be read")?;
    let mut found: HashMap<String, (String, i64, i64, i64)> = rows
        .into_iter()
        .map(|(id, currency, balance, held, version)| (id, (currency, balance, held, version)))
        .collect();
    let mut wrong = Vec::new();
    let mut total = 0_i128;
    let sums = expected.balances.iter().zip(&expected.held).zip(&expected.rows);
    for (number, ((balance, held), rows)) in (0..plan.accounts).zip(sums) {
        let id = body::account(number);
        let planned = (body::currency(number).to_owned(), i64::try_from(*balance)?, *held, *rows);
        total += balance;
        match found.remove(&id) {
            Some(found) if found == planned => {}
            found => wrong.push(format!(
                "{id}: planned (currency, balance, held, version) {planned:?}, found {found:?}"
            )),
        }
    }
    wrong.extend(found.into_keys().map(|id| format!("{id}: exists, but the plan has no such account")));
    audit.check("balances_are_the_plans_sums", wrong);
    let sum: String = sqlx::query_scalar("select coalesce(sum(balance), 0)::text from accounts")
        .fetch_one(database)
        .await?;
    let wrong = (sum != total.to_string()).then(|| format!("planned {total}, found {sum}"));
    audit.check("the_total_is_the_plans_total", wrong.into_iter().collect());
    Ok(())
}

/// Each account's rows are a chain: versions without gap, each balance the one before plus the delta.
async fn check_chains(database: &mut PgConnection, audit: &mut Audit) -> anyhow::Result<()> {
    for (name, sql) in [
        (
            "versions_have_no_gap",
            "select account_id || ' version ' || account_version from (
                 select account_id, account_version, row_number() over (partition by account_id order by account_version) as place
                 from ledger) rows where place <> account_version",
        ),
        (
            "each_balance_follows_the_one_before",
            "select account_id || ' version ' || account_version from (
                 select account_id, account_version, balance_after,
                        sum(balance_delta::numeric) over (partition by account_id order by account_version) as running
                 from ledger) rows where running <> balance_after or balance_after < 0",
        ),
        (
            "each_hold_follows_the_one_before",
            "select account_id || ' version ' || account_version from (
                 select account_id, account_version, held_after, balance_after,
                        sum(held_delta::numeric) over (partition by account_id order by account_version) as running
                 from ledger) rows where running <> held_after or held_after < 0 or held_after > balance_after",
        ),
        (
            "balances_are_the_ledgers_sums",
            "select a.account_id from accounts a
             where a.balance <> (select coalesce(sum(l.balance_delta::numeric), 0) from ledger l where l.account_id = a.account_id)",
        ),
        (
            "operations_moved_money_once",
            "select source || ' ' || type || ' ' || operation_id from ledger where operation_id is not null
             group by source, type, operation_id having count(*) > 1",
        ),
    ] {
        audit.check(name, sqlx::query_scalar(sql).fetch_all(&mut *database).await.context(name)?);
    }
    Ok(())
}

async fn check_payments(
    database: &mut PgConnection,
    mut planned: HashMap<(String, String), Payment>,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let rows: Vec<(String, String, String, i64, i64, i64, String)> = sqlx::query_as(
        "select source, payment_id, account_id, authorized, captured, refunded, state from payments",
    )
    .fetch_all(database)
    .await
    .context("payments cannot be read")?;
    let mut wrong = Vec::new();
    for (source, id, account, authorized, captured, refunded, state) in rows {
        let key = (source, id);
        let Some(planned) = planned.remove(&key) else {
            wrong.push(format!("{key:?}: exists, but the plan has no such payment"));
            continue;
        };
        let found = (&account, authorized, captured, refunded, state.as_str());
        let end = (&planned.account, planned.authorized, planned.captured, planned.refunded, planned.state);
        if found != end {
            wrong.push(format!("{key:?}: planned {end:?}, found {found:?}"));
        }
    }
    wrong.extend(planned.into_iter().map(|(key, planned)| format!("{key:?}: planned {planned:?}, missing")));
    audit.check("payments_end_as_the_plan_says", wrong);
    Ok(())
}

async fn check_quarantine(
    database: &mut PgConnection,
    plan: &Plan,
    copies: Copies,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let rows: Vec<(Vec<u8>, String, String, i32)> =
        sqlx::query_as("select body, reason, state, attempts from quarantine").fetch_all(database).await?;
    // What each bad message's copies look like is the same to the byte, so the body finds the case.
    let mut cases: HashMap<Vec<u8>, Vec<(String, String, i32)>> = HashMap::new();
    for (body, reason, state, attempts) in rows {
        // It waited, and is in the ledger now, where it is checked.
        if state == "replayed" {
            audit.waited += 1;
            continue;
        }
        *audit.quarantined.entry(reason.clone()).or_default() += 1;
        let attempts = if copies == Copies::AsPlanned { attempts } else { attempts.min(1) };
        cases.entry(body).or_default().push((reason, state, attempts));
    }
    let mut times: HashMap<u32, i32> = HashMap::new();
    for sending in plan.sendings() {
        *times.entry(sending.distinct).or_default() += 1;
    }
    let mut wrong = Vec::new();
    for one in &plan.distinct {
        let Some(poison) = one.poison else { continue };
        let (_, body) = body::message(plan, Sending { distinct: one.number, way: None }, 0);
        let planned = vec![(
            poison.reason().to_owned(),
            "open".to_owned(),
            if copies == Copies::AsPlanned { times.get(&one.number).copied().unwrap_or(0) } else { 1 },
        )];
        match cases.remove(&body) {
            Some(found) if found == planned => {}
            found => wrong
                .push(format!("message {} ({poison:?}): planned {planned:?}, found {found:?}", one.number)),
        }
    }
    wrong.extend(cases.into_values().map(|cases| format!("a case that the plan does not name: {cases:?}")));
    audit.check("every_bad_message_is_one_case_with_its_reason_and_body", wrong);
    Ok(())
}

/// The counts that payonce keeps agree with the rows and with what was published.
async fn check_counts(
    database: &mut PgConnection,
    plan: &Plan,
    copies: Copies,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("select kind, label, sum(n)::bigint from tallies group by kind, label")
            .fetch_all(database)
            .await?;
    let (mut applied, mut quarantined) = (0, 0);
    for (kind, label, n) in rows {
        let n = u64::try_from(n).unwrap_or(0);
        match kind.as_str() {
            "duplicate" => *audit.duplicates.entry(label).or_default() += n,
            "quarantined" => quarantined += n,
            _ => applied += n,
        }
    }
    let duplicates: u64 = audit.duplicates.values().sum();
    let copies = match copies {
        Copies::AsPlanned => (plan.published() - plan.distinct.len()) as u64,
        Copies::AtLeast(copies) if duplicates < copies => copies,
        Copies::AtLeast(_) => duplicates,
    };
    let mut wrong = Vec::new();
    for (what, counted, found) in [
        ("applied", applied, audit.applied),
        ("quarantined", quarantined, audit.quarantined.values().sum::<u64>() + audit.waited),
        ("duplicates", duplicates, copies),
    ] {
        if counted != found {
            wrong.push(format!("{what}: counted {counted}, there are {found}"));
        }
    }
    audit.check("every_copy_is_counted_in_a_layer", wrong);
    Ok(())
}
