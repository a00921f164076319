//! Tells others what the ledger says: every committed row, per account in the order of its versions, to the broker, to the balance cache in
//! Redis, and to subscribers over HTTPS (contract §9). Each of these reads the ledger at its own pace, so that a slow one holds nobody up,
//! least of all the workers. What must not live here: SQL, and any decision about a callback.

mod event;
mod tail;
mod to_broker;
mod to_cache;
mod webhooks;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    balances::Balances,
    broker::{Names, topology::TopologyError},
    config::{FeedConfig, RetryConfig, Secret, TlsConfig},
    metrics,
    store::{self, Database, SchemaError, StoreError, feed::FeedRow, subscribers::WebhookRow},
};
pub use tail::Readiness;
use tail::Tail;
pub use webhooks::{Subscriber, feed_of};

/// How often the backlog is counted, and the index over the newest rows is brought up to date.
const WATCH_PAUSE: Duration = Duration::from_secs(2);

/// All that a feed is given.
pub struct Feed {
    /// Its name, in logs, on connections and beside the position: no two processes may share it.
    pub name: String,
    /// RabbitMQ.
    pub amqp_url: Secret,
    /// Certificates and keys for it.
    pub tls: TlsConfig,
    /// The objects on it.
    pub names: Names,
    /// PostgreSQL.
    pub database: Arc<Database>,
    /// What is sent where.
    pub config: FeedConfig,
    /// Pauses between tries.
    pub retry: RetryConfig,
    /// The balance cache, where it is kept.
    pub balances: Option<Balances>,
    /// Who gets events over HTTPS.
    pub subscribers: Vec<Arc<Subscriber>>,
    /// Whether to send all rows again.
    pub from_beginning: bool,
    /// Whether it works, or stands by.
    pub readiness: Readiness,
}

/// Why a feed cannot go on: a person has to change something first.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The schema does not fit this program.
    #[error(transparent)]
    Schema(SchemaError),
    /// The exchange on the broker differs from what payonce needs, or is missing and may not be made.
    #[error(transparent)]
    Topology(TopologyError),
}

/// Feeds until `stop`, across any failure of the servers.
///
/// # Errors
/// [`Refusal`] where trying again cannot help.
pub async fn run(mut feed: Feed, stop: CancellationToken) -> Result<(), Refusal> {
    let balances = feed.balances.take();
    let feed = Arc::new(feed);
    let mut tasks = JoinSet::new();
    let watching = tokio::spawn(watch(Arc::clone(&feed), stop.clone()));
    {
        let (feed, stop) = (Arc::clone(&feed), stop.clone());
        tasks.spawn(async move {
            let sink = to_broker::ToBroker::new(&feed);
            Tail::new(&feed, &feed.config.name, feed.from_beginning).run(sink, &stop).await
        });
    }
    if let Some(balances) = balances {
        let (feed, stop) = (Arc::clone(&feed), stop.clone());
        tasks.spawn(async move {
            let name = format!("{}{}", feed.config.name, to_cache::SUFFIX);
            Tail::new(&feed, &name, false).run(to_cache::ToCache::new(balances), &stop).await
        });
    }
    for subscriber in feed.subscribers.clone() {
        let (feed, stop) = (Arc::clone(&feed), stop.clone());
        tasks.spawn(async move {
            let sink = webhooks::ToSubscriber::new(&feed, &subscriber);
            let tail = Tail::new(&feed, &subscriber.name, false).starting(subscriber.start);
            tail.run(sink, &stop).await
        });
    }
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => result = Err(refusal),
            // Nothing of it is lost: whoever starts next goes on from the stored position.
            Err(panic) => warn!(cause = %panic, "a part of the feed ended unexpectedly"),
        }
        // One that has ended would not be missed by the others.
        stop.cancel();
    }
    drop(watching.await);
    info!("stopped");
    result
}

/// Counts what is not sent yet, for metrics, and keeps the ledger's index over transactions fresh.
async fn watch(feed: Arc<Feed>, stop: CancellationToken) {
    let mut connection = store::Connection::new(Arc::clone(&feed.database));
    while !stop.is_cancelled() {
        let looked: Result<(Vec<FeedRow>, Vec<WebhookRow>), StoreError> = connection
            .run(async |connection| {
                store::feed::summarize(connection).await?;
                Ok((store::feed::list(connection).await?, store::subscribers::list(connection).await?))
            })
            .await;
        match looked {
            Ok((rows, webhooks)) => {
                for row in rows {
                    metrics::feed_lag(&row.name, row.lag_rows, row.lag_seconds);
                }
                for row in webhooks {
                    metrics::webhooks::stands(
                        &row.name,
                        row.disabled_at.is_some(),
                        row.accounts_behind,
                        row.accounts_exhausted,
                    );
                }
            }
            // The tails say it louder.
            Err(cause) => tracing::debug!(cause = %cause, "the backlog is not counted"),
        }
        tail::sleep_unless(WATCH_PAUSE, &stop).await;
    }
    connection.close().await;
}
