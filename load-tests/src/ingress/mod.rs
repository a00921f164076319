//! `ingress`: signed webhooks of several providers over HTTP at a real `payonce ingress`, workers behind it, and an audit of every answer and
//! every account. What one process can publish with confirms is measured in the same run.

pub mod audit;
pub mod front;
mod hostile;
pub mod http;
pub mod process;

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use payonce::broker::{Names, Publisher, topology};
use serde::Serialize;

use self::{
    front::{Front, PROVIDERS, Webhook, plan},
    http::{Answer, Client},
    process::Ingress,
};
use crate::{
    arguments::share,
    audit::{Audit, Copies},
    failure::Failure,
    latency::{Latencies, Percentiles},
    memory::{Quarters, grown},
    place::Place,
    replay::{messages_left, settled, wait_settled},
    workers::{self, Workers},
};

/// Connections that send at once.
const CONNECTIONS: usize = 64;
/// Messages of the baseline that wait for a confirm.
const UNCONFIRMED_MAX: usize = 1_000;
/// Messages of the baseline.
const BASELINE_MAX: usize = 20_000;
/// Webhooks that are offered at a rate, at most; the others as fast as they are answered.
const STEADY_MAX: usize = 20_000;
/// Of the rate at which they are answered.
const STEADY_SHARE: f64 = 0.25;
/// How often a webhook that was answered with 503 is sent again.
const TRIES_MAX: u32 = 1_000;
/// Requests that are signed before their time is measured. A signature is fresh for five minutes.
const SIGNED_AHEAD: usize = 50_000;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The figures of one run.
#[derive(Debug, Serialize)]
struct Report {
    published: usize,
    distinct: usize,
    applied: u64,
    quarantined: u64,
    duplicates: BTreeMap<String, u64>,
    /// Of the webhooks that were sent as fast as they were answered: how long, and how many a second.
    seconds: f64,
    per_second: f64,
    /// Of those that were offered at `steady_per_second`, from when each was due to its answer.
    latency_ms: Percentiles,
    steady_per_second: f64,
    /// What one process publishes with confirms, a second, in the same run (before and after); and the ingress's rate over it.
    confirmed_per_second: f64,
    ratio: f64,
    /// Answers of 503 after which a webhook was sent again.
    sent_again: usize,
    /// Resident memory of the ingress, in MiB: with so many idle connections, and at most in the whole run.
    idle_connections: usize,
    idle_mib: f64,
    peak_mib: f64,
    /// Hostile requests by their answer, `0`: none; and the memory of the ingress while each quarter of them came.
    hostile: BTreeMap<u16, u64>,
    hostile_memory_mib: Quarters,
    audit: serde_json::Value,
    seed: u64,
}

impl Report {
    fn print(&self) {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["ingress", ""]);
        let mut line = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        line("webhooks, of providers", format!("{}, {}", self.published, PROVIDERS.len()));
        line("distinct", self.distinct.to_string());
        line("applied", self.applied.to_string());
        line("quarantined", self.quarantined.to_string());
        line("duplicates rejected", self.duplicates.values().sum::<u64>().to_string());
        for (layer, n) in &self.duplicates {
            line(&format!("  by {layer}"), n.to_string());
        }
        line("sent again after a 503", self.sent_again.to_string());
        line("answered per second", format!("{:.0}", self.per_second));
        line("  of what one process publishes with confirms", format!("{:.2}", self.ratio));
        let Percentiles { p50, p99, max } = self.latency_ms;
        line(
            &format!("answer p50 / p99 / max at {:.0} per second, ms", self.steady_per_second),
            format!("{p50:.1} / {p99:.1} / {max:.1}"),
        );
        line("memory of the ingress at most, MiB", format!("{:.0}", self.peak_mib));
        if self.idle_connections > 0 {
            line(
                &format!("  with {} idle connections", self.idle_connections),
                format!("{:.1}", self.idle_mib),
            );
        }
        for (status, n) in &self.hostile {
            line(&format!("hostile requests answered {status}"), n.to_string());
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
    }
}

/// What `ingress` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct IngressArgs {
    /// Webhooks sent in all, copies included.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub events: u32,
    /// Share of them that are copies of another one, 0 to 0.99.
    #[arg(long, default_value_t = 0.3, value_parser = share, value_name = "F")]
    pub duplicates: f64,
    /// Webhooks offered per second in the part of the run that measures latency; 0: a quarter of what was answered per second before.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000), value_name = "N")]
    pub rate: u32,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub workers: u32,
    /// Hostile requests, after the webhooks.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000), value_name = "N")]
    pub hostile: u32,
    /// Idle connections with which the ingress's memory is measured.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000), value_name = "N")]
    pub idle: u32,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Use the database, prefix and servers of the environment as they are, callbacks of before included, in place of fresh ones.
    #[arg(long)]
    pub in_place: bool,
    /// One JSON object in place of text.
    #[arg(long)]
    pub json: bool,
    /// The payonce program; without it, the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub payonce: Option<PathBuf>,
}

