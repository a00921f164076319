//! The past as a chart needs it: a range, its steps, and a stack of rates.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    Pool, clock,
    totals::{Totals, rates},
};
use crate::{
    parameters::{Parameters, Wrong},
    store::{StoreError, history},
};

/// The names of the stack, from the bottom: applied, the layers of duplicates, quarantined.
pub(super) const SERIES: [&str; 7] =
    ["applied", "batch", "redis", "ledger", "operation", "quarantine", "quarantined"];

/// From when on the step that is not over yet is shown.
const STEP_BEGUN_S: i64 = 20;

/// How far back one looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// In addresses.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    pub(super) length_s: i64,
    pub(super) step_s: i64,
}

const fn range(name: &'static str, title: &'static str, length_s: i64, step_s: i64) -> Range {
    Range { name, title, length_s, step_s }
}

/// All of them. The finest is from this process's own readings, a second apart; counts in the database are by the minute.
pub(super) const RANGES: [Range; 7] = [
    range("5m", "5 min", 300, 1),
    range("15m", "15 min", 900, 60),
    range("1h", "1 h", 3_600, 60),
    range("6h", "6 h", 21_600, 300),
    range("24h", "24 h", 86_400, 900),
    range("7d", "7 d", 7 * 86_400, 3_600),
    range("30d", "30 d", 30 * 86_400, 6 * 3_600),
];

impl Range {
    /// What the parameter `range` names; `default` where it is not given.
    pub(super) fn asked(parameters: &Parameters, default: &str) -> Result<Self, Wrong> {
        let find = |name: &str| RANGES.into_iter().find(|range| range.name == name);
        let expected = RANGES.map(|range| range.name).join(", ");
        let range = parameters.choice("range", find, &expected)?;
        Ok(range.or_else(|| find(default)).unwrap_or(RANGES[0]))
    }

    /// Where it begins.
    pub(super) fn from(self) -> OffsetDateTime {
        clock::now().saturating_sub(time::Duration::seconds(self.length_s))
    }
}

/// Rates per second, step by step.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    pub(super) range: &'static str,
    pub(super) step_s: i64,
    /// Seconds since 1970: where each step begins.
    pub(super) t: Vec<i64>,
    pub(super) series: [&'static str; 7],
    /// One row for each of `series`.
    pub(super) y: [Vec<f64>; 7],
}

/// The chart of a range; of one source only, where one is named (then not finer than a minute).
pub(super) async fn chart(pool: &Pool, range: Range, source: Option<&str>) -> Result<Chart, StoreError> {
    if range.step_s < 60 && source.is_none() {
        return Ok(recent(pool, range));
    }
    let step_s = range.step_s.max(60);
    let now_s = clock::now().unix_timestamp();
    let first = (now_s - range.length_s).div_euclid(step_s) * step_s;
    let at =
        |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let step = Duration::from_secs(step_s.unsigned_abs());
    let buckets = pool
        .reader
        .run(async |connection| {
            history::series(connection, at(first), at(now_s + 60), step, false, source).await
        })
        .await?;
    // A step that has only begun is left out: a rate over its first seconds says nothing.
    let begun_s = step_s.min(STEP_BEGUN_S);
    let t: Vec<i64> =
        (0..).map(|n| first + n * step_s).take_while(|begin| begin + begun_s <= now_s).collect();
    let mut sums = vec![Totals::default(); t.len()];
    for bucket in &buckets {
        let at = usize::try_from((bucket.at.unix_timestamp() - first) / step_s).unwrap_or(usize::MAX);
        if let Some(sum) = sums.get_mut(at) {
            sum.count(&bucket.kind, &bucket.label, bucket.n);
        }
    }
    let mut y: [Vec<f64>; 7] = Default::default();
    for (begin, sum) in t.iter().zip(&sums) {
        // The last step is not over.
        let seconds = step_s.min(now_s - begin).max(1);
        for (row, n) in y.iter_mut().zip(sum.stack()) {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            row.push(n as f64 / seconds as f64);
        }
    }
    Ok(Chart { range: range.name, step_s, t, series: SERIES, y })
}

fn recent(pool: &Pool, range: Range) -> Chart {
    let mut chart = Chart {
        range: range.name,
        step_s: range.step_s,
        t: Vec::new(),
        series: SERIES,
        y: Default::default(),
    };
    for pair in pool.watch.samples().windows(2) {
        let [before, after] = pair else { continue };
        let (stack, _) = rates(before, after);
        chart.t.push(after.at_ms / 1_000);
        for (row, rate) in chart.y.iter_mut().zip(stack) {
            row.push(rate);
        }
    }
    chart
}
