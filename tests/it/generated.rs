//! Generated streams through the real store, compared with the naive model after every transaction: one writer in batches of any sizes,
//! whatever Redis believes, has forgotten or was told; and several, in interleavings that are drawn, down to single steps. Every run prints
//! its seed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use payonce::{
    ledger::{
        Callback, CaseId, Direction, EventId, Expires, Fingerprint, Key, Kind, Known, Layer, Plan, Reason,
        Rules, Snapshot, Source, decide, decide_cases,
    },
    store::{
        self, Batch, Database, Locking, PgConnection, Remembered, Resolver, StoreError, engine, quarantine,
    },
};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;

use crate::{
    book::Book,
    draft::{Content, Draft, build},
    model::{Account, Model, PaymentRow, View, is_same_fact},
    streams::{Accounts, OPENED, cut, cuts, last_money, stream},
    support::World,
};

/// Streams that each test draws, each for a database of its own; more with `PAYONCE_STREAMS`.
const STREAMS: usize = 12;
const LENGTH: usize = 60;

/// Draws from one seed, which `PAYONCE_STREAMS_SEED` sets.
struct Dice(TestRunner);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("PAYONCE_STREAMS_SEED").ok();
        let seed: u64 = seed.map_or_else(rand::random, |seed| seed.parse().unwrap());
        println!("PAYONCE_STREAMS_SEED={seed}");
        let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self(TestRunner::new_with_rng(Config::default(), random))
    }

    fn draw<T: Strategy>(&mut self, strategy: &T) -> T::Value {
        strategy.new_tree(&mut self.0).unwrap().current()
    }

    fn below(&mut self, end: usize) -> usize {
        self.draw(&(0..end))
    }

    fn redis(&mut self) -> Redis {
        Redis::ALL[self.below(Redis::ALL.len())]
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn streams() -> usize {
    std::env::var("PAYONCE_STREAMS").ok().map_or(STREAMS, |count| count.parse().unwrap())
}

/// What Redis believes about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Redis {
    /// It is down: every callback is looked for in the ledger.
    Down,
    /// It was emptied: it takes every callback for new.
    Empty,
    /// It has the done marker of every callback in the ledger, and takes the others for new.
    Knows,
    /// Markers and leases run out: of every other callback in the ledger it has the marker; of some of the rest somebody's claim is left.
    Forgets,
    /// It came back with an old copy, and has the markers of some batch before.
    Old,
    /// Somebody has written a done marker for every callback, also for those that are nowhere.
    Lies,
}

impl Redis {
    const ALL: [Self; 6] = [Self::Down, Self::Empty, Self::Knows, Self::Forgets, Self::Old, Self::Lies];
}

/// What Redis has under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Claim,
    Done(Fingerprint),
}

/// What Redis has had, batch after batch.
#[derive(Debug, Default)]
struct Memory(Vec<HashMap<Key, Mark>>);

impl Memory {
    /// What it has when it is asked about this batch. `in_ledger`: the true markers.
    fn marks(
        &mut self,
        dice: &mut Dice,
        redis: Redis,
        in_ledger: HashMap<Key, Fingerprint>,
        batch: &[Callback],
    ) -> HashMap<Key, Mark> {
        let done = |(key, fingerprint)| (key, Mark::Done(fingerprint));
        let now: HashMap<Key, Mark> = in_ledger.into_iter().map(done).collect();
        self.0.push(now.clone());
        match redis {
            Redis::Down | Redis::Empty => HashMap::new(),
            Redis::Knows => now,
            Redis::Forgets => {
                let mut marks: HashMap<Key, Mark> = HashMap::new();
                for callback in batch {
                    let left = now.get(&callback.key).copied().filter(|_| dice.yes());
                    let left = left.or_else(|| dice.yes().then_some(Mark::Claim));
                    marks.extend(left.map(|mark| (callback.key.clone(), mark)));
                }
                marks
            }
            Redis::Old => self.0[dice.below(self.0.len())].clone(),
            Redis::Lies => {
                let forged =
                    batch.iter().map(|callback| (callback.key.clone(), Mark::Done(callback.fingerprint)));
                now.into_iter().chain(forged).collect()
            }
        }
    }
}

