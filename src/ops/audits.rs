//! The audits that `payonce ops` makes by itself, so that a page and an alert can say that the ledger audit failed. When they were made is
//! told by how long ago that is, and "what is new" by the database's clock: this machine's may be an hour off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    audit::{self, Place},
    dedupe::Dedupe,
    ledger::Rules,
    metrics,
    store::{self, Database, StoreError},
};

/// How far an audit reaches back behind the start of the one before: a transaction that was open then has its rows stamped earlier.
const OVERLAP: Duration = Duration::from_secs(600);
/// How far the first one reaches back at least, so that a restart leaves no hole.
const FIRST_LOOK_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Pause after an audit that could not be made, where the pause between two is longer.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// How long one may take. A connection that died without a word would otherwise end the audits.
const AUDIT_DEADLINE: Duration = Duration::from_secs(4 * 60 * 60);
/// Done markers that one audit looks at; the next one goes on behind them.
const MARKERS_PER_AUDIT_MAX: usize = 100_000;

/// What is known of the audit.
#[derive(Debug, Clone)]
pub(super) struct AuditStatus {
    /// Between two audits; zero: none are made.
    pub(super) pause: Duration,
    /// When this process began to audit.
    began: Instant,
    /// The last audit that came to an end.
    pub(super) last: Option<Audited>,
    /// Why the one after it did not.
    pub(super) problem: Option<String>,
}

/// An audit that came to an end.
#[derive(Debug, Clone)]
pub(super) struct Audited {
    ended: Instant,
    /// The checks that found violations.
    pub(super) failed: Vec<&'static str>,
    /// Why the done markers in Redis were not looked at, where they were not.
    pub(super) markers_skipped: Option<String>,
    /// Checks that were made.
    pub(super) checks: usize,
    /// Checks that were not, and why.
    pub(super) skipped: Vec<(&'static str, String)>,
    /// Ledger rows that were new to it: recorded since `since`.
    pub(super) rows: i64,
    /// From when on it looked at the ledger, by the database's clock.
    pub(super) since: OffsetDateTime,
}

impl AuditStatus {
    fn new(pause: Duration) -> Self {
        Self { pause, began: Instant::now(), last: None, problem: None }
    }

    /// How long ago the last audit ended; while there was none, how long one has been waited for.
    pub(super) fn age(&self) -> Duration {
        self.last.as_ref().map_or(self.began, |last| last.ended).elapsed()
    }

    /// Whether they were found right; `None`: not known.
    pub(super) fn is_ok(&self) -> Option<bool> {
        self.last.as_ref().map(|last| last.failed.is_empty())
    }
}

/// Audits again and again. Each audit looks at what is new since the last one that found no violation, so that nothing is left out
/// between them. `payonce audit` looks at everything.
pub(super) struct Auditor {
    database: Arc<Database>,
    dedupe: Arc<Dedupe>,
    rules: Rules,
    audit: watch::Sender<AuditStatus>,
}

impl Auditor {
    /// Audits of this database and this Redis, with this pause between two; zero: none.
    pub(super) fn new(database: Arc<Database>, dedupe: Arc<Dedupe>, rules: Rules, pause: Duration) -> Self {
        Self { database, dedupe, rules, audit: watch::Sender::new(AuditStatus::new(pause)) }
    }

    /// What is known, now and later.
    pub(super) fn follow(&self) -> watch::Receiver<AuditStatus> {
        self.audit.subscribe()
    }

    /// Until `stop`.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let pause = self.audit.borrow().pause;
        if pause.is_zero() {
            return stop.cancelled().await;
        }
        let (mut right_at, mut place) = (None, Place::default());
        loop {
            let auditing = tokio::time::timeout(AUDIT_DEADLINE, self.audit(right_at, &mut place));
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = auditing => ended,
            };
            let wait = match ended {
                Ok(Ok((started, audited))) => {
                    if audited.failed.is_empty() {
                        right_at = Some(started);
                    } else {
                        error!(checks = ?audited.failed, "the audit failed; `payonce audit` shows examples");
                    }
                    self.audit.send_modify(|audit| (audit.last, audit.problem) = (Some(audited), None));
                    pause
                }
                Ok(Err(cause)) => self.not_made(&cause.to_string(), pause),
                Err(_) => self.not_made(&format!("no end within {} s", AUDIT_DEADLINE.as_secs()), pause),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// An audit did not come to an end: the pause before the next try.
    fn not_made(&self, problem: &str, pause: Duration) -> Duration {
        warn!(problem, "no audit was made");
        self.audit.send_modify(|audit| audit.problem = Some(problem.to_owned()));
        pause.min(RETRY_PAUSE)
    }

    /// When it began, by the database's clock, and what it found. On a connection without a deadline: some checks read whole tables.
    async fn audit(
        &self,
        right_at: Option<OffsetDateTime>,
        place: &mut Place,
    ) -> Result<(OffsetDateTime, Audited), StoreError> {
        let mut connection = self.database.for_reading().connect().await?;
        let started = store::now(&mut connection).await?;
        let first_look = self.audit.borrow().pause.max(FIRST_LOOK_MIN);
        let since = right_at.unwrap_or(started.saturating_sub(first_look.try_into().unwrap_or_default()));
        let since = since.saturating_sub(OVERLAP.try_into().unwrap_or_default());
        let findings = store::audit(&mut connection, Some(since), &self.rules, |_| {}).await?;
        let markers = audit::markers(&self.dedupe, &mut connection, place, MARKERS_PER_AUDIT_MAX).await?;
        for finding in findings.iter().chain([&markers]) {
            metrics::audit_violations(finding.name, finding.violations);
        }
        let violated = findings.iter().chain([&markers]).filter(|finding| finding.is_violated());
        let failed = violated.map(|finding| finding.name).collect();
        let all = || findings.iter().chain([&markers]);
        let skipped = all().filter_map(|finding| Some((finding.name, finding.skipped.clone()?))).collect();
        let audited = Audited {
            ended: Instant::now(),
            failed,
            checks: all().filter(|finding| finding.ok.is_some()).count(),
            skipped,
            rows: store::rows_since(&mut connection, since).await?,
            since,
            markers_skipped: markers.skipped.clone(),
        };
        Ok((started, audited))
    }
}
