//! What was ever settled, at one moment, and how fast that grows between two.

use serde::Serialize;

use crate::{
    ledger::Layer,
    store::{history::Lately, report::TotalRow},
};

/// Everything that was ever settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    /// Deliveries settled.
    pub(super) received: i64,
    /// In the ledger, those included that were quarantined first.
    pub(super) applied: i64,
    /// Of the applied: those that were quarantined first.
    pub(super) released: i64,
    /// Rejected, by layer in the order of [`Layer::ALL`].
    pub(super) layers: [i64; 5],
    /// Put into quarantine.
    pub(super) quarantined: i64,
}

impl Totals {
    pub(super) fn duplicates(&self) -> i64 {
        self.layers.iter().sum()
    }

    /// One line of the counts more.
    pub(super) fn count(&mut self, kind: &str, label: &str, n: i64) {
        match kind {
            "applied" => self.applied += n,
            "released" => {
                self.applied += n;
                self.released += n;
            }
            "duplicate" => {
                let layer = Layer::ALL.iter().position(|layer| layer.as_str() == label);
                if let Some(sum) = layer.and_then(|layer| self.layers.get_mut(layer)) {
                    *sum += n;
                }
            }
            _ => self.quarantined += n,
        }
        if kind != "released" {
            self.received += n;
        }
    }

    pub(super) fn of(rows: &[TotalRow]) -> Self {
        let mut totals = Self::default();
        for row in rows {
            totals.count(&row.kind, &row.label, row.n);
        }
        totals
    }

    /// The stack of the chart: applied, each layer, quarantined.
    pub(super) fn stack(&self) -> [i64; 7] {
        let [batch, redis, ledger, operation, quarantine] = self.layers;
        [self.applied, batch, redis, ledger, operation, quarantine, self.quarantined]
    }
}

/// What was settled since midnight, in the last hour that is over, and in the same hour a week ago: each as [`Totals`], layers apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Today {
    received: [i64; 3],
    applied: [i64; 3],
    duplicates: [i64; 3],
    quarantined: [i64; 3],
}

impl Today {
    pub(super) fn of(rows: &[Lately]) -> Self {
        let mut today = Self::default();
        for row in rows {
            let counts = [row.today, row.hour, row.hour_last_week];
            let add = |sums: &mut [i64; 3]| sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            match row.kind.as_str() {
                "applied" | "released" => add(&mut today.applied),
                "duplicate" => add(&mut today.duplicates),
                _ => add(&mut today.quarantined),
            }
            if row.kind != "released" {
                add(&mut today.received);
            }
        }
        today
    }

    /// Today, the hour, and the hour a week ago, of `applied`, `duplicates`, `quarantined`, or of all that was received.
    pub(super) fn of_outcome(&self, name: &str) -> [i64; 3] {
        match name {
            "applied" => self.applied,
            "duplicates" => self.duplicates,
            "quarantined" => self.quarantined,
            _ => self.received,
        }
    }
}

/// What had been settled at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Milliseconds since 1970.
    pub(super) at_ms: i64,
    pub(super) totals: Totals,
}

/// Per second, between two readings: the stack, and all that was received.
pub(super) fn rates(from: &Sample, to: &Sample) -> ([f64; 7], f64) {
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    let per_second = |from: i64, to: i64, ms: i64| (to - from).max(0) as f64 * 1_000.0 / ms.max(1) as f64;
    let ms = to.at_ms - from.at_ms;
    let (before, after) = (from.totals.stack(), to.totals.stack());
    let stack = std::array::from_fn(|at| per_second(before[at], after[at], ms));
    (stack, per_second(from.totals.received, to.totals.received, ms))
}
