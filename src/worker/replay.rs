//! Stored cases decided again: for people (`payonce quarantine replay`), and for those that have waited too long.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Worker, sleep_unless};
use crate::{
    config::WorkerConfig,
    crash::{self, Point},
    ledger::{CaseEnd, CaseId, Reason, decide_cases},
    store::{self, Batch, Resolver, StoreError, quarantine},
};

/// Cases decided in one transaction at most.
pub const REPLAY_BATCH_MAX: i64 = 500;

/// Lost races after which a replay gives up; a worker on the same accounts wins some of them.
const CONFLICTS_MAX: u32 = 100;

/// What became of cases that were decided again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Applied, those included that were released by one of these.
    pub applied: u64,
    /// Their fact was applied before, under this or another event.
    pub duplicates: u64,
    /// Still not applied; the reason may be another one now.
    pub refused: u64,
    /// Now waiting for another callback.
    pub waiting: u64,
    /// Not decided: ended by somebody else meanwhile, or a message that could not be decoded.
    pub untouched: u64,
}

impl Replayed {
    /// Adds another part.
    pub fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
        self.waiting += other.waiting;
        self.untouched += other.untouched;
    }
}

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
            resolver,
        };
        let lost = match connection.run(async |connection| store::apply(connection, batch).await).await {
            Ok(applied) => applied.lost,
            Err(cause @ StoreError::Conflict(_)) => {
                conflicts += 1;
                if conflicts > CONFLICTS_MAX {
                    return Err(cause);
                }
                replayed.untouched -= left.len().saturating_sub(cases.len()) as u64;
                continue;
            }
            Err(cause @ (StoreError::Unavailable(_) | StoreError::Refused(_))) => return Err(cause),
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

/// Turns callbacks that have waited longer than `waiting_max_ms` into open cases, again and again until `stop`. Any number of
/// workers may do so at once.
pub(super) async fn sweep(worker: Arc<Worker>, stop: CancellationToken) {
    let mut connection = store::Connection::new(Arc::clone(&worker.database));
    while !stop.is_cancelled() {
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
