//! A search by amount and time finds money whose ids nobody knows, and reads a bounded part of the ledger.

use payonce::{
    ledger::Currency,
    store::amounts::{self, ROWS_READ_MAX, Wanted},
};
use serde_json::Value;

use crate::support::{Dashboard, Event, World};

async fn program(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = world.program(arguments).output().await.expect("the payonce binary runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|one| one["event_id"].as_str()).collect()
}

#[tokio::test]
async fn money_is_found_by_its_amount_and_day_wherever_it_ended() {
    let world = World::new().await;
    let worker = world.worker().await;
    let yen = Event { currency: "JPY", ..Event::deposit("yen", "b", 63_483) };
    let events = [
        Event::deposit("more", "a", 63_484),
        Event::deposit("applied", "a", 63_483),
        yen,
        Event::payment("payment.succeeded", "stuck", "nobody", "pay_1", 63_483),
    ];
    for (at, event) in (1..).zip(&events) {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(at).await;
    }
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let api = async |query: &str| dashboard.get(&format!("/api/find?{query}")).await;
    let found = api("amount=634.83+EUR").await.json();
    assert_eq!((ids(&found["entries"]), ids(&found["cases"])), (vec!["applied"], vec!["stuck"]), "{found}");
    assert_eq!((&found["has_more"], &found["read_until"]), (&false.into(), &Value::Null));
    assert_eq!(ids(&api("amount=jpy+63483").await.json()["entries"]), ["yen"]);
    // By day and by time: what is outside is not found.
    let today = "2020-01-01..2999-01-01";
    let (from, to) = today.split_once("..").expect("two days");
    let within = api(&format!("amount=634.83+EUR&from={from}&to={to}")).await.json();
    assert_eq!(ids(&within["entries"]), ["applied"]);
    for outside in ["from=2020-01-01&to=2020-12-31", "from=2999-01-01T00:00:00Z"] {
        let found = api(&format!("amount=634.83+EUR&{outside}")).await.json();
        assert_eq!((ids(&found["entries"]).len(), ids(&found["cases"]).len()), (0, 0), "{outside}");
    }
    for (query, words) in [
        (
            "amount=634.83",
            "amount: \"634.83\" is not an amount of money: expected an amount and its currency",
        ),
        ("amount=1,63+EUR", "amount: \"1,63\" is no amount of EUR"),
        ("amount=634.831+EUR", "amount: \"634.831\" is no amount of EUR"),
        ("amount=0+EUR", "amount: \"0\" is no amount of EUR"),
        ("amount=1+EUR&id=x", "id, amount: expected one of them"),
        ("from=2026-01-01", "id, amount: one of them is missing"),
        ("amount=1+EUR&from=yesterday", "from: \"yesterday\" is no day or time: expected a day such as"),
        ("amount=1+EUR&from=2026-02-01&to=2026-01-01", "to: comes before from"),
    ] {
        let answer = api(query).await;
        let said = answer.json()["error"]["message"].clone();
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(said.as_str().is_some_and(|said| said.starts_with(words)), "{query}: {said}");
        assert_eq!(dashboard.get(&format!("/find?{query}")).await.status, 400, "{query}");
    }
    let page = dashboard.get("/find?amount=634.83+EUR").await.body;
    for words in ["634.83 EUR", "id=applied", "case 1", "unknown_account", "account?id=nobody"] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert!(dashboard.get("/find?amount=1+EUR").await.body.contains("Nothing of this amount"));
    dashboard.stop().await;

    let (code, text) = program(&world, &["find", "--amount", "634.83 EUR"]).await;
    assert!(code == Some(0) && text.contains("applied") && text.contains("case 1, open"), "{text}");
    let (code, text) = program(&world, &["find", "--amount", "1 EUR"]).await;
    assert!(code == Some(1) && text.contains("nothing of 1.00 EUR"), "{text}");
    for wrong in [&["find"][..], &["find", "x", "--amount", "1 EUR"], &["find", "--amount", "1"]] {
        assert_eq!(program(&world, wrong).await.0, Some(2), "{wrong:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn of_more_rows_than_are_read_at_once_it_says_how_far_it_looked() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let rows = "insert into accounts (account_id, currency, balance, held, version) values ('a', 'EUR', 1, 0, 210001);
         insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta, balance_after,
                             held_after, payload_sha256, recorded_at)
         select 's', 'e' || n, 'deposit.succeeded', 'a', n, case when n in (1000, 209000) then 777 else 1 end, 'EUR', 1, 0, n, 0,
                sha256(n::text::bytea), timestamptz '2026-01-01' + n * interval '1 second'
         -- The youngest lies first, as in the room of rows that were rolled back.
         from (select 210001 as n union all select generate_series(1, 210000)) n;
         analyze ledger";
    sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
    let day = |day: u8| {
        time::Date::from_calendar_date(2026, time::Month::January, day).unwrap().midnight().assume_utc()
    };
    let currency = Currency::parse("EUR").unwrap();
    let wanted = Wanted { amount: 777, currency, since: Some(day(1)), until: Some(day(9)) };
    let found = amounts::find(&mut connection, wanted, 50).await.unwrap();
    let ids: Vec<&str> = found.entries.iter().map(|row| row.event_id.as_str()).collect();
    assert_eq!(ids, ["e1000"]);
    let read_until = found.read_until.expect("it was cut short");
    // All but what lies on the page that was read last, which has 100 rows at most.
    let rows = (read_until - day(1)).whole_seconds();
    assert!((ROWS_READ_MAX - 100..=ROWS_READ_MAX).contains(&rows), "{rows}");
    // From there on is the rest, and a shorter time is read whole.
    let rest =
        amounts::find(&mut connection, Wanted { since: Some(read_until), ..wanted }, 50).await.unwrap();
    assert_eq!(rest.entries.iter().map(|row| row.event_id.as_str()).collect::<Vec<_>>(), ["e209000"]);
    assert_eq!(rest.read_until, None);
    // No more are given than were asked for, whatever is there.
    let many =
        amounts::find(&mut connection, Wanted { amount: 1, until: Some(day(2)), ..wanted }, 3).await.unwrap();
    assert_eq!((many.entries.len(), many.has_more, many.read_until), (3, true, None));
    world.close().await;
}
