//! An account and the only arithmetic that changes it.

use super::Currency;

/// Whether an account takes part (`accounts.status`). Set by operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AccountStatus {
    /// It takes everything.
    #[default]
    Open,
    /// It takes what has happened already, and credits; nothing that needs available money.
    Frozen,
    /// It takes nothing that moves its money.
    Closed,
}

impl AccountStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Open, Self::Frozen, Self::Closed];

    /// The `accounts.status` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Frozen => "frozen",
            Self::Closed => "closed",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// An account as the ledger knows it. Invariant: `0 ≤ held`. What is available (`balance − held`) is below zero only as a debt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The currency of the deposit that opened it.
    pub currency: Currency,
    /// Minor units; negative where the account owes.
    pub balance: i64,
    /// Minor units of the balance that authorizations hold.
    pub held: i64,
    /// Grows by one per ledger row; 0 for an account that has none yet.
    pub version: i64,
    /// Grows by one per new quarantine case about it. A second guard: of two concurrent writers that decide copies of one
    /// callback, one to apply it and one to quarantine it, the later sees that the account is not what it decided on.
    pub cases: i64,
    /// Whether it takes part.
    pub status: AccountStatus,
}

/// Why a change of an account is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The balance would not fit in 64 bits.
    Overflow,
    /// Less is available (balance − held) than the change needs.
    Insufficient {
        /// Minor units that are available.
        available: i64,
        /// Minor units that the change takes of them.
        needed: i64,
    },
    /// The account's status does not allow it.
    Status(AccountStatus),
}

impl Account {
    /// An account before its first deposit, of which so many cases are quarantined.
    #[must_use]
    pub fn unopened(currency: Currency, cases: i64) -> Self {
        Self { currency, balance: 0, held: 0, version: 0, cases, status: AccountStatus::Open }
    }

    /// The account after one more ledger row with these deltas, in minor units. What is available may go below zero only where
    /// `may_leave_debt`, or where the row does not lower it (contract §2, debts).
    ///
    /// # Errors
    /// [`Refusal`] where a rule forbids it; the account is then unchanged.
    pub fn post(&self, balance_delta: i64, held_delta: i64, may_leave_debt: bool) -> Result<Self, Refusal> {
        let balance = self.balance.checked_add(balance_delta).ok_or(Refusal::Overflow)?;
        let version = self.version.checked_add(1).ok_or(Refusal::Overflow)?;
        let held = self.held.checked_add(held_delta).filter(|held| *held >= 0).ok_or(Refusal::Overflow)?;
        // What is owed must fit as well.
        let after = balance.checked_sub(held).filter(|after| *after > i64::MIN).ok_or(Refusal::Overflow)?;
        let before = self.available();
        let takes_available = after < before && !may_leave_debt;
        match self.status {
            AccountStatus::Open => {}
            AccountStatus::Frozen if !takes_available => {}
            AccountStatus::Closed if balance_delta == 0 && held_delta <= 0 => {}
            AccountStatus::Frozen | AccountStatus::Closed => return Err(Refusal::Status(self.status)),
        }
        if after < 0 && takes_available {
            return Err(Refusal::Insufficient { available: before, needed: before.saturating_sub(after) });
        }
        Ok(Self { balance, held, version, ..*self })
    }

    /// Minor units that a debit or a hold may take; negative where the account is in debt.
    #[must_use]
    pub fn available(&self) -> i64 {
        // No row is written whose difference would not fit; saturation keeps a corrupted row from panicking a worker.
        self.balance.saturating_sub(self.held)
    }
}
