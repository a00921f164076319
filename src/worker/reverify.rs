//! Messages that were quarantined as `bad_signature`, verified again: their key may have come after them. And requests that the ingress could
//! not map, mapped again: the configuration may have been mended. What is right now is decided
//! as if it had just come from the queue; what is not stays where it is.

use tracing::info;

use super::replay::{CONFLICTS_MAX, Replayed};
use crate::{
    config::Policy,
    ingress::{endpoint::Endpoints, envelope},
    keys::Keyring,
    ledger::{Callback, CaseId, Outcome, decide},
    store::{self, Batch, Locking, Resolver, StoreError, quarantine, quarantine::Unproven},
    wire,
};

/// Cases in one transaction at most: each can hold 1 MiB.
pub(super) const REVERIFY_BATCH_MAX: usize = 100;

/// What messages are judged by when they are looked at again.
pub struct Trust<'a> {
    /// Who may sign for which source.
    pub keyring: &'a Keyring,
    /// What requests are mapped by.
    pub endpoints: &'a Endpoints,
}

/// Verifies these cases again and decides those that are right. Safe to repeat, and beside workers. Cases with another reason are
/// left alone, and not counted. `policy`: the rules, and whether a case that one of them turns into keeps card data masked.
///
/// # Errors
/// [`StoreError`]; some of the cases may be committed by then, and running it again goes on.
pub async fn reverify(
    connection: &mut store::Connection,
    ids: &[CaseId],
    trust: &Trust<'_>,
    policy: Policy,
    resolver: Resolver<'_>,
) -> Result<Replayed, StoreError> {
    let mut replayed = Replayed::default();
    for ids in ids.chunks(REVERIFY_BATCH_MAX) {
        let mut left = ids.to_vec();
        let mut conflicts = 0;
        while !left.is_empty() {
            let cases =
                connection.run(async |connection| quarantine::load_unproven(connection, &left).await).await?;
            let found = cases.len();
            let proven: Vec<(Unproven, Callback)> = cases
                .into_iter()
                .filter_map(|case| callback(trust, &case).map(|callback| (case, callback)))
                .collect();
            replayed.refused += (found - proven.len()) as u64;
            left = match decide_again(connection, &proven, (policy, resolver), &mut replayed).await {
                Ok(lost) => lost,
                Err(StoreError::Conflict(_) | StoreError::Blocked(_)) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    proven.iter().map(|(case, _)| case.id).collect()
                }
                Err(
                    cause @ (StoreError::Conflict(_)
                    | StoreError::Blocked(_)
                    | StoreError::Unavailable(_)
                    | StoreError::Unfit(_)
                    | StoreError::Refused(_)),
                ) => {
                    return Err(cause);
                }
            };
        }
    }
    Ok(replayed)
}

/// The callback, where the message proves by now where it comes from.
pub(super) fn callback(trust: &Trust<'_>, case: &Unproven) -> Option<Callback> {
    let is_proven =
        |source: &str, id: &str| trust.keyring.verify(source, id, &case.signature, &case.body).is_ok();
    match wire::decode(&case.body) {
        Ok(callback) => {
            let key = &callback.key;
            is_proven(key.source.as_str(), key.event_id.as_str()).then_some(callback)
        }
        Err(_) => {
            let kept = envelope::read(&case.body).ok().filter(|kept| is_proven(&kept.source, &kept.id))?;
            match trust.endpoints.map_again(&kept) {
                Ok(body) => wire::decode(&body).ok(),
                Err(why) => {
                    info!(case = case.id.0, why, "a request still cannot be mapped");
                    None
                }
            }
        }
    }
}

/// Decides and applies; returns the cases whose account a rival changed first, to be looked at again.
async fn decide_again(
    connection: &mut store::Connection,
    proven: &[(Unproven, Callback)],
    (policy, resolver): (Policy, Resolver<'_>),
    replayed: &mut Replayed,
) -> Result<Vec<CaseId>, StoreError> {
    if proven.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<CaseId> = proven.iter().map(|(case, _)| case.id).collect();
    let bodies: Vec<&[u8]> = proven.iter().map(|(case, _)| case.body.as_slice()).collect();
    let callbacks: Vec<Callback> = proven.iter().map(|(_, callback)| callback.clone()).collect();
    let snapshot = connection.run(async |connection| store::load(connection, &callbacks).await).await?;
    let plan = decide(&snapshot, &callbacks, &policy.rules);
    let outcomes = plan.outcomes.clone();
    let batch = Batch {
        writer: "replay",
        plan,
        callbacks: &callbacks,
        bodies: &bodies,
        undecodable: &[],
        mask_cards: policy.mask_cards,
        remembered: &[],
        locking: Locking::Wait,
        resolver,
        proven: &ids,
    };
    let lost = connection.run(async |connection| store::apply(connection, batch).await).await?.lost_callbacks;
    let mut left = Vec::new();
    for ((id, is_lost), outcome) in ids.into_iter().zip(lost).zip(outcomes) {
        if is_lost {
            left.push(id);
            continue;
        }
        match outcome {
            Outcome::Applied => replayed.applied += 1,
            Outcome::Duplicate(_) => replayed.duplicates += 1,
            Outcome::Quarantined(_) => replayed.refused += 1,
            Outcome::Waiting(_) => replayed.waiting += 1,
        }
    }
    Ok(left)
}
