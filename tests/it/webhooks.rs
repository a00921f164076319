//! Subscribers over HTTPS: every row that they want, signed, per account in the order of versions, once or more, whatever they answer and
//! whatever is killed when; and nobody waits for one that is slow or dead.

use std::path::{Path, PathBuf};

use payonce::{
    config,
    feed::{Subscriber, feed_of},
    store::{self, webhooks},
};
use serde_json::{Value, json};

use crate::support::{
    Authority, DEADLINE, EventReader, Received, Receiver, SECRETS, World, ask_sdks, eventually, is_signed,
    status,
};

/// Rows as a worker would write them: the next versions of this account.
async fn post(connection: &mut store::PgConnection, account: &str, versions: std::ops::RangeInclusive<i64>) {
    sqlx::query(
        "with opened as (
             insert into accounts as a (account_id, currency, balance, held, version) values ($1, 'EUR', $3, 0, $3)
             on conflict (account_id) do update set balance = excluded.balance, version = excluded.version)
         insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                             balance_after, held_after, payload_sha256)
         select '/providers/test', $1 || ':' || n, case n % 2 when 1 then 'deposit.succeeded' else 'fee.charged' end, $1, n, 1, 'EUR',
                1, 0, n, 0, sha256($1::bytea)
         from generate_series($2, $3) as n",
    )
    .bind(account)
    .bind(versions.start())
    .bind(versions.end())
    .execute(connection)
    .await
    .unwrap();
}

/// What the `standardwebhooks` package, which the project does not make, says of requests.
async fn verified_by_their_library(received: &[Received]) -> Value {
    let asked: Vec<Value> = SECRETS
        .iter()
        .flat_map(|secret| received.iter().map(move |one| (secret, one)))
        .map(|(secret, one)| {
            json!({ "provider": "standard-webhooks", "secret": secret, "headers": one.headers,
                    "body": String::from_utf8(one.body.clone()).unwrap() })
        })
        .collect();
    ask_sdks("sdks.mjs", &json!(asked)).await
}

