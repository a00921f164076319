//! The metrics of what subscribers of `payonce feed` are sent over HTTPS, by feed: `<feed_name>:webhook:<subscriber>`. What must not live here:
//! metrics of what comes in (`ingress`).

use std::time::Duration;

use metrics::{Unit, describe_gauge, describe_histogram, gauge, histogram};

const DURATION: &str = "payonce_webhook_duration_seconds";
const DISABLED: &str = "payonce_webhook_disabled";
const BEHIND: &str = "payonce_webhook_accounts_behind";
const EXHAUSTED: &str = "payonce_webhook_accounts_exhausted";
const POOL_DISABLED: &str = "payonce_pool_webhook_disabled";
const POOL_BEHIND: &str = "payonce_pool_webhook_accounts_behind";
const POOL_EXHAUSTED: &str = "payonce_pool_webhook_accounts_exhausted";
const POOL_FAILING: &str = "payonce_pool_webhook_failing_seconds";

/// Says what each is.
pub(super) fn describe() {
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "Time that a subscriber took for its answer, by feed and what became of the event: taken, refused, gone, timed_out, unreachable."
    );
    describe_gauge!(DISABLED, "1 while nothing is sent to this subscriber, until a person enables it.");
    describe_gauge!(BEHIND, "Accounts of which the subscriber has not taken all.");
    describe_gauge!(EXHAUSTED, "Those of them that are not tried any more.");
    describe_gauge!(
        POOL_DISABLED,
        "As payonce_webhook_disabled, of every subscriber, seen from the database."
    );
    describe_gauge!(
        POOL_BEHIND,
        "As payonce_webhook_accounts_behind, of every subscriber, seen from the database."
    );
    describe_gauge!(
        POOL_EXHAUSTED,
        "As payonce_webhook_accounts_exhausted, of every subscriber, seen from the database."
    );
    describe_gauge!(
        POOL_FAILING,
        Unit::Seconds,
        "For how long the subscriber has taken nothing; 0 while it takes some."
    );
}

/// A subscriber has answered, or not, after so long.
pub fn answered(feed: &str, outcome: &'static str, took: Duration) {
    histogram!(DURATION, "feed" => feed.to_owned(), "outcome" => outcome).record(took.as_secs_f64());
}

/// How a subscriber stands, told by the feed.
pub fn stands(feed: &str, is_disabled: bool, behind: i64, exhausted: i64) {
    let feed = feed.to_owned();
    gauge!(DISABLED, "feed" => feed.clone()).set(flag(is_disabled));
    gauge!(BEHIND, "feed" => feed.clone()).set(accounts(behind));
    gauge!(EXHAUSTED, "feed" => feed).set(accounts(exhausted));
}

/// What the database says of a subscriber.
pub fn pool_stands(feed: &str, is_disabled: bool, behind: i64, exhausted: i64, failing_s: f64) {
    let feed = feed.to_owned();
    gauge!(POOL_DISABLED, "feed" => feed.clone()).set(flag(is_disabled));
    gauge!(POOL_BEHIND, "feed" => feed.clone()).set(accounts(behind));
    gauge!(POOL_EXHAUSTED, "feed" => feed.clone()).set(accounts(exhausted));
    gauge!(POOL_FAILING, "feed" => feed).set(failing_s);
}

fn flag(is_set: bool) -> f64 {
    if is_set { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "some ten thousand are kept at most")]
fn accounts(count: i64) -> f64 {
    count as f64
}