/// A batch of which nothing has been read yet, or what a conflict has left of one.
#[derive(Debug, Clone)]
struct Todo {
    /// All of it, in its order.
    batch: Vec<Callback>,
    /// What done markers say to be copies, by place.
    copies: BTreeMap<usize, Layer>,
    /// Of the others, whether Redis takes them for new.
    is_new: Vec<bool>,
}

impl Todo {
    /// As `worker::process` asks Redis.
    fn ask(batch: Vec<Callback>, redis: Redis, marks: &HashMap<Key, Mark>) -> Self {
        let mut todo = Self { batch, copies: BTreeMap::new(), is_new: Vec::new() };
        let mut hit: HashSet<&Key> = HashSet::new();
        for (at, callback) in todo.batch.iter().enumerate() {
            match marks.get(&callback.key) {
                Some(Mark::Done(fingerprint)) if *fingerprint == callback.fingerprint => {
                    let layer = if hit.insert(&callback.key) { Layer::Redis } else { Layer::Batch };
                    todo.copies.insert(at, layer);
                }
                Some(Mark::Done(_) | Mark::Claim) => todo.is_new.push(false),
                None => todo.is_new.push(redis != Redis::Down),
            }
        }
        todo
    }

    /// What is to be decided.
    fn callbacks(&self) -> Vec<Callback> {
        let places = self.batch.iter().enumerate();
        places.filter(|(at, _)| !self.copies.contains_key(at)).map(|(_, callback)| callback.clone()).collect()
    }

    fn in_doubt(batch: Vec<Callback>) -> Self {
        let is_new = vec![false; batch.len()];
        Self { batch, copies: BTreeMap::new(), is_new }
    }
}

/// Loaded and decided, not written yet.
struct Decided {
    todo: Todo,
    plan: Plan,
    /// A look at stored cases, of which nothing is left after a conflict: the next one looks again.
    is_sweep: bool,
}

/// A worker's lane, as far as it has to do with the database.
struct Writer {
    name: String,
    connection: store::Connection,
    queue: VecDeque<Todo>,
    decided: Option<Decided>,
}

impl Writer {
    fn new(database: &Arc<Database>, name: String) -> Self {
        let connection = store::Connection::new(Arc::clone(database));
        Self { name, connection, queue: VecDeque::new(), decided: None }
    }

    fn has_work(&self) -> bool {
        self.decided.is_some() || !self.queue.is_empty()
    }

    /// Loads and decides what is next.
    async fn decide(&mut self) {
        let todo = self.queue.pop_front().expect("a batch");
        let (rules, callbacks) = (Rules::default(), todo.callbacks());
        let decide = |snapshot: &Snapshot, callbacks: &[Callback]| decide(snapshot, callbacks, &rules);
        let plan = engine::plan(&mut self.connection, &callbacks, &todo.is_new, decide, |_| {}).await;
        self.decided = Some(Decided { todo, plan: plan.expect("the snapshot is read"), is_sweep: false });
    }

    /// Loads and decides all that waits, as the sweep does.
    async fn decide_waiting(&mut self) {
        self.decide_cases("select id from quarantine where state = 'waiting' order by id").await;
    }

    /// Loads and decides all that waits or is open, as an operator's replay does.
    async fn decide_unended(&mut self) {
        self.decide_cases("select id from quarantine where state in ('waiting', 'open') order by id").await;
    }

    async fn decide_cases(&mut self, which: &'static str) {
        let plan = self.connection.run(async |connection| {
            let ids: Vec<i64> = sqlx::query_scalar(which).fetch_all(&mut *connection).await?;
            let ids: Vec<CaseId> = ids.into_iter().map(CaseId).collect();
            let (cases, snapshot) = quarantine::load_cases(connection, &ids).await?;
            Ok(decide_cases(&snapshot, &cases, &Rules::default(), Expires::Nothing))
        });
        let plan = plan.await.expect("the cases are read");
        self.decided = Some(Decided { todo: Todo::in_doubt(Vec::new()), plan, is_sweep: true });
    }

