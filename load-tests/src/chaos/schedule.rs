//! Which fault comes when: all from a seed.

use std::time::Duration;

use clap::ValueEnum;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{beside::Beside, fault::Fault};

/// The order in which faults take turns; runs with consecutive seeds go on where others stop, so that a few runs have them all.
const ORDER_SEED: u64 = 2_026;
/// How far apart two seeds begin.
const STRIDE: u64 = 10;
/// What loses commits comes first in every fifth seed.
const LOSS_EVERY: u64 = 5;
/// Where the feed's faults begin in runs with consecutive seeds: three short ones have them all.
const OF_FEED_STRIDE: u64 = 3;
const OF_FEED_RUNS: u64 = 3;
const HOLD_MIN_MS: u64 = 1_000;
const HOLD_MAX_MS: u64 = 4_000;

/// Every so many faults one has another beside it, and one is followed by the next before anybody has recovered.
const BESIDE_EVERY: usize = 3;
const HASTY_EVERY: usize = 2;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coming {
    pub fault: Fault,
    /// How long it is kept up.
    pub hold: Duration,
    /// A fault of another server, kept up all the while.
    pub beside: Option<Beside>,
    /// Whether the next comes before workers have recovered from this one.
    pub is_hasty: bool,
}

/// Faults and how long each is kept up, without end.
pub struct Schedule {
    order: Vec<Fault>,
    next: usize,
    /// Whether faults come together.
    is_together: bool,
    random: StdRng,
}

impl Schedule {
    /// Every everyday fault in turn, some of them two at a time; or only these, one after the other unless they are to come `together`; with a
    /// feed, its own in between.
    pub fn new(seed: u64, only: &[Fault], has_feed: bool, together: bool) -> Self {
        let mut order: Vec<Fault> = only.to_vec();
        let mut next = 0;
        if order.is_empty() {
            order = Fault::value_variants().iter().copied().filter(|fault| fault.is_everyday()).collect();
            order.shuffle(&mut StdRng::seed_from_u64(ORDER_SEED));
            next = usize::try_from(seed.wrapping_mul(STRIDE) % order.len() as u64).unwrap_or(0);
            if seed.is_multiple_of(LOSS_EVERY) {
                let losing = Fault::value_variants().iter().copied().filter(|fault| fault.loses_commits());
                order.splice(next..next, losing);
            }
            if has_feed {
                order.rotate_left(next);
                let of_feed = Fault::OF_FEED
                    .into_iter()
                    .cycle()
                    .skip(usize::try_from(seed % OF_FEED_RUNS * OF_FEED_STRIDE).unwrap_or(0));
                order = of_feed.zip(order).flat_map(|(of_feed, any)| [of_feed, any]).collect();
                next = 0;
            }
        }
        let is_together = only.is_empty() || together;
        Self { order, next, is_together, random: StdRng::seed_from_u64(seed) }
    }

    /// The next fault, how long it is kept up, and what comes with it.
    pub fn next(&mut self) -> Coming {
        let fault = self.order[self.next % self.order.len()];
        let hold = Duration::from_millis(self.random.random_range(HOLD_MIN_MS..=HOLD_MAX_MS));
        let is_every = |n: usize| self.is_together && self.next.is_multiple_of(n);
        let beside = Beside::of(fault).filter(|_| is_every(BESIDE_EVERY));
        self.next += 1;
        let is_every = |n: usize| self.is_together && self.next.is_multiple_of(n);
        let is_hasty = is_every(HASTY_EVERY) && self.order[self.next % self.order.len()].needs_no_load();
        Coming { fault, hold, beside, is_hasty }
    }

    /// Whether this fault can come within the next `count`.
    pub fn has_within(&self, fault: Fault, count: usize) -> bool {
        self.coming(count).any(|coming| coming == fault)
    }

    fn coming(&self, count: usize) -> impl Iterator<Item = Fault> {
        (0..count).map(|n| self.order[(self.next + n) % self.order.len()])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        let take = |seed| {
            let mut schedule = Schedule::new(seed, &[], false, false);
            (0..50).map(|_| schedule.next()).collect::<Vec<_>>()
        };
        assert_eq!(take(3), take(3));
        assert_ne!(take(3), take(4));
    }

    #[test]
    fn the_seeds_of_the_suite_have_faults_together_and_named_ones_only_where_asked() {
        for seed in [1, 2] {
            let mut schedule = Schedule::new(seed, &[], false, false);
            let coming: Vec<Coming> = (0..9).map(|_| schedule.next()).collect();
            assert!(coming.iter().any(|coming| coming.beside.is_some()), "{coming:?}");
            assert!(coming.iter().any(|coming| coming.is_hasty), "{coming:?}");
        }
        let only = [Fault::DatabaseKilled, Fault::BrokerKilled];
        let together = |together| {
            let mut schedule = Schedule::new(1, &only, false, together);
            (0..6)
                .map(|_| schedule.next())
                .filter(|coming| coming.beside.is_some() || coming.is_hasty)
                .count()
        };
        assert_eq!(together(false), 0);
        assert!(together(true) > 0);
    }

    #[test]
    fn consecutive_seeds_with_a_feed_have_every_fault_that_it_is_afraid_of() {
        let mut seen = BTreeSet::new();
        for seed in 31..=33 {
            let mut schedule = Schedule::new(seed, &[], true, false);
            seen.extend((0..6).map(|_| schedule.next().fault));
        }
        assert!(Fault::OF_FEED.iter().all(|fault| seen.contains(fault)), "{seen:?}");
    }

    #[test]
    fn ten_seeds_have_every_everyday_fault_even_if_each_has_time_for_few() {
        let mut seen = BTreeSet::new();
        for seed in 1..=10 {
            let mut schedule = Schedule::new(seed, &[], false, false);
            seen.extend((0..9).map(|_| schedule.next().fault));
        }
        let all: BTreeSet<Fault> =
            Fault::value_variants().iter().copied().filter(|fault| fault.is_everyday()).collect();
        assert_eq!(all.difference(&seen).collect::<Vec<_>>(), Vec::<&Fault>::new());
        let losing = Fault::value_variants().iter().filter(|fault| fault.loses_commits());
        assert!(losing.into_iter().all(|fault| seen.contains(fault)), "{seen:?}");
    }
}
