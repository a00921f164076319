//! What a worker does beside its lanes: one file a task, all started, watched and ended here. What must not live here: what a task does.

mod history;
mod report;
mod sweep;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

pub(super) use report::report_now;

use super::{REDIS_PROBE_PAUSE, Worker, sleep_unless};
use crate::keys::KEYS_REFRESH_PAUSE;

/// Pause before a task that has panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The tasks beside the lanes.
pub(super) struct Background {
    worker: Arc<Worker>,
    tasks: JoinSet<()>,
    /// Ends those that need no other end than that of the worker.
    stop: CancellationToken,
    /// Ends the reports, which go on while the last batches are finished.
    drained: CancellationToken,
    has_database: bool,
}

impl Background {
    /// Starts what needs no database: the link to Redis, and the keys.
    pub(super) fn start(worker: &Arc<Worker>, stop: &CancellationToken) -> Self {
        let mut background = Self {
            worker: Arc::clone(worker),
            tasks: JoinSet::new(),
            stop: stop.clone(),
            drained: CancellationToken::new(),
            has_database: false,
        };
        background.spawn("redis", stop.clone(), |worker, stop| async move {
            worker.dedupe.keep_connected(REDIS_PROBE_PAUSE, &stop).await;
        });
        background.spawn("keys", stop.clone(), |worker, stop| async move {
            worker.keys.keep_fresh(KEYS_REFRESH_PAUSE, &stop).await;
        });
        background
    }

    /// Whether those that need the database run.
    pub(super) fn has_database(&self) -> bool {
        self.has_database
    }

    /// Starts those, once: not before the schema is known to fit.
    pub(super) fn start_with_database(&mut self) {
        if std::mem::replace(&mut self.has_database, true) {
            return;
        }
        self.spawn("sweep", self.stop.clone(), sweep::run);
        self.spawn("history", self.stop.clone(), history::run);
        self.spawn("report", self.drained.clone(), report::run);
    }

    /// Ends all of them, the reports last. What has not ended after `deadline` is left to the end of the process.
    pub(super) async fn end(mut self, deadline: Duration) {
        self.stop.cancel();
        self.drained.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(deadline, ended).await);
    }

    fn spawn<T: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        stop: CancellationToken,
        task: impl Fn(Arc<Worker>, CancellationToken) -> T + Send + 'static,
    ) {
        let (worker, stops) = (Arc::clone(&self.worker), stop.clone());
        let begin = move || task(Arc::clone(&worker), stops.clone());
        self.tasks.spawn(supervise(name, RESTART_PAUSE, stop, begin));
    }
}

/// Runs a task until it ends by itself. One that panics is started again: what a worker does beside its lanes must not end unseen while they go
/// on.
async fn supervise<T: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    pause: Duration,
    stop: CancellationToken,
    begin: impl Fn() -> T + Send,
) {
    loop {
        match tokio::spawn(begin()).await {
            Err(ended) if ended.is_panic() => {
                error!(task = name, "a background task panicked; it is started again");
            }
            Ok(()) | Err(_) => return,
        }
        sleep_unless(pause, &stop).await;
        if stop.is_cancelled() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_and_one_that_ends_is_not() {
        let begun = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&begun);
        let begin = move || {
            let nth = counter.fetch_add(1, Ordering::SeqCst);
            async move { assert!(nth >= 2, "the panic that this test is about") }
        };
        supervise("test", Duration::ZERO, CancellationToken::new(), begin).await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_task_that_panics_after_the_stop_is_left() {
        let stop = CancellationToken::new();
        stop.cancel();
        supervise("test", Duration::ZERO, stop, || async { panic!("the panic that this test is about") })
            .await;
    }
}
