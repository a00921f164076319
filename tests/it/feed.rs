//! The feed: every committed row, once or more, per account in the order of versions and without a gap, whatever is killed when.

use payonce::{
    balances::{Balance, Balances, Mark},
    store::{self, SchemaError, feed::Position},
};
use rand::{SeedableRng, seq::SliceRandom};
use sqlx::Connection as _;

use crate::support::{Event, EventReader, FullQueue, World, eventually};

/// A row as a worker would write it: the next version of this account.
async fn post(connection: &mut store::PgConnection, account: &str, version: i64) {
    sqlx::query(
        "insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                             balance_after, held_after, payload_sha256)
         values ('/providers/test', $1 || ':' || $2, 'deposit.succeeded', $1, $2, 1, 'EUR', 1, 0, $2, 0, sha256($1::bytea))",
    )
    .bind(account)
    .bind(version)
    .execute(connection)
    .await
    .unwrap();
}

#[tokio::test]
async fn every_row_is_sent_in_the_order_of_its_accounts_versions() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let feed = world.feed("one", &[], false);
    let worker = world.worker().await;
    let deposits = (0..600).map(|n| Event::deposit(&format!("e{n}"), &format!("a{}", n % 7), 10 + n));
    world.publish(&deposits.collect::<Vec<_>>()).await;
    world.publish(&[Event::payment("payment.authorized", "auth", "a0", "p", 25).operation("op")]).await;
    reader.knows(601).await;
    assert_eq!((reader.copies, reader.gaps), (0, 0));

    let event = reader.events.iter().find(|event| event["data"]["cause"]["id"] == "auth").unwrap();
    let version = reader.versions["a0"];
    let row: (String, i64, i64, String) = sqlx::query_as(
        "select type, balance_after, held_after, encode(payload_sha256, 'hex') from ledger where event_id = 'auth'",
    )
    .fetch_one(&mut world.connect().await)
    .await
    .unwrap();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["id"], format!("{}:a0", event["sequence"]));
    assert_eq!(event["source"], "urn:payonce:ledger:main");
    assert_eq!(event["subject"], "a0");
    assert!(event["sequence"].as_i64().unwrap() <= version);
    let data = &event["data"];
    assert_eq!(data["cause"], serde_json::json!({"source": "/providers/test", "id": "auth", "type": row.0}));
    assert_eq!(data["account_version"], event["sequence"]);
    assert_eq!((&data["balance_after"], &data["held_after"]), (&row.1.into(), &row.2.into()));
    assert_eq!((&data["balance_delta"], &data["held_delta"]), (&0.into(), &25.into()));
    assert_eq!((&data["payment_id"], &data["operation_id"]), (&"p".into(), &"op".into()));
    assert_eq!(
        (&data["payload_sha256"], &data["leg"], &data["currency"]),
        (&row.3.into(), &0.into(), &"EUR".into())
    );
    feed.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_row_that_commits_late_is_not_left_out() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let (mut late, mut early) = (world.connect().await, world.connect().await);
    let mut transaction = late.begin().await.unwrap();
    post(&mut transaction, "late", 1).await;
    post(&mut early, "early", 1).await;
    let feed = world.feed("one", &[], false);
    // Committed after it began to feed, with an older transaction than the row that was there before.
    eventually("the feed works", true, || async { feed.readiness.is_ready() }).await;
    assert!(
        reader.is_quiet().await,
        "rows are sent in the order of transactions, and an older one is at work"
    );
    transaction.commit().await.unwrap();
    reader.knows(2).await;
    assert_eq!(reader.versions.keys().collect::<Vec<_>>(), ["early", "late"]);
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_feed_that_is_killed_at_any_moment_leaves_nothing_out() {
    const ROWS: i64 = 4_000;
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let worker = world.worker_with(&[("batch_size_max", "20"), ("prefetch_count", "400")]).await;
    let deposits = (0..ROWS).map(|n| Event::deposit(&format!("e{n}"), &format!("a{}", n % 50), 1));
    world.publish(&deposits.collect::<Vec<_>>()).await;
    for rows in [1, 900, 1_800, 2_700] {
        let mut feed = world.program(&["feed", "--feed-lease-ms", "500"]).spawn().unwrap();
        reader.knows(rows).await;
        feed.kill().await.unwrap();
    }
    let feed = world.feed("last", &[], false);
    reader.knows(ROWS).await;
    assert_eq!(reader.gaps, 0);
    feed.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn one_feed_works_and_another_takes_over() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let mut connection = world.connect().await;
    let first = world.feed("first", &[("feed_lease_ms", "600000")], false);
    post(&mut connection, "a", 1).await;
    reader.knows(1).await;
    let second = world.feed("second", &[], false);
    eventually("the second stands by", true, || async { second.readiness.is_ready() }).await;
    for version in 2..50 {
        post(&mut connection, "a", version).await;
    }
    reader.knows(49).await;
    assert_eq!(world.number("select count(*) from feeds where holder = 'first'").await, 1);
    assert_eq!(reader.copies, 0, "one at a time");
    // It gives the lease back: nobody waits ten minutes.
    first.stop().await;
    post(&mut connection, "a", 50).await;
    reader.knows(50).await;
    // It dies without a word: the lease ends by itself.
    sqlx::query("update feeds set holder = 'dead', lease_until = clock_timestamp() + interval '1 second'")
        .execute(&mut connection)
        .await
        .unwrap();
    post(&mut connection, "a", 51).await;
    reader.knows(51).await;
    assert_eq!(reader.gaps, 0);
    second.stop().await;
    world.close().await;
}

