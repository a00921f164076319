//! Removing discarded cases, by the owner of the tables: counted out, so that audits stay right.

use sqlx::PgConnection;

use super::StoreError;
use payonce_ledger::Reason;

/// Cases that one statement removes at most.
const REMOVED_PER_STATEMENT_MAX: i64 = 5_000;

/// Whether this role may remove cases: the owner of the tables may.
///
/// # Errors
/// [`StoreError`].
pub async fn may_remove(connection: &mut PgConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "select has_function_privilege('remove_discarded_cases(text, text, interval, text, text, bigint)', 'execute')
            and has_table_privilege('quarantine', 'delete')",
    )
    .fetch_one(connection)
    .await?)
}

/// Removes discarded cases of this reason (and source) that ended longer ago than `older_than`, a bounded number of them, and counts them out.
/// `(who, why)` is kept with the count. How many it removed; 0: none is left.
///
/// # Errors
/// [`StoreError`]; nothing is half done then.
pub async fn remove_discarded(
    connection: &mut PgConnection,
    reason: Reason,
    source: Option<&str>,
    older_than: time::Duration,
    (who, why): (&str, &str),
) -> Result<u64, StoreError> {
    let removed: i64 =
        sqlx::query_scalar("select remove_discarded_cases($1, $2, make_interval(secs => $3), $4, $5, $6)")
            .bind(reason.as_str())
            .bind(source)
            .bind(older_than.as_seconds_f64())
            .bind(who)
            .bind(why)
            .bind(REMOVED_PER_STATEMENT_MAX)
            .fetch_one(connection)
            .await?;
    Ok(removed.unsigned_abs())
}
