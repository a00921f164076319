//! What the audit of a chaos run looks at beside ledger and plan: acknowledgements, Redis, row versions, sessions, logs.

use std::{
    collections::{HashMap, HashSet},
    time::UNIX_EPOCH,
};

use anyhow::Context;
use serde_json::Value;
use sqlx::PgConnection;

use super::{site::PASSWORD, witness::Acked};
use crate::{
    audit::Audit,
    body,
    plan::{Fate, Plan},
};

/// (source, event id) to the transaction that wrote the row.
pub type RowVersions = HashMap<(String, String), String>;

/// The key of each event of a plan that another event of the same fact has, and of that one this.
pub type Twins = HashMap<(String, String), (String, String)>;

/// Those of a plan.
pub fn twins(plan: &Plan) -> Twins {
    let mut twins = Twins::new();
    for one in &plan.distinct {
        if let Fate::Twin(first) = one.fate {
            let (first, second) = (body::key(plan, &plan.distinct[first as usize]), body::key(plan, one));
            twins.insert(first.clone(), second.clone());
            twins.insert(second, first);
        }
    }
    twins
}

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

/// Messages whose acknowledgement reached the broker before the row that they depend on was committed: of a contradiction or what has no key
/// the one with the same body in quarantine, else the first one with the same key in ledger or quarantine (one that names no account can be
/// stored as waiting at the moment at which its copy is applied); of an event whose fact is applied under another event's key, that one's
/// (`twins`). Keys that a failover has `lost` are left out.
pub async fn acknowledged_early(
    database: &mut PgConnection,
    acked: Vec<Acked>,
    lost: &HashSet<(String, String)>,
    twins: &Twins,
) -> anyhow::Result<Vec<String>> {
    anyhow::ensure!(!acked.is_empty(), "no acknowledgement was seen");
    let us = |column: &str| format!("(extract(epoch from {column}) * 1000000)::bigint");
    // A case's row is written again with each copy; it cannot be committed before it says that it was first seen.
    let sql = format!(
        "select source, event_id, null::bytea, {} from ledger
         union all
         select coalesce(source, ''), coalesce(event_id, ''),
                case when event_id is null or reason in ('payload_mismatch', 'bad_signature', 'malformed') then body end, {}
         from quarantine",
        us("pg_xact_commit_timestamp(xmin)"),
        us("first_seen_at")
    );
    let rows: Vec<(String, String, Option<Vec<u8>>, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(database)
        .await
        .context("commits cannot be read")?;
    let mut by_key: HashMap<(String, String), i64> = HashMap::new();
    let mut by_body: HashMap<Vec<u8>, i64> = HashMap::new();
    for (source, event_id, body, at_us) in rows {
        let first = by_key.entry((source, event_id)).or_insert(at_us);
        *first = at_us.min(*first);
        by_body.extend(body.map(|body| (body, at_us)));
    }
    let mut early = Vec::new();
    for Acked { body, at } in acked {
        let key = key_of(&body);
        let twin = key.as_ref().and_then(|key| twins.get(key));
        if [key.as_ref(), twin].into_iter().flatten().any(|key| lost.contains(key)) {
            continue;
        }
        let of_key = || by_key.get(key.as_ref()?).or_else(|| by_key.get(twin?));
        let committed = by_body.get(&body).or_else(of_key).copied();
        let acked_us = i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros())?;
        if committed.is_none_or(|committed| committed > acked_us) {
            early.push(format!("{key:?}: acknowledged at {acked_us}, committed at {committed:?}"));
        }
    }
    Ok(early)
}

fn key_of(body: &[u8]) -> Option<(String, String)> {
    let event: Value = serde_json::from_slice(body).ok()?;
    Some((event.get("source")?.as_str()?.to_owned(), event.get("id")?.as_str()?.to_owned()))
}

/// A violation where there are any.
pub fn any(what: &str, count: u64) -> Vec<String> {
    if count == 0 { Vec::new() } else { vec![format!("{count} {what}")] }
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

/// Every done marker has its ledger row, and every key has an end. What a failover or a restore lost was sent again.
pub async fn redis(url: &str, database: &mut PgConnection, audit: &mut Audit) -> anyhow::Result<()> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("select source, event_id from ledger").fetch_all(&mut *database).await?;
    let rows: HashSet<String> =
        rows.into_iter().map(|(source, id)| format!("{}:{source}:{id}", source.len())).collect();
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let names: Vec<String> = redis::cmd("KEYS").arg("*payonce:*").query_async(&mut connection).await?;
    let (mut without_row, mut without_end) = (Vec::new(), Vec::new());
    // The mark of the balance cache: one for each prefix.
    for name in names.into_iter().filter(|name| !name.ends_with("payonce:balances")) {
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut connection).await?;
        let value: Option<Vec<u8>> = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&name).query_async(&mut connection).await?,
            _ => None,
        };
        let left_ms: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await?;
        // -1: no end; -2: it has ended since it was listed.
        if left_ms == -1 {
            without_end.push(name.clone());
        }
        let is_done = value.is_some_and(|value| value.starts_with(b"done:"));
        let Some((_, key)) = name.split_once("payonce:key:").filter(|_| is_done) else { continue };
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
