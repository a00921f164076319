//! Cases by the day they were opened, by amount and by a text: the page, the API and the command line find the same ones, and read no more of them than
//! is said.

use std::collections::BTreeSet;

use payonce::store::quarantine::{self, Filter, Page, TEXT_READ_MAX};

use serde_json::json;

use crate::support::{Dashboard, World, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Six cases, opened a day apart from 2026-11-01 on at noon; the sixth has ended.
async fn six_cases() -> World {
    let world = World::new().await;
    sqlx::raw_sql(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint, first_seen_at, amount, currency, payment_id, resolved_at)
         select '/providers/test', 'evt_' || n, 'unknown_account', case n when 1 then 'no account Müller' else 'none' end, '',
                case n when 6 then 'discarded' else 'open' end, 1, sha256(n::text::bytea), timestamptz '2026-10-31 12:00Z' + n * interval '1 day',
                case n when 2 then 1234 else 500 end, case n when 3 then 'JPY' else 'EUR' end, 'Pay_' || n, case n when 6 then now() end
         from generate_series(1, 6) n;
         insert into callback_references (event_id, source, name, value) values ('evt_4', '/providers/test', 'customer', 'ann-7')",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    world
}

/// (parameters of an address, arguments of the command, the cases)
const FILTERS: &[(&str, &[&str], &[i64])] = &[
    ("from=2026-11-03", &["--from", "2026-11-03"], &[5, 4, 3]),
    ("to=2026-11-02", &["--to", "2026-11-02"], &[2, 1]),
    (
        "from=2026-11-02T12:00:00Z&to=2026-11-03T12:00:00Z",
        &["--from", "2026-11-02T12:00:00Z", "--to", "2026-11-03T12:00:00Z"],
        &[2],
    ),
    ("from=2026-11-05&state=all", &["--from", "2026-11-05", "--state", "all"], &[6, 5]),
    ("amount=5.00+EUR", &["--amount", "5.00 EUR"], &[5, 4, 1]),
    ("amount=500+JPY", &["--amount", "500 JPY"], &[3]),
    ("text=ACCOUNT+M", &["--text", "ACCOUNT M"], &[1]),
    ("text=EVT_2", &["--text", "EVT_2"], &[2]),
    ("text=pay_3", &["--text", "pay_3"], &[3]),
    ("text=ann-7", &["--text", "ann-7"], &[4]),
    ("text=100%25", &["--text", "100%"], &[]),
    (
        "text=_&from=2026-11-02&amount=5+eur",
        &["--text", "_", "--from", "2026-11-02", "--amount", "5 eur"],
        &[5, 4],
    ),
];

#[tokio::test]
async fn cases_are_found_by_day_amount_and_text_on_page_api_and_command_line_alike() {
    let world = six_cases().await;
    let dashboard = Dashboard::start(&world).await;
    for (query, arguments, expected) in FILTERS {
        let listed = dashboard.get(&format!("/api/v1/quarantine?{query}")).await.json();
        let ids = |cases: &serde_json::Value| -> Vec<i64> {
            cases.as_array().unwrap().iter().filter_map(|case| case["id"].as_i64()).collect()
        };
        assert_eq!(ids(&listed["cases"]), *expected, "{query}");
        let groups = dashboard.get(&format!("/api/v1/quarantine/groups?{query}")).await.json();
        let grouped: i64 =
            groups["groups"].as_array().unwrap().iter().filter_map(|group| group["cases"].as_i64()).sum();
        assert_eq!(grouped, expected.len() as i64, "{query}: {groups}");
        let page = dashboard.get(&format!("/quarantine?{query}")).await;
        let linked: BTreeSet<i64> =
            (1..=6).filter(|id| page.body.contains(&format!("href=\"/quarantine/{id}\""))).collect();
        assert_eq!((page.status, linked), (200, expected.iter().copied().collect()), "{query}");
        let output =
            world.program(&[&["quarantine", "list", "--json"], *arguments].concat()).output().await.unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<i64> = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_i64())
            .collect();
        assert_eq!((output.status.code(), printed), (Some(0), expected.to_vec()), "{arguments:?}");
    }
    // Each chip takes its own part away, and leaves the others.
    let page = dashboard.get("/quarantine?text=pay&amount=5+EUR").await.body;
    for part in [
        "Amount: <strong>5 EUR</strong>",
        "Text: <strong>pay</strong>",
        "aria-label=\"Remove the filter Text\"",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let removal =
        page.split("aria-label=\"Remove the filter Text\"").next().unwrap().rsplit("href=\"").next().unwrap();
    assert!(removal.contains("amount=5+EUR") && !removal.contains("text="), "{removal}");
    // What is done to all that fit is done to these alone.
    let discard = ["quarantine", "discard", "--text", "PAY_2", "--yes", "--why", "a test"];
    assert!(world.program(&discard).output().await.unwrap().status.success());
    assert_eq!(world.number("select min(id) from quarantine where resolved_by is not null").await, 2);
    assert_eq!(world.number("select count(*) from quarantine where state = 'open'").await, 4);
    for (arguments, words) in [
        (
            &["--from", "soon"][..],
            "'soon' for '--from <TIME>': \"soon\" is no day or time: expected a day such as",
        ),
        (
            &["--amount", "12"],
            "'12' for '--amount <MONEY>': \"12\" is not an amount of money: expected an amount and its currency",
        ),
        (&["--from", "2026-11-02", "--to", "2026-11-01"], "--to comes before --from"),
        (&["--text", ""], "--text <TEXT>"),
    ] {
        let output = world.program(&[&["quarantine", "list"], arguments].concat()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(words), "{arguments:?}: {said}");
    }
    dashboard.stop().await;
    world.close().await;
}

/// The form, the API and its description are made from one list: what one of them takes, all do.
#[tokio::test]
async fn a_form_has_a_field_for_everything_that_cases_can_be_asked_for_by() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let document = dashboard.get("/api/v1/openapi.json").await.json();
    let described = document["paths"]["/quarantine/groups"]["get"]["parameters"].as_array().unwrap().clone();
    let names: Vec<&str> = described.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
    assert!(names.contains(&"text") && names.len() > 8, "{names:?}");
    // Those that are yes or nothing have a box once they are set.
    let page = dashboard.get("/quarantine?without_source=yes&unassigned=yes").await.body;
    let form =
        page.split("<form class=\"filters\"").nth(1).and_then(|after| after.split("</form>").next()).unwrap();
    for name in names {
        assert!(form.contains(&format!("name=\"{name}\"")), "{name} is not in {form}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_text_is_looked_for_in_a_bounded_number_of_cases_and_a_list_says_how_far() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    // The only one that fits is the oldest, and lies one case too far down.
    sqlx::raw_sql(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint)
         select '/providers/test', 'evt_' || n, 'unknown_account', case n when 1 then 'needle' else 'hay' end, '', 'open', 1, sha256(n::text::bytea)
         from generate_series(1, 100001) n;
         analyze quarantine",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    assert_eq!(TEXT_READ_MAX, 100_000);
    let filter = Filter { text: Some("needle".to_owned()), states: vec!["open"], ..Filter::default() };
    assert_eq!(quarantine::list(&mut connection, &filter, Page::newest(10)).await.unwrap().len(), 0);
    assert_eq!(quarantine::count_listed(&mut connection, &filter, 10).await.unwrap(), 0);
    // Whoever works all that fit gets all, and whether a second person is needed depends on all.
    assert_eq!(quarantine::count_up_to(&mut connection, &filter, 2).await.unwrap(), 1);
    assert_eq!(quarantine::list(&mut connection, &filter, Page::After(0, 10)).await.unwrap().len(), 1);
    assert_eq!(quarantine::text_read_to(&mut connection, &filter, i64::MAX).await.unwrap(), Some(2));
    assert_eq!(quarantine::text_read_to(&mut connection, &filter, 2).await.unwrap(), None);
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/quarantine?text=needle").await.body;
    assert!(page.contains("100,000 cases were looked through, down to case 2"), "{page}");
    assert!(page.contains("text=needle") && page.contains("before=2"), "{page}");
    let first = dashboard.get("/api/quarantine?text=needle").await.json();
    assert_eq!((first["cases"].as_array().map(Vec::len), &first["next_before"]), (Some(0), &2.into()));
    let second = dashboard.get("/api/quarantine?text=needle&before=2").await.json();
    assert_eq!((&second["cases"][0]["id"], &second["next_before"]), (&1.into(), &serde_json::Value::Null));
    let output = world.program(&["quarantine", "list", "--text", "needle"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("100000 cases were looked through for the text. Go on: --before 2"), "{said}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn what_is_done_over_the_api_takes_every_part_of_the_filter_and_nothing_else_for_a_part() {
    let world = six_cases().await;
    let dashboard = Dashboard::start(&world).await;
    let post = async |act: &str, mut body: serde_json::Value| {
        body["why"] = "closed with the provider".into();
        let path = format!("/api/v1/quarantine/{act}");
        let answer = dashboard.send("POST", &path, &[JSON], &body.to_string()).await;
        (answer.status, answer.body)
    };
    let left = async || -> Vec<i64> {
        let open = "select id from quarantine where state = 'open' order by id";
        sqlx::query_scalar(open).fetch_all(&mut world.connect().await).await.unwrap()
    };
    // Spaces alone are no part: without it every case of this reason would be meant.
    for wrong in [
        json!({ "source": " ", "reason": "unknown_account" }),
        json!({ "amount": "5", "reason": "unknown_account" }),
        json!({ "from": "yesterday" }),
        json!({ "assignee": "anna", "unassigned": true }),
        json!({ "state": "open" }),
        json!({ "unassigned": false }),
    ] {
        let (status, answer) = post("discard", wrong.clone()).await;
        assert!(matches!(status, 400 | 422), "{wrong}: {answer}");
    }
    // Spaces around an id are part of it.
    for other in [json!({ "source": " /providers/test" }), json!({ "source": "/providers/test " })] {
        let (status, answer) = post("discard", other.clone()).await;
        assert!(matches!(status, 200 | 202), "{other}: {answer}");
    }
    assert_eq!(left().await, [1, 2, 3, 4, 5]);
    assert_eq!(post("take", json!({ "ids": [2], "assignee": "anna" })).await.0, 200);
    for (part, expected) in [
        (json!({ "text": "ACCOUNT M" }), &[2, 3, 4, 5][..]),
        (json!({ "amount": "500 JPY" }), &[2, 4, 5]),
        (json!({ "from": "2026-11-05", "to": "2026-11-05" }), &[2, 4]),
        (json!({ "assignee": "anna" }), &[4]),
        (json!({ "unassigned": true, "source": "/providers/test" }), &[]),
    ] {
        let (status, answer) = post("discard", part.clone()).await;
        assert!(matches!(status, 200 | 202), "{part}: {answer}");
        eventually("the cases that are left", expected.to_vec(), left).await;
    }
}
