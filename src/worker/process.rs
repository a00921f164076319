//! ONE batch, top to bottom: decode, ask Redis, load, decide, apply, remember. What comes back says how each delivery is to be
//! settled; nothing is settled before this returns.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    time::Instant,
};

use tracing::{error, info};

use super::{
    batch::Taken,
    disposition::{self, NextStep},
    lane::{Lane, LaneEnd, Origin},
};
use crate::{
    broker::Verb,
    crash::{self, Point},
    ledger::{AccountId, Callback, Fingerprint, Key, Layer, Outcome, Plan, Reason, decide, give_up},
    metrics::{self, Stage},
    retry::Pauses,
    store::{self, Applied, Batch, Epoch, Resolver, StoreError, Tally, TallyKind, Undecodable},
    wire::{self, WireError},
};

/// Works one batch until all of it is committed or known, and returns one verb per delivery, in order; `None` for one that can
/// only stay with the broker.
///
/// # Errors
/// [`LaneEnd`] where the lane has to stop first. Some of the batch may be committed by then; nothing of it is settled.
pub(super) async fn process(lane: &mut Lane, batch: &[Taken]) -> Result<Vec<Option<Verb>>, LaneEnd> {
    let started = Instant::now();
    let decoded: Vec<Result<Callback, WireError>> =
        batch.iter().map(|taken| wire::decode(&taken.delivery.body)).collect();
    metrics::stage_took(Stage::Decode, started.elapsed());

    let mut verbs = vec![Some(Verb::Ack); batch.len()];
    let mut pauses = Pauses::new(lane.worker.retry);
    let mut conflicts = 0;
    // Parts of the batch still to be written: all of it, unless the database refuses some message.
    let mut parts: Vec<Range<usize>> = Vec::new();
    parts.push(0..batch.len());
    // What is committed already: a part that loses a race after that must not count it again.
    let mut is_committed = vec![false; batch.len()];
    while let Some(part) = parts.pop() {
        let left = part.clone().filter(|at| !is_committed[*at]);
        let mut work = Work::new(left, batch, &decoded, lane.origin);
        let Err(cause) = write(lane, &mut work).await else { continue };
        if work.is_partly_committed {
            part.clone().for_each(|at| is_committed[at] = work.positions.binary_search(&at).is_err());
        }
        conflicts = if matches!(cause, StoreError::Conflict(_)) { conflicts + 1 } else { 0 };
        match disposition::after(&cause, conflicts, lane.worker.config.conflict_retries_max, part.len()) {
            NextStep::DecideAgain => parts.push(part),
            NextStep::Wait => {
                lane.pause(&cause, started, &mut pauses).await?;
                parts.push(part);
            }
            NextStep::Split => {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
            }
            NextStep::DeadLetter => {
                error!(writer = lane.writer, cause = %cause, "PostgreSQL refuses a message; it goes to the dead-letter queue");
                // Behind the dead-letter queue there is no other: rejected there, it would be lost.
                verbs[part].fill(match lane.origin {
                    Origin::Queue => Some(Verb::DeadLetter),
                    Origin::GivenUp => None,
                });
            }
        }
    }
    Ok(verbs)
}

/// A part of a batch on its way through the stages.
struct Work<'a> {
    /// Where in the batch each callback is, ascending.
    positions: Vec<usize>,
    callbacks: Vec<Callback>,
    bodies: Vec<&'a [u8]>,
    undecodable: Vec<Undecodable<'a>>,
    /// Copies that a done marker turned away, not counted yet.
    remembered: Vec<(Key, Layer)>,
    /// Whether all but `callbacks` is committed.
    is_partly_committed: bool,
}

