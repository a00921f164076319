//! What a worker counts about itself, in memory, so that no batch waits for it. What is lost with a killed process is its last interval; the
//! history is counted elsewhere. What must not live here: where it is reported (`background/report.rs`).

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    latency::{Counted, Latencies},
    metrics,
    store::{Tally, TallyKind, workers::Counts},
};

/// Longest text of a failure that is kept.
const ERROR_CHARS_MAX: usize = 500;

/// What a worker counts about itself. Metrics are told at the same time.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    received: AtomicU64,
    applied: AtomicU64,
    duplicates: AtomicU64,
    quarantined: AtomicU64,
    conflicts: AtomicU64,
    written: watch::Sender<u64>,
    latencies: Latencies,
    /// Since when each busy lane has held the oldest delivery of its batch.
    held: Mutex<BTreeMap<String, Instant>>,
    last_error: Mutex<Option<(String, Instant)>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            received: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            written: watch::Sender::new(0),
            latencies: Latencies::default(),
            held: Mutex::default(),
            last_error: Mutex::default(),
        }
    }
}

impl Stats {
    /// So many deliveries came.
    pub(super) fn received(&self, n: usize) {
        metrics::received(n as u64);
        self.received.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// A batch was committed.
    pub(super) fn wrote(&self) {
        self.written.send_modify(|batches| *batches = batches.saturating_add(1));
    }

    /// How many batches were committed since the worker started.
    pub(super) fn written(&self) -> u64 {
        *self.written.borrow()
    }

    /// Resolves when more than so many are.
    pub(super) async fn written_after(&self, batches: u64) {
        // Fails only where the sender is gone, which is `self`.
        drop(self.written.subscribe().wait_for(|written| *written > batches).await);
    }

    /// So many accounts were decided again after a version conflict.
    pub(super) fn conflicted(&self, accounts: usize) {
        metrics::conflicts(accounts as u64);
        self.conflicts.fetch_add(accounts as u64, Ordering::Relaxed);
    }

    /// A delivery was settled so long after it came.
    pub(super) fn settled(&self, latency: Duration) {
        metrics::settled(latency);
        self.latencies.record(latency);
    }

    /// A transaction counted these.
    pub(super) fn counted(&self, by_source: &metrics::BySource, tallies: &BTreeMap<Tally, i64>) {
        for (Tally { kind, source, label }, n) in tallies {
            let n = u64::try_from(*n).unwrap_or(0);
            let counter = match kind {
                TallyKind::Applied | TallyKind::Released => {
                    by_source.applied(source, label, n);
                    &self.applied
                }
                TallyKind::Duplicate => {
                    by_source.duplicates(source, label, n);
                    &self.duplicates
                }
                TallyKind::Quarantined => {
                    by_source.quarantined(source, label, n);
                    &self.quarantined
                }
            };
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// This lane works a batch whose oldest delivery came then; `None`: it has settled all of it, or given it back.
    pub(super) fn in_flight(&self, lane: &str, since: Option<Instant>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            Some(since) => drop(held.insert(lane.to_owned(), since)),
            None => drop(held.remove(lane)),
        }
    }

    /// Something failed, and the worker goes on.
    pub(super) fn failed(&self, cause: &impl Display) {
        let text = cause.to_string().chars().take(ERROR_CHARS_MAX).collect();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some((text, Instant::now()));
    }

    /// How long it has run.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The latencies since this was last asked.
    pub(super) fn take_latencies(&self) -> Counted {
        self.latencies.take()
    }

    /// The last failure, and how long ago it was.
    pub(super) fn last_error(&self) -> Option<(String, Duration)> {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.map(|(text, at)| (text, at.elapsed()))
    }

    /// All that is counted since it started.
    pub(super) fn counts(&self) -> Counts {
        let [received, applied, duplicates, quarantined, conflicts] =
            [&self.received, &self.applied, &self.duplicates, &self.quarantined, &self.conflicts]
                .map(|counter| counter.load(Ordering::Relaxed));
        Counts { received, applied, duplicates, quarantined, conflicts }
    }

    /// For how long the oldest unsettled delivery has been held.
    pub(super) fn oldest_unsettled(&self) -> Option<Duration> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().map(Instant::elapsed).max()
    }
}
