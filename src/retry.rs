//! Growing pauses with jitter. The only place that knows the `backoff` crate, which is no longer maintained
//! (RUSTSEC-2025-0012, no vulnerability).

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

use crate::config::RetryConfig;

/// Pauses that double from `delay_min` to `delay_max`, each at random between half and one and a half times as long, so that
/// workers that failed together do not come back together.
pub struct Pauses(ExponentialBackoff);

impl Pauses {
    /// Starts with the shortest pause.
    #[must_use]
    pub fn new(config: RetryConfig) -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(config.delay_min)
                .with_max_interval(config.delay_max)
                .with_multiplier(2.0)
                .with_randomization_factor(0.5)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    /// How long to wait before the next try.
    pub fn next_pause(&mut self) -> Duration {
        let longest = self.0.max_interval;
        self.0.next_backoff().unwrap_or(longest)
    }

    /// Something worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}
