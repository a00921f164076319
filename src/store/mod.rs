//! PostgreSQL: load a snapshot, apply a plan, report, audit. The only place with SQL.
//!
//! A connection whose operation did not end well is dropped, never reused: sqlx can hand on a session that is still inside a
//! transaction when a future is cancelled, and has neither query timeouts nor TCP keepalive. So a lane owns one plain
//! connection ([`Connection`]), and every operation has a deadline after which that connection is closed.

mod apply;
mod audit;
mod cases;
mod counts;
mod load;
pub mod quarantine;
pub mod report;
mod rows;
mod schema;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use apply::{Applied, Batch, apply};
pub use audit::{CHECKS, Check, Finding, audit, not_in_ledger};
pub use cases::{Resolver, Undecodable};
pub use counts::{Tally, TallyKind};
pub use load::load;
pub use schema::{SchemaError, check as check_schema, migrate};
pub use sqlx::PgConnection;

/// Why the database did not do what it was asked, by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, shutting down, read-only, overloaded, or something is wrong that has nothing to do with this batch. Keep
    /// the batch, wait, try again on a new connection. After a commit the outcome may be unknown; applying again is safe.
    #[error("PostgreSQL is unavailable: {0}")]
    Unavailable(String),
    /// A rival changed what the plan was decided on. Load and decide again.
    #[error("a rival got there first: {0}")]
    Conflict(String),
    /// The database refuses these very rows: trying the same again gives the same.
    #[error("PostgreSQL refuses the data: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            // What is not about these rows is about the connection.
            let about_rows = matches!(
                error,
                sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_)
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
            // Integrity violation, data exception, program limit exceeded.
            "23" | "22" | "54" => Self::Refused(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// Which history of which ledger this is. Redis markers written under another epoch prove nothing about this database.
///
/// System identifier of the cluster, its timeline (another after a failover or a point-in-time restore), the database, and the
/// ledger's storage (another after the table was truncated, or restored from a dump).
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

/// Reads the [`Epoch`] from the writable primary.
///
/// # Errors
/// [`StoreError::Unavailable`] on a standby, which has no current write position.
pub async fn epoch(connection: &mut PgConnection) -> Result<Epoch, StoreError> {
    let epoch: String = sqlx::query_scalar(
        "select system_identifier || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
             || '-' || (select oid from pg_database where datname = current_database())
             || '-' || pg_relation_filenode('ledger')
         from pg_control_system()",
    )
    .fetch_one(connection)
    .await?;
    Ok(Epoch(epoch))
}

/// Where the database is, and how long it may take.
#[derive(Debug, Clone)]
pub struct Database {
    options: PgConnectOptions,
    deadline: Duration,
}

impl Database {
    /// Reads the address. Does not connect.
    ///
    /// `deadline`: after which a statement is given up, by the server where it still listens, else by closing the connection.
    ///
    /// # Errors
    /// Words for what is wrong with the URL, which they do not repeat: it holds a password.
    pub fn new(url: &str, application_name: &str, deadline: Duration) -> Result<Self, String> {
        let options = PgConnectOptions::from_str(url).map_err(|error| error.to_string())?;
        let deadline_ms = deadline.as_millis().to_string();
        let options = options
            .application_name(application_name)
            .options([
                ("statement_timeout", deadline_ms.as_str()),
                ("lock_timeout", deadline_ms.as_str()),
                // A worker that stops in mid-transaction must not hold its locks until TCP notices.
                ("idle_in_transaction_session_timeout", deadline_ms.as_str()),
                ("synchronous_commit", "on"),
                // Every query here looks up a batch of keys by index; with nested loops rows are locked in the order of the
                // sorted arguments. Planned each time, for less than a millisecond: a plan that was made while a table was
                // small reads all of it when it has grown.
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("plan_cache_mode", "force_custom_plan"),
                ("jit", "off"),
            ])
            .disable_statement_logging();
        Ok(Self { options, deadline })
    }

    /// The same server with the settings of an ordinary session: for reports and audits, whose queries read whole tables.
    #[must_use]
    pub fn for_reading(&self) -> Self {
        let options = self.options.clone().options([
            ("enable_seqscan", "on"),
            ("enable_hashjoin", "on"),
            ("enable_mergejoin", "on"),
            ("plan_cache_mode", "auto"),
            ("statement_timeout", "0"),
        ]);
        Self { options, deadline: self.deadline }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the server does not answer or refuses.
    pub async fn connect(&self) -> Result<PgConnection, StoreError> {
        tokio::time::timeout(self.deadline, PgConnection::connect_with(&self.options))
            .await
            .map_err(|_| {
                StoreError::Unavailable(format!("no answer within {} ms", self.deadline.as_millis()))
            })?
            .map_err(|error| match error.as_database_error() {
                // sqlx's own text ends with the line of the server's source that refused.
                Some(refusal) => StoreError::Unavailable(refusal.message().to_owned()),
                None => StoreError::Unavailable(error.to_string()),
            })
    }
}

/// A lane's own connection, opened when it is needed.
pub struct Connection {
    database: Arc<Database>,
    open: Option<PgConnection>,
}

impl Connection {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self { database, open: None }
    }

    /// Runs `operation` on the connection. Unless it ends well in time, the connection is closed, and the server rolls back
    /// whatever was open on it.
    ///
    /// # Errors
    /// Those of `operation`, or [`StoreError::Unavailable`] where it took longer than the deadline.
    pub async fn run<T>(
        &mut self,
        operation: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Taken out, so that an error, a timeout or a cancelled caller drops it.
        let mut connection = match self.open.take() {
            Some(connection) => connection,
            None => self.database.connect().await?,
        };
        // The server's own timeouts come first; this one is for a server that does not answer at all.
        let patience = self.database.deadline.saturating_mul(2);
        let result = tokio::time::timeout(patience, operation(&mut connection)).await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!("no answer within {} ms", patience.as_millis())))
        });
        if result.is_ok() {
            self.open = Some(connection);
        }
        result
    }

    /// Closes the connection politely, if one is open.
    pub async fn close(&mut self) {
        if let Some(connection) = self.open.take() {
            // A server that is gone has closed it already.
            let _closed = tokio::time::timeout(self.database.deadline, connection.close()).await;
        }
    }
}

/// A pool of connections for pages and reports: nothing it runs writes.
#[derive(Clone)]
pub struct Reader {
    pool: PgPool,
    deadline: Duration,
}

impl Reader {
    /// At most `connections_max` connections, opened when needed.
    #[must_use]
    pub fn new(database: &Database, connections_max: u32) -> Self {
        let Database { options, deadline } = database.for_reading();
        let options = options.options([("default_transaction_read_only", "on")]);
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(deadline)
            .connect_lazy_with(options);
        Self { pool, deadline }
    }

    /// Runs a read.
    ///
    /// # Errors
    /// Those of `operation`, or [`StoreError::Unavailable`] where no connection can be had or it takes too long.
    pub async fn run<T>(
        &self,
        operation: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let result = tokio::time::timeout(self.deadline, operation(&mut connection)).await;
        let result = result.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!("no answer within {} ms", self.deadline.as_millis())))
        });
        if result.is_err() {
            // The pool must not hand on a session in an unknown state.
            connection.close_on_drop();
        }
        result
    }

    /// Refuses a schema that does not fit this program.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub async fn check_schema(&self) -> Result<(), SchemaError> {
        self.run(async |connection| Ok(check_schema(connection).await)).await?
    }
}
