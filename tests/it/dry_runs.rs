//! Dry runs on real servers: they say what then happens, hold up nobody, and write nothing.

use std::{collections::BTreeSet, io::Write, process::Stdio, time::Duration};

use payonce::{
    ledger::{Account, AccountId, Callback, CaseEnd, Entry, Outcome, Plan, Rules, decide},
    operators::dry_run::{DryRun, End, Fate, Of},
    store::{self, Batch, Database, Locking, PgConnection, Resolver},
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;

use crate::{
    draft::{Draft, build},
    streams::{Accounts, OPENED, cut, cuts, stream},
    support::{Event, World},
};

/// Streams that the property draws; more with `PAYONCE_DRY_RUN_STREAMS`.
const STREAMS: u32 = 40;
const LENGTH: usize = 60;

/// What a callback became, as far as dry run and real run can be compared: ids of cases that are not stored are made up.
#[derive(Debug, PartialEq)]
enum Became {
    Applied(Box<Entry>),
    Case(String, String),
    Other(String),
}

type Seen = (Became, Option<(i64, i64)>);

fn of_fate(fate: &Fate) -> Seen {
    let became = match &fate.end {
        End::Applied(entry) => Became::Applied(entry.clone()),
        End::Duplicate(layer) => Became::Other(layer.as_str().to_owned()),
        End::Known(why) => Became::Other(why.clone()),
        End::Case { reason, detail, .. } => Became::Case(reason.as_str().to_owned(), detail.clone()),
    };
    (became, fate.account.map(|account| (account.balance, account.held)))
}

/// What the real plan says of each callback, then of each stored case that it ends or changes.
fn of_plan(
    plan: &Plan,
    callbacks: &[Callback],
    account: impl Fn(&AccountId) -> Option<Account>,
) -> Vec<Seen> {
    let applied = |callback: &Callback| {
        let entry = plan.entries.iter().find(|entry| entry.callback.key == callback.key);
        Became::Applied(Box::new(entry.expect("what is applied has a row").clone()))
    };
    let after = |id: Option<&AccountId>| id.and_then(&account).map(|account| (account.balance, account.held));
    let mut seen = Vec::new();
    for (at, (callback, outcome)) in callbacks.iter().zip(&plan.outcomes).enumerate() {
        let case = plan.new_cases.iter().find(|case| case.index == at);
        let became = match outcome {
            Outcome::Applied => applied(callback),
            Outcome::Duplicate(layer) => Became::Other(layer.as_str().to_owned()),
            Outcome::Quarantined(reason) | Outcome::Waiting(reason) => {
                Became::Case(reason.as_str().to_owned(), case.expect("a new case").detail.clone())
            }
        };
        seen.push((became, after(plan.subjects[at].as_ref())));
    }
    let new: Vec<&Callback> = callbacks.iter().collect();
    let mut released =
        plan.entries.iter().filter(|entry| !new.iter().any(|one| one.key == entry.callback.key));
    for case in &plan.resolved_cases {
        let became = match &case.end {
            // In which order the released ones stand among the rows does not matter here: they are compared as a set.
            CaseEnd::Applied => released.next().map_or_else(
                || Became::Other("applied by a further delivery".to_owned()),
                |entry| Became::Applied(Box::new(entry.clone())),
            ),
            CaseEnd::Duplicate(why) => Became::Other(why.clone()),
            CaseEnd::Open(reason, detail) => Became::Case(reason.as_str().to_owned(), detail.clone()),
        };
        seen.push((became, after(case.account_id.as_ref())));
    }
    seen
}

async fn take(connection: &mut PgConnection, callbacks: &[Callback]) -> Vec<Seen> {
    let snapshot = store::load(connection, callbacks).await.expect("the snapshot is read");
    let plan = decide(&snapshot, callbacks, &Rules::default());
    let bodies: Vec<&[u8]> = callbacks.iter().map(|_| &b"{}"[..]).collect();
    let batch = Batch {
        writer: "dry/0",
        plan: plan.clone(),
        callbacks,
        bodies: &bodies,
        mask_cards: true,
        references: &[],
        undecodable: &[],
        resolver: Resolver::WORKER,
        remembered: &[],
        proven: &[],
        locking: Locking::Wait,
    };
    let applied = store::apply(connection, batch).await.expect("it is written beside the dry run");
    assert!(applied.lost.is_empty(), "nobody else writes");
    let changed = |id: &AccountId| plan.accounts.iter().find(|change| change.account_id == *id);
    of_plan(&plan, callbacks, |id| {
        changed(id).map(|change| change.after).or_else(|| snapshot.accounts.get(id).copied())
    })
}

/// Every stream has accounts and a source of its own, so that one database serves many.
fn of_its_own(mut draft: Draft, number: u32) -> Draft {
    let account = |id: &mut Option<String>| {
        if let Some(id) = id {
            *id = format!("{number}-{id}");
        }
    };
    account(&mut draft.content.account);
    account(&mut draft.content.to);
    draft.source = format!("{}-{number}", draft.source);
    draft
}

/// Compared as sets where several cases are released at once: the order of what is said of them is that of their ids.
fn sorted(mut seen: Vec<Seen>, callbacks: usize) -> Vec<String> {
    let released = seen.split_off(callbacks.min(seen.len()));
    let mut released: Vec<String> = released.iter().map(|(became, _)| format!("{became:?}")).collect();
    released.retain(|text| !text.contains("applied by a further delivery"));
    released.sort();
    seen.iter().map(|one| format!("{one:?}")).chain(released).collect()
}

#[tokio::test]
async fn a_dry_run_says_of_every_callback_what_then_becomes_of_it() {
    let seed: u64 =
        std::env::var("PAYONCE_DRY_RUN_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    let streams =
        std::env::var("PAYONCE_DRY_RUN_STREAMS").ok().map_or(STREAMS, |count| count.parse().unwrap());
    println!("PAYONCE_DRY_RUN_SEED={seed}");
    let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let world = World::new().await;
    let database = Database::new(&world.database_url, "payonce-it", Duration::from_secs(30)).unwrap();
    let mut writer = database.connect().await.unwrap();
    let mut compared = 0;
    for number in 0..streams {
        let strategy = (stream(LENGTH, Accounts::Mixed), 0..LENGTH, cuts());
        let (drafts, stored, sizes) = strategy.new_tree(&mut runner).unwrap().current();
        let drafts: Vec<Draft> = drafts.into_iter().map(|draft| of_its_own(draft, number)).collect();
        for (account, balance) in OPENED {
            sqlx::query("insert into accounts (account_id, currency, balance, held, version) values ($1, 'CNY', $2, 0, 0)")
                .bind(format!("{number}-{account}"))
                .bind(balance)
                .execute(&mut writer)
                .await
                .unwrap();
        }
        let callbacks = build(&drafts);
        let (before, after) = callbacks.split_at(stored.min(callbacks.len()));
        for batch in cut(before, &sizes) {
            take(&mut writer, batch).await;
        }
        // It goes on beside the real run: neither waits for the other, and what is written meanwhile it does not see.
        let mut run = DryRun::begin(&database, Rules::default()).await.unwrap();
        for batch in cut(after, &sizes) {
            let fates = run.decide(batch).await.unwrap();
            let said: Vec<Seen> = fates.iter().map(of_fate).collect();
            let copies: Vec<&Fate> = fates.iter().filter(|fate| matches!(fate.of, Of::Case(_))).collect();
            let is_new = |fate: &&Fate| match &fate.end {
                End::Applied(entry) => !batch.iter().any(|callback| callback.key == entry.callback.key),
                End::Duplicate(_) | End::Known(_) | End::Case { .. } => true,
            };
            let released: Vec<Seen> = copies.into_iter().filter(is_new).map(of_fate).collect();
            let said: Vec<Seen> = said.into_iter().take(batch.len()).chain(released).collect();
            let became = take(&mut writer, batch).await;
            assert_eq!(
                sorted(said, batch.len()),
                sorted(became, batch.len()),
                "stream {number}, seed {seed}, {drafts:?}"
            );
            compared += batch.len();
        }
    }
    println!("{compared} callbacks compared");
    world.close().await;
}

/// All that any table of the world holds, but what sessions say of themselves.
async fn everything(world: &World) -> String {
    let mut connection = world.connect().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables
         where schemaname not in ('pg_catalog', 'information_schema') order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let sql = format!("select coalesce(string_agg(t::text, ';' order by t::text), '') from {table} t");
        let rows: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        all.push_str(&format!("{table}: {rows}\n"));
    }
    let sequences: String = sqlx::query_scalar(
        "select coalesce(string_agg(sequencename || ' ' || coalesce(last_value, 0), ',' order by sequencename), '') from pg_sequences",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    all + &sequences
}

/// Those that are there; some end by themselves.
async fn redis_keys(world: &World) -> BTreeSet<String> {
    let keys: Vec<String> = redis::cmd("keys")
        .arg(format!("{}*", world.prefix))
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
    keys.into_iter().collect()
}

async fn json_of(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = world.program(arguments);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn line(report: &Value, id: &str) -> Value {
    let callbacks = report["callbacks"].as_array().expect("callbacks");
    let mut found = callbacks.iter().filter(|one| one["id"] == id);
    found.next().unwrap_or_else(|| panic!("no {id} in {report}")).clone()
}

#[tokio::test]
async fn publish_dry_run_tells_outcomes_balances_and_money_and_writes_nothing() {
    let world = World::new().await;
    let worker = world.worker().await;
    world
        .publish(&[
            Event::deposit("d1", "a", 100),
            Event::payment("payment.captured", "c0", "a", "p0", 30),
            Event::deposit("u", "b", 5),
        ])
        .await;
    world.settled(3).await;
    worker.stop().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for event in [
        Event::deposit("d1", "a", 100),
        Event::deposit("d2", "a", 50),
        // It lets the stored capture be applied, and the one below.
        Event::payment("payment.authorized", "a0", "a", "p0", 40),
        Event::payment("payment.captured", "c1", "a", "p1", 10),
        Event::payment("payment.succeeded", "s1", "a", "p2", 4_000),
        Event::deposit("d2", "a", 51),
        Event::payment("payment.authorized", "a1", "a", "p1", 10),
        Event::new("transfer.succeeded", "t1", "a", None, 7).operation("t1").with("to", "b"),
        Event::payment("refund.succeeded", "r1", "a", "p9", 1),
    ] {
        file.write_all(&[event.body(), b"\n".to_vec()].concat()).unwrap();
    }
    file.write_all(b"no callback\n").unwrap();
    let (before, keys) = (everything(&world).await, redis_keys(&world).await);

    let path = file.path().to_str().unwrap();
    let (code, report) = json_of(&world, &["publish", "--dry-run", "--json", path]).await;
    assert_eq!(code, Some(1), "a line is refused, as by the real command");
    assert_eq!(everything(&world).await, before);
    assert!(redis_keys(&world).await.is_subset(&keys), "no key is new");
    assert_eq!(world.ready_messages(&world.names().queue).await, 0);

    assert_eq!(report["callbacks"].as_array().unwrap().len(), 11, "{report}");
    let outcome = |id: &str| {
        let line = line(&report, id);
        let name = |member: &str| line[member].as_str().unwrap_or_default().to_owned();
        (
            name("outcome"),
            name("layer") + &name("reason"),
            line["balance_after"].as_i64(),
            line["held_after"].as_i64(),
        )
    };
    let applied = |balance, held| ("applied".to_owned(), String::new(), Some(balance), Some(held));
    assert_eq!(outcome("a0"), applied(150, 40));
    assert_eq!(outcome("c0"), applied(120, 10), "a stored case that this releases");
    assert_eq!(line(&report, "c0")["case"], 1);
    assert_eq!(outcome("t1"), applied(103, 10));
    assert_eq!(line(&report, "t1")["to"]["balance_after"], 12);
    assert_eq!(outcome("d1").1, "ledger");
    assert_eq!(outcome("s1"), ("case".to_owned(), "insufficient_funds".to_owned(), Some(103), Some(10)));
    assert_eq!((outcome("r1").0.as_str(), outcome("r1").1.as_str()), ("waiting", "waiting_for_payment"));
    assert_eq!((&report["applied"], &report["refused"]), (&6.into(), &1.into()), "{report}");
    assert_eq!(report["cases"], serde_json::json!({"insufficient_funds": 1, "payload_mismatch": 1}));
    let money = serde_json::json!({"EUR": {"credited": 57, "debited": 47, "held": 10}});
    assert_eq!(report["money"], money);

    // What was said is what then happens.
    let worker = world.worker().await;
    let (_, published) = json_of(&world, &["publish", "--wait", "--json", path]).await;
    worker.stop().await;
    assert_eq!(published["settled"]["applied"], 5, "{published}");
    assert_eq!(world.account("a").await, Some((103, 10, 7)));
    assert_eq!(world.account("b").await, Some((12, 0, 2)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn replay_dry_run_tells_what_a_replay_would_do_and_changes_nothing() {
    let world = World::new().await;
    let worker = world.worker().await;
    world
        .publish(&[
            Event::deposit("d1", "a", 10),
            Event::payment("payment.succeeded", "s1", "a", "p1", 40),
            Event::payment("payment.succeeded", "s2", "a", "p2", 30),
        ])
        .await;
    world.settled(3).await;
    // Money for one of them, behind the ledger: nothing releases them by itself.
    world.publish(&[Event::deposit("d2", "a", 35)]).await;
    world.settled(4).await;
    worker.stop().await;
    let before = everything(&world).await;
    let (code, report) = json_of(&world, &["quarantine", "replay", "--all", "--dry-run", "--json"]).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(everything(&world).await, before);
    assert_eq!(line(&report, "s1")["outcome"], "applied");
    assert_eq!(line(&report, "s1")["balance_after"], 5);
    assert_eq!(line(&report, "s2")["reason"], "insufficient_funds");
    assert_eq!(report["money"]["EUR"]["debited"], 40);
    let (code, _) = json_of(&world, &["quarantine", "replay", "77", "--dry-run", "--json"]).await;
    assert_eq!(code, Some(1), "there is no such case");
    let (_, real) = json_of(&world, &["quarantine", "replay", "--all", "--json"]).await;
    assert_eq!((&real["applied"], &real["refused"]), (&1.into(), &1.into()), "{real}");
    assert_eq!(world.account("a").await, Some((5, 0, 3)));
    world.close().await;
}
