//! RabbitMQ: connect, declare, consume, settle, publish. The only place that knows lapin.
//!
//! lapin's own recovery stays off: after a channel-level close it can leave a consumer's stream pending for ever, and an ack
//! sent over a recovered channel can hit another message. Every error here ends the session; the worker's supervisor opens
//! the next one, with a new channel and new delivery tags.

mod consume;
mod depth;
mod envelope;
mod events;
pub mod frame;
mod link;
mod publish;
mod settle;
pub mod topology;
mod transport;

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};

pub use consume::{Consumer, Delivery, Receipt};
pub use depth::{Depths, Gauge};
pub use envelope::{Death, Envelope, HEADERS_BYTES_MAX};
pub use events::{EventConfirm, EventPublisher, declare_events};
pub use link::Link;
pub use publish::{Confirm, PublishError, Publisher};
pub use settle::{Settler, Tag};

use crate::{config::TlsConfig, crash::Injected, hosts::each_host, tls};

/// Heartbeat asked for where the URL names none. The peer is declared dead after twice this; RabbitMQ's documentation advises
/// 5 to 20 s.
const HEARTBEAT_S: u16 = 10;

/// How long the broker may take to answer: to connect (TCP, TLS and AMQP handshake together), to declare, to consume, to close.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The names of one instance's objects on the broker (contract §1), prefix included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Topic exchange that publishers send to.
    pub exchange: String,
    /// Quorum queue that workers take from.
    pub queue: String,
    /// Quorum queue of messages that the broker dead-lettered.
    pub dead_queue: String,
    /// Topic exchange that `payonce feed` sends to.
    pub events_exchange: String,
}

impl Names {
    /// The names under `prefix`, which may be empty.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            exchange: format!("{prefix}payment.callbacks"),
            queue: format!("{prefix}payment.callbacks"),
            dead_queue: format!("{prefix}payment.callbacks.dead"),
            events_exchange: format!("{prefix}payment.events"),
        }
    }
}

/// The broker could not be reached, refused something, or went down. The session is over; a new connection may work.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address cannot be read as an AMQP URL. Trying again does not help.
    #[error("amqp_url is not an AMQP URL: expected amqp://user:password@host:port/vhost")]
    Url,
    /// A certificate or key cannot be used. Trying again does not help.
    #[error("{0}")]
    Tls(String),
    /// A request took too long.
    #[error("RabbitMQ did not answer within {} s when asked to {asked_to}", ANSWER_DEADLINE.as_secs())]
    NoAnswer {
        /// What it was asked to do, as "RabbitMQ, please …" ends.
        asked_to: &'static str,
    },
    /// Anything that RabbitMQ or the connection to it reports.
    #[error("RabbitMQ: {0}")]
    Lapin(#[from] lapin::Error),
    /// An acknowledgement could not be written, because the channel is gone. The messages will come again.
    #[error("the channel closed before an acknowledgement was written")]
    NotAcked,
}

impl From<Injected> for BrokerError {
    fn from(_: Injected) -> Self {
        Self::NotAcked
    }
}

/// Whether an address can be one, for those who want to know before they connect.
///
/// # Errors
/// Words for what is wrong with it, which they do not repeat: it holds a password.
pub fn check_address(url: &str) -> Result<(), &'static str> {
    for url in each_host(url) {
        let uri: AMQPUri = url.parse().map_err(|_| {
            "not an AMQP URL: expected amqp://user:password@host:port/vhost, or amqps:// for TLS; the virtual host / is written %2f"
        })?;
        if uri.vhost.is_empty() {
            return Err(
                "names a virtual host without a name: the virtual host / is written %2f, as in amqp://host:port/%2f",
            );
        }
    }
    Ok(())
}

/// Opens a connection named `connection_name` (shown by RabbitMQ's management page), to the first host of the address that
/// answers, with these files where the address begins with `amqps://`. They are read each time: certificates are renewed.
///
/// # Errors
/// [`BrokerError::Url`] for an address that cannot be one; [`BrokerError::Tls`] for files that cannot be used; otherwise the refusal of the
/// broker or the network, the last host's.
pub async fn connect(url: &str, connection_name: &str, files: &TlsConfig) -> Result<Connection, BrokerError> {
    let uris: Result<Vec<AMQPUri>, _> = each_host(url).map(|url| url.parse()).collect();
    let mut problem = BrokerError::Url;
    for mut uri in uris.map_err(|_| BrokerError::Url)? {
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let properties = ConnectionProperties::default().with_connection_name(connection_name.into());
        let opening = async {
            let tls = match uri.scheme {
                AMQPScheme::AMQP => OwnedTLSConfig::default(),
                AMQPScheme::AMQPS => tls_of(files)?,
            };
            Ok(transport::open(uri, properties, tls).await?)
        };
        match answer("open a connection", opening).await {
            Ok(connection) => return Ok(connection),
            Err(cause) => problem = cause,
        }
    }
    Err(problem)
}

/// Only the authorities that are named here are trusted: lapin is built without any of its own.
fn tls_of(files: &TlsConfig) -> Result<OwnedTLSConfig, BrokerError> {
    let pem = tls::load(files).map_err(BrokerError::Tls)?;
    let ca = match pem.ca {
        Some(ca) => String::from_utf8(ca).map_err(|_| BrokerError::Tls("tls_ca_file: not PEM".to_owned()))?,
        None => tls::system_roots(),
    };
    let identity = pem.identity.map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key });
    Ok(OwnedTLSConfig { identity, cert_chain: Some(ca) })
}

/// Closes the connection in order. A connection that is just dropped is closed too, but the broker logs it as lost.
///
/// # Errors
/// Where it is gone already, which has the same effect.
pub async fn disconnect(connection: Connection) -> Result<(), BrokerError> {
    answer("close a connection", async { Ok(connection.close(200, "stopped".into()).await?) }).await
}

/// Waits for the broker, but not for ever: one that has just come up after a crash can leave a declaration unanswered while it
/// keeps the connection alive (seen on RabbitMQ 3.10).
async fn answer<T, E: From<BrokerError>>(
    asked_to: &'static str,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(ANSWER_DEADLINE, request).await.map_err(|_| BrokerError::NoAnswer { asked_to })?
}
