//! Load → decide → apply: how callbacks and stored cases become rows, whoever brings them. A worker's batch, a replay, a message verified
//! again, a hold whose time is up and the callbacks of a program that embeds payonce all go this way.
//!
//! The round trips to PostgreSQL of one batch. "Where needed": only where the batch has something of the kind.
//!
//! | phase | statement | when |
//! |---|---|---|
//! | load | accounts of callbacks that name none | where needed |
//! | load | accounts, and the newest case about each that is not open | always |
//! | load | callbacks that wait on these accounts, and the accounts that those name | where needed |
//! | load | payments; deposits; movements that a reversal names | where needed, each |
//! | load | cases by key and by content; cases assigned to another account | always; where needed |
//! | load | ledger rows by both idempotency keys, of callbacks that are not proved by writing them | where needed |
//! | decide | none: `payonce-ledger` is pure | |
//! | apply | `begin` | always |
//! | apply | a shorter lock timeout, and the accounts whose rows are free | where locked ones are skipped |
//! | apply | a lock on openings, and whether the account is still missing | where an account is missing |
//! | apply | accounts: locked in the order of their ids, then changed where their version is the expected one | where money moves |
//! | apply | ledger rows, refused by the unique keys where they are there | where money moves |
//! | apply | payments, changed and new | where needed, each |
//! | apply | cases: new ones, ended ones, and the count of what waits | where needed, each |
//! | apply | references of callbacks | where `reference_fields` names some and a callback has one |
//! | apply | duplicates and the counts of outcomes; ledger rows of copies that done markers name; which history this is: one statement, the last | always |
//! | apply | `commit` | always |
//!
//! Between the load and the commit a concurrent writer may change anything: each row that the plan rests on is guarded by its version or a unique
//! key, and what loses against another writer is decided again on a fresh snapshot. What must not live here: queues, caches, who may ask
//! for it.

mod parts;
mod planning;
mod replay;

pub use parts::{CONFLICTS_MAX, Part, Parts, PassedOver, Tried};
pub use planning::{Phase, plan};
pub use replay::{REPLAY_BATCH_MAX, REPLAY_WAITS_MAX, replay, replay_others};

use payonce_ledger::{AccountId, Callback, CaseId, Outcome, Plan, Rules, decide};
use payonce_message::references::Reference;

use super::{Applied, Batch, Connection, Locking, Resolver, StoreError, apply, load};

/// What holds for every decision, whoever asks for it: a worker, or a person who replays.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The rules that a team may set.
    pub rules: Rules,
    /// Whether cases keep card data masked.
    pub mask_cards: bool,
}

/// Who settles callbacks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Settling<'a> {
    /// Counts are kept apart by this name.
    pub writer: &'a str,
    /// The rules.
    pub policy: Policy,
    /// Who ends the stored cases that end with these callbacks.
    pub resolver: Resolver<'a>,
    /// The stored cases that the callbacks come from, one each; empty where they come from none.
    pub proven: &'a [CaseId],
    /// The references of each callback, in their order; empty where none are kept.
    pub references: &'a [Vec<Reference>],
    /// What to do about locks of others. Where more than one account is needed, none is waited for.
    pub locking: Locking,
}

/// What became of one callback in a transaction that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is settled.
    Settled(Outcome),
    /// Nothing of it is written: another writer changed this account first.
    Lost(AccountId),
    /// Nothing of it is written: somebody has this account locked.
    Locked(AccountId),
}

/// What is to be done about these callbacks, on what the database knows now. Nothing is written.
///
/// # Errors
/// [`StoreError`].
pub async fn preview(
    connection: &mut Connection,
    callbacks: &[Callback],
    rules: Rules,
) -> Result<Plan, StoreError> {
    let snapshot = connection.run(async |connection| load(connection, callbacks).await).await?;
    Ok(decide(&snapshot, callbacks, &rules))
}

