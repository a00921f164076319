//! How much is in the queues, by asking without changing anything: a passive declaration.

use lapin::{Connection, options::QueueDeclareOptions, types::FieldTable};

use super::{BrokerError, Names, answer, connect};
use crate::config::TlsConfig;

/// What the broker says of the queues. What workers hold unsettled is not in it: AMQP does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depths {
    /// Messages that no worker has taken.
    pub ready: u32,
    /// Workers' consumers on the queue.
    pub consumers: u32,
    /// Messages in the dead-letter queue that no worker has taken.
    pub dead: u32,
}

/// A connection that only asks.
pub struct Gauge {
    connection: Connection,
    names: Names,
}

impl Gauge {
    /// Connects, with these files where the address begins with `amqps://`.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn open(
        url: &str,
        connection_name: &str,
        files: &TlsConfig,
        names: &Names,
    ) -> Result<Self, BrokerError> {
        Ok(Self { connection: connect(url, connection_name, files).await?, names: names.clone() })
    }

    /// Asks once; `None`: the queues are not there yet, because no worker has declared them.
    ///
    /// # Errors
    /// Where the broker is down. This connection is of no more use then.
    pub async fn read(&self) -> Result<Option<Depths>, BrokerError> {
        let found = answer("tell how deep its queues are", async {
            let (ready, consumers) = self.depth(&self.names.queue).await?;
            let (dead, _) = self.depth(&self.names.dead_queue).await?;
            Ok(Depths { ready, consumers, dead })
        });
        match found.await {
            Ok(depths) => Ok(Some(depths)),
            Err(BrokerError::Lapin(error)) if is_not_found(&error) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// A channel for each question: the broker closes the channel of one that it must answer with "not found".
    async fn depth(&self, queue: &str) -> Result<(u32, u32), BrokerError> {
        let channel = self.connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        channel.close(200, "asked".into()).await?;
        Ok((declared.message_count(), declared.consumer_count()))
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(amqp) if amqp.get_id() == NOT_FOUND)
}
