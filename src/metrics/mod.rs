//! Every metric, with its help text, in one list (contract §6).

pub mod cases;
pub mod debts;
pub mod ingress;
pub mod limits;
pub mod webhooks;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const RECEIVED: &str = "payonce_callbacks_received_total";
const APPLIED: &str = "payonce_callbacks_applied_total";
const DUPLICATES: &str = "payonce_duplicates_rejected_total";
const QUARANTINED: &str = "payonce_callbacks_quarantined_total";
const BATCH_SIZE: &str = "payonce_batch_size";
const BATCH_DURATION: &str = "payonce_batch_duration_seconds";
const LATENCY: &str = "payonce_callback_latency_seconds";
const CONFLICTS: &str = "payonce_version_conflicts_total";
const REDIS_AVAILABLE: &str = "payonce_redis_available";
const BAD_SIGNATURES: &str = "payonce_bad_signatures_total";
const SET_ASIDE: &str = "payonce_callbacks_set_aside";
const WRITTEN_PLAINLY: &str = "payonce_cases_written_plainly_total";
const KEYS_FILE_OK: &str = "payonce_keys_file_ok";
const BUILD: &str = "payonce_build_info";
const API_DURATION: &str = "payonce_api_duration_seconds";
const FEED_SENT: &str = "payonce_feed_sent_total";
const FEED_UNROUTABLE: &str = "payonce_feed_unroutable_total";
const FEED_LEADER: &str = "payonce_feed_is_leader";
const FEED_LAG_ROWS: &str = "payonce_feed_lag_rows";
const FEED_LAG: &str = "payonce_feed_lag_seconds";
// Of `payonce ops` only. Its totals have names of their own, so that nobody adds them up with a worker's.
const POOL_RECEIVED: &str = "payonce_pool_callbacks_received_total";
const POOL_APPLIED: &str = "payonce_pool_callbacks_applied_total";
const POOL_DUPLICATES: &str = "payonce_pool_duplicates_rejected_total";
const POOL_QUARANTINED: &str = "payonce_pool_callbacks_quarantined_total";
const POOL_BY_SOURCE: &str = "payonce_pool_source_callbacks_total";
const POOL_BAD_SIGNATURES: &str = "payonce_pool_bad_signatures_total";
const SERVER_UP: &str = "payonce_server_up";
const WORKERS_UP: &str = "payonce_workers_up";
const WORKERS_READY: &str = "payonce_workers_ready";
const WORKERS_WITHOUT_REDIS: &str = "payonce_workers_without_redis";
const OLDEST_UNSETTLED: &str = "payonce_oldest_unsettled_seconds";
const BACKLOG: &str = "payonce_backlog_messages";
const BACKLOG_AGE: &str = "payonce_backlog_age_seconds";
const CASES: &str = "payonce_cases";
const POOL_FEED_UP: &str = "payonce_pool_feed_up";
const POOL_FEED_LAG_ROWS: &str = "payonce_pool_feed_lag_rows";
const POOL_FEED_LAG: &str = "payonce_pool_feed_lag_seconds";
const AUDIT_OK: &str = "payonce_audit_ok";
const AUDIT_AGE: &str = "payonce_audit_age_seconds";
const AUDIT_PAUSE: &str = "payonce_audit_pause_seconds";
const AUDIT_VIOLATIONS: &str = "payonce_audit_violations";

const BATCH_SIZE_BUCKETS: [f64; 12] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0];
const SECONDS_BUCKETS: [f64; 15] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// The quarantine reason that is counted by source too.
const BAD_SIGNATURE: &str = "bad_signature";

/// The label of sources beyond the limit.
const OTHER: &str = "other";

