//! What becomes of callbacks after they are published: `payonce publish --wait`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::super::Failure;
use crate::{
    app,
    config::Config,
    ledger::{Fingerprint, Key},
    store::{
        self, PgConnection, StoreError,
        settling::{self, Deliveries, KEYS_PER_LOOK_MAX},
    },
};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// What was published, by its key, and where it is looked for.
pub(super) struct Followed {
    connection: PgConnection,
    keys: HashMap<Key, Sent>,
}

struct Sent {
    before: Deliveries,
    confirmed: i64,
    /// The contents that were published under the key: nearly always one.
    contents: Vec<Fingerprint>,
}

/// A callback that is not in the ledger.
#[derive(Debug, Serialize)]
pub(super) struct CaseOf {
    pub(super) source: String,
    pub(super) id: String,
    pub(super) case: i64,
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) detail: String,
}

/// What became of all that was published and confirmed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    /// New ledger rows.
    pub(super) applied: i64,
    /// Rejected as duplicates.
    pub(super) duplicates: i64,
    /// In quarantine, waiting for another callback, for money or for an account.
    pub(super) waiting: i64,
    /// In quarantine, for a person.
    pub(super) quarantined: i64,
    /// Not settled yet.
    pub(super) unsettled: i64,
    /// Those in quarantine.
    pub(super) cases: Vec<CaseOf>,
}

impl Followed {
    /// Nothing yet.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        let mut connection = app::database(config, "payonce-publish")?.for_reading().connect().await?;
        store::check_schema(&mut connection).await?;
        Ok(Self { connection, keys: HashMap::new() })
    }

    /// These keys will be published: what is known of them before.
    pub(super) async fn begin(&mut self, keys: impl Iterator<Item = &Key>) -> Result<(), Failure> {
        let mut new: Vec<&Key> = keys.filter(|key| !self.keys.contains_key(*key)).collect();
        new.sort();
        new.dedup();
        let before = deliveries(&mut self.connection, &new).await?;
        let sent = |before| Sent { before, confirmed: 0, contents: Vec::new() };
        let new: Vec<(Key, Sent)> = new.into_iter().cloned().zip(before.into_iter().map(sent)).collect();
        self.keys.extend(new);
        Ok(())
    }

    /// The broker has one more.
    pub(super) fn confirmed(&mut self, key: &Key, content: Fingerprint) {
        if let Some(sent) = self.keys.get_mut(key) {
            sent.confirmed += 1;
            if !sent.contents.contains(&content) {
                sent.contents.push(content);
            }
        }
    }

    /// Waits until each is settled, at most so long; tells how many are.
    pub(super) async fn wait(&mut self, wait_max: Duration, settled: impl Fn(i64)) -> Result<(), Failure> {
        let began = Instant::now();
        let mut open: Vec<Key> = self.sent().cloned().collect();
        while !open.is_empty() && began.elapsed() < wait_max {
            let left = self.unsettled(open).await?;
            settled(self.total() - left.iter().map(|(_, n)| n).sum::<i64>());
            open = left.into_iter().map(|(key, _)| key).collect();
            if !open.is_empty() {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Keys under which the broker has something.
    fn sent(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|(_, sent)| sent.confirmed > 0).map(|(key, _)| key)
    }

    /// How many were published and confirmed.
    pub(super) fn total(&self) -> i64 {
        self.keys.values().map(|sent| sent.confirmed).sum()
    }

    /// Of these keys, those of which something is not settled, and how much.
    async fn unsettled(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, i64)>, Failure> {
        let named: Vec<&Key> = keys.iter().collect();
        let found = deliveries(&mut self.connection, &named).await?;
        let left = |(key, now): (Key, Deliveries)| {
            let sent = self.keys.get(&key)?;
            let left = sent.before.settled + sent.confirmed - now.settled;
            (left > 0).then_some((key, left))
        };
        Ok(keys.into_iter().zip(found).filter_map(left).collect())
    }

    /// What became of all of them, as it stands.
    pub(super) async fn outcome(&mut self) -> Result<Outcome, Failure> {
        let keys = self.sent().cloned().collect();
        let unsettled = self.unsettled(keys).await?.iter().map(|(_, n)| n).sum();
        let contents: Vec<(&Key, Fingerprint)> = self
            .keys
            .iter()
            .flat_map(|(key, sent)| sent.contents.iter().map(move |content| (key, *content)))
            .collect();
        let mut found = Vec::with_capacity(contents.len());
        for contents in contents.chunks(KEYS_PER_LOOK_MAX) {
            found.extend(settling::ended(&mut self.connection, contents).await?);
        }
        let mut outcome = Outcome { unsettled, ..Outcome::default() };
        for ((key, _), ended) in contents.iter().zip(found) {
            let was_applied = self.keys.get(*key).is_some_and(|sent| sent.before.is_applied);
            if ended.is_applied {
                outcome.applied += i64::from(!was_applied);
                continue;
            }
            let (Some(case), Some(state)) = (ended.case_id, ended.state) else { continue };
            if state == "waiting" {
                outcome.waiting += 1;
            } else {
                outcome.quarantined += 1;
            }
            outcome.cases.push(CaseOf {
                source: key.source.as_str().to_owned(),
                id: key.event_id.as_str().to_owned(),
                case,
                state,
                reason: ended.reason.unwrap_or_default(),
                detail: ended.detail.unwrap_or_default(),
            });
        }
        outcome.cases.sort_by_key(|case| case.case);
        let ended = outcome.applied + outcome.waiting + outcome.quarantined + outcome.unsettled;
        outcome.duplicates = (self.total() - ended).max(0);
        Ok(outcome)
    }
}

async fn deliveries(connection: &mut PgConnection, keys: &[&Key]) -> Result<Vec<Deliveries>, StoreError> {
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(KEYS_PER_LOOK_MAX) {
        found.extend(settling::deliveries(connection, keys).await?);
    }
    Ok(found)
}
