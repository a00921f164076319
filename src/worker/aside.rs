//! Deliveries that could not be written while their neighbours were: they wait here, unsettled, until their next try. What must not live
//! here: when something is set aside (`disposition.rs`), and how it is tried (`process.rs`).
//!
//! What belongs together waits together, behind one delivery that is tried for all of them, with growing pauses: a locked account costs
//! its lane one short look now and then, however many of its callbacks have come.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{batch::Taken, disposition::Why};
use crate::{
    config::RetryConfig,
    ledger::{AccountId, Fingerprint},
    metrics,
    retry::Pauses,
};

/// Deliveries that a lane sets aside at most. When so many wait it takes no new ones until some of them are settled.
pub(super) const ASIDE_MAX: usize = 5_000;

/// The longest pause before a delivery is tried again whose account was locked. A try that finds it locked costs next to nothing, and in a
/// pool at work it was another worker that had it, for a moment: what waits longer than that comes out of its order for nothing.
const LOCKED_PAUSE_MAX: Duration = Duration::from_millis(500);

/// What waits together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// All callbacks about one account.
    Account(AccountId),
    /// The copies of a message that is no callback.
    Message(Fingerprint),
}

/// A delivery that is tried again.
pub(super) struct Retry {
    pub(super) subject: Subject,
    pub(super) taken: Taken,
}

struct Group {
    /// Oldest first.
    deliveries: VecDeque<Taken>,
    why: Why,
    pauses: Pauses,
    due: Instant,
    /// The last try was settled: the others need not wait for a single one.
    is_released: bool,
}

/// What one lane has set aside. Whatever is left when it is dropped goes back with the channel.
pub(super) struct Aside {
    groups: HashMap<Subject, Group>,
    deliveries: usize,
    retry: RetryConfig,
}

impl Aside {
    pub(super) fn new(retry: RetryConfig) -> Self {
        Self { groups: HashMap::new(), deliveries: 0, retry }
    }

    /// Why deliveries about this wait, where some do: a further one waits with them.
    pub(super) fn holds(&self, subject: &Subject) -> Option<Why> {
        self.groups.get(subject).map(|group| group.why)
    }

    pub(super) fn is_full(&self) -> bool {
        self.deliveries >= ASIDE_MAX
    }

    /// When the delivery came that has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.groups.values().filter_map(|group| group.deliveries.front()).map(|taken| taken.at).min()
    }

    /// A delivery that could not be written at its first try, or that found others of its subject here.
    pub(super) fn put(&mut self, subject: Subject, mut taken: Taken, why: Why) {
        taken.held.set_aside();
        let group = self.groups.entry(subject).or_insert_with(|| Group::new(why, self.retry));
        group.deliveries.push_back(taken);
        let why = group.why;
        self.count(why, 1);
    }

    /// The earliest time at which something is to be tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.groups.values().map(|group| group.due).min()
    }

    /// What is to be tried now, at most so many: one of each subject whose pause is over, and all of those that are found to go through.
    pub(super) fn take_due(&mut self, now: Instant, deliveries_max: usize) -> Vec<Retry> {
        let mut due = Vec::new();
        for (subject, group) in &mut self.groups {
            if group.due > now {
                continue;
            }
            let wanted = if group.is_released { group.deliveries.len() } else { 1 };
            let free = deliveries_max.saturating_sub(due.len());
            let taken = group.deliveries.drain(..wanted.min(free).min(group.deliveries.len()));
            due.extend(taken.map(|taken| (group.why, Retry { subject: subject.clone(), taken })));
        }
        for (why, _) in &due {
            self.count(*why, -1);
        }
        due.into_iter().map(|(_, retry)| retry).collect()
    }

    /// That was settled at last.
    pub(super) fn settled(&mut self, subject: &Subject) {
        let Some(group) = self.groups.get_mut(subject) else { return };
        if group.deliveries.is_empty() {
            self.groups.remove(subject);
        } else {
            group.is_released = true;
            group.due = Instant::now();
        }
    }

    /// That failed once more.
    pub(super) fn put_back(&mut self, retry: Retry, why: Why) {
        self.count(why, 1);
        // What a neighbour's success removed begins anew.
        let group = self.groups.entry(retry.subject).or_insert_with(|| Group::new(why, self.retry));
        if group.why != why {
            group.pauses = pauses(why, self.retry);
            let moved = group.deliveries.len();
            metrics::set_aside(group.why.as_str(), -(i64::try_from(moved).unwrap_or(0)));
            metrics::set_aside(why.as_str(), i64::try_from(moved).unwrap_or(0));
        }
        group.why = why;
        group.is_released = false;
        group.due = Instant::now() + group.pauses.next_pause();
        group.deliveries.push_front(retry.taken);
    }

    fn count(&mut self, why: Why, change: i8) {
        self.deliveries = self.deliveries.saturating_add_signed(isize::from(change));
        metrics::set_aside(why.as_str(), i64::from(change));
    }
}

fn pauses(why: Why, retry: RetryConfig) -> Pauses {
    Pauses::new(match why {
        Why::Locked => RetryConfig {
            delay_min: retry.delay_min.min(LOCKED_PAUSE_MAX),
            delay_max: retry.delay_max.min(LOCKED_PAUSE_MAX),
        },
        Why::Refused => retry,
    })
}

impl Group {
    fn new(why: Why, retry: RetryConfig) -> Self {
        let mut pauses = pauses(why, retry);
        let due = Instant::now() + pauses.next_pause();
        Self { deliveries: VecDeque::new(), why, pauses, due, is_released: false }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for group in self.groups.values() {
            metrics::set_aside(group.why.as_str(), -(i64::try_from(group.deliveries.len()).unwrap_or(0)));
        }
    }
}