/// Installs the recorder of this process.
///
/// # Errors
/// Where one is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(BATCH_SIZE.to_owned()), &BATCH_SIZE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .install_recorder()?;
    describe_counter!(RECEIVED, "Deliveries taken from the queue, redeliveries included.");
    describe_counter!(APPLIED, "Callbacks written to the ledger.");
    cases::describe();
    describe_counter!(DUPLICATES, "Duplicates rejected, by detection layer.");
    describe_counter!(QUARANTINED, "Callbacks put into quarantine, by reason.");
    describe_counter!(
        BAD_SIGNATURES,
        "Callbacks quarantined as bad_signature, by the source they claim; an unknown one is empty."
    );
    describe_counter!(
        CONFLICTS,
        "Accounts whose decision was void because a concurrent writer changed them first."
    );
    describe_gauge!(
        SET_ASIDE,
        "Deliveries that wait apart, unsettled, while others go on: a row they need is locked, or PostgreSQL refuses them (refused: somebody has to look)."
    );
    describe_counter!(
        WRITTEN_PLAINLY,
        "Messages that are no callbacks whose case PostgreSQL took only without what was read of them."
    );
    describe_gauge!(REDIS_AVAILABLE, "1 while Redis answers, 0 while the worker goes on without it.");
    describe_histogram!(BATCH_SIZE, "Deliveries per batch.");
    describe_histogram!(BATCH_DURATION, Unit::Seconds, "Time a batch spends in each stage.");
    describe_histogram!(LATENCY, Unit::Seconds, "Time from taking a delivery to acknowledging it.");
    describe_gauge!(
        KEYS_FILE_OK,
        "0 while keys_file cannot be used and the keys from before stay in force; else 1, also with no such file."
    );
    describe_gauge!(BUILD, "1, with the version of the program.");
    describe_counter!(POOL_RECEIVED, "Callbacks that the whole pool has settled, duplicates included.");
    describe_counter!(POOL_APPLIED, "Callbacks that the whole pool has written to the ledger.");
    describe_counter!(POOL_DUPLICATES, "Duplicates that the whole pool has rejected, by detection layer.");
    describe_counter!(POOL_QUARANTINED, "Cases that the whole pool has opened, by reason.");
    describe_counter!(
        POOL_BAD_SIGNATURES,
        "Of these, those with reason bad_signature, by the source they claim; an unknown one is empty."
    );
    describe_counter!(
        POOL_BY_SOURCE,
        "Callbacks that the whole pool has settled, duplicates and cases included, by source."
    );
    describe_gauge!(SERVER_UP, "1 while this server answers `payonce ops`.");
    describe_gauge!(WORKERS_UP, "Workers that report.");
    describe_gauge!(WORKERS_READY, "Workers that report and take messages.");
    describe_gauge!(WORKERS_WITHOUT_REDIS, "Workers that report and go on without Redis.");
    describe_gauge!(
        OLDEST_UNSETTLED,
        Unit::Seconds,
        "How long a worker has held its oldest unsettled delivery, at most."
    );
    describe_gauge!(BACKLOG, "Messages that wait for a worker, by queue: callbacks, or dead_letter.");
    describe_gauge!(
        BACKLOG_AGE,
        Unit::Seconds,
        "How long the oldest callback on the queue has waited, about."
    );
    describe_gauge!(
        CASES,
        "Quarantine cases that wait for a person (open) or for another callback (waiting)."
    );
    describe_gauge!(
        AUDIT_OK,
        "1 where the last audit of `payonce ops` found no violation, 0 where it found one."
    );
    describe_gauge!(
        AUDIT_AGE,
        Unit::Seconds,
        "How long ago the last audit of `payonce ops` ended; before the first, how long it has been waited for."
    );
    describe_gauge!(
        AUDIT_PAUSE,
        Unit::Seconds,
        "Pause between two audits of `payonce ops`; 0: it makes none."
    );
    describe_gauge!(AUDIT_VIOLATIONS, "Violations that it found, by check.");
    describe_histogram!(
        API_DURATION,
        Unit::Seconds,
        "Time that `payonce api` took for an answer, by status."
    );
    describe_counter!(FEED_SENT, "Ledger rows whose receiver has confirmed them, copies included, by feed.");
    describe_counter!(FEED_UNROUTABLE, "Events that no queue is bound for.");
    describe_gauge!(FEED_LEADER, "1 in the process that works for this feed.");
    describe_gauge!(FEED_LAG_ROWS, "Committed ledger rows that the feed has not sent, at most 100 000.");
    describe_gauge!(
        FEED_LAG,
        Unit::Seconds,
        "How long the oldest row that the feed has not sent is in the ledger."
    );
    describe_gauge!(POOL_FEED_UP, "1 while a process works for this feed.");
    describe_gauge!(POOL_FEED_LAG_ROWS, "As payonce_feed_lag_rows, of every feed, seen from the database.");
    describe_gauge!(
        POOL_FEED_LAG,
        Unit::Seconds,
        "As payonce_feed_lag_seconds, of every feed, seen from the database."
    );
    ingress::describe();
    webhooks::describe();
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// This process is a worker: its counters are there before they count.
pub fn worker_starts() {
    counter!(RECEIVED).absolute(0);
    counter!(CONFLICTS).absolute(0);
    counter!(WRITTEN_PLAINLY).absolute(0);
    for why in ["locked", "refused"] {
        set_aside(why, 0);
    }
}

/// The parts of a batch's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes to callbacks.
    Decode,
    /// Whether they come from their provider.
    Verify,
    /// Asking Redis.
    Dedupe,
    /// Reading the snapshot.
    Load,
    /// Deciding.
    Decide,
    /// The transaction.
    Apply,
    /// Writing done markers.
    Mark,
    /// Waiting to be acknowledged, and the acknowledgement.
    Settle,
}

