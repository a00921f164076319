//! Stored cases decided again: for people (`payonce quarantine replay`), and for those that have waited too long.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Worker, sleep_unless};
use crate::{
    config::WorkerConfig,
    crash::{self, Point},
    ledger::{CaseEnd, CaseId, Reason, decide_cases},
    store::{self, Batch, Locking, Resolver, StoreError, history, quarantine},
};

pub use crate::store::quarantine::Replayed;

/// Cases decided in one transaction at most.
pub const REPLAY_BATCH_MAX: i64 = 500;

/// Lost races after which a replay gives up; a worker on the same accounts wins some of them.
pub(super) const CONFLICTS_MAX: u32 = 100;

/// Decides these cases again, at most [`REPLAY_BATCH_MAX`], against what the database knows now. Safe to repeat, and beside
/// workers: the same guards hold as for a batch from the queue. With `expires`, what would go on waiting becomes an open case.
///
/// # Errors
/// [`StoreError`]; some of the cases may be committed by then, and running it again goes on.
pub async fn replay(
    connection: &mut store::Connection,
    ids: &[CaseId],
    resolver: Resolver<'_>,
    expires: bool,
) -> Result<Replayed, StoreError> {
    let mut replayed = Replayed::default();
    let mut left = ids.to_vec();
    let mut conflicts = 0;
    while !left.is_empty() {
        let (cases, snapshot) =
            connection.run(async |connection| quarantine::load_cases(connection, &left).await).await?;
        crash::reach(Point::Replay).await?;
        replayed.untouched += left.len().saturating_sub(cases.len()) as u64;
        let plan = decide_cases(&snapshot, &cases, expires);
        // What waits and goes on waiting is not in the plan.
        let decided: BTreeMap<CaseId, CaseEnd> =
            plan.resolved_cases.iter().map(|case| (case.id, case.end.clone())).collect();
        let accounts: BTreeMap<CaseId, _> =
            plan.resolved_cases.iter().map(|case| (case.id, case.account_id.clone())).collect();
        let batch = Batch {
            writer: "replay",
            plan,
            callbacks: &[],
            bodies: &[],
            mask_cards: true,
            undecodable: &[],
            remembered: &[],
            locking: Locking::Wait,
            resolver,
            proven: &[],
        };
        let lost = match connection.run(async |connection| store::apply(connection, batch).await).await {
            Ok(applied) => applied.lost,
            Err(cause @ (StoreError::Conflict(_) | StoreError::Blocked(_))) => {
                conflicts += 1;
                if conflicts > CONFLICTS_MAX {
                    return Err(cause);
                }
                replayed.untouched -= left.len().saturating_sub(cases.len()) as u64;
                continue;
            }
            Err(cause @ (StoreError::Unavailable(_) | StoreError::Unfit(_) | StoreError::Refused(_))) => {
                return Err(cause);
            }
        };
        for (id, end) in &decided {
            if accounts.get(id).is_some_and(|account_id| lost.contains(account_id)) {
                continue;
            }
            match end {
                CaseEnd::Applied => replayed.applied += 1,
                CaseEnd::Duplicate(_) => replayed.duplicates += 1,
                CaseEnd::Open(Reason::WaitingForPayment, _) => replayed.waiting += 1,
                CaseEnd::Open(..) => replayed.refused += 1,
            }
        }
        replayed.waiting += cases.iter().filter(|case| !decided.contains_key(&case.id)).count() as u64;
        left = cases
            .iter()
            .filter(|case| decided.contains_key(&case.id) && lost.contains(&case.callback.account_id))
            .map(|case| case.id)
            .collect();
    }
    Ok(replayed)
}

/// Turns callbacks that have waited longer than `waiting_max_ms` into open cases, and adds up counts that have grown old, again and
/// again until `stop`. Any number of workers may do so at once. It is the workers that add up, because a pool may run without
/// `payonce ops`, and that only reads.
pub(super) async fn sweep(worker: Arc<Worker>, stop: CancellationToken) {
    let mut connection = store::Connection::new(Arc::clone(&worker.database));
    while !stop.is_cancelled() {
        if let Err(cause) = add_up(&mut connection, &worker.config).await {
            warn!(cause = %cause, "old counts were not added up; they are counted nevertheless");
        }
        match sweep_once(&mut connection, &worker.config).await {
            Ok(swept) if swept == Replayed::default() => {}
            Ok(swept) => {
                info!(expired = swept.refused, applied = swept.applied, "callbacks had waited too long");
                continue;
            }
            // The lanes say more, and more often, about a database that is away.
            Err(cause) => warn!(cause = %cause, "waiting callbacks were not looked at"),
        }
        sleep_unless(worker.config.waiting_sweep, &stop).await;
    }
    connection.close().await;
}

async fn add_up(connection: &mut store::Connection, config: &WorkerConfig) -> Result<(), StoreError> {
    while connection.run(async |connection| history::roll_up(connection, &config.history).await).await? > 0 {}
    Ok(())
}

async fn sweep_once(
    connection: &mut store::Connection,
    config: &WorkerConfig,
) -> Result<Replayed, StoreError> {
    let waiting_max_ms = i64::try_from(config.waiting_max.as_millis()).unwrap_or(i64::MAX);
    let overdue = connection
        .run(async |connection| quarantine::overdue(connection, waiting_max_ms, REPLAY_BATCH_MAX).await)
        .await?;
    if !overdue.is_empty() {
        crash::reach(Point::Sweep).await?;
    }
    let resolver = Resolver { by: "payonce", why: "it could be applied when its time was up" };
    replay(connection, &overdue, resolver, true).await
}