#[tokio::test]
async fn a_subscriber_gets_what_it_asked_for_signed_as_standard_webhooks_over_verified_tls() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let authority = Authority::new();
    let receiver = Receiver::with_tls(&authority).await;
    let ca = authority.file("ca.pem");
    let all = receiver.table("all", &format!("ca_file = {ca:?}"));
    let stranger = Receiver::with_tls(&authority).await;
    let few = Receiver::new().await;
    let some = few.table("few", "accounts = [\"shop-\", \"bank-\"]\ntypes = [\"fee.charged\"]");
    let file = receiver.file(&[all, stranger.table("untrusting", ""), some].concat());
    let mut connection = world.connect().await;
    for account in ["shop-1", "bank-ü\"1", "other"] {
        post(&mut connection, account, 1..=9).await;
    }
    let feed = world.feed_with("one", &[], false, Some(&file));
    for account in ["shop-1", "bank-ü\"1", "other"] {
        receiver.has_taken(account, 9).await;
        assert_eq!(receiver.taken(account), (1..=9).collect::<Vec<_>>());
    }
    few.has_taken("shop-1", 8).await;
    few.has_taken("bank-ü\"1", 8).await;
    assert_eq!(few.taken("shop-1"), [2, 4, 6, 8]);
    assert_eq!(few.received().len(), 8);

    // The same event as on the exchange, to the byte but for where it stands.
    reader.knows(27).await;
    let received = receiver.received();
    for one in &received {
        assert!(reader.events.contains(&one.event), "{}", one.event);
        assert!(SECRETS.iter().all(|secret| is_signed(one, secret)), "{:?}", one.headers);
        assert_eq!(one.path, "/hook?from=payonce");
        assert_eq!(one.headers["content-type"], "application/cloudevents+json");
    }
    let ids: std::collections::BTreeSet<_> = received.iter().map(|one| &one.headers["webhook-id"]).collect();
    assert_eq!(ids.len(), received.len(), "each event has an id of its own");
    let answers = verified_by_their_library(&received).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 2 * received.len());
    assert!(answers.iter().all(|answer| answer["verified"] == json!(true)), "{answers:?}");
    // A certificate that nobody vouches for is no subscriber.
    let says = "select count(*) from webhook_accounts where subscriber = 'main:webhook:untrusting' and last_error like 'TLS: %UnknownIssuer%'";
    eventually("the failure is kept", 3, || world.number(says)).await;
    assert_eq!(stranger.received().len(), 0);
    eventually("what is taken leaves no rows", 3, || world.number("select count(*) from webhook_accounts"))
        .await;
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_account_that_is_not_taken_holds_up_no_other_and_keeps_its_order() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let mut refusals = 6;
    // One is refused, one gets no answer: both are sent again and again.
    receiver.answers(move |one| match one.account() {
        "refused" if one.version() == 3 && refusals > 0 => {
            refusals -= 1;
            status(if refusals % 2 == 0 { 500 } else { 302 })
        }
        "hangs" => None,
        _ => status(200),
    });
    let file = receiver.file(&receiver.table("s", "in_flight_max = 4"));
    let mut connection = world.connect().await;
    for account in ["refused", "hangs", "b", "c"] {
        post(&mut connection, account, 1..=30).await;
    }
    let feed = world.feed_with("one", &[("webhook_timeout_ms", "300")], false, Some(&file));
    receiver.has_taken("b", 30).await;
    receiver.has_taken("c", 30).await;
    for version in 31..=60 {
        post(&mut connection, "b", version..=version).await;
    }
    receiver.has_taken("b", 60).await;
    receiver.has_taken("refused", 30).await;
    for (account, versions) in [("b", 60), ("c", 30), ("refused", 30)] {
        assert_eq!(receiver.taken(account), (1..=versions).collect::<Vec<_>>(), "{account}");
    }
    let of = |account: &str| receiver.received().iter().filter(|one| one.account() == account).count();
    assert_eq!(of("refused"), 36);
    eventually("it is tried again", true, || async { of("hangs") >= 3 }).await;
    assert!(receiver.received().iter().filter(|one| one.account() == "hangs").all(|one| one.version() == 1));
    receiver.answers(|_| status(204));
    eventually("all of it is taken", 0, || world.number("select count(*) from webhook_accounts")).await;
    assert_eq!(receiver.at_once_max(), 1, "one request at a time per account");
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn nothing_is_lost_or_out_of_order_when_the_feed_is_killed_at_any_moment() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("s", ""));
    let mut connection = world.connect().await;
    for account in 0..10 {
        post(&mut connection, &format!("a{account}"), 1..=100).await;
    }
    let mut refused = 0;
    receiver.answers(move |_| {
        refused += 1;
        status(if refused % 40 == 0 { 503 } else { 200 })
    });
    let count = || async { receiver.received().len() };
    for until in [1, 200, 450, 700] {
        let config = file.to_str().unwrap();
        let settings = ["feed", "--config", config, "--feed-lease-ms", "500", "--webhook-retry-max-ms", "50"];
        let mut feed = world.program(&settings).spawn().unwrap();
        eventually("some are sent", true, || async { count().await >= until }).await;
        feed.kill().await.unwrap();
    }
    let feed = world.feed_with("last", &[], false, Some(&file));
    for account in 0..10 {
        let account = format!("a{account}");
        receiver.has_taken(&account, 100).await;
        let mut last = 0;
        for version in receiver.taken(&account) {
            assert!(version <= last + 1, "{account}: {version} came after {last}");
            last = last.max(version);
        }
        assert_eq!(last, 100);
    }
    feed.stop().await;
    world.close().await;
}

