//! Each user has the least that it needs: all of payonce works with it, and whatever it does not need is refused.

use std::process::Stdio;

use lapin::{
    BasicProperties, Connection, ExchangeKind,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::FieldTable,
};
use payonce::{
    broker,
    store::{self, Database, WORKER_RIGHTS},
};

use crate::{
    secrets::get,
    support::{Dashboard, Event, EventReader, Locked, Receiver, World, eventually, free_address},
};

/// What nobody but the owner may do.
const FORBIDDEN_TO_ALL: &[&str] = &[
    "create table t (i integer)",
    "create temporary table t (i integer)",
    "create schema s",
    "create function f() returns integer language sql as 'select 1'",
    "create role r",
    "alter role current_user superuser",
    "set role payonce_owner",
    "alter system set fsync = off",
    "set session_replication_role = replica",
    "alter table ledger disable trigger all",
    "alter table accounts drop constraint accounts_check",
    "drop trigger ledger_append_only on ledger",
    "drop table ledger",
    "truncate ledger",
    "truncate tallies",
    "update ledger set amount = 1 where false",
    "insert into ledger (source, recorded_at) values ('x', now())",
    "do $$ begin lock table ledger in access exclusive mode; end $$",
    "update accounts set currency = 'USD' where false",
    "update accounts set account_id = 'x' where false",
    "update payments set account_id = 'x' where false",
    "update quarantine set body = '' where false",
    "update quarantine set amount = 1 where false",
    "update quarantine set fingerprint = '' where false",
    "update tallies set label = 'x' where false",
    "update duplicates set copies = 1 where false",
    "update _sqlx_migrations set success = true where false",
    "insert into _sqlx_migrations default values",
    "copy accounts to program 'true'",
    "copy accounts to '/tmp/payonce-must-not-exist'",
    "select pg_read_file('/etc/passwd')",
];
/// What one who only looks may not do either.
const FORBIDDEN_TO_READERS: &[&str] = &[
    "insert into accounts default values",
    "insert into ledger (source) values ('x')",
    "insert into payments default values",
    "insert into quarantine (source) values ('x')",
    "insert into tallies default values",
    "insert into duplicates (source) values ('x')",
    "update accounts set balance = 1 where false",
    "update payments set state = 'failed' where false",
    "update quarantine set state = 'discarded' where false",
    "update tallies set n = 1 where false",
    "select add_up_lanes('1 day', 1, 1)",
    "select add_up_counts('minute', 'hour', '1 day', 1)",
    "select forget_silent_workers()",
];

/// That PostgreSQL refuses this to the user of this world, for want of the right.
async fn refused(world: &World, statements: impl IntoIterator<Item = String>) {
    let mut connection = world.connect().await;
    sqlx::raw_sql("set session characteristics as transaction read write")
        .execute(&mut connection)
        .await
        .unwrap();
    for statement in statements {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&mut connection).await;
        let error = done.expect_err(&statement);
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
}

fn owned(statements: &[&str]) -> Vec<String> {
    statements.iter().map(|statement| (*statement).to_owned()).collect()
}

