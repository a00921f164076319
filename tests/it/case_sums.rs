//! What is stuck in all is told without reading the cases: right after one opens or ends, however many write at once, on page, API and scrape.

use payonce::store::{case_sums, history, quarantine};
use sqlx::Connection;

use crate::{
    monitoring::value,
    support::{Dashboard, Event, World, eventually},
};

fn debit(id: &str, amount: i64) -> Event {
    Event::payment("payment.succeeded", id, "nobody", id, amount)
}

/// What the overview says, and the API beside it.
async fn told(dashboard: &Dashboard) -> (String, i64) {
    let page = dashboard.get("/").await.body;
    let words = page.split("data-html=\"stuck\">").nth(1).and_then(|after| after.split("</div>").next());
    let open = dashboard.get("/api/overview").await.json()["cases"]["open"].as_i64();
    (words.unwrap_or_default().to_owned(), open.unwrap_or(-1))
}

#[tokio::test]
async fn the_overview_says_what_is_stuck_as_soon_as_a_case_opens_or_ends() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let worker = world.worker_with(&[("order_wait_ms", "0")]).await;
    let says = async |words: &str, open: i64| {
        eventually(words, true, || async {
            let (said, n) = told(&dashboard).await;
            n == open
                && if words.is_empty() {
                    said.is_empty()
                } else {
                    said.contains(words) && said.contains("As of ")
                }
        })
        .await;
    };
    says("", 0).await;
    world.publish(&[debit("p1", 63_483), Event { currency: "JPY", ..debit("p2", 700) }]).await;
    world.settled(2).await;
    says("<strong>634.83 EUR</strong>, <strong>700 JPY</strong>; the oldest", 2).await;
    world.publish_raw(&[("k".to_owned(), b"{".to_vec())]).await;
    world.settled(3).await;
    says("<strong>700 JPY</strong>, 1 of an unknown amount", 3).await;
    // A copy of a case is no further case.
    world.publish(&[debit("p1", 63_483)]).await;
    world.settled(4).await;
    let scraped = dashboard.get("/metrics").await.body;
    let series = "payonce_cases_money_minor_units{state=\"open\",currency=\"EUR\"}";
    assert_eq!(value(&scraped, series), Some(63_483.0), "{scraped}");
    let discard = ["quarantine", "discard", "--reason", "unknown_account", "--yes", "--why", "a test"];
    assert!(world.program(&discard).output().await.unwrap().status.success());
    says("</a>: 1 of an unknown amount", 1).await;
    worker.stop().await;
    world.audit().await;
    dashboard.stop().await;
    world.close().await;
}

/// Cases written, changed and removed from many sessions while others add the changes up; one session is rolled back.
#[tokio::test]
async fn the_sums_are_those_of_the_cases_whoever_writes_and_adds_up_at_once() {
    let world = World::new().await;
    let kept = history::HistoryConfig {
        minutes_kept: std::time::Duration::from_secs(3600),
        hours_kept: std::time::Duration::from_secs(7200),
        days_kept: std::time::Duration::from_secs(86_400),
        duplicates_kept: std::time::Duration::from_secs(86_400),
        sources_max: 10,
    };
    let write = |writer: usize| {
        let (world, kept) = (&world, &kept);
        async move {
            let mut connection = world.connect().await;
            for round in 0..20 {
                let mut transaction = connection.begin().await.unwrap();
                let insert = format!(
                    "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint, amount, currency)
                     select '/providers/' || n % 3, '{writer}-{round}-' || n, 'unknown_account', 'made by a test', ''::bytea, 'open', 1,
                            sha256('x'), n * 1000000000000000, case when n % 2 = 0 then 'EUR' else 'JPY' end
                     from generate_series(1, 10) n
                     union all
                     select null, null, 'malformed', 'made by a test', ''::bytea, 'open', 1, sha256('{writer}-{round}'), null, null"
                );
                sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut *transaction).await.unwrap();
                let ends = format!(
                    "update quarantine set state = 'discarded', resolved_at = now() where event_id like '{writer}-{round}-_';
                     update quarantine set source = 'assigned', amount = amount + 1 where event_id = '{writer}-{round}-10';
                     delete from quarantine where event_id = '{writer}-{round}-1'"
                );
                sqlx::raw_sql(sqlx::AssertSqlSafe(ends)).execute(&mut *transaction).await.unwrap();
                match round % 5 {
                    4 => transaction.rollback().await.unwrap(),
                    _ => transaction.commit().await.unwrap(),
                }
                history::roll_up(&mut connection, kept).await.expect("added up");
            }
        }
    };
    tokio::join!(write(1), write(2), write(3));
    let mut connection = world.connect().await;
    let of = |state| quarantine::Filter { states: vec![state], ..Default::default() };
    let counted = quarantine::sums(&mut connection, &of("open"), i64::MAX).await.unwrap();
    let standing = case_sums::standing(&mut connection).await.unwrap();
    assert!(counted.cases > 0 && counted.money.iter().all(|(_, sum)| *sum > i128::from(i64::MAX) / 1000));
    assert_eq!(standing.open, quarantine::Sums { id_max: None, ..counted });
    assert_eq!(standing.count("open", Some("malformed")), 48);
    assert!(world.number("select count(*) from case_sums").await > 0, "some were added up");
    world.close().await;
}

/// Rows of cases that were read until now, by the server's own count.
const READ: &str = "select (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_user_tables where relname = 'quarantine'";

#[tokio::test]
async fn no_case_is_read_to_say_how_many_there_are_and_what_they_are_about() {
    const CASES: i64 = 20_000;
    let world = World::new().await;
    let mut connection = world.connect().await;
    sqlx::raw_sql(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint, amount, currency)
         select '/providers/' || n % 3, 'evt_' || n, 'unknown_account', 'made by a test', '', 'open', 1, sha256(n::text::bytea), n, 'EUR'
         from generate_series(1, 20000) n;
         analyze quarantine",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    // An audit reads all there is.
    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_AUDIT_PAUSE_MS", "0");
    })
    .await;
    eventually("the cases", true, || async { told(&dashboard).await.0.contains("20,000 open cases") }).await;
    for path in ["/", "/api/overview", "/metrics", "/providers"] {
        for _ in 0..3 {
            assert_eq!(dashboard.get(path).await.status, 200, "{path}");
        }
    }
    // Sessions say what they have read when they end.
    dashboard.stop().await;
    eventually("the dashboard's sessions", 0, || {
        world.number("select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
    })
    .await;
    let read = world.number(READ).await;
    assert!(read < CASES / 10, "{read} rows of cases were read");
    world.close().await;
}
