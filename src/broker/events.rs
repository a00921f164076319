//! Publishing what the ledger says to whoever has bound a queue: to the topic exchange of contract §9, in order, with confirms.

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ExchangeKind, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};

use super::{
    BrokerError, Names, PublishError, answer, connect,
    publish::{CONTENT_TYPE, PERSISTENT},
    topology::{self, TopologyError},
};
use crate::config::TlsConfig;

/// A channel in confirm mode to the exchange of events.
pub struct EventPublisher {
    /// Kept open for the channel.
    _connection: Connection,
    channel: Channel,
    exchange: String,
}

/// The broker's answer to one event, still on its way.
pub struct EventConfirm(PublisherConfirm);

impl EventPublisher {
    /// Connects, declares the exchange, or finds it where this user may not declare, and opens a channel.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn connect(
        url: &str,
        connection_name: &str,
        files: &TlsConfig,
        names: &Names,
    ) -> Result<Self, TopologyError> {
        let connection = connect(url, connection_name, files).await?;
        declare_events(&connection, names).await?;
        let opening = answer("open a channel for events", async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, BrokerError>(Self {
                _connection: connection,
                channel,
                exchange: names.events_exchange.clone(),
            })
        });
        Ok(opening.await?)
    }

    /// Writes a persistent event. It does not count as sent before [`EventConfirm::wait`] says so.
    ///
    /// # Errors
    /// Where the channel is gone.
    pub async fn publish(
        &self,
        routing_key: &str,
        id: &str,
        body: &[u8],
    ) -> Result<EventConfirm, BrokerError> {
        // Mandatory, to know of events that no queue is bound for: whoever binds later has missed them.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties =
            BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type(CONTENT_TYPE.into());
        // An AMQP short string holds 255 bytes.
        let properties = if id.len() <= 255 { properties.with_message_id(id.into()) } else { properties };
        let confirm = self
            .channel
            .basic_publish(self.exchange.as_str().into(), routing_key.into(), options, body, properties)
            .await?;
        Ok(EventConfirm(confirm))
    }
}

impl EventConfirm {
    /// Waits for the answer: true where at least one queue has the event, false where none is bound for it.
    ///
    /// # Errors
    /// [`PublishError::Refused`] where a queue that is bound did not take it, [`PublishError::Broker`] where the connection ended.
    pub async fn wait(self) -> Result<bool, PublishError> {
        match self.0.await.map_err(BrokerError::Lapin)? {
            Confirmation::Ack(None) => Ok(true),
            Confirmation::Ack(Some(_)) => Ok(false),
            Confirmation::Nack(_) => Err(PublishError::Refused),
            Confirmation::NotRequested => Err(PublishError::NotConfirmed),
        }
    }
}

/// Declares the exchange of events. Safe to call at any time.
///
/// # Errors
/// [`TopologyError`].
pub async fn declare_events(connection: &Connection, names: &Names) -> Result<(), TopologyError> {
    answer("declare the exchange of events", async {
        let exchange = names.events_exchange.as_str();
        let declare = async |passive: bool| {
            let channel = connection.create_channel().await?;
            let options =
                ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default())
                .await?;
            channel.close(200, "declared".into()).await
        };
        match declare(false).await {
            Ok(()) => Ok(()),
            Err(error) if topology::is_refused(&error) => {
                declare(true).await.map_err(|error| topology::missing("exchange", exchange, error))
            }
            Err(error) => Err(topology::differs("exchange", exchange, error)),
        }
    })
    .await
}
