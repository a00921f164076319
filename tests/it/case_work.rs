//! Who works on a case, and what people note about it: shown wherever cases are, written into the audit log, and without any weight in what becomes
//! of the case.

use serde_json::{Value, json};

use crate::support::{Dashboard, Event, World, csrf_of};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn program(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = world.program(arguments).output().await.expect("the payonce binary runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code(), said)
}

/// The ids that a list of the command line has.
async fn listed(world: &World, filter: &[&str]) -> Vec<i64> {
    let (_, lines) = program(world, &[&["quarantine", "list", "--json"], filter].concat()).await;
    let id = |line: &str| serde_json::from_str::<Value>(line).ok()?["id"].as_i64();
    lines.lines().map(|line| id(line).unwrap_or_else(|| panic!("{lines}"))).collect()
}

/// (who, action, why, result, cases) of each line of the audit log.
async fn lines(world: &World) -> Vec<(String, String, String, Option<String>, i64)> {
    sqlx::query_as("select who, action, why, result, cases from operator_actions order by id")
        .fetch_all(&mut world.connect().await)
        .await
        .expect("the audit log can be read")
}

/// Three open cases, 1 to 3, of one account that is not open.
async fn three_cases() -> World {
    let world = World::new().await;
    let worker = world.worker().await;
    for (at, id) in (1..).zip(["p1", "p2", "p3"]) {
        world.publish(&[Event::payment("payment.succeeded", id, "a", id, 5)]).await;
        world.settled(at).await;
    }
    worker.stop().await;
    world
}

#[tokio::test]
async fn a_case_has_the_person_who_took_it_until_it_is_handed_back() {
    let world = three_cases().await;
    let take = ["quarantine", "take", "1", "2", "--by", "anna", "--idempotency-key", "k1"];
    assert_eq!(program(&world, &take).await, (Some(0), "2 cases for anna\n".to_owned()));
    // Sent again it is the same request, and another one under its key is refused.
    assert_eq!(program(&world, &take).await.0, Some(0));
    let other = ["quarantine", "take", "3", "--by", "anna", "--idempotency-key", "k1"];
    assert_eq!(program(&world, &other).await.0, Some(1));
    assert_eq!(listed(&world, &["--assignee", "anna"]).await, [2, 1]);
    assert_eq!(listed(&world, &["--unassigned"]).await, [3]);
    let (_, table) = program(&world, &["quarantine", "list"]).await;
    assert!(table.contains("assignee") && table.contains("anna"), "{table}");
    let (_, csv) = program(&world, &["quarantine", "list", "--csv", "--assignee", "anna"]).await;
    assert!(csv.lines().skip(1).all(|line| line.ends_with(",anna")), "{csv}");

    let dashboard = Dashboard::start(&world).await;
    let post = async |path: &str, body: Value| dashboard.send("POST", path, &[JSON], &body.to_string()).await;
    let taken = post("/api/quarantine/take", json!({ "ids": [2], "assignee": "bob" })).await;
    assert_eq!((taken.status, &taken.json()["outcome"]), (200, &json!({ "taken": 1, "assignee": "bob" })));
    let taken = post("/api/quarantine/take", json!({ "ids": [3] })).await;
    assert_eq!(taken.json()["outcome"]["assignee"], "local operator");
    for (body, status) in [
        (json!({ "ids": [] }), 400),
        (json!({ "ids": [1, 99] }), 404),
        (json!({ "ids": [1], "assignee": "" }), 400),
    ] {
        assert_eq!(post("/api/quarantine/take", body.clone()).await.status, status, "{body}");
    }
    let mine = dashboard.get("/api/quarantine?assignee=bob").await.json();
    let ids: Vec<_> = mine["cases"].as_array().unwrap().iter().map(|case| &case["id"]).collect();
    assert_eq!(ids, [2]);
    assert_eq!(dashboard.get("/api/quarantine?assignee=bob&unassigned=yes").await.status, 400);

    // The page: what is mine, what is nobody's, and the buttons.
    let page = dashboard.get("/quarantine?assignee=bob").await;
    assert!(page.body.contains("/quarantine/2\"") && !page.body.contains("/quarantine/1\""), "{page:?}");
    assert!(page.body.contains("assignee=local+operator"), "a way to what is mine: {page:?}");
    let csrf = csrf_of(&page);
    let back = dashboard.act("", &csrf, &[("id", "2"), ("id", "3"), ("verb", "hand_back")]).await;
    assert_eq!(back.status, 303, "{back:?}");
    let all = dashboard.act("", &csrf, &[("id", "1"), ("scope", "all"), ("verb", "take")]).await;
    assert_eq!(all.status, 400, "all that fit are not taken: {all:?}");
    let nothing = dashboard.get("/quarantine?unassigned=yes").await.body;
    assert!(nothing.contains("/quarantine/2\"") && nothing.contains("/quarantine/3\""), "{nothing}");
    dashboard.stop().await;

    // It decides nothing: the case is applied as any, and keeps its name for those who ask later.
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "a", 100)]).await;
    world.settled(4).await;
    worker.stop().await;
    assert_eq!(program(&world, &["quarantine", "replay", "--all"]).await.0, Some(0));
    assert_eq!(world.account("a").await, Some((85, 0, 4)));
    let (code, said) = program(&world, &["quarantine", "take", "1"]).await;
    assert!(code == Some(1) && said.contains("none of these cases is open or waiting"), "{said}");
    assert_eq!(listed(&world, &["--state", "replayed", "--assignee", "anna"]).await, [1]);
    world.audit().await;
    let acts: Vec<_> = lines(&world).await.into_iter().map(|(who, action, ..)| (who, action)).collect();
    let by_us = ("local operator".to_owned(), "hand_back".to_owned());
    assert_eq!(acts[0], ("anna".to_owned(), "take".to_owned()));
    assert!(acts.contains(&by_us) && acts.len() == 5, "{acts:?}");
    world.close().await;
}

