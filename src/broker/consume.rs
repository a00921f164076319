//! Takes deliveries off a queue, a bounded number at a time.

use futures_util::{StreamExt, stream::ReadyChunks};
use lapin::{
    Acker, Channel, Connection,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};

use super::{BrokerError, answer, envelope::Envelope};
use crate::signature::Headers;

/// Most deliveries that are handed on at once.
const RUN_MAX: usize = 1_000;

/// One message, taken and not yet settled.
#[derive(Debug)]
pub struct Delivery {
    /// The raw body.
    pub body: Vec<u8>,
    /// What came with it.
    pub envelope: Envelope,
    /// Which trace it was published in: a W3C `traceparent` header, as far as this version of it reads.
    pub traceparent: Option<[u8; 55]>,
    /// What it claims about where it comes from; nothing of it is verified.
    pub signature: Headers,
    /// Whether a worker may have had it before, and perhaps ended over it.
    pub is_redelivered: bool,
    /// What settles it.
    pub receipt: Receipt,
}

impl Delivery {
    fn new(delivery: lapin::message::Delivery, queue: &str) -> Self {
        let envelope = Envelope::new(delivery.routing_key.as_str(), delivery.properties, queue);
        Self {
            traceparent: envelope.traceparent(),
            signature: envelope.signature(),
            envelope,
            body: delivery.data,
            is_redelivered: delivery.redelivered,
            receipt: Receipt { tag: delivery.delivery_tag, acker: delivery.acker },
        }
    }

    /// What it takes in memory, in bytes, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len() + self.envelope.bytes()
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
    queue: String,
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
            let runs = consume(&channel, queue, prefetch_count).await?;
            Ok(Self { channel, queue: queue.to_owned(), runs })
        })
        .await
    }

    /// Begins again with another prefetch, after [`Consumer::wind_down`], when [`Consumer::next`] has given the last delivery. On the
    /// same channel, so that nothing is given back.
    ///
    /// # Errors
    /// Where the channel is gone.
    pub async fn restart(&mut self, prefetch_count: u16) -> Result<(), BrokerError> {
        self.runs = answer("restart a consumer", consume(&self.channel, &self.queue, prefetch_count)).await?;
        Ok(())
    }

    /// After [`Consumer::wind_down`]: takes what still comes and lets go of it. It goes back to the queue with the channel.
    pub async fn discard_rest(&mut self) {
        while self.runs.next().await.is_some() {}
    }

    /// All deliveries that are there, at least one; `None` when the broker cancelled the consumer, for example because the queue
    /// was deleted.
    ///
    /// Cancel-safe: no delivery is lost when this future is dropped.
    pub async fn next(&mut self) -> Option<Result<Vec<Delivery>, BrokerError>> {
        let run = self.runs.next().await?;
        let queue = &self.queue;
        Some(run.into_iter().map(|delivery| Ok(Delivery::new(delivery?, queue))).collect())
    }

    /// Asks the broker for no more deliveries, and does not wait: those that are on their way come before its answer, and whoever
    /// waited for that without taking them would gather them in memory. [`Consumer::next`] gives them, then `None`. What is
    /// unsettled stays with this channel until it closes.
    pub fn wind_down(&self) {
        let (channel, tag) = (self.channel.clone(), self.runs.get_ref().tag());
        // Where the channel is gone, the stream ends too.
        tokio::spawn(async move { drop(channel.basic_cancel(tag, BasicCancelOptions::default()).await) });
    }

    /// Closes the channel: the broker takes back all that is unsettled. What still comes before its answer is let go of.
    ///
    /// # Errors
    /// Where the channel is gone already, which has the same effect.
    pub async fn close(mut self) -> Result<(), BrokerError> {
        let channel = self.channel.clone();
        let closing = answer("close a channel", async { Ok(channel.close(200, "closing".into()).await?) });
        tokio::pin!(closing);
        tokio::select! {
            closed = &mut closing => return closed,
            () = self.discard_rest() => {}
        }
        closing.await
    }
}

async fn consume(
    channel: &Channel,
    queue: &str,
    prefetch_count: u16,
) -> Result<ReadyChunks<lapin::Consumer>, BrokerError> {
    channel.basic_qos(prefetch_count, BasicQosOptions::default()).await?;
    let stream = channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    Ok(stream.ready_chunks(RUN_MAX))
}
