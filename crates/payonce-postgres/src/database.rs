//! Connections: where the database is, which of its hosts may be written to, and how long an operation may take.

use std::{
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::Semaphore;

use super::{
    SchemaError, StoreError, check_schema,
    server::{self, Setting},
};
use crate::hosts::each_host;

/// How long a statement waits for a lock. Another worker gives one back within a transaction; whoever holds one for longer is an operator,
/// a migration, or gone, and a batch then goes on without what is locked.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a dry run may do nothing, in milliseconds. Its snapshot keeps vacuum from what was deleted since.
const DRY_RUN_IDLE_MAX_MS: &str = "600000";

/// Where the database is, and how long it may take.
#[derive(Debug)]
pub struct Database {
    /// One for each host of the address.
    hosts: Vec<PgConnectOptions>,
    application_name: String,
    /// Those of its sessions.
    settings: Vec<Setting>,
    /// Whether nothing that runs on it settles callbacks.
    reads_only: bool,
    deadline: Duration,
    /// The host that was writable last.
    last: AtomicUsize,
}

/// What each session is given, whatever server, database, role or pooler say. Not by options of the start: poolers drop those.
fn settings(deadline: Duration) -> Vec<Setting> {
    let deadline_ms = deadline.as_millis().to_string();
    let lock_wait_ms = deadline.min(LOCK_WAIT_MAX).as_millis().to_string();
    [
        ("statement_timeout", deadline_ms.as_str()),
        ("lock_timeout", lock_wait_ms.as_str()),
        // A worker that stops in mid-transaction must not hold its locks until TCP notices.
        ("idle_in_transaction_session_timeout", deadline_ms.as_str()),
        ("synchronous_commit", "on"),
        // Guards are compared with what others have committed meanwhile. In a stricter level a statement sees the past.
        ("default_transaction_isolation", "read committed"),
        ("client_encoding", "UTF8"),
        // Days of the history begin at midnight UTC.
        ("TimeZone", "UTC"),
        // Every query here looks up a batch of keys by index; with nested loops rows are locked in the order of the sorted arguments, or,
        // where the table is read first, of its key. Planned each time (lanes: see `renew_plans`), because a plan that was made while a
        // table was small reads all of it when it has grown.
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("plan_cache_mode", "force_custom_plan"),
        ("jit", "off"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

impl Database {
    /// Reads the address. Does not connect.
    ///
    /// `deadline`: after which a statement is canceled, by the server where it still listens, else by closing the connection.
    ///
    /// # Errors
    /// Words for what is wrong with the URL, which they do not repeat: it holds a password.
    pub fn new(url: &str, application_name: &str, deadline: Duration) -> Result<Self, String> {
        Self::with_tls(url, application_name, deadline, None, None)
    }

    /// The same, with these certificates, in PEM, where the address names no files of its own (`sslrootcert`, `sslcert` and `sslkey`): `ca`
    /// is who may vouch for the server, `identity` our certificate and its key.
    ///
    /// # Errors
    /// Words for what is wrong with the URL.
    pub fn with_tls(
        url: &str,
        application_name: &str,
        deadline: Duration,
        ca: Option<Vec<u8>>,
        identity: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, String> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(
                "not a PostgreSQL URL: expected postgres://user:password@host:port/database".to_owned()
            );
        }
        let with_settings = |mut options: PgConnectOptions| {
            if let Some(ca) = ca.clone().filter(|_| !url.contains("sslrootcert=")) {
                options = options.ssl_root_cert_from_pem(ca);
            }
            if let Some((certificate, key)) = identity.clone().filter(|_| !url.contains("sslcert=")) {
                options = options.ssl_client_cert_from_pem(certificate).ssl_client_key_from_pem(key);
            }
            // sqlx hands the brackets of an IPv6 address to the resolver, which does not know them.
            let host = options.get_host().to_owned();
            if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                options = options.host(address);
            }
            options.application_name(application_name).disable_statement_logging()
        };
        let hosts = each_host(url).map(|url| PgConnectOptions::from_str(&url).map(with_settings));
        let hosts: Result<Vec<_>, _> = hosts.collect();
        Ok(Self {
            hosts: hosts.map_err(|error| error.to_string())?,
            application_name: application_name.to_owned(),
            settings: settings(deadline),
            reads_only: false,
            deadline,
            last: AtomicUsize::new(0),
        })
    }

    /// The same server with the settings of an ordinary session: for reports and audits, whose queries read whole tables. Where the
    /// address names one host only, it may be a standby.
    #[must_use]
    pub fn for_reading(&self) -> Self {
        let mut other = self.with_settings([
            ("enable_seqscan", "on"),
            ("enable_hashjoin", "on"),
            ("enable_mergejoin", "on"),
            ("plan_cache_mode", "auto"),
            ("statement_timeout", "0"),
            // Migrations wait for the transactions of workers; these then wait for the migration.
            ("lock_timeout", "10000"),
        ]);
        other.reads_only = true;
        other
    }

    /// Opens a session for a dry run, inside one transaction that cannot write: the database stays what it was when this was called, and
    /// no row is locked. What is looked up is looked up as workers do. It ends with the connection.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn connect_for_dry_run(&self) -> Result<PgConnection, StoreError> {
        let mut other = self.with_settings([
            ("default_transaction_read_only", "on"),
            // Between two batches a person may look at what was printed, or a pipe may have nothing to give.
            ("idle_in_transaction_session_timeout", DRY_RUN_IDLE_MAX_MS),
        ]);
        other.reads_only = true;
        let mut connection = other.connect().await?;
        sqlx::raw_sql("begin isolation level repeatable read, read only").execute(&mut connection).await?;
        Ok(connection)
    }

    fn with_settings<const N: usize>(&self, other: [(&'static str, &str); N]) -> Self {
        let kept = self.settings.iter().filter(|(name, _)| !other.iter().any(|(changed, _)| changed == name));
        let settings = kept.cloned().chain(other.map(|(name, value)| (name, value.to_owned()))).collect();
        Self {
            hosts: self.hosts.clone(),
            application_name: self.application_name.clone(),
            settings,
            reads_only: self.reads_only,
            deadline: self.deadline,
            last: AtomicUsize::new(0),
        }
    }

    /// Opens a connection: to the only host, or to that of several which is the writable primary, found anew whenever it has
    /// moved.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where no host answers, all refuse, or none is writable.
    pub async fn connect(&self) -> Result<PgConnection, StoreError> {
        let first = self.last.load(Ordering::Relaxed);
        let mut problem = StoreError::Unavailable("the address names no host".to_owned());
        for at in (first..self.hosts.len()).chain(0..first.min(self.hosts.len())) {
            let Some(host) = self.hosts.get(at) else { continue };
            let opened = tokio::time::timeout(self.deadline, self.open(host)).await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!("no answer within {} ms", self.deadline.as_millis())))
            });
            match opened {
                Ok(connection) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(cause) => problem = cause,
            }
        }
        Err(problem)
    }

    async fn open(&self, host: &PgConnectOptions) -> Result<PgConnection, StoreError> {
        let mut connection =
            PgConnection::connect_with(host).await.map_err(|error| match error.as_database_error() {
                // sqlx's own text ends with the line of the server's source that refused.
                Some(refusal) => StoreError::Unavailable(refusal.message().to_owned()),
                None => StoreError::Unavailable(error.to_string()),
            })?;
        server::prepare(&mut connection, &self.session_name(), &self.settings).await?;
        // Of several hosts the primary is wanted for reading too: a standby may lag.
        server::check_history(&mut connection, self.reads_only && self.hosts.len() == 1).await?;
        Ok(connection)
    }

    fn session_name(&self) -> String {
        static SESSIONS: AtomicUsize = AtomicUsize::new(0);
        format!("{} {}", self.application_name, SESSIONS.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether each connection has a session of its own: two are opened, and the first must be the same still. A pooler in transaction mode
    /// gives both the same one, unless it is busy; each transaction that settles looks again.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] where it has none; those of [`Database::connect`].
    pub async fn check_sessions(&self) -> Result<(), StoreError> {
        let name = self.session_name();
        let mut first = self.connect().await?;
        server::prepare(&mut first, &name, &self.settings).await?;
        let second = self.connect().await?;
        let checked = server::check_name(&mut first, &name).await;
        for connection in [first, second] {
            // A server that is gone has closed it already.
            let _closed = tokio::time::timeout(self.deadline, connection.close()).await;
        }
        checked
    }
}

/// Plans serve at least so many callbacks. A plan knows its tables as they were when it was made.
const CALLBACKS_PER_PLAN: usize = 1_000;

/// And they live at least so long: under a backlog, where a thousand callbacks are one batch, making them took a twentieth of the time. What a
/// flood of cases makes slow with old plans is over after this time and a batch.
const PLANS_LIVE: Duration = Duration::from_millis(250);

/// A lane's own connection, opened when it is needed.
pub struct Connection {
    database: Arc<Database>,
    open: Option<PgConnection>,
    /// Callbacks that its plans have served, and since when, where it keeps them.
    served: Option<(usize, Instant)>,
}

impl Connection {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self { database, open: None, served: None }
    }

    /// To be called before a batch of so many callbacks: lets this session keep its plans, and throws them away after a thousand callbacks and a
    /// quarter of a second, before tables that were empty have grown.
    ///
    /// A plan for each batch's own values would be no better, and where batches are small, making it costs more than carrying it
    /// out: 386 µs for the look-up of keys in quarantine.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn renew_plans(&mut self, callbacks: usize) -> Result<(), StoreError> {
        let are_good =
            |(served, since): &(usize, Instant)| *served < CALLBACKS_PER_PLAN || since.elapsed() < PLANS_LIVE;
        let (served, since) = match self.served.filter(are_good) {
            Some(kept) if self.open.is_some() => kept,
            Some(_) | None => {
                let renew = "set plan_cache_mode = force_generic_plan; discard plans";
                self.run(async |connection| Ok(sqlx::raw_sql(renew).execute(connection).await?)).await?;
                (0, Instant::now())
            }
        };
        self.served = Some((served.saturating_add(callbacks), since));
        Ok(())
    }

    /// Runs `operation` on the connection. Unless it ends well in time, or a concurrent writer was first, the connection is closed, and
    /// the server rolls back whatever was open on it.
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
            None => {
                self.served = None;
                self.database.connect().await?
            }
        };
        // The server's own timeouts come first; this one is for a server that does not answer at all.
        let patience = self.database.deadline.saturating_mul(2);
        let result = tokio::time::timeout(patience, operation(&mut connection)).await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!("no answer within {} ms", patience.as_millis())))
        });
        // A concurrent writer was first: the transaction is rolled back, and nothing is wrong with its session.
        let is_fit = match &result {
            Ok(_) => true,
            Err(StoreError::Conflict(_)) => rolled_back(&mut connection, patience).await,
            Err(
                StoreError::Unavailable(_)
                | StoreError::Unfit(_)
                | StoreError::Blocked(_)
                | StoreError::Refused(_),
            ) => false,
        };
        if is_fit {
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

/// Sends the ROLLBACK that the dropped transaction of an operation has left to be sent, and waits for the answer.
async fn rolled_back(connection: &mut PgConnection, patience: Duration) -> bool {
    matches!(tokio::time::timeout(patience, connection.ping()).await, Ok(Ok(())))
}

/// Connections for pages and reports, kept open between uses: nothing that runs on them writes.
#[derive(Clone)]
pub struct Reader {
    database: Arc<Database>,
    idle: Arc<Mutex<Vec<PgConnection>>>,
    free: Arc<Semaphore>,
    /// For one read.
    deadline: Duration,
}

impl Reader {
    /// At most `connections_max` connections, opened when needed.
    #[must_use]
    pub fn new(database: &Database, connections_max: u32) -> Self {
        // What takes longer nobody waits for, and the server need not go on with it.
        let deadline_ms = database.deadline.as_millis().to_string();
        let database = database.for_reading().with_settings([
            ("default_transaction_read_only", "on"),
            ("statement_timeout", deadline_ms.as_str()),
            // In kB. Months of counts are added up in memory, not sorted on disk.
            ("work_mem", "16384"),
        ]);
        Self {
            deadline: database.deadline,
            database: Arc::new(database),
            idle: Arc::default(),
            free: Arc::new(Semaphore::new(usize::try_from(connections_max).unwrap_or(1))),
        }
    }

    /// For reports, which read whole tables while workers settle: one at a time, on one core of the server, for as long as `deadline`; what
    /// nobody waits for any more ends within a second.
    #[must_use]
    pub fn for_reports(database: &Database, deadline: Duration) -> Self {
        let deadline_ms = deadline.as_millis().to_string();
        let database = database.for_reading().with_settings([
            ("default_transaction_read_only", "on"),
            ("statement_timeout", deadline_ms.as_str()),
            // In kB.
            ("work_mem", "65536"),
            ("max_parallel_workers_per_gather", "0"),
            ("client_connection_check_interval", "1000"),
        ]);
        Self {
            deadline,
            database: Arc::new(database),
            idle: Arc::default(),
            free: Arc::new(Semaphore::new(1)),
        }
    }

    /// Runs a read.
    ///
    /// # Errors
    /// Those of `operation`, or [`StoreError::Unavailable`] where no connection can be had or it takes too long.
    pub async fn run<T>(
        &self,
        operation: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let deadline = self.deadline;
        let late = || StoreError::Unavailable(format!("no answer within {} ms", deadline.as_millis()));
        let _place = tokio::time::timeout(deadline, self.free.acquire()).await.map_err(|_| late())?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.database.connect().await?,
        };
        let result = tokio::time::timeout(deadline, operation(&mut connection)).await;
        let result = result.unwrap_or_else(|_| Err(late()));
        // A session in an unknown state is closed.
        if result.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
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
