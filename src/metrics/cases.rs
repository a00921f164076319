//! The money that cases hold up, and since when. What must not live here: where that is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use metrics::{Unit, describe_gauge, gauge};

const MONEY: &str = "payonce_cases_money_minor_units";
const OLDEST: &str = "payonce_cases_oldest_timestamp_seconds";

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

/// When the oldest case in this state was first seen, in seconds since 1970; `None`: there is none, which is said by 0.
pub fn set_oldest(state: &'static str, at_s: Option<f64>) {
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "When the oldest case in this state was first seen; 0: there is none."
    );
    gauge!(OLDEST, "state" => state).set(at_s.unwrap_or(0.0));
}
