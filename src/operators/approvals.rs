//! Proposals carried out: by a person who did not make them, once. The act and the end of its proposal are one transaction (`store::acts`); what
//! is decided again afterwards, case by case, is safe to repeat. What must not live here: which acts need a second person.

use super::{
    adjust::adjust,
    case_actions::{self, assign_now},
    reverify::Trust,
};
use crate::{
    config::Policy,
    ledger::{AccountId, CaseId, Expires},
    store::{
        self, Resolver, StoreError,
        actions::{self, Act, Line, Order, Verb, Via},
        acts::{self, Acted, Adjusted, Entry},
        assign::{Assigning, Assignment},
        engine::{REPLAY_BATCH_MAX, REPLAY_WAITS_MAX, replay_others},
        proposals::{self, Arguments, Objection, ProposalRow},
    },
};

/// Who approves, and through which channel.
#[derive(Debug, Clone, Copy)]
pub struct Approver<'a> {
    /// The person, 1 to 200 bytes.
    pub name: &'a str,
    /// The channel.
    pub via: Via,
}

/// Carries a proposal out. `None`: it is done, and the proposal names its line of the audit log. The same person who approves it once more is
/// answered the same.
///
/// # Errors
/// [`StoreError`]. After [`StoreError::Unavailable`] it is unknown whether it is carried out: the same call says so.
pub async fn approve(
    connection: &mut store::Connection,
    proposal: i64,
    approver: Approver<'_>,
    (trust, policy): (&Trust<'_>, Policy),
) -> Result<Option<Objection>, StoreError> {
    let found = connection.run(async |connection| proposals::show(connection, proposal).await).await?;
    let Some(row) = found else { return Ok(Some(Objection::NotThere)) };
    if row.state == "approved" && row.decided_by.as_deref() == Some(approver.name) {
        carry_on(connection, (&row, approver), (trust, policy)).await?;
        return Ok(None);
    }
    match row.arguments()? {
        Arguments::Adjust { id, account, direction, amount, currency } => {
            let wanted = proposals::correction((&id, &account), (&direction, amount), &currency);
            let wanted = wanted.ok_or_else(|| unreadable(&row))?;
            let line = line(&row, approver, Act::Adjust.as_str());
            Ok(match adjust(connection, &wanted, policy, (line, Some(proposal))).await? {
                Acted::Objected(objection) => Some(objection),
                Acted::Done(Adjusted::Posted { is_repeat: false, .. }) => None,
                Acted::Done(Adjusted::Posted { is_repeat: true, .. }) => {
                    posted_before(connection, &row).await?
                }
                Acted::Done(Adjusted::Refused { reason, detail }) => {
                    Some(Objection::Forbidden(reason, detail))
                }
                Acted::Done(other @ Adjusted::OtherContent) => Some(Objection::Impossible(other.to_string())),
            })
        }
        Arguments::Cases { verb, cases, sums, account } => {
            let verb = Verb::parse(&verb).ok_or_else(|| unreadable(&row))?;
            let line = line(&row, approver, verb.as_str());
            match verb {
                Verb::Assign => {
                    let (Some(to), [case]) = (account, cases.as_slice()) else {
                        return Err(unreadable(&row));
                    };
                    let to = AccountId::new(&to).map_err(|_| unreadable(&row))?;
                    let assigning = Assigning {
                        id: CaseId(*case),
                        to: &to,
                        resolver: Resolver { by: approver.name, why: &row.why },
                        mask_cards: policy.mask_cards,
                        entry: Entry::Approves(proposal, line),
                    };
                    Ok(match assign_now(connection, assigning, policy).await? {
                        Acted::Objected(objection) => Some(objection),
                        Acted::Done((Assignment::Made { .. }, _)) => None,
                        Acted::Done((
                            refused @ (Assignment::Ended
                            | Assignment::NotDecoded
                            | Assignment::UnknownAccount(_)
                            | Assignment::IsReceiver(_)),
                            _,
                        )) => Some(Objection::Impossible(refused.to_string())),
                    })
                }
                Verb::Replay | Verb::Discard | Verb::Reopen => {
                    let wanted = (verb, cases.as_slice(), sums.as_str());
                    let approved = connection
                        .run(async |connection| {
                            acts::approve_cases(connection, wanted, (proposal, line)).await
                        })
                        .await?;
                    let approved = match approved {
                        Acted::Done(approved) => approved,
                        Acted::Objected(objection) => return Ok(Some(objection)),
                    };
                    decide_again(connection, verb, (&row, approver), approved, (trust, policy)).await?;
                    Ok(None)
                }
            }
        }
    }
}

/// Goes on with a replay that was cut short after it was approved. What is one transaction is done once it is approved, and of a reopening the
/// workers' sweep finds what is left to decide.
async fn carry_on(
    connection: &mut store::Connection,
    (row, approver): (&ProposalRow, Approver<'_>),
    how: (&Trust<'_>, Policy),
) -> Result<(), StoreError> {
    let (Arguments::Cases { verb, cases, .. }, Some(action)) = (row.arguments()?, row.action_id) else {
        return Ok(());
    };
    if Verb::parse(&verb) != Some(Verb::Replay)
        || !connection.run(async |connection| actions::resume(connection, action).await).await?
    {
        return Ok(());
    }
    // Those of them that are open or waiting still.
    let left = cases.into_iter().map(CaseId).collect();
    let approved = acts::Approved { action, left, changed: 0 };
    decide_again(connection, Verb::Replay, (row, approver), approved, how).await
}

/// Another call may have carried it out since this one has read the proposal; else somebody used the id.
async fn posted_before(
    connection: &mut store::Connection,
    row: &ProposalRow,
) -> Result<Option<Objection>, StoreError> {
    let now = connection.run(async |connection| proposals::show(connection, row.id).await).await?;
    Ok(Some(match now.and_then(|now| now.decided_by.zip(now.action_id)) {
        Some((by, action)) => Objection::Approved(by, action),
        None => {
            Objection::Impossible("its id was posted already, without a proposal; reject this".to_owned())
        }
    }))
}

/// What a replay names, and what waits again after a reopening. Each case is applied at most once, whoever else decides it, so this may be cut
/// short, and a replay goes on.
async fn decide_again(
    connection: &mut store::Connection,
    verb: Verb,
    (row, approver): (&ProposalRow, Approver<'_>),
    approved: acts::Approved,
    (trust, policy): (&Trust<'_>, Policy),
) -> Result<(), StoreError> {
    let ids: Vec<i64> = approved.left.iter().map(|id| id.0).collect();
    match verb {
        Verb::Replay => {
            let order = Order {
                who: approver.name.to_owned(),
                via: approver.via,
                verb,
                why: row.why.clone(),
                filter: proposals::of_cases(verb, &ids),
                chosen: row.chosen.clone(),
                assign_to: None,
                key: None,
            };
            case_actions::run(connection, &order, approved.action, trust, policy, |_| {}).await?;
        }
        Verb::Reopen | Verb::Discard | Verb::Assign => {
            let resolver = Resolver { by: approver.name, why: &row.why };
            let (how, mut passed_over) = ((policy, Expires::Nothing), None);
            for ids in approved.left.chunks(REPLAY_BATCH_MAX.unsigned_abs() as usize) {
                let (_, left) = replay_others(connection, ids, resolver, how, REPLAY_WAITS_MAX).await?;
                passed_over = passed_over.or(left.into_iter().next());
            }
            if let Some(case) = passed_over {
                return Err(case.cause);
            }
        }
    }
    Ok(())
}

fn line<'a>(row: &'a ProposalRow, approver: Approver<'a>, action: &'static str) -> Line<'a> {
    Line {
        who: approver.name,
        via: approver.via,
        action,
        why: &row.why,
        chosen: &row.chosen,
        key: Some(&row.idempotency_key),
        proposed_by: Some(&row.proposed_by),
    }
}

fn unreadable(row: &ProposalRow) -> StoreError {
    StoreError::Refused(format!("the arguments of proposal {} cannot be read", row.id))
}
