//! Rows on their way into a statement, and what the database says it did with them.

use time::OffsetDateTime;

use super::StoreError;
use crate::ledger::Callback;

/// One column of an `unnest`.
pub(super) fn each<'a, T, U>(rows: &'a [T], column: impl Fn(&'a T) -> U) -> Vec<U> {
    rows.iter().map(column).collect()
}

pub(super) fn occurred_at(callback: &Callback) -> Option<OffsetDateTime> {
    let nanos = i128::from(callback.occurred_at_us?) * 1_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

pub(super) fn expect_rows(what: &str, found: u64, planned: usize) -> Result<(), StoreError> {
    if found == planned as u64 {
        return Ok(());
    }
    Err(StoreError::Conflict(format!("{found} of {planned} {what} written")))
}

/// PostgreSQL's text cannot hold U+0000.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\\0")
}
