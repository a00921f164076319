//! Messages that were quarantined as `bad_signature`, verified again: their key may have come after them. And requests that the ingress could
//! not map, mapped again: the configuration may have been fixed. What is right now is decided
//! as if it had just come from the queue; what is not stays where it is.

use std::borrow::Cow;

use tracing::info;

use crate::{
    config::Policy,
    ingress::{endpoint::Endpoints, envelope},
    keys::Keyring,
    ledger::{Callback, CaseId, Outcome},
    references::{Reference, ReferenceFields},
    signature::Refusal,
    store::{
        self, Resolver, StoreError,
        engine::{self, Part, Parts, PassedOver, REPLAY_WAITS_MAX, Settling, Tried},
        quarantine::{self, Replayed, Unproven},
    },
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
    /// Which references of callbacks are kept.
    pub references: &'a ReferenceFields,
}

/// Verifies these cases again and decides those that are right; returns those that could not be now, because of a lock or a row of
/// their own. Safe to repeat, and beside workers. Cases with another reason are
/// left alone, and not counted. `policy`: the rules, and whether a case that one of them turns into keeps card data masked.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Unfit`]; some of the cases may be committed by then, and running it again goes on.
pub(super) async fn reverify(
    connection: &mut store::Connection,
    ids: &[CaseId],
    trust: &Trust<'_>,
    policy: Policy,
    resolver: Resolver<'_>,
) -> Result<(Replayed, Vec<PassedOver<CaseId>>), StoreError> {
    let mut replayed = Replayed::default();
    let mut passed_over = Vec::new();
    for ids in ids.chunks(REVERIFY_BATCH_MAX) {
        let mut parts = Parts::new(ids.to_vec(), REPLAY_WAITS_MAX);
        while let Some(part) = parts.next_part() {
            let tried = once(connection, &part, trust, (policy, resolver)).await.map(|(these, tried)| {
                replayed.add(these);
                tried
            });
            parts.tried(part, tried)?;
        }
        passed_over.extend(parts.passed_over());
    }
    Ok((replayed, passed_over))
}

/// The callback and its body, where the message proves by now where it comes from.
pub(super) fn callback<'a>(trust: &Trust<'_>, case: &'a Unproven) -> Option<(Callback, Cow<'a, [u8]>)> {
    let verify = |source: &str, id: &str| trust.keyring.verify(source, id, &case.signature, &case.body);
    match wire::decode(&case.body) {
        Ok(callback) => {
            let key = &callback.key;
            verify(key.source.as_str(), key.event_id.as_str())
                .ok()
                .map(|()| (callback, Cow::Borrowed(&case.body[..])))
        }
        Err(_) => {
            let kept = envelope::read(&case.body).ok()?;
            let verified = verify(&kept.source, &kept.id);
            let is_open = trust.endpoints.trusts_the_queue() && verified == Err(Refusal::NoRule);
            verified.ok().or_else(|| is_open.then_some(()))?;
            match trust.endpoints.map_again(&kept) {
                Ok(body) => wire::decode(&body).ok().map(|callback| (callback, Cow::Owned(body))),
                Err(why) => {
                    info!(case = case.id.0, why, "a request still cannot be mapped");
                    None
                }
            }
        }
    }
}

/// Verifies, decides and applies.
async fn once(
    connection: &mut store::Connection,
    part: &Part<CaseId>,
    trust: &Trust<'_>,
    (policy, resolver): (Policy, Resolver<'_>),
) -> Result<(Replayed, Tried<CaseId>), StoreError> {
    let cases =
        connection.run(async |connection| quarantine::load_unproven(connection, &part.items).await).await?;
    let found = cases.len();
    let proven: Vec<_> = cases.iter().filter_map(|case| Some((case, callback(trust, case)?))).collect();
    let mut replayed = Replayed { refused: (found - proven.len()) as u64, ..Replayed::default() };
    let mut tried = Tried::default();
    if proven.is_empty() {
        return Ok((replayed, tried));
    }
    let ids: Vec<CaseId> = proven.iter().map(|(case, _)| case.id).collect();
    let bodies: Vec<&[u8]> = proven.iter().map(|(case, _)| case.body.as_slice()).collect();
    let callbacks: Vec<Callback> = proven.iter().map(|(_, (callback, _))| callback.clone()).collect();
    let references: Vec<Vec<Reference>> = match trust.references.is_empty() {
        true => Vec::new(),
        false => {
            let bodies = proven.iter().map(|(_, (_, body))| body);
            bodies.map(|body| trust.references.of_message(body, policy.mask_cards)).collect()
        }
    };
    let locking = part.locking;
    let how = Settling { writer: "replay", policy, resolver, proven: &ids, references: &references, locking };
    let fates = engine::settle(connection, &callbacks, &bodies, how).await?;
    for (id, fate) in ids.iter().zip(fates) {
        match tried.note(fate, *id) {
            Some(Outcome::Applied) => replayed.applied += 1,
            Some(Outcome::Duplicate(_)) => replayed.duplicates += 1,
            Some(Outcome::Quarantined(_)) => replayed.refused += 1,
            Some(Outcome::Waiting(_)) => replayed.waiting += 1,
            None => {}
        }
    }
    Ok((replayed, tried))
}
