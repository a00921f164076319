//! Sessions of `payonce ops` that were ended before their time, by the hash of their id. What must not live here: what a session is.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;

/// How many are read: as many people log out within the life of a session at most. Of more the ones that live longest are read.
const ROWS_MAX: i64 = 100_000;

/// Ends one, on all replicas; a second time changes nothing. Those that are of no use any more are forgotten. By autocommit: a replica sees
/// it at its next look.
///
/// # Errors
/// [`StoreError`].
pub async fn end(
    connection: &mut PgConnection,
    session: [u8; 32],
    expires_at: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query("insert into ended_sessions (session, expires_at) values ($1, $2) on conflict do nothing")
        .bind(&session[..])
        .bind(expires_at)
        .execute(&mut *connection)
        .await?;
    sqlx::query("select forget_ended_sessions()").execute(&mut *connection).await?;
    Ok(())
}

/// All that have ended and would live on otherwise.
///
/// # Errors
/// [`StoreError`].
pub async fn list(connection: &mut PgConnection) -> Result<Vec<[u8; 32]>, StoreError> {
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(
        "select session from ended_sessions where expires_at > now() order by expires_at desc limit $1",
    )
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    // The table's check has it that each has 32 bytes.
    Ok(rows.into_iter().filter_map(|row| row.try_into().ok()).collect())
}