impl<'a> Work<'a> {
    fn new(
        positions: impl Iterator<Item = usize>,
        batch: &'a [Taken],
        decoded: &[Result<Callback, WireError>],
        origin: Origin,
    ) -> Self {
        let mut work = Self {
            positions: Vec::new(),
            is_partly_committed: false,
            callbacks: Vec::new(),
            bodies: Vec::new(),
            undecodable: Vec::new(),
            remembered: Vec::new(),
        };
        let mut first_copies: HashMap<(Option<Key>, Fingerprint), usize> = HashMap::new();
        for at in positions {
            let (Some(taken), Some(decoded)) = (batch.get(at), decoded.get(at)) else { continue };
            let body = taken.delivery.body.as_slice();
            match decoded {
                Ok(callback) => {
                    work.positions.push(at);
                    work.callbacks.push(callback.clone());
                    work.bodies.push(body);
                }
                Err(WireError { reason, detail, key }) => {
                    let fingerprint = Fingerprint::of_bytes(body);
                    let at = *first_copies.entry((key.clone(), fingerprint)).or_insert_with(|| {
                        let (key, detail) = (key.clone(), detail.clone());
                        work.undecodable.push(Undecodable {
                            key,
                            reason: match origin {
                                Origin::Queue => *reason,
                                Origin::GivenUp => Reason::DeliveryLimit,
                            },
                            detail,
                            body,
                            fingerprint,
                            attempts: 0,
                        });
                        work.undecodable.len() - 1
                    });
                    if let Some(message) = work.undecodable.get_mut(at) {
                        message.attempts += 1;
                    }
                }
            }
        }
        work
    }

    /// Keeps only the callbacks that `keep` says, with their bodies.
    fn retain(&mut self, mut keep: impl FnMut(usize, &Callback) -> bool) {
        let kept: Vec<bool> =
            self.callbacks.iter().enumerate().map(|(at, callback)| keep(at, callback)).collect();
        let mut flags = kept.iter();
        self.positions.retain(|_| flags.next().copied().unwrap_or(true));
        let mut flags = kept.iter();
        self.callbacks.retain(|_| flags.next().copied().unwrap_or(true));
        let mut flags = kept.iter();
        self.bodies.retain(|_| flags.next().copied().unwrap_or(true));
    }
}

/// Writes all of `work`, in as many transactions as rivals make necessary.
async fn write(lane: &mut Lane, work: &mut Work<'_>) -> Result<(), StoreError> {
    ask_redis(lane, work).await?;
    loop {
        let applied = write_once(lane, work).await?;
        if applied.lost.is_empty() {
            return Ok(());
        }
        // A lost race costs only the accounts that lost it: the rest is committed and counted.
        metrics::conflicts(applied.lost.len() as u64);
        work.retain(|_, callback| applied.lost.contains(&callback.account_id));
        work.undecodable.clear();
        work.remembered.clear();
        work.is_partly_committed = true;
    }
}

/// Claims the keys, and sets aside copies of callbacks whose done marker proves a commit that this database still has.
async fn ask_redis(lane: &mut Lane, work: &mut Work<'_>) -> Result<(), StoreError> {
    if work.callbacks.is_empty() || !lane.worker.dedupe.is_available() {
        return Ok(());
    }
    let started = Instant::now();
    loop {
        let epoch = match &lane.epoch {
            Some(epoch) => epoch.clone(),
            None => read_epoch(lane).await?,
        };
        // Copies inside the batch claim once: the second SET would only find the first one's claim.
        let mut positions: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
        for (at, callback) in work.callbacks.iter().enumerate() {
            positions.entry(&callback.key).or_default().push(at);
        }
        let keys: Vec<&Key> = positions.keys().copied().collect();
        let markers = lane.worker.dedupe.claim(epoch.as_str(), &keys).await;
        crash::reach(Point::AfterClaim).await?;
        // One marker turns away one copy; further copies of it in this batch are the batch's own.
        let mut hits: HashMap<usize, Layer> = HashMap::new();
        for ((_, at), marker) in positions.iter().zip(&markers) {
            let Some(marker) = marker else { continue };
            let same = |at: &&usize| {
                work.callbacks.get(**at).is_some_and(|callback| callback.fingerprint == *marker)
            };
            let layers = std::iter::once(Layer::Redis).chain(std::iter::repeat(Layer::Batch));
            hits.extend(at.iter().filter(same).copied().zip(layers));
        }
        // A marker counts only if this database is, now, the one it was written for. After a failover that lost commits, or a
        // restore, it is another one, and what the marker remembers may never have been applied here.
        if !hits.is_empty() && read_epoch(lane).await? != epoch {
            info!(writer = lane.writer, "another database epoch; markers of the one before are not trusted");
            continue;
        }
        let remembered =
            hits.iter().filter_map(|(at, layer)| Some((work.callbacks.get(*at)?.key.clone(), *layer)));
        work.remembered = remembered.collect();
        work.retain(|at, _| !hits.contains_key(&at));
        metrics::stage_took(Stage::Dedupe, started.elapsed());
        return Ok(());
    }
}

