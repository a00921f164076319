//! A connection that many publish on at once: a few channels in confirm mode, taken in turn. What must not live here: when to connect again.

use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::Connection;

use super::{Confirm, Names, PublishError, Publisher, connect, disconnect, topology};
use crate::{config::TlsConfig, signature::Headers};

/// An open connection with its channels.
pub struct Link {
    connection: Connection,
    publishers: Vec<Publisher>,
    next: AtomicUsize,
}

impl Link {
    /// Connects, declares what is missing, and opens the channels.
    ///
    /// # Errors
    /// What the broker refuses, or its absence.
    pub async fn open(
        url: &str,
        connection_name: &str,
        tls: &TlsConfig,
        names: &Names,
        channels: usize,
    ) -> Result<Self, topology::TopologyError> {
        let connection = connect(url, connection_name, tls).await?;
        topology::declare(&connection, names).await?;
        let mut publishers = Vec::with_capacity(channels);
        for _ in 0..channels.max(1) {
            publishers.push(Publisher::open(&connection, names).await?);
        }
        Ok(Self { connection, publishers, next: AtomicUsize::new(0) })
    }

    /// Whether the connection is there, and the broker takes messages: one that is in alarm says `connection.blocked`, and confirms nothing.
    #[must_use]
    pub fn takes_messages(&self) -> bool {
        self.is_connected() && !self.connection.status().blocked()
    }

    /// Whether the connection is there, with all its channels.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.status().connected() && self.publishers.iter().all(Publisher::is_open)
    }

    /// Writes a message to one of the channels.
    ///
    /// # Errors
    /// Where the channel is gone.
    pub async fn publish(
        &self,
        routing_key: &str,
        body: &[u8],
        signature: &Headers,
    ) -> Result<Confirm, PublishError> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.publishers.len().max(1);
        let publisher = self.publishers.get(at).ok_or(PublishError::NotConfirmed)?;
        Ok(publisher.publish_signed(routing_key, body, signature).await?)
    }

    /// Closes the connection.
    pub async fn close(self) {
        // One that is gone is closed too.
        drop(disconnect(self.connection).await);
    }
}
