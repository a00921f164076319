//! The means by which faults are brought about: what is done to servers, links and workers, each undone before it returns, each with
//! its count of how often it took effect. What is done to PostgreSQL is in `database`.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use redis::aio::MultiplexedConnection;
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
/// Messages of the `constant_key` fault.
const ONE_KEY_MESSAGES: u64 = 3_000;
/// How long a worker may take from its start until its first line.
const CLOCK_TOLERANCE_S: i64 = 600;
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

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

/// A pooler that drops what a session asks for, a server whose own defaults would lose commits, and a crash while both are there. Returns how
/// many sessions went by way of the pooler.
pub async fn pool_sessions(site: &mut Site, hold: Duration) -> anyhow::Result<u64> {
    let pooler = site.with_pooler().await?;
    let mut admin = site.connect().await?;
    sqlx::raw_sql("alter system set synchronous_commit = off").execute(&mut admin).await?;
    // What is not flushed at its commit is flushed late.
    sqlx::raw_sql("alter system set wal_writer_delay = '10s'").execute(&mut admin).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await?;
    sleep(hold).await;
    crash(site.node()?).await?;
    let mut admin = site.connect().await?;
    sqlx::raw_sql("alter system reset wal_writer_delay").execute(&mut admin).await?;
    sqlx::raw_sql("alter system reset synchronous_commit").execute(&mut admin).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await?;
    let sessions = pooler.log().matches("login attempt").count() as u64;
    site.without_pooler(pooler).await?;
    Ok(sessions)
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
    anyhow::ensure!(Path::new(FAKETIME).exists(), "no {FAKETIME}: install the package faketime");
    let mut shifted = 0;
    for (hours, expected_s) in [("+1h", 3_600), ("-1h", -3_600)] {
        let environment =
            [("LD_PRELOAD", FAKETIME), ("FAKETIME", hours), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
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

/// Callbacks with the operation id of one that is applied, each with another amount. Returns how many of them are cases of
/// `payload_mismatch`.
pub async fn one_key(site: &mut Site) -> anyhow::Result<u64> {
    let mut database = site.connect().await?;
    let (source, kind, account, payment, operation, amount, currency): (
        String,
        String,
        String,
        Option<String>,
        String,
        i64,
        String,
    ) = sqlx::query_as(
        "select source, type, account_id, payment_id, operation_id, amount, currency from ledger
         where operation_id is not null and type = 'deposit.succeeded' and leg = 0 order by recorded_at limit 1",
    )
    .fetch_one(&mut database)
    .await
    .context("no deposit with an operation id is applied yet")?;
    let place = site.direct()?;
    let (_connection, publisher) = offer::open(&place).await?;
    let mut confirms = Vec::new();
    for n in 1..=ONE_KEY_MESSAGES {
        let id = format!("{CONSTANT_KEY}{}", site.beyond_plan + n);
        let mut data = serde_json::json!({
            "operation_id": operation, "amount": amount + i64::try_from(n)?, "currency": currency,
        });
        if let Some(payment) = &payment {
            data["payment_id"] = payment.as_str().into();
        }
        let body = serde_json::json!({
            "specversion": "1.0", "id": id, "source": source, "type": kind, "subject": account,
            "time": "2026-11-22T13:44:00Z", "data": data,
        });
        let body = body.to_string().into_bytes();
        let signed = place.signing().map(|signing| signing.sign(&source, &id, &body)).transpose()?;
        confirms.push(publisher.publish_signed(&account, &body, &signed.unwrap_or_default()).await?);
    }
    for confirm in confirms {
        confirm.wait().await?;
    }
    let before = i64::try_from(site.beyond_plan)?;
    site.beyond_plan += ONE_KEY_MESSAGES;
    let cases =
        "select count(*) from quarantine where event_id like $1 || '%' and reason = 'payload_mismatch'";
    let end = Instant::now() + COMING_DEADLINE;
    loop {
        let now: i64 = sqlx::query_scalar(cases).bind(CONSTANT_KEY).fetch_one(&mut database).await?;
        if now - before >= i64::try_from(ONE_KEY_MESSAGES)? || Instant::now() > end {
            return Ok(u64::try_from(now - before).unwrap_or(0));
        }
        sleep(Duration::from_millis(100)).await;
    }
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
