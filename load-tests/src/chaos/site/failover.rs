//! What becomes of a site's PostgreSQL and Redis: a standby promoted, a former primary that comes back, a snapshot started again, a pooler in
//! between; and what commits that cost. What the faults are, and how workers take them, is not here.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use sqlx::{Connection, FromRow, PgConnection};
use tokio::time::timeout;

use super::{CLOSED_PORT, DATABASE, FOLLOW_DEADLINE, Proxy, Server, Site};

/// A primary that another one was promoted beside.
pub struct Former {
    node: Server,
    /// Which of the two addresses was its.
    place: usize,
    /// Its rows.
    kept: i64,
}

impl Site {
    /// Makes a standby of the primary at the other place, and fails over to it by killing the primary.
    ///
    /// `is_synchronous`: commits wait for the standby, so nothing can be lost. Otherwise the standby is cut off for a while before
    /// the primary dies, so that commits are lost that workers have acknowledged; `self.lost` then has their keys.
    pub async fn fail_over(&mut self, is_synchronous: bool, lag: Duration) -> anyhow::Result<u64> {
        let link = Proxy::start(self.node()?.port()?).await?;
        let label = format!("{}node-{}", if self.disk.is_some() { "disk/" } else { "" }, self.nodes_made);
        self.nodes_made += 1;
        let standby = Server::start_standby(link.port(), &self.folder, &label).await?;
        let mut primary = self.connect().await?;
        if is_synchronous {
            self.wait_for_synchronous_standby(&mut primary).await?;
            tokio::time::sleep(lag).await;
        } else {
            wait_until(
                &mut primary,
                "select exists (select from pg_stat_replication where state = 'streaming')",
            )
            .await?;
            link.silence(true);
            tokio::time::sleep(lag).await;
        }
        let before = timeline(&mut primary).await?;
        drop(primary);
        let Some(former) = self.nodes.get_mut(self.primary).and_then(Option::take) else {
            bail!("no primary")
        };
        former.kill().await?;
        drop(link);
        self.node_proxy().lead_to(CLOSED_PORT);
        self.primary = 1 - self.primary;
        self.node_proxy().lead_to(standby.port()?);
        if let Some(place) = self.nodes.get_mut(self.primary) {
            *place = Some(standby);
        }
        let mut promoted = self.promote().await?;
        let happened = if is_synchronous {
            u64::from(timeline(&mut promoted).await? > before)
        } else {
            self.count_lost(&former).await?
        };
        former.clean().await?;
        if is_synchronous {
            self.lead_former_place_to_standby(lag).await?;
        }
        Ok(happened)
    }

    /// Promotes the standby that stands where the primary is looked for; it waits for no standby of its own.
    async fn promote(&self) -> anyhow::Result<PgConnection> {
        let mut promoted = PgConnection::connect(&self.database_url("postgres")?).await?;
        for sql in
            ["select pg_promote()", "alter system reset synchronous_standby_names", "select pg_reload_conf()"]
        {
            sqlx::raw_sql(sql).execute(&mut promoted).await?;
        }
        Ok(promoted)
    }

