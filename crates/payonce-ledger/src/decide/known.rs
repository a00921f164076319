//! Whether a callback is known already: in this batch, in the ledger, or in quarantine.

use super::{BatchState, Decision, mismatch};
use crate::{Callback, CaseEnd, CaseId, CaseState, Fingerprint, Known, Layer, OperationKey, Reason};

impl<'a> BatchState<'a> {
    /// The duplicate checks, in the order of [`Layer`]; `None` for a callback that is new.
    pub(super) fn known(&mut self, index: usize, callback: &'a Callback) -> Option<Decision> {
        if let Some(first) = self.first_in_batch(callback) {
            let copies = self.copies_in_batch.entry(first).or_default();
            *copies = copies.saturating_add(1);
            return Some(Decision::Duplicate(Layer::Batch));
        }
        let earlier = self.seen.entry(&callback.key).or_default();
        let owner_in_batch = earlier.iter().copied().find(|at| self.decisions.get(*at).is_some_and(owns_key));
        earlier.push(index);

        let known = self.snapshot.known.get(&callback.key).map_or(&[][..], Vec::as_slice);
        let is_applied =
            known.iter().any(|known| matches!(known, Known::Ledger(seen) if *seen == callback.fingerprint));
        if is_applied {
            return Some(Decision::Duplicate(Layer::Ledger));
        }
        let operation = callback.operation_key();
        let applied_operation =
            operation.as_ref().and_then(|key| self.operation(key)).filter(|(_, applied)| *applied);
        if applied_operation.is_some_and(|(seen, _)| seen == callback.fingerprint) {
            return Some(Decision::Duplicate(Layer::Operation));
        }
        let stored_case = known.iter().find_map(|known| match known {
            Known::Case { id, fingerprint, state, .. } if *fingerprint == callback.fingerprint => {
                Some((*id, *state))
            }
            Known::Case { .. } | Known::Ledger(_) => None,
        });
        if let Some((id, state)) = stored_case {
            return Some(Decision::CopyOfCase(id, state));
        }
        if let Some((seen, _)) = operation.as_ref().and_then(|key| self.operation(key)) {
            if seen == callback.fingerprint {
                return Some(operation.and_then(|key| self.discarded_twin(&key)).map_or(
                    Decision::Duplicate(Layer::Operation),
                    |CaseId(id)| {
                        Decision::Case(
                            Reason::InvalidTransition,
                            format!(
                                "the same operation under another event was discarded as case {id}; \
                                 replay this one, or discard it too"
                            ),
                        )
                    },
                ));
            }
            return Some(mismatch("operation id"));
        }
        let owner = owner_in_batch
            .and_then(|at| self.callbacks.get(at))
            .map(|owner| owner.fingerprint)
            .or_else(|| known.iter().find_map(owner_of_key));
        owner.map(|_| mismatch("source and event id"))
    }

    /// The first of this content in this batch.
    pub(super) fn first_in_batch(&self, callback: &Callback) -> Option<usize> {
        let earlier = self.seen.get(&callback.key)?;
        earlier
            .iter()
            .copied()
            .find(|at| self.callbacks.get(*at).is_some_and(|first| first.fingerprint == callback.fingerprint))
    }

    /// The case, where all that is known of a second key is one that a person has discarded: it stands in no other event's way, but
    /// somebody has to look.
    fn discarded_twin(&self, key: &OperationKey) -> Option<CaseId> {
        if self.operations.contains_key(key) {
            return None;
        }
        match self.snapshot.operations.get(key)? {
            Known::Case { id, state: CaseState::Discarded, .. } => Some(*id),
            Known::Case { .. } | Known::Ledger(_) => None,
        }
    }

    /// What makes a stored case settled by now, or a mismatch, whatever its account looks like.
    pub(super) fn known_excluding(&self, id: CaseId, callback: &Callback) -> Option<Decision> {
        let known = self.snapshot.known.get(&callback.key).map_or(&[][..], Vec::as_slice);
        let owner = known.iter().find_map(|known| self.present_owner(known, id))?;
        Some(if owner == callback.fingerprint {
            Decision::Duplicate(Layer::Ledger)
        } else {
            mismatch("source and event id")
        })
    }

    /// Whose key it is besides `id`, as this plan leaves the case. One that a person has discarded stands in nobody's way
    /// when a person decides another.
    fn present_owner(&self, known: &Known, excluding: CaseId) -> Option<Fingerprint> {
        match known {
            Known::Ledger(fingerprint) => Some(*fingerprint),
            Known::Case { id, .. } if *id == excluding => None,
            Known::Case { id, fingerprint, reason, state } => {
                let owns_key = match self.resolved.get(id).map(|case| &case.end) {
                    None => *state != CaseState::Discarded && reason.owns_key(),
                    Some(CaseEnd::Applied) => true,
                    Some(CaseEnd::Duplicate(_)) => false,
                    Some(CaseEnd::Open(reason, _)) => reason.owns_key(),
                };
                owns_key.then_some(*fingerprint)
            }
        }
    }

    /// The decision on a stored or waiting callback whose second key is used by another: with the same content once that is
    /// applied, with other content at once.
    pub(super) fn settled_operation(&self, callback: &Callback) -> Option<Decision> {
        let key = callback.operation_key()?;
        let is_open = |known: &Known| !matches!(known, Known::Case { state: CaseState::Discarded, .. });
        let (seen, applied) = self
            .operations
            .get(&key)
            .copied()
            .or_else(|| self.snapshot.operations.get(&key).filter(|known| is_open(known)).map(content))?;
        match (applied, seen == callback.fingerprint) {
            (true, true) => Some(Decision::Duplicate(Layer::Operation)),
            (_, false) => Some(mismatch("operation id")),
            (false, true) => None,
        }
    }

    /// Who uses this second key: this batch or the database; the content, and whether it is applied.
    pub(super) fn operation(&self, key: &OperationKey) -> Option<(Fingerprint, bool)> {
        self.operations.get(key).copied().or_else(|| self.snapshot.operations.get(key).map(content))
    }
}

fn owns_key(decision: &Decision) -> bool {
    match decision {
        Decision::Applied => true,
        Decision::Case(reason, _) => reason.owns_key(),
        // Its owner, if it has one, is stored: `owner_of_key` finds it.
        Decision::Duplicate(_) | Decision::CopyOfCase(..) => false,
    }
}

fn owner_of_key(known: &Known) -> Option<Fingerprint> {
    known.owns_key().then_some(content(known).0)
}

/// The content, and whether it is applied.
fn content(known: &Known) -> (Fingerprint, bool) {
    match known {
        Known::Ledger(fingerprint) => (*fingerprint, true),
        Known::Case { fingerprint, .. } => (*fingerprint, false),
    }
}
