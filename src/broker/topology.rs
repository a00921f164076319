//! Declares the exchange and queues of contract §1, refuses ones that exist but differ, and only looks for them where the user
//! may not declare.

use lapin::{
    Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{BrokerError, Names, answer};

/// Returns to the queue after which the broker dead-letters a message. Before RabbitMQ 4.3 every return counts, those of a
/// killed worker's unsettled messages included, so the limit is far above what restarts cause.
pub const DELIVERY_LIMIT: i32 = 100;

/// The same for the dead-letter queue, which has no dead-letter queue of its own: RabbitMQ 4.x would drop a message after 20
/// returns there, so the limit is set where no one gets.
const DEAD_DELIVERY_LIMIT: i32 = 1_000_000_000;

/// Why the topology is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// An object exists with other properties. It needs a person: trying again does not help.
    #[error(
        "{0} exists on the broker but differs: {1}. Delete it when it is empty, or choose another prefix"
    )]
    Differs(String, String),
    /// An object does not exist, and this user may not make it. It needs a person.
    #[error(
        "{0} does not exist on the broker, and the user in amqp_url may not declare it: run `payonce migrate --declare` as one \
         that may configure, or give this one the right to"
    )]
    Missing(String),
    /// The broker went down or refused.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Declares what is missing. Safe to call at any time and by any number of workers at once. A user without the right to
/// configure finds what exists in place of declaring it; whether its properties are right, RabbitMQ does not tell such a user.
///
/// # Errors
/// [`TopologyError::Differs`] with the broker's own words for the difference; [`TopologyError::Missing`].
pub async fn declare(connection: &Connection, names: &Names) -> Result<(), TopologyError> {
    answer("declare exchange and queues", async {
        if declare_each(connection, names).await? {
            return Ok(());
        }
        find_each(connection, names).await
    })
    .await
}

/// False where the user may not configure.
async fn declare_each(connection: &Connection, names: &Names) -> Result<bool, TopologyError> {
    let channel = connection.create_channel().await.map_err(BrokerError::Lapin)?;
    let exchange_options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel
        .exchange_declare(
            names.exchange.as_str().into(),
            ExchangeKind::Topic,
            exchange_options,
            FieldTable::default(),
        )
        .await;
    match declared {
        Ok(()) => {}
        // The broker has closed the channel with it.
        Err(error) if is(&error, ACCESS_REFUSED) => return Ok(false),
        Err(error) => return Err(differs("exchange", &names.exchange, error)),
    }
    for (name, arguments) in
        [(&names.dead_queue, dead_queue_arguments()), (&names.queue, queue_arguments(names))]
    {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(name.as_str().into(), options, arguments).await {
            Ok(_) => {}
            Err(error) if is(&error, ACCESS_REFUSED) => return Ok(false),
            Err(error) => return Err(differs("queue", name, error)),
        }
    }
    channel
        .queue_bind(
            names.queue.as_str().into(),
            names.exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(BrokerError::Lapin)?;
    channel.close(200, "declared".into()).await.map_err(BrokerError::Lapin)?;
    Ok(true)
}

/// Asks for each object by name, which needs no permission. A binding cannot be asked for: where it is missing, publishers get
/// their mandatory messages back.
async fn find_each(connection: &Connection, names: &Names) -> Result<(), TopologyError> {
    let channel = connection.create_channel().await.map_err(BrokerError::Lapin)?;
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(names.exchange.as_str().into(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .map_err(|error| missing("exchange", &names.exchange, error))?;
    for name in [&names.dead_queue, &names.queue] {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel
            .queue_declare(name.as_str().into(), options, FieldTable::default())
            .await
            .map_err(|error| missing("queue", name, error))?;
    }
    channel.close(200, "found".into()).await.map_err(BrokerError::Lapin)?;
    Ok(())
}

fn queue_arguments(names: &Names) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    arguments
        .insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(names.dead_queue.as_str().into()));
    // Dead-lettering is at-most-once unless asked, and at-least-once needs reject-publish (RabbitMQ: Quorum Queues).
    arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments
}

fn dead_queue_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DEAD_DELIVERY_LIMIT));
    arguments
}

/// AMQP 0-9-1 reply codes.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// The user may not configure.
pub(super) fn is_refused(error: &lapin::Error) -> bool {
    is(error, ACCESS_REFUSED)
}

fn is(error: &lapin::Error, code: u16) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(amqp) if amqp.get_id() == code)
}

/// RabbitMQ answers a declaration that differs with 406 PRECONDITION_FAILED and says which argument, found and expected.
pub(super) fn differs(what: &str, name: &str, error: lapin::Error) -> TopologyError {
    if let lapin::ErrorKind::ProtocolError(amqp) = error.kind()
        && amqp.get_id() == PRECONDITION_FAILED
    {
        return TopologyError::Differs(format!("{what} {name:?}"), amqp.get_message().to_string());
    }
    TopologyError::Broker(BrokerError::Lapin(error))
}

pub(super) fn missing(what: &str, name: &str, error: lapin::Error) -> TopologyError {
    if is(&error, NOT_FOUND) {
        return TopologyError::Missing(format!("{what} {name:?}"));
    }
    TopologyError::Broker(BrokerError::Lapin(error))
}
