//! Passwords and card numbers are planted everywhere, all of payonce runs with logging at trace, and nothing that it says or
//! stores holds one of them.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Event, Locked, PASSWORDS, World, eventually, free_address};

/// Numbers that card networks publish for tests, as they may be spelled, and what may be left of each.
const CARDS: [(&str, &str); 5] = [
    ("4242424242424242", "424242******4242"),
    ("5555 5555 5555 4444", "5555 55** **** 4444"),
    ("3782-822463-10005", "3782-82****-*0005"),
    ("6011111111111117", "601111******1117"),
    ("30569309025904", "305693****5904"),
];
/// May not be kept whatever they look like; with letters, because logs are full of short numbers.
const CODES: [(&str, &str); 3] =
    [("cvv", "Kq9317"), ("security_code", "code-Zx81"), ("track2", "4000=2512-Yq36")];

/// Callbacks that become cases, each with every card number and code in it.
fn bodies() -> Vec<Vec<u8>> {
    let mut planted = serde_json::json!({ "note": CARDS.map(|(number, _)| number).join(" or ") });
    for (name, value) in CODES {
        planted[name] = value.into();
    }
    let with = |body: Vec<u8>| {
        let mut event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        event["card"] = planted.clone();
        event
    };
    let poor = with(Event::payment("payment.succeeded", "poor", "a", "p", 5_000).body());
    let mut malformed = with(Event::deposit("malformed", "a", 1).body());
    malformed["data"]["amount"] = CARDS[0].0.into();
    let mut unsupported = with(Event::deposit("unsupported", "a", 1).body());
    unsupported["type"] = format!("card {} charged", CARDS[1].0).into();
    let waiting = with(Event::payment("payment.captured", "early", "a", "p2", 5).body());
    let applied = with(Event::deposit("applied", "a", 1).body());
    let text = format!("not JSON: {} \"cvv\":\"{}\" {}", CARDS[3].0, CODES[0].1, planted);
    let mut bodies: Vec<Vec<u8>> =
        [poor, malformed, unsupported, waiting, applied].map(|event| event.to_string().into_bytes()).into();
    bodies.push(text.into_bytes());
    bodies
}

#[track_caller]
fn holds_no_secret(what: &str, text: &str) {
    for (_, password) in PASSWORDS {
        assert!(!text.contains(password), "{what} holds the password {password}");
    }
    for (number, _) in CARDS {
        assert!(!text.contains(number), "{what} holds the card number {number}");
    }
    for (name, code) in CODES {
        assert!(!text.contains(code), "{what} holds {name} {code}");
    }
}

#[tokio::test]
async fn no_password_and_no_card_number_is_said_or_stored() {
    let locked = Locked::new().await;
    locked.migrate().await;
    let admin = &locked.admin;
    admin.publish(&[Event::deposit("open", "a", 100)]).await;
    admin.publish_raw(&bodies().into_iter().map(|body| ("a".to_owned(), body)).collect::<Vec<_>>()).await;
    let listen = [free_address(), free_address()];
    let traced = |world: &World, arguments: &[&str]| {
        let mut command = world.program(arguments);
        command.env("PAYONCE_LOG_LEVEL", "trace").env("RUST_BACKTRACE", "full");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let worker = traced(&locked.worker, &["worker", "--listen", &listen[0]]).spawn().unwrap();
    let ops = traced(&locked.ops, &["ops", "--listen", &listen[1]]).spawn().unwrap();
    let settled = 1 + bodies().len() as i64;
    admin.settled(settled).await;
    for address in &listen {
        for path in ["/metrics", "/readyz"] {
            eventually(path, true, || async { !get(address, path).await.is_empty() }).await;
            holds_no_secret(path, &get(address, path).await);
        }
    }
    for child in [worker, ops] {
        let id = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        holds_no_secret("a log", &said(child.wait_with_output().await.unwrap()));
    }
    commands_say_nothing(&locked, traced).await;
    the_servers_hold_nothing(admin).await;
    // What may be seen of a card number is seen, and identifiers stay whole.
    let body =
        sqlx::query_scalar("select convert_from(body, 'UTF8') from quarantine where event_id = 'poor'");
    let body: String = body.fetch_one(&mut admin.connect().await).await.unwrap();
    for (_, masked) in CARDS {
        assert!(body.contains(masked), "{masked} is not in {body}");
    }
    // A replay decides on what was read when the callback came, not on the masked message.
    admin.publish(&[Event::deposit("more", "a", 9_000)]).await;
    let worker = locked.worker.worker().await;
    admin.settled(settled + 1).await;
    worker.stop().await;
    let replay = ["quarantine", "replay", "--reason", "insufficient_funds", "--json"];
    let replayed = said(locked.ops.program(&replay).output().await.unwrap());
    assert!(replayed.contains("\"applied\":1"), "{replayed}");
    assert_eq!(admin.account("a").await, Some((4_101, 0, 4)));
}

#[tokio::test]
async fn bodies_stay_as_they_came_only_where_masking_is_off() {
    let world = World::new().await;
    let body = format!("not JSON: {} \"cvv\":\"{}\"", CARDS[0].0, CODES[0].1).into_bytes();
    world.publish_raw(&[("a".to_owned(), body.clone())]).await;
    let worker = world.worker_with(&[("mask_cards", "off")]).await;
    world.settled(1).await;
    worker.stop().await;
    let stored: Vec<u8> = sqlx::query_scalar("select body from quarantine")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, body, "byte for byte");
    let show = ["quarantine", "show", "1"];
    let whole = said(world.program(&show).args(["--mask-cards", "off"]).output().await.unwrap());
    assert!(whole.contains(CARDS[0].0) && whole.contains(CODES[0].1), "{whole}");
    // It is masked where it is shown, however it is stored.
    for arguments in [&[][..], &["--json"]] {
        let shown = said(world.program(&show).args(arguments).output().await.unwrap());
        assert!(shown.contains(CARDS[0].1), "{shown}");
        holds_no_secret("quarantine show", &shown);
        let hex: String = CARDS[0].0.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!shown.contains(&hex), "{shown}");
    }
    // The same message is the same case, masked or not: what tells cases apart is the original.
    world.publish_raw(&[("a".to_owned(), body)]).await;
    let worker = world.worker().await;
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(world.cases().await, [(None, "malformed".to_owned(), "open".to_owned(), 2)]);
    world.close().await;
}

