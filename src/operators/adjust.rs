//! Adjustments: corrections by operators, each posted once per id. What an adjustment cannot do is said to the person who asked; it never
//! becomes a case. What must not live here: who may adjust.

use crate::{
    config::{Approvals, Policy},
    ledger::{Callback, Correction, Outcome, Plan, Reason, Rules},
    store::{
        self, Batch, Locking, Resolver, StoreError,
        actions::Line,
        acts::{self, Acted, Adjusted, Entry},
        engine::{self, CONFLICTS_MAX},
        proposals::{self, Arguments},
        requests::{self, Start},
    },
};

/// The counts of adjustments stand under this name.
const WRITER: &str = "adjust";

/// Posts an adjustment, beside workers and other operators, in one transaction with its line of the audit log, the end of the proposal that it
/// carries out, and all that has waited for its money. One that was posted before is answered as it was then.
///
/// # Errors
/// [`StoreError`]. [`StoreError::Conflict`] where concurrent writers changed the account first too often: nothing is posted. After
/// [`StoreError::Unavailable`] it is unknown whether it is posted: the same call says so.
pub async fn adjust(
    connection: &mut store::Connection,
    correction: &Correction,
    policy: Policy,
    (line, proposal): (Line<'_>, Option<i64>),
) -> Result<Acted<Adjusted>, StoreError> {
    let entry = match proposal {
        None => Entry::New(line),
        Some(proposal) => Entry::Approves(proposal, line),
    };
    for _ in 0..CONFLICTS_MAX {
        let (adjustment, adjusted, plan) = decide(connection, correction, policy).await?;
        let is_new = matches!(adjusted, Adjusted::Posted { is_repeat: false, .. });
        let Some(plan) = plan.filter(|_| is_new) else {
            if proposal.is_none() {
                connection.run(async |connection| acts::note(connection, line, &adjusted).await).await?;
            }
            return Ok(Acted::Done(adjusted));
        };
        let callbacks = std::slice::from_ref(&adjustment);
        let batch = Batch {
            writer: WRITER,
            plan,
            callbacks,
            bodies: &[b""],
            mask_cards: policy.mask_cards,
            references: &[],
            undecodable: &[],
            resolver: Resolver::WORKER,
            proven: &[],
            remembered: &[],
            locking: Locking::Wait,
        };
        let posted =
            connection.run(async |connection| acts::post(connection, batch, entry, &adjusted).await).await;
        match posted {
            Ok(Acted::Done(_)) => return Ok(Acted::Done(adjusted)),
            Ok(Acted::Objected(objection)) => return Ok(Acted::Objected(objection)),
            Err(StoreError::Conflict(_)) => {}
            Err(
                cause @ (StoreError::Unavailable(_)
                | StoreError::Unfit(_)
                | StoreError::Blocked(_)
                | StoreError::Refused(_)),
            ) => return Err(cause),
        }
    }
    Err(StoreError::Conflict("concurrent writers changed the account first too often".to_owned()))
}

/// What a person who asks for an adjustment is answered.
#[derive(Debug, Clone)]
pub enum Requested {
    /// It is posted, or cannot be.
    Adjusted(Adjusted),
    /// It waits for another person, or was decided by one.
    Proposed(Start),
}

/// Posts an adjustment, or proposes it where the settings want a second person for it. The same request again is answered as the first was.
///
/// # Errors
/// As [`adjust`].
pub async fn request(
    connection: &mut store::Connection,
    correction: &Correction,
    (policy, approvals): (Policy, Approvals),
    line: Line<'_>,
) -> Result<Requested, StoreError> {
    let key = correction.id.as_str();
    let keyed = Line { key: Some(key), ..line };
    let before = connection.run(async |connection| requests::before(connection, &keyed).await).await?;
    if let Some(before) = before {
        return Ok(Requested::Proposed(before));
    }
    if !approvals.adjust {
        return Ok(match adjust(connection, correction, policy, (line, None)).await? {
            Acted::Done(adjusted) => Requested::Adjusted(adjusted),
            Acted::Objected(objection) => Requested::Proposed(Start::Refused(objection.to_string())),
        });
    }
    // What cannot be posted need not wait for another person to find that out.
    let adjusted = preview(connection, correction, policy).await?;
    if !matches!(adjusted, Adjusted::Posted { is_repeat: false, .. }) {
        connection.run(async |connection| acts::note(connection, line, &adjusted).await).await?;
        return Ok(Requested::Adjusted(adjusted));
    }
    let arguments = Arguments::of(correction);
    let proposed = connection
        .run(async |connection| {
            proposals::propose(connection, line, key, &arguments, approvals.wait_max).await
        })
        .await?;
    Ok(Requested::Proposed(proposed.into()))
}

/// What would become of an adjustment now. Writes nothing.
///
/// # Errors
/// [`StoreError`].
pub async fn preview(
    connection: &mut store::Connection,
    correction: &Correction,
    policy: Policy,
) -> Result<Adjusted, StoreError> {
    Ok(decide(connection, correction, policy).await?.1)
}

async fn decide(
    connection: &mut store::Connection,
    correction: &Correction,
    policy: Policy,
) -> Result<(Callback, Adjusted, Option<Plan>), StoreError> {
    let now = connection.run(store::now).await?;
    let adjustment = correction
        .callback(i64::try_from(now.unix_timestamp_nanos() / 1_000).ok())
        .map_err(|error| StoreError::Refused(error.to_string()))?;
    // The person waits for the answer, so the adjustment does not.
    let rules = Rules { waits_for_funds: false, ..policy.rules };
    let plan = engine::preview(connection, std::slice::from_ref(&adjustment), rules).await?;
    let undecided = || StoreError::Refused("the adjustment was not decided".to_owned());
    let adjusted = match plan.outcomes.first() {
        Some(Outcome::Applied) => {
            let leg = plan.entries.iter().find(|entry| entry.callback.key == adjustment.key);
            let leg = &leg.ok_or_else(undecided)?.leg;
            Adjusted::Posted {
                currency: adjustment.currency,
                before: leg.balance_after.saturating_sub(leg.balance_delta),
                balance: leg.balance_after,
                held: leg.held_after,
                version: leg.account_version,
                is_repeat: false,
            }
        }
        Some(Outcome::Duplicate(_)) => {
            let key = &adjustment.key;
            let posted = connection.run(async |connection| acts::posted(connection, key).await).await?;
            return Ok((adjustment, posted.ok_or_else(undecided)?, None));
        }
        Some(Outcome::Quarantined(Reason::PayloadMismatch)) => Adjusted::OtherContent,
        Some(Outcome::Quarantined(reason) | Outcome::Waiting(reason)) => {
            let detail = plan.new_cases.first().map(|case| case.detail.clone()).unwrap_or_default();
            Adjusted::Refused { reason: *reason, detail }
        }
        None => return Err(undecided()),
    };
    Ok((adjustment, adjusted, Some(plan)))
}
