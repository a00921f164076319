//! ONE batch, top to bottom: decode, ask Redis, load, decide, apply, remember. What comes back says how each delivery is to be
//! settled; nothing is settled before this returns.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    time::Instant,
};

use tracing::{error, info, warn};

use super::{
    aside::Subject,
    batch::Taken,
    dead_letter,
    disposition::{self, NextStep, Why},
    lane::{Lane, LaneEnd, Origin},
    stage::Timed,
    work::Work,
};
use crate::{
    broker::Delivery,
    crash::{self, Point},
    dedupe::Advice,
    keys::Keyring,
    ledger::{
        self, AccountId, Callback, Fingerprint, Key, Layer, Outcome, Plan, Reason, Snapshot, dead_letter,
    },
    metrics::{self, Stage},
    retry::Pauses,
    store::{
        self, Applied, Batch, Locking, Remembered, Resolver, StoreError,
        engine::{self, Phase},
    },
    wire::{self, Framing, WireError},
};

/// After a conflict so many batches look for every callback in the ledger, whatever Redis says: one that was emptied takes old
/// copies for new, and each batch with one would be written in vain first.
const DOUBT_BATCHES: u32 = 16;

/// After a wait for a lock in vain so many batches skip locked accounts: the first of each lane pays for finding one.
const SKIPPING_BATCHES: u32 = 64;

/// How a delivery of a batch ends.
#[derive(Debug)]
pub(super) enum Fate {
    /// Its row is committed, or it is a proven copy: it is acknowledged.
    Settled,
    /// It waits apart with all that has this subject, and is tried again.
    Aside(Subject, Why),
}

/// Whether the deliveries of a batch have been tried before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// They have just come: those about what is set aside join it.
    First,
    /// They were set aside.
    Again,
}

/// Works one batch until all of it is committed, known, or found to be what cannot be written now; returns what becomes of each delivery,
/// in order.
///
/// # Errors
/// [`LaneEnd`] where the lane has to stop first. Some of the batch may be committed by then; nothing of it is settled.
pub(super) async fn process(lane: &mut Lane, batch: &[Taken], trial: Trial) -> Result<Vec<Fate>, LaneEnd> {
    let started = Instant::now();
    let stage = Timed::begin(&lane.span, Stage::Decode);
    let decoded: Vec<Result<Callback, WireError>> =
        batch.iter().map(|taken| decode(&taken.delivery)).collect();
    stage.end();
    let keyring = lane.worker.keys.current();
    let stage = Timed::begin(&lane.span, Stage::Verify);
    let decoded = verify(&keyring, batch, decoded);
    stage.end();

    let mut pauses = Pauses::new(lane.worker.retry);
    let mut conflicts = 0;
    // After a conflict this batch asks the ledger alone, of every key: what Redis says may have been the reason.
    let mut asks_redis = true;
    // Why a delivery is set aside; those without an entry are settled in the end.
    let mut aside: BTreeMap<usize, Why> = BTreeMap::new();
    if trial == Trial::First {
        let waiting = |at: usize| Some((at, lane.aside.holds(&subject(batch, &decoded, at)?)?));
        aside.extend((0..batch.len()).filter_map(waiting));
    }
    // What is committed or set aside already: a part that is tried again after that must not count it again.
    let mut is_done: Vec<bool> = (0..batch.len()).map(|at| aside.contains_key(&at)).collect();
    // Messages that are no callbacks whose cases are written without what was read of them.
    let mut is_plain = vec![false; batch.len()];
    // Parts of the batch still to be written: all of it, unless some of it cannot be.
    let mut parts: Vec<Range<usize>> = Vec::new();
    let may_end_a_worker =
        lane.origin == Origin::DeadLetter && batch.iter().any(|taken| taken.delivery.is_redelivered);
    if may_end_a_worker {
        // Each alone, so that the one which does so is the only one to pay for it.
        parts.extend((0..batch.len()).rev().map(|at| at..at + 1));
    } else {
        parts.push(0..batch.len());
    }
    let mut is_stored = false;
    lane.batches_in_doubt = lane.batches_in_doubt.saturating_sub(1);
    lane.batches_skipping_locks = lane.batches_skipping_locks.saturating_sub(1);
    if trial == Trial::Again {
        lane.batches_skipping_locks = lane.batches_skipping_locks.max(1);
    }
    while let Some(part) = parts.pop() {
        let left: Vec<usize> = part.clone().filter(|at| !is_done[*at]).collect();
        if left.is_empty() {
            continue;
        }
        let config = &lane.worker.config;
        let mut work = Work::new(&left, batch, &decoded, &is_plain, lane.origin, &keyring)
            .with_references(&config.references, config.mask_cards);
        let written = write(lane, &mut work, asks_redis).await;
        for at in work.locked.drain(..) {
            aside.insert(at, Why::Locked);
            is_done[at] = true;
        }
        is_stored |= work.is_stored;
        let Err(cause) = written else {
            left.iter().for_each(|at| is_done[*at] = true);
            if left.iter().any(|at| is_plain[*at]) {
                metrics::written_plainly();
            }
            if std::mem::take(&mut is_stored) {
                dead_letter::decide_stored(lane, &work, started, &mut pauses).await?;
            }
            continue;
        };
        if work.is_partly_committed {
            left.iter().for_each(|at| is_done[*at] = work.positions.binary_search(at).is_err());
        }
        match cause {
            StoreError::Conflict(_) => {
                info!(writer = lane.writer, cause = %cause, "the batch is decided again");
                conflicts += 1;
                asks_redis = false;
                lane.batches_in_doubt = DOUBT_BATCHES;
            }
            StoreError::Blocked(_) => lane.batches_skipping_locks = SKIPPING_BATCHES,
            StoreError::Unavailable(_) | StoreError::Unfit(_) | StoreError::Refused(_) => conflicts = 0,
        }
        let mut failed = left.iter().copied().filter(|at| !is_done[*at]);
        let Some(first) = failed.next() else { continue };
        let messages = 1 + failed.count();
        match disposition::after(&cause, conflicts, lane.worker.config.conflict_retries_max, messages) {
            NextStep::DecideAgain => parts.push(part),
            NextStep::Wait => {
                lane.pause(&cause, started, &mut pauses).await?;
                parts.extend(halves(part));
            }
            NextStep::Split => parts.extend(halves(part)),
            // In no other way can a message be kept that nobody can read.
            NextStep::SetAside(Why::Refused) if is_no_callback(&decoded, first) && !is_plain[first] => {
                is_plain[first] = true;
                parts.push(part);
            }
            NextStep::SetAside(_) if lane.fails_at_everything().await => {
                lane.pause(&cause, started, &mut pauses).await?;
                parts.push(part);
            }
            NextStep::SetAside(why) => {
                lane.worker.stats.failed(&cause);
                say_set_aside(lane, batch, first, why, &cause);
                // Its like would only fail in turn.
                let failed = subject(batch, &decoded, first);
                for at in (0..batch.len()).filter(|at| !is_done[*at]).collect::<Vec<_>>() {
                    if at == first || subject(batch, &decoded, at) == failed {
                        aside.insert(at, why);
                        is_done[at] = true;
                    }
                }
            }
        }
    }
    let fates = (0..batch.len()).map(|at| match aside.get(&at).zip(subject(batch, &decoded, at)) {
        Some((why, subject)) => Fate::Aside(subject, *why),
        None => Fate::Settled,
    });
    Ok(fates.collect())
}