async fn commands_say_nothing(locked: &Locked, traced: impl Fn(&World, &[&str]) -> tokio::process::Command) {
    let cases = locked.admin.number("select max(id) from quarantine").await;
    let shows: Vec<String> = (1..=cases).map(|id| id.to_string()).collect();
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["worker", "--help"],
        vec!["audit"],
        vec!["account", "a"],
        vec!["event", "/providers/test", "poor"],
        vec!["quarantine", "list", "--state", "all"],
        vec!["worker", "--lanes", "0"],
    ];
    commands.extend(shows.iter().map(|id| vec!["quarantine", "show", id]));
    commands.extend(shows.iter().map(|id| vec!["quarantine", "show", id, "--json"]));
    for command in commands {
        let output = traced(&locked.ops, &command).output().await.unwrap();
        holds_no_secret(&format!("{command:?}"), &said(output));
    }
    // Servers that refuse or are down, and addresses that are none.
    let [_, (_, database), ..] = PASSWORDS;
    for url in [
        format!("postgres://payonce_worker:{database}@127.0.0.1:1/d"),
        format!("postgres://payonce_worker:{database}@127.0.0.1:port/d"),
        format!("amqp://payonce_worker:{database}@127.0.0.1:1/%2f"),
        format!("redis://payonce_worker:{database}@[::1/"),
        database.to_owned(),
    ] {
        for variable in ["PAYONCE_DATABASE_URL", "PAYONCE_REDIS_URL", "PAYONCE_AMQP_URL"] {
            for command in [&["audit"][..], &["publish", "/dev/null"]] {
                let output = traced(&locked.ops, command).env(variable, &url).output().await.unwrap();
                holds_no_secret(&format!("{command:?} with {variable}={url}"), &said(output));
            }
        }
    }
}

async fn the_servers_hold_nothing(admin: &World) {
    let mut connection = admin.connect().await;
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public' order by 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(tables.contains(&"quarantine".to_owned()));
    for table in tables {
        // A body is bytea: shown as text it would be digits of another kind.
        let columns: Vec<String> = sqlx::query_scalar(
            "select case when data_type = 'bytea' then format('encode(%I, ''escape'')', column_name)
                    else format('%I::text', column_name) end
             from information_schema.columns where table_schema = 'public' and table_name = $1",
        )
        .bind(&table)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let rows = format!("select concat_ws(' ', {}) from {table}", columns.join(", "));
        let rows: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_all(&mut connection).await.unwrap();
        holds_no_secret(&table, &rows.join("\n"));
    }
    let mut redis = admin.redis().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        let value: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap_or_default();
        holds_no_secret("Redis", &format!("{key} {}", String::from_utf8_lossy(&value)));
    }
}

fn said(output: std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An HTTP answer, whole; empty where nobody listens.
pub async fn get(address: &str, path: &str) -> String {
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return String::new() };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        drop(stream.read_to_string(&mut text).await);
    }
    text
}
