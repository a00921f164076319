//! Cases in groups: an operator sees what is stuck, how much money it is, and since when, on the page, by the API and on the command line alike.

use serde_json::{Value, json};

use crate::support::{Dashboard, Event, World};

fn debit(id: &str, account: &str, amount: i64) -> Event {
    Event::payment("payment.succeeded", id, account, id, amount)
}

/// What groups say, but for their times.
fn timeless(groups: impl Iterator<Item = Value>) -> Vec<Value> {
    groups
        .map(|mut group| {
            let members = group.as_object_mut().expect("an object");
            assert!(members.remove("oldest").is_some() && members.remove("newest").is_some());
            group
        })
        .collect()
}

#[tokio::test]
async fn what_is_stuck_is_said_with_its_money_by_page_api_and_command_line() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let worker = world.worker().await;
    let yen = |event: Event| Event { currency: "JPY", ..event };
    world
        .publish(&[
            Event::deposit("d1", "a", 100),
            yen(Event::deposit("d2", "y", 100)),
            debit("p1", "a", 63_483),
            debit("p2", "a", 1_000),
            yen(debit("p3", "y", 178_017)),
            debit("p4", "nobody", 700),
        ])
        .await;
    world.publish_raw(&[("k".to_owned(), b"{".to_vec())]).await;
    world.settled(7).await;
    worker.stop().await;

    let group = |reason: &str, source: Option<&str>, money: Value, cases: i64, unreadable: i64| {
        json!({
            "state": "open", "reason": reason, "source": source, "cases": cases, "last_hour": cases, "hour_before": 0,
            "money": money, "unreadable": unreadable,
        })
    };
    let of = |amount: i64, currency: &str, decimal: &str| json!({ "amount": amount, "currency": currency, "amount_decimal": decimal });
    let source = Some("/providers/test");
    let stuck = json!([of(64_483, "EUR", "644.83"), of(178_017, "JPY", "178017")]);
    let expected = [
        group("insufficient_funds", source, stuck, 3, 0),
        group("malformed", None, json!([]), 1, 1),
        group("unknown_account", source, json!([of(700, "EUR", "7.00")]), 1, 0),
    ];
    let answer = dashboard.get("/api/quarantine/groups").await.json();
    assert_eq!(timeless(answer["groups"].as_array().unwrap().iter().cloned()), expected);
    let one = dashboard.get("/api/quarantine/groups?reason=unknown_account").await.json();
    assert_eq!(timeless(one["groups"].as_array().unwrap().iter().cloned()), expected[2..]);
    assert_eq!((&answer["other_cases"], &answer["has_more"]), (&0.into(), &false.into()));
    assert_eq!(dashboard.get("/api/quarantine/groups?reason=bogus").await.status, 400);

    let output = world.program(&["quarantine", "groups", "--json"]).output().await.unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(timeless(lines.lines().map(|line| serde_json::from_str(line).unwrap())), expected);
    let output = world.program(&["quarantine", "groups"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["644.83 EUR", "178,017 JPY", "1 of an unknown amount", "5 cases in 3 groups"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }

    // Each row of the page leads to its cases, and their list has amounts and accounts.
    let page = dashboard.get("/quarantine").await.body;
    for words in ["644.83 EUR", "178,017 JPY", "634.83 EUR", "/account?id=nobody"] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    let link = "/quarantine?state=open&amp;reason=insufficient_funds&amp;source=%2Fproviders%2Ftest";
    assert!(page.contains(link), "{link} is not in {page}");
    let listed = dashboard.get(&link.replace("&amp;", "&")).await.body;
    assert!(listed.contains("644.83 EUR"), "its sum stands above it: {listed}");
    let of_account = dashboard.get("/quarantine?account=a").await.body;
    assert!(
        of_account.contains("account=a\">insufficient_funds"),
        "the list of a group is no larger than it: {of_account}"
    );
    assert!(listed.contains("634.83 EUR") && !listed.contains("/account?id=nobody"), "{listed}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_group_without_a_source_leads_to_its_cases_and_to_no_others() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish_raw(&[("k".to_owned(), b"{".to_vec()), ("k".to_owned(), b"[".to_vec())]).await;
    // Readable as far as its source, and malformed all the same.
    let with_source = br#"{"specversion":"1.0","id":"m","source":"/providers/test","type":"deposit.succeeded","subject":"a","data":{"amount":"x"}}"#;
    world.publish_raw(&[("k".to_owned(), with_source.to_vec())]).await;
    world.settled(3).await;
    worker.stop().await;
    let unread = world.number("select count(*) from quarantine where source is null").await;
    let all = world.number("select count(*) from quarantine").await;
    assert!(all == 3 && unread >= 2, "{unread} of {all}");
    sqlx::raw_sql(
        "update quarantine set source = '/providers/test' where id = (select max(id) from quarantine)",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/quarantine").await.body;
    let link = "/quarantine?state=open&amp;reason=malformed&amp;without_source=yes";
    assert!(page.contains(&format!("{link}\"")), "{link} is not in {page}");
    let listed = dashboard.get(&link.replace("&amp;", "&")).await.body;
    assert!(
        listed.contains("2 in all") && listed.contains("name=\"without_source\" value=\"yes\""),
        "{listed}"
    );
    let answer = dashboard.get("/api/quarantine?without_source=yes").await.json();
    assert_eq!(answer["cases"].as_array().map(Vec::len), Some(2));
    assert_eq!(dashboard.get("/api/quarantine?without_source=yes&source=s").await.status, 400);
    assert_eq!(dashboard.get("/api/quarantine?without_source=no").await.status, 400);
    let output = world.program(&["quarantine", "list", "--without-source", "--json"]).output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    // What is done to the group is done to it alone.
    let discard = ["quarantine", "discard", "--without-source", "--why", "w", "--yes", "--json"];
    let output = world.program(&discard).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        world.number("select count(*) from quarantine where state = 'open' and source is not null").await,
        1
    );
    assert_eq!(world.number("select count(*) from quarantine where state = 'discarded'").await, 2);
    let log = dashboard.get("/audit-log").await.body;
    assert!(log.contains("without a source"), "{log}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_case_that_needs_a_person_says_what_to_do_and_one_that_has_ended_does_not() {
    let world = World::new().await;
    sqlx::raw_sql(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint, resolved_at)
         select '/providers/test', 'evt_' || n, reason, 'd', '', state, 1, sha256(n::text::bytea), case when state = 'discarded' then now() end
         from (values (1, 'unknown_account', 'open'), (2, 'waiting_for_payment', 'waiting'), (3, 'unknown_account', 'discarded')) c(n, reason, state)",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let dashboard = Dashboard::start(&world).await;
    for (case, words) in [(1, Some("assign the right one")), (2, Some("it is applied by itself")), (3, None)]
    {
        let page = dashboard.get(&format!("/quarantine/{case}")).await.body;
        assert_eq!(page.contains("What to do: "), words.is_some(), "{page}");
        assert!(words.is_none_or(|words| page.contains(words)), "{words:?} is not in {page}");
    }
    dashboard.stop().await;
    world.close().await;
}
