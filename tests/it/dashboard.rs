//! What the dashboard and its API say and do, without a browser.

use serde_json::{Value, json};

use crate::support::{Dashboard, Event, World, csrf_of, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");

fn debit(id: &str, payment: &str, amount: i64) -> Event {
    Event::payment("payment.succeeded", id, "a", payment, amount)
}

/// Some of everything: applied, copies by several layers, cases, one that waits.
async fn lively() -> World {
    let world = World::new().await;
    let worker = world.worker().await;
    let steps: [&[Event]; 6] = [
        &[Event::deposit("d1", "a", 100), Event::deposit("d2", "b", 50)],
        &[debit("s1", "p1", 30), debit("s1", "p1", 30), debit("s2", "p2", 500)],
        &[debit("s1", "p1", 30), debit("s2", "p2", 500), debit("s1", "p1", 31)],
        &[Event::payment("payment.captured", "early", "a", "late", 5)],
        &[debit("o1", "p3", 1).operation("op")],
        &[debit("o2", "p3", 1).operation("op"), Event::deposit("d1", "a", 100)],
    ];
    let mut settled = 0;
    for events in steps {
        world.publish(events).await;
        settled += events.len() as i64;
        world.settled(settled).await;
    }
    world
        .publish_raw(&[(
            "a".to_owned(),
            br#"{"id":"bad","cvv":"98765","note":"4242 4242 4242 4242""#.to_vec(),
        )])
        .await;
    world.settled(settled + 1).await;
    worker.stop().await;
    world
}

/// (received, applied, duplicates, quarantined, open) by the tables.
async fn by_tables(world: &World) -> [i64; 5] {
    [
        world.number("select coalesce(sum(n), 0)::bigint from tallies where kind <> 'released'").await,
        world.number("select count(*) from ledger").await,
        world.number("select coalesce(sum(n), 0)::bigint from tallies where kind = 'duplicate'").await,
        world.number("select coalesce(sum(n), 0)::bigint from tallies where kind = 'quarantined'").await,
        world.number("select count(*) from quarantine where state = 'open'").await,
    ]
}

async fn by_api(dashboard: &Dashboard) -> [i64; 5] {
    let overview = dashboard.get("/api/overview").await.json();
    let number = |value: &Value| value.as_i64().unwrap_or(-1);
    [
        number(&overview["received"]),
        number(&overview["applied"]),
        number(&overview["duplicates"]),
        number(&overview["quarantined"]),
        number(&overview["cases"]["open"]),
    ]
}

/// The same numbers but the cases, by the sums of the metrics.
async fn by_metrics(dashboard: &Dashboard) -> [i64; 4] {
    let text = dashboard.get("/metrics").await.body;
    [
        "payonce_pool_callbacks_received_total",
        "payonce_pool_callbacks_applied_total",
        "payonce_pool_duplicates_rejected_total",
        "payonce_pool_callbacks_quarantined_total",
    ]
    .map(|name| {
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<i64>().ok()).sum()
    })
}

/// The same numbers as they stand on the page.
async fn by_page(dashboard: &Dashboard) -> [i64; 5] {
    let page = dashboard.get("/").await.body;
    ["received", "applied", "duplicates", "quarantined", "open"].map(|name| {
        let (_, rest) =
            page.split_once(&format!("data-text=\"{name}\">")).expect("the number is on the page");
        rest.split('<').next().unwrap_or_default().replace(',', "").parse().expect("a number")
    })
}

