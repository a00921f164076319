//! `ingress`: signed webhooks of several providers over HTTP at a real `payonce ingress`, workers behind it, and an audit of every answer and
//! every account. What one process can publish with confirms is measured in the same run.

mod front;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use payonce::broker::Publisher;
use serde::Serialize;
use sqlx::Row;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use self::front::{Front, PROVIDERS, Webhook, plan};
use crate::{
    audit::Audit,
    cli::{Failure, IngressArgs},
    latency::{Latencies, Percentiles},
    place::Place,
    replay::wait_settled,
    workers::{self, Workers, last_lines},
};

/// Connections that send at once.
const CONNECTIONS: usize = 64;
/// Messages of the baseline that wait for a confirm.
const UNCONFIRMED_MAX: usize = 1_000;
/// How often a webhook that was answered with 503 is sent again.
const TRIES_MAX: u32 = 1_000;
const READY_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// The figures of one run.
#[derive(Debug, Serialize)]
struct Report {
    published: usize,
    distinct: usize,
    applied: u64,
    quarantined: u64,
    duplicates: BTreeMap<String, u64>,
    seconds: f64,
    per_second: f64,
    latency_ms: Percentiles,
    /// What one process publishes with confirms, a second, in the same run; and the ingress's rate over it.
    confirmed_per_second: f64,
    ratio: f64,
    /// Answers of 503 after which a webhook was sent again.
    sent_again: usize,
    /// Resident memory of the ingress with that many idle connections, in MiB.
    idle_connections: usize,
    idle_mib: f64,
    audit: serde_json::Value,
    seed: u64,
}

pub async fn run(args: &IngressArgs) -> Result<(), Failure> {
    let program = workers::program(args.payonce.as_deref()).await?;
    let place = Place::prepare(false, args.seed).await?;
    let result = tokio::select! {
        result = measure(args, &program, &place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    place.remove().await?;
    let (report, audit) = result?;
    if args.json {
        println!("{}", serde_json::to_string(&report).context("no JSON")?);
    } else {
        println!("{report:#?}");
        audit.print();
    }
    match audit.failed().as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("audit failed: {}", failed.join(", ")))),
    }
}