async fn subscribers(world: &World, file: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let all = [&["feed", "--config", file.to_str().unwrap(), "subscribers"], arguments].concat();
    let output = world.program(&all).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_dead_subscriber_holds_up_nobody_is_disabled_in_the_end_and_gets_all_when_it_is_enabled() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let (dead, lives) = (Receiver::new().await, Receiver::new().await);
    dead.answers(|_| status(500));
    let file = dead.file(&[dead.table("dead", ""), lives.table("lives", "")].concat());
    let feed = world.feed_with("one", &[("webhook_give_up_ms", "1500")], false, Some(&file));
    let mut connection = world.connect().await;
    for account in 0..40 {
        post(&mut connection, &format!("a{account}"), 1..=5).await;
    }
    reader.knows(200).await;
    for account in 0..40 {
        lives.has_taken(&format!("a{account}"), 5).await;
    }
    let disabled =
        "select count(*) from webhooks where disabled_at is not null and name = 'main:webhook:dead'";
    eventually("it is disabled", 1, || world.number(disabled)).await;
    // Down is down: not every account is sent again and again.
    assert!(
        dead.received()
            .iter()
            .map(|one| one.account().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            <= 16
    );
    let asked = dead.received().len();
    post(&mut connection, "late", 1..=1).await;
    lives.has_taken("late", 1).await;
    assert_eq!(world.number(disabled).await, 1);
    dead.answers(|_| status(200));
    assert_eq!(dead.received().len(), asked, "nothing is sent to one that is disabled");
    let (code, said) = subscribers(&world, &file, &["list", "--json"]).await;
    let row: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!((code, &row["name"]), (Some(0), &json!("main:webhook:dead")), "{said}");
    assert!(row["disabled_why"].as_str().unwrap().contains("taken nothing"), "{said}");
    assert_eq!((&row["delivered"], &row["accounts_behind"]), (&json!(0), &json!(40)), "{said}");

    assert_eq!(subscribers(&world, &file, &["enable", "dead"]).await.0, Some(0));
    for account in (0..40).map(|n| format!("a{n}")).chain(["late".to_owned()]) {
        let last = if account == "late" { 1 } else { 5 };
        dead.has_taken(&account, last).await;
        assert_eq!(dead.taken(&account), (1..=last).collect::<Vec<_>>());
    }
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_account_that_is_refused_for_too_long_is_exhausted_alone() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    receiver.answers(|one| status(if one.account() == "bad" { 422 } else { 200 }));
    let file = receiver.file(&receiver.table("s", ""));
    let feed = world.feed_with("one", &[("webhook_give_up_ms", "500")], false, Some(&file));
    let mut connection = world.connect().await;
    post(&mut connection, "bad", 1..=2).await;
    let exhausted = "select count(*) from webhook_accounts where due_at = 'infinity'";
    let mut version = 0;
    while world.number(exhausted).await == 0 {
        version += 1;
        post(&mut connection, "good", version..=version).await;
        receiver.has_taken("good", version).await;
    }
    assert_eq!(world.number("select count(*) from webhooks where disabled_at is not null").await, 0);
    receiver.answers(|_| status(200));
    let (code, said) = subscribers(&world, &file, &["enable", "s"]).await;
    assert_eq!(code, Some(0), "{said}");
    receiver.has_taken("bad", 2).await;
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_subscriber_that_answers_410_is_disabled_at_once_and_a_redirect_is_not_followed() {
    let world = World::new().await;
    let (gone, redirects, elsewhere) = (Receiver::new().await, Receiver::new().await, Receiver::new().await);
    gone.answers(|_| status(410));
    let location = elsewhere.url.clone();
    redirects.answers(move |_| Some((307, vec![("location", location.clone())])));
    let file = gone.file(&[gone.table("gone", ""), redirects.table("redirects", "")].concat());
    let mut connection = world.connect().await;
    post(&mut connection, "a", 1..=3).await;
    let feed = world.feed_with("one", &[], false, Some(&file));
    let disabled = "select count(*) from webhooks where disabled_why like '%410%'";
    eventually("it is disabled", 1, || world.number(disabled)).await;
    let says = "select count(*) from webhook_accounts where attempts >= 3 and last_error = 'status 307'";
    eventually("a redirect is a refusal", 1, || world.number(says)).await;
    assert_eq!((gone.received().len(), elsewhere.received().len()), (1, 0));
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_person_has_an_account_sent_again_from_a_version_on_and_forgets_a_subscriber() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("s", "accounts = [\"a\"]\nstart = \"now\""));
    let mut connection = world.connect().await;
    post(&mut connection, "a", 1..=5).await;
    post(&mut connection, "b", 1..=5).await;
    let settled =
        "select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint > max(txn))::int::bigint from ledger";
    eventually("nothing can come before what is there", 1, || world.number(settled)).await;
    let feed = world.feed_with("one", &[], false, Some(&file));
    eventually("it begins", 1, || world.number("select count(*) from webhooks")).await;
    eventually("the feeds work", true, || async { feed.readiness.is_ready() }).await;
    post(&mut connection, "a", 6..=8).await;
    receiver.has_taken("a", 8).await;
    assert_eq!(receiver.taken("a"), [6, 7, 8], "what was there before it is not sent");
    let ids = |receiver: &Receiver| {
        let received = receiver.received();
        received.iter().map(|one| (one.version(), one.headers["webhook-id"].clone())).collect::<Vec<_>>()
    };
    let first = ids(&receiver);
    receiver.forget();
    let replay = async |account: &str, version: &str| {
        subscribers(&world, &file, &["replay", "s", "--account", account, "--from-version", version]).await
    };
    assert_eq!(replay("a", "3").await.0, Some(0));
    receiver.has_taken("a", 8).await;
    assert_eq!(receiver.taken("a"), [3, 4, 5, 6, 7, 8]);
    assert!(first.iter().all(|one| ids(&receiver).contains(one)), "a copy has the id of the first");
    for (account, version, code, words) in [
        ("a", "9", 1, "no version 9"),
        ("abc", "1", 1, "no version 1"),
        ("b", "1", 2, "accounts"),
        ("a", "0", 2, "0"),
    ] {
        let (found, said) = replay(account, version).await;
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(subscribers(&world, &file, &["enable", "nobody"]).await.0, Some(1));
    // A person disables it, and enables it again.
    let why = ["--by", "anna", "--why", "it moves"];
    assert_eq!(subscribers(&world, &file, &[&["disable", "s"], &why[..]].concat()).await.0, Some(0));
    assert_eq!(subscribers(&world, &file, &[&["disable", "s"], &why[..]].concat()).await.0, Some(1));
    assert_eq!(subscribers(&world, &file, &["disable", "nobody"]).await.0, Some(1));
    let says =
        "select count(*) from webhooks where disabled_at is not null and disabled_why = 'by anna: it moves'";
    assert_eq!(world.number(says).await, 1);
    post(&mut connection, "a", 9..=9).await;
    assert_eq!(subscribers(&world, &file, &["enable", "s", "--by", "bob"]).await.0, Some(0));
    let (code, said) = subscribers(&world, &file, &["enable", "s", "--by", "bob"]).await;
    assert!(code == Some(1) && said.contains("was enabled already"), "{said}");
    receiver.has_taken("a", 9).await;
    let (code, said) = subscribers(&world, &file, &["forget", "s"]).await;
    assert!(code == Some(2) && said.contains("take it out first"), "{said}");
    feed.stop().await;
    receiver.file("");
    assert_eq!(subscribers(&world, &file, &["forget", "s"]).await.0, Some(0));
    assert_eq!(
        world.number("select (select count(*) from webhooks) + (select count(*) from feeds)").await,
        1
    );
    // Who did what stands in the audit log, and nothing that was not done.
    let acts: Vec<(String, String, String)> =
        sqlx::query_as("select action, chosen, result from operator_actions order by id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let line = |action: &str, more: &str, result: &str| {
        (action.to_owned(), format!("subscriber main:webhook:s{more}"), result.to_owned())
    };
    assert_eq!(
        acts,
        [
            line("resend", "; account a from version 3", "versions 3 to 8 are sent again"),
            line("disable", "", "disabled"),
            line("enable", "", "enabled"),
            line("forget", "", "forgotten"),
        ]
    );
    let who =
        "select count(*) from operator_actions where (who, via, why) = ('anna', 'command line', 'it moves')";
    assert_eq!(world.number(who).await, 1);
    world.close().await;
}

#[tokio::test]
async fn a_subscriber_hears_of_another_history_before_any_event_of_it() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("s", ""));
    let mut connection = world.connect().await;
    post(&mut connection, "a", 1..=1).await;
    let feed = world.feed_with("one", &[], false, Some(&file));
    receiver.has_taken("a", 1).await;
    feed.stop().await;
    sqlx::query("update feeds set epoch = 'the-old-one'").execute(&mut connection).await.unwrap();
    post(&mut connection, "a", 2..=2).await;
    receiver.forget();
    let mut refusals = 3;
    receiver.answers(move |one| {
        refusals -= i32::from(refusals > 0 && one.event["type"] == "payonce.ledger.history.v1");
        status(if refusals > 0 { 500 } else { 200 })
    });
    let feed = world.feed_with("two", &[], false, Some(&file));
    receiver.has_taken("a", 2).await;
    let received = receiver.received();
    let kinds: Vec<&str> = received.iter().map(|one| one.event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["payonce.ledger.history.v1"; 3], "{kinds:?}");
    assert_eq!(kinds[3..], ["payonce.ledger.posted.v1"], "{kinds:?}");
    assert_eq!(received[0].event["data"]["epoch_before"], "the-old-one");
    assert_eq!(received[0].event["epoch"], received[3].event["epoch"]);
    assert!(is_signed(&received[0], SECRETS[0]));
    eventually("it is told once", 0, || {
        world.number("select count(*) from webhooks where history_before is not null")
    })
    .await;
    feed.stop().await;
    world.close().await;
}

