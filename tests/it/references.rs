//! References: a team's own names for what a callback is about. They are kept with what the callback became, found without its ids, and cost nothing
//! where no name is set.

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::{Dashboard, Event, SOURCE, Signer, World};

const FIELDS: (&str, &str) = ("reference_fields", "order_id, customer");

/// (event, name, value), in the order of the key.
async fn kept(world: &World) -> Vec<(String, String, String)> {
    sqlx::query_as("select event_id, name, value from callback_references order by 1, 2, 3")
        .fetch_all(&mut world.connect().await)
        .await
        .expect("references can be read")
}

fn row(event: &str, name: &str, value: &str) -> (String, String, String) {
    (event.to_owned(), name.to_owned(), value.to_owned())
}

async fn program(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = world.program(arguments).env("PAYONCE_REFERENCE_FIELDS", FIELDS.1).output().await;
    let output = output.expect("the payonce binary runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

async fn found(world: &World, text: &str) -> Vec<Value> {
    let (_, lines) = program(world, &["find", text, "--json"]).await;
    let mut hits: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    hits.iter_mut().for_each(without_facts);
    hits
}

/// What an event was is the business of `stories`.
fn without_facts(hit: &mut Value) {
    let hit = hit.as_object_mut().expect("an object");
    hit.retain(|name, _| {
        ["kind", "source", "id", "event_id", "is_exact", "exact", "reference"].contains(&name.as_str())
    });
}

fn hit(event: &str, name: &str, value: &str, is_exact: bool) -> Value {
    json!({ "kind": "event", "source": SOURCE, "id": event, "is_exact": is_exact,
            "reference": { "name": name, "value": value } })
}

#[tokio::test]
async fn a_callback_is_found_by_its_references_wherever_it_ended_and_a_replay_keeps_them() {
    let world = World::new().await;
    let worker = world.worker_with(&[FIELDS]).await;
    let early = Event::deposit("evt_1", "acct-1", 500)
        .with("metadata", json!({ "order_id": "A-100", "customer": "anna" }));
    let later = Event::deposit("evt_2", "acct-1", 500).with("customer", "anna").with("order_id", 7);
    // Of an account that is not open: a case.
    let case = Event::payment("payment.succeeded", "evt_3", "acct-2", "pay_1", 100)
        .operation("ch_1")
        .with("references", json!({ "order_id": "A-1001" }));
    let without = Event::deposit("evt_4", "acct-1", 1).with("order_id", "4111111111111111");
    for (at, event) in (1..).zip([&early, &later, &case, &without, &early]) {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(at).await;
    }
    let expected = [
        row("evt_1", "customer", "anna"),
        row("evt_1", "order_id", "A-100"),
        row("evt_2", "customer", "anna"),
        row("evt_2", "order_id", "7"),
        row("evt_3", "order_id", "A-1001"),
    ];
    assert_eq!(kept(&world).await, expected);

    // Of one value the newest first; what begins so comes after what is just this.
    let of_anna = [hit("evt_2", "customer", "anna", true), hit("evt_1", "customer", "anna", true)];
    assert_eq!(found(&world, "anna").await, of_anna);
    let of_orders = [hit("evt_1", "order_id", "A-100", true), hit("evt_3", "order_id", "A-1001", false)];
    assert_eq!(found(&world, "A-100").await, of_orders);
    assert_eq!(found(&world, "a-100").await, [] as [Value; 0]);
    let (_, text) = program(&world, &["find", "A-1001"]).await;
    assert!(text.contains("order_id A-1001") && text.contains("evt_3"), "{text}");

    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_REFERENCE_FIELDS", FIELDS.1);
    })
    .await;
    let mut answer = dashboard.get("/api/find?id=A-1001").await.json();
    answer["events"].as_array_mut().expect("events").iter_mut().for_each(without_facts);
    let event = json!({ "source": SOURCE, "event_id": "evt_3", "exact": true,
                        "reference": { "name": "order_id", "value": "A-1001" } });
    assert_eq!(answer["events"], json!([event]));
    let leads_to = dashboard.get("/find?id=A-1001").await;
    assert_eq!(leads_to.header("location"), "/event?source=%2Fproviders%2Ftest&id=evt_3");
    let page = dashboard.get("/find?id=anna").await.body;
    assert!(page.contains("customer") && page.contains("id=evt_1") && page.contains("id=evt_2"), "{page}");
    let page = dashboard.get(leads_to.header("location")).await.body;
    assert!(page.contains("order_id") && page.contains("/find?id=A-1001"), "{page}");
    dashboard.stop().await;

    // Applied in the end, and known as before.
    world.publish(&[Event::deposit("evt_5", "acct-2", 500)]).await;
    world.settled(6).await;
    worker.stop().await;
    assert_eq!(program(&world, &["quarantine", "replay", "--reason", "unknown_account"]).await.0, Some(0));
    assert_eq!(world.account("acct-2").await, Some((400, 0, 2)));
    assert_eq!(found(&world, "A-1001").await, [hit("evt_3", "order_id", "A-1001", true)]);
    let (_, story) = program(&world, &["event", SOURCE, "evt_3", "--json"]).await;
    let story: Value = serde_json::from_str(&story).expect("JSON");
    assert_eq!(story["references"], json!({ "order_id": ["A-1001"] }));
    assert_eq!(kept(&world).await, expected);
    world.audit().await;
    world.close().await;
}

