//! Where a chaos run takes place: servers of its own, each behind a proxy; two places for PostgreSQL, so that one can fail over to
//! the other.

use std::{
    collections::HashSet,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use sqlx::{Connection, FromRow, PgConnection};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{proxy::Proxy, servers::Server, witness::Witness};
use crate::{ingress::process::Ingress, place::Place, signing::Signing};

/// In every address, to be looked for in logs. The servers accept any password.
pub const PASSWORD: &str = "chaos-secret-9f2c";
pub const DATABASE: &str = "payonce_chaos";
/// Nothing listens there.
const CLOSED_PORT: u16 = 1;
/// How long a replica of Redis may take to follow.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(30);
/// Of the disk that can be filled.
const DISK_MIB: u32 = 1_500;

/// A time in which every answer to a COMMIT was held back.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub from: SystemTime,
    pub until: SystemTime,
}

/// A table of everything that can be broken.
pub struct Site {
    /// Node 0 and node 1; one of them is there, both while a failover is prepared.
    nodes: [Option<Server>; 2],
    node_proxies: [Proxy; 2],
    primary: usize,
    /// How often a node was made; each has a folder of its own.
    nodes_made: usize,
    pub redis: Server,
    pub redis_proxy: Proxy,
    pub broker: Server,
    pub broker_proxy: Proxy,
    /// Where callbacks come as webhooks.
    pub ingress: Option<Ingress>,
    /// What workers have acknowledged, and when.
    pub witness: Arc<Witness>,
    /// Rows that an asynchronous failover has lost: (source, event id).
    pub lost: HashSet<(String, String)>,
    /// Bodies of the cases among them.
    pub lost_bodies: HashSet<Vec<u8>>,
    /// When answers to COMMIT were held back.
    pub held: Vec<Held>,
    /// Messages that a fault has published beside the plan.
    pub beyond_plan: u64,
    disk: Option<PathBuf>,
    folder: TempDir,
    /// The providers' keys.
    signing: Option<Arc<Signing>>,
}

impl Site {
    /// Starts all servers. `has_small_disk`: PostgreSQL's data on a disk of its own that can be filled; needs root.
    /// `signing`: the providers' keys, where they sign.
    pub async fn start(has_small_disk: bool, signing: Option<Arc<Signing>>) -> anyhow::Result<Self> {
        // PostgreSQL runs under another user, which must be able to reach its folder.
        let folder = tempfile::Builder::new()
            .prefix("payonce-chaos-")
            .permissions(PermissionsExt::from_mode(0o755))
            .tempdir()
            .context("no folder")?;
        let disk = has_small_disk.then(|| folder.path().join("disk"));
        if let Some(disk) = &disk {
            std::fs::create_dir(disk)?;
            let size = format!("size={DISK_MIB}m,mode=755");
            let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(disk).status();
            if !mounted.context("mount does not run")?.success() {
                bail!("a disk to be filled cannot be mounted: run as root, or leave out disk_full");
            }
        }
        let label = if disk.is_some() { "disk/node-0" } else { "node-0" };
        let (node, redis, broker) = tokio::try_join!(
            Server::start("postgres", &folder, label),
            Server::start("redis", &folder, "redis"),
            Server::start("rabbitmq", &folder, "rabbitmq"),
        )?;
        keep_commit_times(&node).await?;
        let witness = Arc::new(Witness::default());
        Ok(Self {
            node_proxies: [Proxy::start(node.port()?).await?, Proxy::start(CLOSED_PORT).await?],
            nodes: [Some(node), None],
            primary: 0,
            nodes_made: 1,
            redis_proxy: Proxy::start(redis.port()?).await?,
            redis,
            broker_proxy: Proxy::start_amqp(broker.port()?, Arc::clone(&witness)).await?,
            broker,
            ingress: None,
            witness,
            lost: HashSet::new(),
            lost_bodies: HashSet::new(),
            held: Vec::new(),
            beyond_plan: 0,
            disk,
            folder,
            signing,
        })
    }

