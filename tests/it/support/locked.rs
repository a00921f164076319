//! Servers of the test's own on which every user has the least that it needs, made with the files under `deploy/` alone, as an
//! operator would.

use std::process::{Output, Stdio};

use tokio::process::Command;

use super::{OwnServer, World};

/// The database that `deploy/postgres/roles.sql` makes.
const DATABASE: &str = "payonce_locked";

/// One world, seen with the rights of each user. Passwords are in their addresses.
pub struct Locked {
    /// All rights on all servers.
    pub admin: World,
    /// Owns the tables, and may configure the broker.
    pub owner: World,
    pub worker: World,
    pub publisher: World,
    pub ops: World,
    pub reader: World,
    pub feed: World,
    pub api: World,
    /// Stopped when dropped.
    _servers: [OwnServer; 3],
}

/// Long, and found nowhere by chance.
pub const PASSWORDS: [(&str, &str); 10] = [
    ("payonce_owner", "owner-Vq7Zt1Xw"),
    ("payonce_worker", "worker-Kd93mPzu"),
    ("payonce_ops", "ops-Rw55hYtn"),
    ("payonce_reader", "reader-Lc81qGbe"),
    ("payonce_feed", "feed-Xp29cNzk"),
    ("payonce_api", "api-Jf84kRsd"),
    ("payonce_publisher", "publisher-Tn46vJxa"),
    ("redis_worker", "redis-worker-Hy27sDkf"),
    ("redis_ops", "redis-ops-Bm68wCro"),
    ("redis_feed", "redis-feed-Zs17gPvy"),
];

fn password(name: &str) -> &'static str {
    PASSWORDS.iter().find(|(user, _)| *user == name).expect("a user with a password").1
}

/// This address with another user, and where it is a database's, another database.
fn address(url: &str, user: &str, secret: &str, database: Option<&str>) -> String {
    let mut url = url::Url::parse(url).expect("an address");
    url.set_username(user).expect("an address with a host");
    url.set_password(Some(secret)).expect("an address with a host");
    if let Some(database) = database {
        url.set_path(database);
    }
    url.to_string()
}

impl Locked {
    /// Starts the servers and makes users, database, grants, exchange and queues.
    pub async fn new() -> Self {
        let servers: [OwnServer; 3] = tokio::join!(
            OwnServer::start("postgres", "PAYONCE_DATABASE_URL"),
            OwnServer::start("redis", "PAYONCE_REDIS_URL"),
            OwnServer::start("rabbitmq", "PAYONCE_AMQP_URL"),
        )
        .into();
        let [postgres, redis, rabbitmq] = &servers;
        let mut admin = World::on(postgres.url(), redis.url(), rabbitmq.url()).await;
        // Its queues are made by an administrator; these are left to `payonce migrate --declare`.
        admin.prefix = "locked.".to_owned();
        make_roles(postgres).await;
        admin.database_url = address(postgres.url(), "payonce", "none", Some(DATABASE));
        make_redis_users(&admin).await;

        let with_user = |database_user: &str, redis_user: &str, amqp_user: &str| {
            let mut world = admin.clone();
            world.database_url =
                address(postgres.url(), database_user, password(database_user), Some(DATABASE));
            if let Some(name) = redis_user.strip_prefix("payonce_") {
                world.redis_url = address(redis.url(), redis_user, password(&format!("redis_{name}")), None);
            }
            if amqp_user.starts_with("payonce_") {
                world.amqp_url = address(rabbitmq.url(), amqp_user, password(amqp_user), None);
            }
            world
        };
        let locked = Self {
            owner: with_user("payonce_owner", "none", "guest"),
            worker: with_user("payonce_worker", "payonce_worker", "payonce_worker"),
            publisher: with_user("payonce_reader", "payonce_worker", "payonce_publisher"),
            ops: with_user("payonce_ops", "payonce_ops", "payonce_ops"),
            reader: with_user("payonce_reader", "payonce_ops", "payonce_ops"),
            feed: with_user("payonce_feed", "payonce_feed", "payonce_feed"),
            api: with_user("payonce_api", "none", "none"),
            admin,
            _servers: servers,
        };
        locked.make_broker_users().await;
        locked
    }

    async fn make_broker_users(&self) {
        let [_, _, rabbitmq] = &self._servers;
        let mut script = rabbitmq.script("deploy/rabbitmq/users.sh");
        script.env("PAYONCE_PREFIX", &self.admin.prefix).stdin(Stdio::null());
        for (variable, user) in [
            ("PAYONCE_WORKER_PASSWORD", "payonce_worker"),
            ("PAYONCE_PUBLISHER_PASSWORD", "payonce_publisher"),
            ("PAYONCE_OPS_PASSWORD", "payonce_ops"),
            ("PAYONCE_FEED_PASSWORD", "payonce_feed"),
        ] {
            script.env(variable, password(user));
        }
        succeeded("deploy/rabbitmq/users.sh", &script.output().await.expect("the script runs"));
    }

    /// Brings schema, rights and queues into place, as the owner.
    pub async fn migrate(&self) {
        let mut command = self.owner.program(&["migrate", "--declare"]);
        command.args(["--grant-worker", "payonce_worker", "--grant-ops", "payonce_ops"]);
        command.args(["--grant-reader", "payonce_reader", "--grant-feed", "payonce_feed"]);
        command.args(["--grant-api", "payonce_api"]);
        succeeded("payonce migrate", &command.output().await.expect("the program runs"));
    }
}

/// Twice: it must be safe to repeat.
async fn make_roles(postgres: &OwnServer) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/postgres/roles.sql");
    for _ in 0..2 {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", &format!("database={DATABASE}"), "-f", file]);
        psql.arg(address(postgres.url(), "payonce", "none", Some("postgres"))).stdin(Stdio::null());
        succeeded("psql", &psql.output().await.expect("psql runs"));
    }
}

async fn make_redis_users(admin: &World) {
    let template = include_str!("../../../deploy/redis/users.acl");
    let hash = |name: &str| payonce::ledger::Fingerprint::of_bytes(password(name).as_bytes()).to_string();
    let lines = template
        .replace("WORKER_PASSWORD_SHA256", &hash("redis_worker"))
        .replace("OPS_PASSWORD_SHA256", &hash("redis_ops"))
        .replace("FEED_PASSWORD_SHA256", &hash("redis_feed"))
        .replace("PREFIX", &admin.prefix);
    let mut redis = admin.redis().await;
    for line in lines.lines() {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER");
        for word in line.strip_prefix("user ").expect("a line is a user").split_whitespace() {
            command.arg(word);
        }
        command.query_async::<()>(&mut redis).await.expect("Redis takes the line");
    }
}

#[track_caller]
fn succeeded(what: &str, output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
}
