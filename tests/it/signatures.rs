//! Nobody mints money: what is not signed by its provider is never applied, and stands in nobody's way.

use std::process::Stdio;

use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable},
};
use payonce::{
    broker,
    signature::{Headers, Key, Kind, Policy, Rule},
};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::{
    monitoring::{scrape, value},
    support::{Event, SOURCE, Signer, World, eventually, free_address},
};

fn required(signer: &Signer) -> Vec<(&'static str, String)> {
    vec![("signatures", "required".to_owned()), ("keys_file", signer.file())]
}

async fn worker(world: &World, signer: &Signer) -> crate::support::RunningWorker {
    let settings = required(signer);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    world.worker_with(&settings).await
}

/// (event id, detail) of each case; every one is open for its signature.
async fn refused(world: &World) -> Vec<(Option<String>, String)> {
    let rows: Vec<(Option<String>, String, String, String)> =
        sqlx::query_as("select event_id, detail, reason, state from quarantine order by id")
            .fetch_all(&mut world.connect().await)
            .await
            .expect("cases can be read");
    let is_open =
        |(_, _, reason, state): &(_, _, String, String)| reason == "bad_signature" && state == "open";
    assert!(rows.iter().all(is_open), "{rows:?}");
    rows.into_iter().map(|(id, detail, _, _)| (id, detail)).collect()
}

