//! The operators' API against its own description, `/api/v1/openapi.json`: its paths, what each takes, and what it answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    access::JSON,
    support::{Answer, Dashboard, Event, World},
};

/// With an account, a payment, a case, a line of the audit log and a proposal.
async fn with_history(world: &World) -> Dashboard {
    let worker = world.worker().await;
    let events = [
        Event::deposit("d1", "a", 10_000),
        Event::payment("payment.succeeded", "s1", "a", "p1", 500),
        Event::payment("payment.succeeded", "s2", "nobody", "p2", 1),
    ];
    for (n, event) in (1..).zip(&events) {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(n).await;
    }
    worker.stop().await;
    let dashboard = Dashboard::start_with(world, |command| {
        command.env("PAYONCE_APPROVALS", "adjust");
    })
    .await;
    let discarded = post(&dashboard, "/quarantine/discard", r#"{"ids": [1], "why": "w"}"#).await;
    assert_eq!(discarded.status, 200, "{discarded:?}");
    let correction = r#"{"account": "a", "direction": "debit", "amount": 1, "currency": "EUR", "why": "w"}"#;
    let proposed = post(&dashboard, "/adjust", correction).await;
    assert_eq!(proposed.status, 202, "{proposed:?}");
    dashboard
}

async fn post(dashboard: &Dashboard, path: &str, body: &str) -> Answer {
    dashboard.send("POST", &format!("/api/v1{path}"), &[JSON], body).await
}

async fn described(dashboard: &Dashboard) -> Value {
    dashboard.get("/api/v1/openapi.json").await.json()
}

/// (method, path, what is said of it).
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |methods: &'_ Value| methods.as_object().expect("methods").clone();
    let pairs = paths.iter().flat_map(|(path, methods)| {
        of(methods).keys().cloned().map(move |method| (method, path.as_str(), methods)).collect::<Vec<_>>()
    });
    let known = ["get", "post"];
    pairs
        .map(|(method, path, methods)| {
            let method = known.into_iter().find(|known| *known == method).expect("get or post");
            (method, path, &methods[method])
        })
        .collect()
}