pub async fn run(args: &IngressArgs) -> Result<(), Failure> {
    let program = workers::program(args.payonce.as_deref()).await?;
    let place = Place::prepare(args.in_place, args.seed).await?;
    let result = tokio::select! {
        result = measure(args, &program, &place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    place.remove().await?;
    let (report, audit) = result?;
    if args.json {
        println!("{}", serde_json::to_string(&report).context("no JSON")?);
    } else {
        report.print();
        audit.print();
    }
    match audit.failed().as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("audit failed: {}", failed.join(", ")))),
    }
}

async fn measure(args: &IngressArgs, program: &Path, place: &Place) -> Result<(Report, Audit), Failure> {
    workers::migrate(program, place).await?;
    let mut database = place.connect().await?;
    let settled_before = settled(&mut database).await?;
    let before_us = audit::before(&mut database).await?;
    let front = Arc::new(Front::new()?);
    let (webhooks, distinct) = plan(args.events, args.duplicates, args.seed);
    let webhooks = Arc::new(webhooks);
    let logs = front.folder.path().join("logs");
    fs::create_dir_all(&logs).context("no folder for logs")?;
    let connection = place.broker().await?;
    topology::declare(&connection, &place.names()).await.context("no queue")?;
    let mut ingress = Ingress::start(program, place, &front, &logs).await?;

    // Nothing but the ingress and its clients is at work now, as nothing but the publisher is in the baseline.
    let (fast, steady) = webhooks.split_at(webhooks.len() - (webhooks.len() / 5).min(STEADY_MAX));
    let before = baseline(place, &connection).await?;
    let mut sent = send_all(&front, ingress.address, fast, None).await?;
    let after = baseline(place, &connection).await?;
    let confirmed_per_second = (before + after) / 2.0;
    let per_second = rate(fast.len(), sent.seconds);

    let mut workers = Workers::start_with_keys(args.workers, program, place, &logs, &front.keys())?;
    wait_settled(&mut database, &mut workers, settled_before + fast.len()).await?;
    let offered = if args.rate > 0 { f64::from(args.rate) } else { per_second * STEADY_SHARE };
    let steadily = send_all(&front, ingress.address, steady, Some(offered)).await?;
    sent.sent_again += steadily.sent_again;
    sent.wrong.extend(steadily.wrong);
    wait_settled(&mut database, &mut workers, settled_before + webhooks.len()).await?;
    let hostile = hostile::flood(&front, &webhooks, &ingress, args.hostile, args.seed).await?;
    let (idle_connections, idle_mib) = idle(args.idle as usize, &ingress).await?;
    let peak_mib = ingress.memory_mib("VmHWM")?.round();
    let ended = ingress.terminate().await?;
    workers.stop().await?;

    let mut audit = Audit::default();
    audit.check("every_answer_is_the_providers_yes", sent.wrong);
    audit.check("hostile_requests_are_refused", hostile.wrong);
    let has_grown = (args.hostile > 0).then(|| grown(hostile.memory_mib)).flatten();
    audit.check("memory_is_flat", has_grown.into_iter().collect());
    audit.check("the_ingress_ends_well", (!ended.success()).then(|| ended.to_string()).into_iter().collect());
    let copies = match (sent.sent_again, args.hostile) {
        (0, 0) => Copies::AsPlanned,
        // What was refused may be on the queue all the same; and an honest copy is in between the hostile.
        (_, _) => Copies::AtLeast((webhooks.len() - distinct) as u64),
    };
    audit::run(&mut database, &webhooks, &before_us, copies, &mut audit).await?;
    let names = place.names();
    audit.check("queues_are_empty", messages_left(place, &[&names.queue, &names.dead_queue]).await?);
    audit.check("payonce_audit", workers::audit(program, place).await?);
    let violations = audit.violations();
    let report = Report {
        published: webhooks.len(),
        distinct,
        applied: audit.applied,
        quarantined: audit.quarantined.values().sum(),
        duplicates: audit.duplicates.clone(),
        seconds: sent.seconds,
        per_second: per_second.round(),
        latency_ms: steadily.latencies.percentiles(),
        steady_per_second: offered.round(),
        confirmed_per_second: confirmed_per_second.round(),
        ratio: (per_second / confirmed_per_second * 1_000.0).round() / 1_000.0,
        sent_again: sent.sent_again,
        idle_connections,
        idle_mib,
        peak_mib,
        hostile: hostile.answers,
        hostile_memory_mib: hostile.memory_mib,
        audit: if violations.is_empty() { "ok".into() } else { violations.into() },
        seed: args.seed,
    };
    Ok((report, audit))
}

#[expect(clippy::cast_precision_loss, reason = "at most 10 million webhooks")]
fn rate(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds.max(f64::EPSILON)
}

