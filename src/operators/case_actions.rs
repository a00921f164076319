//! What people order for cases, carried out batch by batch: the same for the pages, the API and the command line. The audit log has a line
//! before the first case is touched, and names each case before it is.

use std::fmt;

use serde_json::{Value, json};
use tracing::warn;

use super::reverify::{Trust, reverify};
use crate::{
    config::Policy,
    ledger::{CaseId, Expires, Reason, Snapshot, decide_cases},
    store::{
        self, Resolver, StoreError,
        actions::{self, Order, Verb},
        acts::{Acted, Entry},
        assign::{Assigning, Assignment, assign},
        engine::{CONFLICTS_MAX, PassedOver, REPLAY_BATCH_MAX, REPLAY_WAITS_MAX, replay_others},
        quarantine::{self, Filter, Page, Replayed},
        report::CaseRow,
    },
};

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Of a replay.
    Replayed(Replayed),
    /// Of a discard: how many cases.
    Discarded(u64),
    /// Of a reopening: how many cases.
    Reopened(u64),
    /// Of an assignment, and of the decision that followed where it was made.
    Assigned(Assignment, Replayed),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replayed(replayed) => replayed.fmt(f),
            Self::Discarded(cases) => write!(f, "{cases} discarded"),
            Self::Reopened(cases) => write!(f, "{cases} reopened"),
            Self::Assigned(assignment, replayed) => f.write_str(&assignment.with(replayed)),
        }
    }
}

impl Done {
    /// For programs: how many cases, by what became of them.
    #[must_use]
    pub fn outcome(&self) -> Value {
        match self {
            Self::Replayed(replayed) => serde_json::to_value(replayed).unwrap_or_default(),
            Self::Discarded(cases) => json!({ "discarded": cases }),
            Self::Reopened(cases) => json!({ "reopened": cases }),
            Self::Assigned(assignment, replayed) => assignment.outcome(replayed),
        }
    }
}

/// Carries out an order whose line of the audit log is `action`, and closes the line. Says after each batch how many cases it had. `trust`
/// says again who may sign, for cases that were refused for their signature, and how requests are mapped; `policy`, the rules, and whether the cases that
/// they may turn into keep
/// card data masked.
///
/// # Errors
/// [`StoreError`]; what was done by then stays done, and doing it again goes on.
pub async fn run(
    connection: &mut store::Connection,
    order: &Order,
    action: i64,
    trust: &Trust<'_>,
    policy: Policy,
    progress: impl FnMut(u64),
) -> Result<Done, StoreError> {
    let done = work(connection, order, action, (trust, policy), progress).await;
    let outcome = done.as_ref().map_or_else(|_| json!({ "stopped": true }), Done::outcome);
    let result = match &done {
        Ok(done) => done.to_string(),
        Err(cause) => {
            let why = match cause {
                StoreError::Unavailable(_) => "PostgreSQL was unavailable",
                StoreError::Unfit(_) => "PostgreSQL is not set up as it must be; the log says how",
                StoreError::Conflict(_) => "workers changed the same accounts first too often",
                StoreError::Blocked(_) => "somebody holds a lock on the same rows, or it took too long",
                StoreError::Refused(_) => "PostgreSQL refused the data; the log says which",
            };
            format!("not all was done, because {why}; what was done stays, do the rest again")
        }
    };
    let ended =
        connection.run(async |connection| actions::end(connection, action, &result, &outcome).await).await;
    if let Err(cause) = ended {
        warn!(action, cause = %cause, "the audit log does not say how it ended");
    }
    done
}

