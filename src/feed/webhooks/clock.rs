//! This machine's clock, for the time in a signature, which is its maker's. What must not live here: anything that is compared with a time of
//! the database.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
