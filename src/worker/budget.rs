//! How much a worker holds of what the broker delivers, in bytes.
//!
//! RabbitMQ limits unsettled deliveries by their number alone (`basic.qos` by size is not implemented), and hands them all over at
//! once. So where those that came are too many bytes, the session ends in good order and the next one asks for fewer; those that
//! were not started go back. When messages have been small for a while, the number grows again, step by step.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// The number grows after so many times itself have come, and none of that took more than this part of the bytes.
const ROUNDS_BEFORE_GROWTH: u64 = 4;
const GROWTH_PART: usize = 8;

/// Deliveries that were set aside do not count against the prefetch, up to so many: others go on meanwhile.
const ASIDE_ALLOWED_MAX: u16 = 10_000;

#[derive(Debug, Default)]
struct Sum {
    bytes: AtomicUsize,
    deliveries: AtomicUsize,
    aside: AtomicUsize,
    /// The number of those that are set aside has grown.
    grew: Notify,
}

/// A delivery's share of what is held, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    sum: Arc<Sum>,
    bytes: usize,
    is_aside: bool,
}

impl Held {
    /// Its delivery waits apart from now on, until it is dropped.
    pub(super) fn set_aside(&mut self) {
        if !self.is_aside {
            self.is_aside = true;
            self.sum.aside.fetch_add(1, Ordering::Relaxed);
            self.sum.grew.notify_one();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_aside {
            self.sum.aside.fetch_sub(1, Ordering::Relaxed);
        }
        self.sum.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.sum.deliveries.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Too many bytes came; the prefetch is lower already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// The budget of one queue. It outlives sessions.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    prefetch_max: u16,
    prefetch: u16,
    held: Arc<Sum>,
    /// Of it, for deliveries that are set aside.
    allowance: u16,
    /// Nothing was settled since a session ended because nothing could be written.
    is_on_trial: bool,
    /// Since the prefetch was changed.
    taken: u64,
    bytes_peak: usize,
}

impl Budget {
    pub(super) fn new(prefetch_max: u16, bytes_max: usize) -> Self {
        Self {
            bytes_max,
            prefetch_max,
            prefetch: prefetch_max,
            allowance: 0,
            is_on_trial: false,
            held: Arc::default(),
            taken: 0,
            bytes_peak: 0,
        }
    }

    /// How many unsettled deliveries to ask for.
    pub(super) fn prefetch(&self) -> u16 {
        if self.is_on_trial { 1 } else { self.prefetch }.saturating_add(self.allowance)
    }

    /// Nothing could be written: the next session begins with one delivery, and takes more when something was settled. A message that is
    /// given back over and over is dead-lettered by the broker in the end; so it is the fewest that are put at that risk.
    pub(super) fn put_on_trial(&mut self) {
        self.is_on_trial = true;
    }

    /// Something was settled. True where more can be asked for now.
    pub(super) fn proven(&mut self) -> bool {
        std::mem::replace(&mut self.is_on_trial, false)
    }

    /// Resolves when deliveries were set aside.
    pub(super) fn aside_grew(&self) -> impl Future<Output = ()> + use<> {
        let held = Arc::clone(&self.held);
        async move { held.grew.notified().await }
    }

    /// Makes room for what is set aside, in steps of a quarter of the prefetch, so that it is asked for seldom. True where more, or in a
    /// new session less, can be asked for now.
    pub(super) fn make_room(&mut self) -> bool {
        let aside = u16::try_from(self.held.aside.load(Ordering::Relaxed)).unwrap_or(u16::MAX);
        let step = if self.is_on_trial { 1 } else { (self.prefetch / 4).max(1) };
        let allowance = aside.div_ceil(step).saturating_mul(step).min(ASIDE_ALLOWED_MAX);
        let grows = allowance > self.allowance;
        self.allowance = allowance;
        grows
    }

    /// Counts a delivery of so many bytes. One alone always fits, whatever its size: else nothing could go on.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Held, Overflow> {
        let deliveries = self.held.deliveries.load(Ordering::Relaxed);
        let sum = self.held.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if deliveries > 0 && sum > self.bytes_max {
            // Half of what fitted: messages of one size fit at the first try.
            let fits = u16::try_from(deliveries / 2).unwrap_or(u16::MAX);
            self.change(fits.min(self.prefetch / 2).max(1));
            return Err(Overflow);
        }
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.held.deliveries.fetch_add(1, Ordering::Relaxed);
        self.taken += 1;
        self.bytes_peak = self.bytes_peak.max(sum);
        Ok(Held { sum: Arc::clone(&self.held), bytes, is_aside: false })
    }

    /// A higher prefetch, where it is time for one.
    pub(super) fn grown(&mut self) -> Option<u16> {
        if self.prefetch >= self.prefetch_max || self.taken < ROUNDS_BEFORE_GROWTH * u64::from(self.prefetch)
        {
            return None;
        }
        let was_small = self.bytes_peak <= self.bytes_max / GROWTH_PART;
        self.change(if was_small {
            self.prefetch.saturating_mul(4).min(self.prefetch_max)
        } else {
            self.prefetch
        });
        was_small.then_some(self.prefetch)
    }

    fn change(&mut self, prefetch: u16) {
        self.prefetch = prefetch;
        self.taken = 0;
        self.bytes_peak = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Held, Overflow};

    #[test]
    fn large_messages_shrink_the_prefetch_to_what_fits_and_small_ones_let_it_grow_again() {
        const LARGE: usize = 1_000;
        let mut budget = Budget::new(4_000, 100 * LARGE);
        let held: Vec<_> = (0..100).map(|_| budget.take(LARGE).expect("it fits")).collect();
        assert_eq!(budget.take(LARGE).err(), Some(Overflow));
        assert_eq!(budget.prefetch(), 50);
        drop(held);
        // As many as that fit from now on.
        for _ in 0..1_000 {
            let held: Vec<_> = (0..50).map(|_| budget.take(LARGE).expect("it fits")).collect();
            assert_eq!((budget.grown(), held.len()), (None, 50));
        }
        let mut steps = Vec::new();
        for _ in 0..20_000 {
            drop(budget.take(10).expect("it fits"));
            steps.extend(budget.grown());
        }
        assert_eq!(steps, [200, 800, 3_200, 4_000]);
    }

    #[test]
    fn what_is_set_aside_takes_nobody_elses_place() {
        let mut budget = Budget::new(100, 1_000_000);
        let mut held: Vec<_> = (0..100).map(|_| budget.take(10).expect("it fits")).collect();
        assert!(!budget.make_room());
        held.iter_mut().take(30).for_each(Held::set_aside);
        assert!(budget.make_room(), "thirty places more, in steps of 25");
        assert_eq!(budget.prefetch(), 150);
        assert!(!budget.make_room(), "and no more than once");
        held.clear();
        assert!(!budget.make_room());
        assert_eq!(budget.prefetch(), 100);
    }

    #[test]
    fn a_session_after_one_that_wrote_nothing_begins_with_one_delivery() {
        let mut budget = Budget::new(100, 1_000_000);
        budget.put_on_trial();
        assert_eq!(budget.prefetch(), 1);
        let mut held = budget.take(10).expect("it fits");
        held.set_aside();
        assert!(budget.make_room(), "another one may be better");
        assert_eq!(budget.prefetch(), 2);
        assert!(budget.proven());
        assert!(!budget.proven());
    }

    #[test]
    fn one_message_larger_than_the_budget_goes_through_alone() {
        let mut budget = Budget::new(8, 10);
        for prefetch in [4, 2, 1, 1] {
            let held = budget.take(1_000_000).expect("alone it fits");
            assert_eq!(budget.take(1).err(), Some(Overflow));
            drop(held);
            assert!(budget.prefetch() <= prefetch, "{}", budget.prefetch());
        }
        assert_eq!(budget.prefetch(), 1);
    }
}
