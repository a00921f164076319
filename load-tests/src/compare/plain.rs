//! A ceiling that is nobody's program: the ledger rows of the plan inserted, their accounts brought up to date, committed, a thousand rows at
//! a time. No rule, no guard, no look at anything, no case, payment or count is written.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Instant,
};

use anyhow::Context;
use sqlx::{Connection, FromRow, PgConnection};
use tokio::task::JoinSet;

use crate::place::Place;

/// Rows of one transaction.
const ROWS_MAX: usize = 1_000;

/// A ledger row, as some runner has written it.
#[derive(Debug, Clone, FromRow)]
pub struct LedgerRow {
    source: String,
    event_id: String,
    leg: i16,
    r#type: String,
    account_id: String,
    account_version: i64,
    payment_id: Option<String>,
    operation_id: Option<String>,
    amount: i64,
    currency: String,
    balance_delta: i64,
    held_delta: i64,
    balance_after: i64,
    held_after: i64,
    payload_sha256: Vec<u8>,
    occurred_at: Option<String>,
    members: Option<String>,
}

/// The ledger's rows in the order in which they were written.
pub async fn ledger_rows(database: &mut PgConnection) -> anyhow::Result<Vec<LedgerRow>> {
    sqlx::query_as(
        "select source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency, balance_delta,
                held_delta, balance_after, held_after, payload_sha256, occurred_at::text, members::text
         from ledger order by txn, account_id, account_version",
    )
    .fetch_all(database)
    .await
    .context("the ledger cannot be read")
}

/// Writes them over so many connections, the rows of an account over one, in their order. Returns the seconds.
pub async fn write(place: &Place, connections: u16, rows: Vec<LedgerRow>) -> anyhow::Result<f64> {
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    let mut by_connection: Vec<Vec<LedgerRow>> = vec![Vec::new(); usize::from(connections)];
    for row in rows {
        let at = hasher.hash_one(&row.account_id) % u64::from(connections);
        by_connection[usize::try_from(at)?].push(row);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for rows in by_connection {
        let url = place.database_url.clone();
        tasks.spawn(async move {
            let mut connection = PgConnection::connect(&url).await.context("PAYONCE_DATABASE_URL")?;
            for rows in rows.chunks(ROWS_MAX) {
                write_once(&mut connection, rows).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn write_once(connection: &mut PgConnection, rows: &[LedgerRow]) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "insert into ledger (source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency,
                             balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at, members)
         select unnest($1::text[]), unnest($2::text[]), unnest($3::smallint[]), unnest($4::text[]), unnest($5::text[]),
                unnest($6::bigint[]), unnest($7::text[]), unnest($8::text[]), unnest($9::bigint[]), unnest($10::text[]),
                unnest($11::bigint[]), unnest($12::bigint[]), unnest($13::bigint[]), unnest($14::bigint[]),
                unnest($15::bytea[]), unnest($16::text[])::timestamptz, unnest($17::text[])::jsonb",
    )
    .bind(rows.iter().map(|row| row.source.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.event_id.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.leg).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.r#type.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.account_id.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.account_version).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.payment_id.as_deref()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.operation_id.as_deref()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.amount).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.currency.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.balance_delta).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.held_delta).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.balance_after).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.held_after).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.payload_sha256.as_slice()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.occurred_at.as_deref()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.members.as_deref()).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    let last: HashMap<&str, &LedgerRow> = rows.iter().map(|row| (row.account_id.as_str(), row)).collect();
    let last = || last.values();
    sqlx::query(
        "insert into accounts (account_id, currency, balance, held, version)
         select unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::bigint[]), unnest($5::bigint[])
         on conflict (account_id) do update set balance = excluded.balance, held = excluded.held, version = excluded.version",
    )
    .bind(last().map(|row| row.account_id.as_str()).collect::<Vec<_>>())
    .bind(last().map(|row| row.currency.as_str()).collect::<Vec<_>>())
    .bind(last().map(|row| row.balance_after).collect::<Vec<_>>())
    .bind(last().map(|row| row.held_after).collect::<Vec<_>>())
    .bind(last().map(|row| row.account_version).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// What is in the database and not among these rows, or the other way round: (account, version, balance, held) of each ledger row and account.
pub async fn differences(database: &mut PgConnection, rows: &[LedgerRow]) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let found = ledger_rows(database).await?;
    if found.len() != rows.len() {
        wrong.push(format!("{} ledger rows in place of {}", found.len(), rows.len()));
    }
    let mut last: HashMap<&str, (i64, i64, i64)> = HashMap::new();
    for row in rows {
        last.insert(&row.account_id, (row.account_version, row.balance_after, row.held_after));
    }
    let accounts: Vec<(String, i64, i64, i64)> =
        sqlx::query_as("select account_id, version, balance, held from accounts where version > 0")
            .fetch_all(database)
            .await
            .context("accounts cannot be read")?;
    for (account, version, balance, held) in accounts {
        let expected = last.remove(account.as_str());
        if expected != Some((version, balance, held)) {
            wrong.push(format!("{account}: {:?} in place of {expected:?}", (version, balance, held)));
        }
    }
    wrong.extend(last.into_keys().map(|account| format!("{account} is missing")));
    Ok(wrong)
}
