//! Rows to the topic exchange `payment.events`. A row counts as sent when the broker has confirmed it and all before it.

use std::sync::Arc;

use tracing::warn;

use super::{
    Feed, Refusal,
    event::{self, Origin},
    tail::{Sink, SinkError},
};
use crate::{
    broker::{BrokerError, EventConfirm, EventPublisher, PublishError, topology::TopologyError},
    metrics,
    store::{
        Epoch,
        feed::{Entry, Position},
    },
};

pub(super) struct ToBroker {
    feed: Arc<Feed>,
    session: Option<(EventPublisher, Origin)>,
    /// Said once, not for each row.
    has_warned: bool,
}

impl ToBroker {
    pub(super) fn new(feed: &Arc<Feed>) -> Self {
        Self { feed: Arc::clone(feed), session: None, has_warned: false }
    }

    fn session(&self) -> Result<&(EventPublisher, Origin), SinkError> {
        self.session
            .as_ref()
            .ok_or_else(|| SinkError::Unreachable("there is no connection to RabbitMQ".to_owned()))
    }

    /// Waits for one answer. No queue for it is no failure: nobody has asked for this account's events yet.
    async fn confirmed(&mut self, confirm: EventConfirm) -> Result<(), SinkError> {
        let is_on_a_queue = confirm.wait().await.map_err(|problem| match problem {
            PublishError::Refused => SinkError::Unreachable(
                "a queue that is bound to the exchange of events refuses them: it is full, or short of nodes"
                    .to_owned(),
            ),
            PublishError::Unroutable(_) | PublishError::NotConfirmed | PublishError::Broker(_) => {
                SinkError::Unreachable(problem.to_string())
            }
        })?;
        if !is_on_a_queue {
            metrics::feed_unroutable();
            if !self.has_warned {
                warn!(
                    exchange = self.feed.names.events_exchange,
                    "no queue is bound for some events: they count as sent, to nobody; who binds later needs `payonce feed \
                     --from-beginning`"
                );
                self.has_warned = true;
            }
        }
        Ok(())
    }
}

impl Sink for ToBroker {
    async fn open(&mut self, epoch: &Epoch) -> Result<(), SinkError> {
        // First the old one is dropped: it may have died half way.
        self.session = None;
        let Feed { amqp_url, name, tls, names, config, .. } = &*self.feed;
        let publisher = EventPublisher::connect(amqp_url.expose(), name, tls, names).await;
        let publisher = publisher.map_err(|problem| match problem {
            TopologyError::Differs(..)
            | TopologyError::Missing(_)
            | TopologyError::Broker(BrokerError::Url | BrokerError::Tls(_)) => {
                SinkError::Refused(Refusal::Topology(problem))
            }
            TopologyError::Broker(
                cause @ (BrokerError::NoAnswer { .. } | BrokerError::Lapin(_) | BrokerError::NotAcked),
            ) => SinkError::Unreachable(cause.to_string()),
        })?;
        self.session = Some((publisher, Origin::new(&config.name, epoch.clone())));
        Ok(())
    }

    async fn history_changed(&mut self, before: &str, position: &Position) -> Result<(), SinkError> {
        let (publisher, origin) = self.session()?;
        let body = event::history(origin, before, position).map_err(unwritable)?;
        let written = publisher.publish(event::HISTORY_KEY, &event::history_id(origin), &body).await;
        let confirm = written.map_err(gone)?;
        self.confirmed(confirm).await
    }

    /// What a broker has confirmed is its readers' to lose.
    async fn check(&mut self, _position: &Position) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&mut self) {}

    async fn deliver(&mut self, entries: &[Entry], confirmed: &mut usize) -> Result<(), SinkError> {
        let (publisher, origin) = self.session()?;
        let mut confirms = Vec::with_capacity(entries.len());
        for entry in entries {
            let body = event::posted(origin, entry).map_err(unwritable)?;
            confirms
                .push(publisher.publish(&entry.account_id, &event::id(entry), &body).await.map_err(gone)?);
        }
        for confirm in confirms {
            self.confirmed(confirm).await?;
            *confirmed += 1;
        }
        Ok(())
    }
}

fn gone(cause: BrokerError) -> SinkError {
    SinkError::Unreachable(cause.to_string())
}

pub(super) fn unwritable(cause: serde_json::Error) -> SinkError {
    SinkError::Unreachable(format!("an event cannot be written as JSON: {cause}"))
}
