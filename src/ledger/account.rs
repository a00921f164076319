//! An account and the only arithmetic that changes it.

use super::Currency;

/// An account as the ledger knows it. Invariant: `0 ≤ held ≤ balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The currency of the deposit that opened it.
    pub currency: Currency,
    /// Minor units, never negative.
    pub balance: i64,
    /// Minor units of the balance that authorizations hold.
    pub held: i64,
    /// Grows by one per ledger row; 0 for an account that has none yet.
    pub version: i64,
    /// Grows by one per new quarantine case about it. A second guard: of two rivals that decide copies of one callback at the
    /// same time, one to apply it and one to quarantine it, the later sees that the account is not what it decided on.
    pub cases: i64,
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
    },
}

impl Account {
    /// An account before its first deposit, of which so many cases are quarantined.
    #[must_use]
    pub fn unopened(currency: Currency, cases: i64) -> Self {
        Self { currency, balance: 0, held: 0, version: 0, cases }
    }

    /// The account after one more ledger row with these deltas, in minor units.
    ///
    /// # Errors
    /// [`Refusal`] where the row would break `0 ≤ held ≤ balance` or leave 64 bits; the account is then unchanged.
    pub fn post(&self, balance_delta: i64, held_delta: i64) -> Result<Self, Refusal> {
        let balance = self.balance.checked_add(balance_delta).ok_or(Refusal::Overflow)?;
        let version = self.version.checked_add(1).ok_or(Refusal::Overflow)?;
        // A hold that does not fit in 64 bits is more than any balance.
        match self.held.checked_add(held_delta) {
            Some(held) if 0 <= held && held <= balance => Ok(Self { balance, held, version, ..*self }),
            Some(_) | None => Err(Refusal::Insufficient { available: self.available() }),
        }
    }

    /// Minor units that a debit or a hold may take.
    #[must_use]
    pub fn available(&self) -> i64 {
        // The invariant makes this difference exact; saturation keeps a corrupted row from panicking a worker.
        self.balance.saturating_sub(self.held)
    }
}
