//! The means of faults in PostgreSQL: sessions ended, writes refused, accounts locked, a schema changed under the workers, a disk filled.
//! Each is undone before it returns, with its count of how often it took effect. The other servers' are in `means`.

use std::time::Duration;

use anyhow::Context;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use super::{
    pool::Pool,
    progress::wait_for_progress,
    site::{DATABASE, Site},
};

/// Accounts that an operator locks, or whose rows are refused.
const HELD_ACCOUNTS: i64 = 5;
/// How long what a fault has held back may take to come.
const COMING_DEADLINE: Duration = Duration::from_secs(60);
/// How long workers hold deliveries in the `database_takes_no_writes` fault, in milliseconds; and its time, longer than a hundred holds.
const SHORT_HOLD: (&str, &str) = ("PAYONCE_OUTAGE_HOLD_MS", "1000");
const NO_WRITES: Duration = Duration::from_secs(105);

pub async fn terminate_sessions(site: &Site, hold: Duration) -> anyhow::Result<u64> {
    let mut connection = site.connect().await?;
    let mut terminated = 0;
    let end = Instant::now() + hold;
    while Instant::now() < end {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity
                                   where application_name ~ '^payonce-(worker|feed)') as terminated",
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

/// The database's own default is read-only, for new sessions. Workers that hold deliveries for a short time only meet it again and again.
/// None may call
/// itself ready. Returns how often they were refused.
pub async fn take_no_writes(site: &Site, pool: &mut Pool) -> anyhow::Result<u64> {
    for _ in 0..pool.members().len() {
        pool.replace_first(&[SHORT_HOLD]).await?;
    }
    let refused = || site.node().map(|node| node.log().matches("read-only transaction").count() as u64);
    let before = refused()?;
    // This session was there before, and can write.
    let mut admin = site.connect().await?;
    let read_only = format!("alter database {DATABASE} set default_transaction_read_only = on");
    sqlx::raw_sql(sqlx::AssertSqlSafe(read_only)).execute(&mut admin).await?;
    // More than once: one that was just opening has the former default.
    terminate_sessions(site, Duration::from_secs(1)).await?;
    let rows = "select (select count(*) from ledger) + (select count(*) from quarantine)";
    let kept: i64 = sqlx::query_scalar(rows).fetch_one(&mut admin).await?;
    let end = Instant::now() + NO_WRITES;
    while Instant::now() < end {
        sleep(Duration::from_secs(2)).await;
        for member in pool.members() {
            let ready = member.http_status("/readyz").await;
            anyhow::ensure!(ready == Some(503), "/readyz answers {ready:?} where nothing can be written");
        }
    }
    let now: i64 = sqlx::query_scalar(rows).fetch_one(&mut admin).await?;
    let writable = format!("alter database {DATABASE} reset default_transaction_read_only");
    sqlx::raw_sql(sqlx::AssertSqlSafe(writable)).execute(&mut admin).await?;
    anyhow::ensure!(now == kept, "{} rows were written to a database that takes no writes", now - kept);
    for _ in 0..pool.members().len() {
        pool.replace_first(&[]).await?;
    }
    Ok(refused()? - before)
}

/// A former primary comes back for a while, alone and writable. Returns how often workers said that it is one.
pub async fn former_primary(site: &mut Site, pool: &mut Pool, hold: Duration) -> anyhow::Result<u64> {
    let said = |pool: &Pool| pool.said().matches("former primary").count() as u64;
    let former = site.promote_beside_primary().await?;
    wait_for_progress(site, pool).await?;
    let before = said(pool);
    site.return_former_primary(former, hold).await?;
    Ok(said(pool) - before)
}

/// An open transaction holds the rows of some busy accounts. Returns how many rows of other accounts were written meanwhile; those of the
/// locked ones must come by themselves when it ends.
pub async fn lock_accounts(site: &Site, time: Duration) -> anyhow::Result<u64> {
    let mut connection = site.connect().await?;
    let mut held = Held::busiest(site).await?;
    let mut operator = connection.begin().await?;
    sqlx::query("select from accounts where account_id = any($1) order by account_id for update")
        .bind(&held.accounts)
        .execute(&mut *operator)
        .await?;
    held.begins().await?;
    let others = held.others_go_on(time).await?;
    operator.rollback().await?;
    held.comes(others).await
}

/// What of a busy account's rows a constraint refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    All,
    /// Every third, whichever that is: what comes with them in a batch, of their own account too, may be written.
    Some,
}

