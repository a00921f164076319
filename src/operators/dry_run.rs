//! Dry runs: what callbacks or stored cases would become, decided as workers and replays decide, and written nowhere.
//!
//! One read-only transaction sees the database as it was when the dry run began. It locks no row, takes no advisory lock, and holds up
//! nobody but a migration (`access share` on the tables that it reads). What it decides is laid over what it reads, so that the next
//! batch sees it ([`Unwritten`]). Redis is not asked: a done marker only saves a look into the ledger. What must not live here: how results are shown.

use std::collections::HashMap;

use super::reverify::{self, REVERIFY_BATCH_MAX, Trust};
use crate::{
    ledger::{
        Account, AccountId, Callback, CaseEnd, CaseId, Entry, Expires, Layer, Outcome, Plan, Reason, Rules,
        Snapshot, StoredCase, Unwritten, decide, decide_cases,
    },
    store::{self, Database, PgConnection, StoreError, engine::REPLAY_BATCH_MAX, quarantine},
};

/// Callbacks that one dry run decides at most: what it would have written is kept in memory, 1 to 2 kB each.
pub const CALLBACKS_MAX: u64 = 1_000_000;

/// Callbacks decided at once at most.
pub const BATCH_MAX: usize = 500;

/// Rounds in which what still waits at the end is tried again at most. Each round but the last applies something.
const ROUNDS_MAX: u32 = 16;

/// What a fate is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The callback at this place in the batch.
    Callback(usize),
    /// A stored case, or one that this dry run made: [`End::Case`].
    Case(CaseId),
}

/// What becomes of a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A ledger row, or the two of a transfer.
    Applied(Box<Entry>),
    /// A copy: rejected and counted.
    Duplicate(Layer),
    /// A stored case whose fact is known under another event: it would end as a duplicate.
    Known(String),
    /// A case, which waits or needs a person as its reason says. It may still change while the dry run goes on, under this id.
    Case {
        /// The stored case, or one that the dry run made up.
        id: CaseId,
        /// Why.
        reason: Reason,
        /// The detail.
        detail: String,
    },
}

/// What becomes of one callback, and its account after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Which.
    pub of: Of,
    /// How it ends.
    pub end: End,
    /// The account that it is about; `None` where nobody knows.
    pub account_id: Option<AccountId>,
    /// That account after its batch; after its own row: [`Entry::leg`]. `None`: it is not open.
    pub account: Option<Account>,
}

/// A dry run, begun.
pub struct DryRun {
    connection: PgConnection,
    rules: Rules,
    unwritten: Unwritten,
}

