//! `shop run`: a database and a prefix of its own, payonce with two workers and a feed, the three services, customers who order more than is there;
//! and somebody who kills one of these processes after the other while callbacks come twice. Then the ends are checked (`ends`).

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use payonce::broker;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    Place,
    ends::{self, Progress},
    orders::{self, Orders},
    points::Points,
    step::{self, Service},
    stock::{self, Stock},
};

/// What is sold, for how many cents, and the share of the orders that can be served, in percent.
pub const ITEMS: [(&str, i64, u32); 3] = [("mug", 1_900, 120), ("lamp", 4_950, 80), ("chair", 12_900, 50)];
const CUSTOMERS: u32 = 20;
/// Every customer can pay for all that is ordered.
pub const TOP_UP: i64 = 100_000_000;
/// So many requests for money of a hundred are sent twice.
const COPIES_PERCENT: u32 = 30;
/// A process lives for so many milliseconds before the next one is killed.
const LIFE_MS: std::ops::Range<u64> = 200..900;
/// After so long without one more row or step, the shop is stuck.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(100);
const LOG_LINES_SHOWN: usize = 15;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Orders that are placed.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub orders: u32,
    /// How often a process is killed.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=1_000), value_name = "N")]
    pub kills: u32,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// The payonce program; without it, the one beside this program.
    #[arg(long, value_name = "PATH")]
    pub payonce: Option<PathBuf>,
}

/// Every process of the run: how it is started, and the one that runs.
struct Shop {
    programs: BTreeMap<&'static str, (PathBuf, Vec<String>)>,
    place: Place,
    running: BTreeMap<&'static str, Child>,
    logs: TempDir,
}

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let admin = Place::admin()?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let name = format!("payonce_shop_{}_{started}", std::process::id());
    let folder = TempDir::new()?;
    let (server, _) =
        admin.rsplit_once('/').context("PAYONCE_DATABASE_URL: expected postgres://…/DATABASE")?;
    let place = Place {
        database_url: format!("{server}/{name}"),
        amqp_url: std::env::var("PAYONCE_AMQP_URL").context("PAYONCE_AMQP_URL is not set")?,
        prefix: format!("shop-{}-{started}.", std::process::id()),
        keys_file: folder.path().join("keys.toml"),
    };
    execute(&admin, &format!("create database {name}")).await?;
    let ended = tokio::select! {
        ended = shop(args, &place) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    execute(&admin, &format!("drop database {name} with (force)")).await?;
    remove_from_broker(&place).await?;
    ended
}

impl Place {
    fn admin() -> anyhow::Result<String> {
        std::env::var("PAYONCE_DATABASE_URL")
            .context("PAYONCE_DATABASE_URL is not set: run `make services`, then `. .local/env`")
    }
}

async fn execute(url: &str, sql: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await.context("PAYONCE_DATABASE_URL")?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    Ok(())
}

const SERVICES: [&str; 3] = [Orders::NAME, Stock::NAME, Points::NAME];

async fn remove_from_broker(place: &Place) -> anyhow::Result<()> {
    let connection = broker::connect(&place.amqp_url, "shop", &Default::default()).await?;
    let channel = connection.create_channel().await?;
    let names = broker::Names::new(&place.prefix);
    let queues = SERVICES.iter().map(|service| format!("{}shop.{service}", place.prefix));
    for queue in queues.chain([names.queue, names.dead_queue]) {
        channel.queue_delete(queue.into(), Default::default()).await?;
    }
    for exchange in [names.exchange, names.events_exchange] {
        channel.exchange_delete(exchange.into(), Default::default()).await?;
    }
    Ok(())
}

