//! `replay`: publish a plan, let real workers settle it, audit, report.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use payonce::broker::Names;
use sqlx::PgConnection;

use crate::{
    arguments::ReplayArgs,
    audit::{self, Audit, Copies},
    failure::Failure,
    place::Place,
    plan::{Options, Plan},
    publish::{Sender, now_us},
    report::{Report, Wal},
    workers::{self, Workers},
};

const POLL_PAUSE: Duration = Duration::from_millis(20);
/// After so long without one more callback settled, a run is stuck.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
/// How long a callback waits for money, where PAYONCE_ORDER_WAIT_MS, which workers inherit, does not say it.
const ORDER_WAIT: Duration = Duration::from_secs(60);
/// How long sweeps may take on top of that.
const SWEEP_DEADLINE: Duration = Duration::from_secs(90);

pub async fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let plan = Arc::new(Plan::new(&options(args)).map_err(Failure::Usage)?);
    let program = workers::program(args.payonce.as_deref()).await?;
    let place = Place::prepare(args.in_place, args.seed).await?.signed_by(args.signing()?);
    let result = tokio::select! {
        result = replay(args, &plan, &program, &place) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    if !args.keep {
        place.remove().await?;
    }
    let (report, audit) = result?;
    report.print(args.json, &audit)?;
    match audit.failed().as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("audit failed: {}", failed.join(", ")))),
    }
}

/// What the plan is made from.
pub fn options(args: &ReplayArgs) -> Options {
    Options {
        events: args.events as usize,
        duplicates: args.duplicates,
        accounts: args.accounts,
        hot: args.hot,
        poison: args.poison,
        lifecycle: args.lifecycle,
        transfers: args.transfers,
        disorder: args.disorder,
        prefill: args.prefill,
        signatures: args.signatures == "required",
        ids: args.ids,
        seed: args.seed,
    }
}

/// Publishes, runs the workers, audits. The place must be empty.
pub async fn replay(
    args: &ReplayArgs,
    plan: &Arc<Plan>,
    program: &Path,
    place: &Place,
) -> Result<(Report, Audit), Failure> {
    workers::migrate(program, place).await?;
    let mut database = place.connect().await?;
    if settled(&mut database).await? > 0 {
        return Err(Failure::Usage(
            "the database has callbacks of an earlier run: use an empty one".to_owned(),
        ));
    }
    let logs = logs_folder()?;
    let mut sender = Sender::open(place, Arc::clone(plan), args.rate).await?;

    let started;
    let mut workers;
    let wal_before;
    if args.prefill {
        sender.send_all().await?;
        wal_before = Wal::now(&mut database).await?;
        started = (Instant::now(), now_us());
        workers = Workers::start(args.workers, program, place, &logs)?;
    } else {
        wal_before = Wal::now(&mut database).await?;
        workers = Workers::start(args.workers, program, place, &logs)?;
        started = (Instant::now(), now_us());
        sender.send(|plan| &plan.opening).await?;
        sender.send(|plan| &plan.main).await?;
        if !plan.late.is_empty() {
            wait_settled(&mut database, &mut workers, plan.opening.len() + plan.main.len()).await?;
            sender.send(|plan| &plan.late).await?;
        }
    }
    wait_settled(&mut database, &mut workers, plan.published()).await?;
    let seconds = started.0.elapsed().as_secs_f64();
    let wal = Wal::now(&mut database).await?.since(wal_before);
    wait_until_nothing_waits(&mut database, &mut workers).await?;
    workers.stop().await?;
    let published_at_us = sender.finish();
    // In a prefilled queue a callback's time starts with the workers.
    let published_at_us: Vec<u64> =
        published_at_us.into_iter().map(|at| if args.prefill { at.max(started.1) } else { at }).collect();

    let names = place.names();
    let left = [&names.queue, &names.dead_queue];
    let mut audit = audit::run(&mut database, plan, &published_at_us, Copies::AsPlanned).await?;
    audit.check("queues_are_empty", messages_left(place, &left).await?);
    // What each has said when it stopped.
    let conflicts: i64 = sqlx::query_scalar("select coalesce(sum(conflicts), 0)::bigint from workers")
        .fetch_one(&mut database)
        .await
        .context("workers' reports cannot be read")?;
    audit.conflicts = u64::try_from(conflicts).unwrap_or(0);
    std::fs::remove_dir_all(&logs).context("logs cannot be removed")?;
    let report = Report::new(args, plan, &audit, seconds).with_wal(wal);
    Ok((report, audit))
}

