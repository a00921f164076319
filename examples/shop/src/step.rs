//! A step of the saga, the same for every service: one event of the feed, and in one transaction what it means here, what is to be said because
//! of it, and the last version of its account. So a step happens once for each (account, version), whenever the process is killed.
//! What must not live here: what an event means.

use std::{cmp::Ordering, time::Duration};

use anyhow::Context;
use futures_util::StreamExt;
use lapin::{
    Channel,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use payonce::broker::{self, Names};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{Place, outbox::Outbox};

/// Events that the broker sends ahead of the acknowledgements.
const PREFETCH_MAX: u16 = 100;
/// How often what is to be said is looked for, where no event comes.
const OUTBOX_PAUSE: Duration = Duration::from_millis(100);
/// Before a service that has lost a server begins again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A ledger row, as far as the shop reads it.
pub struct Entry {
    pub kind: String,
    pub account: String,
    /// The order's, where it is about one.
    pub payment: Option<String>,
    /// Minor units.
    pub amount: i64,
}

/// What differs from service to service.
pub trait Service {
    /// Of its queue; its schema is `shop_NAME`.
    const NAME: &'static str;
    /// Its tables, where they are not there yet. Names without a schema are its own.
    const TABLES: &'static str;

    /// What an event means here, within the transaction that also keeps the account's version.
    async fn step(transaction: &mut PgConnection, entry: &Entry) -> anyhow::Result<()>;
}

/// What every service has beside its own tables.
const TABLES: &str = "
    create table if not exists seen (account_id text primary key, version bigint not null, copies bigint not null default 0);
    create table if not exists outbox (id bigserial primary key, account_id text not null, event_id text not null, body text not null)";

/// Serves until it is killed.
pub async fn serve<S: Service>(place: &Place) -> anyhow::Result<()> {
    loop {
        let Err(problem) = session::<S>(place).await else { return Ok(()) };
        eprintln!("{}: {problem:#}; again in {RETRY_PAUSE:?}", S::NAME);
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Until a server is gone. What was not acknowledged comes again.
async fn session<S: Service>(place: &Place) -> anyhow::Result<()> {
    let mut database = connect::<S>(place).await?;
    let connection = broker::connect(&place.amqp_url, S::NAME, &Default::default()).await?;
    let mut outbox = Outbox::open(&connection, place).await?;
    let channel = connection.create_channel().await?;
    let queue = declare(&channel, place, S::NAME).await?;
    channel.basic_qos(PREFETCH_MAX, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut events = channel.basic_consume(queue.as_str().into(), S::NAME.into(), options, none).await?;
    let mut looks = tokio::time::interval(OUTBOX_PAUSE);
    loop {
        tokio::select! {
            event = events.next() => {
                let event = event.context("the broker has ended the consumer")??;
                take::<S>(&mut database, &event.data).await?;
                outbox.send(&mut database).await?;
                event.acker.ack(BasicAckOptions::default()).await?;
            }
            _ = looks.tick() => outbox.send(&mut database).await?,
        }
    }
}

/// A connection that sees no other service's tables, nor payonce's.
pub async fn connect<S: Service>(place: &Place) -> anyhow::Result<PgConnection> {
    let mut database = PgConnection::connect(&place.database_url).await?;
    let begin = format!(
        "create schema if not exists shop_{0}; set search_path to shop_{0}; {TABLES}; {1}",
        S::NAME,
        S::TABLES
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut database).await?;
    Ok(database)
}

/// The service's queue, bound to all events. It has to be there before the feed begins, or `payonce feed --from-beginning` is needed.
pub async fn declare(channel: &Channel, place: &Place, service: &str) -> anyhow::Result<String> {
    let (exchange, queue) =
        (Names::new(&place.prefix).events_exchange, format!("{}shop.{service}", place.prefix));
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let (topic, none) = (lapin::ExchangeKind::Topic, FieldTable::default());
    channel.exchange_declare(exchange.as_str().into(), topic, durable, none.clone()).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Two consumers that share a queue see versions out of order, and what one of them takes for too early does not come again.
    quorum.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    channel.queue_declare(queue.as_str().into(), durable, quorum).await?;
    let all = QueueBindOptions::default();
    channel.queue_bind(queue.as_str().into(), exchange.as_str().into(), "#".into(), all, none).await?;
    Ok(queue)
}

async fn take<S: Service>(database: &mut PgConnection, body: &[u8]) -> anyhow::Result<()> {
    let event: Value = serde_json::from_slice(body).context("an event is not JSON")?;
    // `payonce.ledger.history.v1` tells of a failover. This shop drops copies, and no more: docs/feed.md says what else a reader does where
    // an asynchronous standby may be promoted.
    if event["type"] != "payonce.ledger.posted.v1" {
        return Ok(());
    }
    let data = &event["data"];
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    let number = |name: &str| data[name].as_i64().with_context(|| format!("an event without {name}"));
    let entry = Entry {
        kind: text("type").context("an event without type")?,
        account: text("account_id").context("an event without account_id")?,
        payment: text("payment_id"),
        amount: number("amount")?,
    };
    let version = number("account_version")?;

    let mut transaction = database.begin().await?;
    sqlx::query("insert into seen (account_id, version) values ($1, 0) on conflict do nothing")
        .bind(&entry.account)
        .execute(&mut *transaction)
        .await?;
    // The lock holds up another process of this service: it then sees the version that this one has written.
    let last: i64 = sqlx::query_scalar("select version from seen where account_id = $1 for update")
        .bind(&entry.account)
        .fetch_one(&mut *transaction)
        .await?;
    match version.cmp(&last.saturating_add(1)) {
        // A copy: nothing happens but that it is counted.
        Ordering::Less => {
            sqlx::query("update seen set copies = copies + 1 where account_id = $1")
                .bind(&entry.account)
                .execute(&mut *transaction)
                .await?;
            return Ok(transaction.commit().await?);
        }
        // One before it did not come; that one and all from there on come again, in order.
        Ordering::Greater => return Ok(()),
        Ordering::Equal => {}
    }
    S::step(&mut transaction, &entry).await?;
    sqlx::query("update seen set version = $2 where account_id = $1")
        .bind(&entry.account)
        .bind(version)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
