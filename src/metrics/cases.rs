//! The money that cases hold up, by source too, and since when; and beside it the money that is applied. What must not live here: where that is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const MONEY: &str = "payonce_cases_money_minor_units";
const OLDEST: &str = "payonce_cases_oldest_timestamp_seconds";

const BY_SOURCE: &str = "payonce_cases_money_by_source_minor_units";
const APPLIED: &str = "payonce_applied_minor_units_total";

/// As [`KNOWN`], of source and currency.
static KNOWN_SOURCES: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Pairs of state and currency that were exported once: of those without a case now the lines go down to zero, and do not just stay. At most
/// twice as many as ISO 4217 has codes.
static KNOWN: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Sets the sums to what is held up now: (state, ISO 4217 code, minor units).
pub fn set_money<'a>(sums: impl Iterator<Item = (&'a str, &'a str, i128)>) {
    describe_gauge!(MONEY, "What cases in this state are about together, in minor units of the currency.");
    let mut now: BTreeMap<(String, String), i128> = BTreeMap::new();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    now.extend(known.iter().map(|key| (key.clone(), 0)));
    for (state, currency, sum) in sums {
        let held_up = now.entry((state.to_owned(), currency.to_owned())).or_default();
        *held_up = held_up.saturating_add(sum);
    }
    for ((state, currency), sum) in now {
        #[expect(clippy::cast_precision_loss, reason = "for curves; the page has every digit")]
        gauge!(MONEY, "state" => state.clone(), "currency" => currency.clone()).set(sum as f64);
        known.insert((state, currency));
    }
}

/// Sets the sums of open cases: (label of the source, ISO 4217 code, minor units).
pub(super) fn set_money_by_source<'a>(sums: impl Iterator<Item = (String, &'a str, i128)>) {
    describe_gauge!(
        BY_SOURCE,
        "What open cases of this source are about together, in minor units of the currency."
    );
    let mut known = KNOWN_SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut now: BTreeMap<(String, String), i128> = known.iter().map(|key| (key.clone(), 0)).collect();
    for (source, currency, sum) in sums {
        let held_up = now.entry((source, currency.to_owned())).or_default();
        *held_up = held_up.saturating_add(sum);
    }
    for ((source, currency), sum) in now {
        #[expect(clippy::cast_precision_loss, reason = "for curves; the page has every digit")]
        gauge!(BY_SOURCE, "source" => source.clone(), "currency" => currency.clone()).set(sum as f64);
        known.insert((source, currency));
    }
}

/// Tells what the counter of each batch is.
pub(super) fn describe() {
    describe_counter!(
        APPLIED,
        "What the ledger rows are about that this worker wrote, in minor units of the currency, whichever way the money went."
    );
}

/// Ledger rows about so much were written.
pub(super) fn applied(source: String, currency: &'static str, minor_units: i128) {
    let minor_units = u64::try_from(minor_units).unwrap_or(u64::MAX);
    counter!(APPLIED, "source" => source, "currency" => currency).increment(minor_units);
}

/// When the oldest case in this state was first seen, in seconds since 1970; `None`: there is none, which is said by 0.
pub fn set_oldest(state: &'static str, at_s: Option<f64>) {
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "When the oldest case in this state was first seen; 0: there is none."
    );
    gauge!(OLDEST, "state" => state).set(at_s.unwrap_or(0.0));
}
