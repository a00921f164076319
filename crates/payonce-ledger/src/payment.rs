//! What is known of one payment, and the money that follows from it.
//!
//! A payment is a set of sums and marks ([`Facts`]) that, but for the end of its hold, only ever grow, and the money it takes is a function of them alone
//! ([`Facts::effect`]). So the order in which callbacks come decides nothing: each adds its fact, and its ledger row moves the
//! difference. The tables of this file are drawn in `docs/payments.md`.

use super::{AccountId, Callback, Currency, Kind, Reason};

/// Where a payment stands, in one word for people: [`Facts::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentState {
    /// Nothing is known of it yet. Never stored.
    Expected,
    /// A hold is open; part of it may be captured.
    Authorized,
    /// All of it, or a part and no more, is captured; nothing is held.
    Captured,
    /// Debited at once, without a hold.
    Succeeded,
    /// Released, or given back. Also of a payment whose void came before its authorization or debit.
    Voided,
    /// Its time was up before it was captured.
    Expired,
    /// Only failed attempts are known.
    Failed,
}

impl PaymentState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Expected,
        Self::Authorized,
        Self::Captured,
        Self::Succeeded,
        Self::Voided,
        Self::Expired,
        Self::Failed,
    ];

    /// The `payments.state` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Authorized => "authorized",
            Self::Captured => "captured",
            Self::Succeeded => "succeeded",
            Self::Voided => "voided",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A new total for what is authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Adjustment {
    /// By the provider's clock, in microseconds since 1970-01-01T00:00:00Z. Of several the latest holds, of equal times the larger.
    pub at_us: i64,
    /// The new total, minor units.
    pub amount: i64,
}

/// All that is known of a payment. Sums are in minor units; none ever shrinks, and no mark but that of expiry is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Sum of its authorizations.
    pub authorizations: i64,
    /// The latest adjustment of them.
    pub adjusted: Option<Adjustment>,
    /// The highest adjustment, which may not be the latest.
    pub adjusted_max: i64,
    /// Sum of captures that say what they took.
    pub captures: i64,
    /// The highest running total that a capture named.
    pub captures_total: i64,
    /// Sum of captures that came back.
    pub captures_failed: i64,
    /// The direct debit.
    pub debited: i64,
    /// Sum of refunds that say what they gave.
    pub refunds: i64,
    /// The highest running total that a refund named.
    pub refunds_total: i64,
    /// Sum of refunds that came back.
    pub refunds_failed: i64,
    /// Sum of partial voids.
    pub released: i64,
    /// All that is left was released, or the debit given back.
    pub is_voided: bool,
    /// A capture said that it was the last.
    pub is_final: bool,
    /// payonce released the hold, because its time was up. The one mark that can be taken back: by an authorization with a later
    /// [`Facts::expires_at_us`].
    pub is_expired: bool,
    /// An attempt failed.
    pub has_failed: bool,
    /// When the hold's time is up: the latest that an authorization named. Microseconds since 1970-01-01T00:00:00Z.
    pub expires_at_us: Option<i64>,
}

/// Why a callback does not add to the facts as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A callback that it needs has not come.
    Needs(&'static str),
    /// It is more than is authorized or captured so far ([`Reason::OverCapture`], [`Reason::OverRefund`]).
    TooMuch(Reason, String),
    /// It can never be applied as it is.
    Refused(Reason, String),
}

impl Facts {
    /// Minor units captured, those that came back included.
    #[must_use]
    pub fn captured_ever(&self) -> i64 {
        self.captures.max(self.captures_total)
    }

    /// Minor units captured or debited; of captures, those that came back are taken off (`payments.captured`).
    #[must_use]
    pub fn captured(&self) -> i64 {
        self.captured_ever().saturating_sub(self.captures_failed).saturating_add(self.debited)
    }

    /// Minor units refunded; those that came back are taken off (`payments.refunded`).
    #[must_use]
    pub fn refunded(&self) -> i64 {
        self.refunds.max(self.refunds_total).saturating_sub(self.refunds_failed)
    }

    /// Minor units authorized: the latest adjustment, else the sum of the authorizations (`payments.authorized`).
    #[must_use]
    pub fn authorized(&self) -> i64 {
        self.adjusted.map_or(self.authorizations, |adjusted| adjusted.amount)
    }

    /// Minor units still held.
    #[must_use]
    pub fn held(&self) -> i64 {
        if self.is_voided || self.is_expired || self.is_final || self.authorizations == 0 {
            return 0;
        }
        self.authorized().saturating_sub(self.captured_ever()).saturating_sub(self.released).max(0)
    }