impl Stage {
    /// Its name in metrics and traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Verify => "verify",
            Self::Dedupe => "dedupe",
            Self::Load => "load",
            Self::Decide => "decide",
            Self::Apply => "apply",
            Self::Mark => "mark",
            Self::Settle => "settle",
        }
    }
}

/// So many deliveries came.
pub fn received(n: u64) {
    counter!(RECEIVED).increment(n);
}

/// A batch was closed with so many deliveries.
pub fn batch_closed(size: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a batch has at most 5 000 deliveries")]
    histogram!(BATCH_SIZE).record(size as f64);
}

/// A stage of a batch took so long.
pub fn stage_took(stage: Stage, duration: Duration) {
    histogram!(BATCH_DURATION, "stage" => stage.as_str()).record(duration.as_secs_f64());
}

/// A delivery was settled so long after it came.
pub fn settled(latency: Duration) {
    histogram!(LATENCY).record(latency.as_secs_f64());
}

/// So many accounts were decided again after a version conflict.
pub fn conflicts(accounts: u64) {
    counter!(CONFLICTS).increment(accounts);
}

/// Redis answers, or not.
pub fn redis_available(available: bool) {
    gauge!(REDIS_AVAILABLE).set(if available { 1.0 } else { 0.0 });
}

/// `keys_file` can be used, or not.
pub fn keys_file_ok(ok: bool) {
    gauge!(KEYS_FILE_OK).set(if ok { 1.0 } else { 0.0 });
}

/// So many deliveries more, or fewer, wait apart for this cause.
pub fn set_aside(why: &'static str, change: i64) {
    #[expect(clippy::cast_precision_loss, reason = "a worker holds fewer than 2^52 deliveries")]
    gauge!(SET_ASIDE, "why" => why).increment(change as f64);
}

/// A case was written without what was read of its message.
pub fn written_plainly() {
    counter!(WRITTEN_PLAINLY).increment(1);
}

/// The api has answered with this status, after so long.
pub fn api_answered(status: u16, duration: Duration) {
    histogram!(API_DURATION, "status" => status.to_string()).record(duration.as_secs_f64());
}

/// So many rows are confirmed by the receiver of this feed.
pub fn feed_sent(feed: &str, rows: usize) {
    counter!(FEED_SENT, "feed" => feed.to_owned()).increment(rows as u64);
}

/// No queue was bound for an event.
pub fn feed_unroutable() {
    counter!(FEED_UNROUTABLE).increment(1);
}

/// This process works for this feed, or not.
pub fn feed_is_leader(feed: &str, is_leader: bool) {
    gauge!(FEED_LEADER, "feed" => feed.to_owned()).set(if is_leader { 1.0 } else { 0.0 });
}

/// A feed is so many rows behind, and so many seconds.
pub fn feed_lag(feed: &str, rows: i64, seconds: f64) {
    #[expect(clippy::cast_precision_loss, reason = "at most 100 000 are counted")]
    gauge!(FEED_LAG_ROWS, "feed" => feed.to_owned()).set(rows as f64);
    gauge!(FEED_LAG, "feed" => feed.to_owned()).set(seconds);
}

/// What the database says of a feed: whether somebody works for it, and how far it is behind.
pub fn pool_feed(feed: &str, is_up: bool, rows: i64, seconds: f64) {
    gauge!(POOL_FEED_UP, "feed" => feed.to_owned()).set(if is_up { 1.0 } else { 0.0 });
    #[expect(clippy::cast_precision_loss, reason = "at most 100 000 are counted")]
    gauge!(POOL_FEED_LAG_ROWS, "feed" => feed.to_owned()).set(rows as f64);
    gauge!(POOL_FEED_LAG, "feed" => feed.to_owned()).set(seconds);
}

/// A server answers `payonce ops`, or not.
pub fn server_up(server: &'static str, is_up: bool) {
    gauge!(SERVER_UP, "server" => server).set(if is_up { 1.0 } else { 0.0 });
}

/// So many workers report, of them so many take messages, and so many go on without Redis; the oldest delivery that one of them holds.
pub fn workers(up: usize, ready: usize, without_redis: usize, oldest_unsettled: Duration) {
    for (name, n) in [(WORKERS_UP, up), (WORKERS_READY, ready), (WORKERS_WITHOUT_REDIS, without_redis)] {
        gauge!(name).set(f64::from(u32::try_from(n).unwrap_or(u32::MAX)));
    }
    gauge!(OLDEST_UNSETTLED).set(oldest_unsettled.as_secs_f64());
}

/// So many callbacks wait on the queue, and so many messages on the dead-letter queue.
pub fn backlog(ready: u32, dead_letters: u32) {
    gauge!(BACKLOG, "queue" => "callbacks").set(f64::from(ready));
    gauge!(BACKLOG, "queue" => "dead_letter").set(f64::from(dead_letters));
}

