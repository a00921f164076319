//! Replays, discards and the like that people ask for: begun here, and carried out while the page already shows how far they are.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::Pool;
use crate::{
    ledger::{AccountId, Correction},
    operators::{
        self,
        adjust::Requested,
        approvals::{self, Approver},
        case_actions,
        reverify::Trust,
    },
    store::{
        self, StoreError,
        actions::{Act, Line, Order, Verb, Via},
        case_work::{self, CaseWork, CaseWorker},
        proposals::{self, Objection},
        quarantine::Filter,
        requests::{self, Start},
    },
};

/// How long a page waits for the end before it shows how far things are.
const PATIENCE: Duration = Duration::from_secs(3);

/// Begins, and waits a little for the end: then its line of the audit log says how it went or goes. Or proposes it, or finds that the same was
/// asked for before.
pub(super) async fn start(pool: &Arc<Pool>, order: Order) -> Result<Start, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    let approvals = pool.operators.approvals;
    let start =
        connection.run(async |connection| requests::start(connection, &order, approvals).await).await?;
    let Start::Begun(action) = start else { return Ok(start) };
    info!(action, verb = order.verb.as_str(), "an operator works cases");
    let working = Arc::clone(pool);
    wait_a_little(async move {
        let with = &working.operators;
        let trust =
            Trust { keyring: &with.keys.current(), endpoints: &with.endpoints, references: &with.references };
        let done = case_actions::run(&mut connection, &order, action, &trust, with.policy, |_| {}).await;
        connection.close().await;
        if let Err(cause) = done {
            warn!(action, cause = %cause, "cases were left");
        }
        working.watch.cases_changed();
    })
    .await;
    Ok(start)
}

/// Works on when the page or the caller has gone. `None`: it has not ended yet; late is not wrong.
pub(super) async fn wait_a_little<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    tokio::time::timeout(PATIENCE, tokio::spawn(work)).await.ok()?.ok()
}

/// The order that hands one case to another account.
pub(super) fn assignment(
    who: String,
    via: Via,
    (why, key): (String, Option<String>),
    case: i64,
    to: AccountId,
) -> Order {
    let verb = Verb::Assign;
    let filter = Filter { ids: vec![case], states: verb.states().to_vec(), ..Filter::default() };
    let chosen = format!("{filter}; to account {:?}", to.as_str());
    Order { who, via, verb, why, filter, chosen, assign_to: Some(to), key }
}

/// Gives cases to a person or to nobody, or notes something about them.
pub(super) async fn work_cases(
    pool: &Pool,
    cases: &[i64],
    work: CaseWork<'_>,
    worker: CaseWorker<'_>,
) -> Result<Start, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    let done =
        connection.run(async |connection| case_work::work(connection, cases, work, worker).await).await;
    connection.close().await;
    done
}

/// A reason as it is kept.
pub(super) fn words(why: &str) -> Result<String, &'static str> {
    let why = why.trim();
    let is_fit = !why.is_empty() && why.len() <= 1_000 && !why.chars().any(char::is_control);
    is_fit
        .then(|| why.to_owned())
        .ok_or("Say why, in 1 to 1000 bytes without control characters: it is stored in the audit log.")
}

/// An idempotency key, 1 to 200 bytes without control characters; an empty one is none.
pub(super) fn key(text: &str) -> Result<Option<String>, &'static str> {
    let is_fit = text.len() <= 200 && !text.chars().any(char::is_control);
    if !is_fit {
        return Err("An idempotency key has at most 200 bytes, and no control characters.");
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A key for a request that came without one.
pub(super) fn random_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A correction that somebody wants.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) correction: Correction,
    pub(super) who: String,
    pub(super) via: Via,
    /// `None`: it is only to be previewed.
    pub(super) why: Option<String>,
}

/// Posts a correction, proposes it, or previews it.
pub(super) async fn adjust(pool: &Pool, wanted: Wanted) -> Result<Requested, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    let (policy, approvals) = (pool.operators.policy, pool.operators.approvals);
    let Wanted { correction, who, via, why } = wanted;
    let requested = match why {
        None => {
            let previewed = operators::adjust::preview(&mut connection, &correction, policy).await;
            previewed.map(Requested::Adjusted)
        }
        Some(why) => {
            let line = Line {
                who: &who,
                via,
                action: Act::Adjust.as_str(),
                why: &why,
                chosen: &correction.to_string(),
                key: None,
                proposed_by: None,
            };
            operators::adjust::request(&mut connection, &correction, (policy, approvals), line).await
        }
    };
    connection.close().await;
    requested
}

/// Carries a proposal out, and waits a little for the end; `None`: it is done, or at work, and the proposal says which.
pub(super) async fn approve(
    pool: &Arc<Pool>,
    proposal: i64,
    who: String,
    via: Via,
) -> Result<Option<Objection>, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    info!(proposal, "an operator approves a proposal");
    let working = Arc::clone(pool);
    let ended = wait_a_little(async move {
        let with = &working.operators;
        let trust =
            Trust { keyring: &with.keys.current(), endpoints: &with.endpoints, references: &with.references };
        let approver = Approver { name: &who, via };
        let approved = approvals::approve(&mut connection, proposal, approver, (&trust, with.policy)).await;
        connection.close().await;
        working.watch.cases_changed();
        approved
    })
    .await;
    ended.unwrap_or(Ok(None))
}

/// Ends a proposal without carrying it out; `None`: it is rejected.
pub(super) async fn reject(
    pool: &Arc<Pool>,
    proposal: i64,
    who: &str,
    why: &str,
) -> Result<Option<Objection>, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    info!(proposal, "an operator rejects a proposal");
    connection.run(async |connection| proposals::reject(connection, proposal, who, why).await).await
}