/// Settles these callbacks in one transaction, with their bodies; the fate of each, in their order. Whoever calls this tries those again that
/// are not settled: [`settle_all`] does.
///
/// # Errors
/// [`StoreError`]. After [`StoreError::Conflict`] nothing is written, and it is to be decided again. After
/// [`StoreError::Unavailable`] it is unknown whether all is written or nothing; the same callbacks may be settled again in both cases.
pub async fn settle(
    connection: &mut Connection,
    callbacks: &[Callback],
    bodies: &[&[u8]],
    how: Settling<'_>,
) -> Result<Vec<Fate>, StoreError> {
    let Settling { writer, policy, resolver, proven, references, locking } = how;
    let plan = preview(connection, callbacks, policy.rules).await?;
    let (outcomes, subjects) = (plan.outcomes.clone(), plan.subjects.clone());
    let batch = Batch {
        writer,
        locking: locking_for(&plan, locking),
        plan,
        callbacks,
        bodies,
        mask_cards: policy.mask_cards,
        references,
        undecodable: &[],
        resolver,
        proven,
        remembered: &[],
    };
    let Applied { lost_callbacks, locked_callbacks, .. } =
        connection.run(async |connection| apply(connection, batch).await).await?;
    let flags = lost_callbacks.into_iter().zip(locked_callbacks);
    let fates = outcomes.into_iter().zip(subjects).zip(flags);
    Ok(fates
        .map(|((outcome, subject), (is_lost, is_locked))| match subject.filter(|_| is_lost) {
            Some(account_id) if is_locked => Fate::Locked(account_id),
            Some(account_id) => Fate::Lost(account_id),
            None => Fate::Settled(outcome),
        })
        .collect())
}

/// Settles these callbacks in as many transactions as concurrent writers make necessary: in each what can be written is, and what somebody has
/// locked is waited for at the end, up to `waits_max` accounts. Returns the outcome of each, in their order; what is `None` could not be
/// written now, and is in the second list with its cause, by its place. Safe to repeat, and beside workers: the ledger's unique keys say what is
/// known already.
///
/// For callers without a broker, who keep the messages themselves: a callback that becomes a case here keeps what was read of it, and no body
/// ([`settle`] takes bodies). Everything is settled when this returns; how many are given at once is the caller's choice, 500 are a
/// good batch, and [`REPLAY_WAITS_MAX`] a good limit of waits.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Unfit`]: some may be settled by then, and the same call again goes on.
pub async fn settle_all(
    connection: &mut Connection,
    callbacks: &[Callback],
    writer: &str,
    policy: Policy,
    waits_max: usize,
) -> Result<(Vec<Option<Outcome>>, Vec<PassedOver<usize>>), StoreError> {
    let mut outcomes = vec![None; callbacks.len()];
    let mut parts = Parts::new((0..callbacks.len()).collect(), waits_max);
    while let Some(part) = parts.next_part() {
        let tried = settle_part(connection, callbacks, &part, (writer, policy), &mut outcomes).await;
        parts.tried(part, tried)?;
    }
    Ok((outcomes, parts.passed_over()))
}

async fn settle_part(
    connection: &mut Connection,
    callbacks: &[Callback],
    part: &Part<usize>,
    (writer, policy): (&str, Policy),
    outcomes: &mut [Option<Outcome>],
) -> Result<Tried<usize>, StoreError> {
    let these: Vec<Callback> = part.items.iter().filter_map(|at| callbacks.get(*at).cloned()).collect();
    let bodies = vec![&b""[..]; these.len()];
    let how = Settling {
        writer,
        policy,
        resolver: Resolver::WORKER,
        proven: &[],
        references: &[],
        locking: part.locking,
    };
    let mut tried = Tried::default();
    for (at, fate) in part.items.iter().zip(settle(connection, &these, &bodies, how).await?) {
        if let Some(slot) = outcomes.get_mut(*at) {
            *slot = tried.note(fate, *at);
        }
    }
    Ok(tried)
}

/// One that waits has nobody else's account locked meanwhile.
fn locking_for(plan: &Plan, locking: Locking) -> Locking {
    if plan.accounts.len() > 1 { Locking::Skip } else { locking }
}
