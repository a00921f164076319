//! `payonce report`: a period is closed to the cent, in the days of a time zone, and the same report can be made again.

use serde_json::Value;

use sqlx::Connection;

use crate::support::{Dashboard, Event, World, eventually};

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

const READER: &str = "reader-token-0123456789ab";

#[tokio::test]
async fn the_page_and_its_api_make_the_report_that_the_command_makes() {
    let world = World::new().await;
    let worker = world.worker_with(&[("order_wait_ms", "60000")]).await;
    world.publish(&story()).await;
    rows(&world, 9).await;
    worker.stop().await;
    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_OPS_READONLY_TOKEN", READER);
    })
    .await;
    let token = format!("Bearer {READER}");
    let bearer = [("authorization", token.as_str())];
    let get = async |path: &str| dashboard.send("GET", path, &bearer, "").await;
    // Made again as it was then, and so the same whoever makes it.
    let asked = "month=2026-10&by=occurred&time_zone=Asia%2FTokyo&at=2100-01-01T00:00:00Z";
    let flags = [
        "--month",
        "2026-10",
        "--by",
        "occurred",
        "--time-zone",
        "Asia/Tokyo",
        "--at",
        "2100-01-01T00:00:00Z",
    ];
    let timeless = |mut report: Value| {
        assert!(report.as_object_mut().is_some_and(|report| report.remove("as_of").is_some()));
        report
    };
    let by_api = timeless(get(&format!("/api/report?{asked}")).await.json());
    assert_eq!(by_api, timeless(json(&world, &flags).await));
    assert_eq!(by_api["booked_by"], "occurred_at");
    for table in ["movements", "balances", "clearing"] {
        let answer = get(&format!("/api/report?{asked}&csv={table}")).await;
        let (_, text, _) = report(&world, &[&flags[..], &["--csv", table]].concat()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, text.as_str()), "{table}");
        assert!(answer.header("content-type").starts_with("text/csv"), "{answer:?}");
        let name = format!("attachment; filename=\"payonce-{table}-2026-10-01-2026-10-31.csv\"");
        assert_eq!(answer.header("content-disposition"), name);
    }
    let page = get(&format!("/reports?{asked}")).await;
    // In Tokyo the evening of the 31st is the next morning: what came at 22:30 UTC is of November.
    for words in [
        "2026-10-02",
        "2.00",
        "\u{2212}2.00",
        "The trial balance of every currency is 0",
        "booked by occurred_at",
    ] {
        assert!(page.status == 200 && page.body.contains(words), "{words} is not in {page:?}");
    }
    assert!(!page.body.contains("102.00"), "{page:?}");
    assert!(page.body.contains("/api/report?month=2026-10&amp;by=occurred"), "its CSV is offered: {page:?}");
    let unasked = get("/reports").await.body;
    assert!(unasked.contains("Choose the days of the report"), "opening the page makes no report: {unasked}");
    for (asked, words) in [
        ("", "month: missing; expected month, or from and to"),
        ("month=2026-13", "month: expected a month such as 2026-10"),
        ("month=2026-10&time_zone=CET", "time zone \"CET\" is none"),
        ("month=2026-10&csv=all", "csv: \"all\" is unknown; expected movements, balances, clearing"),
        ("from=2026-10-02&to=2026-10-01", "to: 2026-10-01 comes before"),
        ("month=2026-10&zone=UTC", "zone: unknown parameter"),
    ] {
        let answer = get(&format!("/api/report?{asked}")).await;
        assert_eq!(answer.status, 400, "{asked}: {answer:?}");
        let said = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(said.starts_with(words), "{asked}: {said}");
    }
    assert_eq!(dashboard.get("/api/report?month=2026-10").await.status, 401, "not for strangers");

    let harm = "alter table ledger disable trigger all;
                update ledger set balance_delta = balance_delta - 1 where event_id = 't1' and leg = 1;
                alter table ledger enable trigger all";
    sqlx::raw_sql(harm).execute(&mut world.connect().await).await.unwrap();
    let page = get("/reports?month=2026-11&by=occurred").await.body;
    assert!(page.contains("The trial balance is not 0") && page.contains("-0.01 EUR"), "{page}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_report_of_the_page_that_takes_too_long_ends_and_says_what_to_do() {
    let world = World::new().await;
    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_REPORT_DEADLINE_MS", "1000");
    })
    .await;
    let mut other = world.connect().await;
    let mut holding = other.begin().await.unwrap();
    sqlx::query("lock table ledger in access exclusive mode").execute(&mut *holding).await.unwrap();
    for path in ["/api/report?month=2026-10", "/reports?month=2026-10"] {
        let late = dashboard.get(path).await;
        assert_eq!(late.status, 503, "{late:?}");
        assert!(late.body.contains("report_deadline_ms") && late.body.contains("payonce report"), "{late:?}");
    }
    // Those of the report: the audits of this dashboard wait for the same lock, again and again.
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                   and query like '%to_char(day%'";
    eventually("statements that nobody waits for", 0, || world.number(waiting)).await;
    holding.rollback().await.unwrap();
    assert_eq!(dashboard.get("/api/report?month=2026-10").await.status, 200, "and the next is made");
    dashboard.stop().await;
    world.close().await;
}

