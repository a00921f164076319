//! Growing pauses with jitter. The only place that knows the `backoff` crate, which is no longer maintained
//! (RUSTSEC-2025-0012, no vulnerability).

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

use crate::config::RetryConfig;

/// Pauses that double from `delay_min` to `delay_max`, each at random between half as long and one and a half times as long, but never
/// longer than `delay_max`, so that workers that failed together do not come back together.
pub struct Pauses {
    backoff: ExponentialBackoff,
    delay_max: Duration,
}

impl Pauses {
    /// Starts with the shortest pause.
    #[must_use]
    pub fn new(config: RetryConfig) -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(config.delay_min)
            .with_max_interval(config.delay_max)
            .with_multiplier(2.0)
            .with_randomization_factor(0.5)
            .with_max_elapsed_time(None)
            .build();
        Self { backoff, delay_max: config.delay_max }
    }

    /// How long to wait before the next try.
    pub fn next_pause(&mut self) -> Duration {
        // The crate's own limit is that of the interval before its jitter.
        self.backoff.next_backoff().unwrap_or(self.delay_max).min(self.delay_max)
    }

    /// Something worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.backoff.reset();
    }
}

/// The pause after so many failures in a row, counted from 0, for what is tried again long after whoever failed has ended: as [`Pauses`],
/// doubling, at random, never longer than `delay_max`.
#[must_use]
pub fn pause_after(config: RetryConfig, failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.min(31));
    let pause = config.delay_min.saturating_mul(doubled).min(config.delay_max);
    pause.mul_f64(rand::random_range(0.5..1.5)).min(config.delay_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_is_longer_than_the_setting_that_names_the_longest() {
        let config =
            RetryConfig { delay_min: Duration::from_millis(1), delay_max: Duration::from_millis(100) };
        let mut pauses = Pauses::new(config);
        let longest = (0..1_000).map(|_| pauses.next_pause()).max();
        assert_eq!(longest, Some(config.delay_max));
        let longest = (0..1_000).map(|failures| pause_after(config, failures)).max();
        assert_eq!(longest, Some(config.delay_max));
        assert!((0..1_000).all(|_| pause_after(config, 0) < Duration::from_millis(2)));
    }
}