async fn work(
    connection: &mut store::Connection,
    order: &Order,
    action: i64,
    (trust, policy): (&Trust<'_>, Policy),
    mut progress: impl FnMut(u64),
) -> Result<Done, StoreError> {
    let filter = &order.filter;
    let mut done = match order.verb {
        Verb::Replay => Done::Replayed(Replayed::default()),
        Verb::Discard => Done::Discarded(0),
        Verb::Reopen => Done::Reopened(0),
        Verb::Assign => Done::Assigned(Assignment::Ended, Replayed::default()),
    };
    // None of them: any of those that the action is for.
    let mut filter = filter.clone();
    filter.states = match filter.states.as_slice() {
        [] => order.verb.states().to_vec(),
        asked => order.verb.states().iter().copied().filter(|state| asked.contains(state)).collect(),
    };
    if filter.states.is_empty() {
        return Ok(done);
    }
    let mut last = 0;
    // Why a case was passed over: said at the end, when all others are done.
    let mut passed_over: Option<StoreError> = None;
    loop {
        let page = Page::After(last, REPLAY_BATCH_MAX);
        let cases =
            connection.run(async |connection| quarantine::list(connection, &filter, page).await).await?;
        let ids: Vec<CaseId> = cases.iter().map(|case| CaseId(case.id)).collect();
        let Some(CaseId(newest)) = ids.last() else { return passed_over.map_or(Ok(done), Err) };
        last = *newest;
        connection.run(async |connection| actions::add_cases(connection, action, &ids).await).await?;
        match &mut done {
            Done::Replayed(sum) => {
                let resolver = Resolver { by: &order.who, why: &order.why };
                let (unproven, decoded): (Vec<_>, Vec<_>) =
                    cases.iter().partition(|case| is_looked_at_again(&case.reason));
                let ids_of =
                    |cases: Vec<&CaseRow>| cases.iter().map(|case| CaseId(case.id)).collect::<Vec<_>>();
                let how = (policy, Expires::Nothing);
                let (these, mut left) =
                    replay_others(connection, &ids_of(decoded), resolver, how, REPLAY_WAITS_MAX).await?;
                sum.add(these);
                let (these, more) = reverify(connection, &ids_of(unproven), trust, policy, resolver).await?;
                sum.add(these);
                left.extend(more);
                for PassedOver { item: CaseId(case), cause } in left {
                    warn!(action, case, cause = %cause, "a case was not replayed; replay it again");
                    passed_over = Some(cause);
                }
            }
            Done::Discarded(sum) => {
                let these = Filter { ids: ids.iter().map(|id| id.0).collect(), ..filter.clone() };
                *sum += connection
                    .run(async |connection| {
                        quarantine::discard(connection, &these, &order.who, &order.why).await
                    })
                    .await?;
            }
            Done::Reopened(sum) => {
                let (open, waiting) =
                    connection.run(async |connection| quarantine::reopen(connection, &ids).await).await?;
                *sum += (open.len() + waiting.len()) as u64;
                // What they wait for may have come while they were discarded, and comes only once.
                let resolver = Resolver { by: &order.who, why: &order.why };
                // What is passed over here is found by the sweep.
                let how = (policy, Expires::Nothing);
                replay_others(connection, &waiting, resolver, how, REPLAY_WAITS_MAX).await?;
            }
            Done::Assigned(assignment, sum) => {
                let Some(to) = &order.assign_to else { return Ok(done) };
                let resolver = Resolver { by: &order.who, why: &order.why };
                for id in ids.iter().copied() {
                    let assigning = Assigning {
                        id,
                        to,
                        resolver,
                        mask_cards: policy.mask_cards,
                        entry: Entry::Begun(action),
                    };
                    // A line that stands there has nothing to object.
                    if let Acted::Done(made) = assign_now(connection, assigning, policy).await? {
                        (*assignment, *sum) = made;
                    }
                }
            }
        }
        progress(ids.len() as u64);
    }
}

/// Assigns a case and decides it again, in one transaction; beside workers, which may change its account first.
pub(super) async fn assign_now(
    connection: &mut store::Connection,
    assigning: Assigning<'_>,
    policy: Policy,
) -> Result<Acted<(Assignment, Replayed)>, StoreError> {
    let decide =
        |snapshot: &Snapshot, cases: &[_]| decide_cases(snapshot, cases, &policy.rules, Expires::Nothing);
    for _ in 0..CONFLICTS_MAX {
        match connection.run(async |connection| assign(connection, assigning, decide).await).await {
            Err(StoreError::Conflict(_)) => {}
            assigned => return assigned,
        }
    }
    Err(StoreError::Conflict("concurrent writers changed the account first too often".to_owned()))
}

/// Whether a case is a message that was never decoded as a callback, and may be one by now.
#[must_use]
pub fn is_looked_at_again(reason: &str) -> bool {
    [Reason::BadSignature, Reason::Unmapped].iter().any(|one| one.as_str() == reason)
}
