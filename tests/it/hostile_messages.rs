//! Messages that are made to do harm: to the process, to its memory, to a terminal. Good ones between them are applied.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use payonce::{store::CASE_BODY_BYTES_MAX, wire::BODY_BYTES_MAX};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::support::{Event, RawProperties, RawPublisher, World, eventually};

/// The most memory that a process has held, in bytes.
fn peak_memory(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().expect("it runs"))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

#[tokio::test]
async fn no_message_property_stops_a_worker() {
    let world = World::new().await;
    let mut raw = RawPublisher::connect(&world.amqp_url).await;
    let exchange = world.names().exchange;
    let hostile: Vec<(&str, &[u8], RawProperties)> = vec![
        ("nested", b"a", RawProperties::nested(100)),
        // 128 KiB of headers are what one frame holds.
        ("deeply nested", b"a", RawProperties::nested(21_000)),
        ("many headers", b"a", RawProperties::headers(8_000)),
        ("a header name that is not UTF-8", b"a", RawProperties::header(b"\xff\xfe")),
        ("a property that is not UTF-8", b"a", RawProperties::content_type(&[0xff; 255])),
        ("a routing key that is not UTF-8", &[0xc3; 255], RawProperties::default()),
        ("an empty routing key", b"", RawProperties::default()),
        ("a routing key with control characters", b"\x1b[2J\0\n", RawProperties::default()),
    ];
    for (n, (_, routing_key, properties)) in hostile.iter().enumerate() {
        let good = Event::deposit(&format!("good-{n}"), "a", 1).body();
        raw.publish(&exchange, b"a", &RawProperties::default(), &good).await;
        let body = Event::deposit(&format!("hostile-{n}"), "a", 1).body();
        raw.publish(&exchange, routing_key, properties, &body).await;
    }
    let mut worker = world.worker_process(&[]);
    let sent = 2 * hostile.len() as i64;
    world.settled(sent).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker lives");
    // Once each: nothing made the session end, and messages come again.
    assert_eq!(world.duplicates().await, []);
    assert_eq!(world.account("a").await, Some((sent, 0, sent)), "bodies are what is decided on");
    worker.kill().await.unwrap();
    world.audit().await;
    world.close().await;
}

/// A callback with an unknown member, as large as a message may be.
fn large(id: &str) -> Vec<u8> {
    let body = String::from_utf8(Event::deposit(id, "a", 1).body()).unwrap();
    let padding = "x".repeat(BODY_BYTES_MAX - body.len() - ",\"padding\":\"\"".len());
    let body = body.replacen("{", &format!("{{\"padding\":\"{padding}\","), 1);
    assert_eq!(body.len(), BODY_BYTES_MAX);
    body.into_bytes()
}