/// Three ledger rows of an account, on the last day of October and the first of November in UTC, and one of a day later.
async fn with_an_account(world: &World) {
    let rows = "insert into accounts (account_id, currency, balance, held, version) values ('a', 'EUR', 8000, 500, 4), ('idle', 'EUR', 0, 0, 0);
         insert into ledger (source, event_id, type, account_id, account_version, payment_id, amount, currency, balance_delta, held_delta,
                             balance_after, held_after, payload_sha256, recorded_at, occurred_at)
         values ('s', 'd1', 'deposit.succeeded', 'a', 1, null, 10000, 'EUR', 10000, 0, 10000, 0, sha256('1'), '2026-10-31T23:59:59.999999Z', '2026-01-01'),
                ('s', 'h1', 'payment.authorized', 'a', 2, 'p', 3000, 'EUR', 0, 3000, 10000, 3000, sha256('2'), '2026-11-01T00:00:00Z', null),
                ('s', '=c1', 'payment.captured', 'a', 3, 'p', 2500, 'EUR', -2500, -2500, 7500, 500, sha256('3'), '2026-11-01T10:00:00Z', null),
                ('s', 'd2', 'deposit.succeeded', 'a', 4, null, 500, 'EUR', 500, 0, 8000, 500, sha256('4'), '2026-11-02T00:00:00Z', null)";
    sqlx::raw_sql(rows).execute(&mut world.connect().await).await.unwrap();
}

