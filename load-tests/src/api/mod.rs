//! `api`: requests at a fixed rate at a real `payonce api`, beside a pool that has work. Each request is due at its time, whether or not those
//! before it are answered, and its latency counts from then, so that a server that falls behind does not hide it. Every answer is checked.

mod questions;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Child};

use self::questions::{Question, Questions};
use crate::{
    arguments::ReplayArgs,
    failure::Failure,
    http,
    ids::Ids,
    latency::{Latencies, Percentiles},
    place::Place,
    plan::Plan,
    publish::Sender,
    replay::{self, settled, wait_settled},
    workers::{self, Workers},
};

/// Connections that ask at once.
const CONNECTIONS: usize = 64;
/// Accounts that callbacks go to, and that are asked for.
const ACCOUNTS: u32 = 2_000;
/// Payments that are asked for; so many must be there before the first request.
const PAYMENTS: i64 = 200;
const PAYMENTS_DEADLINE: Duration = Duration::from_secs(60);
/// Questions for the past that are asked one by one before the pool has work.
const ALONE: u32 = 200;
const POLL_PAUSE: Duration = Duration::from_millis(50);
const PROBLEMS_MAX: usize = 20;
/// The run's own; the api is only on loopback and only for so long.
const TOKEN: &str = "load-tests-token-of-one-run";

/// What `api` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct ApiArgs {
    /// Requests per second. Each is due at its time, whether or not those before it are answered, and its latency counts from then.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub rate: u32,
    /// For so long.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600), value_name = "N")]
    pub seconds: u32,
    /// Callbacks per second that the pool is offered meanwhile.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub load: u32,
    /// Worker processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub workers: u32,
    /// Rows in the ledger before; half of them on one account, whose past is asked for.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(2..=100_000_000), value_name = "N")]
    pub rows: u32,
    /// Fails where the 99th percentile is above so many milliseconds.
    #[arg(long, value_name = "MS")]
    pub p99_max_ms: Option<f64>,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// One JSON object in place of a table.
    #[arg(long)]
    pub json: bool,
    /// The payonce program; without it, the one beside this program.
    #[arg(long, value_name = "FILE")]
    pub payonce: Option<PathBuf>,
}

