//! The resident sets of processes, watched from outside while they work, and whether they stay flat. What must not live here: what they work at.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const PAUSE: Duration = Duration::from_millis(100);

/// The largest resident set, in MiB, while each quarter of a run was done. 0: never looked at.
pub type Quarters = [u64; 4];

/// What watches.
pub struct Memory {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Quarters>,
}

impl Memory {
    /// Watches the largest of these processes while `done` grows to `total`.
    pub fn watch(ids: Vec<u32>, done: Arc<AtomicUsize>, total: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut quarters = Quarters::default();
            while !stopped.load(Ordering::Relaxed) {
                let quarter = done.load(Ordering::Relaxed) * 4 / total.max(1);
                let largest = ids.iter().filter_map(|id| resident_kib(*id)).max().unwrap_or(0);
                if let Some(peak) = quarters.get_mut(quarter.min(3)) {
                    *peak = largest.div_ceil(1_024).max(*peak);
                }
                tokio::time::sleep(PAUSE).await;
            }
            quarters
        });
        Self { stop, task }
    }

    /// Ends the watch.
    pub async fn stop(self) -> Quarters {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

/// Says where memory has grown with the work. By the third quarter all that a process keeps has its size: what is larger in the fourth
/// grows. Nothing measured shows nothing.
pub fn grown(memory_mib: Quarters) -> Option<String> {
    let [_, _, third, fourth] = memory_mib;
    let is_flat = fourth <= third + third / 8 + 8;
    (!is_flat || memory_mib.contains(&0)).then(|| format!("MiB at most, by quarter: {memory_mib:?}"))
}

fn resident_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_with_the_work_or_was_not_measured_is_found() {
        assert_eq!(grown([30, 60, 61, 62]), None);
        assert!(grown([30, 60, 90, 120]).is_some());
        assert!(grown([0, 0, 0, 0]).is_some());
    }
}
