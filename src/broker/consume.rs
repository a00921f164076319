//! Takes deliveries off a queue, a bounded number at a time.

use std::borrow::Cow;

use futures_util::{StreamExt, stream::ReadyChunks};
use lapin::{
    Acker, Channel, Connection,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable},
};

use super::{BrokerError, answer};
use crate::signature::{self, Headers};

/// Most deliveries that are handed on at once.
const RUN_MAX: usize = 1_000;

/// One message, taken and not yet settled.
#[derive(Debug)]
pub struct Delivery {
    /// The raw body.
    pub body: Vec<u8>,
    /// The routing key it was published with: the account id, by contract, but nobody has checked that.
    pub routing_key: String,
    /// Which trace it was published in: a W3C `traceparent` header, as far as this version of it reads.
    pub traceparent: Option<[u8; 55]>,
    /// What it claims about where it comes from; nothing of it is verified.
    pub signature: Headers,
    /// What settles it.
    pub receipt: Receipt,
}

impl From<lapin::message::Delivery> for Delivery {
    fn from(delivery: lapin::message::Delivery) -> Self {
        Self {
            traceparent: traceparent(&delivery),
            signature: signature_of(&delivery.properties),
            body: delivery.data,
            routing_key: delivery.routing_key.to_string(),
            receipt: Receipt { tag: delivery.delivery_tag, acker: delivery.acker },
        }
    }
}

fn traceparent(delivery: &lapin::message::Delivery) -> Option<[u8; 55]> {
    let header = delivery.properties.headers().as_ref()?.inner().get("traceparent")?;
    let AMQPValue::LongString(text) = header else { return None };
    text.as_bytes().get(..55)?.try_into().ok()
}

fn signature_of(properties: &BasicProperties) -> Headers {
    let Some(headers) = properties.headers().as_ref().map(FieldTable::inner) else {
        return Headers::default();
    };
    let header = |name: &str| headers.get(name).map(text);
    Headers::received(
        header(signature::ID_HEADER).as_deref(),
        header(signature::TIMESTAMP_HEADER).as_deref(),
        header(signature::SIGNATURE_HEADER).as_deref(),
    )
}

/// A header's text. Client libraries write a number that is given as one as a number: for a timestamp that is no mistake.
fn text(value: &AMQPValue) -> Cow<'_, [u8]> {
    match value {
        AMQPValue::LongString(text) => Cow::Borrowed(text.as_bytes()),
        AMQPValue::ShortString(text) => Cow::Borrowed(text.as_str().as_bytes()),
        AMQPValue::LongInt(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::LongUInt(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::LongLongInt(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::Timestamp(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::Boolean(_)
        | AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => Cow::Borrowed(b""),
    }
}

/// The right to settle one delivery, once, on the channel that it came by.
#[derive(Debug)]
pub struct Receipt {
    /// Grows by one per delivery of a channel, from 1.
    pub(super) tag: u64,
    pub(super) acker: Acker,
}

/// A consumer with a channel of its own, so that its delivery tags have no gaps.
pub struct Consumer {
    channel: Channel,
    runs: ReadyChunks<lapin::Consumer>,
}

impl Consumer {
    /// Starts to consume `queue` with at most `prefetch_count` unsettled deliveries.
    ///
    /// # Errors
    /// Where the broker refuses.
    pub async fn open(
        connection: &Connection,
        queue: &str,
        prefetch_count: u16,
    ) -> Result<Self, BrokerError> {
        answer("start a consumer", async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(prefetch_count, BasicQosOptions::default()).await?;
            let stream = channel
                .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
                .await?;
            Ok(Self { channel, runs: stream.ready_chunks(RUN_MAX) })
        })
        .await
    }

    /// All deliveries that are there, at least one; `None` when the broker cancelled the consumer, for example because the queue
    /// was deleted.
    ///
    /// Cancel-safe: no delivery is lost when this future is dropped.
    pub async fn next(&mut self) -> Option<Result<Vec<Delivery>, BrokerError>> {
        let run = self.runs.next().await?;
        Some(run.into_iter().map(|delivery| Ok(Delivery::from(delivery?))).collect())
    }

    /// Asks the broker for no more deliveries. What is unsettled stays with this channel until it closes.
    ///
    /// # Errors
    /// Where the channel is gone already.
    pub async fn cancel(&self) -> Result<(), BrokerError> {
        let cancelled = self.channel.basic_cancel(self.runs.get_ref().tag(), BasicCancelOptions::default());
        answer("cancel a consumer", async { Ok(cancelled.await?) }).await
    }

    /// Closes the channel: the broker takes back all that is unsettled.
    ///
    /// # Errors
    /// Where the channel is gone already, which has the same effect.
    pub async fn close(self) -> Result<(), BrokerError> {
        answer("close a channel", async { Ok(self.channel.close(200, "closing".into()).await?) }).await
    }
}