/// A constraint refuses rows of some busy accounts. Returns as [`lock_accounts`].
pub async fn refuse_rows(site: &Site, time: Duration, refused: Refused) -> anyhow::Result<u64> {
    let mut connection = site.connect().await?;
    let mut held = Held::busiest(site).await?;
    held.takes_some = refused == Refused::Some;
    let list: String =
        sqlx::query_scalar("select string_agg(quote_literal(a), ', ') from unnest($1::text[]) a")
            .bind(&held.accounts)
            .fetch_one(&mut connection)
            .await?;
    let others = match refused {
        Refused::All => "",
        Refused::Some => " or hashtext(event_id) % 3 <> 0",
    };
    let refuse = format!(
        "alter table ledger add constraint harm check (account_id not in ({list}){others}) not valid"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(&mut connection).await?;
    held.begins().await?;
    let others = held.others_go_on(time).await;
    sqlx::raw_sql("alter table ledger drop constraint harm").execute(&mut connection).await?;
    held.comes(others?).await
}

/// Accounts whose rows cannot be written for a while.
struct Held {
    accounts: Vec<String>,
    /// Their rows when that began.
    before: i64,
    /// Whether some of theirs may be written all the same.
    takes_some: bool,
    observer: PgConnection,
}

impl Held {
    async fn busiest(site: &Site) -> anyhow::Result<Self> {
        let mut observer = site.connect().await?;
        let busiest = "select account_id from accounts order by version desc limit $1";
        let accounts = sqlx::query_scalar(busiest).bind(HELD_ACCOUNTS).fetch_all(&mut observer).await?;
        Ok(Self { accounts, before: 0, takes_some: false, observer })
    }

    /// What was written until now was written before it.
    async fn begins(&mut self) -> anyhow::Result<()> {
        self.before = self.rows().await?.0;
        Ok(())
    }

    /// Theirs, and all others'.
    async fn rows(&mut self) -> anyhow::Result<(i64, i64)> {
        let counted = "select count(*) filter (where account_id = any($1)), count(*) from ledger";
        let (theirs, all): (i64, i64) =
            sqlx::query_as(counted).bind(&self.accounts).fetch_one(&mut self.observer).await?;
        Ok((theirs, all - theirs))
    }

    /// How many rows of others were written after every writer has met one of these.
    async fn others_go_on(&mut self, time: Duration) -> anyhow::Result<i64> {
        sleep(time / 2).await;
        let (_, others_before) = self.rows().await?;
        sleep(time / 2).await;
        let (mut theirs, mut others) = self.rows().await?;
        // On a busy machine it takes a while until a batch has come apart.
        let end = Instant::now() + COMING_DEADLINE;
        while others == others_before && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
            (theirs, others) = self.rows().await?;
        }
        anyhow::ensure!(
            others > others_before,
            "nothing of any other account came within {COMING_DEADLINE:?}"
        );
        anyhow::ensure!(
            self.takes_some || theirs == self.before,
            "rows of accounts that cannot be written were written"
        );
        self.before = theirs;
        Ok(others - others_before)
    }

    /// Waits until theirs come, too.
    async fn comes(mut self, others: i64) -> anyhow::Result<u64> {
        let end = Instant::now() + COMING_DEADLINE;
        while self.rows().await?.0 == self.before {
            anyhow::ensure!(
                Instant::now() < end,
                "nothing of {:?} came within {COMING_DEADLINE:?}",
                self.accounts
            );
            sleep(Duration::from_millis(20)).await;
        }
        Ok(u64::try_from(others).unwrap_or(0))
    }
}

/// A column more in the ledger and a newer schema that says that workers of this release may go on beside it, running ones and one that starts;
/// then both are taken back. Returns how many rows were written beside it.
pub async fn change_schema(site: &Site, pool: &mut Pool, time: Duration) -> anyhow::Result<u64> {
    let mut admin = site.connect().await?;
    let (known, said): (i64, String) = sqlx::query_as(
        "select max(version), quote_nullable(obj_description('_sqlx_migrations'::regclass)) from _sqlx_migrations",
    )
    .fetch_one(&mut admin)
    .await?;
    let next = known + 1;
    let change = format!(
        "begin;
         alter table ledger add column of_the_next bigint;
         alter table ledger alter column of_the_next set default 1;
         insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values ({next}, 'next', true, '', 1);
         comment on table _sqlx_migrations is 'schema {next} is usable by programs of schema {known} and later';
         commit"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut admin).await?;
    sleep(time / 2).await;
    pool.replace_first(&[]).await?;
    sleep(time / 2).await;
    pool.check()?;
    let written = "select count(*) from ledger where of_the_next = 1";
    let written: i64 = sqlx::query_scalar(written).fetch_one(&mut admin).await?;
    let back = format!(
        "begin;
         alter table ledger drop column of_the_next;
         delete from _sqlx_migrations where version = {next};
         comment on table _sqlx_migrations is {said};
         commit"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(back)).execute(&mut admin).await?;
    Ok(u64::try_from(written).unwrap_or(0))
}

/// A transaction that locks a late account and then the others from the last to the first, while workers lock them from the first to the last.
pub async fn deadlocks(site: &Site) -> anyhow::Result<u64> {
    let counted = "select deadlocks from pg_stat_database where datname = current_database()";
    let (mut connection, mut observer) = (site.connect().await?, site.connect().await?);
    let operator_id: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
    let before: i64 = sqlx::query_scalar(counted).fetch_one(&mut observer).await?;
    // A worker waits for a lock no longer than a second, which is also when PostgreSQL looks for deadlocks: here it looks at once.
    sqlx::raw_sql("alter system set deadlock_timeout = '20ms'").execute(&mut observer).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut observer).await?;
    let mut deadlocked = 0;
    for _ in 0..20 {
        let mut operator = connection.begin().await?;
        // One of the busiest accounts, behind which a worker's batch has others in its order.
        sqlx::raw_sql(
            "select from accounts where account_id =
                 (select max(account_id) from (select account_id from accounts order by version desc limit 10) as busy)
             for update",
        )
        .execute(&mut *operator)
        .await?;
        // A worker that waits for it holds those before it.
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let waiting = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
            let waiting: i64 = sqlx::query_scalar(waiting).bind(operator_id).fetch_one(&mut observer).await?;
            if waiting > 0 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        // Fails where this transaction is the one that PostgreSQL ends.
        let all = sqlx::raw_sql("select from accounts order by account_id desc for update");
        drop(all.execute(&mut *operator).await);
        operator.rollback().await?;
        // Statistics of a session are reported when it is idle.
        sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut connection).await?;
        sqlx::raw_sql("select pg_stat_clear_snapshot()").execute(&mut observer).await?;
        let now: i64 = sqlx::query_scalar(counted).fetch_one(&mut observer).await?;
        deadlocked = u64::try_from(now - before).unwrap_or(0);
        if deadlocked >= 2 {
            break;
        }
    }
    sqlx::raw_sql("alter system reset deadlock_timeout").execute(&mut observer).await?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut observer).await?;
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
