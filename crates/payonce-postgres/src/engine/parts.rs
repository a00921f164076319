//! Stored rows that are decided again together, as far as they can be: what somebody has locked, or PostgreSQL refuses, is found by halving and
//! passed over, and the rest is written. What must not live here: how they are decided and written.

use std::collections::HashMap;

use payonce_ledger::{AccountId, Outcome};

use super::Fate;
use crate::{Locking, StoreError};

/// Version conflicts after which a part of several rows is cut in half, or goes on without the accounts that lose them.
const TRIES_TOGETHER_MAX: u32 = 10;

/// Version conflicts after which a row, or the rows of one account, are passed over; a worker on the same account wins some of them.
pub const CONFLICTS_MAX: u32 = 100;

/// Rows that are tried in one transaction.
pub struct Part<T> {
    /// Which.
    pub items: Vec<T>,
    /// [`Locking::Wait`] only where all rows are about one account: nobody else's is locked meanwhile.
    pub locking: Locking,
    tries: u32,
}

/// What a committed part left out, with the account that is the reason.
pub struct Tried<T> {
    /// Another writer changed the account first.
    pub lost: Vec<(AccountId, T)>,
    /// The account is locked.
    pub locked: Vec<(AccountId, T)>,
}

impl<T> Default for Tried<T> {
    fn default() -> Self {
        Self { lost: Vec::new(), locked: Vec::new() }
    }
}

impl<T> Tried<T> {
    /// Notes what is not settled; returns the outcome of what is.
    pub fn note(&mut self, fate: Fate, item: T) -> Option<Outcome> {
        match fate {
            Fate::Settled(outcome) => return Some(outcome),
            Fate::Lost(account_id) => self.lost.push((account_id, item)),
            Fate::Locked(account_id) => self.locked.push((account_id, item)),
        }
        None
    }
}

/// A row that was not written.
#[derive(Debug)]
pub struct PassedOver<T> {
    /// Which.
    pub item: T,
    /// Why it could not be written.
    pub cause: StoreError,
}

/// What is left to be tried. Its user tries what [`Parts::next_part`] gives, and says in [`Parts::tried`] what came of it, until nothing is left.
pub struct Parts<T> {
    left: Vec<Part<T>>,
    locked: HashMap<AccountId, Vec<T>>,
    waits_left: usize,
    passed_over: Vec<PassedOver<T>>,
}

impl<T> Parts<T> {
    /// `waits_max`: accounts that are waited for at the end, one after another, each for at most one lock wait where it stays locked. Which
    /// of more they are, is left to chance.
    pub fn new(items: Vec<T>, waits_max: usize) -> Self {
        let mut parts =
            Self { left: Vec::new(), locked: HashMap::new(), waits_left: waits_max, passed_over: Vec::new() };
        parts.push(items, Locking::Skip, 0);
        parts
    }

    /// What to try next, in a transaction of its own.
    pub fn next_part(&mut self) -> Option<Part<T>> {
        if let Some(part) = self.left.pop() {
            return Some(part);
        }
        self.waits_left = self.waits_left.checked_sub(1)?;
        let account_id = self.locked.keys().next().cloned()?;
        let items = self.locked.remove(&account_id)?;
        Some(Part { items, locking: Locking::Wait, tries: 0 })
    }

    /// What came of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Unfit`], which are nobody's: the others would fail too.
    pub fn tried(
        &mut self,
        Part { items, locking, tries }: Part<T>,
        tried: Result<Tried<T>, StoreError>,
    ) -> Result<(), StoreError> {
        match tried {
            Ok(Tried { lost, locked }) => {
                match locking {
                    Locking::Skip if tries < TRIES_TOGETHER_MAX => {
                        self.push(lost.into_iter().map(|(_, item)| item).collect(), locking, tries + 1);
                        self.set_aside(locked);
                    }
                    Locking::Skip => self.set_aside(lost.into_iter().chain(locked)),
                    // What one account is tied to by a transfer is not waited for, but tried again.
                    Locking::Wait => {
                        let again = lost.into_iter().chain(locked).map(|(_, item)| item).collect();
                        self.again(again, locking, tries + 1, &locked_words());
                    }
                }
            }
            Err(cause @ StoreError::Conflict(_)) => self.again(items, locking, tries + 1, &cause),
            Err(cause @ (StoreError::Blocked(_) | StoreError::Refused(_))) => {
                self.split(items, locking, &cause);
            }
            Err(cause @ (StoreError::Unavailable(_) | StoreError::Unfit(_))) => return Err(cause),
        }
        Ok(())
    }

    /// What could not be written now.
    pub fn passed_over(mut self) -> Vec<PassedOver<T>> {
        for items in std::mem::take(&mut self.locked).into_values() {
            self.pass_over(items, &locked_words());
        }
        self.passed_over
    }

    fn push(&mut self, items: Vec<T>, locking: Locking, tries: u32) {
        if !items.is_empty() {
            self.left.push(Part { items, locking, tries });
        }
    }

    fn set_aside(&mut self, items: impl IntoIterator<Item = (AccountId, T)>) {
        for (account_id, item) in items {
            self.locked.entry(account_id).or_default().push(item);
        }
    }

    fn again(&mut self, items: Vec<T>, locking: Locking, tries: u32, cause: &StoreError) {
        let is_together = locking == Locking::Skip && items.len() > 1;
        if tries <= if is_together { TRIES_TOGETHER_MAX } else { CONFLICTS_MAX } {
            self.push(items, locking, tries);
        } else if is_together {
            self.split(items, locking, cause);
        } else {
            self.pass_over(items, cause);
        }
    }

    fn split(&mut self, mut items: Vec<T>, locking: Locking, cause: &StoreError) {
        let waited = locking == Locking::Wait && matches!(cause, StoreError::Blocked(_));
        if items.len() < 2 || waited {
            return self.pass_over(items, cause);
        }
        let second = items.split_off(items.len() / 2);
        self.push(second, locking, 0);
        self.push(items, locking, 0);
    }

    fn pass_over(&mut self, items: Vec<T>, cause: &StoreError) {
        let cause = |item| PassedOver { item, cause: cause.clone() };
        self.passed_over.extend(items.into_iter().map(cause));
    }
}

fn locked_words() -> StoreError {
    StoreError::Blocked("somebody has its account locked, or changes it all the time".to_owned())
}
