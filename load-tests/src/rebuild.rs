//! `rebuild`: a second program builds all balances from the feed alone, while the feed is killed again and again ([`crate::books`]).

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::process::Child;

use crate::{
    arguments::ReplayArgs,
    books::{Books, Checks, Reader},
    failure::Failure,
    place::Place,
    plan::Plan,
    publish::now_us,
    replay, workers,
};

/// A feed lives for so many milliseconds before it is killed.
const LIFE_MS: std::ops::Range<u64> = 300..2_500;

/// What `rebuild` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct RebuildArgs {
    /// The callbacks, as for `replay`.
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// How often the feed is killed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1_000), value_name = "N")]
    pub kills: u32,
    /// Publish nothing: rebuild what PAYONCE_DATABASE_URL has. All its rows are sent again, under a feed name of its own, to whoever is bound.
    #[arg(long)]
    pub existing: bool,
}

pub async fn run(args: &RebuildArgs) -> Result<(), Failure> {
    let program = workers::program(args.replay.payonce.as_deref()).await?;
    let in_place = args.existing || args.replay.in_place;
    let place = Place::prepare(in_place, args.replay.seed).await?.signed_by(args.replay.signing()?);
    let result = tokio::select! {
        result = rebuild(args, &program, &place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    if !args.replay.keep {
        place.remove().await?;
    }
    result
}

async fn rebuild(args: &RebuildArgs, program: &Path, place: &Place) -> Result<(), Failure> {
    workers::migrate(program, place).await?;
    let logs = tempfile::tempdir().context("no folder for logs")?;
    let reader = Reader::start(place).await?;
    let name = format!("rebuild-{}-{}", std::process::id(), now_us());
    let feeding = tokio::spawn(feed(
        args.clone(),
        program.to_owned(),
        place.clone(),
        name.clone(),
        logs.path().join("feed.log"),
    ));
    let started = Instant::now();
    if !args.existing {
        let plan = Arc::new(Plan::new(&replay::options(&args.replay)).map_err(Failure::Usage)?);
        let (_, audit) = replay::replay(&args.replay, &plan, program, place).await?;
        if !audit.failed().is_empty() {
            return Err(Failure::No(format!("audit failed: {}", audit.failed().join(", "))));
        }
    }
    let mut database = place.connect().await?;
    let mut feed = feeding.await.context("the feed's task ended")??;
    let checks = reader.checks(&mut database).await?;
    feed.kill().await.context("the feed cannot be ended")?;
    let books = reader.close().await?;
    sqlx::query("delete from feeds where name = $1")
        .bind(&name)
        .execute(&mut database)
        .await
        .context("its position")?;
    print(args, &books, &checks, started.elapsed());
    let failed: Vec<&str> =
        checks.iter().filter(|(_, found)| !found.is_empty()).map(|(name, _)| *name).collect();
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("the books differ: {}", failed.join(", ")))),
    }
}

/// Runs the feed, kills it `--kills` times, and leaves the last one running.
async fn feed(
    args: RebuildArgs,
    program: std::path::PathBuf,
    place: Place,
    name: String,
    log: std::path::PathBuf,
) -> anyhow::Result<Child> {
    let file = File::create(&log).context("no log")?;
    let start = || {
        workers::command(&program, &place)
            .arg("feed")
            .env("PAYONCE_FEED_NAME", &name)
            .env("PAYONCE_FEED_LEASE_MS", "500")
            .stderr(file.try_clone()?)
            .spawn()
            .context("payonce does not run")
    };
    let mut random = StdRng::seed_from_u64(args.replay.seed);
    for _ in 0..args.kills {
        let mut child = start()?;
        tokio::time::sleep(Duration::from_millis(random.random_range(LIFE_MS))).await;
        if let Some(status) = child.try_wait()? {
            bail!("the feed ended by itself: {status}\n{}", workers::last_lines(&log));
        }
        child.kill().await?;
    }
    start()
}

fn print(args: &RebuildArgs, books: &Books, checks: &Checks, took: Duration) {
    let failed: BTreeMap<_, _> = checks.iter().filter(|(_, found)| !found.is_empty()).collect();
    let report = json!({
        "rows": books.rows(), "accounts": books.accounts(), "copies": books.copies, "early": books.early, "kills": args.kills,
        "seconds": took.as_secs_f64(), "audit": if failed.is_empty() { json!("ok") } else { json!(failed) },
    });
    if args.replay.json {
        println!("{report}");
        return;
    }
    println!(
        "{} rows of {} accounts rebuilt from the feed in {:.1} s; {} copies, {} came early and again; the feed was killed {} times",
        books.rows(),
        books.accounts(),
        took.as_secs_f64(),
        books.copies,
        books.early,
        args.kills
    );
    for (name, found) in checks {
        println!("{} {name}", if found.is_empty() { "ok    " } else { "FAILED" });
        found.iter().for_each(|line| println!("       {line}"));
    }
}