/// Whoever delivered before has failed for long, and each account would wait for an hour by now.
async fn has_failed_for_long(connection: &mut store::PgConnection, accounts: i64) {
    sqlx::query(
        "with failing as (update webhooks set failing_since = clock_timestamp() - interval '5 hours' where name = 'main:webhook:s')
         insert into webhook_accounts (subscriber, account_id, delivered, wanted, attempts, failing_since, due_at)
         select 'main:webhook:s', 'a' || n, 0, 1, 12, clock_timestamp() - interval '5 hours', clock_timestamp() + interval '1 hour'
         from generate_series(1, $1) as n",
    )
    .bind(accounts)
    .execute(connection)
    .await
    .unwrap();
}

/// A feed for the subscriber `s` that has told it nothing yet, with accounts that have one row each, and that nobody works for now.
async fn idle_subscriber(
    world: &World,
    receiver: &Receiver,
    accounts: i64,
) -> (PathBuf, store::PgConnection) {
    let file = receiver.file(&receiver.table("s", "start = \"now\""));
    let mut connection = world.connect().await;
    for account in 1..=accounts {
        post(&mut connection, &format!("a{account}"), 1..=1).await;
    }
    let settled =
        "select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint > max(txn))::int::bigint from ledger";
    eventually("nothing can come before what is there", 1, || world.number(settled)).await;
    let feed = world.feed_with("before", &[], false, Some(&file));
    eventually("the feeds work", true, || async { feed.readiness.is_ready() }).await;
    eventually("it is known", 1, || world.number("select count(*) from webhooks")).await;
    feed.stop().await;
    (file, connection)
}