/// The statement that would write waits for whoever locks the table, so that a callback which is settled meanwhile has not sent it.
#[tokio::test]
async fn where_no_field_is_set_the_hot_path_does_not_touch_the_table() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let mut held = connection.begin_with("begin read write").await.unwrap();
    sqlx::raw_sql("lock table callback_references in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    let worker = world.worker().await;
    world
        .publish(&[
            Event::deposit("evt_1", "acct-1", 500).with("order_id", "A-100"),
            Event::payment("payment.succeeded", "evt_2", "acct-2", "pay_1", 100).with("order_id", "A-101"),
        ])
        .await;
    world.settled(2).await;
    worker.stop().await;
    held.rollback().await.unwrap();
    assert_eq!(kept(&world).await, []);
    world.close().await;
}

#[tokio::test]
async fn what_nobody_signed_has_no_references_until_it_is_proven() {
    let world = World::new().await;
    let signer = Signer::new();
    let event = Event::deposit("evt_1", "acct-1", 500).with("order_id", "A-100");
    world.publish_signed(&[signer.message(&event)]).await;
    let worker = world.worker_with(&[FIELDS, ("signatures", "required")]).await;
    world.settled(1).await;
    worker.stop().await;
    assert_eq!(kept(&world).await, []);
    // Its key has come.
    let mut replay = world.program(&["quarantine", "replay", "--reason", "bad_signature"]);
    replay.env("PAYONCE_REFERENCE_FIELDS", FIELDS.1).env("PAYONCE_KEYS_FILE", signer.file());
    assert!(replay.status().await.expect("the payonce binary runs").success());
    assert_eq!(world.account("acct-1").await, Some((500, 0, 1)));
    assert_eq!(kept(&world).await, [row("evt_1", "order_id", "A-100")]);
    world.close().await;
}

#[tokio::test]
async fn the_references_of_a_removed_case_go_with_it_unless_its_callback_is_known_otherwise() {
    let world = World::new().await;
    let worker = world.worker_with(&[FIELDS]).await;
    let debit = |id: &str, order: &str| {
        Event::payment("payment.succeeded", id, "acct-2", id, 100).operation(id).with("order_id", order)
    };
    world.publish(&[debit("evt_1", "A-1"), debit("evt_2", "A-2")]).await;
    world.settled(2).await;
    // Another content under the second one's key: a case of its own, which stays.
    world.publish(&[Event { amount: 200, ..debit("evt_2", "A-2") }]).await;
    world.settled(3).await;
    worker.stop().await;
    let discard = ["quarantine", "discard", "--reason", "unknown_account", "--why", "test", "--yes"];
    assert_eq!(program(&world, &discard).await.0, Some(0));
    let remove =
        ["quarantine", "remove", "--reason", "unknown_account", "--older-than", "0s", "--why", "test"];
    assert_eq!(program(&world, &remove).await.0, Some(0));
    assert_eq!(kept(&world).await, [row("evt_2", "order_id", "A-2")]);
    assert_eq!(world.cases().await.len(), 1);
    world.audit().await;
    world.close().await;
}
