//! Stored cases decided again: for people (`payonce quarantine replay`), and for the sweep of what waits.

use std::collections::BTreeMap;

use payonce_ledger::{CaseEnd, CaseId, Expires, decide_cases};

use super::{Part, Parts, PassedOver, Policy, Tried, locking_for};
use crate::{
    Batch, Connection, Resolver, StoreError, apply,
    crash::{self, Point},
    quarantine::{self, Replayed},
};

/// Cases decided in one transaction at most.
pub const REPLAY_BATCH_MAX: i64 = 500;

/// Locked accounts that a replay of one batch waits for, each for a second at most where it stays locked.
pub const REPLAY_WAITS_MAX: usize = 10;

/// Decides these cases again, at most [`REPLAY_BATCH_MAX`], against what the database knows now. Safe to repeat, and beside
/// workers: the same guards hold as for a batch from the queue. What `expires` says becomes an open case where it would go on waiting.
///
/// # Errors
/// [`StoreError`]; some of the cases may be committed by then, and running it again goes on. All that could be decided was, where it is
/// [`StoreError::Blocked`], [`StoreError::Refused`] or [`StoreError::Conflict`].
pub async fn replay(
    connection: &mut Connection,
    ids: &[CaseId],
    resolver: Resolver<'_>,
    how: (Policy, Expires),
) -> Result<Replayed, StoreError> {
    let (replayed, passed_over) = replay_others(connection, ids, resolver, how, REPLAY_WAITS_MAX).await?;
    passed_over.into_iter().next().map_or(Ok(replayed), |case| Err(case.cause))
}

/// As [`replay`]; returns the cases that could not be decided now, because of a lock or a row of their own. `waits_max`: locked accounts that are
/// waited for.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Unfit`].
pub async fn replay_others(
    connection: &mut Connection,
    ids: &[CaseId],
    resolver: Resolver<'_>,
    how: (Policy, Expires),
    waits_max: usize,
) -> Result<(Replayed, Vec<PassedOver<CaseId>>), StoreError> {
    let mut replayed = Replayed::default();
    let mut parts = Parts::new(ids.to_vec(), waits_max);
    while let Some(part) = parts.next_part() {
        let tried = once(connection, &part, resolver, how).await.map(|(these, tried)| {
            replayed.add(these);
            tried
        });
        parts.tried(part, tried)?;
    }
    Ok((replayed, parts.passed_over()))
}

async fn once(
    connection: &mut Connection,
    part: &Part<CaseId>,
    resolver: Resolver<'_>,
    (policy, expires): (Policy, Expires),
) -> Result<(Replayed, Tried<CaseId>), StoreError> {
    let ids = &part.items;
    let (cases, snapshot) =
        connection.run(async |connection| quarantine::load_cases(connection, ids).await).await?;
    crash::hit(Point::Replay).await?;
    let untouched = ids.len().saturating_sub(cases.len()) as u64;
    let mut replayed = Replayed { untouched, ..Replayed::default() };
    let plan = decide_cases(&snapshot, &cases, &policy.rules, expires);
    // What waits and goes on waiting is not in the plan.
    let decided: BTreeMap<CaseId, _> = plan
        .resolved_cases
        .iter()
        .map(|case| (case.id, (case.end.clone(), case.account_id.clone())))
        .collect();
    let batch = Batch {
        writer: "replay",
        locking: locking_for(&plan, part.locking),
        plan,
        callbacks: &[],
        bodies: &[],
        mask_cards: policy.mask_cards,
        references: &[],
        undecodable: &[],
        remembered: &[],
        resolver,
        proven: &[],
    };
    let applied = connection.run(async |connection| apply(connection, batch).await).await?;
    let mut tried = Tried::default();
    replayed.waiting += cases.iter().filter(|case| !decided.contains_key(&case.id)).count() as u64;
    let is_asked = |id: &CaseId| cases.binary_search_by_key(id, |case| case.id).is_ok();
    for (id, (end, account_id)) in decided {
        match account_id {
            Some(account_id) if applied.locked.contains(&account_id) => {
                if is_asked(&id) {
                    tried.locked.push((account_id, id));
                }
            }
            Some(account_id) if applied.lost.contains(&account_id) => {
                if is_asked(&id) {
                    tried.lost.push((account_id, id));
                }
            }
            Some(_) | None => match end {
                CaseEnd::Applied => replayed.applied += 1,
                CaseEnd::Duplicate(_) => replayed.duplicates += 1,
                CaseEnd::Open(reason, _) if reason.is_waiting() => replayed.waiting += 1,
                CaseEnd::Open(..) => replayed.refused += 1,
            },
        }
    }
    Ok((replayed, tried))
}
