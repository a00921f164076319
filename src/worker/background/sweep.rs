//! What nobody else comes to: callbacks that wait and whose time is up, or whose cause has come unseen by the batch that brought it; holds
//! whose time is up. Any number of workers may sweep at once, and it is they who do, because a pool may run
//! without `payonce ops`, and that only reads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::{Worker, sleep_unless};
use crate::{
    config::{Policy, WorkerConfig},
    crash::{self, Point},
    ledger::{CaseId, Expires},
    store::{
        self, Resolver, StoreError,
        engine::{PassedOver, REPLAY_BATCH_MAX, replay_others, settle_all},
        holds,
        quarantine::Replayed,
        waiting,
    },
};

/// Locked accounts that one step of a sweep waits for; other locked ones are left to the next.
const WAITS_MAX: usize = 1;

/// Pause between two lines of the log about what was passed over.
const PASSED_OVER_PAUSE: Duration = Duration::from_secs(60);

/// Sweeps again and again until `stop`.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let mut sweep = Sweep {
        connection: store::Connection::new(Arc::clone(&worker.database)),
        after: 0,
        overdue_after: [None; 2],
        due_after: None,
        said_at: None,
    };
    // Since when this worker takes callbacks without a failure. What waits may have waited through an outage, with its cause on the queue
    // all the time: so nobody's time is up before that could come.
    let mut well_since = Instant::now();
    while !stop.is_cancelled() {
        if !worker.readiness.is_ready() {
            well_since = Instant::now();
        }
        let (has_more, failed) = sweep.once(&worker.config, &worker.name, well_since.elapsed()).await;
        match failed {
            None if has_more => continue,
            None => {}
            // The lanes say more, and more often, about a database that is down.
            Some(cause) => {
                warn!(cause = %cause, "some waiting callbacks or holds were not looked at");
                match cause {
                    StoreError::Unavailable(_) | StoreError::Unfit(_) => well_since = Instant::now(),
                    StoreError::Conflict(_) | StoreError::Blocked(_) | StoreError::Refused(_) => {}
                }
            }
        }
        sleep_unless(worker.config.waiting_sweep, &stop).await;
    }
    sweep.connection.close().await;
}

struct Sweep {
    connection: store::Connection,
    /// The case up to which those that wait were looked at; from the oldest again once all were.
    after: i64,
    /// The same of overdue cases, of each of [`Sweep::once`]'s two kinds: what is passed over hides none of the later ones.
    overdue_after: [Option<waiting::WaitsSince>; 2],
    /// The same of holds.
    due_after: Option<holds::ExpiresAt>,
    /// When the log last said that something was passed over.
    said_at: Option<Instant>,
}

impl Sweep {
    /// Each step, whatever came of the one before. Returns whether there may be more to do at once, and why a step failed.
    /// `well_for`: how long this worker has taken callbacks without a failure.
    async fn once(
        &mut self,
        config: &WorkerConfig,
        name: &str,
        well_for: Duration,
    ) -> (bool, Option<StoreError>) {
        let policy = config.policy();
        let mut has_more = false;
        let mut failed = None;
        let mut note = |step: Result<bool, StoreError>| match step {
            Ok(found_more) => has_more |= found_more,
            Err(cause) => failed = Some(cause),
        };
        let kinds = [(Expires::Funds, config.order_wait), (Expires::Payment, config.waiting_max)];
        for (kind, (expires, limit)) in kinds.into_iter().enumerate() {
            if well_for >= limit.min(config.order_wait) {
                note(self.open_overdue(kind, (policy, expires), limit).await);
            }
        }
        note(self.decide_ripe(policy).await);
        note(self.release_holds(policy, name).await);
        (has_more, failed)
    }

    async fn open_overdue(
        &mut self,
        kind: usize,
        how: (Policy, Expires),
        limit: Duration,
    ) -> Result<bool, StoreError> {
        let after = self.overdue_after.get_mut(kind).and_then(Option::take);
        let (_, expires) = how;
        let overdue = self
            .connection
            .run(async |connection| {
                waiting::overdue(connection, expires, limit, after, REPLAY_BATCH_MAX).await
            })
            .await?;
        let next = overdue.last().copied().filter(|_| overdue.len() as i64 == REPLAY_BATCH_MAX);
        if let Some(after) = self.overdue_after.get_mut(kind) {
            *after = next;
        }
        let ids: Vec<CaseId> = overdue.into_iter().map(|(_, id)| id).collect();
        let moved = self.decide_again(&ids, "it could be applied when its time was up", how).await?;
        Ok(moved > 0 || next.is_some())
    }

    async fn decide_ripe(&mut self, policy: Policy) -> Result<bool, StoreError> {
        let after = self.after;
        let (ripe, last) = self
            .connection
            .run(async |connection| waiting::ripe(connection, after, REPLAY_BATCH_MAX).await)
            .await?;
        self.after = last;
        Ok(self.decide_again(&ripe, Resolver::WORKER.why, (policy, Expires::Nothing)).await? > 0)
    }

    /// Returns how many cases it moved.
    async fn decide_again(
        &mut self,
        ids: &[CaseId],
        why: &str,
        how: (Policy, Expires),
    ) -> Result<u64, StoreError> {
        if ids.is_empty() {
            return Ok(0);
        }
        crash::hit(Point::Sweep).await?;
        let resolver = Resolver { by: "payonce", why };
        let (replayed, passed_over) =
            replay_others(&mut self.connection, ids, resolver, how, WAITS_MAX).await?;
        let Replayed { applied, duplicates, refused, waiting: _, untouched: _ } = replayed;
        let moved = applied + duplicates + refused;
        if moved > 0 {
            info!(applied, duplicates, opened = refused, "waiting callbacks were decided again");
        }
        if let Some(PassedOver { item: CaseId(case), cause }) = passed_over.first()
            && self.may_say()
        {
            let cases = passed_over.len();
            warn!(case, cases, cause = %cause, "cases were passed over; they are looked at again");
        }
        Ok(moved)
    }

    /// Releases holds whose time is up, each as a callback of its own.
    async fn release_holds(&mut self, policy: Policy, name: &str) -> Result<bool, StoreError> {
        let after = self.due_after.take();
        let due = self
            .connection
            .run(async |connection| holds::due(connection, after.as_ref(), REPLAY_BATCH_MAX).await)
            .await?;
        self.due_after = due.last;
        if let Some(cause) = due.unreadable
            && self.may_say()
        {
            warn!(cause = %cause, "a hold whose time is up cannot be read; fix its row in `payments`");
        }
        let writer = format!("{name}/holds");
        let (outcomes, passed_over) =
            settle_all(&mut self.connection, &due.callbacks, &writer, policy, WAITS_MAX).await?;
        let released = outcomes.iter().flatten().count();
        if released > 0 {
            info!(released, "holds whose time was up were released");
        }
        if let Some(PassedOver { item, cause }) = passed_over.first()
            && self.may_say()
        {
            let event_id = due.callbacks.get(*item).map(|callback| callback.key.event_id.as_str());
            let holds = passed_over.len();
            warn!(event_id, holds, cause = %cause, "holds were passed over; they are looked at again");
        }
        Ok(released > 0 || self.due_after.is_some())
    }

    fn may_say(&mut self) -> bool {
        let may_say = self.said_at.is_none_or(|at| at.elapsed() >= PASSED_OVER_PAUSE);
        if may_say {
            self.said_at = Some(Instant::now());
        }
        may_say
    }
}
