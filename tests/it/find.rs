//! A search: the beginning of an id is enough, and it costs what it shows, however many ids begin so.

use payonce::store::{find, references::Within};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::{Dashboard, Event, SOURCE, World};

async fn found(world: &World, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let output = world.program(&["find"]).args(arguments).output().await.expect("the program runs");
    let lines = String::from_utf8(output.stdout).expect("text");
    let values =
        lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line))).collect();
    (output.status.code().expect("an exit code"), values, String::from_utf8(output.stderr).expect("text"))
}

#[tokio::test]
async fn the_beginning_of_any_id_finds_what_goes_by_it_without_its_source() {
    let world = World::new().await;
    let worker = world.worker().await;
    world
        .publish(&[
            Event::payment("deposit.succeeded", "evt_1", "customer-7", "pay_1", 500).operation("ch_1"),
            Event::payment("payment.succeeded", "evt_10", "customer-7", "pay_2", 100),
            // Of an account that is not open: a case.
            Event::payment("payment.succeeded", "evt_2", "customer-70", "pay_3", 100).operation("ch_2"),
            Event::deposit("evt_%", "z", 1),
        ])
        .await;
    world.settled(4).await;
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    // What is known of each event is the business of `stories`.
    let api = async |id: &str| {
        let mut found = dashboard.get(&format!("/api/find?id={id}")).await.json();
        for event in found["events"].as_array_mut().expect("events") {
            let event = event.as_object_mut().expect("an object");
            event.retain(|name, _| ["source", "event_id", "exact"].contains(&name.as_str()));
        }
        found
    };
    let event = |id: &str, exact: bool| json!({ "source": SOURCE, "event_id": id, "exact": exact });
    let payment = |id: &str, exact: bool| json!({ "source": SOURCE, "payment_id": id, "exact": exact });
    let answer = |events: Vec<Value>, payments: Vec<Value>, accounts: Vec<&str>| json!({ "events": events, "payments": payments, "accounts": accounts, "has_more": false });
    // The whole of one id stands first.
    assert_eq!(
        api("evt_1").await,
        answer(vec![event("evt_1", true), event("evt_10", false)], vec![], vec![])
    );
    assert_eq!(api("ch").await, answer(vec![event("evt_1", false), event("evt_2", false)], vec![], vec![]));
    let payments = ["pay_1", "pay_2", "pay_3"].map(|id| payment(id, false)).to_vec();
    assert_eq!(api("pay_").await, answer(vec![], payments, vec![]));
    assert_eq!(api("customer-7").await, answer(vec![], vec![], vec!["customer-7", "customer-70"]));
    // Nothing in a text is a pattern, and upper and lower case differ.
    assert_eq!(api("evt_%25").await, answer(vec![event("evt_%", true)], vec![], vec![]));
    for nothing in ["EVT", "vt_1", "evt_11", "%25"] {
        assert_eq!(api(nothing).await, answer(vec![], vec![], vec![]), "{nothing}");
    }
    let few = dashboard.get("/api/find?id=pay_&limit=2").await.json();
    assert_eq!((few["payments"].as_array().map(Vec::len), &few["has_more"]), (Some(2), &true.into()));

    // A page leads on where it is clear what is meant, and lists what it may be.
    for (id, place) in [
        ("evt_1", "/event?source=%2Fproviders%2Ftest&id=evt_1"),
        ("ch_2", "/event?source=%2Fproviders%2Ftest&id=evt_2"),
        ("pay_3", "/payment?source=%2Fproviders%2Ftest&id=pay_3"),
        ("customer-70", "/account?id=customer-70"),
    ] {
        assert_eq!(dashboard.get(&format!("/find?id={id}")).await.header("location"), place, "{id}");
    }
    let page = dashboard.get("/find?id=evt").await.body;
    for words in ["What begins with evt", "id=evt_1\"", "id=evt_10\"", "id=evt_2\""] {
        assert!(page.contains(words), "{words} is not in {page}");
    }

    let hit = |kind: &str, source: Option<&str>, id: &str, is_exact: bool| json!({ "kind": kind, "source": source, "id": id, "is_exact": is_exact });
    let found = async |arguments: &[&str]| {
        let (code, mut hits, said) = found(&world, arguments).await;
        for hit in &mut hits {
            let Some(hit) = hit.as_object_mut() else { continue };
            hit.retain(|name, _| ["kind", "source", "id", "is_exact"].contains(&name.as_str()));
        }
        (code, hits, said)
    };
    let (code, hits, _) = found(&["evt_1", "--json"]).await;
    let expected =
        vec![hit("event", Some(SOURCE), "evt_1", true), hit("event", Some(SOURCE), "evt_10", false)];
    assert_eq!((code, hits), (0, expected));
    let (code, hits, _) = found(&["customer-70", "--json"]).await;
    assert_eq!((code, hits), (0, vec![hit("account", None, "customer-70", true)]));
    let (code, lines, _) = found(&["pay_", "--limit", "1"]).await;
    let text = lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    assert!(
        code == 0 && text.contains("pay_1") && text.contains(SOURCE) && text.contains("There are more"),
        "{text}"
    );
    let (code, lines, error) = found(&["nothing"]).await;
    assert_eq!((code, lines.len()), (1, 0));
    assert!(error.contains("begins with nothing"), "{error}");
    assert_eq!(found(&[""]).await.0, 2);
    dashboard.stop().await;
    world.close().await;
}