/// The first half last: parts are taken from the end.
fn halves(part: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let middle = part.start + part.len() / 2;
    [middle..part.end, part.start..middle].into_iter().filter(|half| !half.is_empty())
}

fn subject(batch: &[Taken], decoded: &[Result<Callback, WireError>], at: usize) -> Option<Subject> {
    let account_id = decoded.get(at)?.as_ref().ok().and_then(Callback::named_account);
    Some(match account_id {
        Some(account_id) => Subject::Account(account_id.clone()),
        None => Subject::Message(Fingerprint::of_bytes(&batch.get(at)?.delivery.body)),
    })
}

fn is_no_callback(decoded: &[Result<Callback, WireError>], at: usize) -> bool {
    decoded.get(at).is_some_and(Result::is_err)
}

/// Once for each delivery that fails at its first try; its further tries, and those that wait with it, show in metrics.
fn say_set_aside(lane: &Lane, batch: &[Taken], at: usize, why: Why, cause: &StoreError) {
    let body_sha256 = batch.get(at).map(|taken| Fingerprint::of_bytes(&taken.delivery.body).to_string());
    match why {
        Why::Locked => warn!(
            writer = lane.writer, body_sha256, cause = %cause,
            "a delivery waits for what others hold or change; they go on, and it comes again by itself"
        ),
        Why::Refused => error!(
            writer = lane.writer, body_sha256, cause = %cause,
            "PostgreSQL refuses a delivery that is sound; it is kept and tried again: fix the row, the schema or the grant that the cause \
             names"
        ),
    }
}

fn decode(Delivery { body, envelope, .. }: &Delivery) -> Result<Callback, WireError> {
    wire::decode(body).map_err(|error| {
        error.framed(&Framing {
            content_type: envelope.content_type().map(str::to_owned),
            content_encoding: envelope.content_encoding().map(str::to_owned),
            source: envelope.attribute("source"),
            id: envelope.attribute("id"),
        })
    })
}

