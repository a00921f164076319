//! Brings the schema up to date, and refuses one that does not fit this program.

use sqlx::{PgConnection, migrate::Migrator};

use super::{StoreError, feed};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

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
    sqlx::raw_sql(POINT_FUNCTIONS)
        .execute(&mut *connection)
        .await
        .map_err(|error| SchemaError::Migration(error.to_string()))?;
    if feed::is_ahead_of_its_cluster(connection).await? {
        feed::catch_up_with_dump(connection).await?;
    }
    let after = applied(connection).await?;
    Ok(after.into_iter().filter(|version| !before.contains(version)).collect())
}

/// What runs with its owner's rights looks for tables in one schema only, lest its caller put others in the way. Migrations name `public`;
/// where the tables are elsewhere, so are these.
const POINT_FUNCTIONS: &str = "
    do $$ declare f regprocedure; begin
        for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                 where n.nspname = current_schema() and n.nspname <> 'public' and p.prosecdef
                   and 'search_path=public, pg_temp' = any(p.proconfig)
        loop execute format('alter function %s set search_path = %I, pg_temp', f, current_schema()); end loop;
    end $$";

/// Refuses a schema that is older than this program, a newer one that does not say that this program may go on beside it, and a session that
/// looks for it in the wrong place.
///
/// A migration says so in the comment of `_sqlx_migrations`, which every role can read: see `migrations/README.md`.
///
/// # Errors
/// [`SchemaError`], which names the command that helps.
pub async fn check(connection: &mut PgConnection) -> Result<(), SchemaError> {
    check_place(connection).await?;
    let applied = applied(connection).await?;
    let found = applied.iter().copied().max().unwrap_or(0);
    if MIGRATOR.iter().any(|migration| !applied.contains(&migration.version)) {
        return Err(SchemaError::TooOld { found, needed: newest() });
    }
    if found > newest() && !is_usable(connection, found).await? {
        return Err(SchemaError::TooNew { found, known: newest() });
    }
    if feed::is_ahead_of_its_cluster(connection).await? {
        return Err(SchemaError::FromDump);
    }
    Ok(())
}

/// Whether the newer schema `found` declares that this program may go on beside it.
async fn is_usable(connection: &mut PgConnection, found: i64) -> Result<bool, StoreError> {
    let declared: Option<String> =
        sqlx::query_scalar("select obj_description('_sqlx_migrations'::regclass, 'pg_class')")
            .fetch_one(connection)
            .await?;
    Ok(declared.and_then(|text| usable_since(&text, found)).is_some_and(|since| since <= newest()))
}

/// The oldest schema whose programs may go on beside schema `found`, where the declaration is about that one: what an older migration
/// declared says nothing about a later one that forgot to.
fn usable_since(declared: &str, found: i64) -> Option<i64> {
    let (schema, since) =
        declared.strip_prefix("schema ")?.split_once(" is usable by programs of schema ")?;
    let since = since.strip_suffix(" and later")?;
    if schema.parse::<i64>().ok()? != found {
        return None;
    }
    since.parse().ok()
}

/// The tables must be where this session would make new ones: it depends on `search_path`, which an address, a role, a database or a
/// pooler can change.
async fn check_place(connection: &mut PgConnection) -> Result<(), StoreError> {
    let (here, tables_in, elsewhere, astray): (
        Option<String>,
        Option<String>,
        Option<String>,
        Option<String>,
    ) = sqlx::query_as(
        "select current_schema()::text,
                    (select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where c.oid = to_regclass('ledger')),
                    (select string_agg(n.nspname, ', ' order by n.nspname)
                     from pg_class c join pg_class m on m.relnamespace = c.relnamespace
                          join pg_namespace n on n.oid = c.relnamespace
                     where c.relname = 'ledger' and m.relname = '_sqlx_migrations'),
                    (select string_agg(p.proname, ', ' order by p.proname)
                     from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                     where n.nspname = current_schema() and n.nspname <> 'public' and p.prosecdef
                       and 'search_path=public, pg_temp' = any(p.proconfig))",
    )
    .fetch_one(connection)
    .await?;
    let remedy =
        "set search_path, for example with: alter role ROLE in database DATABASE set search_path = SCHEMA";
    let unfit = |words: String| Err(StoreError::Unfit(words));
    match (here, tables_in, elsewhere) {
        (None, ..) => unfit(format!("search_path names no schema that exists: {remedy}")),
        (Some(here), Some(tables_in), _) if here != tables_in => unfit(format!(
            "the tables are in schema {tables_in}, and new ones would be made in {here}: {remedy}"
        )),
        (Some(here), None, Some(elsewhere)) => unfit(format!(
            "schema {here} has no tables of payonce, and these have: {elsewhere}. A pooler may have dropped search_path from the address: \
             {remedy}. Where {here} is meant, run `payonce migrate`"
        )),
        (Some(here), ..) => match astray {
            Some(functions) => unfit(format!(
                "the tables are in schema {here}, and these functions look for them in public: {functions}. Run `payonce migrate`"
            )),
            None => Ok(()),
        },
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

#[cfg(test)]
mod tests {
    use super::usable_since;

    #[test]
    fn a_declaration_counts_for_the_schema_that_it_names_alone() {
        let declared = "schema 31 is usable by programs of schema 18 and later";
        assert_eq!(usable_since(declared, 31), Some(18));
        assert_eq!(usable_since(declared, 32), None);
        assert_eq!(usable_since("", 31), None);
        assert_eq!(usable_since("schema 31 is usable by everybody", 31), None);
    }
}
