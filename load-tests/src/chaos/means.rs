//! The means by which faults are brought about: what is done to servers, links and workers, each undone before it returns, each with
//! its count of how often it took effect. What is done to PostgreSQL is in `database`.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use sqlx::{FromRow, PgConnection};
use tokio::time::{Instant, sleep};

use super::{
    offer,
    pool::Pool,
    proxy::{Proxy, Trap},
    servers::Server,
    site::{Held, Site},
};
use crate::audit::CONSTANT_KEY;

/// RabbitMQ's answer to a worker that holds its deliveries too long, in the `consumer_timeout` fault.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what a fault has held back may take to come.
const COMING_DEADLINE: Duration = Duration::from_secs(60);
/// Messages of each half of the `constant_key` fault.
const ONE_KEY_MESSAGES: u64 = 4_000;
/// What may be read for each of them, and for what comes beside them: 16 were seen on a busy machine, 74 where every case of the key is read.
/// That, once for each batch of 100, is twenty times as much as for the first ones by the end.
const INDEX_ENTRIES_PER_MESSAGE_MAX: u64 = 35;
/// Crashes of the `pooler_drops_settings` fault.
const CRASHES: u32 = 3;
/// How long a worker may take from its start until its first line.
const CLOCK_TOLERANCE_S: i64 = 600;

pub async fn crash(server: &Server) -> anyhow::Result<u64> {
    let processes = server.signal("0").await?;
    server.kill().await?;
    server.start_again().await?;
    Ok(u64::from(processes > 0))
}

pub async fn pause(server: &Server, time: Duration) -> anyhow::Result<u64> {
    let stopped = server.signal("STOP").await?;
    sleep(time).await;
    server.signal("CONT").await?;
    Ok(u64::from(stopped > 0))
}

/// Resets all connections a few times.
pub async fn reset(proxy: &Proxy, hold: Duration) -> anyhow::Result<u64> {
    let mut broken = 0;
    for _ in 0..3 {
        broken += proxy.reset();
        sleep(hold / 3).await;
    }
    Ok(broken)
}

/// Keeps a rule for a while.
pub async fn slowly(proxy: &Proxy, time: Duration, rule: impl Fn(&Proxy)) -> anyhow::Result<u64> {
    let before = proxy.hits();
    rule(proxy);
    sleep(time).await;
    proxy.heal();
    Ok(proxy.hits() - before)
}

/// Sets a trap, and waits till it was used up or the time is over.
pub async fn trap(proxy: &Proxy, trap: Trap, times: u32, time: Duration) -> anyhow::Result<u64> {
    let before = proxy.hits();
    proxy.set_trap(trap, times);
    let end = Instant::now() + time;
    while Instant::now() < end && proxy.hits() - before < u64::from(times) {
        sleep(Duration::from_millis(20)).await;
    }
    proxy.heal();
    Ok(proxy.hits() - before)
}

/// Holds back every answer to a COMMIT for a while.
pub async fn hold_commits(site: &mut Site, time: Duration) -> anyhow::Result<u64> {
    let before = site.node_proxy().hits();
    site.node_proxy().hold_commits(true);
    let from = SystemTime::now();
    sleep(time).await;
    let until = SystemTime::now();
    site.node_proxy().heal();
    site.held.push(Held { from, until });
    Ok(site.node_proxy().hits() - before)
}

/// A pooler that drops what a session asks for, a server whose own defaults would lose commits, and crashes while both are there. Returns how
/// many sessions went by way of the pooler.
pub async fn pool_sessions(site: &mut Site, hold: Duration) -> anyhow::Result<u64> {
    let pooler = site.with_pooler().await?;
    let mut admin = site.connect().await?;
    sqlx::raw_sql("alter system set synchronous_commit = off").execute(&mut admin).await?;
    // What is not flushed at its commit is flushed late.
    sqlx::raw_sql("alter system set wal_writer_delay = '10s'").execute(&mut admin).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await?;
    // Each takes what the last commit before it has not flushed, and that is mostly one batch.
    for _ in 0..CRASHES {
        wait_for_a_row(site).await?;
        sleep(hold / CRASHES).await;
        crash(site.node()?).await?;
    }
    let mut admin = site.connect().await?;
    sqlx::raw_sql("alter system reset wal_writer_delay").execute(&mut admin).await?;
    sqlx::raw_sql("alter system reset synchronous_commit").execute(&mut admin).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await?;
    let sessions = pooler.log().matches("login attempt").count() as u64;
    site.without_pooler(pooler).await?;
    Ok(sessions)
}

