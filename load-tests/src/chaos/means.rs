//! The means by which faults are brought about: what is done to servers, links and workers, each undone before it returns, each with
//! its count of how often it took effect.

use std::{path::Path, time::Duration};

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use super::{
    pool::Pool,
    proxy::{Proxy, Trap},
    servers::Server,
    site::Site,
};

/// RabbitMQ's answer to a worker that holds its deliveries too long, in the `consumer_timeout` fault.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(2);
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

/// A pooler that drops what a session asks for, a server whose own defaults would lose commits, and a crash while both are there. Returns how
/// many sessions went by way of the pooler.
pub async fn pool_sessions(site: &mut Site, hold: Duration) -> anyhow::Result<u64> {
    let pooler = site.with_pooler().await?;
    let mut admin = site.connect().await?;
    sqlx::raw_sql("alter system set synchronous_commit = off").execute(&mut admin).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await?;
    sleep(hold).await;
    crash(site.node()?).await?;
    let mut admin = site.connect().await?;
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
            anyhow::ensure!(alive == Some(200), "/healthz answers {alive:?} while a server is away");
            unready += u64::from(member.http_status("/readyz").await == Some(503));
        }
    }
    Ok(unready)
}

pub async fn shift_clocks(pool: &mut Pool, hold: Duration) -> anyhow::Result<u64> {
    anyhow::ensure!(Path::new(FAKETIME).exists(), "no {FAKETIME}: install the package faketime");
    for hours in ["+1h", "-1h"] {
        let environment =
            [("LD_PRELOAD", FAKETIME), ("FAKETIME", hours), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        pool.replace_first(&environment).await?;
    }
    sleep(hold).await;
    for _ in 0..2 {
        pool.replace_first(&[]).await?;
    }
    Ok(2)
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

/// Nothing may be in the queue: what is in a queue that is deleted is gone, whoever consumes it.
pub async fn delete_queue(site: &Site) -> anyhow::Result<u64> {
    let place = site.direct()?;
    let connection = place.broker().await.map_err(|_| anyhow::anyhow!("the broker does not answer"))?;
    let channel = connection.create_channel().await?;
    channel.queue_delete(place.names().queue.as_str().into(), Default::default()).await?;
    Ok(1)
}

pub async fn terminate_sessions(site: &Site, hold: Duration) -> anyhow::Result<u64> {
    let mut connection = site.connect().await?;
    let mut terminated = 0;
    let end = Instant::now() + hold;
    while Instant::now() < end {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity
                                   where application_name like 'payonce-worker%') as terminated",
        )
        .fetch_one(&mut connection)
        .await?;
        terminated += u64::try_from(count).unwrap_or(0);
        sleep(Duration::from_millis(200)).await;
    }
    Ok(terminated)
}

pub async fn read_only_database(site: &Site, hold: Duration) -> anyhow::Result<u64> {
    let refused = || site.node().map(|node| node.log().matches("read-only transaction").count() as u64);
    let before = refused()?;
    let mut connection = site.connect().await?;
    sqlx::raw_sql("alter system set default_transaction_read_only = on").execute(&mut connection).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut connection).await?;
    sleep(hold).await;
    sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut connection).await?;
    sqlx::raw_sql("alter system reset default_transaction_read_only").execute(&mut connection).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut connection).await?;
    Ok(refused()? - before)
}

/// A transaction that locks a late account and then the others from the last to the first, while workers lock them from the first to the last.
pub async fn deadlocks(site: &Site) -> anyhow::Result<u64> {
    let counted = "select deadlocks from pg_stat_database where datname = current_database()";
    let (mut connection, mut observer) = (site.connect().await?, site.connect().await?);
    let rival_id: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
    let before: i64 = sqlx::query_scalar(counted).fetch_one(&mut observer).await?;
    let mut deadlocked = 0;
    for _ in 0..20 {
        let mut rival = connection.begin().await?;
        // One of the busiest accounts, behind which a worker's batch has others in its order.
        sqlx::raw_sql(
            "select from accounts where account_id =
                 (select max(account_id) from (select account_id from accounts order by version desc limit 10) as busy)
             for update",
        )
        .execute(&mut *rival)
        .await?;
        // A worker that waits for it holds those before it.
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let waiting = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
            let waiting: i64 = sqlx::query_scalar(waiting).bind(rival_id).fetch_one(&mut observer).await?;
            if waiting > 0 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        // Fails where the rival is the one that PostgreSQL ends.
        let all = sqlx::raw_sql("select from accounts order by account_id desc for update");
        drop(all.execute(&mut *rival).await);
        rival.rollback().await?;
        // Statistics of a session are reported when it is idle.
        sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut connection).await?;
        sqlx::raw_sql("select pg_stat_clear_snapshot()").execute(&mut observer).await?;
        let now: i64 = sqlx::query_scalar(counted).fetch_one(&mut observer).await?;
        deadlocked = u64::try_from(now - before).unwrap_or(0);
        if deadlocked >= 2 {
            break;
        }
    }
    Ok(deadlocked)
}

/// Takes every connection that is left, ends those of the workers, and takes theirs too.
pub async fn exhaust_connections(site: &Site, hold: Duration) -> anyhow::Result<u64> {
    let mut taken: Vec<PgConnection> = vec![site.connect().await?];
    let mut refused = 0;
    // Held from the moment when none is left, however long it takes to take them all.
    let mut end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        match site.connect().await {
            Ok(connection) => taken.push(connection),
            Err(_) => {
                if refused == 0 {
                    end = Instant::now() + hold;
                }
                refused += 1;
                let first = taken.first_mut().context("no connection")?;
                sqlx::raw_sql(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'payonce-worker%'",
                )
                .execute(first)
                .await?;
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    for connection in taken {
        connection.close().await?;
    }
    Ok(refused)
}

/// PostgreSQL's own log is on the disk that is full, so the workers' logs say it too; or it has ended itself, which it does where it cannot
/// write its log of changes.
pub async fn fill_disk(site: &Site, pool: &Pool) -> anyhow::Result<u64> {
    let noticed = || {
        let said = site.node()?.log() + &pool.said();
        anyhow::Ok(said.matches("No space left on device").count() as u64)
    };
    let before = noticed()?;
    let filler = site.fill_disk()?;
    let end = Instant::now() + Duration::from_secs(20);
    let mut has_ended = false;
    while noticed()? == before && !has_ended && Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
        has_ended = site.connect().await.is_err();
    }
    std::fs::remove_file(filler)?;
    site.node()?.start_again().await?;
    Ok((noticed()? - before).max(u64::from(has_ended)))
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
