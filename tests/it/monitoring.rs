//! Metrics, alert rules and the Grafana dashboard fit each other: each query names metrics that a worker or `payonce ops` really
//! exports, each rule is valid and fires where it should, and each alert has its page in the runbook.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use payonce::ledger::Layer;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
};

use crate::{
    provider_pages::Edge,
    support::{Dashboard, Event, Receiver, World, eventually, free_address, post_bytes},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn promtool(arguments: &[&str], file: &Path) -> Output {
    let started = Command::new("promtool").args(arguments).arg(file).output();
    started.expect("promtool is installed: `make test` does it; by hand: scripts/services install promtool")
}

#[track_caller]
fn passes(output: &Output) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// The names of alerts in a file of rules or of their tests.
fn alerts(path: &str, key: &str) -> BTreeSet<String> {
    let text = read(path);
    let names = text.split(key).skip(1).filter_map(|rest| rest.split([',', '\n', '}']).next());
    names.map(|name| name.trim().to_owned()).collect()
}

const RULES: &str = "deploy/prometheus/payonce.rules.yml";
const RULES_TESTS: [&str; 2] =
    ["deploy/prometheus/payonce.rules.test.yml", "deploy/prometheus/payonce.rules.week.test.yml"];
const DASHBOARD: &str = "deploy/grafana/dashboards/payonce.json";

#[test]
fn every_alert_is_valid_is_tested_and_has_its_page_in_the_runbook() {
    passes(&promtool(&["check", "config"], &root().join("deploy/prometheus/prometheus.yml")));
    for tests in RULES_TESTS {
        passes(&promtool(&["test", "rules"], &root().join(tests)));
    }
    let alerts_defined = alerts(RULES, "- alert: ");
    assert!(alerts_defined.len() > 10, "{alerts_defined:?}");
    let tested = RULES_TESTS.iter().flat_map(|tests| alerts(tests, "alertname: ")).collect::<BTreeSet<_>>();
    assert_eq!(tested, alerts_defined, "each alert is tested");
    let runbook = read("docs/monitoring.md");
    for alert in &alerts_defined {
        assert!(
            runbook.contains(&format!("\n### {alert}\n")),
            "docs/monitoring.md does not say what to do about {alert}"
        );
        let link = format!("docs/monitoring.md\" }}}}#{}'\n", alert.to_lowercase());
        assert!(read(RULES).contains(&link), "{alert}: {link}");
    }
}

/// Every query of the dashboard, with Grafana's variables filled in.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("the dashboard is JSON");
    let mut queries = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_i64().expect("an id")), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(target["expr"].as_str().expect("a query").to_owned());
        }
    }
    assert!(queries.len() > 20, "{queries:?}");
    for query in &queries {
        let recorded = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for name in recorded.filter(|word| word.starts_with("payonce:")) {
            assert!(read(RULES).contains(&format!("- record: {name}\n")), "no rule records {name}");
        }
    }
    let fill = |query: String| {
        query.replace("$__rate_interval", "1m").replace("$worker", ".*").replace("$source", ".*")
    };
    queries.into_iter().map(fill).collect()
}

#[test]
fn every_query_of_the_dashboard_is_promql() {
    let folder = tempfile::tempdir().expect("a folder");
    let file: PathBuf = folder.path().join("queries.yml");
    let rules: Vec<Value> = dashboard_queries()
        .into_iter()
        .enumerate()
        .map(|(n, query)| serde_json::json!({ "record": format!("query:{n}"), "expr": query }))
        .collect();
    // JSON is YAML.
    let group = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, group.to_string()).expect("written");
    passes(&promtool(&["check", "rules"], &file));
}

/// What this address exports now; empty while nobody listens.
pub(crate) async fn scrape(address: &str) -> String {
    raw(address, "/metrics").await
}

async fn raw(address: &str, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address).await {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("asked");
        stream.read_to_string(&mut text).await.expect("answered");
    }
    text
}

fn start(world: &World, arguments: &[&str]) -> Child {
    world.program(arguments).stderr(std::process::Stdio::null()).spawn().expect("the payonce binary runs")
}

