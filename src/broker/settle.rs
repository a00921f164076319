//! Acknowledges what is settled, as few frames as it can: one `basic.ack` with `multiple` for the longest run of settled
//! deliveries that has no gap.
//!
//! Lanes finish out of order. An ack with `multiple` covers every earlier delivery of the channel, so it may only name the end
//! of the gapless run: one further would acknowledge, and lose, what another lane has not committed. A delivery that a lane has set
//! aside is no gap, because it may stay for minutes; but as long as there is one, everything is acknowledged one by one.

use std::collections::{BTreeMap, BTreeSet};

use lapin::{Acker, options::BasicAckOptions};

use super::{BrokerError, Receipt};
use crate::crash::{self, Point};

/// The number of a delivery on its channel, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(u64);

impl Receipt {
    /// Which delivery of its channel it is for.
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag(self.tag)
    }
}

/// What became of a delivery after the first one on its channel that nobody knows anything of yet.
enum Slot {
    /// Its row is committed, or it is a proven copy: the broker may forget it.
    Settled(Acker),
    /// The broker was told already.
    Told,
    /// A lane keeps it for later.
    Aside,
}

/// The settled deliveries of one channel that the broker was not yet told of.
pub struct Settler {
    /// First tag of which nothing is known yet.
    next_tag: u64,
    /// What is known of those from `next_tag` on.
    known: BTreeMap<u64, Slot>,
    /// Deliveries before `next_tag` that lanes keep for later.
    aside: BTreeSet<u64>,
    out_of_order_max: usize,
}

impl Settler {
    /// A settler for a new channel. Where more than `out_of_order_max` settled deliveries lie behind one of which nothing is known, they
    /// are acknowledged one by one, so that a stalled lane does not use up the prefetch of the others.
    #[must_use]
    pub fn new(out_of_order_max: usize) -> Self {
        Self { next_tag: 1, known: BTreeMap::new(), aside: BTreeSet::new(), out_of_order_max }
    }

    /// Keeps in mind that these stay with the broker's channel, unsettled, while others go on.
    pub fn set_aside(&mut self, tags: impl IntoIterator<Item = Tag>) {
        self.known.extend(tags.into_iter().map(|Tag(tag)| (tag, Slot::Aside)));
    }

    /// Acknowledges these and all that has become contiguous.
    ///
    /// # Errors
    /// [`BrokerError::NotAcked`] where the channel is gone. That loses nothing: the broker delivers again, and the copy is
    /// rejected.
    pub async fn settle(&mut self, settled: impl IntoIterator<Item = Receipt>) -> Result<(), BrokerError> {
        crash::hit(Point::BeforeAck).await?;
        for Receipt { tag, acker } in settled {
            if self.aside.remove(&tag) {
                acknowledge(&acker, false).await?;
            } else {
                self.known.insert(tag, Slot::Settled(acker));
            }
        }
        let run = self.take_contiguous();
        if self.aside.is_empty() {
            if let Some(last) = run.last() {
                acknowledge(last, true).await?;
            }
        } else {
            for acker in &run {
                acknowledge(acker, false).await?;
            }
        }
        if self.known.len() > self.out_of_order_max {
            self.settle_rest().await?;
        }
        crash::hit(Point::AfterAck).await?;
        Ok(())
    }

    /// Acknowledges one by one what lies behind a gap; before the channel closes, nothing that is committed may stay behind.
    ///
    /// # Errors
    /// As [`Settler::settle`].
    pub async fn settle_rest(&mut self) -> Result<(), BrokerError> {
        for slot in self.known.values_mut() {
            if let Slot::Settled(acker) = slot {
                acknowledge(acker, false).await?;
                *slot = Slot::Told;
            }
        }
        Ok(())
    }

    /// Removes the gapless run and returns those of its deliveries that still need an ack, in order.
    fn take_contiguous(&mut self) -> Vec<Acker> {
        let mut run = Vec::new();
        while let Some(slot) = self.known.remove(&self.next_tag) {
            match slot {
                Slot::Settled(acker) => run.push(acker),
                Slot::Told => {}
                Slot::Aside => {
                    self.aside.insert(self.next_tag);
                }
            }
            self.next_tag = self.next_tag.saturating_add(1);
        }
        run
    }
}

/// lapin answers `Ok(false)` where the channel died or the delivery was settled before: the broker has not been told.
async fn acknowledge(acker: &Acker, multiple: bool) -> Result<(), BrokerError> {
    match acker.ack(BasicAckOptions { multiple }).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(BrokerError::NotAcked),
        Err(error) => Err(error.into()),
    }
}