/// What one process publishes with confirms, a second: messages of the size of a callback to a queue of their own, with nothing else to do.
async fn baseline(place: &Place, connection: &lapin::Connection) -> anyhow::Result<f64> {
    let names = Names::new(&format!("{}baseline.", place.prefix));
    topology::declare(connection, &names).await?;
    let publisher = Publisher::open(connection, &names).await?;
    let body = vec![b'x'; 300];
    let mut waiting = VecDeque::new();
    let began = Instant::now();
    for _ in 0..BASELINE_MAX {
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
    for queue in [&names.queue, &names.dead_queue] {
        channel.queue_delete(queue.as_str().into(), Default::default()).await?;
    }
    for exchange in [&names.exchange, &names.events_exchange] {
        channel.exchange_delete(exchange.as_str().into(), Default::default()).await?;
    }
    Ok(rate(BASELINE_MAX, seconds))
}

/// What became of webhooks.
struct Sent {
    seconds: f64,
    latencies: Latencies,
    sent_again: usize,
    wrong: Vec<String>,
}

/// A webhook and its request.
type Ready = (Arc<Webhook>, Vec<u8>);

/// Sends webhooks over [`CONNECTIONS`] connections, `offered` a second, or as fast as they are answered. Signing takes no part in the time.
async fn send_all(
    front: &Front,
    address: SocketAddr,
    webhooks: &[Arc<Webhook>],
    offered: Option<f64>,
) -> anyhow::Result<Sent> {
    let mut sent = Sent { seconds: 0.0, latencies: Latencies::new()?, sent_again: 0, wrong: Vec::new() };
    for chunk in webhooks.chunks(SIGNED_AHEAD) {
        let ready =
            chunk.iter().map(|webhook| anyhow::Ok((Arc::clone(webhook), front.parts(webhook, 0)?.bytes())));
        let ready: Arc<Vec<Ready>> = Arc::new(ready.collect::<Result<_, _>>()?);
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let sending: Vec<_> = (0..CONNECTIONS)
            .map(|_| tokio::spawn(send(address, Arc::clone(&ready), Arc::clone(&next), offered, began)))
            .collect();
        for one in sending {
            let one = one.await.context("a sender panicked")??;
            one.latencies_us.iter().for_each(|latency| sent.latencies.record_us(*latency));
            sent.sent_again += one.sent_again;
            sent.wrong.extend(one.wrong);
        }
        sent.seconds += began.elapsed().as_secs_f64();
    }
    Ok(sent)
}

#[derive(Default)]
struct SentByOne {
    latencies_us: Vec<u64>,
    sent_again: usize,
    wrong: Vec<String>,
}

/// Sends what is next, on one connection, until nothing is left; what is answered with 503 is sent again, as providers do.
async fn send(
    address: SocketAddr,
    ready: Arc<Vec<Ready>>,
    next: Arc<AtomicUsize>,
    offered: Option<f64>,
    began: Instant,
) -> anyhow::Result<SentByOne> {
    let mut sent = SentByOne::default();
    let mut client = Client::new(address);
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some((webhook, request)) = ready.get(at) else { return Ok(sent) };
        let due = match offered {
            #[expect(clippy::cast_precision_loss, reason = "at most SIGNED_AHEAD")]
            Some(offered) => began + Duration::from_secs_f64(at as f64 / offered.max(1.0)),
            None => Instant::now(),
        };
        tokio::time::sleep_until(due.into()).await;
        for tries in 0.. {
            ensure!(tries < TRIES_MAX, "{} was answered with 503 {TRIES_MAX} times", webhook.id);
            let answer = client.ask(request).await?;
            if answer.status == 503 {
                sent.sent_again += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            sent.latencies_us.push(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
            sent.wrong.extend(no_yes(webhook, &answer));
            break;
        }
    }
}

/// Where an answer is not the provider's own form of yes.
pub fn no_yes(webhook: &Webhook, answer: &Answer) -> Option<String> {
    let (provider, _, yes) = PROVIDERS[webhook.endpoint];
    let is_yes = (answer.status, answer.body.as_str()) == (200, yes);
    (!is_yes).then(|| format!("{provider} {}: {answer:?}", webhook.id))
}

/// Memory of the ingress with so many connections that had a request each and are silent now.
async fn idle(connections: usize, ingress: &Ingress) -> anyhow::Result<(usize, f64)> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut client = Client::new(ingress.address);
        client
            .ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .context("no further connection: ulimit -n?")?;
        open.push(client);
    }
    let memory = ingress.memory_mib("VmRSS")?;
    // Whoever was ended meanwhile is not counted.
    let still_open = open.iter().filter(|client| client.is_open()).count();
    Ok((still_open, (memory * 10.0).round() / 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_the_providers_yes_is_found() {
        for (endpoint, (_, _, yes)) in PROVIDERS.into_iter().enumerate() {
            let webhook = Webhook { endpoint, id: "1".to_owned(), account: 1, amount: 1 };
            let answer =
                |status, body: &str| Answer { status, has_retry_after: false, body: body.to_owned() };
            assert_eq!(no_yes(&webhook, &answer(200, yes)), None);
            for (status, body) in [(202, yes), (401, yes), (500, yes), (200, "OK")] {
                assert!(no_yes(&webhook, &answer(status, body)).is_some(), "{status} {body}");
            }
        }
    }
}
