//! What nobody else comes to: callbacks that wait and whose time is up, or whose cause has come unseen by the batch that brought it; holds
//! whose time is up; counts that have grown old. Any number of workers may sweep at once, and it is they who do, because a pool may run
//! without `payonce ops`, and that only reads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Worker, direct,
    replay::{REPLAY_BATCH_MAX, Replayed, replay},
    sleep_unless,
};
use crate::{
    config::{Policy, WorkerConfig},
    crash::{self, Point},
    ledger::{CaseId, Expires},
    store::{self, Resolver, StoreError, history, holds, waiting},
};

/// Pause between two looks for counts to add up.
const ADD_UP_PAUSE: Duration = Duration::from_secs(60);

/// Lost races after which a sweep leaves holds to the next.
const CONFLICTS_MAX: u32 = 20;

/// Sweeps again and again until `stop`.
pub(super) async fn sweep(worker: Arc<Worker>, stop: CancellationToken) {
    let mut sweep = Sweep { connection: store::Connection::new(Arc::clone(&worker.database)), after: 0 };
    let mut added_up: Option<Instant> = None;
    // Since when this worker takes callbacks without a failure. What waits may have waited through an outage, with its cause on the queue
    // all the time: so nobody's time is up before that could come.
    let mut well_since = Instant::now();
    while !stop.is_cancelled() {
        if !worker.readiness.is_ready() {
            well_since = Instant::now();
        }
        if added_up.is_none_or(|at| at.elapsed() >= ADD_UP_PAUSE) {
            if let Err(cause) = sweep.add_up(&worker.config).await {
                warn!(cause = %cause, "old counts were not added up; they are counted nevertheless");
            }
            added_up = Some(Instant::now());
        }
        match sweep.once(&worker.config, &worker.name, well_since.elapsed()).await {
            // More of it may be there.
            Ok(moved) if moved > 0 => continue,
            Ok(_) => {}
            // The lanes say more, and more often, about a database that is away.
            Err(cause) => {
                warn!(cause = %cause, "waiting callbacks and holds were not looked at");
                well_since = Instant::now();
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
}

impl Sweep {
    async fn add_up(&mut self, config: &WorkerConfig) -> Result<(), StoreError> {
        let history = &config.history;
        while self.connection.run(async |connection| history::roll_up(connection, history).await).await? > 0 {
        }
        Ok(())
    }

    /// Returns how many cases and holds it moved. `well_for`: how long this worker has taken callbacks without a failure.
    async fn once(
        &mut self,
        config: &WorkerConfig,
        name: &str,
        well_for: Duration,
    ) -> Result<u64, StoreError> {
        let policy = config.policy();
        let mut moved = 0;
        for (expires, limit) in [(Expires::Funds, config.order_wait), (Expires::Payment, config.waiting_max)]
        {
            if well_for < limit.min(config.order_wait) {
                continue;
            }
            let overdue = self
                .connection
                .run(async |connection| waiting::overdue(connection, expires, limit, REPLAY_BATCH_MAX).await)
                .await?;
            let why = "it could be applied when its time was up";
            moved += self.decide_again(&overdue, why, (policy, expires)).await?;
        }
        let after = self.after;
        let (ripe, last) = self
            .connection
            .run(async |connection| waiting::ripe(connection, after, REPLAY_BATCH_MAX).await)
            .await?;
        self.after = last;
        moved += self.decide_again(&ripe, Resolver::WORKER.why, (policy, Expires::Nothing)).await?;
        moved += self.release_holds(policy, name).await?;
        Ok(moved)
    }

    async fn decide_again(
        &mut self,
        ids: &[CaseId],
        why: &str,
        how: (Policy, Expires),
    ) -> Result<u64, StoreError> {
        if ids.is_empty() {
            return Ok(0);
        }
        crash::reach(Point::Sweep).await?;
        let resolver = Resolver { by: "payonce", why };
        let replayed = replay(&mut self.connection, ids, resolver, how).await?;
        let Replayed { applied, duplicates, refused, waiting: _, untouched: _ } = replayed;
        let moved = applied + duplicates + refused;
        if moved > 0 {
            info!(applied, duplicates, opened = refused, "waiting callbacks were decided again");
        }
        Ok(moved)
    }

    /// Releases holds whose time is up, each as a callback of its own.
    async fn release_holds(&mut self, policy: Policy, name: &str) -> Result<u64, StoreError> {
        let due =
            self.connection.run(async |connection| holds::due(connection, REPLAY_BATCH_MAX).await).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let writer = format!("{name}/holds");
        for _ in 0..CONFLICTS_MAX {
            let plan = direct::plan(&mut self.connection, &due, policy.rules).await?;
            if let Some(applied) = direct::write(&mut self.connection, &due, plan, &writer, policy).await? {
                let released = applied.lost_callbacks.iter().filter(|is_lost| !**is_lost).count() as u64;
                info!(released, "holds whose time was up were released");
                return Ok(released);
            }
        }
        Ok(0)
    }
}
