//! What happened to one deposit, customer or case, as support has to tell it: on the pages, over the API and on the command line alike.

use serde_json::{Value, json};

use crate::support::{Dashboard, Event, SOURCE, World};

const FIELDS: (&str, &str) = ("reference_fields", "customer");

async fn program(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = world.program(arguments).output().await.expect("the payonce binary runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code(), said)
}

/// The text of a page, without its tags.
fn text(page: &str) -> String {
    let tags = page.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
    tags.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_deposit_says_what_it_brought_and_what_was_taken_back_of_it() {
    let world = World::new().await;
    let worker = world.worker().await;
    let of = |kind, id: &str, amount| Event::new(kind, id, "acct-1", Some("pi_1"), amount);
    let api = "/api/v1/payment?source=/providers/test&id=pi_1";
    let page = "/payment?source=/providers/test&id=pi_1";
    let dashboard = Dashboard::start(&world).await;
    // Each callback, and what is known after it: state, deposited, refunded, disputed, reinstated.
    for (at, (event, expected)) in (1..).zip([
        (of("deposit.succeeded", "d", 100_000), ("deposited", 100_000, 0, 0, 0)),
        (of("deposit.refunded", "r", 20_000).operation("re_1"), ("deposited", 100_000, 20_000, 0, 0)),
        (of("deposit.disputed", "b", 80_000).operation("dp_1"), ("disputed", 100_000, 20_000, 80_000, 0)),
        (
            of("deposit.reinstated", "w", 80_000).operation("dp_2"),
            ("deposited", 100_000, 20_000, 80_000, 80_000),
        ),
        (
            of("deposit.refunded", "r2", 80_000).operation("re_2"),
            ("refunded", 100_000, 100_000, 80_000, 80_000),
        ),
    ]) {
        world.publish(&[event]).await;
        world.settled(at).await;
        let story = dashboard.get(api).await.json();
        let (state, deposited, refunded, disputed, reinstated) = expected;
        assert_eq!(
            (&story["state"], &story["account_id"], &story["currency"]),
            (&json!(state), &json!("acct-1"), &json!("EUR")),
            "{story}"
        );
        for (name, amount) in [
            ("deposited", deposited),
            ("refunded", refunded),
            ("disputed", disputed),
            ("reinstated", reinstated),
        ] {
            assert_eq!(story["deposit"][name], json!(amount), "{name}: {story}");
        }
        assert_eq!(story["deposit"]["deposited_decimal"], "1000.00");
    }
    let shown = text(&dashboard.get(page).await.body);
    for words in ["State refunded", "Deposited 1,000.00 EUR", "Disputed 800.00 EUR", "Reinstated 800.00 EUR"]
    {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    assert!(!shown.contains("nothing applied") && !shown.contains("Authorized"), "{shown}");
    let (code, said) = program(&world, &["payment", SOURCE, "pi_1"]).await;
    let line = "refunded, account acct-1: deposited 1,000.00 EUR, refunded 1,000.00 EUR, disputed 800.00 EUR, reinstated 800.00 EUR";
    assert!(code == Some(0) && said.contains(line), "{said}");
    worker.stop().await;
    world.audit().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_refund_that_failed_ends_no_dispute_and_another_accounts_deposit_is_not_added() {
    let world = World::new().await;
    let worker = world.worker().await;
    let dashboard = Dashboard::start(&world).await;
    let of = |kind, id: &str, amount| Event::new(kind, id, "acct-1", Some("pi_1"), amount).operation(id);
    let events = [
        of("deposit.succeeded", "d", 100_000),
        of("deposit.refunded", "re_1", 20_000),
        Event::new("deposit.reinstated", "back", "acct-1", Some("pi_1"), 20_000)
            .operation("re_1")
            .with("reverses", "deposit.refunded"),
        of("deposit.disputed", "dp_1", 15_000),
        // Of another account, with the same payment's id, and newer by its account's versions.
        Event::deposit("x1", "acct-2", 1),
        Event::deposit("x2", "acct-2", 1),
        Event::new("deposit.succeeded", "other", "acct-2", Some("pi_1"), 7_000).operation("other"),
    ];
    for (at, event) in (1..).zip(events) {
        world.publish(&[event]).await;
        world.settled(at).await;
    }
    let story = dashboard.get("/api/v1/payment?source=/providers/test&id=pi_1").await.json();
    assert_eq!((&story["state"], &story["account_id"]), (&json!("disputed"), &json!("acct-1")), "{story}");
    for (name, amount) in
        [("deposited", 100_000), ("refunded", 20_000), ("disputed", 15_000), ("reinstated", 20_000)]
    {
        assert_eq!(story["deposit"][name], json!(amount), "{name}: {story}");
    }
    worker.stop().await;
    world.audit().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_customer_s_payment_of_a_day_is_found_with_its_amount_and_what_became_of_it() {
    let world = World::new().await;
    let worker = world.worker_with(&[FIELDS]).await;
    let of_lena = |event: Event| event.with("customer", "lena");
    world
        .publish(&[
            of_lena(Event::deposit("evt_1", "acct-1", 4_250)),
            of_lena(Event::deposit("evt_2", "acct-1", 129_900)),
            // A case: its account is not open.
            of_lena(Event::payment("payment.succeeded", "evt_3", "acct-2", "pay_3", 700)),
        ])
        .await;
    world.settled(3).await;
    worker.stop().await;
    // The first two were recorded before, on two days.
    sqlx::raw_sql(
        "alter table ledger disable trigger user;
         update ledger set recorded_at = '2026-10-30 09:12Z' where event_id = 'evt_1';
         update callback_references set recorded_at = '2026-10-30 09:12Z' where event_id = 'evt_1';
         update callback_references set recorded_at = '2026-10-31 09:12Z' where event_id = 'evt_2'",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let dashboard = Dashboard::start(&world).await;
    let api = async |days: &str| -> Vec<Value> {
        let found = dashboard.get(&format!("/api/v1/find?id=lena{days}")).await.json();
        found["events"].as_array().unwrap_or_else(|| panic!("{found}")).clone()
    };
    let ids = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&api("").await), ["evt_3", "evt_2", "evt_1"]);
    let of_a_day = api("&from=2026-10-30&to=2026-10-30").await;
    assert_eq!(ids(&of_a_day), ["evt_1"]);
    let event = &of_a_day[0];
    assert_eq!(
        [&event["amount"], &event["amount_decimal"], &event["state"], &event["type"], &event["account_id"]],
        [&json!(4_250), &json!("42.50"), &json!("applied"), &json!("deposit.succeeded"), &json!("acct-1")],
    );
    assert_eq!(event["recorded_at"], "2026-10-30T09:12:00Z");
    assert_eq!(ids(&api("&to=2026-10-31").await), ["evt_2", "evt_1"]);
    assert_eq!(ids(&api("&from=2026-11-01").await), ["evt_3"]);
    assert_eq!(api("&from=2026-11-01").await[0]["state"], "open");

    let shown = text(&dashboard.get("/find?id=lena").await.body);
    for words in ["1,299.00 EUR", "7.00 EUR", "payment.succeeded", "open", "2026-10-30 09:12:00"] {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    // One is left: it leads there.
    let one = dashboard.get("/find?id=lena&from=2026-10-31&to=2026-10-31").await;
    assert_eq!(one.header("location"), "/event?source=%2Fproviders%2Ftest&id=evt_2");
    let none = text(&dashboard.get("/find?id=lena&to=2026-10-01").await.body);
    assert!(none.contains("No event with just this reference"), "{none}");
    let (code, said) = program(&world, &["find", "lena", "--from", "2026-10-31", "--to", "2026-10-31"]).await;
    assert!(code == Some(0) && said.contains("1,299.00 EUR") && !said.contains("evt_1"), "{said}");
    assert_eq!(program(&world, &["find", "lena", "--to", "2026-10-01"]).await.0, Some(1));
    let wrong = dashboard.get("/api/v1/find?from=2026-10-30").await;
    assert_eq!(wrong.status, 400, "{wrong:?}");

    // A case by its number, as people write it.
    for number in ["1", "%231", "case+1", "case+%231"] {
        let leads_to = dashboard.get(&format!("/find?id={number}")).await;
        assert_eq!(leads_to.header("location"), "/quarantine/1", "{number}");
    }
    assert!(dashboard.get("/find?id=17").await.body.contains("No results"));
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn corrections_by_people_are_no_provider() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "acct-1", 100)]).await;
    world.settled(1).await;
    worker.stop().await;
    let adjust = ["adjust", "acct-1", "debit", "40", "EUR", "--why", "booked twice", "--by", "anna"];
    let (code, said) = program(&world, &adjust).await;
    assert!(code == Some(0) && said.contains("balance 0.60 EUR"), "{said}");
    let dashboard = Dashboard::start(&world).await;
    let providers = dashboard.get("/api/v1/providers").await.json();
    let sources: Vec<&str> =
        providers["providers"].as_array().unwrap().iter().filter_map(|row| row["source"].as_str()).collect();
    assert_eq!(sources, [SOURCE]);
    let duplicates = dashboard.get("/api/v1/duplicates?range=1h").await.json();
    assert_eq!(duplicates["sources"].as_array().map(Vec::len), Some(1), "{duplicates}");
    dashboard.stop().await;
    world.close().await;
}