/// Has one worker decide what waits, and release what has expired, until nothing is left to sweep.
pub async fn sweep(program: &Path, place: &Place) -> Result<(), Failure> {
    let mut database = place.connect().await?;
    if left_to_sweep(&mut database).await? == 0 {
        return Ok(());
    }
    let logs = logs_folder()?;
    let mut workers = Workers::start(1, program, place, &logs)?;
    wait_until_nothing_waits(&mut database, &mut workers).await?;
    workers.stop().await?;
    Ok(std::fs::remove_dir_all(&logs).context("logs cannot be removed")?)
}

fn logs_folder() -> anyhow::Result<PathBuf> {
    let logs = std::env::temp_dir().join(format!("payonce-load-tests-{}-{}", std::process::id(), now_us()));
    std::fs::create_dir_all(&logs).context("no folder for logs")?;
    Ok(logs)
}

/// Callbacks settled so far: payonce counts each in the transaction that settles it.
pub async fn settled(database: &mut PgConnection) -> anyhow::Result<usize> {
    let sum: i64 =
        sqlx::query_scalar("select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'")
            .fetch_one(database)
            .await
            .context("the tallies cannot be read")?;
    Ok(usize::try_from(sum).unwrap_or(0))
}

/// Asks the database until so many callbacks are settled.
pub async fn wait_settled(
    database: &mut PgConnection,
    workers: &mut Workers,
    expected: usize,
) -> anyhow::Result<()> {
    let mut before = 0;
    let mut progressed = Instant::now();
    loop {
        let now = settled(database).await?;
        if now >= expected {
            return Ok(());
        }
        workers.check()?;
        if now > before {
            (before, progressed) = (now, Instant::now());
        }
        if progressed.elapsed() > PROGRESS_DEADLINE {
            bail!("stuck: {now} of {expected} callbacks settled, none more for {PROGRESS_DEADLINE:?}");
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// What waits for money or an account waits as long as `order_wait_ms` says; then a sweep decides it. So does it with holds whose time is
/// up.
async fn wait_until_nothing_waits(database: &mut PgConnection, workers: &mut Workers) -> anyhow::Result<()> {
    let mut progressed = (None, Instant::now());
    loop {
        let left = left_to_sweep(database).await?;
        if left == 0 {
            return Ok(());
        }
        workers.check()?;
        if progressed.0 != Some(left) {
            progressed = (Some(left), Instant::now());
        }
        if progressed.1.elapsed() > waiting_deadline() {
            // The audit says what it is.
            return Ok(());
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Longer than anything waits for money.
pub fn waiting_deadline() -> Duration {
    let given = std::env::var("PAYONCE_ORDER_WAIT_MS").ok().and_then(|text| text.parse().ok());
    given.map_or(ORDER_WAIT, Duration::from_millis) + SWEEP_DEADLINE
}

/// Callbacks that wait, and holds whose time is up.
pub async fn left_to_sweep(database: &mut PgConnection) -> anyhow::Result<i64> {
    sqlx::query_scalar(
        "select (select count(*) from quarantine where state = 'waiting')
                + (select count(*) from payments where state = 'authorized' and expires_at <= clock_timestamp())",
    )
    .fetch_one(database)
    .await
    .context("what waits cannot be read")
}

/// What the broker still has; with the workers gone, what they had not settled is back on its queue.
pub async fn messages_left(place: &Place, queues: &[&String]) -> Result<Vec<String>, Failure> {
    let connection = place.broker().await?;
    let channel = connection.create_channel().await.context("no channel")?;
    let mut left = Vec::new();
    for queue in queues {
        let passive =
            lapin::options::QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        let found = channel
            .queue_declare(queue.as_str().into(), passive, Default::default())
            .await
            .with_context(|| format!("queue {queue} is gone: {:?}", Names::new(&place.prefix)))?;
        if found.message_count() > 0 {
            left.push(format!("{queue} has {} messages", found.message_count()));
        }
    }
    Ok(left)
}