/// Names of metrics in a query or in an exposition: whole words that begin so.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("payonce_")).map(str::to_owned).collect()
}

pub(crate) fn value(scraped: &str, series: &str) -> Option<f64> {
    scraped.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn a_backlog_and_its_age_are_exported_while_no_worker_runs() {
    let world = World::new().await;
    let address = free_address();
    let ops = start(&world, &["ops", "--listen", &address]);
    let events: Vec<Event> = (0..7).map(|n| Event::deposit(&format!("d{n}"), "a", 1)).collect();
    let backlog = "payonce_backlog_messages{queue=\"callbacks\"}";
    let age = "payonce_backlog_age_seconds";
    eventually(backlog, Some(0.0), || async { value(&scrape(&address).await, backlog) }).await;
    world.publish(&events).await;
    eventually(backlog, Some(7.0), || async { value(&scrape(&address).await, backlog) }).await;
    eventually("it grows old", true, || async {
        value(&scrape(&address).await, age).is_some_and(|age| age > 1.0)
    })
    .await;
    assert_eq!(value(&scrape(&address).await, "payonce_workers_up"), Some(0.0));
    let worker = world.worker().await;
    eventually(age, Some(0.0), || async { value(&scrape(&address).await, age) }).await;
    worker.stop().await;
    drop(ops);
    world.close().await;
}

#[tokio::test]
async fn without_postgresql_the_last_known_numbers_are_exported_and_a_gauge_says_so() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 1)]).await;
    world.settled(1).await;
    worker.stop().await;
    let address = free_address();
    let ops = start(&world, &["ops", "--listen", &address]);
    let (total, is_up) =
        ("payonce_pool_callbacks_received_total", "payonce_server_up{server=\"postgresql\"}");
    eventually(is_up, Some(1.0), || async { value(&scrape(&address).await, is_up) }).await;
    let mut connection = world.connect().await;
    shut(&mut connection, true).await;
    eventually(is_up, Some(0.0), || async { value(&scrape(&address).await, is_up) }).await;
    assert_eq!(value(&scrape(&address).await, total), Some(1.0));
    shut(&mut connection, false).await;
    eventually(is_up, Some(1.0), || async { value(&scrape(&address).await, is_up) }).await;
    drop(ops);
    world.close().await;
}

