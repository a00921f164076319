//! What is known of cases while they change: which transaction has stored each, and what of it must stay as it was. A case's row is written
//! again with each copy and when it ends, and says neither by itself.

use std::collections::HashMap;

use anyhow::Context;
use sqlx::PgConnection;

/// Keeps the transaction that stores each case. Standbys and snapshots get it with the rest.
pub async fn keep_first_transactions(database: &mut PgConnection) -> anyhow::Result<()> {
    let watch = "create schema chaos;
        create table chaos.cases (id bigint primary key, stored_by xid not null);
        create function chaos.keep() returns trigger language plpgsql security definer set search_path = '' as $$
        begin
            insert into chaos.cases values (new.id, pg_catalog.pg_current_xact_id()::xid);
            return null;
        end $$;
        create trigger chaos_keep after insert on quarantine for each row execute function chaos.keep()";
    sqlx::raw_sql(watch).execute(database).await.context("cases cannot be watched")?;
    Ok(())
}

/// What of a case nobody may change: what came, and when. Who acts on it changes its state, reason and detail, whose it is, how often it came.
const CONSTANT: &str = "source, event_id, body, first_seen_at, fingerprint, type, payment_id, operation_id, amount, currency, members,
    occurred_at, routing_key, headers, properties";

/// Case id to a hash of what is constant.
pub type Constants = HashMap<i64, String>;

async fn read(database: &mut PgConnection) -> anyhow::Result<Constants> {
    let read = format!("select id, md5(row({CONSTANT})::text) from quarantine");
    let rows: Vec<(i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(read)).fetch_all(database).await?;
    Ok(rows.into_iter().collect())
}

/// Adds the cases that are new since; of those that are known the first look counts.
pub async fn add_constants(known: &mut Constants, database: &mut PgConnection) -> anyhow::Result<()> {
    for (id, hash) in read(database).await? {
        known.entry(id).or_insert(hash);
    }
    Ok(())
}

/// Cases that are gone, or of which something constant was changed.
pub async fn changed_cases(database: &mut PgConnection, before: Constants) -> anyhow::Result<Vec<String>> {
    let now = read(database).await?;
    let changed = before.into_iter().filter(|(id, hash)| now.get(id) != Some(hash));
    Ok(changed.map(|(id, _)| format!("case {id} says another thing than before, or is gone")).collect())
}

#[cfg(test)]
pub mod tests {
    //! With the run that the audit's harms are about (`audit::harms`).

    use std::collections::HashSet;

    use super::*;

    /// Each column that must stay is looked at, and none that may change. The database is one of a run's own.
    pub async fn every_change_of_what_came_is_found(database: &mut PgConnection) {
        let mut before = Constants::new();
        add_constants(&mut before, database).await.unwrap();
        assert!(!before.is_empty());
        assert_eq!(changed_cases(database, before.clone()).await.unwrap(), [""; 0]);
        let one = "where id = (select min(id) from quarantine where type is not null)";
        let sets = [
            ("source", "source || 'x'"),
            ("event_id", "event_id || 'x'"),
            ("body", "'\\x00'"),
            ("first_seen_at", "first_seen_at - interval '1 day'"),
            ("fingerprint", "sha256('x')"),
            ("type", "'fee.charged'"),
            ("payment_id", "coalesce(payment_id, '') || 'x'"),
            ("operation_id", "coalesce(operation_id, '') || 'x'"),
            ("amount", "amount + 1"),
            ("currency", "'XXX'"),
            ("members", "'{\"final\": true, \"x\": 1}'"),
            ("occurred_at", "now()"),
            ("routing_key", "coalesce(routing_key, '') || 'x'"),
            ("headers", "coalesce(headers, '') || 'x'"),
            ("properties", "coalesce(properties, '') || 'x'"),
        ];
        let names: Vec<&str> = CONSTANT.split(',').map(str::trim).collect();
        let tried: HashSet<&str> = sets.iter().map(|(column, _)| *column).collect();
        assert_eq!(tried, names.into_iter().collect(), "each column is changed once");
        let delete = format!("delete from quarantine {one}");
        let changes = sets.map(|(column, value)| format!("update quarantine set {column} = {value} {one}"));
        for change in changes.into_iter().chain([delete]) {
            sqlx::raw_sql("begin; set local session_replication_role = replica")
                .execute(&mut *database)
                .await
                .unwrap();
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(change.clone()))
                .execute(&mut *database)
                .await
                .expect(&change);
            assert_eq!(done.rows_affected(), 1, "{change}");
            assert_eq!(changed_cases(database, before.clone()).await.unwrap().len(), 1, "{change}");
            sqlx::raw_sql("rollback").execute(&mut *database).await.unwrap();
        }
        let copies = format!(
            "update quarantine set attempts = attempts + 1, last_seen_at = now(), detail = 'x' {one}"
        );
        sqlx::raw_sql("begin").execute(&mut *database).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(copies)).execute(&mut *database).await.unwrap();
        assert_eq!(changed_cases(database, before).await.unwrap(), [""; 0]);
        sqlx::raw_sql("rollback").execute(&mut *database).await.unwrap();
    }
}
