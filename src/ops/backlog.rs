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
pub(super) struct Backlog(VecDeque<(Instant, u64)>);

impl Backlog {
    /// Looks: so many callbacks are settled since the first day, and so many wait. Answers how long the oldest has waited, to
    /// within the pause between two looks; what waited at the first look, at least since then. `None`: none waits.
    ///
    /// What workers hold is counted as neither, so the answer is early or late by as much as they take to settle it.
    pub(super) fn look(&mut self, now: Instant, settled: u64, ready: u64) -> Option<Duration> {
        if ready == 0 {
            self.0.clear();
        }
        self.0.push_back((now, settled.saturating_add(ready)));
        // All that had been published by the second look is settled: the first says nothing any more.
        while self.0.get(1).is_some_and(|(_, published)| *published <= settled) {
            self.0.pop_front();
        }
        if self.0.len() > LOOKS_MAX {
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let (since, _) = self.0.front()?;
        (ready > 0).then(|| now.duration_since(*since))
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
    fn no_more_is_remembered_than_allowed() {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        let looks = 10 * LOOKS_MAX as u64;
        for second in 0..looks {
            let age = backlog.look(start + Duration::from_secs(second), 0, 1 + second).expect("it waits");
            assert_eq!(age.as_secs(), second);
        }
        assert!(backlog.0.len() <= LOOKS_MAX, "{}", backlog.0.len());
    }
}
