//! The counts that are committed with a batch: `tallies` (how many, per minute) and `duplicates` (per callback). Written by `closing`.

use std::collections::{BTreeMap, HashSet};

use super::{
    apply::Batch,
    cases::{Content, Undecodable, content},
};
use payonce_ledger::{Entry, Fingerprint, Key, Layer, Outcome, Reason};

/// What a tally counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TallyKind {
    /// A new ledger row for a callback that just came.
    Applied,
    /// A copy that was rejected.
    Duplicate,
    /// A new case.
    Quarantined,
    /// A new ledger row for a callback that was quarantined before.
    Released,
}

impl TallyKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Quarantined => "quarantined",
            Self::Released => "released",
        }
    }
}

/// A line of the counts that were committed with a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tally {
    /// What is counted.
    pub kind: TallyKind,
    /// The provider; empty where it could not be read.
    pub source: String,
    /// Type of callback, duplicate layer, or quarantine reason.
    pub label: &'static str,
}

/// What the transaction counts: every callback of the batch but those that will be decided again.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) tallies: BTreeMap<Tally, i64>,
    pub(super) duplicates: BTreeMap<(Key, Layer), i64>,
    /// What the new ledger rows are about, by source and currency: minor units.
    pub(super) amounts: BTreeMap<(String, &'static str), i128>,
}

impl Counts {
    pub(super) fn of(batch: &Batch<'_>, lost: &[bool], known_cases: &HashSet<Content>) -> Self {
        let mut counts = Self::default();
        let mut arrived: HashSet<&Key> = HashSet::new();
        // What comes from a case was counted when it came: only its ledger row, or the case it turns into, is new.
        let is_new = batch.proven.is_empty();
        let decided = batch.callbacks.iter().zip(&batch.plan.outcomes).zip(lost);
        for ((callback, outcome), is_lost) in decided {
            if *is_lost {
                continue;
            }
            // Nobody delivered it: its row counts as released below, and another sweep's copy of it is no copy.
            if callback.is_expiry() {
                continue;
            }
            let key = Some(&callback.key);
            match outcome {
                Outcome::Applied | Outcome::Duplicate(_) if !is_new => {}
                Outcome::Applied => {
                    arrived.insert(&callback.key);
                    counts.add(TallyKind::Applied, key, callback.kind.as_str(), 1);
                }
                Outcome::Duplicate(layer) => counts.add_duplicate(key, *layer, 1),
                Outcome::Waiting(reason) | Outcome::Quarantined(reason) => {
                    counts.add_case(key, *reason, known_cases, callback.fingerprint)
                }
            }
        }
        for entry in batch.plan.entries.iter().filter(|entry| !arrived.contains(&entry.callback.key)) {
            counts.add(TallyKind::Released, Some(&entry.callback.key), entry.callback.kind.as_str(), 1);
        }
        for Entry { callback, .. } in &batch.plan.entries {
            let of = (callback.key.source.as_str().to_owned(), callback.currency.as_str());
            *counts.amounts.entry(of).or_default() += i128::from(callback.amount.minor_units());
        }
        for message in batch.undecodable {
            let copies = i64::from(message.attempts) - 1;
            if message.is_vouched_for {
                counts.add_case(message.key.as_ref(), message.reason, known_cases, message.fingerprint);
                counts.add_duplicate(message.key.as_ref(), Layer::Batch, copies);
            } else {
                counts.add_stranger(message, known_cases);
                counts.add(TallyKind::Duplicate, None, Layer::Batch.as_str(), copies);
            }
        }
        for copy in batch.remembered {
            counts.add_duplicate(Some(&copy.key), copy.layer, 1);
        }
        counts
    }

    fn add_case(
        &mut self,
        key: Option<&Key>,
        reason: Reason,
        known: &HashSet<Content>,
        fingerprint: Fingerprint,
    ) {
        if !known.is_empty() && known.contains(&content(key, fingerprint)) {
            self.add_duplicate(key, Layer::Quarantine, 1);
        } else {
            self.add(TallyKind::Quarantined, key, reason.as_str(), 1);
        }
    }

    /// A message under a source that nobody vouches for: counted without its name, and without a row in the duplicate log, for both are its sender's choice.
    fn add_stranger(&mut self, message: &Undecodable<'_>, known: &HashSet<Content>) {
        if known.contains(&content(message.key.as_ref(), message.fingerprint)) {
            self.add(TallyKind::Duplicate, None, Layer::Quarantine.as_str(), 1);
        } else {
            self.add(TallyKind::Quarantined, None, message.reason.as_str(), 1);
        }
    }

    fn add_duplicate(&mut self, key: Option<&Key>, layer: Layer, n: i64) {
        if n > 0 {
            self.add(TallyKind::Duplicate, key, layer.as_str(), n);
            if let Some(key) = key {
                *self.duplicates.entry((key.clone(), layer)).or_default() += n;
            }
        }
    }

    fn add(&mut self, kind: TallyKind, key: Option<&Key>, label: &'static str, n: i64) {
        if n == 0 {
            return;
        }
        let source = key.map(|key| key.source.as_str().to_owned()).unwrap_or_default();
        *self.tallies.entry(Tally { kind, source, label }).or_default() += n;
    }
}
