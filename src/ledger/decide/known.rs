//! Whether a callback is known already: in this batch, in the ledger, or in quarantine.

use super::{Book, Verdict, mismatch};
use crate::ledger::{Callback, CaseId, Fingerprint, Known, Layer, OperationKey};

impl<'a> Book<'a> {
    /// The duplicate checks, in the order of [`Layer`]; `None` for a callback that is new.
    pub(super) fn known(&mut self, index: usize, callback: &'a Callback) -> Option<Verdict> {
        let earlier = self.seen.entry(&callback.key).or_default();
        let same = earlier.iter().copied().find(|at| {
            self.callbacks.get(*at).is_some_and(|first| first.fingerprint == callback.fingerprint)
        });
        if let Some(first) = same {
            let copies = self.copies_in_batch.entry(first).or_default();
            *copies = copies.saturating_add(1);
            return Some(Verdict::Duplicate(Layer::Batch));
        }
        let owner_in_batch = earlier.iter().copied().find(|at| self.verdicts.get(*at).is_some_and(owns_key));
        earlier.push(index);

        let known = self.snapshot.known.get(&callback.key).map_or(&[][..], Vec::as_slice);
        let is_applied =
            known.iter().any(|known| matches!(known, Known::Ledger(seen) if *seen == callback.fingerprint));
        if is_applied {
            return Some(Verdict::Duplicate(Layer::Ledger));
        }
        let operation = callback.operation_key();
        let applied_operation =
            operation.as_ref().and_then(|key| self.operation(key)).filter(|(_, applied)| *applied);
        if applied_operation.is_some_and(|(seen, _)| seen == callback.fingerprint) {
            return Some(Verdict::Duplicate(Layer::Operation));
        }
        let stored_case = known.iter().find_map(|known| match known {
            Known::Case { id, fingerprint, .. } if *fingerprint == callback.fingerprint => Some(*id),
            Known::Case { .. } | Known::Ledger(_) => None,
        });
        if let Some(id) = stored_case {
            return Some(Verdict::CopyOfCase(id));
        }
        if let Some((seen, _)) = operation.as_ref().and_then(|key| self.operation(key)) {
            if seen == callback.fingerprint {
                return Some(Verdict::Duplicate(Layer::Operation));
            }
            return Some(mismatch("operation_id", seen, callback.fingerprint));
        }
        let owner = owner_in_batch
            .and_then(|at| self.callbacks.get(at))
            .map(|owner| owner.fingerprint)
            .or_else(|| known.iter().find_map(owner_of_key));
        owner.map(|seen| mismatch("source and id", seen, callback.fingerprint))
    }

    /// What makes a stored case settled by now, or a mismatch, whatever its account looks like.
    pub(super) fn known_besides(&self, id: CaseId, callback: &Callback) -> Option<Verdict> {
        let known = self.snapshot.known.get(&callback.key).map_or(&[][..], Vec::as_slice);
        let others =
            known.iter().filter(|known| !matches!(known, Known::Case { id: other, .. } if *other == id));
        let owner = others.filter_map(owner_of_key).next()?;
        Some(if owner == callback.fingerprint {
            Verdict::Duplicate(Layer::Ledger)
        } else {
            mismatch("source and id", owner, callback.fingerprint)
        })
    }

    /// The verdict where this fact is applied already, under another event.
    pub(super) fn applied_operation(&self, callback: &Callback) -> Option<Verdict> {
        let (seen, applied) = self.operation(&callback.operation_key()?)?;
        match (applied, seen == callback.fingerprint) {
            (true, true) => Some(Verdict::Duplicate(Layer::Operation)),
            (true, false) => Some(mismatch("operation_id", seen, callback.fingerprint)),
            (false, _) => None,
        }
    }

    /// Who uses this second key: this batch or the database; the content, and whether it is applied.
    pub(super) fn operation(&self, key: &OperationKey) -> Option<(Fingerprint, bool)> {
        self.operations.get(key).copied().or_else(|| match self.snapshot.operations.get(key)? {
            Known::Ledger(fingerprint) => Some((*fingerprint, true)),
            Known::Case { fingerprint, .. } => Some((*fingerprint, false)),
        })
    }
}

fn owns_key(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Applied => true,
        Verdict::Case(reason, _) => reason.owns_key(),
        // Its owner, if it has one, is stored: `owner_of_key` finds it.
        Verdict::Duplicate(_) | Verdict::CopyOfCase(_) => false,
    }
}

fn owner_of_key(known: &Known) -> Option<Fingerprint> {
    match known {
        Known::Ledger(fingerprint) => Some(*fingerprint),
        Known::Case { fingerprint, reason, .. } => reason.owns_key().then_some(*fingerprint),
    }
}