    /// What workers are told: every address leads through a proxy, and the database has two hosts.
    pub fn place(&self) -> Place {
        let [first, second] = self.node_proxies.each_ref().map(Proxy::port);
        Place::at(
            format!("postgres://payonce:{PASSWORD}@127.0.0.1:{first},127.0.0.1:{second}/{DATABASE}"),
            format!("redis://127.0.0.1:{}", self.redis_proxy.port()),
            // Short, so that a silent broker is noticed within the run.
            format!("amqp://guest:guest@127.0.0.1:{}/%2f?heartbeat=2", self.broker_proxy.port()),
        )
        .signed_by(self.signing.clone())
    }

    /// What publishers and the audit are told: the servers themselves.
    pub fn direct(&self) -> anyhow::Result<Place> {
        Ok(Place::at(
            self.database_url(DATABASE)?,
            format!("redis://127.0.0.1:{}", self.redis.port()?),
            format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.broker.port()?),
        )
        .signed_by(self.signing.clone()))
    }

    fn database_url(&self, database: &str) -> anyhow::Result<String> {
        Ok(format!("postgres://payonce@127.0.0.1:{}/{database}", self.node()?.port()?))
    }

    /// The PostgreSQL that is the primary now.
    pub fn node(&self) -> anyhow::Result<&Server> {
        self.nodes.get(self.primary).and_then(Option::as_ref).context("no primary")
    }

    /// The ingress of the run.
    pub fn ingress(&mut self) -> anyhow::Result<&mut Ingress> {
        self.ingress.as_mut().context("the run has no ingress")
    }

    /// The proxy before it.
    pub fn node_proxy(&self) -> &Proxy {
        let [first, second] = &self.node_proxies;
        if self.primary == 0 { first } else { second }
    }

    /// A connection to the run's database, not by a proxy.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        PgConnection::connect(&self.database_url(DATABASE)?).await.context("the primary does not answer")
    }

    /// Creates the run's database.
    pub async fn create_database(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.database_url("postgres")?).await?;
        let create = format!("create database {DATABASE}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut connection).await?;
        Ok(())
    }

    /// Fills PostgreSQL's disk, and returns what empties it again.
    pub fn fill_disk(&self) -> anyhow::Result<PathBuf> {
        let filler = self.disk.as_ref().context("the run has no small disk")?.join("filler");
        let mut file = std::fs::File::create(&filler)?;
        // Ends with "no space left on device", which is the point.
        drop(std::io::copy(&mut std::io::repeat(0), &mut file));
        Ok(filler)
    }

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
            sqlx::raw_sql("alter system set synchronous_standby_names = '*'").execute(&mut primary).await?;
            sqlx::raw_sql("select pg_reload_conf()").execute(&mut primary).await?;
            wait_until(
                &mut primary,
                "select exists (select from pg_stat_replication where sync_state = 'sync')",
            )
            .await?;
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
        let url = self.database_url("postgres")?;
        let mut promoted = PgConnection::connect(&url).await?;
        sqlx::raw_sql("select pg_promote()").execute(&mut promoted).await?;
        sqlx::raw_sql("alter system reset synchronous_standby_names").execute(&mut promoted).await?;
        sqlx::raw_sql("select pg_reload_conf()").execute(&mut promoted).await?;
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
        let sessions = "select not exists (select from pg_stat_activity
                                           where datname = current_database() and application_name ~ '^payonce')";
        wait_until(&mut primary, sessions).await?;
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

    /// All links as they should be.
    pub fn heal(&self) {
        let [first, second] = &self.node_proxies;
        [first, second, &self.redis_proxy, &self.broker_proxy].into_iter().for_each(Proxy::heal);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Servers first: a mounted disk is in use while one runs there.
        self.nodes = [None, None];
        if let Some(disk) = &self.disk {
            drop(Command::new("umount").arg(disk).status());
        }
    }
}

/// Commits are to be compared with acknowledgements. Standbys copy the setting with the data.
async fn keep_commit_times(node: &Server) -> anyhow::Result<()> {
    let url = format!("postgres://payonce@127.0.0.1:{}/postgres", node.port()?);
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql("alter system set track_commit_timestamp = on").execute(&mut connection).await?;
    connection.close().await?;
    node.stop().await?;
    node.start_again().await
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