fn names(list: &Value, of: &str) -> BTreeSet<String> {
    let all = list.as_array().into_iter().flatten().filter(|parameter| parameter["in"] == of);
    all.map(|parameter| parameter["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn every_route_of_the_api_is_described_and_no_other() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let document = described(&dashboard).await;
    let text: Vec<&str> = include_str!("../../src/ops/pool.rs").split_whitespace().collect();
    let text = text.join(" ");
    let routed: BTreeSet<(&str, String)> = text
        .split(".route(")
        .filter_map(|route| {
            let (path, methods) = route.trim_start().strip_prefix("\"/api")?.split_once("\", ")?;
            let words = path.split('/').map(|word| if word.starts_with('{') { "{id}" } else { word });
            let method = if methods.starts_with("act(") { "post" } else { "get" };
            Some((method, words.collect::<Vec<_>>().join("/")))
        })
        .collect();
    let found: BTreeSet<(&str, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path.to_owned())).collect();
    assert!(routed.len() > 20, "{routed:?}");
    assert_eq!(found, routed);
    let ids: BTreeSet<&str> =
        operations(&document).iter().filter_map(|(.., said)| said["operationId"].as_str()).collect();
    assert_eq!(ids.len(), found.len(), "each has a name of its own");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn what_is_described_is_what_each_path_takes() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let document = described(&dashboard).await;
    for (method, path, said) in operations(&document) {
        let at = format!("/api/v1{}", path.replace("{id}", "1"));
        let known = if method == "get" {
            let known = names(&said["parameters"], "query");
            if known.is_empty() {
                continue;
            }
            let refused = dashboard.get(&format!("{at}?zzz=1")).await;
            assert_eq!(refused.status, 400, "{path}: {refused:?}");
            let words = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
            let (_, taken) = words.split_once("unknown parameter; expected ").expect(&words);
            assert_eq!(taken.split(", ").map(str::to_owned).collect::<BTreeSet<_>>(), known, "{path}");
            known
        } else {
            let schema = &said["requestBody"]["content"]["application/json"]["schema"];
            let Some(properties) = schema["properties"].as_object() else { continue };
            let known: BTreeSet<String> = properties.keys().cloned().collect();
            let refused = dashboard.send("POST", &at, &[JSON], r#"{"zzz": 1}"#).await;
            assert_eq!(refused.status, 422, "{path}: {refused:?}");
            let words = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
            let (_, taken) = words.split_once("unknown field `zzz`, expected ").expect(&words);
            let taken: BTreeSet<String> = taken.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            assert_eq!(taken, known, "{path}: {words}");
            known
        };
        assert!(!known.is_empty(), "{path}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn answers_have_the_status_the_form_and_the_members_that_are_described() {
    let world = World::new().await;
    let dashboard = with_history(&world).await;
    let document = described(&dashboard).await;
    let mut answered = BTreeSet::new();
    for (path, query, status) in [
        ("/overview", "", 200),
        ("/workers", "", 200),
        ("/providers", "", 200),
        ("/history", "range=1h", 200),
        ("/duplicates", "range=24h", 200),
        ("/quarantine", "state=all", 200),
        ("/quarantine", "state=bogus", 400),
        ("/quarantine/groups", "state=all", 200),
        ("/quarantine/{id}", "", 200),
        ("/approvals", "all=true", 200),
        ("/approvals/{id}", "", 200),
        ("/debts", "currency=EUR", 200),
        ("/report", "month=2026-01", 200),
        ("/audit-log", "action=discard", 200),
        ("/audit-log/{id}", "", 200),
        ("/find", "id=s", 200),
        ("/event", "source=%2Fproviders%2Ftest&id=s1", 200),
        ("/payment", "source=%2Fproviders%2Ftest&id=p1", 200),
        ("/account", "id=a", 200),
        ("/account", "id=nobody", 404),
        ("/account/statement", "id=a&month=2026-01", 200),
        ("/openapi.json", "", 200),
    ] {
        let said = &document["paths"][path]["get"];
        let at = format!("{}?{query}", path.replace("{id}", "1"));
        let answer = dashboard.get(&format!("/api/v1{at}")).await;
        assert_eq!(answer.status, status, "{at}: {answer:?}");
        let response = &said["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}: {status} is not described");
        let value = answer.json();
        if status != 200 {
            assert!(
                value["error"]["code"].is_string() && value["error"]["message"].is_string(),
                "{answer:?}"
            );
            continue;
        }
        assert_eq!(value.is_array(), schema["type"] == "array", "{path}");
        for member in schema["required"].as_array().into_iter().flatten() {
            let member = member.as_str().expect("a name");
            assert!(value.get(member).is_some(), "{path} has no {member}: {value}");
        }
        // Without a version in its path it is the same.
        assert_eq!(dashboard.get(&format!("/api{at}")).await.status, 200, "{path}");
        answered.insert(path);
    }
    let gets = operations(&document).into_iter().filter(|(method, ..)| *method == "get");
    assert_eq!(answered, gets.map(|(_, path, _)| path).collect(), "each has been asked");
    for (path, form) in
        [("/quarantine?export=csv", "text/csv"), ("/audit-log?export=ndjson", "application/x-ndjson")]
    {
        let answer = dashboard.get(&format!("/api/v1{path}")).await;
        assert!(answer.header("content-type").starts_with(form), "{answer:?}");
        let path = path.split('?').next().unwrap_or_default();
        assert!(document["paths"][path]["get"]["responses"]["200"]["content"][form].is_object(), "{path}");
    }
    for (path, body, status) in [
        ("/quarantine/replay", r#"{"ids": [999], "why": "w"}"#, 404),
        ("/quarantine/replay", r#"{"ids": [1], "all": true, "why": "w"}"#, 400),
        ("/quarantine/reopen", r#"{"ids": [1], "why": "w"}"#, 200),
        ("/quarantine/assign", r#"{"id": 1, "account": "b", "why": "w"}"#, 422),
        ("/adjust", r#"{"account": "a"}"#, 422),
        ("/approvals/{id}/approve", "{}", 403),
        ("/approvals/{id}/reject", r#"{"why": "w"}"#, 200),
    ] {
        let answer = post(&dashboard, &path.replace("{id}", "1"), body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        let responses = &document["paths"][path]["post"]["responses"];
        assert!(responses[status.to_string()].is_object(), "{path}: {status} is not described");
        let is_error = answer.json()["error"]["code"].is_string();
        assert_eq!(is_error, status >= 400, "{answer:?}");
    }
    let elsewhere = dashboard.get("/api/v2/overview").await;
    assert_eq!((elsewhere.status, &elsewhere.json()["error"]["code"]), (404, &json!("not_found")));
    dashboard.stop().await;
    world.close().await;
}