#[tokio::test]
async fn a_subscriber_that_returns_while_it_has_yet_to_hear_of_another_history_does_not_wait_for_an_hour() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let (file, mut connection) = idle_subscriber(&world, &receiver, 2).await;
    has_failed_for_long(&mut connection, 2).await;
    sqlx::query(
        "with untold as (update webhooks set history_before = 'the-old-one', history_txn = 0)
         insert into webhook_accounts (subscriber, account_id, delivered, wanted, attempts, failing_since, due_at)
         values ('main:webhook:s', '', 0, 1, 12, clock_timestamp() - interval '5 hours', clock_timestamp() + interval '1 hour')",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let feed = world.feed_with("one", &[("webhook_retry_max_ms", "3600000")], false, Some(&file));
    receiver.has_taken("a1", 1).await;
    receiver.has_taken("a2", 1).await;
    assert_eq!(receiver.received()[0].event["type"], "payonce.ledger.history.v1");
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_subscriber_that_was_down_when_another_feed_takes_over_is_looked_at_at_once() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let (file, mut connection) = idle_subscriber(&world, &receiver, 9).await;
    has_failed_for_long(&mut connection, 9).await;
    let feed = world.feed_with("one", &[("webhook_retry_max_ms", "3600000")], false, Some(&file));
    for account in 1..=9 {
        receiver.has_taken(&format!("a{account}"), 1).await;
    }
    feed.stop().await;
    world.close().await;
}