async fn shop(args: &Args, place: &Place) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let payonce = args.payonce.clone().unwrap_or_else(|| own.with_file_name("payonce"));
    ensure!(payonce.exists(), "{} is not there: build it, or name it with --payonce", payonce.display());
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut programs = BTreeMap::from([
        ("worker 1", (payonce.clone(), words("worker"))),
        ("worker 2", (payonce.clone(), words("worker"))),
        ("feed", (payonce, words("feed --feed-lease-ms 500"))),
    ]);
    programs.extend(SERVICES.map(|service| (service, (own.clone(), words(service)))));
    let mut shop = Shop { programs, place: place.clone(), running: BTreeMap::new(), logs: TempDir::new()? };
    shop.once("feed", &["migrate"]).await?;
    shop.once("feed", &["keys", "generate", crate::outbox::SOURCE]).await?;

    // The services' queues are there before the feed says its first word.
    let connection = broker::connect(&place.amqp_url, "shop", &Default::default()).await?;
    let channel = connection.create_channel().await?;
    broker::topology::declare(&connection, &broker::Names::new(&place.prefix)).await?;
    for service in SERVICES {
        step::declare(&channel, place, service).await?;
    }
    let mut random = StdRng::seed_from_u64(args.seed);
    open(args, place, &mut random).await?;
    for name in shop.programs.keys().copied().collect::<Vec<_>>() {
        shop.start(name)?;
    }
    println!("{} orders of {CUSTOMERS} customers; seed {}", args.orders, args.seed);
    for _ in 0..args.kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(LIFE_MS))).await;
        let names: Vec<&str> = shop.programs.keys().copied().collect();
        let name = names.choose(&mut random).copied().context("nothing runs")?;
        shop.kill(name).await?;
    }
    shop.wait_until(Progress::is_done).await?;
    // All once more: whoever takes a step twice does now.
    if let Some((_, arguments)) = shop.programs.get_mut("feed") {
        arguments.push("--from-beginning".to_owned());
    }
    shop.kill("feed").await?;
    shop.wait_until(|now| now.is_done() && now.is_told_again()).await?;
    let found = ends::check(place, args.orders).await?;
    let audit = shop.once("feed", &["audit"]).await;
    println!("killed {} times; {}", args.kills, found.story);
    let mut problems = found.problems;
    problems.extend(audit.err().map(|problem| format!("payonce audit: {problem:#}")));
    if problems.is_empty() {
        println!("every order, piece, point and cent is where it belongs");
        return Ok(());
    }
    bail!("{} things are wrong:\n{}", problems.len(), problems.join("\n"))
}

/// Fills the shelves, and lets customers order.
async fn open(args: &Args, place: &Place, random: &mut StdRng) -> anyhow::Result<()> {
    let (mut of_orders, mut of_stock) =
        (step::connect::<Orders>(place).await?, step::connect::<Stock>(place).await?);
    step::connect::<Points>(place).await?;
    for number in 1..=CUSTOMERS {
        orders::top_up(&mut of_orders, &customer(number), TOP_UP).await?;
    }
    let mut ordered = [0_u32; ITEMS.len()];
    for number in 1..=args.orders {
        let at = random.random_range(0..ITEMS.len());
        let (item, price, _) = ITEMS[at];
        ordered[at] += 1;
        let copies = if random.random_range(0..100) < COPIES_PERCENT { 2 } else { 1 };
        let account = customer(random.random_range(1..=CUSTOMERS));
        orders::place(&mut of_orders, number, &account, item, price, copies).await?;
    }
    for ((item, _, percent), ordered) in ITEMS.into_iter().zip(ordered) {
        stock::fill(&mut of_stock, item, i64::from(ordered * percent / 100)).await?;
    }
    Ok(())
}

pub fn customer(number: u32) -> String {
    format!("customer-{number}")
}

impl Shop {
    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
        command
            .env("PAYONCE_DATABASE_URL", &self.place.database_url)
            .env("PAYONCE_PREFIX", &self.place.prefix)
            .env("PAYONCE_KEYS_FILE", &self.place.keys_file)
            .env("PAYONCE_SIGNATURES", "required")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs the program of `name` with other arguments, to its end.
    async fn once(&self, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let (program, _) = self.programs.get(name).context("no such program")?;
        let output = self
            .command(program)
            .args(arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .output()
            .await?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("{} {}: {}", program.display(), arguments.join(" "), String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.path().join(format!("{name}.log"))
    }

    fn start(&mut self, name: &'static str) -> anyhow::Result<()> {
        let (program, arguments) = self.programs.get(name).context("no such program")?;
        let log = File::options().create(true).append(true).open(self.log(name))?;
        let child = self.command(program).args(arguments).stderr(log).spawn()?;
        self.running.insert(name, child);
        Ok(())
    }

    /// kill -9, and another one at once.
    async fn kill(&mut self, name: &'static str) -> anyhow::Result<()> {
        self.check()?;
        if let Some(mut child) = self.running.remove(name) {
            child.kill().await?;
        }
        self.start(name)
    }

    /// Fails where a process has ended by itself.
    fn check(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let log =
                    std::fs::read_to_string(self.logs.path().join(format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
                bail!("{name} ended by itself: {status}\n{}", last.join("\n"));
            }
        }
        Ok(())
    }

    /// Until the shop has come so far: mostly until every order has an end, every service has taken every row, and nobody has anything left to say.
    async fn wait_until(&mut self, is_there: impl Fn(&Progress) -> bool) -> anyhow::Result<()> {
        let mut database = PgConnection::connect(&self.place.database_url).await?;
        let (mut before, mut progressed) = (None, Instant::now());
        loop {
            self.check()?;
            let now = ends::progress(&mut database).await?;
            if is_there(&now) {
                return Ok(());
            }
            if before.as_ref() != Some(&now) {
                (before, progressed) = (Some(now.clone()), Instant::now());
            }
            ensure!(progressed.elapsed() < PROGRESS_DEADLINE, "stuck for {PROGRESS_DEADLINE:?}: {now:?}");
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
}
