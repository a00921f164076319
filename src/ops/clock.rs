//! The time by the database's clock, which stamps all that the pages show. This machine's clock may be an hour off: it is only used for
//! what has passed since the database told the time, and that by its monotonic half.

use std::{
    sync::{PoisonError, RwLock},
    time::Instant,
};

use time::OffsetDateTime;

/// What the database said last, and when that was here. One for the process: all pages show one time.
static LAST: RwLock<Option<(OffsetDateTime, Instant)>> = RwLock::new(None);

/// The database says that it is `at`.
pub(super) fn observe(at: OffsetDateTime) {
    *LAST.write().unwrap_or_else(PoisonError::into_inner) = Some((at, Instant::now()));
}

/// The time by the database's clock; before it was ever asked, by ours.
pub(super) fn now() -> OffsetDateTime {
    let last = *LAST.read().unwrap_or_else(PoisonError::into_inner);
    last.map_or_else(OffsetDateTime::now_utc, |(at, seen)| at.saturating_add(duration(seen)))
}

fn duration(since: Instant) -> time::Duration {
    time::Duration::try_from(since.elapsed()).unwrap_or(time::Duration::MAX)
}
