//! Publishing with confirms: a message counts as sent only when the broker has it on a durable queue.

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionStatus, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};

use super::{BrokerError, Names, answer};
use crate::signature::{self, Headers};

pub(super) const PERSISTENT: u8 = 2;
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Why a message is not safely on the queue. It may be sent again: workers reject the duplicate.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound to the exchange.
    #[error("the broker returned the message as unroutable: {0}")]
    Unroutable(String),
    /// The broker refused to store it, for example because the queue is at its limit.
    #[error("the broker refused to store the message (negative confirm)")]
    Refused,
    /// The channel is not in confirm mode; a defect of payonce.
    #[error("the channel is not in confirm mode")]
    NotConfirmed,
    /// The connection ended first: the message may or may not be on the queue.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// A channel in confirm mode.
pub struct Publisher {
    channel: Channel,
    exchange: String,
    status: ConnectionStatus,
}

impl Publisher {
    /// Opens a channel of its own. One publisher writes its messages to the queue in order.
    ///
    /// # Errors
    /// Where the broker refuses the channel or confirm mode.
    pub async fn open(connection: &Connection, names: &Names) -> Result<Self, BrokerError> {
        answer("open a channel to publish on", async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(Self { channel, exchange: names.exchange.clone(), status: connection.status().clone() })
        })
        .await
    }

    /// Whether the broker has said (`connection.blocked`) that it takes no messages for now, because it is short of memory or disk. What is
    /// written then waits on this side, without an end.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.status.blocked()
    }

    /// Whether its channel is open. The broker closes one alone, for example when the exchange is gone, and the connection stays.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Writes a persistent, mandatory message. It is not on the queue before [`Confirm::wait`] says so.
    ///
    /// # Errors
    /// Where the channel is gone.
    pub async fn publish(&self, routing_key: &str, body: &[u8]) -> Result<Confirm, BrokerError> {
        self.publish_signed(routing_key, body, &Headers::default()).await
    }

    /// The same, with the headers of a signature.
    ///
    /// # Errors
    /// Where the channel is gone.
    pub async fn publish_signed(
        &self,
        routing_key: &str,
        body: &[u8],
        signature: &Headers,
    ) -> Result<Confirm, BrokerError> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut properties =
            BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type(CONTENT_TYPE.into());
        if !signature.is_empty() {
            properties = properties.with_headers(table(signature));
        }
        let confirm = self
            .channel
            .basic_publish(self.exchange.as_str().into(), routing_key.into(), options, body, properties)
            .await?;
        Ok(Confirm(confirm))
    }
}

fn table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in [
        (signature::ID_HEADER, &headers.id),
        (signature::TIMESTAMP_HEADER, &headers.timestamp),
        (signature::SIGNATURE_HEADER, &headers.signature),
    ] {
        if let Some(value) = value {
            table.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
        }
    }
    table
}

/// The broker's answer to one message, still on its way.
pub struct Confirm(PublisherConfirm);

impl Confirm {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`PublishError`] for anything but "stored on a queue".
    pub async fn wait(mut self) -> Result<(), PublishError> {
        self.answer().await
    }

    /// The same for who may stop waiting and go on later. Not to be called again once it has answered.
    ///
    /// # Errors
    /// As [`Confirm::wait`].
    pub async fn answer(&mut self) -> Result<(), PublishError> {
        match (&mut self.0).await.map_err(BrokerError::Lapin)? {
            Confirmation::Ack(None) => Ok(()),
            // lapin reports a returned message as an ack that carries it: `is_ack()` alone would lose it.
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Err(PublishError::Unroutable(returned.reply_text.to_string()))
            }
            Confirmation::Nack(None) => Err(PublishError::Refused),
            Confirmation::NotRequested => Err(PublishError::NotConfirmed),
        }
    }
}