async fn measure(args: &IngressArgs, program: &Path, place: &Place) -> Result<(Report, Audit), Failure> {
    workers::migrate(program, place).await?;
    let front = Arc::new(Front::new()?);
    let (webhooks, distinct) = plan(args);
    let confirmed_per_second = baseline(place, webhooks.len().min(20_000)).await?;
    let logs = front.folder.path().join("logs");
    fs::create_dir_all(&logs).context("no folder for logs")?;
    let mut workers = Workers::start_with_keys(args.workers, program, place, &logs, &front.keys())?;
    let (mut ingress, address) = start(program, place, &front, &logs).await?;
    let webhooks = Arc::new(webhooks);
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let sending: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (front, webhooks, next) = (Arc::clone(&front), Arc::clone(&webhooks), Arc::clone(&next));
            let rate = args.rate;
            tokio::spawn(async move { send(&front, address, &webhooks, &next, (rate, began)).await })
        })
        .collect();
    let mut latencies = Latencies::new()?;
    let (mut sent_again, mut wrong) = (0, Vec::new());
    for sent in sending {
        let sent = sent.await.context("a sender panicked")??;
        sent.latencies_us.iter().for_each(|latency| latencies.record_us(*latency));
        sent_again += sent.sent_again;
        wrong.extend(sent.wrong);
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut database = place.connect().await?;
    wait_settled(&mut database, &mut workers, webhooks.len()).await?;
    let (idle_connections, idle_mib) = idle(args.idle as usize, address, &ingress).await?;
    if let Some(id) = ingress.id() {
        Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await.context("no kill")?;
    }
    let ended = ingress.wait().await.context("the ingress is gone")?;
    workers.stop().await?;

    let mut audit = Audit::default();
    audit.check("every_answer_is_the_providers_yes", wrong);
    audit.check("the_ingress_ends_well", if ended.success() { Vec::new() } else { vec![ended.to_string()] });
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    let mut counted = std::collections::HashSet::new();
    for webhook in webhooks.iter().filter(|webhook| counted.insert(webhook.id.clone())) {
        *expected.entry(format!("acct-{}", webhook.account)).or_default() +=
            i64::try_from(webhook.amount).unwrap_or(i64::MAX);
    }
    let rows = sqlx::query("select account_id, balance from accounts").fetch_all(&mut database).await;
    let rows = rows.context("accounts cannot be read")?;
    let found: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let differ = expected.iter().filter(|(account, balance)| found.get(*account) != Some(balance));
    let mut differ: Vec<String> = differ
        .map(|(account, balance)| format!("{account}: expected {balance}, found {:?}", found.get(account)))
        .collect();
    differ.extend(
        found
            .keys()
            .filter(|account| !expected.contains_key(*account))
            .map(|account| format!("{account}: not in the plan")),
    );
    audit.check("every_balance_is_the_plans", differ);
    let applied = count(&mut database, "select count(*) from ledger").await?;
    audit.check(
        "every_webhook_is_a_ledger_row_once",
        if applied == distinct as u64 { Vec::new() } else { vec![format!("{applied} of {distinct}")] },
    );
    let quarantined = count(&mut database, "select count(*) from quarantine").await?;
    audit.check(
        "nothing_is_a_case",
        if quarantined == 0 { Vec::new() } else { vec![format!("{quarantined} cases")] },
    );
    let own =
        workers::command(program, place).args(["audit"]).status().await.context("payonce does not run")?;
    audit.check("payonce_audit", if own.success() { Vec::new() } else { vec![own.to_string()] });
    let rows =
        sqlx::query("select label, sum(n)::bigint from tallies where kind = 'duplicate' group by label")
            .fetch_all(&mut database)
            .await;
    let duplicates = rows
        .context("tallies cannot be read")?
        .iter()
        .map(|row| (row.get(0), u64::try_from(row.get::<i64, _>(1)).unwrap_or(0)))
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "at most 10 million webhooks")]
    let per_second = webhooks.len() as f64 / seconds.max(f64::EPSILON);
    let violations = audit.violations();
    let report = Report {
        published: webhooks.len(),
        distinct,
        applied,
        quarantined,
        duplicates,
        seconds,
        per_second: per_second.round(),
        latency_ms: latencies.percentiles(),
        confirmed_per_second: confirmed_per_second.round(),
        ratio: (per_second / confirmed_per_second * 1_000.0).round() / 1_000.0,
        sent_again,
        idle_connections,
        idle_mib,
        audit: if violations.is_empty() { "ok".into() } else { violations.into() },
        seed: args.seed,
    };
    Ok((report, audit))
}

async fn count(database: &mut sqlx::PgConnection, sql: &'static str) -> anyhow::Result<u64> {
    let n: i64 = sqlx::query_scalar(sql).fetch_one(database).await.context(sql)?;
    Ok(u64::try_from(n).unwrap_or(0))
}

/// What one process publishes with confirms, a second: messages of the size of a callback, with nothing else to do. They are taken away again.
async fn baseline(place: &Place, messages: usize) -> Result<f64, Failure> {
    Ok(publish_all(&place.broker().await?, place, messages).await?)
}

