//! Addresses that cannot be one, or lead to what payonce cannot use: refused with what to write in their place.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::support::{Event, OwnServer, World, eventually};

#[tokio::test]
async fn an_address_that_cannot_be_one_is_refused_with_what_to_write_in_its_place() {
    let world = World::new().await;
    for (variable, address, expected) in [
        ("PAYONCE_AMQP_URL", "u:hunter2@broker", "amqp://user:password@host:port/vhost"),
        ("PAYONCE_AMQP_URL", "http://u:hunter2@broker/", "amqp://user:password@host:port/vhost"),
        ("PAYONCE_AMQP_URL", "amqp://u:hunter2@broker/", "written %2f"),
        ("PAYONCE_AMQP_URL", "amqp://u:hunter2@one,two:5672/", "written %2f"),
        ("PAYONCE_REDIS_URL", "u:hunter2@redis:6379", "redis://user:password@host:port"),
        ("PAYONCE_REDIS_URL", "http://u:hunter2@redis", "redis://user:password@host:port"),
        ("PAYONCE_DATABASE_URL", "u:hunter2@postgres/payonce", "postgres://user:password@host:port/database"),
        (
            "PAYONCE_DATABASE_URL",
            "mysql://u:hunter2@postgres/payonce",
            "postgres://user:password@host:port/database",
        ),
        ("PAYONCE_PREFIX", "amq.hunter", "RabbitMQ keeps such names"),
    ] {
        let output = world.program(&["worker"]).env(variable, address).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{variable}={address}: {text}");
        assert!(text.contains(&variable.trim_start_matches("PAYONCE_").to_lowercase()), "{variable}: {text}");
        assert!(text.contains(expected), "{variable}={address}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    world.close().await;
}

#[tokio::test]
async fn an_ipv6_address_in_brackets_leads_to_its_server() {
    let world = World::new().await;
    // Whoever answers there is no PostgreSQL; that it was asked is the point.
    let listener = tokio::net::TcpListener::bind("[::1]:0").await.expect("this machine has ::1");
    let address = format!("postgres://u@{}/d?sslmode=disable", listener.local_addr().unwrap());
    let mut asks = world
        .program(&["audit"])
        .env("PAYONCE_DATABASE_URL", address)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let came = tokio::time::timeout(crate::support::DEADLINE, listener.accept()).await;
    came.expect("somebody connects").expect("a connection");
    asks.kill().await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_role_that_may_not_read_the_clusters_identity_is_told_what_a_superuser_must_run() {
    // The right is the whole cluster's.
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let shared =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"));
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    let statement = "create role modest login; revoke execute on function pg_control_system() from public";
    sqlx::raw_sql(statement).execute(&mut world.connect().await).await.unwrap();
    let mut url = url::Url::parse(&world.database_url).unwrap();
    url.set_username("modest").unwrap();
    let output = world.by(url.to_string()).program(&["audit"]).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("grant execute on function pg_control_system()"), "{text}");
    assert!(!text.contains("--grant-worker"), "{text}");
    world.close().await;
}

/// Two nodes with half of the slots each.
struct Cluster {
    _folder: tempfile::TempDir,
    _nodes: Vec<Child>,
    url: String,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut nodes, mut ports) = (Vec::new(), Vec::new());
        for name in ["one", "two"] {
            // Free now; the port of its bus is the one 10 000 above.
            let port = loop {
                let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                if port < 50_000 && std::net::TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
                    break port;
                }
            };
            let data = folder.path().join(name);
            std::fs::create_dir(&data).unwrap();
            let node = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes", "--port"])
                .arg(port.to_string())
                .arg("--dir")
                .arg(&data)
                .stdout(Stdio::null())
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("redis-server runs");
            nodes.push(node);
            ports.push(port);
        }
        for (port, [first, last]) in ports.iter().zip([["0", "8191"], ["8192", "16383"]]) {
            eventually("the node answers", true, || ask(*port, &["PING"], "PONG")).await;
            assert!(ask(*port, &["CLUSTER", "ADDSLOTSRANGE", first, last], "OK").await);
        }
        let second = ports[1].to_string();
        assert!(ask(ports[0], &["CLUSTER", "MEET", "127.0.0.1", &second], "OK").await);
        for port in &ports {
            eventually("the cluster is whole", true, || ask(*port, &["CLUSTER", "INFO"], "cluster_state:ok"))
                .await;
        }
        Self { url: format!("redis://127.0.0.1:{}", ports[0]), _folder: folder, _nodes: nodes }
    }
}

async fn ask(port: u16, command: &[&str], expected: &str) -> bool {
    let output =
        Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).contains(expected)
}

#[tokio::test]
async fn a_redis_cluster_is_said_not_to_be_supported_once_and_changes_no_balance() {
    const CALLBACKS: i64 = 40;
    let cluster = Cluster::start().await;
    let world = World::new().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut worker = world
        .program(&["worker", "--batch-size-max", "1"])
        .env("PAYONCE_REDIS_URL", &cluster.url)
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let events: Vec<Event> =
        (0..CALLBACKS).map(|n| Event::deposit(&format!("e{n}"), &format!("a{n}"), 1)).collect();
    for event in &events {
        world.publish(std::slice::from_ref(event)).await;
    }
    world.settled(CALLBACKS).await;
    worker.kill().await.unwrap();
    assert_eq!(world.number("select sum(balance)::bigint from accounts").await, CALLBACKS);
    let text = std::fs::read_to_string(log.path()).unwrap();
    let about_it: Vec<&str> = text.lines().filter(|line| line.contains("Redis")).collect();
    assert_eq!(about_it.len(), 1, "{text}");
    assert!(about_it[0].contains("Redis Cluster, which is not supported"), "{text}");
    world.close().await;
}
