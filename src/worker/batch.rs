//! Gathers deliveries into batches: closed when full, by number or by bytes, or when nothing has filled them within the linger.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::budget::Held;
use crate::broker::Delivery;

/// Bytes of messages after which a batch is closed: a transaction may hold copies of all of them.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A delivery and when it was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    pub(super) at: Instant,
    /// Counts its bytes as long as it lives.
    pub(super) held: Held,
}

/// A batch that begins with `first`; `None` once `stop` is set. It is closed after `linger`, full or not. What had gathered when `stop`
/// came is dropped: the channel gives it back.
pub(super) async fn fill(
    first: Taken,
    deliveries: &mut UnboundedReceiver<Taken>,
    size_max: usize,
    linger: Duration,
    stop: &CancellationToken,
) -> Option<Vec<Taken>> {
    let mut bytes = first.delivery.bytes();
    let mut batch = Vec::with_capacity(size_max.min(deliveries.len() + 1));
    batch.push(first);
    let mut add = |batch: &mut Vec<Taken>, taken: Taken| {
        bytes += taken.delivery.bytes();
        batch.push(taken);
        batch.len() >= size_max || bytes >= BATCH_BYTES_MAX
    };
    let mut is_full = batch.len() >= size_max;
    // What is there already needs no waiting: under load this fills the batch at once.
    while !is_full {
        match deliveries.try_recv() {
            Ok(taken) => is_full = add(&mut batch, taken),
            Err(_) => break,
        }
    }
    if !is_full && !linger.is_zero() {
        let closing = tokio::time::sleep(linger);
        tokio::pin!(closing);
        while !is_full {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = &mut closing => break,
                taken = deliveries.recv() => match taken {
                    Some(taken) => is_full = add(&mut batch, taken),
                    None => break,
                },
            }
        }
    }
    Some(batch)
}
