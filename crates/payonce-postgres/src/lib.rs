//! PostgreSQL: load a snapshot, apply a plan, report, audit. The only place with SQL.
//!
//! A connection whose operation did not end well is dropped, never reused: sqlx can hand on a session that is still inside a
//! transaction when a future is cancelled, and has neither query timeouts nor TCP keepalive. So a lane owns one plain
//! connection ([`Connection`]), and every operation has a deadline after which that connection is closed.

#![forbid(unsafe_code)]

pub mod accounts;
pub mod actions;
pub mod acts;
pub mod amounts;
mod apply;
pub mod assign;
mod audit;
pub mod audit_log;
pub mod case_groups;
mod case_lists;
pub mod case_sums;
pub mod case_work;
mod cases;
mod checks;
mod closing;
mod columns;
mod counts;
pub mod crash;
mod database;
pub mod debts;
pub mod ended_sessions;
pub mod engine;
pub mod feed;
mod filter;
pub mod finance;
pub mod find;
mod grants;
pub mod history;
pub mod holds;
pub mod hosts;
mod known;
pub mod latency;
mod load;
mod members;
pub mod mismatch;
mod openings;
mod operation_index;
mod payloads;
mod payment_facts;
pub mod payment_story;
pub mod proposals;
pub mod providers;
pub mod quarantine;
pub mod reads;
pub mod references;
pub mod removal;
pub mod report;
pub mod requests;
mod row_deltas;
mod rows;
mod schema;
mod server;
pub mod settling;
pub mod sizes;
pub mod statement;
pub mod subscribers;
pub mod waiting;
pub mod webhooks;
pub mod workers;

use std::fmt;

use time::OffsetDateTime;

pub use apply::{Applied, Batch, Locking, Remembered, apply};
pub use audit::{Finding, audit, not_in_ledger, rows_since};
pub use cases::{CASE_BODY_BYTES_MAX, Resolver, Undecodable};
pub use checks::{CHECKS, Check};
pub use counts::{Tally, TallyKind};
pub use database::{Connection, Database, Reader};
pub use grants::{GrantError, Grantee, WORKER_RIGHTS, check_worker_rights, grant};
pub use known::add_ledger;
pub use load::{load, load_besides_ledger, load_over};
pub use payloads::PAYLOADS;
pub use schema::{SchemaError, check as check_schema, migrate};
pub use sqlx::PgConnection;

use crate::crash::Injected;

/// Why the database did not do what it was asked, by what the caller must do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It is down, shutting down, read-only, overloaded, or something is wrong that has nothing to do with this batch. Keep
    /// the batch, wait, try again on a new connection. After a commit the outcome may be unknown; applying again is safe.
    #[error("PostgreSQL is unavailable: {0}")]
    Unavailable(String),
    /// It answers, and is set up so that payonce's promises would not hold. Nothing is written; a person must change it.
    #[error("PostgreSQL cannot be used as it is set up: {0}")]
    Unfit(String),
    /// A concurrent writer changed what the plan was decided on. Load and decide again.
    #[error("a concurrent writer got there first: {0}")]
    Conflict(String),
    /// Somebody holds a lock on a row that this needs, or it took longer than `database_deadline_ms`. Less of it may go through at
    /// once, and all of it later.
    #[error("PostgreSQL did not get to it in time: {0}")]
    Blocked(String),
    /// The database refuses to do this, or stores what this program cannot read: trying the same again gives the same, until somebody
    /// changes the schema, a row, or the program. That is never the fault of a message that could be decoded.
    #[error("PostgreSQL refuses: {0}")]
    Refused(String),
}

impl From<Injected> for StoreError {
    fn from(injected: Injected) -> Self {
        Self::Unavailable(injected.to_string())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            // What is not about what is stored is about the connection.
            let about_rows = matches!(
                error,
                sqlx::Error::Decode(_)
                    | sqlx::Error::ColumnDecode { .. }
                    | sqlx::Error::ColumnNotFound(_)
                    | sqlx::Error::TypeNotFound { .. }
                    | sqlx::Error::Encode(_)
            );
            let text = error.to_string();
            return if about_rows { Self::Refused(text) } else { Self::Unavailable(text) };
        };
        let code = database.code().unwrap_or_default().into_owned();
        // The message only: PostgreSQL's DETAIL quotes column values, which do not belong in logs.
        let text = format!("{} (SQLSTATE {code})", database.message());
        match code.get(..2).unwrap_or_default() {
            // Serialization failure, deadlock: PostgreSQL asks for the whole transaction again.
            "40" => Self::Conflict(text),
            // A unique key that was free when the snapshot was loaded.
            "23" if code == "23505" => Self::Conflict(text),
            // Lock not available within lock_timeout; cancelled by statement_timeout, or by a person.
            "55" | "57" if matches!(&*code, "55P03" | "57014") => Self::Blocked(text),
            // Insufficient privilege. Waited for, as an outage is: the grant helps without a restart.
            "42" if code == "42501" && text.contains("pg_control_system") => Self::Unavailable(format!(
                "{text}: a superuser must run: grant execute on function pg_control_system() to ROLE (deploy/postgres/roles.sql does)"
            )),
            "42" if code == "42501" => Self::Unavailable(format!(
                "{text}: `payonce migrate --grant-worker ROLE` (or --grant-ops) gives a role its rights"
            )),
            // A prepared statement that is there already, or is not there: of another client of the same pooler.
            "42" if code == "42P05" => server::in_transaction_mode(),
            "26" => server::in_transaction_mode(),
            // Connection, transaction state (read-only, or ended by the server), authorization, missing database, resources (disk full,
            // memory, connections), object in use, operator intervention (shutdown), system error (input and output): whatever is
            // written meets the same.
            "08" | "25" | "28" | "3D" | "53" | "55" | "57" | "58" => Self::Unavailable(text),
            // Data and integrity, limits of the program, syntax and names (another schema), what triggers raise, internal errors
            // (a damaged page): it may be about one row.
            _ => Self::Refused(text),
        }
    }
}

/// Which history of which ledger this is, as a name for what others keep of it. It is another one after every start of the server, and so
/// after every restore and every crash; after a failover (another timeline); and where the ledger's table was truncated or restored from a
/// dump (another file). No decision rests on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch(String);

impl Epoch {
    /// The epoch as it stands in Redis keys: digits, capital letters and `-`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The time by the database's clock, which stamps every row: what is compared with those stamps is read from here, never from this
/// machine's clock, which may be an hour off.
///
/// # Errors
/// [`StoreError`].
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await?)
}

/// The history that a connection reads and writes, as SQL.
const EPOCH: &str = "select system_identifier || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
        || '-' || (select oid from pg_database where datname = current_database())
        || '-' || pg_relation_filenode('ledger')
        || '-' || (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
    from pg_control_system()";

/// Reads the [`Epoch`] from the writable primary.
///
/// # Errors
/// [`StoreError::Unavailable`] on a standby, which has no current write position.
pub async fn epoch(connection: &mut PgConnection) -> Result<Epoch, StoreError> {
    let epoch: String = sqlx::query_scalar(EPOCH).fetch_one(connection).await?;
    Ok(Epoch(epoch))
}
