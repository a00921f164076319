//! `pages`: how long each page of the dashboard takes over a big ledger, many cases and months of history.
//!
//! Everything is written by SQL, then a real `payonce ops` is asked for each page in turn, round by round; medians count.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{failure::Failure, place::Place, workers};

/// What a page may take at the median.
const LIMIT_MS: f64 = 200.0;
/// What a report of a period, or a file of many rows, may take: it reads all that it is about.
const FILE_LIMIT_MS: f64 = 10_000.0;
/// Such a one is asked for no more often than this.
const FILE_TIMES_MAX: usize = 3;
/// How long the program may take to listen, and a page to come at all.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Timing {
    path: String,
    /// Milliseconds.
    median_ms: f64,
    max_ms: f64,
    limit_ms: f64,
    bytes: usize,
}

/// One address, with what is known of it so far.
struct Asked {
    path: String,
    limit_ms: f64,
    /// Milliseconds.
    times: Vec<f64>,
    bytes: usize,
}

/// What `pages` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct PagesArgs {
    /// Rows in the ledger.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(0..=100_000_000), value_name = "N")]
    pub rows: u32,
    /// Cases, most of them open.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=10_000_000), value_name = "N")]
    pub cases: u32,
    /// Each page is asked for so often; the median counts.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "N")]
    pub times: u32,
    /// One JSON object in place of a table.
    #[arg(long)]
    pub json: bool,
    /// The payonce program. Without it: the one beside this program, built first where cargo runs this.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