#[tokio::test]
async fn the_page_the_api_the_metrics_and_the_tables_agree_to_the_last_one_also_after_a_replay() {
    let world = lively().await;
    let dashboard = Dashboard::start(&world).await;
    let agree = async || {
        let expected = by_tables(&world).await;
        eventually("the API agrees with the tables", expected, || by_api(&dashboard)).await;
        eventually("the page agrees with the tables", expected, || by_page(&dashboard)).await;
        assert_eq!(by_metrics(&dashboard).await, expected[..4]);
        let layers = dashboard.get("/api/overview").await.json()["duplicates_by_layer"].clone();
        let by_layer: i64 = layers.as_object().unwrap().values().map(|n| n.as_i64().unwrap()).sum();
        assert_eq!(by_layer, expected[2], "{layers}");
        expected
    };
    let before = agree().await;
    assert_eq!(before, [13, 4, 5, 4, 3], "received, applied, duplicates, quarantined, open");
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d3", "a", 1_000)]).await;
    world.settled(14).await;
    worker.stop().await;
    let answer = dashboard
        .send(
            "POST",
            "/api/quarantine/replay",
            &[JSON],
            r#"{"reason":"insufficient_funds","why":"topped up"}"#,
        )
        .await;
    assert_eq!((answer.status, &answer.json()["cases"]), (200, &json!(1)), "{answer:?}");
    let after = agree().await;
    assert_eq!(after, [14, 6, 5, 4, 2]);
    // The history of the last hour has every one of them too.
    let chart = dashboard.get("/api/duplicates?range=1h").await.json();
    assert_eq!(chart["sources"][0]["duplicates"], json!(5), "{chart}");
    world.audit().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn who_did_what_and_why_is_kept_whichever_channel_they_used() {
    let world = lively().await;
    let dashboard = Dashboard::start(&world).await;
    let ids: Vec<i64> = sqlx::query_scalar("select id from quarantine where state = 'open' order by id")
        .fetch_all(&mut world.connect().await)
        .await
        .unwrap();
    let by_command = world
        .program(&["quarantine", "replay", &ids[0].to_string(), "--by", "carol", "--why", "by hand"])
        .output()
        .await
        .unwrap();
    assert_eq!(by_command.status.code(), Some(0));
    let replay = format!(r#"{{"ids":[{}],"why":"by program"}}"#, ids[0]);
    let headers = [JSON, ("x-operator", "ignored without a token")];
    assert_eq!(dashboard.send("POST", "/api/quarantine/replay", &headers, &replay).await.status, 200);
    let csrf = csrf_of(&dashboard.get("/quarantine").await);
    let id = ids[0].to_string();
    let discard = [("id", id.as_str()), ("verb", "discard"), ("why", "<b>on</b> the page")];
    let asked = dashboard.act("", &csrf, &discard).await;
    assert!(asked.status == 200 && asked.body.contains("Discard 1 case?"), "{asked:?}");
    let answer = dashboard.act("", &csrf, &[&discard[..], &[("confirmed", "yes")]].concat()).await;
    assert_eq!(answer.header("location"), "/audit-log/3");
    let log: Vec<(String, String, String, String, i64, String)> =
        sqlx::query_as("select who, via, action, why, cases, result from operator_actions order by id")
            .fetch_all(&mut world.connect().await)
            .await
            .unwrap();
    let line = |who: &str, via: &str, action: &str, why: &str, result: &str| {
        (who.to_owned(), via.to_owned(), action.to_owned(), why.to_owned(), 1, result.to_owned())
    };
    let refused = "0 applied, 0 known already, 1 still refused, 0 waiting, 0 untouched (ended meanwhile, or not decodable)";
    assert_eq!(
        log,
        [
            line("carol", "command line", "replay", "by hand", refused),
            line("local operator", "api", "replay", "by program", refused),
            line("local operator", "web", "discard", "<b>on</b> the page", "1 discarded"),
        ]
    );
    let case = dashboard.get(&format!("/quarantine/{}", ids[0])).await.body;
    for part in ["carol", "by program", "&lt;b&gt;on&lt;/b&gt; the page", "1 discarded"] {
        assert!(case.contains(part), "{part} is not in {case}");
    }
    let listed = dashboard.get("/audit-log").await.body;
    assert!(listed.contains("carol") && listed.contains("command line"), "{listed}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_order_that_is_not_clear_changes_nothing() {
    let world = lively().await;
    let dashboard = Dashboard::start(&world).await;
    let cases = world.cases().await;
    for (body, words) in [
        (r#"{"why":"x"}"#, "which cases"),
        (r#"{"ids":[1],"why":" "}"#, "why"),
        (r#"{"reason":"bad_luck","why":"x"}"#, "insufficient_funds"),
        (r#"{"ids":[1],"why":"x","al":true}"#, "al"),
        ("{", ""),
    ] {
        let answer = dashboard.send("POST", "/api/quarantine/discard", &[JSON], body).await;
        assert!((400..=422).contains(&answer.status) && answer.body.contains(words), "{body}: {answer:?}");
    }
    let csrf = csrf_of(&dashboard.get("/quarantine").await);
    for fields in [
        &[("verb", "discard"), ("why", "x")][..],
        &[("id", "1"), ("verb", "discard"), ("why", "")],
        &[("id", "1"), ("verb", "drop"), ("why", "x")],
    ] {
        assert_eq!(dashboard.act("", &csrf, fields).await.status, 400, "{fields:?}");
    }
    // All of them: only after the number was named.
    let all = [("scope", "all"), ("state", "open"), ("verb", "discard"), ("why", "x"), ("id_max", "1000")];
    let asked = dashboard.act("", &csrf, &all).await;
    assert!(asked.status == 200 && asked.body.contains("Discard 3 cases?"), "{asked:?}");
    assert_eq!(world.cases().await, cases);
    let confirmed = dashboard.act("", &csrf, &[&all[..], &[("confirmed", "yes")]].concat()).await;
    assert_eq!(confirmed.status, 303);
    eventually("open cases, but not the one that waits, are discarded", (3, 1), async || {
        (
            world.number("select count(*) from quarantine where state = 'discarded'").await,
            world.number("select count(*) from quarantine where state = 'waiting'").await,
        )
    })
    .await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_discard_is_asked_about_with_its_money_and_taken_back_on_the_page_and_by_the_api() {
    let world = lively().await;
    let dashboard = Dashboard::start(&world).await;
    let csrf = csrf_of(&dashboard.get("/quarantine").await);
    let (id, amount): (i64, i64) =
        sqlx::query_as("select id, amount from quarantine where reason = 'insufficient_funds' limit 1")
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap();
    let state = async || -> String {
        sqlx::query_scalar("select state from quarantine where id = $1")
            .bind(id)
            .fetch_one(&mut world.connect().await)
            .await
            .unwrap()
    };
    let case = id.to_string();
    let discard = [("id", case.as_str()), ("verb", "discard"), ("why", "a slip")];
    let asked = dashboard.act("", &csrf, &discard).await.body;
    let money = format!("{}.{:02} EUR", amount / 100, amount % 100);
    for part in ["Discard 1 case?", &money, "Reopening takes a discard back", &case] {
        assert!(asked.contains(part), "{part} is not in {asked}");
    }
    assert_eq!(state().await, "open");
    let reopen = [("id", case.as_str()), ("verb", "reopen"), ("why", "it was a slip")];
    for _ in 0..2 {
        let discarded = dashboard.act("", &csrf, &[&discard[..], &[("confirmed", "yes")]].concat()).await;
        assert_eq!((discarded.status, state().await.as_str()), (303, "discarded"));
        let page = dashboard.get(&format!("/quarantine/{id}")).await.body;
        assert!(page.contains("value=\"reopen\"") && !page.contains("value=\"discard\""), "{page}");
        let listed = dashboard.get("/quarantine?state=discarded").await.body;
        assert!(listed.contains("value=\"reopen\""), "{listed}");
        assert_eq!(dashboard.act("", &csrf, &reopen).await.status, 303);
        assert_eq!(state().await, "open");
    }
    dashboard.act("", &csrf, &[&discard[..], &[("confirmed", "yes")]].concat()).await;
    let by_api = format!(r#"{{"ids":[{id}],"why":"by program"}}"#);
    let answer = dashboard.send("POST", "/api/quarantine/reopen", &[JSON], &by_api).await;
    assert_eq!((answer.status, &answer.json()["result"]), (200, &Value::from("1 reopened")), "{answer:?}");
    assert_eq!(state().await, "open");
    let log = dashboard.get("/audit-log").await.body;
    assert!(log.contains("reopen") && log.contains("it was a slip"), "{log}");
    dashboard.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_case_is_assigned_by_page_and_by_program() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "alice", 1_000)]).await;
    world.settled(1).await;
    for (n, id) in ["one", "two"].into_iter().enumerate() {
        world.publish(&[Event::payment("payment.succeeded", id, "alcie", id, 100)]).await;
        world.settled(n as i64 + 2).await;
    }
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let csrf = csrf_of(&dashboard.get("/quarantine").await);
    let page = dashboard.get("/quarantine/1").await.body;
    assert!(page.contains("value=\"assign\"") && page.contains("name=\"account\""), "{page}");
    let nobody = [("id", "1"), ("verb", "assign"), ("why", "mistyped"), ("account", "")];
    assert_eq!(dashboard.act("", &csrf, &nobody).await.status, 400);
    let assign = [("id", "1"), ("verb", "assign"), ("why", "mistyped"), ("account", "alice")];
    assert_eq!(dashboard.act("", &csrf, &assign).await.status, 303);
    assert_eq!(world.account("alice").await, Some((900, 0, 2)));
    let by_api = async |body: &str| dashboard.send("POST", "/api/quarantine/assign", &[JSON], body).await;
    let refused = by_api(r#"{"id":2,"account":"nobody","why":"by program"}"#).await;
    let words = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(words.contains("not assigned: there is no account"), "{refused:?}");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (422, &"unknown_account".into()));
    assert_eq!(by_api(r#"{"id":99,"account":"alice","why":"by program"}"#).await.status, 404);
    assert_eq!(by_api(r#"{"id":2,"account":"","why":"by program"}"#).await.status, 400);
    let made = by_api(r#"{"id":2,"account":"alice","why":"by program"}"#).await;
    let words = made.json()["result"].as_str().unwrap_or_default().to_owned();
    assert!(made.status == 200 && words.contains("assigned from account \"alcie\""), "{made:?}");
    assert_eq!(world.account("alice").await, Some((800, 0, 3)));
    let ended = by_api(r#"{"id":2,"account":"alice","why":"by program"}"#).await;
    assert_eq!((ended.status, &ended.json()["error"]["code"]), (409, &"ended".into()));
    let log = dashboard.get("/audit-log").await.body;
    assert!(log.contains("Assignment") || log.contains("assign"), "{log}");
    dashboard.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_body_is_shown_as_it_came_but_for_what_is_sensitive() {
    let world = lively().await;
    let dashboard = Dashboard::start(&world).await;
    let id = world.number("select id from quarantine where reason = 'malformed'").await;
    for path in [format!("/quarantine/{id}"), format!("/api/quarantine/{id}")] {
        let shown = dashboard.get(&path).await.body;
        assert!(shown.contains("cvv") && shown.contains("•••") && shown.contains("note"), "{shown}");
        assert!(!shown.contains("98765") && !shown.contains("4242 4242"), "{shown}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_id_leads_to_its_story_and_a_story_to_the_next() {
    let world = lively().await;
    let dashboard = Dashboard::start(&world).await;
    for (id, place) in [
        ("d2", "/event?source=%2Fproviders%2Ftest&id=d2"),
        ("p1", "/payment?source=%2Fproviders%2Ftest&id=p1"),
        ("b", "/account?id=b"),
        ("op", "/event?source=%2Fproviders%2Ftest&id=o1"),
    ] {
        assert_eq!(dashboard.get(&format!("/find?id={id}")).await.header("location"), place);
    }
    for (path, words) in [
        (
            "/event?source=%2Fproviders%2Ftest&id=s1",
            &["Applied", "rejected", "payload_mismatch", "/payment?", "/account?"][..],
        ),
        ("/event?source=%2Fproviders%2Ftest&id=early", &["Quarantined", "waiting_for_payment"]),
        ("/payment?source=%2Fproviders%2Ftest&id=p1", &["succeeded", "balance −0.30 = 0.70"]),
        ("/account?id=a", &["69", "s1", "Related cases", "insufficient_funds"]),
        ("/account?id=a&before=2", &["d1"]),
        ("/find?id=nothing", &["No results"]),
        ("/quarantine?reason=malformed", &["malformed"]),
        ("/quarantine?state=waiting", &["waiting_for_payment"]),
        ("/duplicates", &["payload_mismatch", "/providers/test", "s1"]),
    ] {
        let answer = dashboard.get(path).await;
        for word in words {
            assert!(answer.body.contains(word), "{path}: {word} is not in {}", answer.body);
        }
    }
    for (path, key) in [
        ("/api/event?source=%2Fproviders%2Ftest&id=s1", "applied"),
        ("/api/payment?source=%2Fproviders%2Ftest&id=p1", "state"),
        ("/api/account?id=a", "balance"),
        ("/api/find?id=s1", "events"),
        ("/api/history?range=24h", "series"),
        ("/api/quarantine?limit=2", "next_before"),
        ("/api/quarantine/1", "body"),
    ] {
        let value = dashboard.get(path).await.json();
        assert!(!value[key].is_null(), "{path}: {value}");
    }
    for path in [
        "/event?source=x&id=y",
        "/payment?source=x&id=y",
        "/account?id=y",
        "/quarantine/77",
        "/quarantine/x",
        "/audit-log/77",
        "/api/quarantine/77",
        "/api/event?source=x&id=y",
    ] {
        assert_eq!(dashboard.get(path).await.status, 404, "{path}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn all_that_fit_means_the_same_on_every_page() {
    let world = World::new().await;
    let worker = world.worker().await;
    let case = |n: i32| debit(&format!("e{n}"), &format!("p{n}"), 1);
    world.publish(&(0..60).map(case).collect::<Vec<_>>()).await;
    world.settled(60).await;
    let newest = world.number("select max(id) from quarantine").await;
    let dashboard = Dashboard::start(&world).await;
    let first = dashboard.get("/quarantine").await.body;
    let (_, older) = first.split_once("rel=\"next\" href=\"").expect("an older page");
    let older = older.split('"').next().unwrap_or_default().replace("&amp;", "&");
    // What comes between the two is on neither.
    world.publish(&[case(60)]).await;
    world.settled(61).await;
    worker.stop().await;
    let second = dashboard.get(&older).await.body;
    for page in [first, second] {
        assert!(page.contains(&format!("name=\"id_max\" value=\"{newest}\"")), "{newest}: {page}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_open_page_keeps_nothing_from_stopping() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let (event, stream) = dashboard.listen().await;
    assert_eq!(event["texts"]["received"], "0");
    dashboard.stop().await;
    drop(stream);
    world.close().await;
}

#[tokio::test]
async fn an_adjustment_is_seen_before_and_posted_once_however_often_its_form_is_sent() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 10_000)]).await;
    world.settled(1).await;
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/adjust?account=a&currency=EUR").await;
    let csrf = csrf_of(&page);
    let (_, rest) = page.body.split_once("name=\"id\" value=\"").expect("the form has an id");
    let id = rest.split('"').next().unwrap_or_default().to_owned();
    let send = async |amount: &str, confirmed: &str| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let fields = [("csrf", csrf.as_str()), ("id", &id), ("account", "a"), ("amount", amount)];
        form.extend_pairs(fields).extend_pairs([
            ("currency", "EUR"),
            ("why", "a slip"),
            ("confirmed", confirmed),
        ]);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        dashboard.send("POST", "/adjust", &headers, &form.finish()).await
    };
    for amount in ["", "0", "1.999", "1,50", "1e3", "99999999999999999999"] {
        let refused = send(amount, "yes").await;
        assert!(refused.body.contains("The amount is not one of EUR"), "{amount}: {}", refused.body);
    }
    let seen = send("-120.50", "").await.body;
    for words in ["100.00 EUR", "-20.50 EUR", "Owes then", "20.50 EUR", "a slip"] {
        assert!(seen.contains(words), "{words} is not in {seen}");
    }
    assert_eq!(world.account("a").await, Some((10_000, 0, 1)), "nothing is posted by looking");
    let (first, second) = tokio::join!(send("-120.50", "yes"), send("-120.50", "yes"));
    assert_eq!((first.status, second.status), (303, 303), "{first:?} {second:?}");
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!(world.account("a").await, Some((-2_050, 0, 2)));
    let other = send("-1", "yes").await;
    assert!(other.body.contains("used for another adjustment"), "{other:?}");

    // The same by the API.
    let by_api = async |key: &str, body: Value| {
        let headers = [JSON, ("idempotency-key", key)];
        dashboard.send("POST", "/api/adjust", &headers, &body.to_string()).await
    };
    let credit = |amount: i64, currency: &str| json!({ "account": "a", "direction": "credit", "amount": amount, "currency": currency, "why": "w" });
    let (posted, again) = (by_api("k", credit(50, "EUR")).await, by_api("k", credit(50, "EUR")).await);
    assert_eq!((posted.status, &posted.json()["balance_decimal"]), (200, &"-20.00".into()), "{posted:?}");
    assert_eq!((again.status, &again.json()["repeated"]), (200, &true.into()), "{again:?}");
    assert_eq!(by_api("k", credit(51, "EUR")).await.json()["error"]["code"], "key_reused");
    let wrong = by_api("l", credit(50, "USD")).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (422, &"currency_mismatch".into()));
    assert_eq!(by_api("l", credit(0, "EUR")).await.status, 400);
    assert_eq!(world.account("a").await, Some((-2_000, 0, 3)));
    dashboard.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_proposal_is_approved_by_another_person_over_page_and_api() {
    const TOKEN: &str = "operator-token-0123456789";
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 100)]).await;
    world.settled(1).await;
    worker.stop().await;
    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_OPS_TOKEN", TOKEN).env("PAYONCE_APPROVALS", "adjust");
    })
    .await;
    let bearer = format!("Bearer {TOKEN}");
    let send = async |who: &str, path: &str, body: Value| {
        let headers = [JSON, ("authorization", bearer.as_str()), ("x-operator", who)];
        dashboard.send("POST", path, &headers, &body.to_string()).await
    };
    let wanted = json!({ "account": "a", "direction": "debit", "amount": 30, "currency": "EUR", "why": "w", "id": "x" });
    for _ in 0..2 {
        let proposed = send("anna", "/api/adjust", wanted.clone()).await;
        assert_eq!((proposed.status, &proposed.json()["proposal"]["id"]), (202, &1.into()), "{proposed:?}");
    }
    let own = send("Anna", "/api/approvals/1/approve", json!({})).await;
    assert_eq!((own.status, &own.json()["error"]["code"]), (403, &"own_proposal".into()), "{own:?}");
    assert_eq!(send("bob", "/api/approvals/9/approve", json!({})).await.status, 404);
    assert_eq!(world.account("a").await, Some((100, 0, 1)));

    // Bob's page has the button, and the amount as people write it.
    let form = ("content-type", "application/x-www-form-urlencoded");
    let log_in = format!("name=bob&token={TOKEN}&next=%2Fapprovals");
    let cookie = dashboard.send("POST", "/login", &[form], &log_in).await.header("set-cookie").to_owned();
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    let page = dashboard.send("GET", "/approvals/1", &[("cookie", &cookie)], "").await;
    assert!(page.body.contains("-0.30 EUR") && page.body.contains("Approve, and do it"), "{}", page.body);
    let body = format!("csrf={}", csrf_of(&page));
    let as_bob = [form, ("cookie", cookie.as_str())];
    let (first, second) = tokio::join!(
        dashboard.send("POST", "/approvals/1/approve", &as_bob, &body),
        dashboard.send("POST", "/approvals/1/approve", &as_bob, &body)
    );
    let statuses = [first.status, second.status];
    assert!(statuses.contains(&303), "{first:?} {second:?}");
    assert_eq!(world.account("a").await, Some((70, 0, 2)));
    let again = send("bob", "/api/approvals/1/approve", json!({})).await;
    assert_eq!((again.status, &again.json()["proposed_by"]), (200, &"anna".into()), "{again:?}");
    let late = send("carl", "/api/approvals/1/approve", json!({})).await;
    assert_eq!((late.status, &late.json()["error"]["code"]), (409, &"approved".into()), "{late:?}");
    assert_eq!(send("carl", "/api/approvals/1/reject", json!({ "why": "w" })).await.status, 409);
    let repeated = send("anna", "/api/adjust", wanted).await;
    assert_eq!((repeated.status, &repeated.json()["outcome"]), (200, &"approved".into()), "{repeated:?}");
    let log = dashboard.send("GET", "/audit-log", &[("cookie", &cookie)], "").await.body;
    assert!(log.contains("bob") && log.contains("proposed by anna"), "{log}");

    // What was rejected is not proposed again under its id: page and API say so, since when, and what to do.
    let wanted = json!({ "account": "a", "direction": "debit", "amount": 30, "currency": "EUR", "why": "w", "id": "y" });
    assert_eq!(send("anna", "/api/adjust", wanted.clone()).await.status, 202);
    assert_eq!(send("carl", "/api/approvals/2/reject", json!({ "why": "too soon" })).await.status, 200);
    let refused = send("anna", "/api/adjust", wanted).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &"rejected".into()), "{refused:?}");
    let body = format!("{body}&account=a&amount=-0.30&currency=EUR&why=w&id=y&confirmed=yes");
    let page = dashboard.send("POST", "/adjust", &as_bob, &body).await;
    assert!(page.body.contains("/approvals/2"), "{}", page.body);
    for said in [refused.body, page.body] {
        let has = |words: &str| said.contains(words);
        assert!(
            has("proposal 2 (adjust debit 0.30 EUR") && has("too soon") && has("ask with another"),
            "{said}"
        );
        assert!(has("was rejected by carl at 20"), "{said}");
    }
    dashboard.stop().await;
    world.audit().await;
    world.close().await;
}

/// Whoever is woken by the alert reads on the page which, since when, why, and what to do.
#[tokio::test]
async fn a_disabled_subscriber_is_shown_with_why_and_the_command_that_enables_it() {
    let world = World::new().await;
    sqlx::raw_sql(
        "insert into webhooks (name, disabled_at, disabled_why) values ('main:webhook:shop', clock_timestamp() - interval '2 hours', 'it <b>has</b> answered 410');
         insert into webhooks (name, failing_since) values ('main:webhook:slow', clock_timestamp() - interval '3 minutes');
         insert into webhooks (name) values ('main:webhook:well');
         insert into webhook_accounts (subscriber, account_id, delivered, wanted, attempts, failing_since, due_at, last_error)
         values ('main:webhook:slow', 'a', 0, 1, 4, clock_timestamp(), clock_timestamp(), 'status 503')",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/workers").await.body;
    let row = |name: &str| {
        let from = page.find(&format!("main:webhook:{name}")).unwrap_or_else(|| panic!("{name}: {page}"));
        page[from..].split("</tr>").next().unwrap().to_owned()
    };
    let shop = row("shop");
    let command = "payonce feed subscribers enable shop";
    for words in ["disabled", "2 h", "it &lt;b&gt;has&lt;/b&gt; answered 410", command] {
        assert!(shop.contains(words), "{words}: {shop}");
    }
    let slow = row("slow");
    assert!(slow.contains("failing") && slow.contains("status 503") && !slow.contains("enable"), "{slow}");
    let well = row("well");
    assert!(well.contains(">up<") && !well.contains("enable"), "{well}");
    dashboard.stop().await;
    world.close().await;
}
