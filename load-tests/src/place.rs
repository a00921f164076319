//! Where a run takes place: a fresh database and prefix on the servers that the environment names, removed afterwards.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use payonce::{
    broker::{self, Names},
    signature::Headers,
};
use sqlx::{Connection, PgConnection};

use crate::{
    body::SOURCES,
    failure::Failure,
    plan::{Plan, Sending},
    signing::Signing,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The servers and names of one run.
#[derive(Debug, Clone)]
pub struct Place {
    /// The run's database.
    pub database_url: String,
    /// Redis, shared; the prefix keeps runs apart.
    pub redis_url: String,
    /// RabbitMQ, shared; the prefix keeps runs apart.
    pub amqp_url: String,
    /// Before each queue's and key's name.
    pub prefix: String,
    /// The database to connect to for creating and dropping, and the name; `None`: nothing is ours to drop.
    fresh: Option<(String, String)>,
    /// Whether the ledger had rows before the run.
    has_history: bool,
    /// The providers' keys; `None`: nobody signs, and workers trust the queue.
    signing: Option<Arc<Signing>>,
    /// `order_wait_ms` of its workers, where it is not that of the environment.
    pub order_wait: Option<Duration>,
}

/// The `source` of the deep account's rows, which were in the ledger before the run; no plan uses it.
const HISTORY: &str = "/providers/history";
/// Which rows of the ledger [`Place::write_history`] wrote: they have the sources of every plan, so that the keys of a run lie between theirs.
const IS_HISTORY: &str =
    "account_id ~ '^history-' and coalesce(operation_id = 'op_' || substr(event_id, 5), false)";
/// Accounts that they are spread over.
const HISTORY_ACCOUNTS: u32 = 100_000;
/// One of them, with many rows.
pub const DEEP_ACCOUNT: &str = "history-deep";
/// Before its first row, in seconds since 1970.
pub const DEEP_SINCE_S: i64 = 1_600_000_000;
/// Rows of the history per transaction.
const HISTORY_CHUNK: u32 = 500_000;

impl Place {
    /// A place on servers that belong to the run.
    pub fn at(database_url: String, redis_url: String, amqp_url: String) -> Self {
        let prefix = "chaos.".to_owned();
        Self {
            database_url,
            redis_url,
            amqp_url,
            prefix,
            fresh: None,
            has_history: false,
            signing: None,
            order_wait: None,
        }
    }

    /// The same place, with providers that sign and workers that insist on it; `None`: without.
    pub fn signed_by(self, signing: Option<Arc<Signing>>) -> Self {
        Self { signing, ..self }
    }

    /// The keys, where providers sign.
    pub fn signing(&self) -> Option<&Signing> {
        self.signing.as_deref()
    }

    /// The headers of a message.
    pub fn headers(&self, plan: &Plan, sending: Sending, body: &[u8]) -> anyhow::Result<Headers> {
        match (&self.signing, plan.distinct.get(sending.distinct as usize)) {
            (Some(signing), Some(one)) => signing.headers(plan, one, body),
            (None, _) | (_, None) => Ok(Headers::default()),
        }
    }

    /// The environment's servers, with a fresh database and prefix unless `in_place`.
    pub async fn prepare(in_place: bool, seed: u64) -> Result<Self, Failure> {
        let (database_url, redis_url, amqp_url) = (
            variable("PAYONCE_DATABASE_URL")?,
            variable("PAYONCE_REDIS_URL")?,
            variable("PAYONCE_AMQP_URL")?,
        );
        if in_place {
            let prefix = std::env::var("PAYONCE_PREFIX").unwrap_or_default();
            let place = Self {
                database_url,
                redis_url,
                amqp_url,
                prefix,
                fresh: None,
                has_history: false,
                signing: None,
                order_wait: None,
            };
            place.connect().await?;
            return Ok(place);
        }
        Self::fresh(&database_url, redis_url, amqp_url, seed, None).await
    }

    /// A fresh place whose database begins as a copy of `original`'s, history included. Nobody may be connected to that.
    pub async fn copy_of(original: &Self, seed: u64) -> Result<Self, Failure> {
        let Some((admin, name)) = &original.fresh else {
            return Err(Failure::Usage("only a database of load-tests' own can be copied".to_owned()));
        };
        let (redis_url, amqp_url) = (original.redis_url.clone(), original.amqp_url.clone());
        let place = Self::fresh(admin, redis_url, amqp_url, seed, Some(name)).await?;
        Ok(Self { has_history: original.has_history, ..place })
    }

    /// `admin`: where databases are created from.
    async fn fresh(
        admin: &str,
        redis_url: String,
        amqp_url: String,
        seed: u64,
        template: Option<&str>,
    ) -> Result<Self, Failure> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let name = format!("payonce_replay_{}_{seed}_{started}", std::process::id());
        let place = Self {
            database_url: with_database(admin, &name)?,
            redis_url,
            amqp_url,
            prefix: format!("replay-{}-{seed}-{started}.", std::process::id()),
            fresh: Some((admin.to_owned(), name.clone())),
            has_history: false,
            signing: None,
            order_wait: None,
        };
        let copied = template.map_or_else(String::new, |name| format!(" template {name} strategy file_copy"));
        execute(admin, &format!("create database {name}{copied}")).await?;
        Ok(place)
    }

    /// Drops and creates the database of PAYONCE_DATABASE_URL.
    pub async fn recreate_database() -> Result<(), Failure> {
        let url = variable("PAYONCE_DATABASE_URL")?;
        let name = url.rsplit('/').next().unwrap_or_default().to_owned();
        if !name.starts_with("payonce_")
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(Failure::Usage(
                "PAYONCE_DATABASE_URL: only a database whose name starts with `payonce_` is dropped"
                    .to_owned(),
            ));
        }
        let admin = with_database(&url, "postgres")?;
        execute(&admin, &format!("drop database if exists {name} with (force)")).await?;
        execute(&admin, &format!("create database {name}")).await
    }

    /// A connection to the run's database. It sees what the run wrote, not the history: temporary views stand before the tables.
    pub async fn connect(&self) -> Result<PgConnection, Failure> {
        let mut connection = connect(&self.database_url).await?;
        if self.has_history {
            // While it still says `ledger`, which is the table here and the view of that name where it is made again.
            let journal: String = sqlx::query_scalar("select pg_get_viewdef('journal'::regclass)")
                .fetch_one(&mut connection)
                .await
                .context("no journal")?;
            let views = format!(
                "create temporary view ledger as select * from public.ledger where source <> '{HISTORY}' and not ({IS_HISTORY});
                 create temporary view accounts as select * from public.accounts where account_id !~ '^history-';
                 create temporary view journal as {journal}"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(views)).execute(&mut connection).await.context("no views")?;
        }
        Ok(connection)
    }

    /// Fills a migrated, empty database with so many rows of an earlier life: deposits of 1 by random event and operation ids, of the providers
    /// of every plan.
    pub async fn write_history(&mut self, rows: u32) -> Result<(), Failure> {
        execute(
            &self.database_url,
            &format!(
                "insert into accounts (account_id, currency, balance, held, version)
                 select 'history-' || a, 'CNY', n, 0, n
                 from (select a, {rows} / {HISTORY_ACCOUNTS} + (a < {rows} % {HISTORY_ACCOUNTS})::int as n
                       from generate_series(0, {HISTORY_ACCOUNTS} - 1) as a) as counted
                 where n > 0"
            ),
        )
        .await?;
        for first in (0..rows).step_by(HISTORY_CHUNK as usize) {
            let end = rows.min(first.saturating_add(HISTORY_CHUNK));
            let insert = format!(
                "insert into ledger (source, event_id, type, account_id, account_version, operation_id, amount, currency,
                                     balance_delta, held_delta, balance_after, held_after, payload_sha256)
                 select ('{{{sources}}}'::text[])[number % {count} + 1], 'evt_' || id, 'deposit.succeeded', 'history-' || number % {HISTORY_ACCOUNTS},
                        number / {HISTORY_ACCOUNTS} + 1, 'op_' || id, 1, 'CNY', 1, 0, number / {HISTORY_ACCOUNTS} + 1, 0,
                        sha256(id::bytea)
                 from (select number, left(md5(number::text), 16) as id
                       from generate_series({first}, {end} - 1) as number) as numbered
                 order by id",
                sources = SOURCES.join(","),
                count = SOURCES.len(),
            );
            execute(&self.database_url, &insert).await?;
        }
        execute(&self.database_url, "vacuum analyze").await?;
        self.has_history = true;
        Ok(())
    }

    /// One account with so many rows of 1 each, a second apart, the first at [`DEEP_SINCE_S`]: after `n` seconds its version and its balance are `n`.
    pub async fn write_deep_account(&mut self, rows: u32) -> Result<(), Failure> {
        let account = format!(
            "insert into accounts (account_id, currency, balance, held, version) values ('{DEEP_ACCOUNT}', 'EUR', {rows}, 0, {rows})"
        );
        execute(&self.database_url, &account).await?;
        for first in (1..=rows).step_by(HISTORY_CHUNK as usize) {
            let last = rows.min(first.saturating_add(HISTORY_CHUNK - 1));
            let insert = format!(
                "insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                                     balance_after, held_after, payload_sha256, recorded_at)
                 select '{HISTORY}', 'deep_' || n, 'deposit.succeeded', '{DEEP_ACCOUNT}', n, 1, 'EUR', 1, 0, n, 0, sha256(n::text::bytea),
                        to_timestamp({DEEP_SINCE_S}::bigint + n)
                 from generate_series({first}, {last}) as n"
            );
            execute(&self.database_url, &insert).await?;
        }
        execute(&self.database_url, "vacuum analyze").await?;
        self.has_history = true;
        Ok(())
    }

    /// Adds so many cases with an order and a customer each, and as many lines of the audit log; a thousand debts; ten times as many duplicates, and counts of the last 90 days: by the minute for a day, else by the hour.
    pub async fn write_cases(&self, cases: u32) -> Result<(), Failure> {
        let sql = format!(
            "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint, account_id, payment_id,
                                     resolved_at, amount, currency, assignee)
             select '/providers/pages-' || n % 3, 'case_' || n,
                    case when n % 100 = 0 then 'malformed' when n % 10 = 3 then 'payload_mismatch' else 'unknown_account' end,
                    'written for a load test', convert_to(repeat('x', 300), 'UTF8'),
                    case when n % 20 = 0 then 'discarded' else 'open' end, 1, sha256(convert_to(n::text, 'UTF8')),
                    'pages-' || n % 1000, 'pay_' || n, case when n % 20 = 0 then now() end,
                    100 * (n % 5000 + 1), case when n % 7 = 0 then 'JPY' else 'EUR' end, case when n % 50 = 1 then 'anna' end
             from generate_series(1, {cases}) as n;
             insert into callback_references (event_id, source, name, value)
             select 'case_' || n, '/providers/pages-' || n % 3, name, value
             from generate_series(1, {cases}) as n,
                  lateral (values ('order_id', 'order-' || n), ('customer', 'customer-' || n % 1000)) as of(name, value);
             insert into accounts (account_id, currency, balance, held, version)
             select 'owes-' || n, 'EUR', -n, 0, 1 from generate_series(1, 1000) as n;
             insert into operator_actions (who, via, action, why, chosen, ended_at, cases, result)
             select 'person-' || n % 20, 'web', case when n % 3 = 0 then 'discard' else 'replay' end, 'written for a load test', 'case ' || n, now(), 1,
                    '1 applied'
             from generate_series(1, {cases}) as n;
             insert into duplicates (source, event_id, layer, copies)
             select '/providers/pages-1', 'case_' || n % {cases}, 'redis', 1 from generate_series(1, 10 * {cases}) as n;
             insert into tallies (minute, writer, grain, kind, source, label, n)
             select at, grain, grain, kind, '/providers/pages-' || source, label, 1000
             from (select date_trunc('minute', now()) - n * interval '1 minute' as at, 'minute' as grain
                   from generate_series(3, 1440) as n
                   union all
                   select date_trunc('hour', now()) - n * interval '1 hour', 'hour' from generate_series(25, 2160) as n) as times,
                  generate_series(1, 10) as source,
                  (values ('applied', 'deposit.succeeded'), ('applied', 'payment.succeeded'), ('duplicate', 'redis'),
                          ('duplicate', 'ledger'), ('quarantined', 'unknown_account')) as kinds(kind, label);
             insert into tally_totals (kind, source, label, n)
             select kind, source, label, sum(n) from tallies group by kind, source, label;
             vacuum analyze"
        );
        for statement in sql.split(';') {
            execute(&self.database_url, statement).await?;
        }
        Ok(())
    }

    /// The names on the broker.
    pub fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    /// A connection to the broker.
    pub async fn broker(&self) -> Result<lapin::Connection, Failure> {
        broker::connect(&self.amqp_url, "payonce-load-tests", &Default::default())
            .await
            .map_err(|error| Failure::Unreachable(format!("PAYONCE_AMQP_URL: {error}")))
    }

    /// Removes what `prepare` made, and the run's keys in Redis. The queues go in any case when they were declared by this run under a
    /// fresh prefix.
    pub async fn remove(&self) -> Result<(), Failure> {
        let Some((admin, name)) = &self.fresh else { return Ok(()) };
        let connection = self.broker().await?;
        let channel = connection.create_channel().await.context("no channel")?;
        let names = self.names();
        for queue in [&names.queue, &names.dead_queue] {
            channel
                .queue_delete(queue.as_str().into(), Default::default())
                .await
                .context("the queue is not deleted")?;
        }
        for exchange in [&names.exchange, &names.events_exchange] {
            channel
                .exchange_delete(exchange.as_str().into(), Default::default())
                .await
                .context("the exchange is not deleted")?;
        }
        execute(admin, &format!("drop database {name} with (force)")).await?;
        if let Err(error) = self.forget_markers().await {
            eprintln!("the run's markers stay in Redis until they expire: {error}");
        }
        Ok(())
    }

    /// Markers outlive a run, and millions of them make Redis slower for the runs that follow. Only for a place with a prefix of its
    /// own.
    async fn forget_markers(&self) -> redis::RedisResult<()> {
        const KEYS_PER_TRIP: u32 = 1_000;
        let mut connection =
            redis::Client::open(self.redis_url.as_str())?.get_multiplexed_async_connection().await?;
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", self.prefix)).arg("COUNT").arg(KEYS_PER_TRIP);
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).query_async::<()>(&mut connection).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name)
        .map_err(|_| Failure::Usage(format!("{name} is not set: run `make services`, then `. .local/env`")))
}

/// The same server and user, another database.
fn with_database(url: &str, name: &str) -> Result<String, Failure> {
    let (server, _) = url.rsplit_once('/').ok_or_else(|| {
        Failure::Usage("PAYONCE_DATABASE_URL: expected postgres://user@host:port/database".to_owned())
    })?;
    Ok(format!("{server}/{name}"))
}

async fn connect(url: &str) -> Result<PgConnection, Failure> {
    let unreachable = |what: String| Failure::Unreachable(format!("PAYONCE_DATABASE_URL: {what}"));
    tokio::time::timeout(CONNECT_DEADLINE, PgConnection::connect(url))
        .await
        .map_err(|_| unreachable(format!("no answer within {CONNECT_DEADLINE:?}")))?
        .map_err(|error| unreachable(error.to_string()))
}

async fn execute(url: &str, statement: &str) -> Result<(), Failure> {
    let mut connection = connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(&mut connection)
        .await
        .with_context(|| format!("PostgreSQL refuses: {statement}"))?;
    Ok(())
}