#[tokio::test]
async fn a_statement_begins_and_ends_with_what_the_account_had_and_each_row_says_what_is_left() {
    let world = World::new().await;
    with_an_account(&world).await;
    let dashboard = Dashboard::start(&world).await;
    let account = async |arguments: &[&str]| {
        let output =
            world.program(&["account", "a"]).args(arguments).output().await.expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    };
    let (code, text, error) = account(&["--from", "2026-11-01", "--json"]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let first: Value = serde_json::from_str(&text).expect("JSON");
    let standing =
        |of: &Value| ["balance", "held", "available", "version"].map(|name| of[name].as_i64().unwrap());
    assert_eq!(
        standing(&first["opening"]),
        [10_000, 0, 10_000, 1],
        "the day before ends a microsecond before this one"
    );
    assert_eq!(standing(&first["closing"]), [7_500, 500, 7_000, 3]);
    assert_eq!(first["closing"]["available_decimal"], "70.00");
    let left: Vec<i64> = first["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["available_after"].as_i64().unwrap())
        .collect();
    assert_eq!(
        (left, &first["entries_total"], &first["booked_by"]),
        (vec![7_000, 7_000], &2.into(), &"recorded_at".into())
    );
    assert_eq!(first["preliminary"], false);

    // In Tokyo the last hours of October are of November already.
    let (_, text, _) = account(&["--month", "2026-11", "--time-zone", "Asia/Tokyo", "--csv"]).await;
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(
        lines[0],
        "version,recorded_at,occurred_at,type,currency,balance_delta,balance,held_delta,held,available,payment_id,event_id,source"
    );
    assert_eq!(lines[1], "0,2026-10-31T15:00:00Z,,opening,EUR,,0.00,,0.00,0.00,,,");
    assert_eq!(
        lines[2],
        "1,2026-10-31T23:59:59.999999Z,2026-01-01T00:00:00Z,deposit.succeeded,EUR,100.00,100.00,0.00,0.00,100.00,,d1,s"
    );
    assert_eq!(
        lines[4],
        "3,2026-11-01T10:00:00Z,,payment.captured,EUR,-25.00,75.00,-25.00,5.00,70.00,p,'=c1,s"
    );
    assert_eq!((lines[6], lines.len()), ("4,2026-11-30T15:00:00Z,,closing,EUR,,80.00,,5.00,75.00,,,", 7));
    let by_api =
        dashboard.get("/api/account/statement?id=a&month=2026-11&time_zone=Asia%2FTokyo&csv=yes").await;
    assert_eq!((by_api.status, by_api.body.as_str()), (200, text.as_str()));

    // Page by page.
    let one = dashboard.get("/api/account/statement?id=a&from=2026-11-01&limit=1").await.json();
    assert_eq!((&one["entries"][0]["event_id"], &one["next_after_version"]), (&"h1".into(), &2.into()));
    let two =
        dashboard.get("/api/account/statement?id=a&from=2026-11-01&limit=1&after_version=2").await.json();
    assert_eq!((&two["entries"][0]["event_id"], &two["next_after_version"]), (&"=c1".into(), &Value::Null));
    assert_eq!(
        standing(&two["opening"]),
        [10_000, 0, 10_000, 1],
        "the opening is that of the days, not of the page"
    );

    let page = dashboard.get("/account/statement?id=a&from=2026-11-01").await.body;
    for words in [
        "100.00 EUR",
        "75.00 EUR",
        "held 5.00 EUR, available 70.00 EUR",
        "\u{2212}25.00",
        "booked by recorded_at",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    let (code, text, _) = account(&["--from", "2026-11-01"]).await;
    assert!(code == 0 && text.contains("booked by recorded_at") && text.contains("-25.00"), "{text}");
    // Days before there was anything, and an account in which nothing ever moved.
    let before = dashboard.get("/api/account/statement?id=a&month=2020-01").await.json();
    assert_eq!((standing(&before["opening"]), standing(&before["closing"])), ([0; 4], [0; 4]));
    let idle = dashboard.get("/api/account/statement?id=idle&month=2026-11").await.json();
    assert_eq!((standing(&idle["closing"]), &idle["entries_total"]), ([0; 4], &0.into()));

    for (arguments, code, words) in [
        (&["--to", "2026-11-01"][..], 2, "--from"),
        (&["--time-zone", "Europe/Berlin"], 2, "give it with --month"),
        (&["--csv"], 2, "--csv is of a statement"),
        (&["--from", "2026-11-01", "--csv", "--json"], 2, "cannot be used with"),
        (&["--from", "2026-11-01", "--before", "3"], 2, "cannot be used with"),
        (&["--from", "2026-11-01", "--time-zone", "Mars/Base"], 2, "IANA time zone database"),
    ] {
        let (found, text, error) = account(arguments).await;
        assert_eq!((found, text.as_str()), (code, ""), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    let unknown = world.program(&["account", "nobody", "--from", "2026-11-01"]).output().await.unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(dashboard.get("/api/account/statement?id=nobody&month=2026-11").await.status, 404);
    assert_eq!(dashboard.get("/account/statement?id=nobody&month=2026-11").await.status, 404);
    assert_eq!(dashboard.get("/account/statement?id=a").await.status, 400);
    dashboard.stop().await;
    world.close().await;
}