    /// Writes what is decided, and returns what it settled. What a concurrent writer has changed since is decided again; after a conflict
    /// all of it is, and Redis is believed no more. As `worker::process` does.
    async fn write(&mut self) -> Result<Vec<Callback>, String> {
        let Decided { todo, plan, is_sweep } = self.decided.take().expect("a plan");
        let callbacks = todo.callbacks();
        let bodies: Vec<&[u8]> = callbacks.iter().map(|_| &b"{}"[..]).collect();
        let remembered = todo.copies.iter().map(|(at, layer)| {
            let Callback { key, fingerprint, .. } = &todo.batch[*at];
            Remembered { key: key.clone(), fingerprint: *fingerprint, layer: *layer }
        });
        let remembered: Vec<Remembered> = remembered.collect();
        let batch = Batch {
            writer: &self.name,
            plan,
            callbacks: &callbacks,
            bodies: &bodies,
            mask_cards: true,
            references: &[],
            undecodable: &[],
            resolver: Resolver::WORKER,
            remembered: &remembered,
            proven: &[],
            locking: Locking::Wait,
        };
        let applied = self.connection.run(async |connection| store::apply(connection, batch).await).await;
        match applied {
            Ok(applied) => {
                let copies = todo.copies.keys().map(|at| todo.batch[*at].clone());
                let mut settled: Vec<Callback> = copies.collect();
                let mut rest = Todo::in_doubt(Vec::new());
                let fates = applied.lost_callbacks.into_iter().zip(todo.is_new);
                for (callback, (is_lost, is_new)) in callbacks.into_iter().zip(fates) {
                    if is_lost {
                        rest.batch.push(callback);
                        rest.is_new.push(is_new);
                    } else {
                        settled.push(callback);
                    }
                }
                if !rest.batch.is_empty() {
                    self.queue.push_front(rest);
                }
                Ok(settled)
            }
            Err(StoreError::Conflict(why)) => {
                if !is_sweep {
                    self.queue.push_front(Todo::in_doubt(todo.batch));
                }
                Err(why)
            }
            Err(
                cause @ (StoreError::Unavailable(_)
                | StoreError::Unfit(_)
                | StoreError::Blocked(_)
                | StoreError::Refused(_)),
            ) => panic!("{}: {cause}", self.name),
        }
    }
}

/// A database of its own for each stream, made from one that is empty.
struct Stage {
    world: World,
    database: Arc<Database>,
    reader: PgConnection,
}

impl Stage {
    async fn new(template: &World, number: usize) -> Self {
        let world = template.copy(&number.to_string()).await;
        let database = Database::new(&world.database_url, "payonce-it", Duration::from_secs(30)).unwrap();
        let reader = world.connect().await;
        Self { world, database: Arc::new(database), reader }
    }

    /// An account that has money already, from nowhere.
    async fn open(&mut self, account: &str, balance: i64) {
        sqlx::query(
            "insert into accounts (account_id, currency, balance, held, version) values ($1, 'CNY', $2, 0, 0)",
        )
        .bind(account)
        .bind(balance)
        .execute(&mut self.reader)
        .await
        .unwrap();
    }

    async fn rows(&mut self, sql: &'static str) -> Vec<PgRow> {
        sqlx::query(sql).fetch_all(&mut self.reader).await.unwrap()
    }

    /// All that the outside can see, read with nothing of the code that wrote it.
    async fn view(&mut self) -> View {
        let mut view = View::default();
        const CALLBACK: &str = "select source, event_id, type, account_id, payment_id, operation_id, amount, currency, occurred_at, \
            members::text as members from ledger where leg = 0";
        view.ledger.extend(self.rows(CALLBACK).await.iter().map(draft));
        for row in self.rows("select account_id, currency, balance, held, version from accounts").await {
            let account = Account {
                currency: row.get("currency"),
                balance: row.get::<i64, _>("balance").into(),
                held: row.get::<i64, _>("held").into(),
                version: row.get("version"),
            };
            view.accounts.insert(row.get("account_id"), account);
        }
        for row in self.rows("select * from payments").await {
            let states = ["authorized", "captured", "succeeded", "voided", "expired", "failed"];
            let state: &str = row.get("state");
            let payment = PaymentRow {
                account: row.get("account_id"),
                currency: row.get("currency"),
                state: states.into_iter().find(|known| *known == state).expect("a known state"),
                authorized: row.get::<i64, _>("authorized").into(),
                captured: row.get::<i64, _>("captured").into(),
                refunded: row.get::<i64, _>("refunded").into(),
                version: row.get("version"),
            };
            view.payments.insert((row.get("source"), row.get("payment_id")), payment);
        }
        const CASES: &str = "select source, event_id, type, account_id, payment_id, operation_id, amount, currency, occurred_at, \
            members::text as members, reason, attempts from quarantine where state in ('waiting', 'open')";
        for row in self.rows(CASES).await {
            let reason = Reason::parse(row.get("reason")).expect("a known reason");
            view.add_case(draft(&row), reason, row.get::<i32, _>("attempts").into());
        }
        const DUPLICATES: &str =
            "select (select coalesce(sum(n), 0)::bigint from tallies where kind = 'duplicate') as counted,
            (select coalesce(sum(copies), 0)::bigint from duplicates) as listed";
        let duplicates = &self.rows(DUPLICATES).await[0];
        assert_eq!(duplicates.get::<i64, _>("counted"), duplicates.get::<i64, _>("listed"), "copies");
        view.duplicates = usize::try_from(duplicates.get::<i64, _>("counted")).unwrap();
        view
    }

