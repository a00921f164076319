//! Where a chaos run takes place: servers of its own, each behind a proxy; two places for PostgreSQL, so that one can fail over to
//! the other. How they do is in `failover`.

mod failover;

use std::{
    collections::HashSet,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::{proxy::Proxy, servers::Server, witness::Witness};
use crate::{ingress::process::Ingress, place::Place, signing::Signing};

/// In the addresses of PostgreSQL, which accepts any, and of RabbitMQ, whose it is; to be looked for in logs.
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
        broker.rabbitmqctl(&["change_password", "guest", PASSWORD]).await?;
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
            format!("amqp://guest:{PASSWORD}@127.0.0.1:{}/%2f?heartbeat=2", self.broker_proxy.port()),
        )
        .signed_by(self.signing.clone())
    }

    /// What publishers and the audit are told: the servers themselves.
    pub fn direct(&self) -> anyhow::Result<Place> {
        Ok(Place::at(
            self.database_url(DATABASE)?,
            format!("redis://127.0.0.1:{}", self.redis.port()?),
            format!("amqp://guest:{PASSWORD}@127.0.0.1:{}/%2f", self.broker.port()?),
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
