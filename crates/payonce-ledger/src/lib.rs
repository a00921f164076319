//! The pure core: what a valid callback is, and what it does to accounts and payments.
//!
//! [`decide()`] takes a [`Snapshot`] of the database and a batch of callbacks and returns a [`Plan`]: the ledger rows, the new
//! balances with the version each expects, and one [`Outcome`] per callback.
//!
//! What must not live here: async, clocks, randomness, logging, serde, SQL, or any other I/O. A business outcome is a value, so
//! nothing in this crate fails at run time, and a rule can be tested with data in and data out.

#![forbid(unsafe_code)]

mod account;
mod callback;
mod correction;
mod currency;
mod decide;
mod deposit;
mod kind;
mod payment;
mod plan;
mod reason;
mod unwritten;

pub use account::{Account, AccountStatus, Refusal};
pub use callback::{
    AccountId, Amount, Callback, EXPIRY_ID, EventId, Fingerprint, Key, OperationId, OperationKey, PaymentId,
    PaymentKey, Source, TEXT_BYTES_MAX, TextError,
};
pub use correction::Correction;
pub use currency::Currency;
pub use decide::{Expires, dead_letter, decide, decide_cases};
pub use deposit::{DEPOSIT_ROWS_MAX, Deposit, Running};
pub use kind::{Direction, Kind, OPERATOR_SOURCE};
pub use payment::{Adjustment, Facts, Payment, PaymentState};
pub use plan::{
    AccountChange, CaseCopies, CaseEnd, CaseId, Entry, Known, Leg, Movement, NewCase, Outcome, PaymentChange,
    Plan, ResolvedCase, Rules, Snapshot, StoredCase, Unopened,
};
pub use reason::{CaseState, Layer, Reason};
pub use unwritten::Unwritten;
