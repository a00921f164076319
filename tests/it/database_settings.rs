//! What PostgreSQL, the database, the role, the address or a pooler set does not weaken what payonce promises: payonce sets what it may, and
//! refuses by name what it cannot set.

use sqlx::{AssertSqlSafe, Connection as _};

use crate::support::{Event, OwnServer, Pooler, World, eventually};

fn shared(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

async fn sql(world: &World, statement: &str) {
    let mut connection = world.connect().await;
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.expect(statement);
}

/// Writes down what a session has that inserts into the ledger.
const WATCH: &str = "
    create table seen (synchronous_commit text, isolation text, statement_timeout text, hashjoin text, time_zone text);
    create function see() returns trigger language plpgsql as $$ begin
        insert into seen values (current_setting('synchronous_commit'), current_setting('transaction_isolation'),
            current_setting('statement_timeout'), current_setting('enable_hashjoin'), current_setting('TimeZone'));
        return null; end $$;
    create trigger see after insert on ledger for each statement execute function see()";

async fn seen(world: &World) -> Vec<[String; 5]> {
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as("select distinct * from seen")
        .fetch_all(&mut world.connect().await)
        .await
        .expect("seen");
    rows.into_iter().map(|(a, b, c, d, e)| [a, b, c, d, e]).collect()
}

/// What `payonce worker` says that refuses to start.
async fn refusal(world: &World) -> String {
    let output = tokio::time::timeout(crate::support::DEADLINE, world.program(&["worker"]).output())
        .await
        .expect("the worker ends by itself")
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    text
}

/// Payments that an account must cover, and a deposit: the guard of openings is compared with what others have committed.
async fn works(world: &World) {
    world.publish(&[Event::deposit("d", "a", 1_000)]).await;
    eventually("the deposit", Some((1_000, 0, 1)), || world.account("a")).await;
    world.publish(&[Event::payment("payment.succeeded", "p", "a", "p", 100)]).await;
    eventually("the payment", Some((900, 0, 2)), || world.account("a")).await;
}

#[tokio::test]
async fn what_the_database_sets_for_sessions_does_not_reach_payonces() {
    let world = World::new().await;
    sql(&world, WATCH).await;
    for setting in [
        "synchronous_commit = off",
        "default_transaction_isolation = 'repeatable read'",
        "statement_timeout = 0",
        "enable_hashjoin = on",
        "timezone = 'Asia/Tokyo'",
    ] {
        sql(&world, &format!("alter database {} set {setting}", world.database_name())).await;
    }
    let worker = world.worker().await;
    works(&world).await;
    worker.stop().await;
    assert_eq!(seen(&world).await, [["on", "read committed", "10s", "off", "UTC"]]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_pooler_in_session_mode_that_drops_options_changes_nothing() {
    let world = World::new().await;
    sql(&world, WATCH).await;
    let pooler = Pooler::start("session", &world.database_url).await;
    let pooled = world.by(pooler.before(&world.database_url));
    let worker = pooled.worker().await;
    works(&world).await;
    worker.stop().await;
    assert_eq!(seen(&world).await, [["on", "read committed", "10s", "off", "UTC"]]);
    world.audit().await;
    drop(pooler);
    world.close().await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_at_start_in_words() {
    let world = World::new().await;
    let pooler = Pooler::start("transaction", &world.database_url).await;
    let pooled = world.by(pooler.before(&world.database_url));
    for _ in 0..3 {
        let words = refusal(&pooled).await;
        assert!(words.contains("pool_mode = session"), "{words}");
    }
    drop(pooler);
    world.close().await;
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused_at_start() {
    let world = World::new().await;
    let name = format!("{}_latin1", world.database_name());
    sql(
        &world,
        &format!("create database {name} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0"),
    )
    .await;
    let mut url = url::Url::parse(&world.database_url).unwrap();
    url.set_path(&name);
    let other = world.by(url.to_string());
    let words = refusal(&other).await;
    assert!(words.contains("server_encoding is LATIN1, and must be UTF8"), "{words}");
    for arguments in [&["migrate"][..], &["audit"], &["account", "a"]] {
        let output = other.program(arguments).output().await.unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && words.contains("server_encoding"),
            "{arguments:?}: {words}"
        );
    }
    sql(&world, &format!("drop database {name} with (force)")).await;
    world.close().await;
}

#[tokio::test]
async fn a_server_that_may_lose_commits_in_a_crash_is_refused_by_the_name_of_its_setting() {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    // Not by way of payonce, which refuses such a server.
    let mut admin = sqlx::PgConnection::connect(postgres.url()).await.unwrap();
    for setting in ["fsync", "full_page_writes"] {
        let mut set = async |value: &str| {
            let statement = format!("alter system set {setting} = {value}");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
            sqlx::raw_sql("select pg_reload_conf()").execute(&mut admin).await.unwrap();
            loop {
                // A new session has what the server has: this one may not have read the file yet.
                let mut other = sqlx::PgConnection::connect(postgres.url()).await.unwrap();
                let statement = AssertSqlSafe(format!("show {setting}"));
                let found: String = sqlx::query_scalar(statement).fetch_one(&mut other).await.unwrap();
                if found == value {
                    break;
                }
            }
        };
        set("off").await;
        let words = refusal(&world).await;
        assert!(words.contains(&format!("{setting} is off, and must be on")), "{words}");
        set("on").await;
    }
    let worker = world.worker().await;
    works(&world).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn the_tables_may_be_in_any_schema_and_a_session_that_looks_elsewhere_is_refused() {
    let world = World::new().await;
    let name = world.database_name().to_owned();
    let search = async |schema: &str| {
        sql(&world, &format!("alter database {name} set search_path = {schema}")).await;
    };
    sql(&world, "create schema \"Pay\"; create schema empty").await;
    search("\"Pay\"").await;
    payonce::store::migrate(&mut world.connect().await).await.expect("migrations apply to another schema");
    let worker = world.worker_with(&[("waiting_sweep_ms", "10")]).await;
    works(&world).await;
    worker.stop().await;
    // What runs with its owner's rights works on the same tables.
    sql(&world, "update tallies set minute = minute - interval '1 day'").await;
    let config = payonce::config::HistoryConfig {
        minutes_kept: std::time::Duration::from_secs(60),
        hours_kept: std::time::Duration::from_secs(3_600),
        days_kept: std::time::Duration::from_secs(10 * 86_400),
        duplicates_kept: std::time::Duration::from_secs(7 * 86_400),
        sources_max: 3,
    };
    let moved =
        payonce::store::history::roll_up(&mut world.connect().await, &config).await.expect("added up");
    assert!(moved > 0, "nothing was added up");
    sql(&world, &format!("create role \"{name}_worker\"")).await;
    let role = format!("{name}_worker");
    payonce::store::grant(&mut world.connect().await, &role, payonce::store::Grantee::Worker)
        .await
        .expect("rights");
    world.audit().await;
    assert_eq!(world.number("select count(*) from public.ledger").await, 0);
    assert_eq!(world.number("select count(*) from \"Pay\".ledger").await, 2);

    for (path, expected) in [
        ("empty", "schema empty has no tables of payonce, and these have: Pay, public"),
        ("empty, \"Pay\"", "the tables are in schema Pay, and new ones would be made in empty"),
        ("nowhere", "search_path names no schema that exists"),
    ] {
        search(path).await;
        let words = refusal(&world).await;
        assert!(words.contains(expected), "{path}: {words}");
    }
    sql(&world, &format!("drop owned by \"{role}\"; drop role \"{role}\"")).await;
    world.close().await;
}

/// As where a pooler gives a session to somebody else in the middle of a day: each transaction that settles looks again.
#[tokio::test]
async fn a_transaction_that_would_not_be_durable_is_not_committed() {
    let world = World::new().await;
    let worker = world.worker_with(&[("retry_delay_max_ms", "200")]).await;
    sql(&world, "create sequence tries").await;
    for (round, (setting, value)) in (1..).zip([("synchronous_commit", "off"), ("payonce.session", "")]) {
        sql(
            &world,
            &format!(
                "create or replace function weaken() returns trigger language plpgsql as $$ begin
                     perform set_config('{setting}', '{value}', true); perform nextval('tries'); return null; end $$;
                 create trigger weaken before insert on ledger for each statement execute function weaken()"
            ),
        )
        .await;
        let tries_before = world.number("select last_value from tries").await;
        world.publish(&[Event::deposit(&format!("d{round}"), "a", 1_000)]).await;
        // Sequences do not roll back.
        eventually("two tries", true, || async {
            world.number("select last_value from tries").await >= tries_before + 2
        })
        .await;
        assert_eq!(world.number("select count(*) from ledger").await, round - 1, "{setting}");
        sql(&world, "drop trigger weaken on ledger").await;
        let account = Some((1_000 * round, 0, round));
        eventually("the deposit", account, || world.account("a")).await;
    }
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// As a database does that fails while it commits, or finds then that two transactions cannot both be.
#[tokio::test]
async fn what_the_database_refuses_to_commit_is_not_acknowledged() {
    let world = World::new().await;
    // A sequence goes on, whatever becomes of the transaction.
    let refuse = "
        create sequence commits;
        create function refuse() returns trigger language plpgsql as $$ begin
            perform nextval('commits');
            raise exception 'not committed' using errcode = 'serialization_failure'; end $$;
        create constraint trigger refuse after insert on ledger deferrable initially deferred
            for each row execute function refuse()";
    sql(&world, refuse).await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "alice", 100)]).await;
    eventually("it is tried again", true, || async {
        world.number("select last_value from commits").await > 1
    })
    .await;
    assert_eq!(world.number("select count(*) from ledger").await, 0);
    sql(&world, "drop trigger refuse on ledger").await;
    world.settled(1).await;
    assert_eq!(world.account("alice").await, Some((100, 0, 1)));
    world.audit().await;
    worker.stop().await;
    world.close().await;
}