pub async fn run(args: &PagesArgs) -> Result<(), Failure> {
    let program = workers::program(args.payonce.as_deref()).await?;
    let mut place = Place::prepare(false, 1).await?;
    let result = tokio::select! {
        result = measure(args, &program, &mut place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    place.remove().await?;
    let timings = result?;
    print(args, &timings)?;
    let slow: Vec<&str> = timings
        .iter()
        .filter(|page| page.median_ms >= page.limit_ms)
        .map(|page| page.path.as_str())
        .collect();
    if slow.is_empty() {
        Ok(())
    } else {
        Err(Failure::No(format!("over their limit at the median: {}", slow.join(", "))))
    }
}

async fn measure(args: &PagesArgs, program: &Path, place: &mut Place) -> Result<Vec<Timing>, Failure> {
    workers::migrate(program, place).await?;
    eprintln!("writing {} rows of the ledger, {} cases and 90 days of counts", args.rows, args.cases);
    place.write_history(args.rows).await?;
    place.write_cases(args.cases).await?;
    let (mut ops, address) = start(program, place).await?;
    let asked = |limit_ms| move |path: String| Asked { path, limit_ms, times: Vec::new(), bytes: 0 };
    let mut questions: Vec<Asked> = paths(args).into_iter().map(asked(LIMIT_MS)).collect();
    questions.extend(files().into_iter().map(asked(FILE_LIMIT_MS)));
    for _ in 0..args.times {
        for question in &mut questions {
            let is_file = question.limit_ms > LIMIT_MS;
            if is_file && question.times.len() >= FILE_TIMES_MAX {
                continue;
            }
            let began = Instant::now();
            question.bytes = get(&address, &question.path).await?;
            question.times.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    drop(ops.kill().await);
    let timing = |Asked { path, limit_ms, mut times, bytes }: Asked| {
        times.sort_by(f64::total_cmp);
        let median_ms = times.get(times.len() / 2).copied().unwrap_or_default();
        Timing { path, median_ms, max_ms: times.last().copied().unwrap_or_default(), limit_ms, bytes }
    };
    Ok(questions.into_iter().map(timing).collect())
}

/// Every page and every kind of question: first pages, pages from the middle, filters that fit much, little, or nothing.
fn paths(args: &PagesArgs) -> Vec<String> {
    let middle = args.cases / 2;
    let fixed = [
        "/",
        "/api/overview",
        "/api/history?range=1h",
        "/api/history?range=24h",
        "/api/history?range=30d",
        "/duplicates?range=1h",
        "/duplicates?range=30d",
        "/quarantine",
        "/quarantine?state=waiting",
        "/quarantine?state=discarded",
        "/quarantine?state=all",
        "/quarantine?reason=malformed",
        "/quarantine?source=/providers/pages-1",
        "/quarantine?source=/providers/nobody",
        "/quarantine?account=pages-7",
        "/quarantine/1",
        "/quarantine?assignee=anna",
        "/quarantine?unassigned=yes",
        "/quarantine?reason=unknown_account&source=/providers/pages-1&account=pages-7",
        "/api/quarantine",
        "/api/quarantine/groups",
        "/api/quarantine/1",
        "/find?id=case_7",
        "/find?id=evt_",
        "/find?id=op_0",
        "/find?id=pay_7",
        "/find?id=history-7",
        "/find?id=customer-7",
        "/find?id=order-77",
        "/find?id=nothing",
        "/api/find?id=customer-",
        "/find?amount=1+CNY",
        "/find?amount=77+EUR",
        "/find?amount=77+EUR&from=2020-01-01&to=2020-12-31",
        "/event?source=/providers/pages-1&id=case_1",
        "/payment?source=/providers/pages-1&id=pay_1",
        "/account?id=history-7",
        "/account?id=pages-7",
        "/account/statement?id=history-7&from=2020-01-01&to=2099-12-31",
        "/adjust?account=history-7&currency=CNY",
        "/debts",
        "/debts?currency=EUR",
        "/reports",
        "/providers",
        "/providers/pages-1",
        "/api/providers",
        "/approvals",
        "/approvals?all=yes",
        "/audit-log?who=person-7",
        "/audit-log?action=discard&who=nobody",
        "/audit-log?from=2020-01-01&to=2020-12-31",
        "/audit-log/1",
        "/login",
        "/workers",
        "/audit-log",
        "/metrics",
    ];
    let mut paths: Vec<String> = fixed.map(str::to_owned).to_vec();
    paths.push(format!("/quarantine?before={middle}"));
    paths.push(format!("/quarantine?state=all&source=/providers/pages-2&before={middle}"));
    paths
}

/// Reports of a period, and lists as files.
fn files() -> Vec<String> {
    let whole = "from=2020-01-01&to=2099-12-31";
    vec![
        format!("/reports?{whole}"),
        format!("/api/report?{whole}&csv=clearing"),
        format!("/api/account/statement?id=history-7&{whole}&csv=yes"),
        "/api/quarantine?source=/providers/pages-1&export=csv".to_owned(),
        "/api/quarantine?assignee=anna&export=ndjson".to_owned(),
        "/api/audit-log?who=person-7&export=csv".to_owned(),
    ]
}

async fn start(program: &Path, place: &Place) -> Result<(Child, String), Failure> {
    let mut ops = Command::new(program)
        .args(["ops", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .env("PAYONCE_DATABASE_URL", &place.database_url)
        .env("PAYONCE_REDIS_URL", &place.redis_url)
        .env("PAYONCE_AMQP_URL", &place.amqp_url)
        .env("PAYONCE_PREFIX", &place.prefix)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("payonce ops does not start")?;
    let mut lines = BufReader::new(ops.stderr.take().context("no log")?).lines();
    let address = async {
        while let Some(line) = lines.next_line().await? {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = value["fields"]["address"].as_str() {
                return Ok(address.to_owned());
            }
        }
        anyhow::bail!("payonce ops ended before it served")
    };
    let address = tokio::time::timeout(PATIENCE, address).await.context("payonce ops does not serve")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((ops, address))
}

/// The length of the answer, to its end.
async fn get(address: &str, path: &str) -> Result<usize, Failure> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await.context("no answer in time")??;
    let head = String::from_utf8_lossy(answer.get(..15).unwrap_or_default()).into_owned();
    // A search that finds one thing leads to it.
    if head.contains(" 200 ") || head.contains(" 303 ") {
        return Ok(answer.len());
    }
    Err(Failure::No(format!("{path}: {head}")))
}

fn print(args: &PagesArgs, timings: &[Timing]) -> anyhow::Result<()> {
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "rows": args.rows, "cases": args.cases, "times": args.times, "pages": timings })
        );
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["page", "median ms", "max ms", "limit ms", "bytes"]);
    for page in timings {
        let row = [
            page.path.clone(),
            format!("{:.1}", page.median_ms),
            format!("{:.1}", page.max_ms),
            format!("{:.0}", page.limit_ms),
            page.bytes.to_string(),
        ];
        table.add_row(row);
    }
    for number in [1, 2, 3, 4] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    Ok(())
}