/// Keeps callbacks that come from their provider. From here on a callback is what it says; whatever is not goes no further than a
/// message that cannot be read: into quarantine, without a key of its own, so that it cannot stand in a real one's way.
fn verify(
    keyring: &Keyring,
    batch: &[Taken],
    decoded: Vec<Result<Callback, WireError>>,
) -> Vec<Result<Callback, WireError>> {
    let verified = batch.iter().zip(decoded).map(|(Taken { delivery, .. }, decoded)| {
        let callback = decoded?;
        let Key { source, event_id } = &callback.key;
        match keyring.verify(source.as_str(), event_id.as_str(), &delivery.signature, &delivery.body) {
            Ok(()) => Ok(callback),
            Err(refusal) => Err(WireError {
                reason: Reason::BadSignature,
                detail: refusal.to_string(),
                key: Some(callback.key),
            }),
        }
    });
    verified.collect()
}

/// Times in a row that a batch may lose all that is left of it, until that counts as a conflict: it is logged then, waits between its
/// tries, and comes apart.
const LOST_IN_A_ROW_MAX: u32 = 16;

/// Writes all of `work`, in as many transactions as concurrent writers make necessary.
async fn write(lane: &mut Lane, work: &mut Work<'_>, asks_redis: bool) -> Result<(), StoreError> {
    if asks_redis {
        ask_redis(lane, work).await?;
    }
    let mut lost_in_a_row = 0;
    loop {
        let plan = plan(lane, work).await?;
        // Before the commit, whose outcome may stay unknown.
        work.is_stored |= work.is_suspect && !plan.new_cases.is_empty();
        let applied = write_once(lane, work, plan).await?;
        let Applied { lost, locked, .. } = &applied;
        if lost.is_empty() {
            return Ok(());
        }
        // A conflict costs only the accounts that have one: the rest is committed and counted. A locked one costs but its own callbacks.
        lane.worker.stats.conflicted(lost.len() - locked.len());
        let blocked = work.positions.iter().zip(&applied.locked_callbacks).filter(|(_, locked)| **locked);
        work.locked.extend(blocked.map(|(at, _)| *at));
        let is_set = |flags: &[bool], at: usize| flags.get(at).copied().unwrap_or(false);
        let left = work.callbacks.len();
        work.retain(|at, _| is_set(&applied.lost_callbacks, at) && !is_set(&applied.locked_callbacks, at));
        work.undecodable.clear();
        work.remembered.clear();
        work.is_partly_committed = true;
        if work.callbacks.is_empty() {
            return Ok(());
        }
        lost_in_a_row = if work.callbacks.len() < left { 0 } else { lost_in_a_row + 1 };
        if lost_in_a_row == LOST_IN_A_ROW_MAX {
            return Err(StoreError::Conflict(format!(
                "all accounts were changed first, {LOST_IN_A_ROW_MAX} times in a row"
            )));
        }
    }
}

/// Claims the keys, and sets aside what Redis says to be copies of committed callbacks. That is advice: the transaction that counts
/// them looks for their ledger rows.
async fn ask_redis(lane: &Lane, work: &mut Work<'_>) -> Result<(), StoreError> {
    if work.callbacks.is_empty() || !lane.worker.dedupe.is_available() {
        return Ok(());
    }
    let stage = Timed::begin(&lane.span, Stage::Dedupe);
    // Copies inside the batch claim once: the second SET would only find the first one's claim.
    let mut positions: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
    for (at, callback) in work.callbacks.iter().enumerate() {
        positions.entry(&callback.key).or_default().push(at);
    }
    let keys: Vec<&Key> = positions.keys().copied().collect();
    let advice = lane.worker.dedupe.claim(&keys).await;
    crash::hit(Point::AfterClaim).await?;
    // One marker rejects one copy; further copies of it in this batch are the batch's own.
    let mut hits: HashMap<usize, Layer> = HashMap::new();
    let mut is_new = vec![false; work.callbacks.len()];
    for ((_, at), advice) in positions.iter().zip(&advice) {
        let marker = match advice {
            Advice::Nothing => continue,
            Advice::New => {
                at.iter().for_each(|at| is_new[*at] = true);
                continue;
            }
            Advice::Done(marker) => marker,
        };
        let same =
            |at: &&usize| work.callbacks.get(**at).is_some_and(|callback| callback.fingerprint == *marker);
        let layers = std::iter::once(Layer::Redis).chain(std::iter::repeat(Layer::Batch));
        hits.extend(at.iter().filter(same).copied().zip(layers));
    }
    work.is_new = is_new;
    let remembered = hits.iter().filter_map(|(at, layer)| {
        let Callback { key, fingerprint, .. } = work.callbacks.get(*at)?;
        Some(Remembered { key: key.clone(), fingerprint: *fingerprint, layer: *layer })
    });
    work.remembered = remembered.collect();
    work.retain(|at, _| !hits.contains_key(&at));
    stage.end();
    Ok(())
}

