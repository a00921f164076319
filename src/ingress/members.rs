//! Members of a provider's JSON, read strictly: whole numbers are digits, amounts are exact, and what is missing is said by its path. What must
//! not live here: any provider's names.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::amount::{AmountError, Differences, decimal};
use crate::ledger::Currency;

/// The member at a path such as `data.object.id`.
#[must_use]
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// The text at a path; an empty one is none.
#[must_use]
pub fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    at(value, path)?.as_str().filter(|text| !text.is_empty())
}

/// The text at a path.
///
/// # Errors
/// Words that name the path.
pub fn needed<'a>(value: &'a Value, path: &str) -> Result<&'a str, String> {
    text(value, path).ok_or_else(|| format!("{path}: missing"))
}

/// The whole number at a path: digits alone, no fraction, no exponent, no text.
///
/// # Errors
/// Words that name the path.
pub fn whole(value: &Value, path: &str) -> Result<u64, String> {
    let found = at(value, path).and_then(Value::as_u64);
    found.ok_or_else(|| format!("{path}: expected a whole number, not negative"))
}

/// The currency at a path, in whatever case.
///
/// # Errors
/// Words that name the path.
pub fn currency(value: &Value, path: &str) -> Result<Currency, String> {
    let code = needed(value, path)?.to_ascii_uppercase();
    Currency::parse(&code).ok_or_else(|| format!("{path}: not an ISO 4217 code"))
}

/// Minor units of the provider at a path → those of ISO 4217.
///
/// # Errors
/// Words that name the path.
pub fn minor(value: &Value, path: &str, currency: Currency, theirs: Differences) -> Result<u64, String> {
    theirs.minor_units(whole(value, path)?, currency).map_err(|problem| amount_problem(path, problem))
}

/// Decimal text at a path → minor units.
///
/// # Errors
/// Words that name the path.
pub fn decimal_at(value: &Value, path: &str, currency: Currency) -> Result<u64, String> {
    decimal(needed(value, path)?, currency).map_err(|problem| amount_problem(path, problem))
}

/// Words for an amount that cannot be taken.
#[must_use]
pub fn amount_problem(path: &str, problem: AmountError) -> String {
    format!("{path}: {problem}")
}

/// RFC 3339 of seconds since 1970.
#[must_use]
pub fn from_seconds(seconds: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

/// A time that is RFC 3339 already; `None` for what is not: the callback is sound without it.
#[must_use]
pub fn rfc3339(text: &str) -> Option<String> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(|_| text.to_owned())
}