/// A receiver that says when it wants to be asked again is asked no earlier (RFC 9110, 10.2.3).
#[tokio::test]
async fn a_receiver_that_says_when_to_try_again_is_left_alone_until_then() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    receiver.answers(|one| {
        if one.account() == "busy" {
            Some((429, vec![("retry-after", "600".to_owned())]))
        } else {
            status(200)
        }
    });
    let file = receiver.file(&receiver.table("s", ""));
    let feed = world.feed_with("one", &[], false, Some(&file));
    let mut connection = world.connect().await;
    post(&mut connection, "busy", 1..=1).await;
    let waits = "select count(*) from webhook_accounts
                 where account_id = 'busy' and attempts = 1 and last_error = 'status 429'
                   and due_at > clock_timestamp() + interval '5 minutes'";
    eventually("it waits for as long as it was told", 1, || world.number(waits)).await;
    // Others go on meanwhile.
    post(&mut connection, "other", 1..=3).await;
    receiver.has_taken("other", 3).await;
    assert_eq!(world.number(waits).await, 1);
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn new_secrets_of_a_subscriber_are_in_force_without_a_restart_and_broken_ones_change_nothing() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("s", ""));
    let feed = world.feed_with("one", &[], false, Some(&file));
    let mut connection = world.connect().await;
    post(&mut connection, "a", 1..=1).await;
    receiver.has_taken("a", 1).await;
    let new = "whsec_bmV3LXNlY3JldC1vZi0zMi1ieXRlcy1sb25nLWhlcmU=";
    let mut version = 1;
    receiver.secrets(new);
    let in_force = async {
        while !receiver.received().last().is_some_and(|one| is_signed(one, new)) {
            version += 1;
            post(&mut connection, "a", version..=version).await;
            receiver.has_taken("a", version).await;
        }
    };
    tokio::time::timeout(DEADLINE, in_force).await.expect("the new secret is in force");
    assert!(SECRETS.iter().all(|old| !is_signed(receiver.received().last().unwrap(), old)));
    receiver.secrets("no secret at all");
    for _ in 0..20 {
        version += 1;
        post(&mut connection, "a", version..=version).await;
        receiver.has_taken("a", version).await;
    }
    assert!(is_signed(receiver.received().last().unwrap(), new));
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn more_accounts_than_may_be_behind_make_the_feed_wait_and_none_is_lost() {
    let world = World::new().await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("s", ""));
    let mut connection = world.connect().await;
    post(&mut connection, "first", 1..=1).await;
    let feed = world.feed_with("one", &[], false, Some(&file));
    receiver.has_taken("first", 1).await;
    sqlx::query(
        "insert into webhook_accounts (subscriber, account_id, delivered, wanted, due_at)
         select 'main:webhook:s', 'full' || n, 0, 1, 'infinity' from generate_series(1, $1) as n",
    )
    .bind(webhooks::ACCOUNTS_BEHIND_MAX)
    .execute(&mut connection)
    .await
    .unwrap();
    let mut reader = EventReader::new(&world).await;
    post(&mut connection, "next", 1..=1).await;
    reader.knows(1).await;
    let behind = "select count(*) from webhook_accounts where account_id = 'next'";
    let lag = "select count(*) from feeds f where name = 'main:webhook:s' and exists (select from ledger where txn > f.txn)";
    assert_eq!((world.number(behind).await, world.number(lag).await), (0, 1));
    sqlx::query("delete from webhook_accounts where account_id = 'full1'")
        .execute(&mut connection)
        .await
        .unwrap();
    receiver.has_taken("next", 1).await;
    feed.stop().await;
    world.close().await;
}

