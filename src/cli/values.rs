//! Values of arguments that several commands take, read strictly. What must not live here: settings, and what a value is for.

use time::{Duration, OffsetDateTime};

use crate::{
    ledger::{AccountId, Reason},
    parameters::{Wrong, checked_id},
    reports::asked::moment,
};

/// Of `--why`, in bytes.
const WORDS_BYTES_MAX: usize = 1_000;
/// Of `--by`, in bytes: what `operator_actions.who` holds.
const NAME_BYTES_MAX: usize = 200;

pub(super) fn reason(name: &str) -> Result<Reason, String> {
    Reason::parse(name).ok_or_else(|| format!("expected one of {}", Reason::names()))
}

/// An id, source or account as a callback could have it.
pub(super) fn id(text: &str) -> Result<String, String> {
    checked_id("the id", text).map(str::to_owned).map_err(|Wrong(words)| words)
}

pub(super) fn account(text: &str) -> Result<AccountId, String> {
    AccountId::new(text).map_err(|error| error.to_string())
}

pub(super) fn words(text: &str) -> Result<String, String> {
    at_most(WORDS_BYTES_MAX, text)
}

pub(super) fn name(text: &str) -> Result<String, String> {
    at_most(NAME_BYTES_MAX, text)
}

/// A day, of which it is the beginning, or a time.
pub(super) fn begin(text: &str) -> Result<OffsetDateTime, String> {
    moment(text, false)
}

/// A day, of which it is the end, or a time.
pub(super) fn end(text: &str) -> Result<OffsetDateTime, String> {
    moment(text, true)
}

fn at_most(bytes_max: usize, text: &str) -> Result<String, String> {
    let is_short = text.len() <= bytes_max && !text.chars().any(char::is_control);
    (is_short && !text.trim().is_empty())
        .then(|| text.to_owned())
        .ok_or_else(|| format!("expected 1 to {bytes_max} bytes without control characters"))
}

pub(super) fn age(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number from 0 and s, m, h or d, such as 90m".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(expected)?;
    let number: i64 =
        number.parse().ok().filter(|number| (0..=1_000_000).contains(number)).ok_or_else(expected)?;
    match unit {
        "s" => Ok(Duration::seconds(number)),
        "m" => Ok(Duration::minutes(number)),
        "h" => Ok(Duration::hours(number)),
        "d" => Ok(Duration::days(number)),
        _ => Err(expected()),
    }
}
