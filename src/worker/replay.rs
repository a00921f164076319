//! Stored cases decided again: for people (`payonce quarantine replay`), and for the sweep of what waits.

use std::collections::{BTreeMap, HashSet};

use crate::{
    config::Policy,
    crash::{self, Point},
    ledger::{AccountId, CaseEnd, CaseId, Expires, decide_cases},
    store::{self, Batch, Locking, Resolver, StoreError, quarantine},
};

pub use crate::store::quarantine::Replayed;

/// Cases decided in one transaction at most.
pub const REPLAY_BATCH_MAX: i64 = 500;

/// Lost races after which a replay gives up; a worker on the same accounts wins some of them.
pub(super) const CONFLICTS_MAX: u32 = 100;

/// Decides these cases again, at most [`REPLAY_BATCH_MAX`], against what the database knows now. Safe to repeat, and beside
/// workers: the same guards hold as for a batch from the queue. What `expires` says becomes an open case where it would go on waiting.
///
/// # Errors
/// [`StoreError`]; some of the cases may be committed by then, and running it again goes on.
pub async fn replay(
    connection: &mut store::Connection,
    ids: &[CaseId],
    resolver: Resolver<'_>,
    (policy, expires): (Policy, Expires),
) -> Result<Replayed, StoreError> {
    let mut replayed = Replayed::default();
    let mut left = ids.to_vec();
    let mut conflicts = 0;
    while !left.is_empty() {
        let (cases, snapshot) =
            connection.run(async |connection| quarantine::load_cases(connection, &left).await).await?;
        crash::reach(Point::Replay).await?;
        replayed.untouched += left.len().saturating_sub(cases.len()) as u64;
        let plan = decide_cases(&snapshot, &cases, &policy.rules, expires);
        // What waits and goes on waiting is not in the plan.
        let decided: BTreeMap<CaseId, CaseEnd> =
            plan.resolved_cases.iter().map(|case| (case.id, case.end.clone())).collect();
        let accounts: BTreeMap<CaseId, _> =
            plan.resolved_cases.iter().map(|case| (case.id, case.account_id.clone())).collect();
        let is_lost_by = |id: &CaseId, lost: &HashSet<AccountId>| {
            accounts.get(id).and_then(Option::as_ref).is_some_and(|account_id| lost.contains(account_id))
        };
        let batch = Batch {
            writer: "replay",
            plan,
            callbacks: &[],
            bodies: &[],
            mask_cards: policy.mask_cards,
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
            if is_lost_by(id, &lost) {
                continue;
            }
            match end {
                CaseEnd::Applied => replayed.applied += 1,
                CaseEnd::Duplicate(_) => replayed.duplicates += 1,
                CaseEnd::Open(reason, _) if reason.is_waiting() => replayed.waiting += 1,
                CaseEnd::Open(..) => replayed.refused += 1,
            }
        }
        replayed.waiting += cases.iter().filter(|case| !decided.contains_key(&case.id)).count() as u64;
        left = cases.iter().map(|case| case.id).filter(|id| is_lost_by(id, &lost)).collect();
    }
    Ok(replayed)
}
