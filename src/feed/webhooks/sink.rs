//! The reading side: which accounts have news for the subscriber. News is kept in the database before the position moves, and delivered from
//! there (`deliver`), so that an account that is not taken holds up no other, and a dead subscriber costs a row for each such account.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Subscriber,
    deliver::{Deliverer, STOP_GRACE},
};
use crate::{
    feed::{
        Feed,
        event::Origin,
        tail::{Sink, SinkError},
    },
    store::{
        self, Epoch, PgConnection, StoreError,
        feed::{Entry, Position},
        webhooks::{self, News},
    },
};

/// Pause between two looks whether there is room for more accounts.
const ROOM_PAUSE: Duration = Duration::from_millis(500);

/// The subscriber's own connection: of its reading and of its deliveries.
pub(super) type Shared = Arc<Mutex<store::Connection>>;

pub(in crate::feed) struct ToSubscriber {
    feed: Arc<Feed>,
    subscriber: Arc<Subscriber>,
    connection: Shared,
    /// Told when there is something to deliver.
    news: Arc<Notify>,
    /// Ready to begin, once all that comes before the first row is kept.
    deliverer: Option<Deliverer>,
    delivering: Option<(CancellationToken, JoinHandle<()>)>,
}

impl ToSubscriber {
    pub(in crate::feed) fn new(feed: &Arc<Feed>, subscriber: &Arc<Subscriber>) -> Self {
        Self {
            feed: Arc::clone(feed),
            subscriber: Arc::clone(subscriber),
            connection: Arc::new(Mutex::new(store::Connection::new(Arc::clone(&feed.database)))),
            news: Arc::default(),
            deliverer: None,
            delivering: None,
        }
    }

    async fn run<T>(
        &self,
        operation: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, SinkError> {
        self.connection
            .lock()
            .await
            .run(operation)
            .await
            .map_err(|cause| SinkError::Unreachable(cause.to_string()))
    }
}

impl Sink for ToSubscriber {
    async fn open(&mut self, epoch: &Epoch) -> Result<(), SinkError> {
        self.close().await;
        self.run(async |connection| webhooks::make(connection, &self.subscriber.name).await).await?;
        self.deliverer = Some(Deliverer::new(
            &self.feed,
            &self.subscriber,
            &self.connection,
            &self.news,
            Origin::new(&self.feed.config.name, epoch.clone()),
        ));
        Ok(())
    }

    async fn history_changed(&mut self, before: &str, position: &Position) -> Result<(), SinkError> {
        let name = &self.subscriber.name;
        self.run(async |connection| webhooks::schedule_history(connection, name, before, position.txn).await)
            .await
    }

    /// What it has taken is the subscriber's to lose; a person can have it sent again. News of another history is kept by now: no row may
    /// be sent before it.
    async fn check(&mut self, _position: &Position) -> Result<(), SinkError> {
        if let Some(deliverer) = self.deliverer.take() {
            let stop = CancellationToken::new();
            self.delivering = Some((stop.clone(), tokio::spawn(deliverer.run(stop))));
        }
        Ok(())
    }

    async fn deliver(&mut self, entries: &[Entry], confirmed: &mut usize) -> Result<(), SinkError> {
        let mut news: BTreeMap<&str, News> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| self.subscriber.wants(entry)) {
            let version = entry.account_version;
            let new = || News { account_id: entry.account_id.clone(), first: version, last: version };
            let known = news.entry(&entry.account_id).or_insert_with(new);
            known.first = known.first.min(version);
            known.last = known.last.max(version);
        }
        if !news.is_empty() {
            let name = &self.subscriber.name;
            // The lease is kept meanwhile, and nobody else waits: each receiver reads by itself.
            while !self.run(async |connection| webhooks::has_room(connection, name).await).await? {
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            let news: Vec<News> = news.into_values().collect();
            self.run(async |connection| webhooks::schedule(connection, name, &news).await).await?;
            self.news.notify_one();
        }
        *confirmed = entries.len();
        Ok(())
    }

    async fn close(&mut self) {
        self.deliverer = None;
        let Some((stop, mut task)) = self.delivering.take() else { return };
        stop.cancel();
        if tokio::time::timeout(STOP_GRACE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

impl Drop for ToSubscriber {
    fn drop(&mut self) {
        if let Some((_, task)) = self.delivering.take() {
            task.abort();
        }
    }
}
