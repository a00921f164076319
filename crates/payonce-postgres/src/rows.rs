//! Rows on their way into a statement, and what the database says it did with them.

use time::OffsetDateTime;

use super::StoreError;
use payonce_ledger::Callback;

/// One column of an `unnest`.
pub(super) fn each<'a, T, U>(rows: &'a [T], column: impl Fn(&'a T) -> U) -> Vec<U> {
    rows.iter().map(column).collect()
}

pub(super) fn occurred_at(callback: &Callback) -> Option<OffsetDateTime> {
    timestamp(callback.occurred_at_us?)
}

/// Microseconds since 1970-01-01T00:00:00Z as the driver takes them.
pub(super) fn timestamp(us: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1_000).ok()
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