async fn program(world: &World, signer: &Signer, arguments: &[&str], input: &str) -> (Option<i32>, Value) {
    let mut command = world.program(arguments);
    command.env("PAYONCE_KEYS_FILE", signer.file()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the payonce binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

async fn replay(world: &World, signer: &Signer) -> Value {
    let (code, report) =
        program(world, signer, &["quarantine", "replay", "--reason", "bad_signature", "--json"], "").await;
    assert_eq!(code, Some(0));
    report
}

#[tokio::test]
async fn only_what_its_provider_signed_moves_money() {
    let world = World::new().await;
    let signer = Signer::new();
    let stranger = Signer::stranger();
    let real = Event::deposit("real", "a", 100);
    let forged = |id: &str| Event::deposit(id, "a", 1_000_000);
    let with = |event: &Event, headers: Headers| (event.account.clone(), event.body(), headers);
    let id = |id: &str, headers: Headers| Headers { id: Some(id.to_owned()), ..headers };
    let other_source =
        String::from_utf8(forged("of-nobody").body()).unwrap().replace(SOURCE, "/providers/nobody");
    let messages = vec![
        signer.message(&real),
        with(&forged("unsigned"), Headers::default()),
        with(&forged("by-a-stranger"), stranger.sign(&forged("by-a-stranger"))),
        // A real signature, of another body under the same id.
        with(
            &Event::deposit("other-body", "a", 1_000_000),
            signer.sign(&Event::deposit("other-body", "a", 1)),
        ),
        // A real signature and its body, replayed as another event: with the id that was signed, and with the new one.
        with(&Event::deposit("replayed-1", "a", 100), signer.sign(&real)),
        with(&Event::deposit("replayed-2", "a", 100), id("replayed-2", signer.sign(&real))),
        // Signed by this provider, in the name of one that nobody knows.
        ("a".to_owned(), other_source.clone().into_bytes(), {
            signer.rule.sign("of-nobody", 1, other_source.as_bytes()).unwrap()
        }),
        with(&forged("late"), Headers { timestamp: Some("1".to_owned()), ..signer.sign(&forged("late")) }),
        with(&forged("half"), Headers { timestamp: None, ..signer.sign(&forged("half")) }),
        signer.message(&Event::deposit("real-2", "a", 11)),
    ];
    world.publish_signed(&messages).await;
    let worker = worker(&world, &signer).await;
    world.settled(messages.len() as i64).await;
    worker.stop().await;

    assert_eq!(world.account("a").await, Some((111, 0, 2)));
    let refused = refused(&world).await;
    for (event_id, words) in [
        ("unsigned", "webhook-id: missing"),
        ("by-a-stranger", "right under none of the 1 keys"),
        ("other-body", "right under none of the 1 keys"),
        ("replayed-1", "not the id of this event"),
        ("replayed-2", "right under none of the 1 keys"),
        ("of-nobody", "no rule for this source"),
        ("late", "right under none of the 1 keys"),
        ("half", "webhook-timestamp: missing"),
    ] {
        let case = refused.iter().find(|(id, _)| id.as_deref() == Some(event_id));
        assert!(case.is_some_and(|(_, detail)| detail.contains(words)), "{event_id}: {case:?}");
    }
    assert_eq!(refused.len(), messages.len() - 2);
    // Counted under sources that have a rule only: a stranger's name for itself is no label.
    let counted: Vec<(String, i64)> = sqlx::query_as(
        "select source, sum(n)::bigint from tallies where label = 'bad_signature' group by source order by source",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap();
    assert_eq!(counted, [(String::new(), 1), (SOURCE.to_owned(), 7)]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_forged_message_neither_squats_a_key_nor_stands_for_the_real_one() {
    let world = World::new().await;
    let (signer, stranger) = (Signer::new(), Signer::stranger());
    let real = Event::deposit("e", "a", 100).operation("op");
    let other_amount = Event::deposit("e", "a", 1_000_000).operation("op");
    let worker = worker(&world, &signer).await;
    // Before, beside and behind the real one: its key with other content, and its own body, both wrongly signed.
    let forged = [stranger.message(&other_amount), stranger.message(&real)];
    world.publish_signed(&forged).await;
    world.settled(2).await;
    world.publish_signed(&[forged[0].clone(), signer.message(&real), forged[1].clone()]).await;
    world.settled(5).await;
    world.publish_signed(&forged).await;
    world.settled(7).await;
    world.publish_signed(&[signer.message(&real)]).await;
    world.settled(8).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    let bad = |_: usize| (Some("e".to_owned()), "bad_signature".to_owned(), "open".to_owned(), 3);
    assert_eq!(world.cases().await, [bad(0), bad(1)], "each forged message is one case, its copies counted");
    let layers: Vec<String> = world.duplicates().await.into_iter().map(|(layer, _)| layer).collect();
    assert_eq!(layers, ["quarantine", "redis"]);
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_replay_verifies_again_with_the_keys_of_now() {
    let world = World::new().await;
    let (signer, stranger) = (Signer::stranger(), Signer::stranger());
    let deposit = Event::deposit("d", "a", 100);
    let poor = Event::payment("payment.succeeded", "poor", "a", "p1", 1_000);
    let early = Event::payment("payment.captured", "early", "a", "p2", 1);
    // The forged copy of a body comes first; it must not use up the place of the real one. A retry is signed at another time.
    let retry = signer.rule.sign("d", 1_700_000_000, &deposit.body()).unwrap();
    let messages = [
        stranger.message(&deposit),
        signer.message(&deposit),
        ("a".to_owned(), deposit.body(), retry),
        signer.message(&poor),
        signer.message(&early),
        ("a".to_owned(), Event::deposit("unsigned", "a", 1).body(), Headers::default()),
    ];
    world.publish_signed(&messages).await;
    let worker = worker(&world, &signer).await;
    world.settled(6).await;
    worker.stop().await;
    assert_eq!(refused(&world).await.len(), 6);

    // No key yet; and an environment that trusts the queue does not make a person's replay apply what proves nothing.
    assert_eq!(replay(&world, &signer).await["refused"], 6);
    assert_eq!(replay(&world, &stranger).await["refused"], 6);
    assert_eq!(world.account("a").await, None);

    let key = signer.rule.keys[0].expose();
    assert_eq!(program(&world, &signer, &["keys", "add", SOURCE], key).await.0, Some(0));
    let report = replay(&world, &signer).await;
    assert_eq!(
        [&report["applied"], &report["duplicates"], &report["refused"], &report["waiting"]],
        [1, 1, 3, 1],
        "{report}"
    );
    assert_eq!(world.account("a").await, Some((100, 0, 1)));
    let reasons: Vec<(String, String, i64)> = sqlx::query_as(
        "select reason, state, count(*) from quarantine group by reason, state order by reason, state",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap();
    let row = |reason: &str, state: &str, n| (reason.to_owned(), state.to_owned(), n);
    assert_eq!(
        reasons,
        [
            row("bad_signature", "discarded", 3),
            row("bad_signature", "open", 2),
            row("bad_signature", "replayed", 1),
            row("insufficient_funds", "open", 1),
            row("waiting_for_payment", "waiting", 1),
        ]
    );
    assert_eq!(replay(&world, &signer).await["refused"], 2);
    world.audit().await;
    world.close().await;
}

/// A debit whose sender added the time of sending in milliseconds, which by chance has a card number's check digit.
fn like_a_card(signer: &Signer, id: &str) -> (String, Vec<u8>, Headers) {
    let body = Event::payment("payment.succeeded", id, "a", id, 1_000).body();
    let body = [br#"{"sentatms":1764000000000,"#.as_slice(), &body[1..]].concat();
    let headers = signer.rule.sign(id, 1, &body).unwrap();
    ("a".to_owned(), body, headers)
}

#[tokio::test]
async fn a_case_that_masking_made_unverifiable_says_so() {
    let world = World::new().await;
    let signer = Signer::stranger();
    let masked = like_a_card(&signer, "masked");
    world.publish_signed(&[masked]).await;
    let before = worker(&world, &signer).await;
    world.settled(1).await;
    before.stop().await;
    let whole = like_a_card(&signer, "whole");
    world.publish_signed(std::slice::from_ref(&whole)).await;
    let keys_file = signer.file();
    let settings = [("signatures", "required"), ("keys_file", keys_file.as_str()), ("mask_cards", "off")];
    let unmasking = world.worker_with(&settings).await;
    world.settled(2).await;
    unmasking.stop().await;
    let details: Vec<String> = refused(&world).await.into_iter().map(|(_, detail)| detail).collect();
    let words = "card data was masked: it cannot be verified again; ask the provider to send it again";
    assert!(details[0].ends_with(words) && !details[1].contains("masked"), "{details:?}");

    let key = signer.rule.keys[0].expose();
    assert_eq!(program(&world, &signer, &["keys", "add", SOURCE], key).await.0, Some(0));
    let again = ["quarantine", "replay", "--reason", "bad_signature", "--mask-cards", "off", "--json"];
    let (_, report) = program(&world, &signer, &again, "").await;
    assert_eq!(report["refused"], 2, "{report}");
    // The one that could be verified is a case of another kind now, kept as the setting says.
    let kept: Vec<u8> = sqlx::query_scalar("select body from quarantine where reason <> 'bad_signature'")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(kept, whole.1, "byte for byte");
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_dead_letter_is_not_applied_unless_it_is_signed_nor_by_a_replay() {
    let world = World::new().await;
    let signer = Signer::new();
    let worker = worker(&world, &signer).await;
    let connection = broker::connect(&world.amqp_url, "payonce-it", &Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let dead = |event: &Event, headers: Headers| {
        let mut table = FieldTable::default();
        let text = |text: Option<String>| AMQPValue::LongString(text.unwrap().into());
        if !headers.is_empty() {
            table.insert("webhook-id".into(), text(headers.id));
            // Client libraries write a number as one.
            table.insert(
                "webhook-timestamp".into(),
                AMQPValue::LongLongInt(headers.timestamp.unwrap().parse().unwrap()),
            );
            table.insert("webhook-signature".into(), text(headers.signature));
        }
        let (channel, queue, body) = (channel.clone(), world.names().dead_queue, event.body());
        async move {
            let properties = BasicProperties::default().with_headers(table);
            let published = channel.basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                &body,
                properties,
            );
            published.await.unwrap();
        }
    };
    let (real, forged) = (Event::deposit("real", "a", 7), Event::deposit("forged", "a", 1_000_000));
    dead(&real, signer.sign(&real)).await;
    dead(&forged, Headers::default()).await;
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((7, 0, 1)));
    let (code, report) = program(&world, &signer, &["quarantine", "replay", "--all", "--json"], "").await;
    assert_eq!((code, &report["applied"], &report["refused"]), (Some(0), &0.into(), &1.into()), "{report}");
    assert_eq!(world.account("a").await, Some((7, 0, 1)));
    let forged = (Some("forged".to_owned()), "bad_signature".to_owned(), "open".to_owned(), 1);
    assert!(world.cases().await.contains(&forged));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn a_running_worker_takes_over_changed_keys_and_keeps_the_old_ones_after_a_mistake() {
    let world = World::new().await;
    let signer = Signer::new();
    let worker = worker(&world, &signer).await;
    world.publish_signed(&[signer.message(&Event::deposit("d0", "a", 1))]).await;
    world.settled(1).await;

    // A mistake in the file: what was accepted still is.
    let good = std::fs::read(signer.path()).unwrap();
    std::fs::write(signer.path(), "not a keys file").unwrap();
    let mut next = Signer::stranger();
    next.rule.keys = vec![Key::generate(Kind::Ed25519).unwrap()];
    world.publish_signed(&[signer.message(&Event::deposit("d1", "a", 1))]).await;
    world.settled(2).await;
    assert_eq!(world.account("a").await, Some((2, 0, 2)));

    // Rotation: both are accepted, then only the new one. Each try is an event of its own, until one is decided as it must be.
    std::fs::write(signer.path(), good).unwrap();
    let tried = std::sync::atomic::AtomicI64::new(2);
    let ends = |by: &Signer| {
        let n = tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let message = by.message(&Event::deposit(&format!("d{n}"), "a", 1));
        let world = &world;
        async move {
            let before = world.account("a").await;
            world.publish_signed(&[message]).await;
            world.settled(n + 1).await;
            world.account("a").await != before
        }
    };
    let both = [next.rule.keys[0].clone(), signer.rule.keys[0].clone()];
    signer.write(SOURCE, &Rule { policy: Policy::Required, keys: both.to_vec() });
    eventually("the new key is accepted", true, || ends(&next)).await;
    assert!(ends(&signer).await, "and so is the old one");
    signer.write(SOURCE, &next.rule);
    eventually("the old key is not", false, || ends(&signer)).await;
    assert!(ends(&next).await);
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn an_emptied_keys_file_leaves_the_last_good_keys_in_force_and_raises_an_alarm() {
    let world = World::new().await;
    let signer = Signer::new();
    let address = free_address();
    let settings =
        [&["worker", "--listen", &address, "--signatures", "required"][..], &["--keys-file", &signer.file()]];
    let worker = world.program(&settings.concat()).spawn().expect("the payonce binary runs");
    let alarm = "payonce_keys_file_ok";
    eventually(alarm, Some(1.0), || async { value(&scrape(&address).await, alarm) }).await;
    let good = std::fs::read(signer.path()).unwrap();
    for (n, spoiled) in ["", "# nothing\n", "[sources]\n"].into_iter().enumerate() {
        std::fs::write(signer.path(), spoiled).unwrap();
        eventually(alarm, Some(0.0), || async { value(&scrape(&address).await, alarm) }).await;
        world.publish_signed(&[signer.message(&Event::deposit(&format!("d{n}"), "a", 1))]).await;
        world.settled(n as i64 + 1).await;
        assert_eq!(refused(&world).await, [], "{spoiled:?}");
        std::fs::write(signer.path(), &good).unwrap();
        eventually(alarm, Some(1.0), || async { value(&scrape(&address).await, alarm) }).await;
    }
    drop(worker);
    // A worker does not start with one either: it would refuse every callback.
    std::fs::write(signer.path(), "").unwrap();
    let output = world.program(&settings.concat()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("names no source") && said.contains("payonce keys generate"), "{said}");
    world.close().await;
}

#[tokio::test]
async fn publish_signs_with_the_keys_that_the_commands_made() {
    let world = World::new().await;
    let signer = Signer::stranger();
    let event = Event::deposit("e", "a", 5);
    let lines = [event.body(), b"\n".to_vec()].concat();
    let input = String::from_utf8(lines).unwrap();
    let keys =
        async |arguments: &[&str]| program(&world, &signer, &[&["keys"], arguments].concat(), "").await;

    std::fs::write(signer.path(), "").unwrap();
    let strict = ["publish", "-", "--json", "--signatures", "required"];
    let (code, report) = program(&world, &signer, &strict, &input).await;
    assert_eq!((code, report), (Some(2), Value::Null), "the file names nobody yet");
    assert_eq!(keys(&["generate", SOURCE]).await.0, Some(0));
    assert_eq!(keys(&["generate", SOURCE]).await.0, Some(1), "it has one");
    assert_eq!(keys(&["rotate", SOURCE, "--kind", "ed25519"]).await.0, Some(0));
    let (_, listed) = keys(&["list", "--json"]).await;
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(2));
    assert!(!listed.to_string().contains("whsec_") && !listed.to_string().contains("whsk_"), "{listed}");
    let (_, secrets) = keys(&["list", "--json", "--secrets"]).await;
    assert!(secrets.to_string().contains("whsec_") && secrets.to_string().contains("whsk_"), "asked for");

    let worker = worker(&world, &signer).await;
    assert_eq!(program(&world, &signer, &strict, &input).await.1["published"], 1);
    world.settled(1).await;
    let old = listed["keys"][1]["id"].as_str().unwrap();
    assert_eq!(keys(&["retire", SOURCE, old]).await.0, Some(0));
    assert_eq!(program(&world, &signer, &strict, &input).await.1["published"], 1);
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(world.account("a").await, Some((5, 0, 1)));
    assert_eq!(world.cases().await, []);
    world.close().await;
}

/// As docs/signatures.md says it: made where it signs, carried to where it is verified, then retired on both sides.
#[tokio::test]
async fn a_key_is_rotated_between_two_files_without_a_gap() {
    let world = World::new().await;
    let (signing, verifying) = (Signer::new(), Signer::stranger());
    verifying.write(SOURCE, &signing.rule);
    let old = signing.rule.keys[0].id();
    let worker = worker(&world, &verifying).await;
    let publish = async |id: &str| {
        let line = [Event::deposit(id, "a", 5).body(), b"\n".to_vec()].concat();
        let strict = ["publish", "-", "--json", "--signatures", "required"];
        let (_, report) = program(&world, &signing, &strict, &String::from_utf8(line).unwrap()).await;
        assert_eq!(report["published"], 1);
    };
    let keys = async |of: &Signer, arguments: &[&str], input: &str| {
        program(&world, of, &[&["keys"], arguments].concat(), input).await
    };
    assert_eq!(keys(&signing, &["rotate", SOURCE], "").await.0, Some(0));
    publish("both-sign").await;
    let (_, listed) = keys(&signing, &["list", "--json", "--secrets"], "").await;
    let new = listed["keys"][0]["key"].as_str().unwrap();
    assert_eq!(keys(&verifying, &["add", SOURCE], new).await.0, Some(0));
    assert_eq!(keys(&signing, &["retire", SOURCE, &old], "").await.0, Some(0));
    worker.stop().await;
    let worker = self::worker(&world, &verifying).await;
    publish("the-new-one-signs").await;
    world.settled(2).await;
    worker.stop().await;
    assert_eq!(keys(&verifying, &["retire", SOURCE, &old], "").await.0, Some(0));
    let last = listed["keys"][0]["id"].as_str().unwrap();
    assert_eq!(keys(&verifying, &["retire", SOURCE, last], "").await.0, Some(1), "nothing would be accepted");
    assert_eq!(keys(&verifying, &["retire", SOURCE, last, "--last"], "").await.0, Some(0), "it is meant");
    assert_eq!(world.account("a").await, Some((10, 0, 2)));
    assert_eq!(world.cases().await, []);
    world.close().await;
}

/// Anybody who can write to the queue can make any number of bad messages for one key.
#[tokio::test]
async fn many_forged_messages_under_one_key_do_not_slow_its_real_callback_down() {
    const FORGED: i64 = 2_000;
    let world = World::new().await;
    let signer = Signer::new();
    let forged: Vec<(String, Vec<u8>)> =
        (0..FORGED).map(|n| ("a".to_owned(), Event::deposit("e", "a", n + 2).body())).collect();
    world.publish_raw(&forged).await;
    let crowded = worker(&world, &signer).await;
    world.settled(FORGED).await;
    crowded.stop().await;
    let read = async || {
        eventually("workers' sessions", 0, || {
            world.number(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and application_name = 'payonce-it-worker'",
            )
        })
        .await;
        world
            .number("select idx_tup_fetch::bigint from pg_stat_user_tables where relname = 'quarantine'")
            .await
    };
    let before = read().await;
    let worker = worker(&world, &signer).await;
    world.publish_signed(&[signer.message(&Event::deposit("e", "a", 1))]).await;
    world.settled(FORGED + 1).await;
    worker.stop().await;
    let looked_at = read().await - before;
    assert!(looked_at < 100, "{looked_at} of {FORGED} forged messages were looked at");
    assert_eq!(world.account("a").await, Some((1, 0, 1)));
    world.audit().await;
    world.close().await;
}