#[tokio::test]
async fn memory_stays_bounded_however_large_the_messages_are() {
    // Without a bound 4 000 of them are held at once: a gigabyte, and copies of them in transactions.
    let messages =
        std::env::var("PAYONCE_LARGE_MESSAGES").map_or(600, |count| count.parse().expect("a number"));
    let world = World::new().await;
    let mut confirmed: i64 = 0;
    for part in (0..messages).collect::<Vec<i64>>().chunks(100) {
        let bodies = part.iter().map(|n| {
            let mut body = large(&format!("e{n}"));
            // Every tenth is kept as a case.
            if n % 10 == 0 {
                body[0] = b'[';
            }
            ("a".to_owned(), body)
        });
        world.publish_raw(&bodies.collect::<Vec<_>>()).await;
        confirmed += part.len() as i64;
    }
    // Nothing can be written meanwhile, so that deliveries gather: all of them, or as many as are allowed.
    let mut locking = world.connect().await;
    sqlx::raw_sql("begin; lock table accounts in access exclusive mode").execute(&mut locking).await.unwrap();
    let mut worker = world
        .program(&["worker", "--prefetch-bytes-max", "16777216"])
        .args(["--database-deadline-ms", "1000", "--shutdown-deadline-ms", "1000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let is_bounded = Arc::new(AtomicBool::new(false));
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    let says = Arc::clone(&is_bounded);
    tokio::spawn(async move {
        while let Ok(Some(line)) = log.next_line().await {
            says.fetch_or(line.contains("prefetch_bytes_max"), Ordering::Relaxed);
        }
    });
    let queue = world.names().queue;
    eventually("the worker holds all that it may", true, || async {
        is_bounded.load(Ordering::Relaxed) || world.ready_messages(&queue).await == 0
    })
    .await;
    sqlx::raw_sql("commit").execute(&mut locking).await.unwrap();
    world.settled(confirmed).await;
    let peak = peak_memory(&worker);
    println!(
        "peak memory {} MiB for {} MiB of messages",
        peak >> 20,
        (confirmed as usize * BODY_BYTES_MAX) >> 20
    );
    assert!(peak < 96 << 20, "the worker held {} MiB", peak >> 20);
    // It recovers: small messages are taken as before.
    let small: Vec<Event> = (0..2_000).map(|n| Event::deposit(&format!("s{n}"), "b", 1)).collect();
    world.publish(&small).await;
    world.settled(confirmed + 2_000).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker lives");
    worker.kill().await.unwrap();
    let cases = (messages + 9) / 10;
    assert_eq!(world.account("a").await, Some((messages - cases, 0, messages - cases)));
    assert_eq!(world.number("select count(*) from quarantine").await, cases);
    assert_eq!(world.account("b").await, Some((2_000, 0, 2_000)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn of_a_message_that_is_far_too_large_the_beginning_is_kept() {
    let world = World::new().await;
    let mut body = vec![b' '; 2 * CASE_BODY_BYTES_MAX];
    body[0] = b'{';
    let mut other = body.clone();
    *other.last_mut().unwrap() = b'}';
    let messages = [&body, &other, &body].map(|body| ("a".to_owned(), body.clone()));
    world.publish_raw(&messages).await;
    world.publish(&[Event::deposit("good", "a", 1)]).await;
    let worker = world.worker().await;
    world.settled(4).await;
    worker.stop().await;
    let cases: Vec<(String, Vec<u8>, i64, i32)> = sqlx::query_as(
        "select detail, fingerprint, octet_length(body)::bigint, attempts from quarantine order by attempts desc",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap();
    // Two that begin alike are two, because the fingerprint is that of the whole message.
    assert_ne!(cases[0].1, cases[1].1);
    for ((detail, _, bytes, attempts), times) in cases.iter().zip([2, 1]) {
        assert_eq!(*attempts, times);
        assert_eq!(*bytes, CASE_BODY_BYTES_MAX as i64);
        assert!(detail.contains("2097152 bytes") && detail.contains("keeps the first 1048576"), "{detail}");
    }
    assert_eq!((cases.len(), world.account("a").await), (2, Some((1, 0, 1))));
    world.close().await;
}

/// Control characters, terminal escapes, marks that reorder or hide text.
const DECEIVING: [&str; 8] = [
    "\u{1b}[31;5mPAID\u{1b}[0m",
    "\u{1b}]0;title\u{7}",
    "\u{9b}2J",
    "line\r\nFORGED level=INFO",
    "\u{202e}001 RUE\u{202c}",
    "\u{2066}hidden\u{2069}\u{200b}\u{feff}",
    "\u{2028}\u{2029}\u{85}",
    "\u{e0041}\u{7f}\u{0}",
];

/// That nothing of what steers or deceives is in it but line breaks: each character of [`DECEIVING`] that is no letter.
#[track_caller]
fn harmless(what: &str, output: &[u8]) {
    let text = std::str::from_utf8(output).expect("UTF-8");
    let found = text.chars().find(|c| {
        let is_planted = !c.is_ascii() && DECEIVING.iter().any(|planted| planted.contains(*c));
        is_planted || c.is_control() && *c != '\n'
    });
    assert!(found.is_none(), "{what} holds {found:?}: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("FORGED")), "{what} has a forged line: {text:?}");
}

#[tokio::test]
async fn nothing_in_a_message_steers_a_terminal_or_forges_a_log_line() {
    let world = World::new().await;
    let as_json = |text: &str| serde_json::to_string(text).unwrap().trim_matches('"').to_owned();
    let mut messages = vec![("a".to_owned(), Event::deposit("open", "a", 1).body())];
    for (n, text) in DECEIVING.into_iter().enumerate() {
        // An identifier without control characters is one, whatever else is in it.
        let allowed: String = text.chars().filter(|c| !c.is_control()).collect();
        let id = format!("{n}{allowed}");
        messages.push((id.clone(), Event::deposit(&id, &id, 1).body()));
        messages
            .push((id.clone(), Event::payment("payment.succeeded", &format!("{id}!"), "a", &id, 5).body()));
        let template = String::from_utf8(Event::deposit("ID", "SUBJECT", 1).body()).unwrap();
        for member in ["ID", "SUBJECT", "deposit.succeeded", "EUR", "2026-11-22T13:44:14Z"] {
            messages.push((text.to_owned(), template.replace(member, &as_json(text)).into_bytes()));
        }
        messages.push((text.to_owned(), text.as_bytes().to_vec()));
    }
    world.publish_raw(&messages).await;
    let worker = world
        .program(&["worker", "--log-level", "trace"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    world.settled(messages.len() as i64).await;
    let id = worker.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    let said = worker.wait_with_output().await.unwrap();
    harmless("the worker's log", &[said.stdout, said.stderr].concat());

    let mut commands: Vec<Vec<String>> =
        vec![vec!["quarantine".into(), "list".into(), "--limit".into(), "1000".into()]];
    let cases = world.number("select max(id) from quarantine").await;
    commands.extend((1..=cases).map(|id| vec!["quarantine".into(), "show".into(), id.to_string()]));
    for (n, text) in DECEIVING.into_iter().enumerate() {
        let id = format!("{n}{}", text.chars().filter(|c| !c.is_control()).collect::<String>());
        commands.push(vec!["account".into(), id.clone()]);
        commands.push(vec!["event".into(), "/providers/test".into(), id.clone()]);
        commands.push(vec!["payment".into(), "/providers/test".into(), id.clone()]);
        // What is not found is named in the refusal.
        commands.push(vec!["account".into(), format!("no {}", text.replace('\0', ""))]);
        commands.push(vec!["event".into(), text.replace('\0', ""), "x".into()]);
        commands.push(vec!["quarantine".into(), "list".into(), "--reason".into(), text.replace('\0', "")]);
    }
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        for json in [&[][..], &["--json"]] {
            let output = world.program(&[&words[..], json].concat()).output().await.unwrap();
            harmless(&format!("{words:?} {json:?}"), &output.stdout);
            // clap quotes a wrong argument as it was given, to the one who gave it.
            if output.status.code() != Some(2) {
                harmless(&format!("{words:?} {json:?}"), &output.stderr);
            }
        }
    }
    world.close().await;
}
