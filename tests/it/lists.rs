//! Lists that people take away: the same rows on the page, in a file and from the command line, and no others than were asked for.

use serde_json::Value;

use crate::support::{Dashboard, Event, World};

fn debit(id: &str, account: &str, amount: i64) -> Event {
    Event::payment("payment.succeeded", id, account, id, amount)
}

async fn program(world: &World, arguments: &[&str]) -> String {
    let output = world.program(arguments).output().await.expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn a_list_of_cases_is_taken_away_as_it_is_filtered() {
    let world = World::new().await;
    let worker = world.worker().await;
    let yen = Event { currency: "JPY", ..debit("=p2", "nobody", 178_017) };
    world.publish(&[debit("p1", "nobody", 63_483), yen, debit("p3", "other", 1)]).await;
    world.settled(3).await;
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/quarantine?account=nobody").await.body;
    let link = "/api/quarantine?state=open&amp;account=nobody&amp;export=csv";
    assert!(page.contains(link), "{link} is not in {page}");
    let file = dashboard.get(&link.replace("&amp;", "&")).await;
    assert_eq!(file.header("content-disposition"), "attachment; filename=\"payonce-cases.csv\"");
    let lines: Vec<&str> = file.body.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 3, "{file:?}");
    assert!(lines[0].starts_with("case,state,reason,amount,currency,type,account_id"), "{file:?}");
    let money = [
        "unknown_account,178017,JPY,payment.succeeded,nobody,'=p2",
        "unknown_account,634.83,EUR,payment.succeeded,nobody,p1",
    ];
    for (line, words) in lines[1..].iter().zip(money) {
        assert!(line.contains(words), "{words} is not in {line}");
    }
    let by_command = program(&world, &["quarantine", "list", "--account", "nobody", "--csv"]).await;
    assert_eq!(by_command, file.body);
    let file = dashboard.get("/api/quarantine?account=nobody&export=ndjson").await;
    assert_eq!(file.header("content-type"), "application/x-ndjson");
    let cases: Vec<Value> = file.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (cases.len(), &cases[1]["amount_decimal"], &cases[1]["account_id"]),
        (2, &"634.83".into(), &"nobody".into())
    );
    assert_eq!(dashboard.get("/api/quarantine?export=xlsx").await.status, 400);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn more_rows_than_a_file_may_have_are_refused_and_not_cut_off() {
    let world = World::new().await;
    sqlx::query(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint)
         select '/providers/' || n % 2, 'evt_' || n, 'unknown_account', 'made by a test', '', 'open', 1, sha256(convert_to(n::text, 'UTF8'))
         from generate_series(1, 60000) n",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let dashboard = Dashboard::start(&world).await;
    let refused = dashboard.get("/api/quarantine?export=csv").await;
    assert_eq!(
        (refused.status, refused.header("content-type")),
        (422, "application/json"),
        "{}",
        refused.body.len()
    );
    assert!(refused.body.contains("more than 50000 rows"), "{}", refused.body);
    let half = dashboard.get("/api/quarantine?source=%2Fproviders%2F1&export=csv").await;
    assert_eq!((half.status, half.body.split_terminator("\r\n").count()), (200, 30_001));
    dashboard.stop().await;
    world.close().await;
}

/// (who, action) of lines of the audit log, newest first.
fn told(lines: &Value) -> Vec<(&str, &str)> {
    let lines = lines.as_array().expect("lines").iter();
    lines.map(|line| (line["who"].as_str().unwrap(), line["action"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn the_audit_log_is_read_by_person_action_and_day_and_taken_away() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[debit("p1", "nobody", 1), debit("p2", "nobody", 2), Event::deposit("d", "a", 5)]).await;
    world.settled(3).await;
    worker.stop().await;
    let case = world.number("select min(id) from quarantine").await.to_string();
    program(&world, &["quarantine", "discard", &case, "--why", "=cmd", "--by", "alice", "--yes"]).await;
    program(&world, &["quarantine", "reopen", &case, "--why", "w", "--by", "bob"]).await;
    program(&world, &["account", "freeze", "a", "--why", "w", "--by", "alice"]).await;
    program(&world, &["quarantine", "discard", &case, "--why", "w", "--by", "bob", "--yes"]).await;
    // The first line is of an earlier day, and the last was proposed by another person.
    let days = "update operator_actions set began_at = '2026-10-31T23:59:59Z' where id = (select min(id) from operator_actions);
                update operator_actions set began_at = '2026-11-01T00:00:00Z' where id > (select min(id) from operator_actions);
                update operator_actions set proposed_by = 'carol' where id = (select max(id) from operator_actions)";
    sqlx::raw_sql(days).execute(&mut world.connect().await).await.unwrap();
    let dashboard = Dashboard::start(&world).await;
    let all = [("bob", "discard"), ("alice", "freeze"), ("bob", "reopen"), ("alice", "discard")];
    for (query, expected) in [
        ("", &all[..]),
        ("who=alice", &[all[1], all[3]]),
        ("who=carol", &all[..1]),
        ("action=discard", &[all[0], all[3]]),
        ("who=alice&action=freeze", &all[1..2]),
        ("to=2026-10-31", &all[3..]),
        ("from=2026-11-01&to=2026-11-01", &all[..3]),
        ("from=2026-11-02", &[]),
    ] {
        let answer = dashboard.get(&format!("/api/audit-log?{query}")).await.json();
        assert_eq!(told(&answer["lines"]), expected, "{query}");
        let file = dashboard.get(&format!("/api/audit-log?{query}&export=ndjson")).await.body;
        let lines: Value =
            file.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect();
        assert_eq!(told(&lines), expected, "{query}");
        let page = dashboard.get(&format!("/audit-log?{query}")).await.body;
        assert_eq!(page.matches("href=\"/audit-log/").count(), expected.len(), "{query}: {page}");
    }
    let first = dashboard.get("/api/audit-log?action=discard&limit=1").await.json();
    assert_eq!(told(&first["lines"]), all[..1]);
    let next = format!("/api/audit-log?action=discard&limit=1&before={}", first["next_before"]);
    assert_eq!(told(&dashboard.get(&next).await.json()["lines"]), all[3..]);
    let page = dashboard.get("/audit-log?who=alice&action=&from=&to=").await.body;
    assert!(
        page.contains("/api/audit-log?who=alice&amp;export=csv"),
        "the file is filtered as the page is: {page}"
    );
    let csv = dashboard.get("/api/audit-log?to=2026-10-31&export=csv").await;
    let line = csv.body.split_terminator("\r\n").nth(1).unwrap_or_default();
    assert!(
        line.contains("2026-10-31T23:59:59Z")
            && line.contains("alice,,command line,discard,")
            && line.contains("'=cmd"),
        "{csv:?}"
    );
    assert!(dashboard.get("/audit-log?who=nobody").await.body.contains("No matches"));
    for (query, words) in [
        ("action=undo", "action: \"undo\" is unknown; expected replay, discard"),
        ("from=2026-13-01", "from: expected a day"),
        ("from=2026-11-02&to=2026-11-01", "to: comes before from"),
        ("export=pdf", "export: \"pdf\" is unknown; expected csv, ndjson"),
    ] {
        let answer = dashboard.get(&format!("/api/audit-log?{query}")).await;
        let said = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 400 && said.starts_with(words), "{query}: {said}");
    }
    dashboard.stop().await;
    world.close().await;
}
