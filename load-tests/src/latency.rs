//! Latencies in a histogram of high dynamic range.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Milliseconds, to three digits.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// What was measured, in microseconds.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?))
    }

    pub fn record_us(&mut self, latency: u64) {
        self.0.saturating_record(latency.max(1));
    }

    pub fn percentiles(&self) -> Percentiles {
        if self.0.is_empty() {
            return Percentiles::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "at most an hour in microseconds")]
        let ms = |us: u64| us as f64 / 1_000.0;
        Percentiles {
            p50: ms(self.0.value_at_quantile(0.5)),
            p99: ms(self.0.value_at_quantile(0.99)),
            max: ms(self.0.max()),
        }
    }
}
