//! How much disk the database takes, and which tables: for alerts on growth. What must not live here: what is removed.

use sqlx::PgConnection;

use super::StoreError;

/// Tables that grow with traffic, as metrics name them. `ledger` is for ever, `quarantine` until a person removes cases, the others are added up.
const TABLES: [&str; 6] = ["accounts", "ledger", "payments", "quarantine", "duplicates", "tallies"];

/// Bytes on disk, indexes and what long values take included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Of the whole database.
    pub database_bytes: i64,
    /// Of each table of payonce that grows with traffic.
    pub tables: Vec<(String, i64)>,
}

/// Asks the file system, not the tables.
///
/// # Errors
/// [`StoreError`].
pub async fn sizes(connection: &mut PgConnection) -> Result<Sizes, StoreError> {
    let database_bytes: i64 =
        sqlx::query_scalar("select pg_database_size(current_database())").fetch_one(&mut *connection).await?;
    let tables = sqlx::query_as(
        "select name, pg_total_relation_size(name::regclass) from unnest($1::text[]) as t(name)",
    )
    .bind(&TABLES[..])
    .fetch_all(connection)
    .await?;
    Ok(Sizes { database_bytes, tables })
}