    /// A synchronous standby is promoted while its primary lives on, cut off. To be ended by [`Site::return_former_primary`], when every worker
    /// has been at the new one: who has not cannot know of it.
    pub async fn promote_beside_primary(&mut self) -> anyhow::Result<Former> {
        let label = format!("{}node-{}", if self.disk.is_some() { "disk/" } else { "" }, self.nodes_made);
        self.nodes_made += 1;
        let standby = Server::start_standby(self.node()?.port()?, &self.folder, &label).await?;
        let mut former = self.connect().await?;
        self.wait_for_synchronous_standby(&mut former).await?;
        self.node_proxy().lead_to(CLOSED_PORT);
        self.node_proxy().reset();
        wait_until(&mut former, NO_SESSIONS).await?;
        // It waits for no standby any more: what comes to it would be committed.
        sqlx::raw_sql("alter system reset synchronous_standby_names").execute(&mut former).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut former).await?;
        let kept = rows(&mut former).await?;
        let former_place = self.primary;
        self.primary = 1 - self.primary;
        let Some(former_node) = self.nodes.get_mut(former_place).and_then(Option::take) else {
            bail!("no primary")
        };
        let promoted_port = standby.port()?;
        if let Some(place) = self.nodes.get_mut(self.primary) {
            *place = Some(standby);
        }
        self.promote().await?;
        self.node_proxy().lead_to(promoted_port);
        Ok(Former { node: former_node, place: former_place, kept })
    }

    /// Every address leads to the former primary for `hold`, which is writable, and that nobody may write to; then to the new one again, and the
    /// former one is removed. Fails where it got any rows.
    pub async fn return_former_primary(&mut self, former: Former, hold: Duration) -> anyhow::Result<()> {
        let promoted_port = self.node()?.port()?;
        let url = format!("postgres://payonce@127.0.0.1:{}/{DATABASE}", former.node.port()?);
        let mut database = PgConnection::connect(&url).await?;
        self.node_proxy().lead_to(CLOSED_PORT);
        self.node_proxies[former.place].lead_to(former.node.port()?);
        self.node_proxy().reset();
        tokio::time::sleep(hold).await;
        let found = rows(&mut database).await?;
        drop(database);
        self.node_proxies[former.place].lead_to(CLOSED_PORT);
        self.node_proxies[former.place].reset();
        former.node.clean().await?;
        self.node_proxy().lead_to(promoted_port);
        anyhow::ensure!(
            found == former.kept,
            "{} rows were written to a former primary",
            found - former.kept
        );
        Ok(())
    }

    /// Commits wait for the standby that follows.
    async fn wait_for_synchronous_standby(&self, primary: &mut PgConnection) -> anyhow::Result<()> {
        sqlx::raw_sql("alter system set synchronous_standby_names = '*'").execute(&mut *primary).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut *primary).await?;
        wait_until(primary, "select exists (select from pg_stat_replication where sync_state = 'sync')").await
    }

    /// Makes a replica of Redis, cuts it off for `lag`, kills Redis, and puts the replica in its place.
    pub async fn fail_redis_over(&mut self, lag: Duration) -> anyhow::Result<u64> {
        let label = format!("redis-{}", self.next_label());
        let link = Proxy::start(self.redis.port()?).await?;
        let replica = Server::start("redis", &self.folder, &label).await?;
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", replica.port()?))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let replicate = async |connection: &mut MultiplexedConnection, host: &str, port: &str| {
            redis::cmd("REPLICAOF").arg(host).arg(port).query_async::<()>(connection).await
        };
        replicate(&mut connection, "127.0.0.1", &link.port().to_string()).await?;
        let following = async {
            loop {
                let said: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
                if said.contains("master_link_status:up") {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(FOLLOW_DEADLINE, following).await.context("the replica of Redis does not follow")??;
        link.silence(true);
        tokio::time::sleep(lag).await;
        self.redis.kill().await?;
        replicate(&mut connection, "NO", "ONE").await?;
        self.redis_proxy.lead_to(replica.port()?);
        std::mem::replace(&mut self.redis, replica).clean().await?;
        Ok(1)
    }

    /// The former primary's address comes back for a while with a standby of the new one behind it, which answers and refuses writes; and
    /// every session is broken, so that workers have to choose anew.
    async fn lead_former_place_to_standby(&mut self, hold: Duration) -> anyhow::Result<()> {
        let label = format!("{}node-{}", if self.disk.is_some() { "disk/" } else { "" }, self.nodes_made);
        self.nodes_made += 1;
        let standby = Server::start_standby(self.node()?.port()?, &self.folder, &label).await?;
        let former_place = &self.node_proxies[1 - self.primary];
        former_place.lead_to(standby.port()?);
        self.node_proxy().reset();
        tokio::time::sleep(hold).await;
        former_place.lead_to(CLOSED_PORT);
        former_place.reset();
        standby.clean().await
    }

    /// What the former primary has committed and the new one never got. Some of it may yet be applied again: what had not been
    /// acknowledged.
    async fn count_lost(&mut self, former: &Server) -> anyhow::Result<u64> {
        former.start_again().await?;
        let url = format!("postgres://payonce@127.0.0.1:{}/{DATABASE}", former.port()?);
        let before = stored(&mut PgConnection::connect(&url).await?).await?;
        self.add_lost(before).await
    }

    /// `before`: what was stored before the primary was another one, or went back.
    async fn add_lost(&mut self, before: Vec<Stored>) -> anyhow::Result<u64> {
        let kept: HashSet<Stored> = stored(&mut self.connect().await?).await?.into_iter().collect();
        let lost: Vec<Stored> = before.into_iter().filter(|row| !kept.contains(row)).collect();
        let count = lost.len() as u64;
        for Stored { source, event_id, body, .. } in lost {
            self.lost.extend(source.zip(event_id));
            self.lost_bodies.extend(body);
        }
        Ok(count)
    }

    /// The primary is started again on a snapshot of its disk. Returns how many rows that lost.
    pub async fn restore_snapshot(&mut self) -> anyhow::Result<u64> {
        let label = self.next_label();
        self.node()?.kill().await?;
        self.node()?.copy(&label, "snapshot").await?;
        self.node()?.start_again().await?;
        self.go_back(&label, false).await
    }

    /// A standby is promoted in the primary's place, and then another one, which was made at the same time. Returns how many rows that lost.
    pub async fn promote_twice(&mut self) -> anyhow::Result<u64> {
        let labels = [self.next_label(), self.next_label()];
        for label in &labels {
            self.node()?.copy(label, "standby").await?;
        }
        let mut lost = 0;
        for label in labels {
            lost += self.go_back(&label, true).await?;
        }
        Ok(lost)
    }

    /// Waits until something more is committed, and puts a copy of the data in the primary's place. Nobody reaches it meanwhile, so that what
    /// is lost is known.
    async fn go_back(&mut self, label: &str, is_standby: bool) -> anyhow::Result<u64> {
        let mut primary = self.connect().await?;
        let rows: i64 = sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut primary).await?;
        let more = format!("select count(*) > {rows} from ledger");
        wait_until(&mut primary, &more).await?;
        self.node_proxy().lead_to(CLOSED_PORT);
        self.node_proxy().reset();
        // Sessions end when the server notices; what they commit until then counts.
        wait_until(&mut primary, NO_SESSIONS).await?;
        let before = stored(&mut primary).await?;
        drop(primary);
        self.node()?.restore(label).await?;
        if is_standby {
            let url = self.database_url("postgres")?;
            sqlx::raw_sql("select pg_promote()").execute(&mut PgConnection::connect(&url).await?).await?;
        }
        let lost = self.add_lost(before).await?;
        self.node_proxy().lead_to(self.node()?.port()?);
        Ok(lost)
    }

    /// A pooler before the primary, with the workers' sessions by way of it. To be taken away by [`Site::without_pooler`].
    pub async fn with_pooler(&mut self) -> anyhow::Result<Server> {
        let label = self.next_label();
        let pooler = Server::start_pooler(self.node()?.port()?, &self.folder, &label).await?;
        self.node_proxy().lead_to(pooler.port()?);
        self.node_proxy().reset();
        Ok(pooler)
    }

    /// Leads workers to the primary itself again, and removes the pooler.
    pub async fn without_pooler(&mut self, pooler: Server) -> anyhow::Result<()> {
        self.node_proxy().lead_to(self.node()?.port()?);
        self.node_proxy().reset();
        pooler.clean().await
    }

    fn next_label(&mut self) -> String {
        self.nodes_made += 1;
        format!("copy-{}", self.nodes_made)
    }
}

