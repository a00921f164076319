//! The api for applications: who may read what, and what it answers.

use std::process::Stdio;

use payonce::ledger::Fingerprint;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::support::{Answer, Dashboard, Event, World};

pub(crate) const ALL: &str = "a-token-that-reads-everything";
const SHOP: &str = "a-token-of-the-shop-alone";
const BALANCES: &str = "a-token-for-balances-alone";

pub(crate) fn tokens() -> NamedTempFile {
    let digest = |token: &str| Fingerprint::of_bytes(token.as_bytes()).to_string();
    let file = NamedTempFile::new().unwrap();
    let text = format!(
        "[[token]]\nname = \"all\"\nsha256 = \"{}\"\nscopes = [\"accounts:read\", \"payments:read\", \"events:read\"]\n\
         [[token]]\nname = \"shop\"\nsha256 = \"{}\"\nscopes = [\"accounts:read\", \"payments:read\", \"events:read\"]\naccounts = [\"shop-\"]\n\
         [[token]]\nname = \"balances\"\nsha256 = \"{}\"\nscopes = [\"accounts:read\"]\n",
        digest(ALL),
        digest(SHOP),
        digest(BALANCES)
    );
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn served(world: &World, tokens: &NamedTempFile) -> Dashboard {
    let mut command = world.program(&["api", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("PAYONCE_API_TOKENS_FILE", tokens.path());
    Dashboard::of(command).await
}

pub(crate) async fn ask(api: &Dashboard, token: &str, path: &str) -> Answer {
    api.send("GET", path, &[("authorization", &format!("Bearer {token}"))], "").await
}

async fn with_history(world: &World) {
    let worker = world.worker().await;
    let events = [
        Event::deposit("d1", "shop-1", 10_000),
        Event::payment("payment.authorized", "auth", "shop-1", "pay", 2_500).operation("op1"),
        Event::payment("payment.captured", "cap", "shop-1", "pay", 1_999).operation("op2"),
        Event::deposit("d2", "other", 5),
        Event::payment("payment.succeeded", "poor", "other", "pay2", 1_000_000),
    ];
    for (n, event) in events.iter().enumerate() {
        world.publish(std::slice::from_ref(event)).await;
        world.settled(n as i64 + 1).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn applications_read_balances_entries_payments_and_events() {
    let world = World::new().await;
    with_history(&world).await;
    let tokens = tokens();
    let api = served(&world, &tokens).await;

    let account = ask(&api, ALL, "/v1/accounts/shop-1").await;
    assert_eq!((account.status, account.header("etag")), (200, "\"3\""), "{account:?}");
    assert_eq!(
        account.json(),
        json!({
            "account_id": "shop-1", "currency": "EUR", "balance": 8_001, "balance_decimal": "80.01", "held": 501,
            "held_decimal": "5.01", "available": 7_500, "available_decimal": "75.00", "debt": 0, "debt_decimal": "0.00", "version": 3,
        })
    );
    let bearer = format!("bearer {ALL}");
    for (tag, status) in [("\"3\"", 304), ("W/\"3\"", 304), ("\"1\", \"3\"", 304), ("\"2\"", 200), ("*", 304)]
    {
        let headers = [("authorization", bearer.as_str()), ("if-none-match", tag)];
        let answer = api.send("GET", "/v1/accounts/shop-1", &headers, "").await;
        assert_eq!(answer.status, status, "{tag}: {answer:?}");
        assert_eq!(answer.header("etag"), "\"3\"");
    }

    let several = ask(&api, ALL, "/v1/accounts?id=shop-1&id=nobody&id=other").await.json();
    assert_eq!(several["accounts"][0]["account_id"], "other");
    assert_eq!(several["accounts"][1]["account_id"], "shop-1");
    assert_eq!(several["not_found"], json!(["nobody"]));

    let page = ask(&api, ALL, "/v1/accounts/shop-1/entries?limit=2").await.json();
    assert_eq!(page["next_after_version"], 2);
    assert_eq!(page["entries"][1]["amount_decimal"], "25.00");
    assert_eq!(page["entries"][1]["leg"], 0);
    let page = ask(&api, ALL, "/v1/accounts/shop-1/entries?limit=2&after_version=2").await.json();
    assert_eq!((&page["entries"][0]["event_id"], &page["next_after_version"]), (&json!("cap"), &json!(null)));

    let payment = ask(&api, ALL, "/v1/payments?source=/providers/test&id=pay").await.json();
    assert_eq!((&payment["captured"], &payment["captured_decimal"]), (&json!(1_999), &json!("19.99")));
    assert_eq!(payment["entries"].as_array().unwrap().len(), 2);
    let event = ask(&api, ALL, "/v1/events?source=/providers/test&id=cap").await.json();
    assert_eq!(event["entries"][0]["account_version"], 3);
    let event = ask(&api, ALL, "/v1/events?source=/providers/test&id=poor").await.json();
    assert_eq!(
        (event["entries"].as_array().unwrap().len(), event["cases"].as_array().unwrap().len()),
        (0, 1)
    );
    world.close().await;
}

#[tokio::test]
async fn a_balance_as_of_a_time_is_that_of_the_last_row_recorded_by_then() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    sqlx::raw_sql(
        "insert into accounts (account_id, currency, balance, held, version) values ('a', 'EUR', 1000, 0, 1000);
         insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                             balance_after, held_after, payload_sha256, recorded_at)
         select '/providers/test', 'e' || n, 'deposit.succeeded', 'a', n, 1, 'EUR', 1, 0, n, 0, sha256('x'),
                timestamptz '2026-01-01T00:00:00Z' + (n / 2) * interval '2 minutes'
         from generate_series(1, 1000) as n",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let tokens = tokens();
    let api = served(&world, &tokens).await;
    // Versions 2n and 2n + 1 were recorded n times two minutes after midnight.
    for (at, version) in [
        ("2026-01-01T00:00:00Z", Some(1)),
        ("2026-01-01T00:01:59Z", Some(1)),
        ("2026-01-01T00:02:00Z", Some(3)),
        ("2026-01-01T01:03:00%2B01:00", Some(3)),
        ("2026-01-01T10:00:00Z", Some(601)),
        ("2030-01-01T00:00:00Z", Some(1_000)),
        ("2025-12-31T23:59:59.999999Z", None),
    ] {
        let answer = ask(&api, ALL, &format!("/v1/accounts/a?at={at}")).await;
        match version {
            Some(version) => {
                assert_eq!((answer.status, &answer.json()["version"]), (200, &json!(version)), "{at}")
            }
            None => assert_eq!(answer.status, 404, "{at}: {answer:?}"),
        }
    }
    world.close().await;
}

#[tokio::test]
async fn every_refusal_says_what_is_wrong_in_one_form() {
    let world = World::new().await;
    with_history(&world).await;
    let tokens = tokens();
    let api = served(&world, &tokens).await;
    for (token, path, status, code) in [
        ("", "/v1/accounts/shop-1", 401, "unauthorized"),
        ("not-a-token-of-this-file", "/v1/accounts/shop-1", 401, "unauthorized"),
        (ALL, "/v1/accounts/nobody", 404, "not_found"),
        (ALL, "/v1/nothing", 404, "not_found"),
        (ALL, "/v1/accounts/shop-1?at=yesterday", 400, "bad_request"),
        (ALL, "/v1/accounts/shop-1?at=2026-01-01T00:00:00Z&at=2026-01-01T00:00:00Z", 400, "bad_request"),
        (ALL, "/v1/accounts/shop-1?when=now", 400, "bad_request"),
        (ALL, "/v1/accounts/a%00b", 400, "bad_request"),
        (ALL, "/v1/accounts/%ff", 400, "bad_request"),
        (ALL, "/v1/accounts", 400, "bad_request"),
        (ALL, "/v1/accounts/shop-1/entries?limit=0", 400, "bad_request"),
        (ALL, "/v1/accounts/shop-1/entries?limit=1001", 400, "bad_request"),
        (ALL, "/v1/accounts/shop-1/entries?after_version=-1", 400, "bad_request"),
        (ALL, "/v1/accounts/shop-1/entries?after_version=1.5", 400, "bad_request"),
        (ALL, "/v1/payments?source=/providers/test", 400, "bad_request"),
        (ALL, "/v1/payments?source=/providers/test&id=none", 404, "not_found"),
        (ALL, "/v1/events?source=/providers/test&id=none", 404, "not_found"),
        (BALANCES, "/v1/payments?source=/providers/test&id=pay", 403, "forbidden"),
        (BALANCES, "/v1/events?source=/providers/test&id=cap", 403, "forbidden"),
        // The same for an account that is there and one that is not; what belongs to others is not there.
        (SHOP, "/v1/accounts/other", 403, "forbidden"),
        (SHOP, "/v1/accounts/nobody", 403, "forbidden"),
        (SHOP, "/v1/accounts?id=shop-1&id=other", 403, "forbidden"),
        (SHOP, "/v1/accounts/other/entries", 403, "forbidden"),
        (SHOP, "/v1/payments?source=/providers/test&id=pay2", 404, "not_found"),
        (SHOP, "/v1/events?source=/providers/test&id=d2", 404, "not_found"),
        (SHOP, "/v1/events?source=/providers/test&id=poor", 404, "not_found"),
    ] {
        let answer = ask(&api, token, path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, "application/json"),
            "{path}: {answer:?}"
        );
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{path}: {answer:?}");
        assert!(error["message"].as_str().is_some_and(|words| words.len() > 8), "{answer:?}");
    }
    assert_eq!(ask(&api, SHOP, "/v1/accounts/shop-1").await.status, 200);
    let posted = api.send("POST", "/v1/accounts/shop-1", &[], "{}").await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"), "{posted:?}");
    assert_eq!(posted.json()["error"]["code"], "method_not_allowed");

    // A token that is taken out of the file opens nothing any more; a file that cannot be read changes nothing.
    std::fs::write(tokens.path(), "[[token]").unwrap();
    assert_eq!(ask(&api, ALL, "/v1/accounts/shop-1").await.status, 200);
    let digest = Fingerprint::of_bytes(b"another-token-altogether").to_string();
    let other = format!("[[token]]\nname = \"new\"\nsha256 = \"{digest}\"\nscopes = [\"accounts:read\"]\n");
    std::fs::write(tokens.path(), other).unwrap();
    crate::support::eventually("the old token is refused", 401, || async {
        ask(&api, ALL, "/v1/accounts/shop-1").await.status
    })
    .await;
    assert_eq!(ask(&api, "another-token-altogether", "/v1/accounts/shop-1").await.status, 200);
    world.close().await;
}

/// Whatever a request is refused for, and whatever stands in the program itself, is not looked up: with the database down it is answered as ever.
#[tokio::test]
async fn what_needs_no_database_is_answered_without_one() {
    let world = World::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let tokens = tokens();
    let mut command = world.program(&["api", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command
        .env("PAYONCE_API_TOKENS_FILE", tokens.path())
        .env("PAYONCE_DATABASE_URL", format!("postgres://nobody@{}/none", silent.local_addr().unwrap()));
    let api = Dashboard::of(command).await;
    for (token, path, status) in [
        ("", "/v1/accounts/shop-1", 401),
        (ALL, "/v1/openapi.json", 200),
        (ALL, "/v1/nothing", 404),
        (ALL, "/v1/accounts/shop-1?at=yesterday", 400),
        (BALANCES, "/v1/payments?source=/providers/test&id=pay", 403),
        (SHOP, "/v1/accounts/other", 403),
        (ALL, "/healthz", 200),
        (ALL, "/metrics", 200),
    ] {
        assert_eq!(ask(&api, token, path).await.status, status, "{path}");
    }
    let asked = silent.accept().map(|_| ()).map_err(|error| error.kind());
    assert_eq!(asked, Err(std::io::ErrorKind::WouldBlock), "nobody has asked the database");
    world.close().await;
}

#[tokio::test]
async fn an_api_without_usable_tokens_does_not_start_and_says_why() {
    let world = World::new().await;
    let file = NamedTempFile::new().unwrap();
    let digest = Fingerprint::of_bytes(b"x").to_string();
    for (text, words) in [
        (None, "api_tokens_file"),
        (Some("token = 5".to_owned()), "line 1"),
        (Some(String::new()), "0 tokens"),
        (
            Some("[[token]]\nname = \"a\"\nsha256 = \"abc\"\nscopes = [\"accounts:read\"]".to_owned()),
            "64 hexadecimal",
        ),
        (Some(format!("[[token]]\nname = \"a\"\nsha256 = \"{digest}\"\nscopes = []")), "no scopes"),
        (
            Some(format!("[[token]]\nname = \"a\"\nsha256 = \"{digest}\"\nscopes = [\"money:mint\"]")),
            "line 4",
        ),
    ] {
        let mut command = world.program(&["api", "--listen", "127.0.0.1:0"]);
        if let Some(text) = &text {
            std::fs::write(file.path(), text).unwrap();
            command.env("PAYONCE_API_TOKENS_FILE", file.path());
        }
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {said}");
        assert!(said.contains(words), "{text:?}: {said}");
    }
    world.close().await;
}

/// Generated requests, also wrong ones, against the description.
#[tokio::test]
async fn answers_are_what_the_description_says() {
    let world = World::new().await;
    with_history(&world).await;
    let tokens = tokens();
    let api = served(&world, &tokens).await;
    let mut command =
        tokio::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/schemathesis"));
    command.args(["run", &api.url("/v1/openapi.json"), "-H", &format!("Authorization: Bearer {ALL}")]);
    command.args(["--checks", "all", "--max-examples", "40"]);
    command
        .args(["--seed", "7", "--no-color", "--phases", "examples,coverage,fuzzing"])
        .current_dir(std::env::temp_dir());
    let output = command.stdin(Stdio::null()).output().await.expect("scripts/schemathesis runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    world.close().await;
}
