//! One bad thing slows only itself: a locked row, a row that cannot be written or read, a database that takes no writes.

use payonce::store::{self, Grantee};
use sqlx::PgConnection;

use crate::support::{Event, SOURCE, World, eventually};

/// Small numbers, so that what waits could take everybody's place.
const SETTINGS: [(&str, &str); 5] = [
    ("lanes", "1"),
    ("batch_size_max", "10"),
    ("prefetch_count", "20"),
    ("retry_delay_min_ms", "10"),
    ("retry_delay_max_ms", "100"),
];

const OTHERS: i64 = 20;

/// Runs this statement in a transaction that stays open until `end`.
async fn held(world: &World, statement: &'static str) -> PgConnection {
    let mut connection = world.connect().await;
    run(&mut connection, "begin").await;
    run(&mut connection, statement).await;
    connection
}

async fn run(connection: &mut PgConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(connection).await.expect(statement);
}

fn debit(id: &str, account: &str) -> Event {
    Event::payment("payment.succeeded", id, account, &format!("pay-{id}"), 1)
}

/// Accounts `a0` to `a19`, with money.
async fn with_accounts() -> World {
    let world = World::new().await;
    let deposits: Vec<Event> =
        (0..OTHERS).map(|n| Event::deposit(&format!("d{n}"), &format!("a{n}"), 10_000)).collect();
    let worker = world.worker().await;
    world.publish(&deposits).await;
    world.settled(OTHERS).await;
    worker.stop().await;
    world
}

async fn applied(world: &World, count: &'static str, expected: i64) {
    eventually(count, expected, || world.number(count)).await;
}

/// An operator's open transaction, and more callbacks about its account than a worker may hold.
#[tokio::test]
async fn a_locked_account_holds_up_nobody_else_and_comes_again_by_itself() {
    let world = with_accounts().await;
    let mut operator = held(&world, "update accounts set balance = balance where account_id = 'a7'").await;
    let of_the_locked: Vec<Event> = (0..100).map(|n| debit(&format!("locked{n}"), "a7")).collect();
    let others: Vec<Event> = (0..200).map(|n| debit(&format!("o{n}"), &format!("a{}", 8 + n % 12))).collect();
    let worker = world.worker_with(&SETTINGS).await;
    world.publish(&of_the_locked).await;
    world.publish(&others).await;
    applied(&world, "select count(*) from ledger where event_id like 'o%'", 200).await;
    assert_eq!(world.number("select count(*) from ledger where account_id = 'a7'").await, 1);
    // What is set aside was not acknowledged with what came after it.
    worker.stop().await;
    let worker = world.worker_with(&SETTINGS).await;
    world.publish(&[debit("late", "a8")]).await;
    applied(&world, "select count(*) from ledger where event_id = 'late'", 1).await;
    run(&mut operator, "rollback").await;
    applied(&world, "select count(*) from ledger where event_id like 'locked%'", 100).await;
    worker.stop().await;
    assert_eq!(world.cases().await, []);
    assert_eq!(world.duplicates().await, [], "nothing was given back and came again");
    world.audit().await;
    world.close().await;
}

