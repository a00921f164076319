//! `payonce report`: a period is closed to the cent, in the days of a time zone, and the same report can be made again.

use serde_json::Value;

use crate::support::{Event, World, eventually};

async fn report(world: &World, arguments: &[&str]) -> (i32, String, String) {
    let output = world.program(&["report"]).args(arguments).output().await.expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

async fn rows(world: &World, count: i64) {
    eventually("rows of the ledger", count, || world.number("select count(*) from ledger")).await;
}

async fn json(world: &World, arguments: &[&str]) -> Value {
    let (code, text, error) = report(world, &[arguments, &["--json"]].concat()).await;
    assert_eq!((code, error.as_str()), (0, ""), "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// (day, type, callbacks, amount, change of balances, change of holds) of each movement in EUR.
fn movements(report: &Value) -> Vec<(&str, &str, i64, i64, i64, i64)> {
    let rows = report["movements"].as_array().expect("movements").iter();
    rows.filter(|row| row["currency"] == "EUR")
        .map(|row| {
            let number = |name: &str| row[name].as_i64().expect("a number");
            (
                row["day"].as_str().unwrap(),
                row["type"].as_str().unwrap(),
                number("callbacks"),
                number("amount"),
                number("balance_delta"),
                number("held_delta"),
            )
        })
        .collect()
}

fn row<'a>(report: &'a Value, table: &str, member: &str, value: &str) -> &'a Value {
    let rows = report[table].as_array().expect("a table");
    rows.iter().find(|row| row[member] == value).unwrap_or_else(|| panic!("no {value} in {report}"))
}

/// The end of October, in UTC, and the first of November.
fn story() -> Vec<Event> {
    let october = "2026-10-31T22:30:00Z";
    let november = "2026-11-01T08:00:00Z";
    let yen = Event { currency: "JPY", ..Event::deposit("y", "yen", 500) };
    vec![
        Event::deposit("d1", "a", 10_000).at(october),
        Event::deposit("d2", "b", 200).at("2026-10-02T00:00:00Z"),
        Event::payment("payment.authorized", "h1", "a", "p1", 3_000).at(october),
        Event::payment("payment.captured", "c1", "a", "p1", 1_000).at(november),
        Event::new("transfer.succeeded", "t1", "a", None, 700).operation("t1").with("to", "b").at(november),
        Event::new("fee.charged", "f1", "b", None, 1_500).at(november),
        yen.at(november),
        // In Havana the clock goes back over midnight here: half an hour after the first of two.
        Event::deposit("d3", "havana", 40).at("2026-11-01T04:30:00Z"),
    ]
}

#[tokio::test]
async fn a_month_is_closed_to_the_cent_by_the_days_of_a_time_zone() {
    let world = World::new().await;
    let worker = world.worker_with(&[("order_wait_ms", "60000")]).await;
    let events = story();
    world.publish(&events).await;
    rows(&world, 9).await;
    worker.stop().await;

    let october = json(&world, &["--month", "2026-10", "--by", "occurred"]).await;
    let expected = [
        ("2026-10-02", "deposit.succeeded", 1, 200, 200, 0),
        ("2026-10-31", "deposit.succeeded", 1, 10_000, 10_000, 0),
        ("2026-10-31", "payment.authorized", 1, 3_000, 0, 3_000),
    ];
    assert_eq!(movements(&october), expected);
    let euro = row(&october, "balances", "currency", "EUR");
    assert_eq!(
        (&euro["opening"], &euro["closing"], &euro["held"]),
        (&0.into(), &10_200.into(), &3_000.into())
    );
    assert_eq!((&euro["closing_decimal"], &euro["trial_balance"]), (&"102.00".into(), &0.into()));
    let clearing = row(&october, "clearing", "source", "/providers/test");
    assert_eq!((&clearing["closing"], &clearing["closing_decimal"]), (&(-10_200).into(), &"-102.00".into()));

    let november = json(&world, &["--from", "2026-11-01", "--to", "2026-11-30", "--by", "occurred"]).await;
    let expected = [
        ("2026-11-01", "deposit.succeeded", 1, 40, 40, 0),
        ("2026-11-01", "fee.charged", 1, 1_500, -1_500, 0),
        ("2026-11-01", "payment.captured", 1, 1_000, -1_000, -1_000),
        // Two accounts, one callback: what the one gives the other has.
        ("2026-11-01", "transfer.succeeded", 1, 700, 0, 0),
    ];
    assert_eq!(movements(&november), expected);
    let euro = row(&november, "balances", "currency", "EUR");
    assert_eq!((&euro["opening"], &euro["movements"]), (&10_200.into(), &(-2_460).into()));
    assert_eq!((&euro["closing"], &euro["clearing"]), (&7_740.into(), &(-7_740).into()));
    let yen = row(&november, "balances", "currency", "JPY");
    assert_eq!((&yen["closing"], &yen["closing_decimal"]), (&500.into(), &"500".into()));

    // In Tokyo the evening of the 31st is the next morning: the same rows, of another month.
    let tokyo = ["--month", "2026-10", "--by", "occurred", "--time-zone", "Asia/Tokyo"];
    assert_eq!(movements(&json(&world, &tokyo).await), [("2026-10-02", "deposit.succeeded", 1, 200, 200, 0)]);

    // A day that begins twice begins once: what comes between its two midnights belongs to it.
    let havana = |month| ["--month", month, "--by", "occurred", "--time-zone", "America/Havana"];
    let (october, november) =
        (json(&world, &havana("2026-10")).await, json(&world, &havana("2026-11")).await);
    let row = ("2026-11-01", "deposit.succeeded", 1, 40, 40, 0);
    assert!(
        !movements(&october).contains(&row) && movements(&november).contains(&row),
        "{october} {november}"
    );
    let closed = "select count(*) from (select txn from ledger group by txn having count(distinct recorded_at) > 1) split";
    assert_eq!(world.number(closed).await, 0, "no report ends within a batch");

    // Text shows amounts as money.
    let (code, text, _) = report(&world, &["--month", "2026-11", "--by", "occurred"]).await;
    assert!(code == 0 && text.contains("77.40") && text.contains("-24.60"), "{text}");
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn what_accounts_owed_and_what_was_recorded_later_is_known_for_any_moment() {
    let world = World::new().await;
    let worker = world.worker_with(&[("order_wait_ms", "60000")]).await;
    world.publish(&[Event::deposit("d1", "a", 100), Event::new("fee.charged", "f1", "a", None, 350)]).await;
    rows(&world, 2).await;
    let now: String = sqlx::query_scalar(
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )
    .fetch_one(&mut world.connect().await)
    .await
    .unwrap();
    world.publish(&[Event::deposit("d2", "a", 1_000)]).await;
    rows(&world, 3).await;
    worker.stop().await;
    let (first, last) = ("2026-01-01", "2099-12-31");
    let before = json(&world, &["--from", first, "--to", last, "--at", &now]).await;
    let after = json(&world, &["--from", first, "--to", last]).await;
    let euro = |report: &Value| {
        let euro = row(report, "balances", "currency", "EUR");
        ["closing", "debts", "accounts_in_debt", "clearing", "trial_balance"]
            .map(|name| euro[name].as_i64().unwrap())
    };
    assert_eq!(euro(&before), [-250, 250, 1, 250, 0]);
    assert_eq!(euro(&after), [750, 0, 0, -750, 0]);
    assert_eq!((&before["preliminary"], &after["preliminary"]), (&true.into(), &true.into()));
    let future = json(&world, &["--from", first, "--to", last, "--at", "2101-01-01T00:00:00Z"]).await;
    assert_eq!(future["preliminary"], true, "nobody knows yet what will be recorded");
    let past = json(&world, &["--month", "2020-02"]).await;
    assert_eq!((&past["preliminary"], &past["to"]), (&false.into(), &"2020-02-29".into()));
    assert_eq!(past["balances"], Value::from(Vec::<Value>::new()));
    world.close().await;
}

#[tokio::test]
async fn csv_is_for_spreadsheets_and_no_text_in_it_is_a_formula() {
    let world = World::new().await;
    let insert = "insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                                      balance_after, held_after, payload_sha256, occurred_at)
                  values ('=1+1,\"x\"', 'e', 'deposit.succeeded', 'a', 1, 123456, 'KWD', 123456, 0, 123456, 0, sha256('x'), '2026-10-05')";
    sqlx::raw_sql(insert).execute(&mut world.connect().await).await.unwrap();
    let (code, text, _) =
        report(&world, &["--month", "2026-10", "--by", "occurred", "--csv", "clearing"]).await;
    let expected =
        "source,currency,opening,movements,closing\r\n\"'=1+1,\"\"x\"\"\",KWD,0.000,-123.456,-123.456\r\n";
    assert_eq!((code, text.as_str()), (0, expected));
    let (code, text, _) =
        report(&world, &["--from", "2026-10-05", "--by", "occurred", "--csv", "movements"]).await;
    let row = "2026-10-05,\"'=1+1,\"\"x\"\"\",deposit.succeeded,KWD,1,123.456,123.456,0.000\r\n";
    assert!(code == 0 && text.ends_with(row), "{text}");
    world.close().await;
}

#[tokio::test]
async fn what_cannot_be_reported_is_said_in_words() {
    let world = World::new().await;
    for (arguments, words) in [
        (&["--month", "2026-10", "--time-zone", "Europe/Brelin"][..], "IANA time zone database"),
        (&["--month", "2026-10", "--time-zone", "XYZ-3"], "IANA time zone database"),
        (&["--month", "2026-13"], "expected a month such as 2026-10"),
        (&["--month", "9999-12"], "expected a month such as 2026-10"),
        (&["--from", "9999-12-31"], "of the years 1970 to 9000"),
        (&["--from", "2026-02-30"], "expected a day such as 2026-10-31"),
        (&["--from", "2026-10-02", "--to", "2026-10-01"], "comes before"),
        (&["--to", "2026-10-01"], "--from"),
        (&[], "--month"),
        (&["--month", "2026-10", "--from", "2026-10-01"], "cannot be used with"),
        (&["--month", "2026-10", "--at", "yesterday"], "RFC 3339"),
        (&["--month", "2026-10", "--json", "--csv", "clearing"], "cannot be used with"),
    ] {
        let (code, text, error) = report(&world, arguments).await;
        assert_eq!((code, text.as_str()), (2, ""), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_ledger_that_does_not_balance_is_no_success() {
    let world = World::new().await;
    let worker = world.worker_with(&[("order_wait_ms", "60000")]).await;
    let transfer = Event::new("transfer.succeeded", "t1", "a", None, 60).operation("t1").with("to", "b");
    world.publish(&[Event::deposit("d1", "a", 100), Event::deposit("d2", "b", 100), transfer]).await;
    rows(&world, 4).await;
    worker.stop().await;
    let harm = "alter table ledger disable trigger all;
                update ledger set balance_delta = balance_delta - 1 where event_id = 't1' and leg = 1;
                alter table ledger enable trigger all";
    sqlx::raw_sql(harm).execute(&mut world.connect().await).await.unwrap();
    let (code, text, error) = report(&world, &["--from", "2026-01-01", "--to", "2099-12-31"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(error.contains("-0.01 EUR") && error.contains("payonce audit"), "{error}");
    world.close().await;
}