#[tokio::test]
async fn no_role_may_do_more_than_it_needs() {
    let locked = Locked::new().await;
    locked.migrate().await;
    // Nothing can be deleted from a view, whoever asks.
    let views = ["duplicates_of_keys", "journal", "ledger_of_payments"];
    let deletes = || {
        let tables = WORKER_RIGHTS.iter().map(|(table, _)| table).filter(|table| !views.contains(table));
        tables.map(|table| format!("delete from {table} where false")).collect::<Vec<_>>()
    };
    for world in [&locked.worker, &locked.ops, &locked.reader, &locked.feed] {
        refused(world, owned(FORBIDDEN_TO_ALL)).await;
        refused(world, deletes()).await;
    }
    refused(&locked.worker, owned(&["select * from duplicates"])).await;
    refused(&locked.reader, owned(FORBIDDEN_TO_READERS)).await;
    refused(&locked.feed, owned(FORBIDDEN_TO_READERS)).await;
    refused(&locked.feed, owned(&["select * from quarantine", "update feeds set name = 'x' where false"]))
        .await;
    // The owner is stopped by the trigger, also where no row would be touched.
    let on_ledger =
        ["update ledger set amount = 1 where false", "delete from ledger where false", "truncate ledger"];
    refused(&locked.owner, owned(&on_ledger)).await;

    the_broker_refuses(&locked).await;
    redis_refuses(&locked).await;
    // Rights that a role had by mistake, or needed in an earlier version, are taken away.
    let too_much = "grant update, delete on ledger to payonce_worker; grant update (body) on quarantine to payonce_worker";
    sqlx::raw_sql(too_much).execute(&mut locked.owner.connect().await).await.unwrap();
    locked.migrate().await;
    refused(&locked.worker, owned(FORBIDDEN_TO_ALL)).await;
    refused(&locked.worker, deletes()).await;
    // So are those of a role that was a worker's, once it is a reader's.
    let demoted =
        locked.owner.program(&["migrate", "--grant-reader", "payonce_worker"]).output().await.unwrap();
    assert!(demoted.status.success(), "{}", String::from_utf8_lossy(&demoted.stderr));
    refused(&locked.worker, owned(FORBIDDEN_TO_READERS)).await;
}

/// That the broker closes the channel with 403 for this.
async fn access_refused<T>(
    connection: &Connection,
    what: &str,
    act: impl AsyncFnOnce(lapin::Channel) -> lapin::Result<T>,
) {
    let channel = connection.create_channel().await.expect("a channel");
    let Err(error) = act(channel).await else { panic!("{what} was allowed") };
    assert!(error.to_string().contains("ACCESS_REFUSED"), "{what}: {error}");
}

async fn the_broker_refuses(locked: &Locked) {
    let names = locked.admin.names();
    for (user, world) in [
        ("worker", &locked.worker),
        ("publisher", &locked.publisher),
        ("ops", &locked.ops),
        ("feed", &locked.feed),
    ] {
        let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default())
            .await
            .expect("the user may connect");
        let (exchange, queue) = (names.exchange.as_str(), names.queue.as_str());
        access_refused(&connection, &format!("{user} declares a queue"), async |channel| {
            channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await
        })
        .await;
        access_refused(&connection, &format!("{user} deletes the queue"), async |channel| {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await
        })
        .await;
        access_refused(&connection, &format!("{user} declares an exchange"), async |channel| {
            let options = ExchangeDeclareOptions::default();
            channel.exchange_declare("x".into(), ExchangeKind::Topic, options, FieldTable::default()).await
        })
        .await;
        access_refused(&connection, &format!("{user} deletes the exchange"), async |channel| {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
        })
        .await;
        access_refused(&connection, &format!("{user} binds the queue elsewhere"), async |channel| {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue.into(), "amq.topic".into(), "#".into(), options, FieldTable::default())
                .await
        })
        .await;
        // The default exchange reaches every queue by its name.
        for (exchange, key) in [("", queue), ("amq.topic", "#"), (exchange, "a")] {
            if (user, exchange) == ("publisher", names.exchange.as_str()) {
                continue;
            }
            access_refused(&connection, &format!("{user} publishes to {exchange:?}"), async |channel| {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let options = BasicPublishOptions::default();
                let confirm = channel
                    .basic_publish(exchange.into(), key.into(), options, b"{}", BasicProperties::default())
                    .await?;
                confirm.await
            })
            .await;
        }
        if user != "worker" {
            access_refused(&connection, &format!("{user} takes a message"), async |channel| {
                channel.basic_get(queue.into(), BasicGetOptions::default()).await
            })
            .await;
        }
    }
}

