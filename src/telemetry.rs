//! Logs: to standard error, as text or JSON. Ids, hashes, sizes, states and codes are logged; never bodies, secrets or
//! addresses with passwords.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging for this process. A second call changes nothing.
pub fn start(level: &str, json: bool) {
    // lapin and sqlx log every reconnect of their own as errors; payonce reports those itself, once. A channel that the broker
    // closes may be an answer, not a failure: a user that may not declare is told so by it.
    let filter = EnvFilter::new(format!("payonce={level},warn,lapin=error,lapin::channel=off,sqlx=error"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().try_init()
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(colour).try_init()
    };
    // Fails only where a subscriber is set already, as in tests that start several workers.
    drop(started);
}