/// Until one more row is committed.
async fn wait_for_a_row(site: &Site) -> anyhow::Result<()> {
    let mut database = site.connect().await?;
    let count = "select count(*) from ledger";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut database).await?;
    let end = Instant::now() + COMING_DEADLINE;
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&mut database).await? == before {
        anyhow::ensure!(Instant::now() < end, "no row came within {COMING_DEADLINE:?}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Counts how often workers said that they are not ready, and fails where one is not alive.
pub async fn watch_health(pool: &Pool, time: Duration) -> anyhow::Result<u64> {
    let mut unready = 0;
    let end = Instant::now() + time;
    while Instant::now() < end {
        sleep(Duration::from_secs(2)).await;
        for member in pool.members() {
            let alive = member.http_status("/healthz").await;
            anyhow::ensure!(alive == Some(200), "/healthz answers {alive:?} while a server is down");
            unready += u64::from(member.http_status("/readyz").await == Some(503));
        }
    }
    Ok(unready)
}

pub async fn shift_clocks(pool: &mut Pool, hold: Duration) -> anyhow::Result<u64> {
    // Where Debian and Ubuntu put it.
    let faketime = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    anyhow::ensure!(Path::new(&faketime).exists(), "no {faketime}: install the package faketime");
    let mut shifted = 0;
    for (hours, expected_s) in [("+1h", 3_600), ("-1h", -3_600)] {
        let environment =
            [("LD_PRELOAD", faketime.as_str()), ("FAKETIME", hours), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        pool.replace_first(&environment).await?;
        let now_s = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let off_s = pool.clock_of_newest().await? - now_s;
        shifted += u64::from((off_s - expected_s).abs() < CLOCK_TOLERANCE_S);
    }
    sleep(hold).await;
    for _ in 0..2 {
        pool.replace_first(&[]).await?;
    }
    Ok(if shifted == 2 { shifted } else { 0 })
}

pub async fn memory_alarm(broker: &Server, hold: Duration) -> anyhow::Result<u64> {
    broker.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await?;
    sleep(hold).await;
    let alarms = broker.rabbitmqctl(&["eval", "length(rabbit_alarm:get_alarms())."]).await?;
    broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"]).await?;
    Ok(alarms.trim().parse().unwrap_or(0))
}

/// The timeout is read when a channel opens, and looked at in intervals of its own (RabbitMQ documentation, "Delivery
/// Acknowledgement Timeout").
pub async fn consumer_timeout(site: &Site) -> anyhow::Result<u64> {
    let timed_out = || site.broker.log().matches("has timed out waiting for").count() as u64;
    let set = |timeout_ms: u128, tick_ms: u32| {
        format!(
            "application:set_env(rabbit, consumer_timeout, {timeout_ms}), \
             application:set_env(rabbit, channel_tick_interval, {tick_ms})."
        )
    };
    let before = timed_out();
    site.broker.rabbitmqctl(&["eval", &set(CONSUMER_TIMEOUT.as_millis(), 500)]).await?;
    site.broker_proxy.reset();
    sleep(Duration::from_secs(1)).await;
    // Deliveries are held while PostgreSQL does not answer.
    pause(site.node()?, CONSUMER_TIMEOUT * 2).await?;
    sleep(Duration::from_secs(1)).await;
    site.broker.rabbitmqctl(&["eval", &set(1_800_000, 60_000)]).await?;
    site.broker_proxy.reset();
    Ok(timed_out() - before)
}

/// Nothing may be in the queue: what is in a queue that is deleted is gone, whoever consumes it. Returns 1 where another one stands in its
/// place.
pub async fn delete_queue(site: &Site) -> anyhow::Result<u64> {
    let place = site.direct()?;
    let name = place.names().queue;
    let process = async || {
        let queues = site.broker.rabbitmqctl(&["list_queues", "--quiet", "name", "pid"]).await?;
        let line = queues.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('\t'));
        anyhow::Ok(line.map(str::to_owned))
    };
    let before = process().await?.context("there is no queue to be deleted")?;
    let connection = place.broker().await.map_err(|_| anyhow::anyhow!("the broker does not answer"))?;
    let channel = connection.create_channel().await?;
    channel.queue_delete(name.as_str().into(), Default::default()).await?;
    let end = Instant::now() + COMING_DEADLINE;
    while Instant::now() < end {
        match process().await? {
            Some(now) if now != before => return Ok(1),
            Some(_) | None => sleep(Duration::from_millis(100)).await,
        }
    }
    Ok(0)
}

/// Callbacks with the operation id of one that is applied, each with another amount: first each under an event id of its own, then all under
/// one. Returns how many of them are cases of `payload_mismatch`; fails where looking them up has read more with each.
pub async fn one_key(site: &mut Site) -> anyhow::Result<u64> {
    let mut database = site.connect().await?;
    let applied: Applied = sqlx::query_as(
        "select source, type, account_id, payment_id, operation_id, amount, currency from ledger
         where operation_id is not null and type = 'deposit.succeeded' and leg = 0 order by recorded_at limit 1",
    )
    .fetch_one(&mut database)
    .await
    .context("no deposit with an operation id is applied yet")?;
    let place = site.direct()?;
    let (_connection, publisher) = offer::open(&place).await?;
    let mut cases = 0;
    for is_one_event in [false, true] {
        let read_before = index_entries(&mut database).await?;
        let mut confirms = Vec::new();
        for n in 1..=ONE_KEY_MESSAGES {
            let number = site.beyond_plan + n;
            let id = format!("{CONSTANT_KEY}{}", if is_one_event { site.beyond_plan } else { number });
            let body = applied.with_another_amount(&id, i64::try_from(number)?);
            let signed =
                place.signing().map(|signing| signing.sign(&applied.source, &id, &body)).transpose()?;
            let routing_key = &applied.account_id;
            confirms.push(publisher.publish_signed(routing_key, &body, &signed.unwrap_or_default()).await?);
        }
        for confirm in confirms {
            confirm.wait().await?;
        }
        let before = i64::try_from(site.beyond_plan)?;
        site.beyond_plan += ONE_KEY_MESSAGES;
        let came = more_cases_of_one_key(&mut database, before).await?;
        cases += came;
        let read = index_entries(&mut database).await?.saturating_sub(read_before);
        let most = came * INDEX_ENTRIES_PER_MESSAGE_MAX;
        anyhow::ensure!(
            came == 0 || read <= most,
            "{read} index entries were read for {came} messages of one {}: more with each of them",
            if is_one_event { "event id" } else { "operation" }
        );
    }
    Ok(cases)
}

/// A row of the ledger, as far as callbacks can be made of it.
#[derive(Debug, FromRow)]
struct Applied {
    source: String,
    r#type: String,
    account_id: String,
    payment_id: Option<String>,
    operation_id: String,
    amount: i64,
    currency: String,
}

impl Applied {
    fn with_another_amount(&self, id: &str, more: i64) -> Vec<u8> {
        let mut data = serde_json::json!({
            "operation_id": self.operation_id, "amount": self.amount + more, "currency": self.currency,
        });
        if let Some(payment) = &self.payment_id {
            data["payment_id"] = payment.as_str().into();
        }
        let event = serde_json::json!({
            "specversion": "1.0", "id": id, "source": self.source, "type": self.r#type, "subject": self.account_id,
            "time": "2026-11-22T13:44:00Z", "data": data,
        });
        event.to_string().into_bytes()
    }
}

/// Waits until all of [`ONE_KEY_MESSAGES`] are cases beyond those `before`, and says how many are.
async fn more_cases_of_one_key(database: &mut PgConnection, before: i64) -> anyhow::Result<u64> {
    let cases =
        "select count(*) from quarantine where event_id like $1 || '%' and reason = 'payload_mismatch'";
    let end = Instant::now() + COMING_DEADLINE;
    loop {
        let now: i64 = sqlx::query_scalar(cases).bind(CONSTANT_KEY).fetch_one(&mut *database).await?;
        if now - before >= i64::try_from(ONE_KEY_MESSAGES)? || Instant::now() > end {
            return Ok(u64::try_from(now - before).unwrap_or(0));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Entries of the indexes of ledger and quarantine that sessions have read by now and told of.
async fn index_entries(database: &mut PgConnection) -> anyhow::Result<u64> {
    let read = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes where relname in ('quarantine', 'ledger')";
    sqlx::raw_sql("select pg_stat_clear_snapshot()").execute(&mut *database).await?;
    Ok(u64::try_from(sqlx::query_scalar::<_, i64>(read).fetch_one(database).await?).unwrap_or(0))
}

pub async fn redis(site: &Site) -> anyhow::Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", site.redis.port()?))?;
    Ok(client.get_multiplexed_async_connection().await?)
}

pub async fn flush_redis(site: &Site, hold: Duration) -> anyhow::Result<u64> {
    let mut connection = redis(site).await?;
    let mut flushed = 0;
    let end = Instant::now() + hold;
    while Instant::now() < end {
        flushed += redis::cmd("DBSIZE").query_async::<u64>(&mut connection).await?;
        redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await?;
        sleep(Duration::from_millis(500)).await;
    }
    Ok(flushed)
}

/// Lets Redis refuse writes with this error for a while, and says how often it did.
pub async fn refuse_writes(
    site: &Site,
    error: &str,
    begin: &[&str],
    end: &[&str],
    hold: Duration,
) -> anyhow::Result<u64> {
    let mut connection = redis(site).await?;
    let command = |words: &[&str]| {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command
    };
    redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut connection).await?;
    command(begin).query_async::<()>(&mut connection).await?;
    sleep(hold).await;
    let statistics: String = redis::cmd("INFO").arg("errorstats").query_async(&mut connection).await?;
    command(end).query_async::<()>(&mut connection).await?;
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{error}:count=")));
    Ok(line.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}
