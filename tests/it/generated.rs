//! Generated streams through the real store, compared with the naive model after every transaction: one writer in batches of any sizes,
//! whatever Redis believes; and several, in interleavings that are drawn, down to single steps. Every run prints its seed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

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
    streams::{Accounts, OPENED, cut, cuts, stream},
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
        [Redis::Down, Redis::Empty, Redis::Knows][self.below(3)]
    }
}

fn streams() -> usize {
    std::env::var("PAYONCE_STREAMS").ok().map_or(STREAMS, |count| count.parse().unwrap())
}

/// What Redis believes about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redis {
    /// It is down: every callback is looked for in the ledger.
    Down,
    /// It was emptied: it takes every callback for new.
    Empty,
    /// It has the done marker of every callback in the ledger, and takes the others for new.
    Knows,
}

/// A batch of which nothing has been read yet, or what a conflict has left of one.
#[derive(Debug, Clone)]
struct Todo {
    callbacks: Vec<Callback>,
    /// Whether Redis takes it for new.
    is_new: Vec<bool>,
    /// What done markers say to be copies.
    copies: Vec<(Callback, Layer)>,
}

impl Todo {
    /// As `worker::process` asks Redis.
    fn ask(batch: Vec<Callback>, redis: Redis, markers: &HashMap<Key, Fingerprint>) -> Self {
        let mut todo = Self { callbacks: Vec::new(), is_new: Vec::new(), copies: Vec::new() };
        let mut hit: HashSet<Key> = HashSet::new();
        for callback in batch {
            let marker = markers.get(&callback.key).filter(|_| redis == Redis::Knows);
            if marker == Some(&callback.fingerprint) {
                let layer = if hit.insert(callback.key.clone()) { Layer::Redis } else { Layer::Batch };
                todo.copies.push((callback, layer));
            } else {
                let is_new = match redis {
                    Redis::Down => false,
                    Redis::Empty => true,
                    Redis::Knows => marker.is_none(),
                };
                todo.is_new.push(is_new);
                todo.callbacks.push(callback);
            }
        }
        todo
    }

    fn in_doubt(callbacks: Vec<Callback>) -> Self {
        let is_new = vec![false; callbacks.len()];
        Self { callbacks, is_new, copies: Vec::new() }
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
        let rules = Rules::default();
        let decide = |snapshot: &Snapshot, callbacks: &[Callback]| decide(snapshot, callbacks, &rules);
        let plan = engine::plan(&mut self.connection, &todo.callbacks, &todo.is_new, decide, |_| {}).await;
        self.decided = Some(Decided { todo, plan: plan.expect("the snapshot is read"), is_sweep: false });
    }

