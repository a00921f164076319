//! `chaos --ingress`: callbacks come as signed webhooks at a real `payonce ingress`, from senders that repeat as a provider's schedule says,
//! compressed in time; faults of the broker, of its links and of the ingress itself. Whatever was answered with yes is in the ledger, once.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Fault, RECOVERY_DEADLINE, case_history, inspect, is_queue_empty,
    pool::Pool,
    progress::{QUIET, settled, wait_for_progress, wait_until_quiet},
    schedule::{Coming, Schedule},
    site::Site,
};
use crate::{
    audit::{Audit, Copies},
    chaos::ChaosArgs,
    failure::Failure,
    ingress::{
        self,
        audit::Before,
        front::{self, Front, PROVIDERS, Webhook},
        http::Client,
        process::Ingress,
    },
    replay::messages_left,
    signing::Signing,
    workers,
};

/// Webhooks that are sent at once.
const SENDERS: usize = 32;
/// Pauses before a webhook is sent again, in milliseconds; then the last one again and again. Stripe's schedule ends after three days.
const SCHEDULE_MS: [u64; 6] = [100, 200, 400, 800, 1_600, 3_200];
/// An answer that takes so long is none: contract §8 says 3 s, and the machine is busy.
const HANG: Duration = Duration::from_secs(20);
/// What runs have that nobody asked for certain faults: the ingress, what it stands on, and one of each server behind it.
const FAULTS: [Fault; 14] = [
    Fault::IngressKilled,
    Fault::BrokerKilled,
    Fault::ConfirmCut,
    Fault::MemoryAlarm,
    Fault::BrokerReset,
    Fault::IngressTerminated,
    Fault::BrokerSilent,
    Fault::BrokerRestarted,
    Fault::BrokerCutMidFrame,
    Fault::BrokerConnectionsClosed,
    Fault::BrokerSlow,
    Fault::WorkersKilled,
    Fault::DatabaseKilled,
    Fault::RedisKilled,
];

/// What such a run reports.
#[derive(Debug, Serialize)]
struct Report {
    /// Answers of yes: each is a message on the queue at least.
    published: u64,
    distinct: usize,
    applied: u64,
    quarantined: u64,
    duplicates: BTreeMap<String, u64>,
    seconds: f64,
    per_second: f64,
    /// Answers of 503, and requests whose connection ended before the answer: each was sent again.
    refused: u64,
    cut: u64,
    /// Name to how often it really happened.
    faults: BTreeMap<String, u64>,
    /// Name to how many requests were refused or cut meanwhile.
    noticed: BTreeMap<String, u64>,
    /// Name to seconds from the fault's end to the next callback settled, the longest.
    recovery_seconds: BTreeMap<String, f64>,
    ingress_peak_mib: f64,
    audit: serde_json::Value,
    seed: u64,
}

pub async fn run(args: &ChaosArgs) -> Result<(), Failure> {
    let mut faults = args.fault.clone();
    if faults.is_empty() {
        faults = FAULTS.to_vec();
        faults.shuffle(&mut StdRng::seed_from_u64(args.seed));
    }
    if let Some(fault) = faults.iter().find(|fault| fault.loses_commits() || **fault == Fault::ConstantKey) {
        return Err(Failure::Usage(format!("--fault {}: not with --ingress", fault.name())));
    }
    let program = workers::program(args.payonce.as_deref()).await?;
    let front = Arc::new(Front::new()?);
    let signing = Arc::new(Signing::load(front.keys(), None)?);
    eprintln!("chaos: webhooks, seed {}, {} s; starting servers", args.seed, args.seconds);
    let mut site = Site::start(faults.contains(&Fault::DiskFull), Some(signing)).await?;
    let result = tokio::select! {
        result = chaos(args, &front, &program, &mut site, &faults) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::No("interrupted".to_owned())),
    };
    let (report, audit) = result?;
    if args.json {
        println!("{}", serde_json::to_string(&report).context("no JSON")?);
    } else {
        println!("{report:#?}");
        audit.print();
    }
    match audit.failed().as_slice() {
        [] => Ok(()),
        failed => Err(Failure::No(format!("seed {}: audit failed: {}", args.seed, failed.join(", ")))),
    }
}

