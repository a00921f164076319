//! How long callbacks have waited on the queue. The broker does not say, but the queue is first in, first out: what waits longest was
//! published when as much had been published in all as is settled by now. So it is enough to remember how much that was, when.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Looks that are remembered; with more, every second one is forgotten, and the answer gets that much coarser.
const LOOKS_MAX: usize = 4_096;

/// What was published in all, at each look since the oldest message that waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    looks: VecDeque<(Instant, u64)>,
    /// What was settled at the last look that knew it.
    settled: u64,
}

impl Backlog {
    /// Looks: so many callbacks are settled since the first day, and so many wait. Answers how long the oldest has waited, to
    /// within the pause between two looks; what waited at the first look, at least since then. `None`: none waits.
    ///
    /// What workers hold is counted as neither, so the answer is early or late by as much as they take to settle it.
    pub(super) fn look(&mut self, now: Instant, settled: u64, ready: u64) -> Option<Duration> {
        if ready == 0 {
            self.looks.clear();
        }
        self.settled = settled;
        self.note(now, settled.saturating_add(ready));
        // All that had been published by the second look is settled: the first says nothing any more.
        while self.looks.get(1).is_some_and(|(_, published)| *published <= settled) {
            self.looks.pop_front();
        }
        self.age(now).filter(|_| ready > 0)
    }

    /// Looks while nobody can say how much is settled: then nothing is, as far as is known, and what is no longer on the queue is with
    /// workers. So what waited goes on waiting, and what comes is added.
    pub(super) fn look_at_queue(&mut self, now: Instant, ready: u64) -> Option<Duration> {
        let published = self.settled.saturating_add(ready).max(self.published());
        if published == self.settled {
            self.looks.clear();
        }
        self.note(now, published);
        self.age(now)
    }

    /// The same while the queue cannot be seen either: what waited goes on waiting.
    pub(super) fn queue_unknown(&self, now: Instant) -> Option<Duration> {
        self.age(now)
    }

    fn published(&self) -> u64 {
        self.looks.back().map_or(self.settled, |(_, published)| *published)
    }

    fn note(&mut self, now: Instant, published: u64) {
        self.looks.push_back((now, published));
        if self.looks.len() > LOOKS_MAX {
            let mut keep = false;
            self.looks.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// How long the oldest of what is not settled has waited.
    fn age(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.looks.front()?;
        (self.published() > self.settled).then(|| now.duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (second, settled, ready, age in seconds)
    #[track_caller]
    fn check(looks: &[(u64, u64, u64, Option<u64>)]) {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        for (second, settled, ready, expected) in looks {
            let age = backlog.look(start + Duration::from_secs(*second), *settled, *ready);
            assert_eq!(age.map(|age| age.as_secs()), *expected, "second {second}");
        }
    }

    #[test]
    fn an_empty_queue_has_no_age_however_much_went_through_it() {
        check(&[(0, 0, 0, None), (10, 500, 0, None), (20, 1_000, 0, None)]);
    }

    #[test]
    fn what_nobody_takes_grows_old() {
        check(&[(0, 7, 0, None), (10, 7, 5, Some(10)), (20, 7, 5, Some(20)), (30, 7, 50, Some(30))]);
    }

    #[test]
    fn a_queue_that_is_never_empty_is_as_old_as_its_oldest_message() {
        // 100 a second come and go, 300 wait: each waits for three seconds, and a look takes one more.
        let looks: Vec<_> = (1..50).map(|second| (second, 100 * second, 300)).collect();
        let start = Instant::now();
        let mut backlog = Backlog::default();
        for (second, settled, ready) in looks {
            let age = backlog.look(start + Duration::from_secs(second), settled, ready).expect("it waits");
            assert_eq!(age.as_secs(), (second - 1).min(3), "second {second}");
        }
    }

    #[test]
    fn while_nobody_says_what_is_settled_an_age_only_grows() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut backlog = Backlog::default();
        assert_eq!(backlog.look(at(0), 7, 0), None);
        assert_eq!(backlog.look_at_queue(at(60), 0), None, "nothing came");
        assert_eq!(backlog.queue_unknown(at(61)), None);
        assert_eq!(backlog.look_at_queue(at(70), 5), Some(Duration::from_secs(10)));
        // Workers took them, and hold them.
        assert_eq!(backlog.look_at_queue(at(80), 0), Some(Duration::from_secs(20)));
        assert_eq!(backlog.queue_unknown(at(90)), Some(Duration::from_secs(30)));
        assert_eq!(backlog.look_at_queue(at(100), 9), Some(Duration::from_secs(40)));
        // It is known again: 2 of the first 5 are settled, then all.
        assert_eq!(backlog.look(at(110), 9, 7), Some(Duration::from_secs(50)));
        assert_eq!(backlog.look(at(120), 16, 0), None);
    }

    #[test]
    fn no_more_is_remembered_than_allowed() {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        let looks = 10 * LOOKS_MAX as u64;
        for second in 0..looks {
            let age = backlog.look(start + Duration::from_secs(second), 0, 1 + second).expect("it waits");
            assert_eq!(age.as_secs(), second);
        }
        assert!(backlog.looks.len() <= LOOKS_MAX, "{}", backlog.looks.len());
    }
}
