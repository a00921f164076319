//! A correction that a person posts to an account, and the callback that it is. What must not live here: who may post it.

use std::fmt;

use super::{
    AccountId, Amount, Callback, Currency, Direction, EventId, Fingerprint, Key, Kind, OPERATOR_SOURCE,
    Source, TextError,
};

/// An adjustment that a person wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// The event id of its ledger row: of one there is never a second.
    pub id: EventId,
    /// The account.
    pub account_id: AccountId,
    /// Whether the balance grows.
    pub direction: Direction,
    /// How much.
    pub amount: Amount,
    /// The account's currency.
    pub currency: Currency,
}

impl fmt::Display for Correction {
    /// In words, for the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, account_id, direction, amount, currency } = self;
        let (direction, amount) = (direction.as_str(), currency.money(amount.minor_units()));
        write!(f, "{direction} {amount}, account {account_id}, id {id}")
    }
}

impl Correction {
    /// The callback, from the source that no key of the queue can sign for (contract §2). `occurred_at_us`: microseconds since 1970.
    ///
    /// # Errors
    /// None that can happen: the source is a constant that fits.
    pub fn callback(&self, occurred_at_us: Option<i64>) -> Result<Callback, TextError> {
        Ok(Callback {
            key: Key { source: Source::new(OPERATOR_SOURCE)?, event_id: self.id.clone() },
            kind: Kind::AdjustmentPosted,
            account_id: Some(self.account_id.clone()),
            assigned_to: None,
            payment_id: None,
            operation_id: None,
            amount: self.amount,
            currency: self.currency,
            is_final: false,
            is_cumulative: false,
            expires_at_us: None,
            to: None,
            direction: Some(self.direction),
            reverses: None,
            occurred_at_us,
            fingerprint: Fingerprint([0; 32]),
        }
        .sealed())
    }
}
