//! The types of callbacks, and what each needs and may do (contract §2). What they do to money is in `payment`, `deposit` and `decide`.

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What a callback reports (CloudEvents `type`). The list is closed: any other type is quarantined as unsupported.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind, in the order of the contract's table.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The `type` member on the wire and the `type` column.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// Money comes in; opens an unknown account.
    DepositSucceeded = "deposit.succeeded",
    /// Part or all of a deposit goes back to where it came from.
    DepositRefunded = "deposit.refunded",
    /// A deposit is taken back by the payer's bank (a chargeback).
    DepositDisputed = "deposit.disputed",
    /// What was refunded or disputed of a deposit came back.
    DepositReinstated = "deposit.reinstated",
    /// A hold on available money; a further one adds to it.
    PaymentAuthorized = "payment.authorized",
    /// Another total for what is authorized.
    PaymentAuthorizationAdjusted = "payment.authorization_adjusted",
    /// Takes held money, wholly or in part.
    PaymentCaptured = "payment.captured",
    /// A capture came back.
    PaymentCaptureFailed = "payment.capture_failed",
    /// Releases what is held and not captured, or gives a direct debit back.
    PaymentVoided = "payment.voided",
    /// A direct debit.
    PaymentSucceeded = "payment.succeeded",
    /// An attempt failed; no money moves, and nothing is closed by it.
    PaymentFailed = "payment.failed",
    /// Gives back captured or debited money.
    RefundSucceeded = "refund.succeeded",
    /// A refund came back.
    RefundFailed = "refund.failed",
    /// The provider's price.
    FeeCharged = "fee.charged",
    /// From one account to another.
    TransferSucceeded = "transfer.succeeded",
    /// A correction by an operator; only from [`OPERATOR_SOURCE`].
    AdjustmentPosted = "adjustment.posted",
}

/// The CloudEvents source of what payonce's own operators post. No key of the queue can sign for it.
pub const OPERATOR_SOURCE: &str = "urn:payonce:operator";

impl Kind {
    /// The kind of this name, `None` for a type that payonce does not support.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Whether a callback of this kind needs a `payment_id` (contract §2).
    #[must_use]
    pub fn needs_payment_id(self) -> bool {
        !matches!(
            self,
            Self::DepositSucceeded | Self::FeeCharged | Self::TransferSucceeded | Self::AdjustmentPosted
        )
    }

    /// Whether it takes back the movement of its `operation_id`, which it therefore needs: the kind of that movement.
    #[must_use]
    pub fn reverses(self) -> Option<Self> {
        match self {
            Self::PaymentCaptureFailed => Some(Self::PaymentCaptured),
            Self::RefundFailed => Some(Self::RefundSucceeded),
            Self::DepositSucceeded
            | Self::DepositRefunded
            | Self::DepositDisputed
            | Self::DepositReinstated
            | Self::PaymentAuthorized
            | Self::PaymentAuthorizationAdjusted
            | Self::PaymentCaptured
            | Self::PaymentVoided
            | Self::PaymentSucceeded
            | Self::PaymentFailed
            | Self::RefundSucceeded
            | Self::FeeCharged
            | Self::TransferSucceeded
            | Self::AdjustmentPosted => None,
        }
    }

    /// Whether it may come without a subject: its payment, or the movement of its operation, says whose it is (contract §8).
    #[must_use]
    pub fn finds_account(self) -> bool {
        match self {
            Self::DepositRefunded
            | Self::DepositDisputed
            | Self::DepositReinstated
            | Self::PaymentAuthorizationAdjusted
            | Self::PaymentCaptured
            | Self::PaymentCaptureFailed
            | Self::PaymentVoided
            | Self::RefundSucceeded
            | Self::RefundFailed => true,
            Self::DepositSucceeded
            | Self::PaymentAuthorized
            | Self::PaymentSucceeded
            | Self::PaymentFailed
            | Self::FeeCharged
            | Self::TransferSucceeded
            | Self::AdjustmentPosted => false,
        }
    }

    /// Whether it happens once per payment, so that the payment's id stands in for an operation id that it does not have.
    #[must_use]
    pub fn is_once_per_payment(self) -> bool {
        matches!(self, Self::DepositSucceeded | Self::PaymentAuthorized | Self::PaymentSucceeded)
    }

    /// Whether it says what has happened already, so that it may take what is available below zero: a debt (contract §2).
    #[must_use]
    pub fn may_leave_debt(self) -> bool {
        matches!(
            self,
            Self::DepositRefunded
                | Self::DepositDisputed
                | Self::RefundFailed
                | Self::FeeCharged
                | Self::AdjustmentPosted
        )
    }

    /// Whether it may raise what is available on its account, so that what waits for funds there is looked at beside it.
    #[must_use]
    pub fn may_bring_funds(self) -> bool {
        match self {
            Self::DepositSucceeded
            | Self::DepositReinstated
            | Self::PaymentAuthorizationAdjusted
            | Self::PaymentCaptured
            | Self::PaymentCaptureFailed
            | Self::PaymentVoided
            | Self::RefundSucceeded
            | Self::TransferSucceeded
            | Self::AdjustmentPosted => true,
            Self::DepositRefunded
            | Self::DepositDisputed
            | Self::PaymentAuthorized
            | Self::PaymentSucceeded
            | Self::PaymentFailed
            | Self::RefundFailed
            | Self::FeeCharged => false,
        }
    }

    /// Whether its payment is a deposit: money that came in, and its way back.
    #[must_use]
    pub fn is_of_deposit(self) -> bool {
        matches!(
            self,
            Self::DepositSucceeded | Self::DepositRefunded | Self::DepositDisputed | Self::DepositReinstated
        )
    }

    /// Whether an amount of 0 is allowed: the type moves no money by it.
    #[must_use]
    pub fn takes_zero(self, is_final: bool) -> bool {
        match self {
            Self::PaymentFailed => true,
            Self::PaymentVoided => is_final,
            Self::DepositSucceeded
            | Self::DepositRefunded
            | Self::DepositDisputed
            | Self::DepositReinstated
            | Self::PaymentAuthorized
            | Self::PaymentAuthorizationAdjusted
            | Self::PaymentCaptured
            | Self::PaymentCaptureFailed
            | Self::PaymentSucceeded
            | Self::RefundSucceeded
            | Self::RefundFailed
            | Self::FeeCharged
            | Self::TransferSucceeded
            | Self::AdjustmentPosted => false,
        }
    }

    /// `data.final` where the message does not say: a void releases the rest, a capture keeps it.
    #[must_use]
    pub fn is_final_by_default(self) -> bool {
        self == Self::PaymentVoided
    }
}

/// Which way an adjustment goes (`data.direction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The balance grows.
    Credit,
    /// The balance shrinks.
    Debit,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Credit, Self::Debit];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Debit => "debit",
        }
    }

    /// The direction of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|direction| direction.as_str() == name)
    }
}
