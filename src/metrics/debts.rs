//! What accounts owe, by currency. What must not live here: where that is read.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use metrics::{describe_gauge, gauge};

const ACCOUNTS: &str = "payonce_accounts_in_debt";
const SUM: &str = "payonce_debt_minor_units";

/// Currencies that were exported once: of those without a debt now the lines go down to zero, and do not just stay. At most as many as
/// ISO 4217 has codes.
static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Sets both gauges to what is owed now: (ISO 4217 code, how many accounts, minor units that they owe together).
pub fn set<'a>(debts: impl Iterator<Item = (&'a str, i64, i128)>) {
    describe_gauge!(ACCOUNTS, "Accounts whose available money is below zero.");
    describe_gauge!(SUM, "What these accounts owe together, in minor units of the currency.");
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    for currency in known.iter() {
        tell(currency, 0, 0);
    }
    for (currency, accounts, sum) in debts {
        tell(currency, accounts, sum);
        known.insert(currency.to_owned());
    }
}

fn tell(currency: &str, accounts: i64, sum: i128) {
    #[expect(clippy::cast_precision_loss, reason = "for alerts and curves; the page has every digit")]
    let (accounts, sum) = (accounts as f64, sum as f64);
    gauge!(ACCOUNTS, "currency" => currency.to_owned()).set(accounts);
    gauge!(SUM, "currency" => currency.to_owned()).set(sum);
}