    /// The done markers of all that is in the ledger.
    async fn markers(&mut self) -> HashMap<Key, Fingerprint> {
        let rows = self.rows("select source, event_id, payload_sha256 from ledger where leg = 0").await;
        let marker = |row: &PgRow| {
            let source = Source::new(row.get("source")).unwrap();
            let event_id = EventId::new(row.get("event_id")).unwrap();
            let fingerprint: Vec<u8> = row.get("payload_sha256");
            (Key { source, event_id }, Fingerprint(fingerprint.try_into().unwrap()))
        };
        rows.iter().map(marker).collect()
    }

    /// The places of the cases among all, from 1: a transaction that is rolled back leaves a gap in their ids.
    async fn places(&mut self) -> BTreeMap<i64, i64> {
        let ids = self.rows("select id from quarantine order by id").await;
        ids.iter().map(|row| row.get("id")).zip(1..).collect()
    }

    async fn close(self) {
        self.world.drop_database().await;
    }
}

fn draft(row: &PgRow) -> Draft {
    let members: Value =
        row.get::<Option<&str>, _>("members").map_or(Value::Null, |json| serde_json::from_str(json).unwrap());
    let text = |member: &str| members[member].as_str().map(str::to_owned);
    let kind = Kind::parse(row.get("type")).expect("a known type");
    let names = if members.get("subject").is_some() { text("subject") } else { row.get("account_id") };
    let us = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap();
    Draft {
        source: row.get("source"),
        id: row.get("event_id"),
        content: Content {
            kind,
            account: names,
            payment: row.get("payment_id"),
            operation: row.get("operation_id"),
            amount: row.get("amount"),
            currency: row.get("currency"),
            is_final: members["final"].as_bool().unwrap_or(kind.is_final_by_default()),
            is_cumulative: members["cumulative"].as_bool().unwrap_or(false),
            expires_at_us: members["expires_at_us"].as_i64(),
            to: text("to"),
            direction: text("direction").map(|text| Direction::parse(&text).unwrap()),
            reverses: text("reverses").map(|text| Kind::parse(&text).unwrap()),
        },
        at_us: row.get::<Option<OffsetDateTime>, _>("occurred_at").map(us),
    }
}

/// What a snapshot says, a line each, with the places of cases for their ids.
fn lines(snapshot: &Snapshot, places: Option<&BTreeMap<i64, i64>>) -> BTreeSet<String> {
    let Snapshot {
        known,
        operations,
        accounts,
        unopened_cases,
        payments,
        deposits,
        movements,
        waiting,
        assigned,
    } = snapshot;
    let place = |id: i64| places.map_or(id, |places| places[&id]);
    let of = |known: &Known| match *known {
        Known::Ledger(_) => *known,
        Known::Case { id, fingerprint, reason, state } => {
            Known::Case { id: CaseId(place(id.0)), fingerprint, reason, state }
        }
    };
    let mut lines: BTreeSet<String> = BTreeSet::new();
    for (key, these) in known {
        lines.extend(these.iter().map(|known| format!("known {key} {:?}", of(known))));
    }
    lines.extend(operations.iter().map(|(key, known)| format!("operation {key:?} {:?}", of(known))));
    lines.extend(accounts.iter().map(|account| format!("account {account:?}")));
    lines.extend(unopened_cases.iter().map(|(id, newest)| format!("not open {id} {}", place(*newest))));
    lines.extend(payments.iter().map(|payment| format!("payment {payment:?}")));
    lines.extend(deposits.iter().map(|deposit| format!("deposit {deposit:?}")));
    lines.extend(movements.iter().map(|movement| format!("movement {movement:?}")));
    for (number, case) in waiting.iter().enumerate() {
        lines.insert(format!("waiting {number} {} {:?} {:?}", place(case.id.0), case.reason, case.callback));
    }
    lines.extend(assigned.iter().map(|case| format!("assigned {case:?}")));
    lines
}

