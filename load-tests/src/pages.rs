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
/// How long the program may take to listen, and a page to come at all.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Timing {
    path: String,
    /// Milliseconds.
    median_ms: f64,
    max_ms: f64,
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
    let slow: Vec<&str> =
        timings.iter().filter(|page| page.median_ms >= LIMIT_MS).map(|page| page.path.as_str()).collect();
    if slow.is_empty() {
        Ok(())
    } else {
        Err(Failure::No(format!("over {LIMIT_MS:.0} ms at the median: {}", slow.join(", "))))
    }
}

async fn measure(args: &PagesArgs, program: &Path, place: &mut Place) -> Result<Vec<Timing>, Failure> {
    workers::migrate(program, place).await?;
    eprintln!("writing {} rows of the ledger, {} cases and 90 days of counts", args.rows, args.cases);
    place.write_history(args.rows).await?;
    place.write_cases(args.cases).await?;
    let (mut ops, address) = start(program, place).await?;
    let mut paths: Vec<(String, Vec<f64>, usize)> =
        paths(args).into_iter().map(|path| (path, Vec::new(), 0)).collect();
    for _ in 0..args.times {
        for (path, times, bytes) in &mut paths {
            let began = Instant::now();
            *bytes = get(&address, path).await?;
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    drop(ops.kill().await);
    let timing = |(path, mut times, bytes): (String, Vec<f64>, usize)| {
        times.sort_by(f64::total_cmp);
        let median_ms = times.get(times.len() / 2).copied().unwrap_or_default();
        Timing { path, median_ms, max_ms: times.last().copied().unwrap_or_default(), bytes }
    };
    Ok(paths.into_iter().map(timing).collect())
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
        "/find?id=case_7",
        "/find?id=history-7",
        "/find?id=nothing",
        "/event?source=/providers/pages-1&id=case_1",
        "/account?id=history-7",
        "/workers",
        "/audit-log",
        "/metrics",
    ];
    let mut paths: Vec<String> = fixed.map(str::to_owned).to_vec();
    paths.push(format!("/quarantine?before={middle}"));
    paths.push(format!("/quarantine?state=all&source=/providers/pages-2&before={middle}"));
    paths
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
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["page", "median ms", "max ms", "bytes"]);
    for page in timings {
        let row = [
            page.path.clone(),
            format!("{:.1}", page.median_ms),
            format!("{:.1}", page.max_ms),
            page.bytes.to_string(),
        ];
        table.add_row(row);
    }
    for number in [1, 2, 3] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    Ok(())
}