/// The oldest callback waits so long; `None`: none waits.
pub fn backlog_age(age: Option<Duration>) {
    gauge!(BACKLOG_AGE).set(age.unwrap_or_default().as_secs_f64());
}

/// So many cases are in this state for this reason.
pub fn cases(state: &'static str, reason: &'static str, n: i64) {
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 cases")]
    gauge!(CASES, "state" => state, "reason" => reason).set(n as f64);
}

/// The last audit passed or failed (`None`: there was none yet), and ended so long ago; with this pause between two.
pub fn audited(are_right: Option<bool>, age: Duration, pause: Duration) {
    if let Some(are_right) = are_right {
        gauge!(AUDIT_OK).set(if are_right { 1.0 } else { 0.0 });
    }
    gauge!(AUDIT_AGE).set(age.as_secs_f64());
    gauge!(AUDIT_PAUSE).set(pause.as_secs_f64());
}

/// A check of that audit found so many violations.
pub fn audit_violations(check: &'static str, n: i64) {
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 violations")]
    gauge!(AUDIT_VIOLATIONS, "check" => check).set(n as f64);
}

/// Counters by source, of a bounded number of sources: whoever writes to the queue invents names at will.
#[derive(Debug, Clone)]
pub struct BySource {
    known: Arc<Mutex<HashSet<String>>>,
    sources_max: usize,
}

impl BySource {
    /// Names the first `sources_max` sources it sees.
    #[must_use]
    pub fn new(sources_max: usize) -> Self {
        Self { known: Arc::default(), sources_max }
    }

    /// So many callbacks of this source and type are in the ledger.
    pub fn applied(&self, source: &str, kind: &'static str, n: u64) {
        counter!(APPLIED, "source" => self.label(source), "type" => kind).increment(n);
    }

    /// Ledger rows about so much money were written: minor units, by source and currency.
    pub fn money(&self, amounts: &BTreeMap<(String, &'static str), i128>) {
        for ((source, currency), amount) in amounts {
            cases::applied(self.label(source), currency, *amount);
        }
    }

    /// What open cases are about: (source, ISO 4217 code, minor units).
    pub fn set_case_money<'a>(&self, sums: impl Iterator<Item = (&'a str, &'a str, i128)>) {
        cases::set_money_by_source(sums.map(|(source, currency, sum)| (self.label(source), currency, sum)));
    }

    /// So many copies were rejected.
    pub fn duplicates(&self, source: &str, layer: &'static str, n: u64) {
        counter!(DUPLICATES, "source" => self.label(source), "layer" => layer).increment(n);
    }

    /// So many callbacks that claim this source were quarantined.
    pub fn quarantined(&self, source: &str, reason: &'static str, n: u64) {
        counter!(QUARANTINED, "reason" => reason).increment(n);
        if reason == BAD_SIGNATURE {
            counter!(BAD_SIGNATURES, "source" => self.label(source)).increment(n);
        }
    }

    /// Sets the counters to the totals that all workers have committed: (kind, source, label, how many).
    pub fn set_totals<'a>(&self, totals: impl Iterator<Item = (&'a str, &'a str, &'a str, i64)>) {
        type Series = (&'static str, Vec<(&'static str, String)>);
        let mut sums: BTreeMap<Series, u64> = BTreeMap::from([((POOL_RECEIVED, Vec::new()), 0)]);
        for (kind, source, label, n) in totals {
            let n = u64::try_from(n).unwrap_or(0);
            let (reason, label) = (label, label.to_owned());
            let line = match kind {
                "applied" | "released" => {
                    (POOL_APPLIED, vec![("source", self.label(source)), ("type", label)])
                }
                "duplicate" => (POOL_DUPLICATES, vec![("source", self.label(source)), ("layer", label)]),
                _ => (POOL_QUARANTINED, vec![("reason", label)]),
            };
            *sums.entry(line).or_default() += n;
            if kind == "quarantined" && reason == BAD_SIGNATURE {
                *sums.entry((POOL_BAD_SIGNATURES, vec![("source", self.label(source))])).or_default() += n;
            }
            if kind != "released" {
                *sums.entry((POOL_RECEIVED, Vec::new())).or_default() += n;
                *sums.entry((POOL_BY_SOURCE, vec![("source", self.label(source))])).or_default() += n;
            }
        }
        for ((name, labels), n) in sums {
            counter!(name, &labels).absolute(n);
        }
    }

    fn label(&self, source: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(source) {
            return source.to_owned();
        }
        if known.len() < self.sources_max {
            known.insert(source.to_owned());
            return source.to_owned();
        }
        OTHER.to_owned()
    }
}
