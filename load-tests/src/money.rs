//! Contract §2 as arithmetic of the load tests' own: what is known of a payment or a deposit, and what follows for its account. The audit
//! and the textbook consumer count with it.
//!
//! What must not live here: anything of payonce's.

/// What a callback reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Deposit,
    DepositRefunded,
    DepositDisputed,
    DepositReinstated,
    Authorized,
    Adjusted,
    Captured,
    CaptureFailed,
    Voided,
    Succeeded,
    Failed,
    Refunded,
    RefundFailed,
    Fee,
    Transfer,
}

/// Each kind with its `type` member.
const NAMES: [(Kind, &str); 15] = [
    (Kind::Deposit, "deposit.succeeded"),
    (Kind::DepositRefunded, "deposit.refunded"),
    (Kind::DepositDisputed, "deposit.disputed"),
    (Kind::DepositReinstated, "deposit.reinstated"),
    (Kind::Authorized, "payment.authorized"),
    (Kind::Adjusted, "payment.authorization_adjusted"),
    (Kind::Captured, "payment.captured"),
    (Kind::CaptureFailed, "payment.capture_failed"),
    (Kind::Voided, "payment.voided"),
    (Kind::Succeeded, "payment.succeeded"),
    (Kind::Failed, "payment.failed"),
    (Kind::Refunded, "refund.succeeded"),
    (Kind::RefundFailed, "refund.failed"),
    (Kind::Fee, "fee.charged"),
    (Kind::Transfer, "transfer.succeeded"),
];

/// Every kind.
#[cfg(test)]
pub const KINDS: [Kind; 15] = {
    let mut kinds = [Kind::Deposit; 15];
    let mut at = 0;
    while at < NAMES.len() {
        kinds[at] = NAMES[at].0;
        at += 1;
    }
    kinds
};

impl Kind {
    /// The `type` member.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    pub fn of_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// Whether its payment is money that came in.
    pub fn is_of_deposit(self) -> bool {
        matches!(
            self,
            Self::Deposit | Self::DepositRefunded | Self::DepositDisputed | Self::DepositReinstated
        )
    }

    /// Whether it is part of a payment that the table `payments` shows.
    pub fn is_of_payment(self) -> bool {
        !self.is_of_deposit() && !matches!(self, Self::Fee | Self::Transfer)
    }

    /// Whether it may take available money below zero.
    pub fn may_leave_debt(self) -> bool {
        matches!(self, Self::DepositRefunded | Self::DepositDisputed | Self::RefundFailed | Self::Fee)
    }

    /// The kind of the movement that it takes back.
    pub fn takes_back(self) -> Option<Self> {
        match self {
            Self::CaptureFailed => Some(Self::Captured),
            Self::RefundFailed => Some(Self::Refunded),
            Self::Deposit
            | Self::DepositRefunded
            | Self::DepositDisputed
            | Self::DepositReinstated
            | Self::Authorized
            | Self::Adjusted
            | Self::Captured
            | Self::Voided
            | Self::Succeeded
            | Self::Failed
            | Self::Refunded
            | Self::Fee
            | Self::Transfer => None,
        }
    }
}

/// What of a callback counts for its payment or deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    pub kind: Kind,
    /// Minor units.
    pub amount: i64,
    /// A capture after which the rest is released; a void of all that is left.
    pub is_final: bool,
    /// The amount is the running total of its kind.
    pub is_cumulative: bool,
    /// By the provider's clock; of several adjustments the latest holds.
    pub at_s: i64,
}

/// A sum that grows by amounts, or by running totals of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Running {
    sum: i64,
    total: i64,
}

impl Running {
    fn add(&mut self, fact: Fact) {
        if fact.is_cumulative {
            self.total = self.total.max(fact.amount);
        } else {
            self.sum += fact.amount;
        }
    }

    fn get(self) -> i64 {
        self.sum.max(self.total)
    }
}

/// What is known of a payment, whatever the order in which it became known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payment {
    holds: i64,
    /// (time, total) of the latest adjustment.
    adjusted: Option<(i64, i64)>,
    adjusted_max: i64,
    captures: Running,
    captures_back: i64,
    debit: i64,
    refunds: Running,
    refunds_back: i64,
    released: i64,
    is_voided: bool,
    is_final: bool,
    has_failed: bool,
    /// payonce released the hold because its time was up.
    pub is_expired: bool,
}

