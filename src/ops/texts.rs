//! Every number and word of the live pages, made from a reading: so a page and its updates say the same. What must not live here: how it is read.

use std::{collections::BTreeMap, time::Duration};

use super::{
    layout::{duration, number, rate},
    summary::Situation,
    watch::{Link, Now},
};

/// An audit that is later than twice the pause by more than this is shown as not known.
const LATE: Duration = Duration::from_secs(600);

impl Now {
    /// The audits: in words, and as the state of a server.
    fn audit(&self) -> (String, &'static str) {
        let age = duration(self.audit.age().as_secs_f64());
        match (&self.audit.last, &self.audit.problem) {
            (None, _) if self.audit.pause.is_zero() => ("not audited: audits are off".to_owned(), "unknown"),
            (None, None) => ("not audited yet".to_owned(), "unknown"),
            (None, Some(_)) => (format!("not audited for {age}: the log says why"), "down"),
            (Some(last), _) if !last.failed.is_empty() => {
                (format!("FAILED ({}), audited {age} ago", last.failed.join(", ")), "down")
            }
            (Some(last), _) => {
                let markers = if last.markers_skipped.is_some() { ", without Redis" } else { "" };
                let is_late = self.audit.age() > self.audit.pause.saturating_mul(2).saturating_add(LATE);
                (format!("ok, audited {age} ago{markers}"), if is_late { "unknown" } else { "up" })
            }
        }
    }

    /// Every text, from the numbers: the page and its updates say the same, because both read it here.
    pub(super) fn write(&mut self) {
        let (stack, received) = self.rates;
        let totals = self.totals;
        let share = |part: i64| {
            #[expect(clippy::cast_precision_loss, reason = "a share for people")]
            let share = part as f64 / totals.received.max(1) as f64;
            super::layout::percent(share)
        };
        let latencies = self.latencies();
        let percentile = |share: f64| latencies.percentile_s(share).map_or_else(|| "–".to_owned(), duration);
        let up = self.workers.iter().filter(|worker| worker.is_up).count();
        let known = self.workers.iter().filter(|worker| !worker.is_stopped).count();
        let backlog = match self.depths {
            Some(depths) => number(depths.ready),
            None => "–".to_owned(),
        };
        let drain = match (self.depths, self.drain_s()) {
            (Some(_), _) if self.postgres != Link::Up => "not known: PostgreSQL does not answer".to_owned(),
            (Some(depths), _) if depths.ready == 0 => "queue is empty".to_owned(),
            (_, Some(seconds)) => format!("about {} at this rate", duration(seconds)),
            (Some(_), None) => "stalled: nothing is being settled".to_owned(),
            (None, None) => "not known".to_owned(),
        };
        let age = match (self.depths, self.backlog_age) {
            (_, Some(age)) if self.postgres != Link::Up => {
                format!(
                    "about {}, as far as is known: PostgreSQL does not answer",
                    duration(age.as_secs_f64())
                )
            }
            (_, Some(age)) => format!("about {}", duration(age.as_secs_f64())),
            (Some(_), None) if self.postgres != Link::Up => {
                "not known: PostgreSQL does not answer".to_owned()
            }
            (Some(_), None) => "none waiting".to_owned(),
            (None, None) => "not known".to_owned(),
        };
        let stale = self.stale().map_or_else(String::new, |age| {
            format!(
                "PostgreSQL has not answered for {}: totals, rates, cases, workers and latency are as they were then.",
                duration(age.as_secs_f64())
            )
        });
        let (audit, audit_state) = self.audit();
        let (summary, summary_state) = Situation::of(self).words();
        let today = |name: &str, at: usize| number(self.today.of_outcome(name)[at]);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
        let oldest = self.oldest_held_ms().map_or_else(|| "none".to_owned(), |ms| duration(ms as f64 / 1e3));
        self.texts = BTreeMap::from([
            ("received", number(totals.received)),
            ("applied", number(totals.applied)),
            ("released", number(totals.released)),
            ("duplicates", number(totals.duplicates())),
            ("quarantined", number(totals.quarantined)),
            ("duplicate-share", share(totals.duplicates())),
            ("received-rate", rate(received)),
            ("applied-rate", rate(stack[0])),
            ("duplicates-rate", rate(stack[1..6].iter().sum())),
            ("quarantined-rate", rate(stack[6])),
            ("open", number(self.cases.open.cases)),
            ("waiting", number(self.cases.waiting.cases)),
            ("backlog", backlog),
            ("dead", self.depths.map_or_else(|| "–".to_owned(), |depths| number(depths.dead))),
            ("backlog-age", age),
            ("freshness", if stale.is_empty() { "fresh" } else { "stale" }.to_owned()),
            ("stale", stale),
            ("summary", summary),
            ("summary-state", summary_state.to_owned()),
            ("received-today", today("received", 0)),
            ("received-hour", today("received", 1)),
            ("received-week", today("received", 2)),
            ("applied-today", today("applied", 0)),
            ("applied-hour", today("applied", 1)),
            ("applied-week", today("applied", 2)),
            ("duplicates-today", today("duplicates", 0)),
            ("duplicates-hour", today("duplicates", 1)),
            ("duplicates-week", today("duplicates", 2)),
            ("quarantined-today", today("quarantined", 0)),
            ("quarantined-hour", today("quarantined", 1)),
            ("quarantined-week", today("quarantined", 2)),
            ("audit", audit),
            ("audit-state", audit_state.to_owned()),
            ("drain", drain),
            ("oldest", oldest),
            ("p50", percentile(0.50)),
            ("p95", percentile(0.95)),
            ("p99", percentile(0.99)),
            ("postgres", self.postgres.word().to_owned()),
            ("redis", self.redis.word().to_owned()),
            ("broker", self.broker.word().to_owned()),
            ("workers", format!("{up} of {known}")),
            ("workers-state", if up == 0 || up < known { "down" } else { "up" }.to_owned()),
        ]);
    }
}