async fn chaos(
    args: &ChaosArgs,
    front: &Arc<Front>,
    program: &Path,
    site: &mut Site,
    faults: &[Fault],
) -> Result<(Report, Audit), Failure> {
    site.create_database().await?;
    workers::migrate(program, &site.direct()?).await?;
    case_history::keep_first_transactions(&mut site.connect().await?).await?;
    let events = args.rate.saturating_mul(args.seconds).max(1_000);
    let (webhooks, distinct) = front::plan(events, 0.3, args.seed);
    let webhooks = Arc::new(webhooks);
    let mut pool = Pool::start(args.workers as usize, program.to_owned(), site.place())?;
    let logs = front.folder.path().join("logs");
    std::fs::create_dir_all(&logs).context("no folder for logs")?;
    site.ingress = Some(Ingress::start(program, &site.place(), front, &logs).await?);
    let address = site.ingress()?.address;

    let started = Instant::now();
    let senders = Senders::start(front, &webhooks, address, args.rate);
    let mut schedule = Schedule::new(args.seed, faults, false, false);
    let (mut happened, mut noticed) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut recovery = BTreeMap::<String, f64>::new();
    let mut due = if args.fault.is_empty() { usize::MAX } else { faults.len() };
    let time = Duration::from_secs(u64::from(args.seconds));
    while due > 0 && (!args.fault.is_empty() || started.elapsed() < time) {
        due -= 1;
        wait_for_progress(site, &mut pool).await?;
        let Coming { fault, hold, .. } = schedule.next();
        let name = fault.name();
        eprintln!("chaos: {:6.1} s  {name}, {} ms", started.elapsed().as_secs_f64(), hold.as_millis());
        let before = senders.tally.troubles();
        let times = fault.inject(site, &mut pool, hold).await.with_context(|| name.clone())?;
        site.heal();
        if times == 0 {
            return Err(Failure::No(format!("seed {}: void: {name} had no effect", args.seed)));
        }
        *happened.entry(name.clone()).or_default() += times;
        site.ingress()?.check()?;
        let seconds = wait_for_progress(site, &mut pool).await.with_context(|| format!("after {name}"))?;
        let longest = recovery.entry(name.clone()).or_default();
        *longest = longest.max((seconds * 100.0).round() / 100.0);
        let troubles = senders.tally.troubles() - before;
        *noticed.entry(name.clone()).or_default() += troubles;
        if fault.is_felt_by_the_ingress() && troubles == 0 {
            return Err(Failure::No(format!("seed {}: void: no webhook noticed {name}", args.seed)));
        }
    }
    let tally = senders.finish().await?;
    wait_until_settled(site, &mut pool, tally.yes.load(Ordering::Relaxed)).await?;
    let seconds = started.elapsed().as_secs_f64();
    let ingress_peak_mib = site.ingress()?.memory_mib("VmHWM")?.round();
    let ended = site.ingress()?.terminate().await?;
    let ingress_said = site.ingress()?.said();
    let sessions = inspect::sessions(&mut site.connect().await?).await?;
    let (workers_said, _) = pool.stop().await?;

    let mut audit = Audit::default();
    let mut database = site.connect().await?;
    audit.check("every_answer_is_yes_or_an_honest_no", tally.wrong());
    audit.check("the_ingress_ends_well", (!ended.success()).then(|| ended.to_string()).into_iter().collect());
    // Each yes is a message at least, and each message is settled once at least.
    let copies = tally.yes.load(Ordering::Relaxed).saturating_sub(distinct as u64);
    let (before, copies) = (Before::default(), Copies::AtLeast(copies));
    ingress::audit::run(&mut database, &webhooks, &before, copies, &mut audit).await?;
    let direct = site.direct()?;
    let names = direct.names();
    audit.check("queues_are_empty", messages_left(&direct, &[&names.queue, &names.dead_queue]).await?);
    audit.check("no_session_is_left_in_a_transaction", sessions);
    let (acked, returned) = site.witness.take();
    let twins = inspect::Twins::new();
    let lost_rows = inspect::LostRows { keys: &site.lost, bodies: &site.lost_bodies };
    let early = inspect::acknowledged_early(&mut database, acked, &lost_rows, &twins, &site.held).await?;
    audit.check("nothing_is_acknowledged_before_its_commit", early);
    audit.check("nothing_is_returned_to_the_queue", inspect::any("messages were returned", returned));
    inspect::redis(&direct, &mut database, &site.lost, &mut audit).await?;
    let said = [ingress_said, workers_said].concat();
    let mut secrets = inspect::secrets(&said, &direct.signing().map(Signing::secrets).unwrap_or_default());
    secrets.extend(front.secrets_in(&said));
    audit.check("logs_hold_no_password", secrets);
    audit.check("payonce_audit", workers::audit(program, &direct).await?);
    let violations = audit.violations();
    let published = tally.yes.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 webhooks")]
    let per_second = (published as f64 / seconds).round();
    let report = Report {
        published,
        distinct,
        applied: audit.applied,
        quarantined: audit.quarantined.values().sum(),
        duplicates: audit.duplicates.clone(),
        seconds: (seconds * 1_000.0).round() / 1_000.0,
        per_second,
        refused: tally.refused.load(Ordering::Relaxed),
        cut: tally.cut.load(Ordering::Relaxed),
        faults: happened,
        noticed,
        recovery_seconds: recovery,
        ingress_peak_mib,
        audit: if violations.is_empty() { "ok".into() } else { violations.into() },
        seed: args.seed,
    };
    Ok((report, audit))
}

