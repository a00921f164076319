//! Gathers deliveries into batches: closed when full, or when nothing has filled them within the linger.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::broker::Delivery;

/// A delivery and when it was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    pub(super) at: Instant,
}

/// The next batch; `None` once `stop` is set or no more deliveries can come. An idle lane waits here without limit; a batch that
/// has begun is closed after `linger`, full or not. What had gathered when `stop` came is dropped: the channel gives it back.
pub(super) async fn next(
    deliveries: &mut UnboundedReceiver<Taken>,
    size_max: usize,
    linger: Duration,
    stop: &CancellationToken,
) -> Option<Vec<Taken>> {
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        first = deliveries.recv() => first?,
    };
    let mut batch = Vec::with_capacity(size_max.min(deliveries.len() + 1));
    batch.push(first);
    // What is there already needs no waiting: under load this fills the batch at once.
    while batch.len() < size_max {
        match deliveries.try_recv() {
            Ok(taken) => batch.push(taken),
            Err(_) => break,
        }
    }
    if batch.len() < size_max && !linger.is_zero() {
        let closing = tokio::time::sleep(linger);
        tokio::pin!(closing);
        while batch.len() < size_max {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = &mut closing => break,
                taken = deliveries.recv() => match taken {
                    Some(taken) => batch.push(taken),
                    None => break,
                },
            }
        }
    }
    Some(batch)
}