fn assert_alike(what: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>, context: &str) {
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| -> String {
        these.difference(those).map(|line| format!("\n  {line}")).collect()
    };
    assert!(
        found == expected,
        "{what}: found{}\nexpected{}\n{context}",
        only(found, expected),
        only(expected, found)
    );
}

/// One batch after the other. What the real look-ups give is what the book of the pure tests gives, so that those are about the store
/// too; and what the tables show after each batch is what the model shows.
#[tokio::test]
async fn every_batch_of_a_generated_stream_leaves_what_the_contract_says() {
    let mut dice = Dice::new();
    let template = World::new().await;
    let mut refused: BTreeMap<Redis, usize> = BTreeMap::new();
    let mut layers: BTreeMap<String, i64> = BTreeMap::new();
    for number in 0..streams() {
        let drafts = dice.draw(&stream(LENGTH, Accounts::Mixed));
        let sizes = dice.draw(&cuts());
        let mut stage = Stage::new(&template, number).await;
        let (mut model, mut book) = (Model::default(), Book::default());
        for (account, balance) in OPENED {
            stage.open(account, balance).await;
            model.open(account, balance);
            book.open(account, balance);
        }
        let mut writer = Writer::new(&stage.database, "generated/0".to_owned());
        let mut memory = Memory::default();
        let mut taken: Vec<Draft> = Vec::new();
        for (at, batch) in cut(&drafts, &sizes).enumerate() {
            // Copies that come late, when what they copy is settled.
            let mut batch = batch.to_vec();
            for _ in 0..dice.below(6).min(taken.len()) {
                batch.insert(dice.below(batch.len() + 1), taken[dice.below(taken.len())].clone());
            }
            taken.extend(batch.iter().cloned());
            let callbacks = build(&batch);
            let context = format!("batch {at} of stream {number}, cut by {sizes:?}: {batch:#?}");
            let snapshot = store::load(&mut stage.reader, &callbacks).await.unwrap();
            let places = stage.places().await;
            let (found, expected) = (lines(&snapshot, Some(&places)), lines(&book.load(&callbacks), None));
            assert_alike("the look-ups", &found, &expected, &context);
            let redis = dice.redis();
            let marks = memory.marks(&mut dice, redis, stage.markers().await, &callbacks);
            writer.queue.push_back(Todo::ask(callbacks.clone(), redis, &marks));
            while writer.has_work() {
                writer.decide().await;
                if let Err(why) = writer.write().await {
                    // An event that is new can be the second one of a fact that is not.
                    let may_be = match redis {
                        Redis::Down => false,
                        Redis::Empty | Redis::Forgets | Redis::Old | Redis::Lies => true,
                        Redis::Knows => why.contains("\"ledger_operation\""),
                    };
                    assert!(may_be, "with Redis {redis:?}: {why}; {context}");
                    *refused.entry(redis).or_default() += 1;
                }
            }
            book.take(&callbacks);
            model.take_all(&batch);
            let difference = stage.view().await.difference(&model.view());
            assert_eq!(difference, "", "with Redis {redis:?}, {context}");
        }
        drop(writer);
        for row in stage
            .rows("select label, sum(n)::bigint as n from tallies where kind = 'duplicate' group by label")
            .await
        {
            *layers.entry(row.get("label")).or_default() += row.get::<i64, _>("n");
        }
        stage.close().await;
    }
    println!("refused by the ledger alone: {refused:?}; copies: {layers:?}");
    let of_what_is_gone =
        [Redis::Empty, Redis::Forgets, Redis::Old].iter().filter_map(|redis| refused.get(redis));
    assert!(of_what_is_gone.sum::<usize>() > 0, "no copy was ever refused by the ledger's keys alone");
    assert!(refused.contains_key(&Redis::Lies), "no forged marker was ever found out");
    for layer in [Layer::Redis, Layer::Ledger] {
        assert!(layers.contains_key(layer.as_str()), "no copy was rejected by {layer:?}: {layers:?}");
    }
    template.close().await;
}

