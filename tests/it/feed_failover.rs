//! What a reader can know after a failover that lost commits: the feed says that the history is another, and sends anew what there is in it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{EventReader, OwnServer, Receiver, World, eventually};

fn shared(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// Rows as workers would write them: the next versions of this account, from this provider.
async fn post(world: &World, provider: &str, account: &str, versions: std::ops::RangeInclusive<i64>) {
    sqlx::query(
        "insert into ledger (source, event_id, type, account_id, account_version, amount, currency, balance_delta, held_delta,
                             balance_after, held_after, payload_sha256)
         select $1, $2 || ':' || n, 'deposit.succeeded', $2, n, length($1), 'EUR', length($1), 0, n * length($1), 0, sha256($1::bytea)
         from generate_series($3, $4) as n",
    )
    .bind(provider)
    .bind(account)
    .bind(versions.start())
    .bind(versions.end())
    .execute(&mut world.connect().await)
    .await
    .unwrap();
}

/// What docs/feed.md tells a reader to do: the last version of each account, and of another history all that comes, in order.
#[derive(Default)]
struct Believes {
    epoch: String,
    known: BTreeMap<String, (String, i64, Value)>,
}

impl Believes {
    fn read(&mut self, event: &Value) {
        let epoch = event["epoch"].as_str().unwrap();
        if event["type"] == "payonce.ledger.history.v1" {
            assert_eq!(event["data"]["epoch_before"], self.epoch, "it says which history has ended");
            assert_ne!(epoch, self.epoch);
            self.epoch = epoch.to_owned();
            return;
        }
        if self.epoch.is_empty() {
            self.epoch = epoch.to_owned();
        }
        assert_eq!(epoch, self.epoch, "no event of another history comes before the news of it");
        let (account, version) = (event["subject"].as_str().unwrap(), event["sequence"].as_i64().unwrap());
        let last = self.known.get(account).filter(|(known_in, _, _)| *known_in == self.epoch);
        if last.is_none_or(|(_, last, _)| version == last + 1) {
            let data = event["data"].clone();
            self.known.insert(account.to_owned(), (self.epoch.clone(), version, data));
        }
    }
}

#[tokio::test]
async fn what_an_asynchronous_failover_lost_is_retracted_by_the_epoch_and_what_there_is_comes_anew() {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    let mut reader = EventReader::new(&world).await;
    let receiver = Receiver::new().await;
    let file = receiver.file(&receiver.table("s", ""));
    post(&world, "/old", "a", 1..=2).await;
    let feed = world.feed_with("one", &[], false, Some(&file));
    reader.knows(2).await;
    receiver.has_taken("a", 2).await;
    let settled = "select count(*) from feeds f where exists (select from ledger where txn > f.txn)";
    eventually("the positions are kept", 0, || world.number(settled)).await;
    postgres.copy("standby", "standby").await;
    // Sent, and then lost with the primary: the standby never had them.
    post(&world, "/old", "a", 3..=4).await;
    post(&world, "/old", "lost", 1..=1).await;
    reader.knows(5).await;
    receiver.has_taken("a", 4).await;
    receiver.has_taken("lost", 1).await;
    postgres.kill().await;
    postgres.restore("standby").await;
    assert_eq!(world.number("select pg_promote()::int::bigint").await, 1, "the standby is promoted");
    post(&world, "/new-one", "a", 3..=3).await;

    let mut believes = Believes::default();
    reader.events.iter().for_each(|event| believes.read(event));
    assert_eq!(believes.known["a"].1, 4);
    let before = believes.epoch.clone();
    while believes.known["a"].0 == before || believes.known["a"].1 < 3 {
        let event = reader.next().await.clone();
        believes.read(&event);
    }
    let (epoch, version, data) = &believes.known["a"];
    assert_eq!((epoch, *version, &data["source"]), (&believes.epoch, 3, &"/new-one".into()));
    let balance: i64 = data["balance_after"].as_i64().unwrap();
    assert_eq!(
        balance,
        world.number("select balance_after from ledger where account_id = 'a' and account_version = 3").await
    );
    // Of this one nothing comes any more. That its history has ended is what the reader knows, and asks about it.
    assert_eq!(believes.known["lost"].0, before);

    // The same over HTTPS; and a version that stands for another row has another id, so that nobody takes it for a copy.
    eventually("the subscriber has the new one", true, || async {
        receiver.received().last().is_some_and(|one| one.event["data"]["source"] == "/new-one")
    })
    .await;
    let received = receiver.received();
    let news = received
        .iter()
        .position(|one| one.event["type"] == "payonce.ledger.history.v1")
        .expect("it was told");
    assert!(received[news..].iter().all(|one| one.event["epoch"] == **epoch));
    assert!(received[..news].iter().all(|one| one.event["epoch"] == *before));
    let ids: Vec<&str> = received
        .iter()
        .filter(|one| (one.account(), one.version()) == ("a", 3))
        .map(|one| one.headers["webhook-id"].as_str())
        .collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_ne!(ids[0], ids[1]);
    feed.stop().await;
    world.close().await;
}