/// Nobody may connect to this world's database, and nobody is; or all may again.
async fn shut(connection: &mut sqlx::PgConnection, is_shut: bool) {
    let sql = format!(
        "update pg_database set datallowconn = {} where datname = current_database();
         select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
        !is_shut
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.expect("it can be changed");
}

#[tokio::test]
async fn while_postgresql_is_down_the_backlog_grows_older_and_the_page_says_what_is_stale() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let events: Vec<Event> = (0..7).map(|n| Event::deposit(&format!("d{n}"), "a", 1)).collect();
    let overview = async || dashboard.get("/api/overview").await.json();
    let age = async || overview().await["backlog"]["oldest_ready_s_estimate"].as_f64();
    eventually("the queue is seen", Some(0), || async { overview().await["backlog"]["ready"].as_i64() })
        .await;
    world.publish(&events).await;
    eventually("it grows old", true, || async { age().await.is_some_and(|age| age > 1.0) }).await;
    let mut connection = world.connect().await;
    shut(&mut connection, true).await;
    let is_up = || async { overview().await["servers"]["postgresql"].as_bool() };
    eventually("PostgreSQL is down", Some(false), is_up).await;
    let before = age().await.expect("it still waits");
    eventually("it grows older", true, || async { age().await.is_some_and(|age| age > before + 2.0) }).await;
    let metrics = dashboard.get("/metrics").await.body;
    assert!(value(&metrics, "payonce_backlog_age_seconds").is_some_and(|age| age > before), "{metrics}");
    let page = dashboard.get("/").await.body;
    assert!(page.contains("PostgreSQL has not answered for"), "{page}");
    assert!(page.contains("as far as is known: PostgreSQL does not answer"), "{page}");
    assert!(!page.contains("none waiting") && !page.contains("queue is empty"), "{page}");
    assert!(overview().await["stale_for_s"].as_f64().is_some_and(|age| age > 2.0));
    shut(&mut connection, false).await;
    eventually("PostgreSQL is back", Some(true), is_up).await;
    assert!(age().await.is_some_and(|age| age > before + 2.0), "nothing was settled meanwhile");
    let page = dashboard.get("/").await.body;
    assert!(!page.contains("PostgreSQL has not answered"), "{page}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn every_metric_of_an_alert_or_the_dashboard_is_in_a_real_scrape() {
    let world = World::new().await;
    let (worker_address, ops_address, feed_address) = (free_address(), free_address(), free_address());
    let worker = start(&world, &["worker", "--listen", &worker_address, "--worker-report-ms", "200"]);
    let ops = start(&world, &["ops", "--listen", &ops_address, "--audit-pause-ms", "200"]);
    let deposit = Event::deposit("d", "a", 10);
    let other = Event::deposit("d", "a", 11);
    let unpaid = Event::payment("payment.succeeded", "p", "a", "pay", 1_000);
    let fee = Event::new("fee.charged", "f", "a", None, 15);
    world.publish(&[deposit.clone(), deposit, other, unpaid]).await;
    world.settled(4).await;
    world.publish(&[fee]).await;
    world.settled(5).await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("shop", ""));
    let feed =
        start(&world, &["feed", "--config", file.to_str().expect("a path"), "--listen", &feed_address]);
    let (api_address, tokens) = (free_address(), crate::api::tokens());
    let tokens_file = tokens.path().to_str().expect("a path");
    let api = start(&world, &["api", "--listen", &api_address, "--api-tokens-file", tokens_file]);
    let expected = [
        ("payonce_pool_feed_up{feed=\"main\"}", 1.0),
        ("payonce_pool_feed_lag_rows{feed=\"main\"}", 0.0),
        ("payonce_pool_webhook_disabled{feed=\"main:webhook:shop\"}", 0.0),
        ("payonce_pool_webhook_accounts_behind{feed=\"main:webhook:shop\"}", 0.0),
        ("payonce_pool_callbacks_received_total", 5.0),
        ("payonce_accounts_in_debt{currency=\"EUR\"}", 1.0),
        ("payonce_debt_minor_units{currency=\"EUR\"}", 5.0),
        ("payonce_pool_callbacks_applied_total{source=\"/providers/test\",type=\"deposit.succeeded\"}", 1.0),
        ("payonce_pool_callbacks_quarantined_total{reason=\"payload_mismatch\"}", 1.0),
        ("payonce_cases{state=\"open\",reason=\"payload_mismatch\"}", 1.0),
        ("payonce_cases{state=\"open\",reason=\"insufficient_funds\"}", 1.0),
        ("payonce_cases{state=\"open\",reason=\"malformed\"}", 0.0),
        ("payonce_cases_money_minor_units{state=\"open\",currency=\"EUR\"}", 1_011.0),
        ("payonce_cases_money_by_source_minor_units{source=\"/providers/test\",currency=\"EUR\"}", 1_011.0),
        ("payonce_cases_oldest_timestamp_seconds{state=\"waiting\"}", 0.0),
        ("payonce_workers_up", 1.0),
        ("payonce_workers_ready", 1.0),
        ("payonce_workers_without_redis", 0.0),
        ("payonce_server_up{server=\"postgresql\"}", 1.0),
        ("payonce_server_up{server=\"rabbitmq\"}", 1.0),
        ("payonce_server_up{server=\"redis\"}", 1.0),
        ("payonce_backlog_messages{queue=\"callbacks\"}", 0.0),
        ("payonce_audit_ok", 1.0),
        ("payonce_waiting_oldest_timestamp_seconds{reason=\"waiting_for_payment\"}", 0.0),
        ("payonce_waiting_max_seconds{reason=\"waiting_for_payment\"}", 259_200.0),
        ("payonce_link_certificate_not_after_timestamp_seconds", f64::INFINITY),
    ];
    for (series, number) in expected {
        eventually(series, Some(number), || async { value(&scrape(&ops_address).await, series) }).await;
    }
    // Which layer rejects the copy depends on whether both were in one batch.
    let of_layer = |layer: &Layer| {
        let layer = layer.as_str();
        format!("payonce_pool_duplicates_rejected_total{{source=\"/providers/test\",layer=\"{layer}\"}}")
    };
    eventually("the one copy is counted under one layer", 1.0, || async {
        let text = scrape(&ops_address).await;
        Layer::ALL.iter().filter_map(|layer| value(&text, &of_layer(layer))).sum::<f64>()
    })
    .await;
    let (of_worker, of_ops) = (scrape(&worker_address).await, scrape(&ops_address).await);
    let money = "payonce_applied_minor_units_total{source=\"/providers/test\",currency=\"EUR\"}";
    assert_eq!(value(&of_worker, money), Some(25.0), "a deposit of 10, a fee of 15");
    let ledger = value(&of_ops, "payonce_table_bytes{table=\"ledger\"}").expect("the size of the ledger");
    let database = value(&of_ops, "payonce_database_bytes").expect("the size of the database");
    assert!(0.0 < ledger && ledger < database, "{ledger} of {database}");
    let edge = Edge::start().await;
    assert_eq!(post_bytes(&edge.address, "/stripe", &[], b"{}").await, 401);
    let of_ingress = scrape(&edge.health).await;
    edge.close().await;
    let of_feed = async || scrape(&feed_address).await;
    let taken = "payonce_webhook_duration_seconds_count{feed=\"main:webhook:shop\",outcome=\"taken\"}";
    eventually(taken, Some(2.0), || async { value(&of_feed().await, taken) }).await;
    let of_api = async || {
        raw(&api_address, "/v1/openapi.json").await;
        scrape(&api_address).await
    };
    eventually("the api counts", true, || async { of_api().await.contains("payonce_api_duration") }).await;
    let (of_feed, of_api) = (of_feed().await, of_api().await);
    let scrapes = [&of_worker, &of_ops, &of_feed, &of_api, &of_ingress];
    let exported: BTreeSet<String> = scrapes.iter().flat_map(|text| names(text)).collect();
    let asked: BTreeSet<String> = names(&read(DASHBOARD)).union(&names(&read(RULES))).cloned().collect();
    let missing: Vec<_> = asked.difference(&exported).collect();
    assert!(missing.is_empty(), "no scrape has {missing:?}; there are {exported:?}");
    for metric in [
        "payonce_batch_size_bucket",
        "payonce_batch_duration_seconds_bucket",
        "payonce_callback_latency_seconds_bucket",
        "payonce_version_conflicts_total",
        "payonce_redis_available",
    ] {
        assert!(names(&of_worker).contains(metric), "{metric} of the contract: {of_worker}");
    }
    // Every metric says what it is, and the guide lists it, those included that this test does not cause.
    let guide = read("docs/monitoring.md");
    let sources = fs::read_dir(root().join("src/metrics")).expect("the metrics");
    let sources: Vec<String> =
        sources.map(|file| fs::read_to_string(file.expect("a file").path()).expect("a source")).collect();
    for metric in names(&sources.concat()) {
        assert!(guide.contains(&format!("`{metric}")), "docs/monitoring.md does not list {metric}");
    }
    for line in
        scrapes.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("# TYPE payonce_"))
    {
        let metric = line.split(' ').nth(2).expect("a name");
        let described = format!("# HELP {metric} ");
        assert!(scrapes.iter().any(|text| text.contains(&described)), "{metric} has no help text");
    }
    // The ledger is made wrong: the next audit says so.
    sqlx::raw_sql("update accounts set balance = balance + 1")
        .execute(&mut world.connect().await)
        .await
        .unwrap();
    eventually("the failed audit", Some(0.0), || async {
        value(&scrape(&ops_address).await, "payonce_audit_ok")
    })
    .await;
    for (series, number) in
        [("payonce_feed_is_leader{feed=\"main\"}", 1.0), ("payonce_feed_sent_total{feed=\"main\"}", 2.0)]
    {
        eventually(series, Some(number), || async { value(&scrape(&feed_address).await, series) }).await;
    }
    drop((worker, ops, feed, api));
    world.close().await;
}