/// Several lanes of workers at their batches of one stream, and the sweep.
struct Pool {
    lanes: Vec<Writer>,
    /// What each lane has not begun.
    batches: Vec<VecDeque<Vec<Callback>>>,
    /// Takes turns with an operator, who replays open cases too.
    sweeper: Writer,
    has_operator: bool,
    memory: Memory,
    /// The largest number of lanes that wrote at one moment.
    at_once_max: usize,
}

impl Pool {
    /// Deals the batches out to `lanes` lanes.
    fn new(database: &Arc<Database>, lanes: usize, batches: Vec<Vec<Callback>>, has_operator: bool) -> Self {
        let mut dealt = vec![VecDeque::new(); lanes];
        for (at, batch) in batches.into_iter().enumerate() {
            dealt[at % lanes].push_back(batch);
        }
        Self {
            lanes: (0..lanes).map(|at| Writer::new(database, format!("generated/{at}"))).collect(),
            batches: dealt,
            sweeper: Writer::new(database, "generated/sweep".to_owned()),
            has_operator,
            memory: Memory::default(),
            at_once_max: 0,
        }
    }

    /// One step of somebody; what it settled, in the order of the commits. `None`: all is done.
    async fn step(&mut self, dice: &mut Dice, stage: &mut Stage) -> Option<Vec<Callback>> {
        let lanes = 0..self.lanes.len();
        let busy = lanes.clone().filter(|at| self.lanes[*at].has_work() || !self.batches[*at].is_empty());
        let busy: Vec<usize> = busy.collect();
        let decided: Vec<usize> = lanes.filter(|at| self.lanes[*at].decided.is_some()).collect();
        if busy.is_empty() {
            return None;
        }
        Some(match dice.below(8) {
            0 if self.sweeper.decided.is_none() => {
                if self.has_operator && dice.yes() {
                    self.sweeper.decide_unended().await;
                } else {
                    self.sweeper.decide_waiting().await;
                }
                Vec::new()
            }
            0 => self.sweeper.write().await.unwrap_or_default(),
            // Transactions at one time, each with locks on the rows that it has changed.
            1 | 2 if decided.len() > 1 => {
                self.at_once_max = self.at_once_max.max(decided.len());
                let deciding = self.lanes.iter_mut().filter(|lane| lane.decided.is_some());
                join_all(deciding.map(Writer::write)).await.into_iter().flatten().flatten().collect()
            }
            _ => {
                let at = busy[dice.below(busy.len())];
                let lane = &mut self.lanes[at];
                if lane.decided.is_some() {
                    return Some(lane.write().await.unwrap_or_default());
                }
                if lane.queue.is_empty()
                    && let Some(batch) = self.batches[at].pop_front()
                {
                    let redis = dice.redis();
                    let marks = self.memory.marks(dice, redis, stage.markers().await, &batch);
                    lane.queue.push_back(Todo::ask(batch, redis, &marks));
                }
                lane.decide().await;
                Vec::new()
            }
        })
    }
}

fn opening() -> Vec<Draft> {
    let deposit =
        |id: &str, account: &str, amount| Draft::new(id, Kind::DepositSucceeded, amount).account(account);
    vec![deposit("open-0", "acct-0", 100), deposit("open-1", "acct-1", 400)]
}

