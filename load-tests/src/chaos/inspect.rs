//! What the audit of a chaos run looks at beside ledger and plan: Redis, row versions, sessions, logs.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use sqlx::PgConnection;

use super::site::PASSWORD;
use crate::audit::Audit;

/// (source, event id) to the transaction that wrote the row.
pub type RowVersions = HashMap<(String, String), String>;

/// Which transaction wrote each ledger row.
pub async fn row_versions(database: &mut PgConnection) -> anyhow::Result<RowVersions> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("select source, event_id, xmin::text from ledger").fetch_all(database).await?;
    Ok(rows.into_iter().map(|(source, id, version)| ((source, id), version)).collect())
}

/// Rows that are gone or were written again since.
pub async fn changed_rows(database: &mut PgConnection, before: RowVersions) -> anyhow::Result<Vec<String>> {
    let now = row_versions(database).await?;
    let changed = before.into_iter().filter(|(key, version)| now.get(key) != Some(version));
    Ok(changed.map(|(key, version)| format!("{key:?}: was {version}, is {:?}", now.get(&key))).collect())
}

/// Workers' sessions that are idle inside a transaction.
pub async fn sessions(database: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    sqlx::query_scalar(
        "select application_name || ': ' || state from pg_stat_activity
         where state like 'idle in transaction%' and state_change < clock_timestamp() - interval '1 second'
           and datname = current_database()",
    )
    .fetch_all(database)
    .await
    .context("sessions cannot be read")
}

/// Every done marker of the database's present history has its ledger row, and every key has an end.
pub async fn redis(url: &str, database: &mut PgConnection, audit: &mut Audit) -> anyhow::Result<()> {
    let history: String = sqlx::query_scalar(
        "select system_identifier || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '-' from pg_control_system()",
    )
    .fetch_one(&mut *database)
    .await?;
    let rows: Vec<(String, String)> =
        sqlx::query_as("select source, event_id from ledger").fetch_all(&mut *database).await?;
    let rows: HashSet<String> =
        rows.into_iter().map(|(source, id)| format!("{}:{source}:{id}", source.len())).collect();
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let names: Vec<String> = redis::cmd("KEYS").arg("*payonce:*").query_async(&mut connection).await?;
    let (mut without_row, mut without_end) = (Vec::new(), Vec::new());
    for name in names {
        let value: Option<Vec<u8>> = redis::cmd("GET").arg(&name).query_async(&mut connection).await?;
        let left_ms: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await?;
        // -1: no end; -2: it has ended since it was listed.
        if left_ms == -1 {
            without_end.push(name.clone());
        }
        let is_done = value.is_some_and(|value| value.starts_with(b"done:"));
        let Some((_, rest)) = name.split_once(&history).filter(|_| is_done) else { continue };
        // Behind the history: database, storage, then the key.
        let key = rest.split_once(':').map(|(_, key)| key).unwrap_or_default();
        if !rows.contains(key) {
            without_row.push(name);
        }
    }
    audit.check("every_done_marker_has_its_ledger_row", without_row);
    audit.check("every_key_in_redis_has_an_end", without_end);
    Ok(())
}

/// Lines that hold the password of an address.
pub fn secrets(logs: &str) -> Vec<String> {
    let lines = logs.lines().filter(|line| line.contains(PASSWORD));
    lines.map(|line| line.replace(PASSWORD, "[password]")).collect()
}