    /// What the payment has changed so far of its account's balance and hold, minor units.
    #[must_use]
    pub fn effect(&self) -> (i64, i64) {
        let balance = if self.debited == 0 {
            // Of a debit that has not come nothing is given back yet; a refund that is known before it counts as itself.
            self.refunded().saturating_sub(self.captured())
        } else if self.is_voided {
            0
        } else {
            let kept = self.debited.saturating_sub(self.refunded());
            self.released.min(kept.max(0)).saturating_sub(kept)
        };
        (balance, self.held())
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> PaymentState {
        let is_closed = self.is_voided || self.is_expired || self.is_final;
        let is_used_up = self.authorizations > 0
            && self.captured_ever().saturating_add(self.released) >= self.authorized();
        if self.debited > 0 {
            if self.is_voided { PaymentState::Voided } else { PaymentState::Succeeded }
        } else if self.authorizations > 0 && !is_closed && !is_used_up {
            PaymentState::Authorized
        } else if self.captured() > 0 {
            PaymentState::Captured
        } else if self.is_expired && !self.is_voided {
            PaymentState::Expired
        } else if is_closed || is_used_up || self.released > 0 {
            PaymentState::Voided
        } else if self.has_failed {
            PaymentState::Failed
        } else {
            PaymentState::Expected
        }
    }

    /// Whether what this callback needs is known. `reversed`: the amount of the movement that it takes back, where that is known.
    pub(super) fn check_needs(&self, callback: &Callback, reversed: Option<i64>) -> Result<(), Obstacle> {
        match callback.kind {
            Kind::PaymentAuthorized => self.refuse_second_kind(self.debited > 0, callback),
            Kind::PaymentAuthorizationAdjusted | Kind::PaymentCaptured => {
                self.refuse_second_kind(self.debited > 0, callback)?;
                if self.authorizations > 0 { Ok(()) } else { Err(Obstacle::Needs("its authorization")) }
            }
            Kind::PaymentCaptureFailed => within_reversed(callback, reversed, "the capture with its operation_id"),
            Kind::PaymentSucceeded => {
                self.refuse_second_kind(self.authorizations > 0 || self.debited > 0, callback)
            }
            Kind::RefundSucceeded => {
                let is_known = self.authorizations > 0 || self.debited > 0;
                if is_known { Ok(()) } else { Err(Obstacle::Needs("its capture or debit")) }
            }
            Kind::RefundFailed => within_reversed(callback, reversed, "the refund with its operation_id"),
            // A void before its authorization or debit is kept, and that one, when it comes, takes nothing (the empty rollback and
            // the suspended try of the TCC literature).
            Kind::PaymentVoided
            | Kind::PaymentFailed
            // These belong to no payment.
            | Kind::DepositSucceeded
            | Kind::DepositRefunded
            | Kind::DepositDisputed
            | Kind::DepositReinstated
            | Kind::FeeCharged
            | Kind::TransferSucceeded
            | Kind::AdjustmentPosted => Ok(()),
        }
    }

    /// The facts with this callback's added. Adding commutes: any order gives the same facts.
    pub(super) fn add(&self, callback: &Callback) -> Result<Self, Obstacle> {
        let amount = callback.amount.minor_units();
        let mut facts = *self;
        let added = |sum: i64| {
            sum.checked_add(amount).ok_or_else(|| {
                Obstacle::Refused(
                    Reason::AmountOverflow,
                    format!(
                        "the payment's sum {}, this {}",
                        callback.currency.money(sum),
                        callback.currency.money(amount)
                    ),
                )
            })
        };
        match callback.kind {
            Kind::PaymentAuthorized => {
                facts.authorizations = added(self.authorizations)?;
                facts.expires_at_us = self.expires_at_us.max(callback.expires_at_us);
                // Whether the time of the whole was up before a later end came, or after, is chance.
                let is_put_off = self.expires_at_us.is_some() && facts.expires_at_us > self.expires_at_us;
                facts.is_expired &= !is_put_off;
            }
            Kind::PaymentAuthorizationAdjusted => {
                // The wire refuses an adjustment without a time.
                let adjustment = Adjustment { at_us: callback.occurred_at_us.unwrap_or(i64::MIN), amount };
                facts.adjusted = self.adjusted.max(Some(adjustment));
                facts.adjusted_max = self.adjusted_max.max(amount);
            }
            Kind::PaymentCaptured => {
                if callback.is_cumulative {
                    facts.captures_total = self.captures_total.max(amount);
                } else {
                    facts.captures = added(self.captures)?;
                }
                facts.is_final |= callback.is_final;
            }
            Kind::PaymentCaptureFailed => facts.captures_failed = added(self.captures_failed)?,
            Kind::PaymentVoided if callback.is_expiry() => {
                facts.is_expired |= callback.occurred_at_us >= self.expires_at_us;
            }
            Kind::PaymentVoided if callback.is_final => facts.is_voided = true,
            Kind::PaymentVoided => facts.released = added(self.released)?,
            Kind::PaymentSucceeded => facts.debited = added(self.debited)?,
            Kind::PaymentFailed => facts.has_failed = true,
            Kind::RefundSucceeded if callback.is_cumulative => {
                facts.refunds_total = self.refunds_total.max(amount);
            }
            Kind::RefundSucceeded => facts.refunds = added(self.refunds)?,
            Kind::RefundFailed => facts.refunds_failed = added(self.refunds_failed)?,
            Kind::DepositSucceeded
            | Kind::DepositRefunded
            | Kind::DepositDisputed
            | Kind::DepositReinstated
            | Kind::FeeCharged
            | Kind::TransferSucceeded
            | Kind::AdjustmentPosted => {}
        }
        Ok(facts)
    }

    /// Whether the sums stay within their bounds: captures within the highest total ever authorized (and `over_capture_percent` of it
    /// more; `None`: they are not asked about), refunds within all that was ever captured or debited, and what came back of either within it. The bounds only grow, so what is too much now may fit later.
    pub(super) fn check_bounds(
        &self,
        over_capture_percent: Option<u32>,
        currency: Currency,
    ) -> Result<(), Obstacle> {
        let money = |minor_units: i64| currency.money(minor_units);
        let authorized = i128::from(self.authorizations.max(self.adjusted_max));
        let capturable = over_capture_percent.map(|percent| authorized * (100 + i128::from(percent)) / 100);
        let captured = self.captured_ever().saturating_sub(self.captures_failed);
        if capturable.is_some_and(|capturable| i128::from(captured) > capturable) {
            let detail = format!(
                "authorized {}, captured with this one {}",
                currency.money(authorized),
                money(captured)
            );
            return Err(Obstacle::TooMuch(Reason::OverCapture, detail));
        }
        if captured < 0 {
            let (ever, failed) = (self.captured_ever(), self.captures_failed);
            let detail = format!("captured {}, taken back with this one {}", money(ever), money(failed));
            return Err(Obstacle::TooMuch(Reason::OverRefund, detail));
        }
        let refundable = self.captured_ever().saturating_add(self.debited);
        if self.refunded() > refundable {
            let detail =
                format!("captured {}, refunded with this one {}", money(refundable), money(self.refunded()));
            return Err(Obstacle::TooMuch(Reason::OverRefund, detail));
        }
        if self.refunded() < 0 {
            let (ever, failed) = (self.refunds.max(self.refunds_total), self.refunds_failed);
            let detail = format!("refunded {}, taken back with this one {}", money(ever), money(failed));
            return Err(Obstacle::TooMuch(Reason::OverRefund, detail));
        }
        Ok(())
    }

    fn refuse_second_kind(&self, is_of_the_other: bool, callback: &Callback) -> Result<(), Obstacle> {
        if !is_of_the_other {
            return Ok(());
        }
        let state = self.state().as_str();
        let detail = format!("the payment is {state}, {} cannot be part of it", callback.kind.as_str());
        Err(Obstacle::Refused(Reason::InvalidTransition, detail))
    }
}

/// What comes back is known, and no less than this.
pub(super) fn within_reversed(
    callback: &Callback,
    reversed: Option<i64>,
    what: &'static str,
) -> Result<(), Obstacle> {
    let amount = callback.amount.minor_units();
    match reversed {
        None => Err(Obstacle::Needs(what)),
        Some(reversed) if reversed < amount => Err(Obstacle::Refused(
            Reason::InvalidTransition,
            format!(
                "{what} was of {}, this is of {}",
                callback.currency.money(reversed),
                callback.currency.money(amount)
            ),
        )),
        Some(_) => Ok(()),
    }
}

/// A payment as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The account that pays.
    pub account_id: AccountId,
    /// The account's currency.
    pub currency: Currency,
    /// What is known of it.
    pub facts: Facts,
    /// Grows with every change; 0 for a payment that has no row yet.
    pub version: i64,
}

impl Facts {
    /// What `payments.state` and the three sums say by themselves. Rows of most payments store no more; those of versions before
    /// 0.2 say that a failure has closed the payment, and it stays closed.
    #[must_use]
    pub fn plain(state: PaymentState, authorized: i64, captured: i64, refunded: i64) -> Self {
        let sums =
            Self { authorizations: authorized, captures: captured, refunds: refunded, ..Self::default() };
        match state {
            PaymentState::Expected | PaymentState::Authorized => sums,
            PaymentState::Captured => Self { is_final: captured < authorized, ..sums },
            PaymentState::Succeeded => Self { captures: 0, debited: captured, ..sums },
            PaymentState::Voided => Self { is_voided: true, ..sums },
            PaymentState::Expired => Self { is_expired: true, ..sums },
            PaymentState::Failed => Self { has_failed: true, is_voided: authorized > 0, ..sums },
        }
    }

    /// Whether [`Facts::plain`] gives these facts back.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        Self::plain(self.state(), self.authorized(), self.captured(), self.refunded()) == *self
    }
}
