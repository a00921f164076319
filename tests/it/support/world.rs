//! A database, a prefix and workers that belong to one test.

use std::{
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use payonce::{
    broker::{self, Names, Publisher},
    config::{self, Config},
    dedupe::Dedupe,
    keys::Keys,
    metrics::BySource,
    signature::Headers,
    store::{self, Database, PgConnection},
    worker::{self, Readiness, Worker},
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Event, callbacks::SOURCE, eventually};

/// A test's own database and prefix on the shared servers.
#[derive(Clone)]
pub struct World {
    pub database_url: String,
    pub redis_url: String,
    pub amqp_url: String,
    pub prefix: String,
    admin_url: String,
    database_name: String,
}

/// A worker inside the test's process.
pub struct RunningWorker {
    pub readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<Result<(), worker::Refusal>>,
}

impl RunningWorker {
    /// Stops it as SIGTERM would, and fails where it refused to run.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the worker panicked").expect("the worker refused to run");
    }

    /// How it ended, where it ended by itself.
    pub async fn ended(self) -> Result<(), worker::Refusal> {
        self.task.await.expect("the worker panicked")
    }
}

impl World {
    pub async fn new() -> Self {
        let address = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: `make test` starts the servers; by hand: `make services`, then `. .local/env`"))
        };
        Self::on(
            &address("PAYONCE_DATABASE_URL"),
            &address("PAYONCE_REDIS_URL"),
            &address("PAYONCE_AMQP_URL"),
        )
        .await
    }

    /// A world on servers that the test names.
    pub async fn on(admin_url: &str, redis_url: &str, amqp_url: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        log_what_a_failing_test_did();
        let started =
            SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis();
        let id = format!("{}_{started}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let database_name = format!("payonce_it_{id}");
        let mut url = url::Url::parse(admin_url).expect("PAYONCE_DATABASE_URL is a URL");
        url.set_path(&database_name);
        let world = Self {
            database_url: url.to_string(),
            redis_url: redis_url.to_owned(),
            amqp_url: amqp_url.to_owned(),
            prefix: format!("it-{id}."),
            admin_url: admin_url.to_owned(),
            database_name,
        };
        world.admin(&format!("create database {}", world.database_name)).await;
        store::migrate(&mut world.connect().await).await.expect("migrations apply to an empty database");
        let connection =
            broker::connect(amqp_url, "payonce-it", &Default::default()).await.expect("RabbitMQ answers");
        broker::topology::declare(&connection, &world.names()).await.expect("the topology is new");
        world
    }

    async fn admin(&self, statement: &str) {
        let database =
            Database::new(&self.admin_url, "payonce-it", Duration::from_secs(30)).expect("a PostgreSQL URL");
        let mut connection = database.connect().await.expect("PostgreSQL answers");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await
            .expect(statement);
    }

    /// Removes what the test made on the shared servers. A test that fails leaves it, to be looked at.
    pub async fn close(self) {
        let connection = broker::connect(&self.amqp_url, "payonce-it", &Default::default())
            .await
            .expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel");
        let names = self.names();
        for queue in [names.queue, names.dead_queue] {
            channel.queue_delete(queue.into(), Default::default()).await.expect("the queue can be deleted");
        }
        for exchange in [names.exchange, names.events_exchange] {
            channel
                .exchange_delete(exchange.into(), Default::default())
                .await
                .expect("the exchange can be deleted");
        }
        self.admin(&format!("drop database {} with (force)", self.database_name)).await;
    }

    /// Where Redis keeps what it knows of this event: its claim, later its done marker.
    pub fn redis_key(&self, event_id: &str) -> String {
        format!("{}payonce:key:{}:{SOURCE}:{event_id}", self.prefix, SOURCE.len())
    }

    pub fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    /// A configuration with these settings, as from flags. What lacks money is a case at once, unless they say otherwise: most tests
    /// are about cases, and none should wait for the clock.
    pub fn config(&self, settings: &[(&str, &str)]) -> Config {
        let settings = [&[("order_wait_ms", "0")], settings].concat();
        let flags = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        config::load(None, &flags, |_| None).expect("the test's settings are sound")
    }

    pub async fn connect(&self) -> PgConnection {
        let database = Database::new(&self.database_url, "payonce-it", Duration::from_secs(30))
            .expect("a PostgreSQL URL");
        database.for_reading().connect().await.expect("PostgreSQL answers")
    }

    pub async fn worker(&self) -> RunningWorker {
        self.worker_with(&[]).await
    }

    /// A worker in this process, taking messages.
    pub async fn worker_with(&self, settings: &[(&str, &str)]) -> RunningWorker {
        let running = self.start_worker(settings);
        let readiness = running.readiness.clone();
        eventually("the worker takes messages", true, || {
            let ready = readiness.is_ready();
            async move { ready }
        })
        .await;
        running
    }

    /// A worker in this process, without waiting for anything.
    pub fn start_worker(&self, settings: &[(&str, &str)]) -> RunningWorker {
        // Most tests are about something else; those about signatures set them.
        let mut all = vec![("signatures", "off")];
        all.extend(settings);
        let config = self.config(&all);
        let database =
            Database::new(&self.database_url, "payonce-it-worker", config.database_deadline).expect("a URL");
        let readiness = Readiness::default();
        let worker = Worker {
            name: format!("it:{}", self.database_name),
            amqp_url: config::Secret::new(self.amqp_url.clone()),
            tls: config.tls,
            names: self.names(),
            database: Arc::new(database),
            dedupe: Arc::new(
                Dedupe::new(&self.redis_url, &self.prefix, config.dedupe.clone()).expect("a Redis URL"),
            ),
            keys: Keys::open(config.keys_file.as_deref(), config.signatures_required)
                .expect("the test's keys"),
            config: config.worker,
            retry: config.retry,
            by_source: BySource::new(config.source_labels_max),
            readiness: readiness.clone(),
            stats: worker::Stats::default(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker::run(worker, stop.clone()));
        RunningWorker { readiness, stop, task }
    }

    /// The real program with this world's addresses.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_payonce"));
        command
            .args(arguments)
            .env("PAYONCE_DATABASE_URL", &self.database_url)
            .env("PAYONCE_REDIS_URL", &self.redis_url)
            .env("PAYONCE_AMQP_URL", &self.amqp_url)
            .env("PAYONCE_PREFIX", &self.prefix)
            .env("PAYONCE_SIGNATURES", "off")
            .env("PAYONCE_ORDER_WAIT_MS", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// The real program on a terminal of its own, at which somebody types this; what it shows is in `stdout`.
    pub async fn on_terminal(&self, arguments: &str, typed: &str) -> Output {
        let program = self.program(&[]);
        let mut command = Command::new("script");
        let line = format!("{} {arguments}", program.as_std().get_program().to_str().expect("a path"));
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in program.as_std().get_envs() {
            command.env(name, value.expect("set"));
        }
        let piped = command.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("script (bsdutils) runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(typed.as_bytes()).await.expect("it reads");
        drop(stdin);
        child.wait_with_output().await.expect("it ends")
    }

    /// A worker process of its own, to be killed.
    pub fn worker_process(&self, settings: &[&str]) -> Child {
        self.program(&["worker"])
            .args(settings)
            .stderr(Stdio::null())
            .spawn()
            .expect("the payonce binary runs")
    }

    /// Publishes and waits for every confirm.
    pub async fn publish(&self, events: &[Event]) {
        let bodies: Vec<(String, Vec<u8>)> =
            events.iter().map(|event| (event.account.clone(), event.body())).collect();
        self.publish_raw(&bodies).await;
    }

    /// Publishes (routing key, body) and waits for every confirm.
    pub async fn publish_raw(&self, messages: &[(String, Vec<u8>)]) {
        let unsigned = |(key, body): &(String, Vec<u8>)| (key.clone(), body.clone(), Headers::default());
        self.publish_signed(&messages.iter().map(unsigned).collect::<Vec<_>>()).await;
    }

    /// Publishes (routing key, body, headers) and waits for every confirm.
    pub async fn publish_signed(&self, messages: &[(String, Vec<u8>, Headers)]) {
        let connection = broker::connect(&self.amqp_url, "payonce-it-publish", &Default::default())
            .await
            .expect("RabbitMQ answers");
        let publisher = Publisher::open(&connection, &self.names()).await.expect("a channel");
        let mut confirms = Vec::with_capacity(messages.len());
        for (key, body, headers) in messages {
            confirms
                .push(publisher.publish_signed(key, body, headers).await.expect("the message is written"));
        }
        for confirm in confirms {
            confirm.wait().await.expect("the broker has the message");
        }
    }

    /// One number from the database.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.connect().await).await.expect(sql)
    }

    /// Waits until so many callbacks are settled, copies included.
    pub async fn settled(&self, callbacks: i64) {
        let mut connection = self.connect().await;
        let started = std::time::Instant::now();
        loop {
            let sum: i64 = sqlx::query_scalar(
                "select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'",
            )
            .fetch_one(&mut connection)
            .await
            .expect("the tallies can be read");
            if sum >= callbacks {
                return;
            }
            assert!(
                started.elapsed() < super::DEADLINE,
                "{sum} of {callbacks} callbacks settled at the deadline"
            );
            tokio::time::sleep(super::POLL_PAUSE).await;
        }
    }

    /// (balance, held, version) of an account; `None`: not open.
    pub async fn account(&self, id: &str) -> Option<(i64, i64, i64)> {
        sqlx::query_as("select balance, held, version from accounts where account_id = $1")
            .bind(id)
            .fetch_optional(&mut self.connect().await)
            .await
            .expect("accounts can be read")
    }

    /// How many copies each layer rejected: (layer, copies).
    pub async fn duplicates(&self) -> Vec<(String, i64)> {
        sqlx::query_as("select label, sum(n)::bigint from tallies where kind = 'duplicate' group by label order by label")
            .fetch_all(&mut self.connect().await)
            .await
            .expect("tallies can be read")
    }

    /// (event id, reason, state, attempts) of each case, oldest first.
    pub async fn cases(&self) -> Vec<(Option<String>, String, String, i32)> {
        sqlx::query_as("select event_id, reason, state, attempts from quarantine order by id")
            .fetch_all(&mut self.connect().await)
            .await
            .expect("cases can be read")
    }

    /// Messages that are ready in this queue.
    pub async fn ready_messages(&self, queue: &str) -> u32 {
        let connection = broker::connect(&self.amqp_url, "payonce-it", &Default::default())
            .await
            .expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel");
        let passive =
            lapin::options::QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        channel
            .queue_declare(queue.into(), passive, Default::default())
            .await
            .expect("the queue exists")
            .message_count()
    }

    /// Every stored invariant holds.
    pub async fn audit(&self) {
        for since in [None, Some(time::OffsetDateTime::UNIX_EPOCH)] {
            let findings = store::audit(&mut self.connect().await, since, &Default::default(), |_| {})
                .await
                .expect("the audit runs");
            let failed: Vec<_> = findings.iter().filter(|finding| finding.is_violated()).collect();
            assert!(failed.is_empty(), "audit since {since:?} failed: {failed:#?}");
        }
    }

    /// The same data in a database of its own, to be harmed; no worker may be running.
    pub async fn copy(&self, name: &str) -> Self {
        let database_name = format!("{}_{name}", self.database_name);
        self.admin(&format!("create database {database_name} template {}", self.database_name)).await;
        let mut url = url::Url::parse(&self.database_url).expect("a URL");
        url.set_path(&database_name);
        Self { database_url: url.to_string(), database_name, ..self.clone() }
    }

    /// The same, by another address of its database.
    pub fn by(&self, database_url: String) -> Self {
        Self { database_url, ..self.clone() }
    }

    /// The name of its database.
    pub fn database_name(&self) -> &str {
        &self.database_name
    }

    /// Removes a copy.
    pub async fn drop_database(&self) {
        self.admin(&format!("drop database {} with (force)", self.database_name)).await;
    }

    pub async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.redis_url.as_str()).expect("a Redis URL");
        client.get_multiplexed_async_connection().await.expect("Redis answers")
    }
}

/// What the workers in this process log, beside the output of the test that fails.
fn log_what_a_failing_test_did() {
    let filter = tracing_subscriber::EnvFilter::new("payonce=info,warn");
    // Fails only where an earlier world of the same process has done it.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
}