async fn redis_refuses(locked: &Locked) {
    let prefix = &locked.admin.prefix;
    let marker = format!("{prefix}payonce:key:1:s:e");
    let everyone = [
        vec!["FLUSHALL"],
        vec!["KEYS", "*"],
        vec!["CONFIG", "GET", "*"],
        vec!["EVAL", "return 1", "0"],
        vec!["DEL", &marker],
        vec!["GET", &marker],
        vec!["SET", "another", "1"],
        vec!["ACL", "LIST"],
        vec!["MONITOR"],
    ];
    let worker = [vec!["SCAN", "0"], vec!["MGET", &marker]];
    // Whoever can write markers can have callbacks rejected.
    let ops = [vec!["SET", &marker, "done:"]];
    for (world, own) in [(&locked.worker, &worker[..]), (&locked.ops, &ops[..])] {
        let mut redis = world.redis().await;
        for words in everyone.iter().chain(own) {
            let mut command = redis::cmd(words[0]);
            let answer = command.arg(&words[1..]).query_async::<redis::Value>(&mut redis).await;
            let error = answer.expect_err(&words.join(" "));
            assert_eq!(error.code(), Some("NOPERM"), "{words:?}: {error}");
        }
    }
}

#[tokio::test]
async fn everything_works_with_these_rights_alone() {
    let locked = Locked::new().await;
    let Locked { owner, worker, publisher, ops, reader, feed, api, .. } = &locked;
    // A role without rights, or a broker without queues, is told apart from an outage, in words.
    answer(owner, &["migrate", "--json"]).await;
    let output = reader.program(&["audit"]).output().await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && words.contains("payonce migrate --grant-"), "{words}");
    let undeclared = publisher.program(&["publish", "Cargo.toml"]).output().await.unwrap();
    let words = String::from_utf8_lossy(&undeclared.stderr);
    assert_eq!(undeclared.status.code(), Some(2), "{words}");
    assert!(words.contains("locked.payment.callbacks") && words.contains("migrate --declare"), "{words}");
    locked.migrate().await;

    let mut working = worker
        .program(&["worker", "--waiting-max-ms", "1000", "--waiting-sweep-ms", "10"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let debit = |id: &str, payment: &str| Event::payment("payment.succeeded", id, "a", payment, 500);
    let steps = [
        vec![Event::deposit("d1", "a", 100), Event::deposit("d1", "a", 100), debit("poor", "p1")],
        vec![Event::payment("payment.captured", "early", "a", "p2", 10)],
        vec![Event::payment("payment.authorized", "auth", "a", "p2", 10), Event::deposit("d1", "a", 100)],
        vec![Event::payment("payment.captured", "late", "a", "p3", 10)],
        vec![Event::deposit("d2", "a", 1_000)],
    ];
    let mut sent = 0;
    for events in steps {
        publish(publisher, &events).await;
        sent += events.len() as i64;
        locked.admin.settled(sent).await;
    }
    let expired = "select count(*) from quarantine where reason = 'waiting_expired'";
    eventually("the sweep has ended what waited too long", 1, || locked.admin.number(expired)).await;
    let replayed = answer(ops, &["quarantine", "replay", "--reason", "insufficient_funds", "--json"]).await;
    assert_eq!(replayed["applied"], 1, "{replayed}");
    let discard = ["quarantine", "discard", "--all", "--yes", "--why", "test", "--json"];
    answer(ops, &discard).await;
    let reopened = answer(ops, &["quarantine", "reopen", "--all", "--why", "test", "--json"]).await;
    assert_eq!(reopened["reopened"], 1);
    let case = locked.admin.number("select id from quarantine where state in ('open', 'waiting')").await;
    let assign = ["quarantine", "assign", &case.to_string(), "--account", "a", "--why", "test", "--json"];
    assert_eq!(answer(ops, &assign).await["assigned"], 1);
    let discarded = answer(ops, &discard).await;
    assert_eq!(discarded["discarded"], 1, "{discarded}");
    for world in [ops, reader] {
        for arguments in [
            &["event", "/providers/test", "d1", "--json"][..],
            &["account", "a", "--json"],
            &["payment", "/providers/test", "p2", "--json"],
            &["quarantine", "list", "--state", "open", "--limit", "1", "--json"],
            &["quarantine", "show", "1", "--json"],
        ] {
            answer(world, arguments).await;
        }
        let audit = world.program(&["audit"]).output().await.unwrap();
        let (said, warned) = (String::from_utf8_lossy(&audit.stdout), String::from_utf8_lossy(&audit.stderr));
        assert_eq!(audit.status.code(), Some(0), "{said}{warned}");
        assert!(said.contains("markers_have_rows") && warned.is_empty(), "{said}{warned}");
        the_pool_is_served(world).await;
    }
    assert_eq!(locked.admin.account("a").await, Some((590, 0, 5)));
    let mut reading = EventReader::new(&locked.admin).await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("shop", ""));
    let config = ["feed", "--config", file.to_str().unwrap()];
    let mut feeding =
        feed.program(&config).args(["--balance-cache", "true"]).stderr(Stdio::null()).spawn().unwrap();
    reading.knows(5).await;
    receiver.has_taken("a", 5).await;
    let mut cache = locked.admin.cache().await;
    let epoch = store::epoch(&mut locked.admin.connect().await).await.unwrap();
    for _ in 0..6_000 {
        if cache.read(epoch.as_str(), "a").await.unwrap().is_some_and(|balance| balance.version == 5) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(cache.read(epoch.as_str(), "a").await.unwrap().map(|balance| balance.balance), Some(590));
    feeding.kill().await.unwrap();
    for arguments in [
        &["list"][..],
        &["disable", "shop"],
        &["enable", "shop"],
        &["replay", "shop", "--account", "a", "--from-version", "2"],
    ] {
        let output = feed.program(&config).arg("subscribers").args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    applications_read(api).await;
    locked.admin.audit().await;
    let id = working.id().expect("the worker runs").to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    assert!(working.wait().await.unwrap().success(), "the worker ends well");
}

async fn applications_read(world: &World) {
    let tokens = crate::api::tokens();
    let mut command = world.program(&["api", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("PAYONCE_API_TOKENS_FILE", tokens.path());
    let api = Dashboard::of(command).await;
    for path in [
        "/v1/accounts/a",
        "/v1/accounts/a?at=2030-01-01T00:00:00Z",
        "/v1/accounts/a/entries",
        "/v1/payments?source=/providers/test&id=p2",
        "/v1/events?source=/providers/test&id=d1",
    ] {
        let answer = crate::api::ask(&api, crate::api::ALL, path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let ready = api.get("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
}

async fn publish(world: &World, events: &[Event]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> = events.iter().map(|event| String::from_utf8(event.body()).unwrap()).collect();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    answer(world, &["publish", "--json", file.path().to_str().unwrap()]).await;
}

/// Runs the program, which must succeed, and returns the last line of its output, if any, as JSON.
async fn answer(world: &World, arguments: &[&str]) -> serde_json::Value {
    let output = world.program(arguments).output().await.expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && warned.is_empty(), "{arguments:?}: {said}{warned}");
    said.lines().last().map(|line| serde_json::from_str(line).expect("JSON")).unwrap_or_default()
}

async fn the_pool_is_served(world: &World) {
    let address = free_address();
    let mut serving = world
        .program(&["ops", "--listen", &address])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    for (path, expected) in [("/readyz", "ready"), ("/metrics", "payonce_pool_callbacks_applied_total")] {
        eventually(path, true, || async { get(&address, path).await.contains(expected) }).await;
    }
    serving.kill().await.unwrap();
}

#[tokio::test]
async fn every_table_has_its_rights_written_down() {
    let world = World::new().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select tablename::text from pg_tables where schemaname = 'public'
             union all select viewname::text from pg_views where schemaname = 'public' order by 1",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap();
    let mut written_down: Vec<&str> = WORKER_RIGHTS.iter().map(|(table, _)| *table).collect();
    written_down.sort_unstable();
    assert_eq!(
        written_down, tables,
        "crates/payonce-postgres/src/grants.rs against the tables of the migrations"
    );
    world.close().await;
}

#[tokio::test]
async fn a_role_that_no_grant_binds_is_refused() {
    let world = World::new().await;
    for (role, word) in [("nobody_at_all", "deploy/postgres/roles.sql"), ("payonce", "superuser")] {
        let output = world.program(&["migrate", "--grant-worker", role]).output().await.unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains(role) && words.contains(word), "{words}");
    }
    let database =
        Database::new(&world.database_url, "payonce-it", std::time::Duration::from_secs(10)).unwrap();
    assert!(store::check_schema(&mut database.connect().await.unwrap()).await.is_ok());
    world.close().await;
}
