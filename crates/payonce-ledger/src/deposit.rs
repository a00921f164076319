//! What is known of one deposit, and the money that follows from it: sums that only grow, as those of a payment.

use super::{AccountId, Callback, Currency, Kind, Reason, payment::Obstacle};

/// A sum that grows by amounts, or by running totals of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Running {
    /// Sum of the amounts, minor units.
    pub sum: i64,
    /// The highest running total, minor units.
    pub total: i64,
}

impl Running {
    /// What it comes to, minor units.
    #[must_use]
    pub fn minor_units(self) -> i64 {
        self.sum.max(self.total)
    }

    fn add(&mut self, callback: &Callback) -> Result<(), Obstacle> {
        let amount = callback.amount.minor_units();
        // Captures and refunds can be running totals; that of a deposit which comes alone could not be told from its amount.
        if callback.is_cumulative && callback.kind != Kind::DepositSucceeded {
            self.total = self.total.max(amount);
            return Ok(());
        }
        self.sum = self.sum.checked_add(amount).ok_or_else(|| {
            Obstacle::Refused(
                Reason::AmountOverflow,
                format!(
                    "the sum {}, this {}",
                    callback.currency.money(self.sum),
                    callback.currency.money(amount)
                ),
            )
        })?;
        Ok(())
    }
}

/// Ledger rows that one deposit may have, its own included. Each callback that takes it back or gives it back reads them all; a provider
/// that gives one payment id to everything must not make that the whole ledger.
pub const DEPOSIT_ROWS_MAX: i64 = 10_000;

/// Money that came in under one payment id, and its way back. Read from the ledger's rows, not stored by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deposit {
    /// The account that it went to.
    pub account_id: AccountId,
    /// The account's currency.
    pub currency: Currency,
    /// What came.
    pub brought: Running,
    /// What went back.
    pub refunded: Running,
    /// What was taken back.
    pub disputed: Running,
    /// What of both came again.
    pub reinstated: Running,
    /// Whether it has more than [`DEPOSIT_ROWS_MAX`] ledger rows, so that the sums are not those of all.
    pub is_too_long: bool,
}

impl Deposit {
    /// A deposit nothing is known of.
    #[must_use]
    pub fn expected(account_id: AccountId, currency: Currency) -> Self {
        let none = Running::default();
        Self {
            account_id,
            currency,
            brought: none,
            refunded: none,
            disputed: none,
            reinstated: none,
            is_too_long: false,
        }
    }

    /// The sum that callbacks of this kind add to; `None` for one that is no deposit's.
    #[must_use]
    pub fn sum_of(&mut self, kind: Kind) -> Option<&mut Running> {
        match kind {
            Kind::DepositSucceeded => Some(&mut self.brought),
            Kind::DepositRefunded => Some(&mut self.refunded),
            Kind::DepositDisputed => Some(&mut self.disputed),
            Kind::DepositReinstated => Some(&mut self.reinstated),
            Kind::PaymentAuthorized
            | Kind::PaymentAuthorizationAdjusted
            | Kind::PaymentCaptured
            | Kind::PaymentCaptureFailed
            | Kind::PaymentVoided
            | Kind::PaymentSucceeded
            | Kind::PaymentFailed
            | Kind::RefundSucceeded
            | Kind::RefundFailed
            | Kind::FeeCharged
            | Kind::TransferSucceeded
            | Kind::AdjustmentPosted => None,
        }
    }

    /// The deposit with this callback's amount added.
    pub(super) fn add(&self, callback: &Callback) -> Result<Self, Obstacle> {
        let mut deposit = self.clone();
        if let Some(sum) = deposit.sum_of(callback.kind) {
            sum.add(callback)?;
        }
        Ok(deposit)
    }

    fn taken(&self) -> i64 {
        self.refunded.minor_units().saturating_add(self.disputed.minor_units())
    }

    /// What it has changed so far of its account's balance, minor units.
    #[must_use]
    pub fn effect(&self) -> i64 {
        let came = self.brought.minor_units().saturating_add(self.reinstated.minor_units());
        came.saturating_sub(self.taken())
    }

    /// Whether what was taken back is within what came, and what came again within what was taken.
    pub(super) fn check_bounds(&self, currency: Currency) -> Result<(), Obstacle> {
        if self.is_too_long {
            let detail = format!(
                "its payment_id has over {DEPOSIT_ROWS_MAX} rows of deposits: one id for many payments? Put it right by `payonce adjust`"
            );
            return Err(Obstacle::Refused(Reason::InvalidTransition, detail));
        }
        let (brought, taken, reinstated) =
            (self.brought.minor_units(), self.taken(), self.reinstated.minor_units());
        if brought == 0 {
            return Err(Obstacle::Needs("its deposit"));
        }
        if taken.saturating_sub(reinstated) > brought || reinstated > taken {
            let [brought, taken, reinstated] =
                [brought, taken, reinstated].map(|units| currency.money(units));
            let detail = format!(
                "deposited {brought}, taken back {taken}, reinstated {reinstated}, this one included"
            );
            return Err(Obstacle::TooMuch(Reason::OverRefund, detail));
        }
        Ok(())
    }
}
