//! Brings the schema up to date, and refuses one that does not fit this program.

use sqlx::{PgConnection, migrate::Migrator};

use super::{StoreError, feed};

static MIGRATOR: Migrator = sqlx::migrate!();

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations of this program are missing.
    #[error("the schema is at version {found}, this payonce needs {needed}: run `payonce migrate`")]
    TooOld {
        /// Newest migration applied; 0 for an empty database.
        found: i64,
        /// Newest migration this program knows.
        needed: i64,
    },
    /// It has migrations that this program does not know.
    #[error("the schema is at version {found}, this payonce knows only {known}: install the newer payonce")]
    TooNew {
        /// Newest migration applied.
        found: i64,
        /// Newest migration this program knows.
        known: i64,
    },
    /// Its rows come from another cluster, and new ones would be out of their order.
    #[error(
        "the ledger was restored from a dump into another cluster: run `payonce migrate`, which lets its order go on"
    )]
    FromDump,
    /// A migration failed, or was changed after it was applied.
    #[error("the schema cannot be brought up to date: {0}")]
    Migration(String),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Applies what is missing, and returns the versions it applied. Several callers at once wait for one another.
///
/// # Errors
/// [`SchemaError::TooNew`], or what the database says about a migration.
pub async fn migrate(connection: &mut PgConnection) -> Result<Vec<i64>, SchemaError> {
    let before = applied(connection).await?;
    if let Some(found) = before.iter().copied().max().filter(|found| *found > newest()) {
        return Err(SchemaError::TooNew { found, known: newest() });
    }
    MIGRATOR.run(&mut *connection).await.map_err(|error| SchemaError::Migration(error.to_string()))?;
    if feed::is_ahead_of_its_cluster(connection).await? {
        feed::catch_up_with_dump(connection).await?;
    }
    let after = applied(connection).await?;
    Ok(after.into_iter().filter(|version| !before.contains(version)).collect())
}

/// Refuses a schema that is older or newer than this program.
///
/// # Errors
/// [`SchemaError`], which names the command that helps.
pub async fn check(connection: &mut PgConnection) -> Result<(), SchemaError> {
    let found = applied(connection).await?.into_iter().max().unwrap_or(0);
    match found.cmp(&newest()) {
        std::cmp::Ordering::Less => Err(SchemaError::TooOld { found, needed: newest() }),
        std::cmp::Ordering::Greater => Err(SchemaError::TooNew { found, known: newest() }),
        std::cmp::Ordering::Equal if feed::is_ahead_of_its_cluster(connection).await? => {
            Err(SchemaError::FromDump)
        }
        std::cmp::Ordering::Equal => Ok(()),
    }
}

fn newest() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, SchemaError> {
    let exists: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    if !exists {
        return Ok(Vec::new());
    }
    let versions: Vec<i64> = sqlx::query_scalar("select version from _sqlx_migrations order by version")
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    Ok(versions)
}
