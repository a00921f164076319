//! Acknowledges what is settled, as few frames as it can: one `basic.ack` with `multiple` for the longest run of settled
//! deliveries that has no gap.
//!
//! Lanes finish out of order. An ack with `multiple` covers every earlier delivery of the channel, so it may only name the end
//! of the gapless run: one further would acknowledge, and lose, what another lane has not committed.

use std::collections::BTreeMap;

use lapin::{
    Acker,
    options::{BasicAckOptions, BasicRejectOptions},
};

use super::{BrokerError, Receipt};
use crate::crash::{self, Point};

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Its row is committed, or it is a proven copy: the broker may forget it.
    Ack,
    /// payonce cannot store it at all: the broker moves it to the dead-letter queue.
    DeadLetter,
}

/// One delivery to settle.
#[derive(Debug)]
pub struct Settlement {
    /// Which.
    pub receipt: Receipt,
    /// How.
    pub verb: Verb,
}

/// The settled deliveries of one channel that the broker was not yet told of.
pub struct Settler {
    /// First tag that is not settled yet.
    next_tag: u64,
    /// Settled tags from `next_tag` on; `None` where the broker was told already.
    settled: BTreeMap<u64, Option<Acker>>,
    out_of_order_max: usize,
}

impl Settler {
    /// A settler for a new channel. Where more than `out_of_order_max` settled deliveries lie behind one that is not, they are
    /// acknowledged one by one, so that a stalled lane does not use up the prefetch of the others.
    #[must_use]
    pub fn new(out_of_order_max: usize) -> Self {
        Self { next_tag: 1, settled: BTreeMap::new(), out_of_order_max }
    }

    /// Settles these and all that has become contiguous.
    ///
    /// # Errors
    /// [`BrokerError::NotAcked`] where the channel is gone. That loses nothing: the broker delivers again, and the copy is
    /// turned away.
    pub async fn settle(
        &mut self,
        settlements: impl IntoIterator<Item = Settlement>,
    ) -> Result<(), BrokerError> {
        crash::reach(Point::BeforeAck).await?;
        for Settlement { receipt, verb } in settlements {
            let acker = match verb {
                Verb::Ack => Some(receipt.acker),
                Verb::DeadLetter => {
                    written(receipt.acker.reject(BasicRejectOptions { requeue: false }).await)?;
                    None
                }
            };
            self.settled.insert(receipt.tag, acker);
        }
        if let Some(last) = self.take_contiguous() {
            written(last.ack(BasicAckOptions { multiple: true }).await)?;
        }
        if self.settled.len() > self.out_of_order_max {
            self.settle_rest().await?;
        }
        crash::reach(Point::AfterAck).await?;
        Ok(())
    }

    /// Acknowledges one by one what lies behind a gap; before the channel closes, nothing that is committed may stay behind.
    ///
    /// # Errors
    /// As [`Settler::settle`].
    pub async fn settle_rest(&mut self) -> Result<(), BrokerError> {
        for slot in self.settled.values_mut() {
            if let Some(acker) = slot.take() {
                written(acker.ack(BasicAckOptions { multiple: false }).await)?;
            }
        }
        Ok(())
    }

    /// Removes the gapless run and returns its last delivery that still needs an ack.
    fn take_contiguous(&mut self) -> Option<Acker> {
        let mut last = None;
        while let Some(slot) = self.settled.remove(&self.next_tag) {
            last = slot.or(last);
            self.next_tag = self.next_tag.saturating_add(1);
        }
        last
    }
}

/// lapin answers `Ok(false)` where the channel died or the delivery was settled before: the broker has not been told.
fn written(answer: lapin::Result<bool>) -> Result<(), BrokerError> {
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(BrokerError::NotAcked),
        Err(error) => Err(error.into()),
    }
}
