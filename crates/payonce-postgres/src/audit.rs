//! Checks every stored invariant with SQL of its own, that shares nothing with how plans are made or applied.
//!
//! Each check is a query that returns violations; no row means that the invariant holds. All run on one snapshot, so an audit
//! beside running workers sees whole transactions only. Sums are `numeric`: they cannot overflow.

use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    checks::{CHECKS, Since},
    payloads,
    rows::each,
};
use payonce_ledger::{Fingerprint, Key, Rules};

/// How many violations of one invariant are shown.
const EXAMPLES_MAX: i64 = 5;

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The check.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// Whether it holds; `None`: it was not checked.
    pub ok: Option<bool>,
    /// How many violations.
    pub violations: i64,
    /// The first few.
    pub examples: Vec<String>,
    /// Rows that hold too little to be checked: they were written before the schema kept it.
    #[serde(skip_serializing_if = "is_zero")]
    pub skipped_rows: i64,
    /// Why it was not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Finding {
    /// Of a check that found so many violations, of which these are some.
    #[must_use]
    pub fn of(name: &'static str, promise: &'static str, violations: i64, examples: Vec<String>) -> Self {
        Self {
            name,
            promise,
            ok: Some(violations == 0),
            violations,
            examples,
            skipped_rows: 0,
            skipped: None,
        }
    }

    /// Of a check that could not be made, or was left out.
    #[must_use]
    pub fn skipped(name: &'static str, promise: &'static str, why: String) -> Self {
        Self {
            name,
            promise,
            ok: None,
            violations: 0,
            examples: Vec::new(),
            skipped_rows: 0,
            skipped: Some(why),
        }
    }

    /// Whether it found violations.
    #[must_use]
    pub fn is_violated(&self) -> bool {
        self.ok == Some(false)
    }
}

fn is_zero(count: &i64) -> bool {
    *count == 0
}

/// Runs every check on one snapshot of the database. With `since`, by the database's clock ([`super::now`]), those that would read the
/// whole ledger look only at what was recorded from then on, given that all before it was audited, or are skipped. `each` is told of each finding as it comes.
///
/// # Errors
/// [`StoreError`] where the database cannot be asked; a violation is a finding, not an error.
pub async fn audit(
    connection: &mut PgConnection,
    since: Option<OffsetDateTime>,
    rules: &Rules,
    mut each: impl FnMut(&Finding),
) -> Result<Vec<Finding>, StoreError> {
    let mut transaction = connection.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("select set_config('payonce.over_capture_percent', $1, true)")
        .bind(rules.over_capture_percent.to_string())
        .execute(&mut *transaction)
        .await?;
    let mut findings = Vec::with_capacity(CHECKS.len());
    for check in CHECKS {
        let (sql, bound) = match (since, check.since) {
            (None, _) | (Some(_), Since::Whole) => (check.sql, None),
            (Some(_), Since::Skipped) => {
                let why = "it reads the whole ledger: run the audit without --since".to_owned();
                let finding = Finding::skipped(check.name, check.promise, why);
                each(&finding);
                findings.push(finding);
                continue;
            }
            (Some(since), Since::Sql(sql)) => (sql, Some(since)),
        };
        let mut query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select violation, count(*) over () from ({sql}) v(violation) limit {EXAMPLES_MAX}"
        )));
        if let Some(since) = bound {
            query = query.bind(since);
        }
        let violations: Vec<(String, i64)> = query.fetch_all(&mut *transaction).await?;
        let count = violations.first().map_or(0, |(_, count)| *count);
        let examples = violations.into_iter().map(|(violation, _)| violation).collect();
        let finding = Finding::of(check.name, check.promise, count, examples);
        each(&finding);
        findings.push(finding);
    }
    let finding = payloads::check(&mut transaction, since).await?;
    each(&finding);
    findings.push(finding);
    transaction.rollback().await?;
    Ok(findings)
}

/// Rows of the ledger that were recorded at `since` or later.
///
/// # Errors
/// [`StoreError`].
pub async fn rows_since(connection: &mut PgConnection, since: OffsetDateTime) -> Result<i64, StoreError> {
    let sql = "select count(*) from ledger where recorded_at >= $1";
    Ok(sqlx::query_scalar(sql).bind(since).fetch_one(connection).await?)
}

/// Whether the ledger has no row of this key and content, of a row `k` with `source`, `event_id` and `payload_sha256`.
macro_rules! is_not_in_ledger {
    () => {
        "not exists (select from ledger l where l.event_id = k.event_id and l.source = k.source
                       and l.payload_sha256 = k.payload_sha256 offset 0)"
    };
}
pub(crate) use is_not_in_ledger;

/// Of callbacks that done markers remember (key, payload hash), those that are not in the ledger with this content. One look at the
/// index of keys for each, whatever PostgreSQL believes about the table.
///
/// # Errors
/// [`StoreError`].
pub async fn not_in_ledger(
    connection: &mut PgConnection,
    remembered: &[(Key, Fingerprint)],
) -> Result<Vec<Key>, StoreError> {
    let missing: Vec<i64> = sqlx::query_scalar(concat!(
        "select k.ord
         from unnest($1::text[], $2::text[], $3::bytea[]) with ordinality as k(source, event_id, payload_sha256, ord)
         where ",
        is_not_in_ledger!()
    ))
    .bind(each(remembered, |(key, _)| key.source.as_str()))
    .bind(each(remembered, |(key, _)| key.event_id.as_str()))
    .bind(each(remembered, |(_, fingerprint)| &fingerprint.0[..]))
    .fetch_all(connection)
    .await?;
    let at = |ord: &i64| usize::try_from(ord - 1).ok().and_then(|at| remembered.get(at));
    Ok(missing.iter().filter_map(at).map(|(key, _)| key.clone()).collect())
}
