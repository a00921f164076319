//! Limits between settings: each is sound by itself, and some are not together.

use super::{Config, ConfigError, HistoryConfig, error};

/// Limits between settings: all that do not hold.
pub(super) fn check_together(config: &Config) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut wrong = |setting: &str, problem: String| errors.push(error(setting, problem));
    let worker = &config.worker;
    // With less, the broker waits for acks before any lane has a full batch, and nothing is ready when a batch ends.
    let prefetch_min = 2 * worker.lanes * worker.batch_size_max;
    if usize::from(worker.prefetch_count) < prefetch_min {
        wrong(
            "prefetch_count",
            format!(
                "{} is less than 2 x lanes x batch_size_max = 2 x {} x {} = {prefetch_min}: raise it, or lower lanes or batch_size_max",
                worker.prefetch_count, worker.lanes, worker.batch_size_max
            ),
        );
    }
    if config.prefix.starts_with("amq.") {
        let problem = format!(
            "{:?} begins with amq., and RabbitMQ keeps such names of exchanges and queues for itself; use another",
            config.prefix
        );
        wrong("prefix", problem);
    }
    if config.feed.name.is_empty() || !config.feed.name.bytes().all(is_plain) {
        let problem =
            format!("{:?}: expected letters, digits, '-', '_' and '.', at least one", config.feed.name);
        wrong("feed_name", problem);
    }
    if config.retry.delay_max < config.retry.delay_min {
        wrong(
            "retry_delay_max_ms",
            format!(
                "{} is less than retry_delay_min_ms = {}",
                config.retry.delay_max.as_millis(),
                config.retry.delay_min.as_millis()
            ),
        );
    }
    if let Some(endpoint) = &config.otlp_endpoint
        && endpoint.strip_prefix("http://").is_none_or(str::is_empty)
    {
        let problem = format!(
            "{endpoint:?} does not begin with http:// and a host; a collector on this host or network takes traces on and encrypts them"
        );
        wrong("otlp_endpoint", problem);
    }
    let HistoryConfig { minutes_kept, hours_kept, days_kept, .. } = worker.history;
    for (finer, kept, coarser, longer) in [
        ("history_minutes_ms", minutes_kept, "history_hours_ms", hours_kept),
        ("history_hours_ms", hours_kept, "history_days_ms", days_kept),
    ] {
        if longer < kept {
            let problem = format!("{} is less than {finer} = {}", longer.as_millis(), kept.as_millis());
            wrong(coarser, problem);
        }
    }
    config.access.check(&mut wrong);
    errors
}

/// May stand in a URN and in the name of a Redis key as it is.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}