async fn read_epoch(lane: &mut Lane) -> Result<Epoch, StoreError> {
    let epoch = lane.connection.run(async |connection| store::epoch(connection).await).await?;
    lane.epoch = Some(epoch.clone());
    Ok(epoch)
}

/// Load, decide, apply, remember.
async fn write_once(lane: &mut Lane, work: &Work<'_>) -> Result<Applied, StoreError> {
    let Lane { worker, origin, writer, connection, epoch, .. } = lane;
    let started = Instant::now();
    let snapshot = if work.callbacks.is_empty() {
        Default::default()
    } else {
        connection.run(async |connection| store::load(connection, &work.callbacks).await).await?
    };
    metrics::stage_took(Stage::Load, started.elapsed());
    crash::reach(Point::AfterLoad).await?;

    let started = Instant::now();
    let plan = match origin {
        Origin::Queue => decide(&snapshot, &work.callbacks),
        Origin::GivenUp => give_up(&snapshot, &work.callbacks),
    };
    metrics::stage_took(Stage::Decide, started.elapsed());
    let outcomes = plan.outcomes.clone();
    let released = released(&plan, &work.callbacks);

    let started = Instant::now();
    let batch = Batch {
        writer,
        plan,
        callbacks: &work.callbacks,
        bodies: &work.bodies,
        mask_cards: worker.config.mask_cards,
        undecodable: &work.undecodable,
        resolver: Resolver::WORKER,
        remembered: &work.remembered,
    };
    let applied = connection.run(async |connection| store::apply(connection, batch).await).await?;
    metrics::stage_took(Stage::Apply, started.elapsed());

    // After the commit, under the epoch that the commit itself read: never under one that another connection saw.
    let started = Instant::now();
    let committed = committed(&work.callbacks, &outcomes, &applied.lost);
    let released = released.iter().filter(|(account_id, ..)| !applied.lost.contains(account_id));
    let released = released.map(|(_, key, fingerprint)| (key, *fingerprint));
    worker.dedupe.remember(applied.epoch.as_str(), committed.chain(released)).await;
    metrics::stage_took(Stage::Mark, started.elapsed());
    crash::reach(Point::AfterMarker).await?;
    *epoch = Some(applied.epoch.clone());
    count(worker, &applied.tallies);
    Ok(applied)
}

/// Callbacks of this batch whose ledger row is committed.
fn committed<'a>(
    callbacks: &'a [Callback],
    outcomes: &'a [Outcome],
    lost: &'a HashSet<AccountId>,
) -> impl Iterator<Item = (&'a Key, Fingerprint)> {
    callbacks.iter().zip(outcomes).filter_map(|(callback, outcome)| {
        let in_ledger = match outcome {
            Outcome::Applied | Outcome::Duplicate(Layer::Ledger) => true,
            Outcome::Duplicate(Layer::Batch | Layer::Redis | Layer::Operation | Layer::Quarantine)
            | Outcome::Quarantined(_)
            | Outcome::Waiting => false,
        };
        (in_ledger && !lost.contains(&callback.account_id)).then_some((&callback.key, callback.fingerprint))
    })
}

/// Callbacks that waited in quarantine and are in the ledger with this plan.
fn released(plan: &Plan, callbacks: &[Callback]) -> Vec<(AccountId, Key, Fingerprint)> {
    if plan.resolved_cases.is_empty() {
        return Vec::new();
    }
    let arrived: HashSet<&Key> = callbacks.iter().map(|callback| &callback.key).collect();
    let waited =
        plan.entries.iter().map(|entry| &entry.callback).filter(|callback| !arrived.contains(&callback.key));
    waited.map(|callback| (callback.account_id.clone(), callback.key.clone(), callback.fingerprint)).collect()
}

/// The metrics say what the transaction counted.
fn count(worker: &super::Worker, tallies: &BTreeMap<Tally, i64>) {
    for (Tally { kind, source, label }, n) in tallies {
        let n = u64::try_from(*n).unwrap_or(0);
        match kind {
            TallyKind::Applied | TallyKind::Released => worker.by_source.applied(source, label, n),
            TallyKind::Duplicate => worker.by_source.duplicates(source, label, n),
            TallyKind::Quarantined => worker.by_source.quarantined(label, n),
        }
    }
}
