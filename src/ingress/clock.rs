//! This machine's clock, as the edge needs it: signatures of webhooks carry a time, and the callbacks' own signatures do. What must not live
//! here: anything that is compared with a time of the database.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