/// Entries that were read of all indexes and rows of tables that were read one after another, by all sessions that have told so far.
const READ: &str = "select (select sum(idx_tup_read) from pg_stat_user_indexes)::bigint + (select sum(seq_tup_read) from pg_stat_user_tables)::bigint";

#[tokio::test]
async fn a_search_reads_what_it_shows_however_many_ids_begin_so() {
    const LIMIT: i64 = 20;
    let world = World::new().await;
    let mut connection = world.connect().await;
    // PostgreSQL believes that all tables are empty, and one event has ten thousand cases.
    let rows = "alter table ledger set (autovacuum_enabled = off);
         alter table quarantine set (autovacuum_enabled = off);
         insert into accounts (account_id, currency, balance, held, version) select 'x' || n, 'EUR', 1, 0, 1 from generate_series(1, 20000) n;
         insert into ledger (source, event_id, type, account_id, account_version, payment_id, operation_id, amount, currency, balance_delta,
                             held_delta, balance_after, held_after, payload_sha256)
         select 's', 'x' || n, 'deposit.succeeded', 'x' || n, 1, 'x' || n, case when n % 2 = 0 then 'x' || n end, 1, 'EUR', 1, 0, 1, 0,
                sha256(n::text::bytea)
         from generate_series(1, 20000) n;
         insert into quarantine (source, event_id, type, payment_id, account_id, reason, detail, body, state, attempts, fingerprint)
         select 's', case when n % 2 = 0 then 'x' else 'x' || n end, 'payment.succeeded', 'x' || n, 'x', 'unknown_account', 'd', '', 'open', 1,
                sha256(n::text::bytea)
         from generate_series(1, 20000) n;
         insert into callback_references (event_id, source, name, value)
         select n::text, 's', 'customer', case when n % 2 = 0 then 'x' else 'x' || n end from generate_series(1, 20000) n";
    sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let mut connection = world.connect().await;
    for text in ["x", "x1", "x19999", "nothing"] {
        let flush = "select pg_stat_force_next_flush()";
        sqlx::raw_sql(flush).execute(&mut connection).await.unwrap();
        let before = world.number(READ).await;
        let found = find::find(&mut connection, text, Within::default(), LIMIT).await.unwrap();
        sqlx::raw_sql(flush).execute(&mut connection).await.unwrap();
        let read = world.number(READ).await - before;
        // Of each event that is shown its row and its cases, at most a hundred.
        let of_events = 2 * 2 * LIMIT + 100;
        assert!(read <= 11 * (LIMIT + 2) + of_events, "{read} entries read for {text}");
        assert_eq!(found.has_more, text == "x" || text == "x1", "{text}");
        assert_eq!(found.hits.is_empty(), text == "nothing", "{text}: {found:?}");
    }
    world.close().await;
}