#[test]
fn a_subscriber_that_cannot_be_right_is_refused_with_its_name_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    write("good", SECRETS[0]);
    write("public", "whpk_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    write("short", "whsec_c2hvcnQ=");
    write("empty", "# none yet\n");
    let open = |members: &str| {
        let file = write("payonce.toml", &format!("[[feed.subscriber]]\nname = \"s\"\n{members}\n"));
        let config =
            config::load(Some(&file), &Default::default(), |_| None).map_err(|error| error.to_string())?;
        Subscriber::open_all(&config.feed).map(|opened| opened.len())
    };
    let good = "secrets_file = \"good\"";
    for url in [
        "https://hooks.example.com/a?b=c",
        "https://8.8.8.8",
        "http://127.0.0.1:8080/a",
        "http://[::1]:8080/a",
        "http://localhost/a",
        "https://127.0.0.1/a",
    ] {
        assert_eq!(open(&format!("url = {url:?}\n{good}")), Ok(1), "{url}");
    }
    assert_eq!(open(&format!("url = \"http://10.0.0.1/\"\nprivate_network = true\n{good}")), Ok(1));
    for (members, words) in [
        (format!("url = \"http://hooks.example.com/\"\n{good}"), "use https://"),
        (format!("url = \"ftp://hooks.example.com/\"\n{good}"), "expected https://"),
        (format!("url = \"https://10.1.2.3/\"\n{good}"), "private_network"),
        (format!("url = \"https://169.254.169.254/latest\"\n{good}"), "private_network"),
        (format!("url = \"https://[fd00::1]/\"\n{good}"), "private_network"),
        (format!("url = \"https://[::ffff:127.0.0.1]/\"\n{good}"), "private_network"),
        (format!("url = \"https://u:p@hooks.example.com/\"\n{good}"), "a user"),
        (format!("url = \"nonsense\"\n{good}"), "url"),
        ("url = \"https://a.example/\"\nsecrets_file = \"none\"".to_owned(), "No such file"),
        ("url = \"https://a.example/\"\nsecrets_file = \"public\"".to_owned(), "signs nothing"),
        ("url = \"https://a.example/\"\nsecrets_file = \"short\"".to_owned(), "24 to 64 bytes"),
        ("url = \"https://a.example/\"\nsecrets_file = \"empty\"".to_owned(), "expected a secret"),
        (format!("url = \"https://a.example/\"\nca_file = \"good\"\n{good}"), "ca_file"),
        (format!("url = \"https://a.example/\"\ntypes = [\"payment.mistyped\"]\n{good}"), "payment.captured"),
        (format!("url = \"https://a.example/\"\naccounts = [\"\"]\n{good}"), "prefixes"),
        (format!("url = \"https://a.example/\"\nin_flight_max = 0\n{good}"), "from 1 to 64"),
        (format!("url = \"https://a.example/\"\nretries = 5\n{good}"), "retries"),
        (
            format!(
                "url = \"https://a.example/\"\n{good}\n[[feed.subscriber]]\nname = \"s\"\nurl = \"\"\n{good}"
            ),
            "another subscriber",
        ),
        (
            format!(
                "url = \"https://a.example/\"\n{good}\n[[feed.subscriber]]\nname = \"a:b\"\nurl = \"\"\n{good}"
            ),
            "letters",
        ),
    ] {
        let problem = open(&members).unwrap_err();
        assert!(problem.contains(words), "{members}: {problem}");
        assert!(!problem.contains("u:p@"), "{problem}");
    }
    assert_eq!(feed_of("main", "s"), "main:webhook:s");
}