async fn publish_all(connection: &lapin::Connection, place: &Place, messages: usize) -> anyhow::Result<f64> {
    payonce::broker::topology::declare(connection, &place.names()).await?;
    let publisher = Publisher::open(connection, &place.names()).await?;
    let body = vec![b'x'; 300];
    let mut waiting = VecDeque::new();
    let began = Instant::now();
    for _ in 0..messages {
        waiting.push_back(publisher.publish("baseline", &body).await?);
        if waiting.len() > UNCONFIRMED_MAX
            && let Some(confirm) = waiting.pop_front()
        {
            confirm.wait().await?;
        }
    }
    for confirm in waiting {
        confirm.wait().await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let channel = connection.create_channel().await?;
    channel.queue_purge(place.names().queue.as_str().into(), Default::default()).await?;
    #[expect(clippy::cast_precision_loss, reason = "at most 20 000 messages")]
    Ok(messages as f64 / seconds.max(f64::EPSILON))
}

async fn start(
    program: &Path,
    place: &Place,
    front: &Front,
    logs: &Path,
) -> anyhow::Result<(Child, SocketAddr)> {
    // A port that was free a moment ago.
    let free = || Ok::<_, anyhow::Error>(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let (address, health) = (free()?, free()?);
    let log = logs.join("ingress.log");
    let mut child = workers::command(program, place)
        .arg("ingress")
        .args(["--listen", &address.to_string(), "--health-listen", &health.to_string()])
        .arg("--config")
        .arg(front.folder.path().join("payonce.toml"))
        .env("PAYONCE_KEYS_FILE", front.keys())
        .env("PAYONCE_SIGNATURES", "required")
        .stderr(File::create(&log)?)
        .stdout(Stdio::null())
        .spawn()
        .context("payonce does not run")?;
    let began = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(health).await {
            let mut answer = String::new();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
            drop(stream.read_to_string(&mut answer).await);
            if answer.starts_with("HTTP/1.1 200") {
                return Ok((child, address));
            }
        }
        if child.try_wait()?.is_some() || began.elapsed() > READY_DEADLINE {
            bail!("the ingress is not ready\n{}", last_lines(&log));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

#[derive(Default)]
struct Sent {
    latencies_us: Vec<u64>,
    sent_again: usize,
    wrong: Vec<String>,
}

/// Sends what is next, on one connection, until nothing is left; what is answered with 503 is sent again, as providers do.
async fn send(
    front: &Front,
    address: SocketAddr,
    webhooks: &[Arc<Webhook>],
    next: &AtomicUsize,
    (rate, began): (u32, Instant),
) -> anyhow::Result<Sent> {
    let mut sent = Sent::default();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(webhook) = webhooks.get(at) else { return Ok(sent) };
        if rate > 0 {
            let due = began + Duration::from_secs(1) * u32::try_from(at).unwrap_or(u32::MAX) / rate;
            tokio::time::sleep_until(due.into()).await;
        }
        for tries in 0.. {
            ensure!(tries < TRIES_MAX, "{} was answered with 503 {TRIES_MAX} times", webhook.id);
            let request = front.request(webhook)?;
            let asked = Instant::now();
            stream.write_all(&request).await?;
            let (status, body) = answer(&mut stream).await?;
            if status == 503 {
                sent.sent_again += 1;
                tokio::time::sleep(POLL_PAUSE).await;
                continue;
            }
            sent.latencies_us.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
            let (provider, _, yes) = PROVIDERS[webhook.endpoint];
            if (status, body.as_str()) != (200, yes) {
                sent.wrong.push(format!("{provider} {}: {status} {body:?}", webhook.id));
            }
            break;
        }
    }
}

/// Reads one answer; the connection stays open.
async fn answer(stream: &mut TcpStream) -> anyhow::Result<(u16, String)> {
    let mut bytes = Vec::with_capacity(512);
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the ingress closed the connection");
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
            return Ok((status.context("no status")?, body.to_owned()));
        }
    }
}

/// Memory of the ingress with so many connections that had a request each and are silent now.
async fn idle(connections: usize, address: SocketAddr, ingress: &Child) -> anyhow::Result<(usize, f64)> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).await.context("no further connection: ulimit -n?")?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        answer(&mut stream).await?;
        open.push(stream);
    }
    let id = ingress.id().context("the ingress is gone")?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse::<u32>().ok());
    Ok((open.len(), f64::from(kib.context("no VmRSS")?) / 1_024.0))
}
