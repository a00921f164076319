//! What is asked for in a way that cannot be used is refused, by pages and by APIs: no other question is answered, and nothing is done.

use serde_json::Value;

use crate::support::{Dashboard, Event, World};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A world with one open case.
async fn with_a_case() -> World {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::payment("payment.succeeded", "e1", "nobody", "p1", 5)]).await;
    world.settled(1).await;
    worker.stop().await;
    world
}

#[tokio::test]
async fn a_parameter_that_cannot_be_used_is_named_with_what_is_expected() {
    let world = with_a_case().await;
    let dashboard = Dashboard::start(&world).await;
    let long = "é".repeat(101);
    for (path, words) in [
        ("quarantine?state=discraded", "state: \"discraded\" is unknown; expected open, waiting"),
        ("quarantine?reason=bogus", "reason: \"bogus\" is unknown; expected malformed"),
        ("quarantine?reason=", "reason: \"\" is unknown"),
        ("quarantine?limit=0", "limit: expected a whole number from 1 to 1000"),
        ("quarantine?limit=99999", "limit: expected a whole number from 1 to 1000"),
        ("quarantine?bogus=1", "bogus: unknown parameter; expected state, reason"),
        ("quarantine?before=abc", "before: expected a whole number"),
        ("quarantine?state=open&state=all", "state: given more than once"),
        ("quarantine?source=", "source: expected 1 to 200 bytes"),
        (&format!("quarantine?account={long}"), "account: expected 1 to 200 bytes"),
        ("quarantine?from=soon", "from: \"soon\" is no day or time: expected a day such as 2026-10-31"),
        ("quarantine?from=2026-02-01&to=2026-01-31", "to: comes before from"),
        (
            "quarantine?amount=12",
            "amount: \"12\" is not an amount of money: expected an amount and its currency, such as 1,634.83 EUR",
        ),
        ("quarantine?amount=1.234+EUR", "amount: \"1.234\" is no amount of EUR: expected"),
        ("quarantine?text=", "text: expected 1 to 200 bytes"),
        ("quarantine/groups?text=%00", "text: expected 1 to 200 bytes of UTF-8 without control characters"),
        ("history?range=bogus", "range: \"bogus\" is unknown; expected 5m, 15m, 1h"),
        ("history?source=%ff", "source: not UTF-8"),
        ("duplicates?range=x", "range: \"x\" is unknown"),
        ("debts?limit=-1", "limit: expected a whole number"),
        ("debts?currency=eur", "currency: \"eur\" is unknown; expected an ISO 4217 code"),
        ("debts?after_debt=5", "after_debt, after_account: expected both or none"),
        ("approvals?limit=x", "limit: expected a whole number"),
        ("approvals?all=maybe", "all: \"maybe\" is unknown; expected true, false"),
        ("event?id=e1", "source: missing"),
        ("event?source=a&id=%ff", "id: not UTF-8"),
        ("payment?source=a&id=", "id: expected 1 to 200 bytes"),
        ("account?id=%00", "id: expected 1 to 200 bytes of UTF-8 without control characters"),
        ("account?id=%ff", "id: not UTF-8"),
        ("find?id=a&x", "x: unknown parameter; expected id"),
        ("quarantine/abc", "the number in the path: expected a whole number"),
        ("quarantine/%00", "the number in the path: expected a whole number"),
        ("quarantine/%ff", "the number in the path: not UTF-8"),
        ("audit-log/x", "the number in the path"),
        ("approvals/0", "the number in the path"),
    ] {
        let answer = dashboard.get(&format!("/api/{path}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/json"), "{path}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "bad_request", "{path}");
        assert!(error["message"].as_str().is_some_and(|said| said.starts_with(words)), "{path}: {error}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_page_whose_address_cannot_be_used_offers_no_action() {
    let world = with_a_case().await;
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/quarantine?reason=&source=&account=").await;
    assert!(
        page.status == 200 && page.body.contains("value=\"discard\""),
        "a field that is left empty is any"
    );
    for (path, name) in [
        ("/quarantine?reason=bogus", "reason"),
        ("/quarantine?state=discraded", "state"),
        ("/quarantine?bogus=1", "bogus"),
        ("/quarantine?before=abc", "before"),
        ("/quarantine?unassigned=maybe", "unassigned"),
        ("/quarantine?unassigned=yes&assignee=a", "assignee, unassigned"),
        ("/quarantine?id_max=-1", "id_max"),
        ("/quarantine?account=%ff", "account"),
        ("/?range=bogus", "range"),
        ("/duplicates?range=bogus", "range"),
        ("/figure?range=bogus", "range"),
        ("/figure?only=some", "only"),
        ("/providers/test?range=bogus", "range"),
        ("/audit-log?before=x", "before"),
        ("/approvals?all=maybe", "all"),
        ("/debts?currency=eur", "currency"),
        ("/reports?month=october", "month"),
        ("/reports?month=2026-10&by=x", "by"),
        ("/account/statement?id=a&to=2026-10-01", "to"),
        ("/find?id=%ff", "id"),
        ("/event?id=e1", "source"),
        ("/account?id=a&before=x", "before"),
        ("/adjust?amount=5", "amount"),
    ] {
        let answer = dashboard.get(path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(answer.body.contains(&format!("{name}: ")), "{path}: {answer:?}");
        assert!(!answer.body.contains("name=\"verb\""), "{path} offers an action: {answer:?}");
    }
    let form = dashboard.get("/quarantine/1").await.body;
    let (_, csrf) = form.split_once("name=\"csrf\" value=\"").expect("a form");
    let csrf = csrf.split('"').next().unwrap_or_default();
    let discard = [("verb", "discard"), ("why", "w"), ("confirmed", "yes")];
    for wrong in [
        &[("scope", "all"), ("reason", "bogus")][..],
        &[("scope", "all"), ("state", "discraded")],
        &[("scope", "all"), ("id_max", "x")],
        &[("id", "1"), ("id", "one")],
        &[("id", "1"), ("bogus", "1")],
    ] {
        let answer = dashboard.act("", csrf, &[&discard[..], wrong].concat()).await;
        assert_eq!(answer.status, 400, "{wrong:?}: {answer:?}");
    }
    assert_eq!(world.number("select count(*) from quarantine where state = 'open'").await, 1);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn cases_that_are_not_there_and_orders_that_contradict_themselves_change_nothing() {
    let world = with_a_case().await;
    let dashboard = Dashboard::start(&world).await;
    for (body, status, words) in [
        (r#"{"ids": [999], "why": "w"}"#, 404, "there is no case 999"),
        (r#"{"ids": [1, 999], "why": "w"}"#, 404, "there is no case 999"),
        (r#"{"ids": [1], "all": true, "why": "w"}"#, 400, "ids, all: expected one of them"),
        (r#"{"source": "", "why": "w"}"#, 400, "source: expected 1 to 200 bytes"),
        (r#"{"reason": "bogus", "why": "w"}"#, 400, "reason: "),
    ] {
        for verb in ["replay", "discard"] {
            let answer = dashboard.send("POST", &format!("/api/quarantine/{verb}"), &[JSON], body).await;
            let said: Value = answer.json()["error"]["message"].clone();
            assert_eq!(answer.status, status, "{body}: {answer:?}");
            assert!(said.as_str().is_some_and(|said| said.starts_with(words)), "{body}: {said}");
        }
    }
    assert_eq!(world.number("select count(*) from operator_actions").await, 0);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_answered_as_that_and_every_form_is_proven() {
    let world = with_a_case().await;
    let dashboard = Dashboard::start(&world).await;
    for (method, path, allow) in [
        ("PUT", "/api/overview", "GET,HEAD"),
        ("POST", "/api/overview", "GET,HEAD"),
        ("DELETE", "/api/quarantine/1", "GET,HEAD"),
        ("PUT", "/api/quarantine/replay", "POST"),
        ("PUT", "/adjust", "GET,HEAD,POST"),
        ("POST", "/quarantine", "GET,HEAD"),
    ] {
        let answer = dashboard.send(method, path, &[], "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, allow), "{method} {path}");
    }
    // Each path that changes something asks for the token of our pages.
    for path in [
        "/quarantine/act",
        "/adjust",
        "/approvals/1/approve",
        "/approvals/1/reject",
        "/logout",
        "/api/quarantine/replay",
        "/api/quarantine/discard",
        "/api/quarantine/reopen",
        "/api/quarantine/assign",
        "/api/quarantine/take",
        "/api/quarantine/hand-back",
        "/api/quarantine/note",
        "/api/adjust",
        "/api/approvals/1/approve",
        "/api/approvals/1/reject",
    ] {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let answer = dashboard.send("POST", path, &[form], "csrf=guessed&why=w").await;
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        assert!(answer.body.contains("This form is out of date"), "{path}: {answer:?}");
    }
    dashboard.stop().await;
    world.close().await;
}