/// Whether payonce has no session.
const NO_SESSIONS: &str = "select not exists (select from pg_stat_activity
                                              where datname = current_database() and application_name ~ '^payonce')";

/// How many rows ledger and quarantine have together.
async fn rows(database: &mut PgConnection) -> anyhow::Result<i64> {
    let rows = "select (select count(*) from ledger) + (select count(*) from quarantine)";
    sqlx::query_scalar(rows).fetch_one(database).await.context("rows cannot be counted")
}

/// A row of ledger or quarantine. The time at which it was written belongs to it: a copy may be applied in another history, and is another
/// commit.
#[derive(Debug, PartialEq, Eq, Hash, FromRow)]
struct Stored {
    source: Option<String>,
    event_id: Option<String>,
    at: String,
    /// Of a case.
    body: Option<Vec<u8>>,
}

async fn stored(database: &mut PgConnection) -> anyhow::Result<Vec<Stored>> {
    let rows = "select source, event_id, recorded_at::text as at, null::bytea as body from ledger
                union all select source, event_id, first_seen_at::text, body from quarantine";
    sqlx::query_as(rows).fetch_all(database).await.context("what is stored cannot be read")
}

/// Which timeline a primary writes: a higher one after each promotion.
async fn timeline(primary: &mut PgConnection) -> anyhow::Result<String> {
    let timeline = "select left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    sqlx::query_scalar(timeline).fetch_one(primary).await.context("the timeline cannot be read")
}

/// Asks until the answer is yes.
async fn wait_until(connection: &mut PgConnection, question: &str) -> anyhow::Result<()> {
    let asking = async {
        loop {
            let question = sqlx::AssertSqlSafe(question.to_owned());
            if sqlx::query_scalar::<_, bool>(question).fetch_one(&mut *connection).await? {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), asking).await.with_context(|| question.to_owned())?
}
