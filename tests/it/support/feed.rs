//! Feeds inside the test's process, and a reader of what they send that believes nothing: it keeps the last version of each account.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use payonce::{
    balances::Balances,
    broker,
    config::{self, Secret},
    feed::{self, Feed, Readiness},
    store::Database,
};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, World};

/// A feed inside the test's process.
pub struct RunningFeed {
    pub readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<Result<(), feed::Refusal>>,
}

impl RunningFeed {
    /// Stops it as SIGTERM would.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the feed panicked").expect("the feed refused to run");
    }
}

impl World {
    /// The balance cache, not connected.
    pub fn balances(&self) -> Balances {
        let (timeout, ttl) = (Duration::from_secs(1), Duration::from_secs(600));
        Balances::new(&self.redis_url, &self.prefix, timeout, ttl, &Default::default()).expect("a Redis URL")
    }

    /// The balance cache.
    pub async fn cache(&self) -> Balances {
        let mut balances = self.balances();
        balances.connect().await.expect("Redis answers");
        balances
    }

    /// A feed by this name of a process, without waiting for anything.
    pub fn feed(&self, process: &str, settings: &[(&str, &str)], from_beginning: bool) -> RunningFeed {
        self.feed_with(process, settings, from_beginning, None)
    }

    /// The same with a configuration file, which alone can name subscribers.
    pub fn feed_with(
        &self,
        process: &str,
        settings: &[(&str, &str)],
        from_beginning: bool,
        file: Option<&Path>,
    ) -> RunningFeed {
        let mut all =
            vec![("retry_delay_max_ms", "200"), ("feed_lease_ms", "1000"), ("webhook_retry_max_ms", "50")];
        all.extend(settings);
        let flags = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = config::load(file, &flags, |_| None).expect("the test's settings are sound");
        let database =
            Database::new(&self.database_url, "payonce-it-feed", config.database_deadline).expect("a URL");
        let readiness = Readiness::default();
        let balances = config.feed.balance_cache.then(|| self.balances());
        let feed = Feed {
            balances,
            subscribers: feed::Subscriber::open_all(&config.feed).expect("the test's subscribers"),
            name: process.to_owned(),
            amqp_url: Secret::new(self.amqp_url.clone()),
            tls: config.tls,
            names: self.names(),
            database: Arc::new(database),
            config: config.feed,
            retry: config.retry,
            from_beginning,
            readiness: readiness.clone(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(feed::run(feed, stop.clone()));
        RunningFeed { readiness, stop, task }
    }
}

/// A queue of its own, bound to the exchange of events.
pub struct EventReader {
    _connection: Connection,
    _channel: Channel,
    consumer: Consumer,
    /// The last version of each account.
    pub versions: BTreeMap<String, i64>,
    /// Copies of what was known.
    pub copies: u64,
    /// Versions that came before the one they follow.
    pub gaps: u64,
    /// Everything, as it came.
    pub events: Vec<Value>,
}

impl EventReader {
    pub async fn new(world: &World) -> Self {
        let queue = format!("{}reader", world.prefix);
        let (connection, channel) = bound(world, &queue, FieldTable::default()).await;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel
            .basic_consume(queue.as_str().into(), "reader".into(), options, FieldTable::default())
            .await
            .expect("a consumer");
        Self {
            _connection: connection,
            _channel: channel,
            consumer,
            versions: BTreeMap::new(),
            copies: 0,
            gaps: 0,
            events: Vec::new(),
        }
    }

    /// Reads until so many rows are known; fails at the deadline.
    pub async fn knows(&mut self, rows: i64) {
        while self.versions.values().sum::<i64>() < rows {
            self.next().await;
        }
    }

    /// Takes one event. A version that does not follow the last is left: it comes again.
    pub async fn next(&mut self) -> &Value {
        let event = tokio::time::timeout(DEADLINE, self.consumer.next()).await;
        let event = event.unwrap_or_else(|_| panic!("no event came; known so far: {:?}", self.versions));
        let delivery = event.expect("the consumer goes on").expect("a delivery");
        let event: Value = serde_json::from_slice(&delivery.data).expect("an event is JSON");
        if event["type"] == "payonce.ledger.posted.v1" {
            let account = event["subject"].as_str().expect("a subject").to_owned();
            assert_eq!(delivery.routing_key.as_str(), account);
            let version = event["sequence"].as_i64().expect("a sequence");
            let last = self.versions.entry(account).or_insert(0);
            match version.cmp(&(*last + 1)) {
                std::cmp::Ordering::Less => self.copies += 1,
                std::cmp::Ordering::Equal => *last = version,
                std::cmp::Ordering::Greater => self.gaps += 1,
            }
        }
        self.events.push(event);
        self.events.last().expect("it was pushed")
    }

    /// True where nothing comes for a while that feeds need for many rounds.
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(500), self.consumer.next()).await.is_err()
    }
}

/// A queue that nobody reads, takes one message and refuses others.
pub struct FullQueue {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

impl FullQueue {
    pub async fn new(world: &World) -> Self {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let queue = format!("{}full", world.prefix);
        let (connection, channel) = bound(world, &queue, arguments).await;
        Self { _connection: connection, channel, queue }
    }

    pub async fn delete(self) {
        let options = QueueDeleteOptions::default();
        self.channel
            .queue_delete(self.queue.as_str().into(), options)
            .await
            .expect("the queue can be deleted");
    }
}

/// Declares a queue of this connection and binds it to all events.
async fn bound(world: &World, queue: &str, arguments: FieldTable) -> (Connection, Channel) {
    let connection = broker::connect(&world.amqp_url, "payonce-it-reader", &Default::default())
        .await
        .expect("RabbitMQ answers");
    let names = world.names();
    broker::declare_events(&connection, &names).await.expect("the exchange can be declared");
    let channel = connection.create_channel().await.expect("a channel");
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await.expect("a queue");
    channel
        .queue_bind(
            queue.into(),
            names.events_exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("a binding");
    (connection, channel)
}