    /// Loads and decides all that waits, as the sweep does.
    async fn decide_waiting(&mut self) {
        let plan = self.connection.run(async |connection| {
            let ids: Vec<i64> =
                sqlx::query_scalar("select id from quarantine where state = 'waiting' order by id")
                    .fetch_all(&mut *connection)
                    .await?;
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
        let Todo { callbacks, is_new, copies } = todo;
        let bodies: Vec<&[u8]> = callbacks.iter().map(|_| &b"{}"[..]).collect();
        let remembered = copies.iter().map(|(callback, layer)| Remembered {
            key: callback.key.clone(),
            fingerprint: callback.fingerprint,
            layer: *layer,
        });
        let remembered: Vec<Remembered> = remembered.collect();
        let batch = Batch {
            writer: &self.name,
            plan,
            callbacks: &callbacks,
            bodies: &bodies,
            mask_cards: true,
            undecodable: &[],
            resolver: Resolver::WORKER,
            remembered: &remembered,
            proven: &[],
            locking: Locking::Wait,
        };
        let applied = self.connection.run(async |connection| store::apply(connection, batch).await).await;
        let copies = copies.into_iter().map(|(callback, _)| callback);
        match applied {
            Ok(applied) => {
                let mut settled: Vec<Callback> = copies.collect();
                let mut rest = Todo::in_doubt(Vec::new());
                let fates = applied.lost_callbacks.into_iter().zip(is_new);
                for (callback, (is_lost, is_new)) in callbacks.into_iter().zip(fates) {
                    if is_lost {
                        rest.callbacks.push(callback);
                        rest.is_new.push(is_new);
                    } else {
                        settled.push(callback);
                    }
                }
                if !rest.callbacks.is_empty() {
                    self.queue.push_front(rest);
                }
                Ok(settled)
            }
            Err(StoreError::Conflict(why)) => {
                if !is_sweep {
                    self.queue.push_front(Todo::in_doubt(callbacks.into_iter().chain(copies).collect()));
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
    let mut refused = 0;
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
        for (at, batch) in cut(&drafts, &sizes).enumerate() {
            let callbacks = build(batch);
            let context = format!("batch {at} of stream {number}, cut by {sizes:?}: {batch:#?}");
            let snapshot = store::load(&mut stage.reader, &callbacks).await.unwrap();
            let places = stage.places().await;
            let (found, expected) = (lines(&snapshot, Some(&places)), lines(&book.load(&callbacks), None));
            assert_alike("the look-ups", &found, &expected, &context);
            let redis = dice.redis();
            writer.queue.push_back(Todo::ask(callbacks.clone(), redis, &stage.markers().await));
            while writer.has_work() {
                writer.decide().await;
                if let Err(why) = writer.write().await {
                    // An event that is new can be the second one of a fact that is not.
                    let may_be = match redis {
                        Redis::Down => false,
                        Redis::Empty => true,
                        Redis::Knows => why.contains("\"ledger_operation\""),
                    };
                    assert!(may_be, "with Redis {redis:?}: {why}; {context}");
                    refused += 1;
                }
            }
            book.take(&callbacks);
            model.take_all(batch);
            let difference = stage.view().await.difference(&model.view());
            assert_eq!(difference, "", "with Redis {redis:?}, {context}");
        }
        drop(writer);
        stage.close().await;
    }
    assert!(refused > 0, "an emptied Redis never led to a copy that only the ledger's keys refuse");
    template.close().await;
}

/// Several lanes of workers at their batches of one stream, and the sweep.
struct Pool {
    lanes: Vec<Writer>,
    /// What each lane has not begun.
    batches: Vec<VecDeque<Vec<Callback>>>,
    sweeper: Writer,
}

impl Pool {
    /// Deals the batches out to `lanes` lanes.
    fn new(database: &Arc<Database>, lanes: usize, batches: Vec<Vec<Callback>>) -> Self {
        let mut dealt = vec![VecDeque::new(); lanes];
        for (at, batch) in batches.into_iter().enumerate() {
            dealt[at % lanes].push_back(batch);
        }
        Self {
            lanes: (0..lanes).map(|at| Writer::new(database, format!("generated/{at}"))).collect(),
            batches: dealt,
            sweeper: Writer::new(database, "generated/sweep".to_owned()),
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
                self.sweeper.decide_waiting().await;
                Vec::new()
            }
            0 => self.sweeper.write().await.unwrap_or_default(),
            // Two transactions at one time, each with locks on the rows that it has changed.
            1 | 2 if decided.len() > 1 => {
                let (left, right) = self.lanes.split_at_mut(decided[1]);
                let (one, other) = tokio::join!(left[decided[0]].write(), right[0].write());
                one.into_iter().chain(other).flatten().collect()
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
                    lane.queue.push_back(Todo::ask(batch, dice.redis(), &stage.markers().await));
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

/// Two or three lanes and a sweep: where a batch is decided on what another has changed since, what that changed is decided again, on
/// what a third may have changed by then.
#[tokio::test]
async fn lanes_that_race_leave_what_their_commits_one_after_the_other_leave() {
    let mut dice = Dice::new();
    let template = World::new().await;
    for number in 0..streams() {
        let drafts = dice.draw(&stream(LENGTH, Accounts::Apart));
        let sizes = dice.draw(&cuts());
        let mut stage = Stage::new(&template, number).await;
        let batches = cut(&drafts, &sizes).map(build).collect();
        let mut pool = Pool::new(&stage.database, 2 + dice.below(2), batches);
        let mut model = Model::default();
        pool.lanes[0].queue.push_back(Todo::in_doubt(build(&opening())));
        pool.lanes[0].decide().await;
        let mut settled: Vec<Draft> = pool.lanes[0].write().await.unwrap().iter().map(Draft::of).collect();
        model.take_all(&settled);
        while let Some(callbacks) = pool.step(&mut dice, &mut stage).await {
            let now: Vec<Draft> = callbacks.iter().map(Draft::of).collect();
            model.take_all(&now);
            settled.extend(now);
            let difference = stage.view().await.difference(&model.view());
            assert_eq!(difference, "", "stream {number}, settled in this order: {settled:#?}");
        }
        assert_eq!(settled.len(), opening().len() + drafts.len(), "every delivery is settled once");
        drop(pool);
        stage.world.audit().await;
        stage.close().await;
    }
    template.close().await;
}

/// The same where keys, operations and payments belong to several accounts, and some callbacks name none: which of two racers is applied
/// is chance there, and what holds whoever it is stays.
#[tokio::test]
async fn lanes_that_race_about_several_accounts_apply_each_fact_once_and_lose_none() {
    let mut dice = Dice::new();
    let template = World::new().await;
    for number in 0..streams() {
        let drafts = [opening(), dice.draw(&stream(LENGTH, Accounts::Mixed))].concat();
        let sizes = dice.draw(&cuts());
        let mut stage = Stage::new(&template, number).await;
        let batches = cut(&drafts, &sizes).map(build).collect();
        let mut pool = Pool::new(&stage.database, 2 + dice.below(2), batches);
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