/// A feed that works but cannot reach the broker is worth no more than a dead one, however alive its process is.
#[tokio::test]
async fn a_feed_that_cannot_reach_the_broker_leaves_it_to_one_that_can() {
    let mut world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let mut connection = world.connect().await;
    let nobody_listens = "amqp://guest:guest@127.0.0.1:1/%2f".to_owned();
    let broker = std::mem::replace(&mut world.amqp_url, nobody_listens);
    let cut_off = world.feed("cut-off", &[], false);
    world.amqp_url = broker;
    let says_why = "select count(*) from feeds where last_error is not null";
    eventually("it has the lease and says why it does not send", 1, || world.number(says_why)).await;
    let other = world.feed("other", &[], false);
    post(&mut connection, "a", 1).await;
    reader.knows(1).await;
    eventually("the first stands by", true, || async { cut_off.readiness.is_ready() }).await;
    post(&mut connection, "a", 2).await;
    reader.knows(2).await;
    assert_eq!(world.number("select count(*) from feeds where holder = 'other'").await, 1);
    assert_eq!(reader.gaps, 0);
    cut_off.stop().await;
    other.stop().await;
    world.close().await;
}

#[tokio::test]
async fn all_is_sent_again_from_the_beginning() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let mut connection = world.connect().await;
    for version in 1..=30 {
        post(&mut connection, "a", version).await;
    }
    let feed = world.feed("one", &[], false);
    reader.knows(30).await;
    feed.stop().await;
    reader.versions.clear();
    let feed = world.feed("two", &[], true);
    reader.knows(30).await;
    assert_eq!((reader.copies, reader.gaps), (0, 0));
    feed.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_queue_that_is_full_holds_up_the_feed_and_nobody_else_and_loses_nothing() {
    let world = World::new().await;
    let full = FullQueue::new(&world).await;
    let mut reader = EventReader::new(&world).await;
    let feed = world.feed("one", &[], false);
    let worker = world.worker().await;
    let deposits = (0..200).map(|n| Event::deposit(&format!("e{n}"), &format!("a{}", n % 5), 1));
    world.publish(&deposits.collect::<Vec<_>>()).await;
    world.settled(200).await;
    let says_why = "select count(*) from feeds where last_error like '%refuses%'";
    eventually("the feed says why it waits", 1, || world.number(says_why)).await;
    assert_eq!(world.number("select sent from feeds").await, 1, "what one queue refuses is not sent");
    full.delete().await;
    reader.knows(200).await;
    eventually("all rows count as sent", 200, || world.number("select sent from feeds")).await;
    assert_eq!(world.number(says_why).await, 0);
    feed.stop().await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn readers_are_told_that_the_database_goes_on_in_another_history() {
    let world = World::new().await;
    let mut reader = EventReader::new(&world).await;
    let mut connection = world.connect().await;
    post(&mut connection, "a", 1).await;
    let feed = world.feed("one", &[], false);
    reader.knows(1).await;
    feed.stop().await;
    let epoch = reader.events[0]["epoch"].as_str().unwrap().to_owned();
    sqlx::query("update feeds set epoch = 'the-old-one'").execute(&mut connection).await.unwrap();
    post(&mut connection, "a", 2).await;
    let feed = world.feed("one", &[], false);
    let news = reader.next().await.clone();
    assert_eq!(news["type"], "payonce.ledger.history.v1");
    assert_eq!(news["data"]["epoch_before"], "the-old-one");
    assert_eq!((&news["epoch"], &news["data"]["epoch"]), (&epoch.clone().into(), &epoch.into()));
    reader.knows(2).await;
    feed.stop().await;
    world.close().await;
}

/// A feed loses its connection while it delivers, and the next one leads to a copy of the database that was promoted or restored: the lease
/// is there as it was, and the position of the history before lies behind rows that were never sent.
#[tokio::test]
async fn a_position_of_another_history_is_never_kept() {
    let (world, other) = (World::new().await, World::new().await);
    let mut connection = world.connect().await;
    let lease = std::time::Duration::from_secs(600);
    let taken = store::feed::take(&mut connection, "main", "one", lease, false)
        .await
        .unwrap()
        .expect("nobody has it");
    let elsewhere = store::epoch(&mut other.connect().await).await.unwrap();
    let ahead = Position { txn: i64::MAX - 1, within: None };
    let mut keep = async |epoch: &store::Epoch| {
        store::feed::keep(&mut connection, "main", "one", lease, &ahead, epoch, 1).await.unwrap()
    };
    assert!(!keep(&elsewhere).await);
    assert_eq!(world.number("select txn + sent from feeds").await, 0);
    assert!(keep(&taken.epoch).await);
    world.close().await;
    other.close().await;
}

/// A dump brings rows of transactions that the cluster it is restored into has yet to reach.
#[tokio::test]
async fn a_ledger_restored_into_another_cluster_is_refused_until_it_is_migrated() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    post(&mut connection, "a", 1).await;
    sqlx::raw_sql(
        "alter table ledger disable trigger ledger_append_only; update ledger set txn = txn + 1000000000;
         alter table ledger enable trigger ledger_append_only",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let refused = store::check_schema(&mut connection).await.unwrap_err();
    assert!(matches!(refused, SchemaError::FromDump), "{refused}");
    assert!(refused.to_string().contains("payonce migrate"));
    let worker = world.program(&["worker"]).output().await.unwrap();
    assert_eq!(worker.status.code(), Some(2));

    store::migrate(&mut connection).await.unwrap();
    store::check_schema(&mut connection).await.unwrap();
    post(&mut connection, "a", 2).await;
    assert_eq!(
        world.number("select (max(txn) filter (where account_version = 2) > max(txn) filter (where account_version = 1))::int::bigint from ledger").await,
        1
    );
    let mut reader = EventReader::new(&world).await;
    let feed = world.feed("one", &[], false);
    reader.knows(2).await;
    assert_eq!(reader.gaps, 0);
    feed.stop().await;
    world.close().await;
}

/// What the cache has of an account: (version, balance).
async fn cached(cache: &mut Balances, epoch: &str, account: &str) -> Option<(i64, i64)> {
    let found = cache.read(epoch, account).await.expect("Redis answers");
    found.map(|balance| (balance.version, balance.balance))
}

#[tokio::test]
async fn the_balance_cache_follows_the_ledger_also_when_redis_forgets_or_goes_back() {
    let world = World::new().await;
    let mut connection = world.connect().await;
    let epoch = store::epoch(&mut connection).await.unwrap().as_str().to_owned();
    let mut cache = world.balances();
    cache.connect().await.unwrap();
    let feed = world.feed("one", &[("balance_cache", "true")], false);
    post(&mut connection, "a", 1).await;
    post(&mut connection, "b", 1).await;
    post(&mut connection, "a", 2).await;
    let mut now = async |account: &str, version: i64| {
        for _ in 0..6_000 {
            if cached(&mut cache, &epoch, account).await == Some((version, version)) {
                return cache.mark().await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{account} never got to version {version} in the cache");
    };
    now("a", 2).await;
    let old = now("b", 1).await.expect("a mark");
    post(&mut connection, "a", 3).await;
    now("a", 3).await;
    // Redis goes back to an old copy, the mark with it: as if it had been restored, or had failed over to a replica that was behind.
    let mut redis = world.redis().await;
    let name = format!("{}payonce:{epoch}:balance:{{a}}", world.prefix);
    let mark = format!("{}payonce:balances", world.prefix);
    redis::pipe()
        .cmd("HSET")
        .arg(&name)
        .arg(&["version", "2", "balance", "2"])
        .cmd("HSET")
        .arg(&mark)
        .arg("txn")
        .arg(old.txn.saturating_sub(1))
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
    now("a", 3).await;
    // It forgets everything: readers miss, and see no old balance.
    redis::cmd("DEL").arg(&[&name, &mark]).query_async::<()>(&mut redis).await.unwrap();
    post(&mut connection, "b", 2).await;
    now("b", 2).await;
    assert_eq!(cached(&mut world.cache().await, &epoch, "a").await, None);
    feed.stop().await;
    world.close().await;
}

/// A feed that was stopped in mid-work and goes on must not say of what another has written, or of a Redis that has gone back meanwhile, that
/// it is complete.
#[tokio::test]
async fn the_mark_of_the_balance_cache_is_only_set_where_it_is_the_one_that_was_read() {
    let world = World::new().await;
    let (mut first, mut second) = (world.cache().await, world.cache().await);
    let mark = |txn| Mark { epoch: "E".to_owned(), txn };
    assert!(first.set_mark(None, &mark(10)).await.unwrap());
    assert!(!second.set_mark(None, &mark(5)).await.unwrap(), "it was not there when it was read");
    assert!(second.set_mark(Some(&mark(10)), &mark(20)).await.unwrap());
    assert!(!first.set_mark(Some(&mark(10)), &mark(30)).await.unwrap(), "another has gone on since");
    assert_eq!(first.mark().await.unwrap(), Some(mark(20)));
    let name = format!("{}payonce:balances", world.prefix);
    let at_ms: String =
        redis::cmd("HGET").arg(&name).arg("at_ms").query_async(&mut world.redis().await).await.unwrap();
    assert!(at_ms.len() == 13 && at_ms.bytes().all(|byte| byte.is_ascii_digit()), "{at_ms} milliseconds");
    redis::cmd("DEL").arg(&name).query_async::<()>(&mut world.redis().await).await.unwrap();
    assert!(!second.set_mark(Some(&mark(20)), &mark(30)).await.unwrap(), "Redis has forgotten it since");
    world.close().await;
}

/// Writers in any order, copies and all, under several epochs: the newest version of each stays.
#[tokio::test]
async fn a_late_write_never_covers_a_newer_balance() {
    let world = World::new().await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut writes: Vec<(&str, String, i64)> = (1..=40)
        .flat_map(|version| (0..5).map(move |account| (version, account)))
        .flat_map(|(version, account)| ["E1", "E2"].map(|epoch| (epoch, format!("a{account}"), version)))
        .flat_map(|write| [write.clone(), write])
        .collect();
    writes.shuffle(&mut random);
    let (first, second) = writes.split_at(writes.len() / 2);
    let write = async |writes: &[(&str, String, i64)]| {
        let mut cache = world.cache().await;
        for run in writes.chunks(7) {
            for (epoch, account, version) in run {
                let one = Balance {
                    account_id: account.clone(),
                    balance: version * 10,
                    held: 0,
                    currency: "EUR".to_owned(),
                    version: *version,
                };
                cache.write(epoch, &[one]).await.unwrap();
            }
        }
    };
    tokio::join!(write(first), write(second));
    let mut cache = world.cache().await;
    for epoch in ["E1", "E2"] {
        for account in 0..5 {
            assert_eq!(cached(&mut cache, epoch, &format!("a{account}")).await, Some((40, 400)));
        }
    }
    world.close().await;
}
