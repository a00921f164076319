//! Rows to the balance cache: of each account the newest.

use std::collections::HashMap;

use super::tail::{Sink, SinkError};
use crate::{
    balances::{Balance, Balances, Mark},
    store::{
        Epoch,
        feed::{Entry, Position},
    },
};

/// What the position of this feed is kept under, after the feed's own name.
pub(super) const SUFFIX: &str = ":balances";

pub(super) struct ToCache {
    balances: Balances,
    epoch: String,
    /// What was written last beside the entries.
    mark: Option<Mark>,
}

impl ToCache {
    pub(super) fn new(balances: Balances) -> Self {
        Self { balances, epoch: String::new(), mark: None }
    }
}

/// All rows of transactions up to this one are before `position`.
fn whole_transactions(position: &Position) -> i64 {
    if position.within.is_some() { position.txn.saturating_sub(1) } else { position.txn }
}

impl Sink for ToCache {
    async fn open(&mut self, epoch: &Epoch) -> Result<(), SinkError> {
        self.mark = None;
        self.epoch = epoch.as_str().to_owned();
        self.balances.connect().await.map_err(SinkError::Unreachable)
    }

    /// Entries are kept per epoch: those of the one before are not looked at any more, and expire.
    async fn history_changed(&mut self, _before: &str, _position: &Position) -> Result<(), SinkError> {
        Ok(())
    }

    async fn check(&mut self, position: &Position) -> Result<(), SinkError> {
        let found = self.balances.mark().await.map_err(SinkError::Unreachable)?;
        let written = self.mark.as_ref().map_or_else(|| whole_transactions(position), |mark| mark.txn);
        // A Redis that has nothing has nothing that is old: readers miss, and ask elsewhere.
        if let Some(found) = found.as_ref().filter(|found| found.epoch == self.epoch && found.txn < written) {
            self.mark = None;
            return Err(SinkError::Rewind(Position { txn: found.txn, within: None }));
        }
        let mark = Mark { epoch: self.epoch.clone(), txn: whole_transactions(position) };
        if !self.balances.set_mark(found.as_ref(), &mark).await.map_err(SinkError::Unreachable)? {
            return Err(SinkError::Unreachable(
                "somebody else has written the balance cache's mark".to_owned(),
            ));
        }
        self.mark = Some(mark);
        Ok(())
    }

    async fn close(&mut self) {}

    async fn deliver(&mut self, entries: &[Entry], confirmed: &mut usize) -> Result<(), SinkError> {
        // Per account they come by version, so that the last is the newest.
        let newest: HashMap<&str, &Entry> =
            entries.iter().map(|entry| (entry.account_id.as_str(), entry)).collect();
        let balances: Vec<Balance> = newest
            .into_values()
            .map(|entry| Balance {
                account_id: entry.account_id.clone(),
                balance: entry.balance_after,
                held: entry.held_after,
                currency: entry.currency.clone(),
                version: entry.account_version,
            })
            .collect();
        self.balances.write(&self.epoch, &balances).await.map_err(SinkError::Unreachable)?;
        *confirmed = entries.len();
        Ok(())
    }
}