/// Two or three lanes and a sweep at one stream, compared with the model after each commit: where a batch is decided on what another has
/// changed since, what that changed is decided again, on what a third may have changed by then. Returns how many lanes wrote at one moment,
/// at most, and whether money was ever wanted that was not there.
async fn race(
    dice: &mut Dice,
    template: &World,
    number: usize,
    drafts: Vec<Draft>,
    (lanes, sizes): (usize, Vec<usize>),
) -> (usize, bool) {
    let mut stage = Stage::new(template, number).await;
    let batches = cut(&drafts, &sizes).map(build).collect();
    let mut pool = Pool::new(&stage.database, lanes, batches, false);
    let mut model = Model::default();
    pool.lanes[0].queue.push_back(Todo::in_doubt(build(&opening())));
    pool.lanes[0].decide().await;
    let mut settled: Vec<Draft> = pool.lanes[0].write().await.unwrap().iter().map(Draft::of).collect();
    model.take_all(&settled);
    let mut was_short = false;
    while let Some(callbacks) = pool.step(dice, &mut stage).await {
        let now: Vec<Draft> = callbacks.iter().map(Draft::of).collect();
        model.take_all(&now);
        settled.extend(now);
        let view = stage.view().await;
        was_short |= view.cases.values().any(|(reason, _)| *reason == Reason::WaitingForFunds.as_str());
        let difference = view.difference(&model.view());
        assert_eq!(difference, "", "stream {number}, settled in this order: {settled:#?}");
    }
    assert_eq!(settled.len(), opening().len() + drafts.len(), "every delivery is settled once");
    let at_once_max = pool.at_once_max;
    drop(pool);
    stage.world.audit().await;
    stage.close().await;
    (at_once_max, was_short)
}

#[tokio::test]
async fn lanes_that_race_leave_what_their_commits_one_after_the_other_leave() {
    let mut dice = Dice::new();
    let template = World::new().await;
    for number in 0..streams() {
        let drafts = dice.draw(&stream(LENGTH, Accounts::Apart));
        let cut = (2 + dice.below(2), dice.draw(&cuts()));
        race(&mut dice, &template, number, drafts, cut).await;
    }
    template.close().await;
}

/// Three lanes that all want the last money of one account.
#[tokio::test]
async fn of_three_lanes_that_want_the_last_money_those_get_it_that_commit_first() {
    let mut dice = Dice::new();
    let template = World::new().await;
    let (mut at_once_max, mut short) = (0, 0);
    for number in 0..streams() {
        let drafts = dice.draw(&last_money(LENGTH));
        let cut = (3, dice.draw(&vec(1..=3_usize, 1..=4)));
        let (at_once, was_short) = race(&mut dice, &template, number, drafts, cut).await;
        at_once_max = at_once_max.max(at_once);
        short += usize::from(was_short);
    }
    assert_eq!(at_once_max, 3, "three lanes never wrote at one moment");
    assert!(short * 2 > streams(), "only {short} streams ran out of money");
    template.close().await;
}

/// The same where keys, operations and payments belong to several accounts, and some callbacks name none: which of two racers is applied
/// is chance there, and what holds whoever it is stays. Beside the sweep an operator replays what is open.
#[tokio::test]
async fn lanes_that_race_about_several_accounts_apply_each_fact_once_and_lose_none() {
    let mut dice = Dice::new();
    let template = World::new().await;
    for number in 0..streams() {
        let drafts = [opening(), dice.draw(&stream(LENGTH, Accounts::Mixed))].concat();
        let sizes = dice.draw(&cuts());
        let mut stage = Stage::new(&template, number).await;
        let batches = cut(&drafts, &sizes).map(build).collect();
        let mut pool = Pool::new(&stage.database, 2 + dice.below(2), batches, true);
        let mut settled = 0;
        while let Some(callbacks) = pool.step(&mut dice, &mut stage).await {
            settled += callbacks.len();
        }
        assert_eq!(settled, drafts.len(), "every delivery is settled once");
        // What was stored to wait while a copy of it was applied, by writers that knew of no account to meet at, ends with the next look.
        pool.sweeper.decide_waiting().await;
        pool.sweeper.write().await.unwrap();
        drop(pool);
        let context = format!("stream {number} of {} lanes: {drafts:#?}", sizes.len());
        let view = stage.view().await;
        for callback in &drafts {
            let places =
                usize::from(view.ledger.contains(callback)) + usize::from(view.cases.contains_key(callback));
            let twin = |other: &&Draft| other.id != callback.id && is_same_fact(other, callback);
            let has_twin = view.ledger.iter().chain(view.cases.keys()).any(|other| twin(&other));
            assert!(
                places == 1 || (places == 0 && has_twin),
                "{callback:?} is in {places} places; {context}"
            );
        }
        let counted = "select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'";
        assert_eq!(stage.world.number(counted).await, i64::try_from(drafts.len()).unwrap(), "{context}");
        stage.world.audit().await;
        stage.close().await;
    }
    template.close().await;
}