#[tokio::test]
async fn a_note_stands_with_its_case_and_in_the_audit_log() {
    let world = three_cases().await;
    let text = "asked Stripe, ticket 4711";
    let note = ["quarantine", "note", "1", "2", "--text", text, "--by", "anna"];
    assert_eq!(program(&world, &note).await, (Some(0), "noted about 2 cases\n".to_owned()));
    let expected =
        ("anna".to_owned(), "note".to_owned(), text.to_owned(), Some("noted about 2 cases".to_owned()), 2);
    assert_eq!(lines(&world).await, [expected]);

    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/quarantine/2").await;
    assert!(page.body.contains(text) && page.body.contains("anna"), "{page:?}");
    let fields = [("id", "3"), ("verb", "note"), ("why", "<b>& no word from them</b>"), ("key", "once")];
    for _ in 0..2 {
        let noted = dashboard.act("", &csrf_of(&page), &fields).await;
        assert_eq!(noted.status, 303, "{noted:?}");
    }
    let page = dashboard.get("/quarantine/3").await.body;
    assert!(page.contains("&lt;b&gt;&amp; no word from them"), "{page}");
    let empty = dashboard.act("", &csrf_of(&dashboard.get("/quarantine/3").await), &fields[..2]).await;
    assert_eq!(empty.status, 400, "a note without words: {empty:?}");
    let story = dashboard.get("/api/event?source=%2Fproviders%2Ftest&id=p3").await.json();
    assert_eq!(story["acts"][0]["action"], "note");
    let body = json!({ "ids": [1], "text": "paid by hand" }).to_string();
    let noted = dashboard.send("POST", "/api/quarantine/note", &[JSON], &body).await;
    assert_eq!((noted.status, &noted.json()["outcome"]), (200, &json!({ "noted": 1 })));
    let log = dashboard.get("/api/audit-log?action=note").await.json();
    assert_eq!(log["lines"].as_array().map(Vec::len), Some(3), "{log}");
    // Of one key there is one note, and another one under it is refused, not lost.
    for (text, status) in [("one", 200), ("one", 200), ("another", 422)] {
        let body = json!({ "ids": [1], "text": text }).to_string();
        let key = ("Idempotency-Key", "note-1");
        let noted = dashboard.send("POST", "/api/quarantine/note", &[JSON, key], &body).await;
        assert_eq!(noted.status, status, "{noted:?}");
    }
    // Also of a case that has ended.
    let discard = ["quarantine", "discard", "1", "--why", "w", "--yes"];
    assert_eq!(program(&world, &discard).await.0, Some(0));
    assert_eq!(program(&world, &["quarantine", "note", "1", "--text", "late"]).await.0, Some(0));
    assert_eq!(program(&world, &["quarantine", "note", "99", "--text", "late"]).await.0, Some(1));
    dashboard.stop().await;
    world.audit().await;
    world.close().await;
}
