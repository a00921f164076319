//! Adjustments: corrections by operators, each posted once per id. What an adjustment cannot do is said to the person who asked; it never
//! becomes a case. What must not live here: who may adjust, and the audit log.

use super::{direct, replay::CONFLICTS_MAX};
use crate::{
    config::Policy,
    ledger::{Callback, Outcome, Reason, Rules},
    store::{self, StoreError},
};

/// The counts of adjustments stand under this name.
const WRITER: &str = "adjust";

/// What became of an adjustment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adjusted {
    /// It is posted. The account after it, in minor units.
    Posted {
        /// The balance.
        balance: i64,
        /// What authorizations hold of it.
        held: i64,
        /// The account's version.
        version: i64,
    },
    /// It was posted before, with the same content. Nothing was done.
    Known,
    /// Its id was used before, with other content. Nothing was done.
    OtherContent,
    /// A rule forbids it. Nothing was done, and no case was made.
    Refused {
        /// The rule.
        reason: Reason,
        /// What exactly, in words.
        detail: String,
    },
}

/// Posts an adjustment, beside workers and other operators, in one transaction with all that has waited for its money.
///
/// # Errors
/// [`StoreError`]. [`StoreError::Conflict`] where concurrent writers changed the account first too often: nothing is posted. After
/// [`StoreError::Unavailable`] it is unknown whether it is posted: the same call says so.
pub async fn adjust(
    connection: &mut store::Connection,
    adjustment: &Callback,
    policy: Policy,
) -> Result<Adjusted, StoreError> {
    let callbacks = std::slice::from_ref(adjustment);
    // The person waits for the answer, so the adjustment does not.
    let rules = Rules { waits_for_funds: false, ..policy.rules };
    for _ in 0..CONFLICTS_MAX {
        let plan = direct::plan(connection, callbacks, rules).await?;
        match plan.outcomes.first() {
            Some(Outcome::Applied) => {}
            Some(Outcome::Duplicate(_)) => return Ok(Adjusted::Known),
            Some(Outcome::Quarantined(Reason::PayloadMismatch)) => return Ok(Adjusted::OtherContent),
            Some(Outcome::Quarantined(reason) | Outcome::Waiting(reason)) => {
                let detail = plan.new_cases.into_iter().next().map(|case| case.detail).unwrap_or_default();
                return Ok(Adjusted::Refused { reason: *reason, detail });
            }
            None => return Err(StoreError::Refused("the adjustment was not decided".to_owned())),
        }
        let leg = plan.entries.iter().find(|entry| entry.callback.key == adjustment.key);
        let posted = leg.map(|entry| Adjusted::Posted {
            balance: entry.leg.balance_after,
            held: entry.leg.held_after,
            version: entry.leg.account_version,
        });
        let written = direct::write(connection, callbacks, plan, WRITER, policy).await?;
        let is_written = written.is_some_and(|applied| applied.lost_callbacks == [false]);
        if let Some(posted) = posted.filter(|_| is_written) {
            return Ok(posted);
        }
    }
    Err(StoreError::Conflict("concurrent writers changed the account first too often".to_owned()))
}