/// The figures of one run.
#[derive(Debug, Serialize)]
struct Report {
    offered_per_second: u32,
    answered: usize,
    seconds: f64,
    answered_per_second: f64,
    latency_ms: Percentiles,
    /// By kind of question.
    by_kind: BTreeMap<&'static str, Kind>,
    /// Questions for the past asked one by one, nothing else at work.
    past_alone_ms: Percentiles,
    /// Rows of the account whose past is asked for.
    deep_rows: u32,
    /// What the pool settled meanwhile, a second.
    settled_per_second: f64,
    /// `"ok"`, or what was wrong.
    audit: serde_json::Value,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Kind {
    answered: usize,
    #[serde(flatten)]
    latency_ms: Percentiles,
}

/// What one connection has seen.
#[derive(Default)]
struct Asked {
    /// Kind and microseconds.
    latencies_us: Vec<(&'static str, u64)>,
    wrong: Vec<String>,
}

pub async fn run(args: &ApiArgs) -> Result<(), Failure> {
    let program = workers::program(args.payonce.as_deref()).await?;
    let mut place = Place::prepare(false, args.seed).await?;
    let result = tokio::select! {
        result = measure(args, &program, &mut place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    place.remove().await?;
    let report = result?;
    report.print(args.json)?;
    if report.audit != "ok" {
        return Err(Failure::No("answers were wrong".to_owned()));
    }
    match args.p99_max_ms {
        Some(max) if report.latency_ms.p99 > max => Err(Failure::No(format!(
            "the 99th percentile is {:.1} ms, above {max} ms",
            report.latency_ms.p99
        ))),
        Some(_) | None => Ok(()),
    }
}

async fn measure(args: &ApiArgs, program: &Path, place: &mut Place) -> Result<Report, Failure> {
    workers::migrate(program, place).await?;
    let deep_rows = args.rows / 2;
    eprintln!("writing {} rows of the ledger", args.rows);
    place.write_history(args.rows - deep_rows).await?;
    place.write_deep_account(deep_rows).await?;
    let folder = TempDir::new().context("no folder")?;
    let (_api, address) = start(program, place, folder.path()).await?;
    let past_alone_ms = ask_alone(args, address, deep_rows).await?;

    let plan = Arc::new(Plan::new(&replay::options(&shape(args))).map_err(Failure::Usage)?);
    let mut pool = Workers::start(args.workers, program, place, folder.path())?;
    let mut sender = Sender::open(place, Arc::clone(&plan), args.load).await?;
    sender.send(|plan| &plan.opening).await?;
    let mut database = place.connect().await?;
    wait_settled(&mut database, &mut pool, plan.opening.len()).await?;
    let loading = tokio::spawn(async move { sender.send(|plan| &plan.main).await });
    let accounts: Vec<(String, i64)> = sqlx::query_as("select account_id, version from accounts")
        .fetch_all(&mut database)
        .await
        .context("accounts cannot be read")?;
    let payments = payments(&mut database).await?;
    let questions = Arc::new(Questions { accounts, payments, deep_rows });

    let settled_before = settled(&mut database).await?;
    let began = Instant::now();
    let asked = ask_at_rate(args, address, &questions, began).await?;
    let seconds = began.elapsed().as_secs_f64();
    let settled_after = settled(&mut database).await?;
    if loading.is_finished() {
        loading.await.context("the publisher ended")??;
    } else {
        loading.abort();
    }
    pool.check()?;
    drop(pool);

    let mut all = Latencies::new()?;
    let mut kinds: BTreeMap<&'static str, (usize, Latencies)> = BTreeMap::new();
    for (kind, latency) in asked.latencies_us.iter().copied() {
        all.record_us(latency);
        let (answered, of_kind) = match kinds.entry(kind) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert((0, Latencies::new()?)),
        };
        *answered += 1;
        of_kind.record_us(latency);
    }
    #[expect(clippy::cast_precision_loss, reason = "at most some hundred million")]
    let per_second = |n: usize| (n as f64 / seconds.max(f64::EPSILON)).round();
    let mut wrong = asked.wrong;
    if settled_after <= settled_before {
        wrong.push("the pool settled nothing meanwhile".to_owned());
    }
    wrong.truncate(PROBLEMS_MAX);
    Ok(Report {
        offered_per_second: args.rate,
        answered: asked.latencies_us.len(),
        seconds: (seconds * 1_000.0).round() / 1_000.0,
        answered_per_second: per_second(asked.latencies_us.len()),
        latency_ms: all.percentiles(),
        by_kind: kinds
            .into_iter()
            .map(|(kind, (answered, of_kind))| (kind, Kind { answered, latency_ms: of_kind.percentiles() }))
            .collect(),
        past_alone_ms,
        deep_rows,
        settled_per_second: per_second(settled_after.saturating_sub(settled_before)),
        audit: if wrong.is_empty() { "ok".into() } else { wrong.into() },
        seed: args.seed,
    })
}

/// What the pool works on: enough that it does not run out.
fn shape(args: &ApiArgs) -> ReplayArgs {
    let seconds = args.seconds.saturating_add(u32::try_from(PAYMENTS_DEADLINE.as_secs()).unwrap_or(60));
    ReplayArgs {
        events: args.load.saturating_mul(seconds).max(2 * ACCOUNTS),
        duplicates: 0.2,
        accounts: ACCOUNTS,
        hot: 0.0,
        poison: 0.0,
        lifecycle: 0.5,
        transfers: false,
        disorder: false,
        ids: Ids::Random,
        workers: args.workers,
        rate: args.load,
        prefill: false,
        seed: args.seed,
        json: args.json,
        signatures: "off".to_owned(),
        in_place: false,
        keep: false,
        payonce: args.payonce.clone(),
    }
}

async fn start(program: &Path, place: &Place, folder: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let digest: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let tokens = folder.join("api-tokens.toml");
    let scopes = "[\"accounts:read\", \"payments:read\", \"events:read\"]";
    fs::write(&tokens, format!("[[token]]\nname = \"load\"\nsha256 = \"{digest}\"\nscopes = {scopes}\n"))?;
    let (address, log) = (http::free_address()?, folder.join("api.log"));
    let mut child = workers::command(program, place)
        .args(["api", "--listen", &address.to_string()])
        .env("PAYONCE_API_TOKENS_FILE", &tokens)
        .stderr(File::create(&log)?)
        .spawn()
        .context("payonce does not run")?;
    http::wait_until_ready(address, &mut child, &log).await?;
    Ok((child, address))
}

/// Payments that the pool has made by now.
async fn payments(database: &mut PgConnection) -> anyhow::Result<Vec<(String, String)>> {
    let began = Instant::now();
    loop {
        let found: Vec<(String, String)> = sqlx::query_as("select source, payment_id from payments limit $1")
            .bind(PAYMENTS)
            .fetch_all(&mut *database)
            .await?;
        if i64::try_from(found.len()).is_ok_and(|found| found >= PAYMENTS) {
            return Ok(found);
        }
        anyhow::ensure!(began.elapsed() < PAYMENTS_DEADLINE, "only {} payments were made", found.len());
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

async fn ask_alone(args: &ApiArgs, address: SocketAddr, deep_rows: u32) -> anyhow::Result<Percentiles> {
    let mut random = StdRng::seed_from_u64(args.seed);
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut latencies = Latencies::new()?;
    for _ in 0..ALONE {
        let question = Question::Past(random.random_range(1..=deep_rows));
        let began = Instant::now();
        let answer = http::ask(&mut stream, &question.request(TOKEN)?).await?;
        latencies.record_us(u64::try_from(began.elapsed().as_micros())?);
        question.check(&answer)?;
    }
    Ok(latencies.percentiles())
}

async fn ask_at_rate(
    args: &ApiArgs,
    address: SocketAddr,
    questions: &Arc<Questions>,
    began: Instant,
) -> anyhow::Result<Asked> {
    let next = Arc::new(AtomicUsize::new(0));
    let total = args.rate as usize * args.seconds as usize;
    let asking: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (questions, next, rate) = (Arc::clone(questions), Arc::clone(&next), args.rate);
            let random = StdRng::seed_from_u64(args.seed.wrapping_add(number as u64));
            tokio::spawn(async move { ask(address, &questions, random, &next, total, (rate, began)).await })
        })
        .collect();
    let mut all = Asked::default();
    for one in asking {
        let one = one.await.context("an asker panicked")??;
        all.latencies_us.extend(one.latencies_us);
        all.wrong.extend(one.wrong);
    }
    Ok(all)
}

/// Asks what is next, on one connection, until all is asked.
async fn ask(
    address: SocketAddr,
    questions: &Questions,
    mut random: StdRng,
    next: &AtomicUsize,
    total: usize,
    (rate, began): (u32, Instant),
) -> anyhow::Result<Asked> {
    let mut asked = Asked::default();
    let mut known: BTreeMap<String, i64> = questions.accounts.iter().cloned().collect();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= total {
            return Ok(asked);
        }
        let due = began + Duration::from_secs(1) * u32::try_from(at).unwrap_or(u32::MAX) / rate;
        let question = questions.draw(&mut random, &known);
        let request = question.request(TOKEN)?;
        tokio::time::sleep_until(due.into()).await;
        let answer = http::ask(&mut stream, &request).await?;
        asked.latencies_us.push((question.kind(), u64::try_from(due.elapsed().as_micros())?));
        match question.check(&answer) {
            Ok(Some((account, version))) => {
                known.insert(account, version);
            }
            Ok(None) => {}
            Err(problem) if asked.wrong.len() < PROBLEMS_MAX => asked.wrong.push(format!("{problem:#}")),
            Err(_) => {}
        }
    }
}

impl Report {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["", "answered", "p50 ms", "p99 ms", "max ms"]);
        let mut line = |name: &str, answered: usize, Percentiles { p50, p99, max }: Percentiles| {
            table.add_row([
                name.to_owned(),
                answered.to_string(),
                format!("{p50:.2}"),
                format!("{p99:.2}"),
                format!("{max:.2}"),
            ]);
        };
        self.by_kind.iter().for_each(|(name, kind)| line(name, kind.answered, kind.latency_ms));
        line("all", self.answered, self.latency_ms);
        line("the past, nothing else at work", ALONE as usize, self.past_alone_ms);
        for column in 1..=4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        println!("{table}");
        println!(
            "{} requests a second offered, {:.0} answered, beside a pool that settled {:.0} a second; the past of {} rows; answers: {}",
            self.offered_per_second,
            self.answered_per_second,
            self.settled_per_second,
            self.deep_rows,
            self.audit
        );
        Ok(())
    }
}