/// Whatever else a batch has to wait for, it is found by halving, and the rest goes on.
async fn only_the_locked_wait(statement: &'static str, locked: Event, when_free: &'static str) {
    let world = with_accounts().await;
    let worker = world.worker_with(&SETTINGS).await;
    let before = [
        Event::payment("payment.authorized", "auth", "a7", "pay", 100),
        Event::payment("payment.succeeded", "too-much", "a7", "pay2", 1_000_000),
    ];
    world.publish(&before).await;
    world.settled(OTHERS + 2).await;
    worker.stop().await;
    let mut operator = held(&world, statement).await;
    let mut events = vec![locked];
    events.extend((0..30).map(|n| debit(&format!("o{n}"), &format!("a{}", 8 + n % 12))));
    world.publish(&events).await;
    let worker = world.worker_with(&SETTINGS).await;
    applied(&world, "select count(*) from ledger where event_id like 'o%'", 30).await;
    assert_eq!(world.number(when_free).await, 0);
    run(&mut operator, "rollback").await;
    applied(&world, when_free, 1).await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_locked_payment_holds_up_nobody_else() {
    let capture = Event::payment("payment.captured", "capture", "a7", "pay", 100);
    let lock = "select * from payments where payment_id = 'pay' for update";
    only_the_locked_wait(lock, capture, "select count(*) from ledger where event_id = 'capture'").await;
}

#[tokio::test]
async fn a_locked_case_holds_up_nobody_else() {
    let copy = Event::payment("payment.succeeded", "too-much", "a7", "pay2", 1_000_000);
    let lock = "select * from quarantine where event_id = 'too-much' for update";
    only_the_locked_wait(lock, copy, "select count(*) from quarantine where attempts = 2").await;
}

#[tokio::test]
async fn a_key_that_somebody_writes_for_a_long_time_holds_up_nobody_else() {
    let lock = "insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                                    balance_after, held_after, payload_sha256)
                values ('/providers/test', 'busy', 'deposit.succeeded', 'elsewhere', 1, 1, 'EUR', 1, 0, 1, 0,
                        decode(repeat('00', 32), 'hex'))";
    let busy = "select count(*) from ledger where event_id = 'busy'";
    only_the_locked_wait(lock, debit("busy", "a7"), busy).await;
}

/// After decoding nothing is a message's fault: what PostgreSQL refuses, or what cannot be read back, is kept until somebody has fixed it.
async fn only_the_refused_wait(harm: &'static str, fix: &'static str) {
    let world = with_accounts().await;
    let mut operator = world.connect().await;
    run(&mut operator, harm).await;
    let mut events: Vec<Event> = (0..5).map(|n| debit(&format!("bad{n}"), "a7")).collect();
    events.extend((0..30).map(|n| debit(&format!("o{n}"), &format!("a{}", 8 + n % 12))));
    world.publish(&events).await;
    let worker = world.worker_with(&SETTINGS).await;
    applied(&world, "select count(*) from ledger where event_id like 'o%'", 30).await;
    assert_eq!(world.cases().await, []);
    run(&mut operator, fix).await;
    applied(&world, "select count(*) from ledger where event_id like 'bad%'", 5).await;
    worker.stop().await;
    assert_eq!(world.cases().await, []);
    assert_eq!(world.ready_messages(&world.names().dead_queue).await, 0);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_postgresql_refuses_is_kept_and_applied_when_it_is_fixed() {
    only_the_refused_wait(
        "alter table ledger add constraint harm check (account_id <> 'a7') not valid",
        "alter table ledger drop constraint harm",
    )
    .await;
}

#[tokio::test]
async fn callbacks_about_a_row_that_cannot_be_read_are_kept_and_applied_when_it_is_fixed() {
    only_the_refused_wait(
        "update accounts set currency = 'ZZZ' where account_id = 'a7'",
        "update accounts set currency = 'EUR' where account_id = 'a7'",
    )
    .await;
}

/// On a quiet queue nothing but what is set aside is tried, and fails each time: that is not PostgreSQL taking no writes.
async fn tried_alone_again_and_again(harm: &'static str, fix: &'static str) {
    let world = with_accounts().await;
    // An outage would outlast the test.
    let settings = [&SETTINGS[..], &[("outage_hold_ms", "600000")]].concat();
    let worker = world.worker_with(&settings).await;
    world.publish(&[Event::payment("payment.authorized", "auth", "a7", "pay", 100)]).await;
    world.settled(OTHERS + 1).await;
    let mut operator = world.connect().await;
    run(&mut operator, harm).await;
    let rolled_back = "select xact_rollback from pg_stat_database where datname = current_database()";
    let before = world.number(rolled_back).await;
    world.publish(&[Event::payment("payment.captured", "bad", "a7", "pay", 100)]).await;
    eventually("ten tries", true, async || world.number(rolled_back).await > before + 10).await;
    world
        .publish(&(0..40).map(|n| debit(&format!("o{n}"), &format!("a{}", 8 + n % 12))).collect::<Vec<_>>())
        .await;
    applied(&world, "select count(*) from ledger where event_id like 'o%'", 40).await;
    assert!(worker.readiness.is_ready());
    run(&mut operator, fix).await;
    applied(&world, "select count(*) from ledger where event_id = 'bad'", 1).await;
    worker.stop().await;
    assert_eq!(world.duplicates().await, [], "nothing was given back and came again");
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn one_refused_row_on_a_quiet_queue_is_no_outage() {
    tried_alone_again_and_again(
        "alter table ledger add constraint harm check (event_id <> 'bad') not valid",
        "alter table ledger drop constraint harm",
    )
    .await;
}

#[tokio::test]
async fn one_locked_payment_on_a_quiet_queue_is_no_outage() {
    tried_alone_again_and_again(
        "begin; select * from payments where payment_id = 'pay' for update",
        "rollback",
    )
    .await;
}

/// What was committed before its neighbour was found is neither tried nor counted again.
#[tokio::test]
async fn what_is_committed_does_not_wait_with_a_refused_one_of_its_account() {
    let world = with_accounts().await;
    let mut operator = world.connect().await;
    run(&mut operator, "alter table ledger add constraint harm check (event_id <> 'bad') not valid").await;
    let mut events: Vec<Event> = (0..9).map(|n| debit(&format!("o{n}"), "a7")).collect();
    events.push(debit("bad", "a7"));
    world.publish(&events).await;
    let worker = world.worker_with(&SETTINGS).await;
    applied(&world, "select count(*) from ledger where event_id like 'o%'", 9).await;
    run(&mut operator, "alter table ledger drop constraint harm").await;
    applied(&world, "select count(*) from ledger where event_id = 'bad'", 1).await;
    world.publish(&[debit("last", "a7")]).await;
    world.settled(OTHERS + 11).await;
    worker.stop().await;
    assert_eq!(world.duplicates().await, []);
    world.audit().await;
    world.close().await;
}

/// Two deposits of two accounts have one payment id, as operations tell them apart. What names only that id is about the older one, whichever
/// the database finds first; it is a case here, for it is in another currency. A lane once tried it for ever.
#[tokio::test]
async fn a_payment_id_of_two_accounts_holds_up_nobody() {
    let deposit = |id: &str, account: &str, currency: &str| {
        Event::deposit(id, account, 500).with("payment_id", "d1").with("currency", currency)
    };
    for is_older_with_operation in [false, true] {
        let world = World::new().await;
        let worker = world.worker_with(&SETTINGS).await;
        let mut deposits = [deposit("e1", "a", "JPY"), deposit("e2", "b", "CNY")];
        let at = usize::from(!is_older_with_operation);
        deposits[at] = deposits[at].clone().operation("o1");
        for (settled, one) in (1..).zip(deposits) {
            world.publish(&[one]).await;
            world.settled(settled).await;
        }
        let reversal = |id: &str, currency: &str| {
            Event::payment("deposit.refunded", id, "a", "d1", 200).nameless().with("currency", currency)
        };
        world.publish(&[reversal("e3", "CNY"), reversal("e4", "JPY")]).await;
        world.settled(4).await;
        worker.stop().await;
        assert_eq!(world.account("a").await, Some((300, 0, 2)));
        assert_eq!(world.account("b").await, Some((500, 0, 1)));
        world.audit().await;
        world.close().await;
    }
}

/// Its case says less, but the message is kept.
#[tokio::test]
async fn a_message_whose_case_postgresql_refuses_is_kept_in_a_plainer_form() {
    let world = with_accounts().await;
    let mut operator = world.connect().await;
    run(&mut operator, "alter table quarantine add constraint harm check (source is null) not valid").await;
    let body = format!(r#"{{"specversion": "1.0", "source": "{SOURCE}", "id": "e1", "type": "unknown"}}"#);
    world.publish_raw(&[("a7".to_owned(), body.clone().into_bytes())]).await;
    let worker = world.worker_with(&SETTINGS).await;
    world.settled(OTHERS + 1).await;
    worker.stop().await;
    let [(event_id, _, state, attempts)] = &world.cases().await[..] else { panic!("one case") };
    assert_eq!((event_id, state.as_str(), attempts), (&None, "open", &1));
    let kept: Vec<u8> =
        sqlx::query_scalar("select body from quarantine").fetch_one(&mut operator).await.expect("the case");
    assert_eq!(kept, body.into_bytes());
    world.close().await;
}

/// More cases are overdue than one look of the sweep reads; the locked one is among them, and so is the hold of the locked account.
#[tokio::test]
async fn a_locked_account_or_case_keeps_the_sweep_from_nobody_else() {
    const OLDER: i64 = 600;
    let world = with_accounts().await;
    let too_much = |id: &str, account: &str| {
        Event::payment("payment.succeeded", id, account, &format!("pay-{id}"), 1_000_000)
    };
    let hold = |id: &str, account: &str| {
        Event::payment("payment.authorized", id, account, &format!("pay-{id}"), 80)
            .with("expires_at", "2026-01-01T00:00:00Z")
    };
    let mut late: Vec<Event> = (0..OLDER).map(|n| too_much(&format!("older{n}"), "a7")).collect();
    late.push(too_much("locked-case", "a6"));
    let patient = [("order_wait_ms", "3600000"), ("waiting_sweep_ms", "3600000")];
    let worker = world.worker_with(&patient).await;
    world.publish(&late).await;
    applied(&world, "select count(*) from quarantine where state = 'waiting'", OLDER + 1).await;
    world.publish(&[too_much("other", "a8"), hold("locked-hold", "a7")]).await;
    world.settled(OTHERS + OLDER + 3).await;
    worker.stop().await;
    let mut operator = held(&world, "update accounts set balance = balance where account_id = 'a7'").await;
    run(&mut operator, "select * from quarantine where event_id = 'locked-case' for update").await;

    let worker = world.worker_with(&[("order_wait_ms", "1"), ("waiting_sweep_ms", "10")]).await;
    world.publish(&[hold("hold", "a9")]).await;
    let opened = "select count(*) from quarantine where event_id = 'other' and state = 'open'";
    applied(&world, opened, 1).await;
    let released = "select count(*) from ledger where account_id = 'a9' and type = 'payment.voided'";
    applied(&world, released, 1).await;
    let locked_case = "select count(*) from quarantine where event_id = 'locked-case' and state = 'open'";
    let locked_hold = "select count(*) from ledger where account_id = 'a7' and type = 'payment.voided'";
    assert_eq!((world.number(locked_case).await, world.number(locked_hold).await), (0, 0));
    run(&mut operator, "rollback").await;
    applied(&world, locked_case, 1).await;
    applied(&world, locked_hold, 1).await;
    applied(&world, "select count(*) from quarantine where state = 'waiting'", 0).await;
    applied(&world, "select count(*) from payments where state = 'authorized'", 0).await;
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// Reads go on, and no message is taken; it is not given back until the broker gives it up either.
#[tokio::test]
async fn a_database_that_takes_no_writes_turns_no_payment_into_a_case() {
    const READ_ONLY: &str = "do $$ begin
        execute format('alter database %I set default_transaction_read_only = on', current_database());
        perform pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = 'payonce-it-worker'; end $$";
    const WRITABLE: &str = "do $$ begin
        execute format('alter database %I reset default_transaction_read_only', current_database()); end $$";
    let world = with_accounts().await;
    let mut operator = world.connect().await;
    let queue = world.names().queue;
    let mut settings = SETTINGS.to_vec();
    settings.push(("outage_hold_ms", "1000"));
    let worker = world.worker_with(&settings).await;
    run(&mut operator, READ_ONLY).await;
    let payments: Vec<Event> =
        (0..40).map(|n| debit(&format!("p{n}"), &format!("a{}", n % OTHERS))).collect();
    world.publish(&payments).await;
    eventually("ready", false, || async { worker.readiness.is_ready() }).await;
    eventually("the deliveries are back on the queue", 40, || world.ready_messages(&queue)).await;
    // More tries than the broker allows returns (x-delivery-limit is 100).
    let rolled_back = "select xact_rollback from pg_stat_database where datname = current_database()";
    let tried = world.number(rolled_back).await;
    eventually("tries", true, || async {
        assert!(!worker.readiness.is_ready(), "ready, and nothing can be written");
        world.number(rolled_back).await > tried + 120
    })
    .await;
    assert_eq!(world.ready_messages(&queue).await, 40);
    run(&mut operator, WRITABLE).await;
    applied(&world, "select count(*) from ledger where event_id like 'p%'", 40).await;
    worker.stop().await;
    assert_eq!(world.cases().await, []);
    world.audit().await;
    world.close().await;
}

/// A right that is taken from a worker that runs: it says which, and takes nothing until it has it again.
#[tokio::test]
async fn a_right_that_is_taken_away_is_named_and_turns_no_payment_into_a_case() {
    let world = with_accounts().await;
    let role = format!("{}_worker", world.database_name());
    let mut owner = world.connect().await;
    let mut by_owner = async |statement: String| {
        let text = statement.clone();
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut owner).await.expect(&text);
    };
    by_owner(format!("create role {role} login password 'worker'")).await;
    by_owner(format!("grant execute on function pg_control_system() to {role}")).await;
    store::grant(&mut world.connect().await, &role, Grantee::Worker).await.unwrap();
    let mut url = url::Url::parse(&world.database_url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("worker")).unwrap();
    let limited = world.by(url.to_string());
    let queue = world.names().queue;
    let mut settings = SETTINGS.to_vec();
    settings.push(("outage_hold_ms", "1000"));
    let worker = limited.worker_with(&settings).await;
    by_owner(format!("revoke insert on ledger from {role}")).await;
    let payments: Vec<Event> =
        (0..40).map(|n| debit(&format!("p{n}"), &format!("a{}", n % OTHERS))).collect();
    world.publish(&payments).await;
    eventually("ready", false, || async { worker.readiness.is_ready() }).await;
    eventually("the deliveries are back on the queue", 40, || world.ready_messages(&queue)).await;
    let refused =
        store::check_worker_rights(&mut limited.connect().await).await.expect_err("a right is missing");
    let words = refused.to_string();
    assert!(words.contains("INSERT on ledger") && words.contains("--grant-worker"), "{words}");
    // One column that is new in a version, and that the grants of the version before do not name.
    by_owner(format!("grant insert on ledger to {role}")).await;
    by_owner(format!("revoke update (account_id) on quarantine from {role}")).await;
    let refused =
        store::check_worker_rights(&mut limited.connect().await).await.expect_err("a right is missing");
    let words = refused.to_string();
    assert!(words.contains("UPDATE (account_id) on quarantine") && !words.contains("ledger"), "{words}");
    store::grant(&mut world.connect().await, &role, Grantee::Worker).await.unwrap();
    applied(&world, "select count(*) from ledger where event_id like 'p%'", 40).await;
    worker.stop().await;
    assert_eq!(world.cases().await, []);
    world.audit().await;
    by_owner(format!("drop owned by {role}; drop role {role}")).await;
    world.close().await;
}

/// Before RabbitMQ would close the channel of a worker that keeps a delivery for too long.
#[tokio::test]
async fn what_stays_locked_is_given_back_in_time_and_applied_when_it_is_free() {
    let world = with_accounts().await;
    let queue = world.names().queue;
    let mut operator = held(&world, "update accounts set balance = balance where account_id = 'a7'").await;
    // The pause before the next session is long enough to see the queue in.
    let worker = world
        .worker_with(&[
            ("lanes", "1"),
            ("aside_hold_max_ms", "1000"),
            ("retry_delay_min_ms", "3000"),
            ("retry_delay_max_ms", "3000"),
        ])
        .await;
    let locked: Vec<Event> = (0..10).map(|n| debit(&format!("locked{n}"), "a7")).collect();
    world.publish(&locked).await;
    eventually("the deliveries are back on the queue", 10, || world.ready_messages(&queue)).await;
    run(&mut operator, "rollback").await;
    applied(&world, "select count(*) from ledger where event_id like 'locked%'", 10).await;
    worker.stop().await;
    assert_eq!(world.cases().await, []);
    world.audit().await;
    world.close().await;
}

/// A migration comes while workers of the release before run under load: they go on beside one that declares that they may, lose nothing,
/// and stop before one that does not.
#[tokio::test]
async fn workers_go_on_beside_a_newer_schema_that_declares_it_and_stop_before_any_other() {
    let world = with_accounts().await;
    let mut operator = world.connect().await;
    let payments = |name: &str| -> Vec<Event> {
        (0..200).map(|n| debit(&format!("{name}{n}"), &format!("a{}", n % OTHERS))).collect()
    };
    let (first, second) = (world.worker_with(&SETTINGS).await, world.worker_with(&SETTINGS).await);
    world.publish(&payments("p")).await;
    run(
        &mut operator,
        "begin;
         alter table ledger add column of_the_next bigint not null default 0;
         insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9001, 'next', true, '', 1);
         comment on table _sqlx_migrations is 'schema 9001 is usable by programs of schema 18 and later';
         commit",
    )
    .await;
    world.publish(&payments("q")).await;
    applied(&world, "select count(*) from ledger where type = 'payment.succeeded'", 400).await;
    // One that starts now goes on too.
    let third = world.worker_with(&SETTINGS).await;
    third.stop().await;
    run(
        &mut operator,
        "begin;
         alter table ledger alter column of_the_next drop default;
         insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9002, 'after that', true, '', 1);
         commit",
    )
    .await;
    world.publish(&payments("r")).await;
    for worker in [first, second] {
        let refusal = worker.ended().await.expect_err("the schema does not fit");
        assert!(refusal.to_string().contains("schema is at version 9002"), "{refusal}");
    }
    assert_eq!(world.cases().await, []);
    assert_eq!(world.ready_messages(&world.names().queue).await, 200);
    assert_eq!(world.ready_messages(&world.names().dead_queue).await, 0);
    world.close().await;
}
