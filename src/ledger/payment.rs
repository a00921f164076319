//! One payment's life: which callback may move it from which state, and the money each move takes.
//!
//! The drawing of this machine is in `docs/architecture.md`. A late callback never moves a payment backwards.

use super::{AccountId, Callback, Currency, Kind, Reason};

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentState {
    /// Nothing is known of it yet. Never stored.
    Expected,
    /// A hold is open; part of it may be captured.
    Authorized,
    /// All of it, or a part marked final, is captured; nothing is held.
    Captured,
    /// Debited at once, without a hold.
    Succeeded,
    /// The rest of the hold is released. Also the tombstone of a payment whose void came before its authorization.
    Voided,
    /// Closed by a failure. Also the tombstone of a payment whose failure came before its authorization.
    Failed,
}

impl PaymentState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Expected, Self::Authorized, Self::Captured, Self::Succeeded, Self::Voided, Self::Failed];

    /// The `payments.state` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Authorized => "authorized",
            Self::Captured => "captured",
            Self::Succeeded => "succeeded",
            Self::Voided => "voided",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A payment as the ledger knows it. Sums are in minor units of `currency`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The account that pays.
    pub account_id: AccountId,
    /// The account's currency.
    pub currency: Currency,
    /// Where it stands.
    pub state: PaymentState,
    /// The amount of its authorization; 0 until that is seen, and for a direct debit.
    pub authorized: i64,
    /// Captured or debited so far.
    pub captured: i64,
    /// Refunded so far; never more than `captured`.
    pub refunded: i64,
    /// Grows with every change; 0 for a payment that has no row yet.
    pub version: i64,
}

/// What a callback does to its payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The payment becomes `after`, and the account changes by the deltas (minor units), if the account can bear them.
    Post { after: Payment, balance_delta: i64, held_delta: i64 },
    /// What it needs has not come yet.
    Wait,
    /// It can never be applied as it is.
    Refuse(Reason, String),
}

impl Payment {
    /// A payment nothing is known of.
    #[must_use]
    pub fn expected(account_id: AccountId, currency: Currency) -> Self {
        Self {
            account_id,
            currency,
            state: PaymentState::Expected,
            authorized: 0,
            captured: 0,
            refunded: 0,
            version: 0,
        }
    }

    /// Minor units still held for it.
    #[must_use]
    pub fn held(&self) -> i64 {
        match self.state {
            PaymentState::Authorized => self.authorized.saturating_sub(self.captured),
            PaymentState::Expected
            | PaymentState::Captured
            | PaymentState::Succeeded
            | PaymentState::Voided
            | PaymentState::Failed => 0,
        }
    }

    /// What `callback` does here. The caller has matched account and currency.
    pub(super) fn step(&self, callback: &Callback) -> Step {
        match callback.kind {
            Kind::DepositSucceeded => Step::Post {
                after: self.clone(),
                balance_delta: callback.amount.minor_units(),
                held_delta: 0,
            },
            Kind::PaymentAuthorized => self.authorize(callback),
            Kind::PaymentCaptured => self.capture(callback),
            Kind::PaymentVoided => self.close(callback, PaymentState::Voided),
            Kind::PaymentFailed => self.close(callback, PaymentState::Failed),
            Kind::PaymentSucceeded => self.debit(callback),
            Kind::RefundSucceeded => self.refund(callback),
        }
    }

    fn authorize(&self, callback: &Callback) -> Step {
        let amount = callback.amount.minor_units();
        match self.state {
            PaymentState::Expected => Step::Post {
                after: Self { state: PaymentState::Authorized, authorized: amount, ..self.clone() },
                balance_delta: 0,
                held_delta: amount,
            },
            // The try that comes after its cancel (TCC suspension): recorded, holds nothing.
            PaymentState::Voided | PaymentState::Failed if self.authorized == 0 => Step::Post {
                after: Self { authorized: amount, ..self.clone() },
                balance_delta: 0,
                held_delta: 0,
            },
            PaymentState::Authorized
            | PaymentState::Captured
            | PaymentState::Succeeded
            | PaymentState::Voided
            | PaymentState::Failed => self.invalid(callback),
        }
    }

    fn capture(&self, callback: &Callback) -> Step {
        let amount = callback.amount.minor_units();
        // A partial capture can come after the one marked final: it was made before, so it still counts, but the hold it
        // would have taken is gone and the available balance must cover it.
        let hold_is_open = match self.state {
            PaymentState::Expected => return Step::Wait,
            PaymentState::Authorized => true,
            PaymentState::Captured => false,
            PaymentState::Succeeded | PaymentState::Voided | PaymentState::Failed => {
                return self.invalid(callback);
            }
        };
        let Some(captured) = self.captured.checked_add(amount).filter(|sum| *sum <= self.authorized) else {
            return Step::Refuse(
                Reason::OverCapture,
                format!(
                    "authorized {}, captured so far {}, this capture {amount}",
                    self.authorized, self.captured
                ),
            );
        };
        let rest = self.authorized.saturating_sub(captured);
        let closes = callback.is_final || rest == 0 || !hold_is_open;
        let released = if callback.is_final { rest } else { 0 };
        Step::Post {
            after: Self {
                state: if closes { PaymentState::Captured } else { PaymentState::Authorized },
                captured,
                ..self.clone()
            },
            balance_delta: amount.saturating_neg(),
            held_delta: if hold_is_open { amount.saturating_add(released).saturating_neg() } else { 0 },
        }
    }

    /// A void or a failure: releases what is held.
    fn close(&self, callback: &Callback, state: PaymentState) -> Step {
        match self.state {
            // The cancel that comes before its try (TCC empty rollback) leaves a tombstone for the late authorization.
            PaymentState::Expected | PaymentState::Authorized => Step::Post {
                after: Self { state, ..self.clone() },
                balance_delta: 0,
                held_delta: self.held().saturating_neg(),
            },
            PaymentState::Captured
            | PaymentState::Succeeded
            | PaymentState::Voided
            | PaymentState::Failed => self.invalid(callback),
        }
    }

    fn debit(&self, callback: &Callback) -> Step {
        let amount = callback.amount.minor_units();
        match self.state {
            PaymentState::Expected => Step::Post {
                after: Self { state: PaymentState::Succeeded, captured: amount, ..self.clone() },
                balance_delta: amount.saturating_neg(),
                held_delta: 0,
            },
            PaymentState::Authorized
            | PaymentState::Captured
            | PaymentState::Succeeded
            | PaymentState::Voided
            | PaymentState::Failed => self.invalid(callback),
        }
    }

    fn refund(&self, callback: &Callback) -> Step {
        let amount = callback.amount.minor_units();
        let refunded = self.refunded.saturating_add(amount);
        // While captures can still come, one that covers this refund may be on its way.
        let capturable = match self.state {
            PaymentState::Expected => return Step::Wait,
            PaymentState::Authorized | PaymentState::Captured => self.authorized,
            PaymentState::Succeeded | PaymentState::Voided | PaymentState::Failed => self.captured,
        };
        if refunded <= self.captured {
            Step::Post { after: Self { refunded, ..self.clone() }, balance_delta: amount, held_delta: 0 }
        } else if refunded <= capturable {
            Step::Wait
        } else {
            Step::Refuse(
                Reason::OverRefund,
                format!(
                    "captured {}, refunded so far {}, this refund {amount}",
                    self.captured, self.refunded
                ),
            )
        }
    }

    fn invalid(&self, callback: &Callback) -> Step {
        Step::Refuse(
            Reason::InvalidTransition,
            format!("the payment is {}, {} cannot follow", self.state.as_str(), callback.kind.as_str()),
        )
    }
}