impl Payment {
    pub fn add(&mut self, fact: Fact) {
        match fact.kind {
            Kind::Authorized => self.holds += fact.amount,
            Kind::Adjusted => {
                self.adjusted = self.adjusted.max(Some((fact.at_s, fact.amount)));
                self.adjusted_max = self.adjusted_max.max(fact.amount);
            }
            Kind::Captured => {
                self.captures.add(fact);
                self.is_final |= fact.is_final;
            }
            Kind::CaptureFailed => self.captures_back += fact.amount,
            Kind::Voided if fact.is_final => self.is_voided = true,
            Kind::Voided => self.released += fact.amount,
            Kind::Succeeded => self.debit += fact.amount,
            Kind::Failed => self.has_failed = true,
            Kind::Refunded => self.refunds.add(fact),
            Kind::RefundFailed => self.refunds_back += fact.amount,
            Kind::Deposit
            | Kind::DepositRefunded
            | Kind::DepositDisputed
            | Kind::DepositReinstated
            | Kind::Fee
            | Kind::Transfer => {}
        }
    }

    /// The column of this name.
    pub fn authorized(&self) -> i64 {
        self.adjusted.map_or(self.holds, |(_, total)| total)
    }

    /// The column of this name.
    pub fn captured(&self) -> i64 {
        self.captures.get() - self.captures_back + self.debit
    }

    /// The column of this name.
    pub fn refunded(&self) -> i64 {
        self.refunds.get() - self.refunds_back
    }

    /// What it still holds of its account.
    pub fn held(&self) -> i64 {
        if self.holds == 0 || self.is_voided || self.is_expired || self.is_final {
            return 0;
        }
        (self.authorized() - self.captures.get() - self.released).max(0)
    }

    /// What it has changed of its account's balance.
    pub fn balance(&self) -> i64 {
        if self.debit == 0 {
            return self.refunded() - self.captured();
        }
        if self.is_voided {
            return 0;
        }
        // Between two of several rows that only fit together more can be refunded than debited.
        let kept = self.debit - self.refunded();
        -(kept - self.released).max(kept.min(0))
    }

    /// The most that it may have taken of its account at any time.
    pub fn takes_at_most(&self) -> i64 {
        self.holds.max(self.adjusted_max) + self.debit + self.refunds_back
    }

    /// The column of this name.
    pub fn state(&self) -> &'static str {
        let is_closed = self.is_voided || self.is_expired || self.is_final;
        let is_used_up = self.holds > 0 && self.captures.get() + self.released >= self.authorized();
        if self.debit > 0 {
            return if self.is_voided { "voided" } else { "succeeded" };
        }
        if self.holds > 0 && !is_closed && !is_used_up {
            return "authorized";
        }
        if self.captured() > 0 {
            return "captured";
        }
        if self.is_expired && !self.is_voided {
            return "expired";
        }
        if is_closed || is_used_up || self.released > 0 {
            return "voided";
        }
        if self.has_failed { "failed" } else { "expected" }
    }

    /// Whether a callback of this kind lacks nothing, and every sum is within its bound, after it was added.
    pub fn is_sound_after(&self, kind: Kind) -> bool {
        let has_begun = match kind {
            Kind::Captured | Kind::Adjusted | Kind::CaptureFailed => self.holds > 0,
            Kind::Refunded | Kind::RefundFailed => self.holds > 0 || self.debit > 0,
            Kind::Authorized
            | Kind::Voided
            | Kind::Succeeded
            | Kind::Failed
            | Kind::Deposit
            | Kind::DepositRefunded
            | Kind::DepositDisputed
            | Kind::DepositReinstated
            | Kind::Fee
            | Kind::Transfer => true,
        };
        has_begun
            && self.captures.get() - self.captures_back <= self.holds.max(self.adjusted_max)
            && self.refunded() <= self.captures.get() + self.debit
    }
}

/// What is known of money that came in under one payment id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deposit {
    brought: Running,
    refunded: Running,
    disputed: Running,
    reinstated: Running,
}

impl Deposit {
    pub fn add(&mut self, fact: Fact) {
        match fact.kind {
            Kind::Deposit => self.brought.add(fact),
            Kind::DepositRefunded => self.refunded.add(fact),
            Kind::DepositDisputed => self.disputed.add(fact),
            Kind::DepositReinstated => self.reinstated.add(fact),
            Kind::Authorized
            | Kind::Adjusted
            | Kind::Captured
            | Kind::CaptureFailed
            | Kind::Voided
            | Kind::Succeeded
            | Kind::Failed
            | Kind::Refunded
            | Kind::RefundFailed
            | Kind::Fee
            | Kind::Transfer => {}
        }
    }

    fn taken(&self) -> i64 {
        self.refunded.get() + self.disputed.get()
    }

    /// What it has changed of its account's balance.
    pub fn balance(&self) -> i64 {
        self.brought.get() + self.reinstated.get() - self.taken()
    }

    /// Whether every sum is within its bound.
    pub fn is_sound(&self) -> bool {
        let (brought, reinstated) = (self.brought.get(), self.reinstated.get());
        brought > 0 && reinstated <= self.taken() && self.taken() - reinstated <= brought
    }
}
