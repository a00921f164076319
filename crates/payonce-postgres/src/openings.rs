//! "This account is not open", "this opens it" and "this is the next case about it" exclude each other, though there is no row to lock.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::StoreError;
use payonce_ledger::{AccountId, Plan};

/// Serialises "this account is not open" against opening it; any number that no other program on this database uses.
const OPENING_LOCK: i64 = 0x7061_796f_6e63_6501;

/// The newest case about each of these accounts: the guard under which an account is opened.
const NEWEST_CASES: &str = "select k.account_id, q.id as newest
     from unnest($1::text[]) as k(account_id),
          lateral (select q.id from quarantine q where q.account_id = k.account_id order by q.id desc limit 1) q";

/// A row of an unopened account cannot be locked, so "it is not open", "this opens it" and "this is the next case about it" exclude each
/// other by an advisory lock. Openings share it; only a case about an unknown account, which is rare, takes it alone.
///
/// Returns the accounts that another writer opened, or stored a case about, first.
pub(super) async fn guard_openings(
    transaction: &mut PgConnection,
    plan: &Plan,
) -> Result<HashSet<AccountId>, StoreError> {
    let unopened: Vec<&str> = plan.unopened.iter().map(|unopened| unopened.account_id.as_str()).collect();
    let opened = plan.accounts.iter().filter(|change| change.opens);
    let mut decided_on: HashMap<&AccountId, i64> =
        opened.map(|change| (&change.account_id, change.before.cases)).collect();
    decided_on.extend(plan.unopened.iter().map(|unopened| (&unopened.account_id, unopened.cases)));
    if decided_on.is_empty() {
        return Ok(HashSet::new());
    }
    let lock = if unopened.is_empty() {
        "select pg_advisory_xact_lock_shared($1)"
    } else {
        "select pg_advisory_xact_lock($1)"
    };
    sqlx::query(lock).bind(OPENING_LOCK).execute(&mut *transaction).await?;
    let opened_first: HashSet<String> = if unopened.is_empty() {
        HashSet::new()
    } else {
        sqlx::query_scalar("select account_id from accounts where account_id = any($1)")
            .bind(&unopened)
            .fetch_all(&mut *transaction)
            .await?
            .into_iter()
            .collect()
    };
    let ids: Vec<&str> = decided_on.keys().map(|id| id.as_str()).collect();
    let rows = sqlx::query(NEWEST_CASES).bind(&ids).fetch_all(&mut *transaction).await?;
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for row in &rows {
        newest.insert(row.try_get("account_id")?, row.try_get("newest")?);
    }
    let lost = decided_on.into_iter().filter(|(id, case)| {
        opened_first.contains(id.as_str()) || newest.get(id.as_str()).copied().unwrap_or(0) != *case
    });
    Ok(lost.map(|(id, _)| id.clone()).collect())
}

/// Until the end of this transaction nobody else opens an account, or stores a case about one that is not open.
pub(super) async fn hold_openings(transaction: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(OPENING_LOCK).execute(transaction).await?;
    Ok(())
}
