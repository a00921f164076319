//! Latencies counted in buckets, so that counts of several workers can be added up before a percentile is taken: percentiles
//! themselves cannot. Sixteen buckets from one power of ten to the next keep an answer within 16 % of the truth.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets from one power of ten to the next.
const PER_DECADE: i32 = 16;
/// The upper limit of the first one.
const SMALLEST_S: f64 = 0.000_1;
/// From 0.1 ms to 1 000 s; the last one takes all above.
const BUCKETS: usize = 7 * 16 + 1;

/// Counts that many threads add to.
#[derive(Debug)]
pub struct Latencies([AtomicU64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&self, latency: Duration) {
        if let Some(bucket) = self.0.get(bucket(latency)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted since the last call. One added at this moment is in this answer or the next.
    #[must_use]
    pub fn take(&self) -> Counted {
        Counted(self.0.iter().map(|bucket| bucket.swap(0, Ordering::Relaxed)).collect())
    }
}

/// Counts per bucket, to be stored, added up and asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted(Vec<u64>);

impl Counted {
    /// From what [`Counted::counts`] gave. Further buckets than this program knows are its last one.
    #[must_use]
    pub fn from_counts(counts: &[i64]) -> Self {
        let mut counted = Self(vec![0; BUCKETS]);
        for (at, n) in counts.iter().enumerate() {
            if let Some(bucket) = counted.0.get_mut(at.min(BUCKETS - 1)) {
                *bucket += u64::try_from(*n).unwrap_or(0);
            }
        }
        counted
    }

    /// For the database.
    #[must_use]
    pub fn counts(&self) -> Vec<i64> {
        self.0.iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect()
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (bucket, n) in self.0.iter_mut().zip(&other.0) {
            *bucket += n;
        }
    }

    /// How many.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The latency that `share` (0 to 1) of what was counted did not exceed, in seconds, rounded up to the end of its bucket;
    /// `None` where nothing was counted.
    #[must_use]
    pub fn percentile_s(&self, share: f64) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a rank among fewer than 2^52")]
        let rank = (self.total() as f64 * share).ceil().max(1.0);
        let mut seen = 0.0;
        for (at, n) in self.0.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            let n = *n as f64;
            seen += n;
            if n > 0.0 && seen >= rank {
                return Some(upper_limit_s(at));
            }
        }
        None
    }
}

impl From<Vec<i64>> for Counted {
    fn from(counts: Vec<i64>) -> Self {
        Self::from_counts(&counts)
    }
}

fn bucket(latency: Duration) -> usize {
    let above = (latency.as_secs_f64() / SMALLEST_S).log10() * f64::from(PER_DECADE);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..BUCKETS first"
    )]
    let at = above.ceil().clamp(0.0, f64::from(7 * PER_DECADE)) as usize;
    at
}

fn upper_limit_s(bucket: usize) -> f64 {
    let above = f64::from(u32::try_from(bucket).unwrap_or(u32::MAX)) / f64::from(PER_DECADE);
    SMALLEST_S * 10_f64.powf(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_one_bucket_above_the_truth() {
        let latencies = Latencies::default();
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        let counted = latencies.take();
        assert_eq!(counted.total(), 1_000);
        for (share, truth) in [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (1.0, 1.0)] {
            let found = counted.percentile_s(share).expect("something was counted");
            assert!((truth..truth * 1.16).contains(&(found + 1e-9)), "{share}: {found}, not {truth}");
        }
        assert_eq!(latencies.take().percentile_s(0.5), None);
    }

    #[test]
    fn counts_of_several_add_up_and_survive_storage() {
        let (fast, slow) = (Latencies::default(), Latencies::default());
        fast.record(Duration::ZERO);
        slow.record(Duration::from_secs(1_000_000));
        let mut both = fast.take();
        both.add(&Counted::from_counts(&slow.take().counts()));
        assert_eq!(both.total(), 2);
        assert_eq!(both.percentile_s(0.5), Some(SMALLEST_S));
        assert!(both.percentile_s(0.99).is_some_and(|found| found > 999.0));
    }
}