/// Load and decide, as [`engine::plan`].
async fn plan(lane: &mut Lane, work: &Work<'_>) -> Result<Plan, StoreError> {
    if !work.callbacks.is_empty() {
        lane.connection.renew_plans(work.callbacks.len()).await?;
    }
    let trusts_redis = lane.origin == Origin::Queue && lane.batches_in_doubt == 0;
    let is_new: Vec<bool> = work.is_new.iter().map(|is_new| trusts_redis && *is_new).collect();
    let Lane { worker, connection, span, .. } = lane;
    let rules = &worker.config.rules;
    let mut stage: Option<Timed> = None;
    let begins = |phase| {
        let next = match phase {
            Phase::Load => Stage::Load,
            Phase::Decide => Stage::Decide,
        };
        if let Some(before) = stage.replace(Timed::begin(span, next)) {
            before.end();
        }
    };
    let decide = |snapshot: &Snapshot, callbacks: &[Callback]| {
        if !work.is_suspect {
            return ledger::decide(snapshot, callbacks, rules);
        }
        let mut plan = dead_letter(snapshot, callbacks, rules);
        plan.new_cases.iter_mut().for_each(|case| dead_letter::DETAIL.clone_into(&mut case.detail));
        plan
    };
    let plan = engine::plan(connection, &work.callbacks, &is_new, decide, begins).await?;
    if let Some(last) = stage {
        last.end();
    }
    Ok(plan)
}

/// Apply, remember.
async fn write_once(lane: &mut Lane, work: &Work<'_>, plan: Plan) -> Result<Applied, StoreError> {
    let locking = if lane.batches_skipping_locks > 0 { Locking::Skip } else { Locking::Wait };
    let Lane { worker, writer, connection, span, .. } = lane;
    let outcomes = plan.outcomes.clone();
    let released = released(&plan, &work.callbacks);

    let stage = Timed::begin(span, Stage::Apply);
    let batch = Batch {
        writer,
        plan,
        callbacks: &work.callbacks,
        bodies: &work.bodies,
        mask_cards: worker.config.mask_cards,
        references: &work.references,
        undecodable: &work.undecodable,
        proven: &[],
        resolver: Resolver::WORKER,
        locking,
        remembered: &work.remembered,
    };
    let applied = connection.run(async |connection| store::apply(connection, batch).await).await?;
    stage.end();

    // After the commit: a marker of what was never written would cost a look-up in vain.
    let stage = Timed::begin(span, Stage::Mark);
    let committed = committed(&work.callbacks, &outcomes, &applied.lost_callbacks);
    let released = released.iter().filter(|(account_id, ..)| !applied.lost.contains(account_id));
    let released = released.map(|(_, key, fingerprint)| (key, *fingerprint));
    worker.dedupe.remember(committed.chain(released)).await;
    stage.end();
    crash::hit(Point::AfterMarker).await?;
    worker.stats.wrote();
    worker.readiness.wrote(true);
    worker.stats.counted(&worker.by_source, &applied.tallies);
    worker.by_source.money(&applied.amounts);
    Ok(applied)
}

/// Callbacks of this batch whose ledger row is committed.
fn committed<'a>(
    callbacks: &'a [Callback],
    outcomes: &'a [Outcome],
    lost: &'a [bool],
) -> impl Iterator<Item = (&'a Key, Fingerprint)> {
    callbacks.iter().zip(outcomes).zip(lost).filter_map(|((callback, outcome), is_lost)| {
        let in_ledger = match outcome {
            Outcome::Applied | Outcome::Duplicate(Layer::Ledger) => true,
            Outcome::Duplicate(Layer::Batch | Layer::Redis | Layer::Operation | Layer::Quarantine)
            | Outcome::Quarantined(_)
            | Outcome::Waiting(_) => false,
        };
        (in_ledger && !is_lost).then_some((&callback.key, callback.fingerprint))
    })
}

/// Callbacks that waited in quarantine and are in the ledger with this plan.
fn released(plan: &Plan, callbacks: &[Callback]) -> Vec<(AccountId, Key, Fingerprint)> {
    if plan.resolved_cases.is_empty() {
        return Vec::new();
    }
    let arrived: HashSet<&Key> = callbacks.iter().map(|callback| &callback.key).collect();
    let waited = plan.entries.iter().filter(|entry| !arrived.contains(&entry.callback.key));
    waited
        .map(|entry| {
            let callback = &entry.callback;
            (entry.leg.account_id.clone(), callback.key.clone(), callback.fingerprint)
        })
        .collect()
}