/// Waits until every yes is settled, and nothing is left on the queue.
async fn wait_until_settled(site: &Site, pool: &mut Pool, yes: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        wait_until_quiet(site).await?;
        pool.check()?;
        let now = settled(&mut None, site).await;
        let is_counted = now.is_some_and(|now| now.unsigned_abs() >= yes);
        // What is missing after so long the audit names.
        if (is_counted && is_queue_empty(site).await?) || started.elapsed() > RECOVERY_DEADLINE {
            return Ok(());
        }
        sleep(QUIET / 10).await;
    }
}

/// What senders were answered.
#[derive(Debug, Default)]
struct Tally {
    yes: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn troubles(&self) -> u64 {
        self.refused.load(Ordering::Relaxed) + self.cut.load(Ordering::Relaxed)
    }

    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Providers: they send the plan, then copies of it until told to finish, each webhook until it is answered with yes.
struct Senders {
    tally: Arc<Tally>,
    is_finishing: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Senders {
    fn start(
        front: &Arc<Front>,
        webhooks: &Arc<Vec<Arc<Webhook>>>,
        address: std::net::SocketAddr,
        rate: u32,
    ) -> Self {
        let (tally, is_finishing) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let tasks = (0..SENDERS).map(|_| {
            let (front, webhooks, next) = (Arc::clone(front), Arc::clone(webhooks), Arc::clone(&next));
            let (tally, is_finishing) = (Arc::clone(&tally), Arc::clone(&is_finishing));
            tokio::spawn(async move {
                let mut client = Client::new(address);
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= webhooks.len() && is_finishing.load(Ordering::Relaxed) {
                        return anyhow::Ok(());
                    }
                    if !is_finishing.load(Ordering::Relaxed) {
                        let due = Duration::from_secs(1) * u32::try_from(at)? / rate.max(1);
                        sleep_until(began + due).await;
                    }
                    deliver(&front, &webhooks[at % webhooks.len()], &mut client, &tally).await?;
                }
            })
        });
        let tasks = tasks.collect();
        Self { tally, is_finishing, tasks }
    }

    /// Sends what is left of the plan, and waits until all is answered with yes.
    async fn finish(self) -> anyhow::Result<Arc<Tally>> {
        self.is_finishing.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a sender panicked")??;
        }
        Ok(self.tally)
    }
}

/// Sends one webhook until it is answered with yes; each time signed anew, as providers do.
async fn deliver(front: &Front, webhook: &Webhook, client: &mut Client, tally: &Tally) -> anyhow::Result<()> {
    let (provider, ..) = PROVIDERS[webhook.endpoint];
    let wrong = |text: String| {
        tally
            .wrong
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(format!("{provider} {}: {text}", webhook.id));
    };
    let last = SCHEDULE_MS[SCHEDULE_MS.len() - 1];
    for pause_ms in SCHEDULE_MS.into_iter().chain(std::iter::repeat(last)) {
        let request = front.parts(webhook, 0)?.bytes();
        match timeout(HANG, client.ask(&request)).await {
            Err(_) => {
                client.hang_up();
                wrong(format!("no answer within {HANG:?}"));
            }
            Ok(Err(_)) => {
                tally.cut.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Ok(answer)) if ingress::no_yes(webhook, &answer).is_none() => {
                tally.yes.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(Ok(answer)) => {
                if answer.status != 503 || !answer.has_retry_after {
                    wrong(format!("{answer:?}"));
                }
                tally.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        sleep(Duration::from_millis(pause_ms)).await;
    }
    Ok(())
}