impl DryRun {
    /// Begins: from here on the database is what it is now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin(database: &Database, rules: Rules) -> Result<Self, StoreError> {
        let connection = database.connect_for_dry_run().await?;
        Ok(Self { connection, rules, unwritten: Unwritten::default() })
    }

    /// The connection, for other questions about the same state of the database.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Decides new callbacks, at most [`BATCH_MAX`], as one batch: one fate for each, in their order, then those of other cases that change
    /// with them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn decide(&mut self, callbacks: &[Callback]) -> Result<Vec<Fate>, StoreError> {
        let snapshot = store::load_over(&mut self.connection, callbacks, &self.unwritten).await?;
        let plan = decide(&snapshot, callbacks, &self.rules);
        Ok(self.take(&snapshot, callbacks, &[], &plan))
    }

    /// Decides these stored cases again, at most [`REPLAY_BATCH_MAX`]. One that has ended, or ends before it is its turn, has no fate here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn decide_again(&mut self, ids: &[CaseId]) -> Result<Vec<Fate>, StoreError> {
        let (cases, snapshot) =
            quarantine::load_cases_over(&mut self.connection, ids, &self.unwritten).await?;
        Ok(self.decide_cases(&snapshot, &cases))
    }

    fn decide_cases(&mut self, snapshot: &Snapshot, cases: &[StoredCase]) -> Vec<Fate> {
        let plan = decide_cases(snapshot, cases, &self.rules, Expires::Nothing);
        let mut fates = self.take(snapshot, &[], cases, &plan);
        // What waits and goes on waiting is not in the plan.
        let goes_on = cases.iter().filter(|case| plan.resolved_cases.iter().all(|one| one.id != case.id));
        for StoredCase { id, reason, account_id, .. } in goes_on {
            let detail = "it goes on waiting".to_owned();
            let end = End::Case { id: *id, reason: *reason, detail };
            let account = self.account(account_id.as_ref(), snapshot);
            fates.push(Fate { of: Of::Case(*id), end, account_id: account_id.clone(), account });
        }
        fates
    }

    /// Verifies and maps again what was not decoded as a callback, and decides what is one by now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reverify(
        &mut self,
        cases: &[(CaseId, Reason)],
        trust: &Trust<'_>,
    ) -> Result<Vec<Fate>, StoreError> {
        let mut fates = Vec::new();
        for cases in cases.chunks(REVERIFY_BATCH_MAX) {
            let (mut proven, mut callbacks) = (Vec::new(), Vec::new());
            let ids: Vec<CaseId> = cases.iter().map(|(id, _)| *id).collect();
            for case in quarantine::load_unproven(&mut self.connection, &ids).await? {
                if let Some((callback, _)) = reverify::callback(trust, &case) {
                    proven.push(case.id);
                    callbacks.push(callback);
                }
            }
            for (id, reason) in cases.iter().filter(|(id, _)| !proven.contains(id)) {
                let detail = "still not signed as it must be, or not mapped".to_owned();
                let end = End::Case { id: *id, reason: *reason, detail };
                fates.push(Fate { of: Of::Case(*id), end, account_id: None, account: None });
            }
            for mut fate in self.decide(&callbacks).await? {
                if let Of::Callback(at) = fate.of
                    && let Some(id) = proven.get(at)
                {
                    fate.of = Of::Case(*id);
                }
                fates.push(fate);
            }
        }
        Ok(fates)
    }

    /// Tries once more what still waits, as workers do from time to time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&mut self) -> Result<Vec<Fate>, StoreError> {
        let mut fates = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let before = fates.len();
            let mut after = CaseId(0);
            loop {
                let cases = self.unwritten.waiting_after(after, REPLAY_BATCH_MAX as usize);
                let Some(last) = cases.last() else { break };
                after = last.id;
                let callbacks: Vec<Callback> = cases.iter().map(|case| case.callback.clone()).collect();
                let snapshot = store::load_over(&mut self.connection, &callbacks, &self.unwritten).await?;
                let plan = decide_cases(&snapshot, &cases, &self.rules, Expires::Nothing);
                fates.extend(self.take(&snapshot, &[], &cases, &plan));
            }
            let is_applied = |fate: &Fate| matches!(fate.end, End::Applied(_));
            if !fates.iter().skip(before).any(is_applied) {
                break;
            }
        }
        Ok(fates)
    }

    /// Lays the plan over what is known, and says what it makes of each.
    fn take(
        &mut self,
        snapshot: &Snapshot,
        callbacks: &[Callback],
        cases: &[StoredCase],
        plan: &Plan,
    ) -> Vec<Fate> {
        let ids = self.unwritten.take(snapshot, callbacks, cases, plan);
        let new_cases: HashMap<usize, (CaseId, &str)> = plan
            .new_cases
            .iter()
            .zip(ids)
            .map(|(case, id)| (case.index, (id, case.detail.as_str())))
            .collect();
        let entries: HashMap<_, &Entry> =
            plan.entries.iter().map(|entry| (&entry.callback.key, entry)).collect();
        let mut fates = Vec::with_capacity(callbacks.len());
        for (at, (callback, outcome)) in callbacks.iter().zip(&plan.outcomes).enumerate() {
            let end = match outcome {
                Outcome::Applied => {
                    entries.get(&callback.key).map(|entry| End::Applied(Box::new((*entry).clone())))
                }
                Outcome::Duplicate(layer) => Some(End::Duplicate(*layer)),
                Outcome::Quarantined(reason) | Outcome::Waiting(reason) => new_cases
                    .get(&at)
                    .map(|(id, detail)| End::Case { id: *id, reason: *reason, detail: (*detail).to_owned() }),
            };
            let account_id = plan.subjects.get(at).cloned().flatten();
            let account = self.account(account_id.as_ref(), snapshot);
            fates.extend(end.map(|end| Fate { of: Of::Callback(at), end, account_id, account }));
        }
        for resolved in &plan.resolved_cases {
            let end = match &resolved.end {
                CaseEnd::Applied => {
                    let callback = self.unwritten.callback_of(resolved.id);
                    let entry = callback.and_then(|callback| entries.get(&callback.key));
                    entry.map(|entry| End::Applied(Box::new((*entry).clone())))
                }
                CaseEnd::Duplicate(why) => Some(End::Known(why.clone())),
                CaseEnd::Open(reason, detail) => {
                    Some(End::Case { id: resolved.id, reason: *reason, detail: detail.clone() })
                }
            };
            let account_id = resolved.account_id.clone();
            let account = self.account(account_id.as_ref(), snapshot);
            fates.extend(end.map(|end| Fate { of: Of::Case(resolved.id), end, account_id, account }));
        }
        fates
    }

    fn account(&self, account_id: Option<&AccountId>, snapshot: &Snapshot) -> Option<Account> {
        let account_id = account_id?;
        self.unwritten.account(account_id).or_else(|| snapshot.accounts.get(account_id)).copied()
    }
}
