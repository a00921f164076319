//! What tests stand on: a world of their own on the shared servers, callbacks to publish, workers to run, and waiting for what
//! the database says, with a deadline.

mod callbacks;
mod certificates;
mod dashboard;
mod feed;
mod ingress;
mod locked;
mod paypal;
mod pooler;
mod proxy;
mod raw_amqp;
mod receiver;
mod sdks;
mod server;
mod signer;
mod world;

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

pub use callbacks::{Event, SOURCE};
pub use certificates::Authority;
pub use dashboard::{Answer, Dashboard, csrf_of};
pub use feed::{EventReader, FullQueue};
pub use ingress::{Answered, RunningIngress, answered, head, post_bytes};
pub use locked::{Locked, PASSWORDS};
pub use paypal::{CERTIFICATE_NAME, CertificateHost, PayPalKey, WEBHOOK_ID};
pub use pooler::Pooler;
pub use proxy::MuteProxy;
pub use raw_amqp::{RawProperties, RawPublisher};
pub use receiver::{Received, Receiver, SECRETS, is_signed, status};
pub use sdks::ask_sdks;
pub use server::OwnServer;
pub use signer::Signer;
pub use world::{RunningWorker, World};

/// How long anything may take before a test fails. Generous, because the machine may be busy; no test measures time.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const POLL_PAUSE: Duration = Duration::from_millis(10);

/// Asks until the answer is the expected one; fails with the last answer at the deadline.
#[track_caller]
pub fn eventually<T: PartialEq + Debug, F: Future<Output = T>>(
    what: &str,
    expected: T,
    mut ask: impl FnMut() -> F,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let started = Instant::now();
        loop {
            let answer = ask().await;
            if answer == expected {
                return;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "{what} at {caller}: expected {expected:?}, still {answer:?} after {DEADLINE:?}"
            );
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
}

/// A loopback address for a program to listen on. Nothing connects from this one, so a port that is free on it stays free until the program
/// takes it; on 127.0.0.1 any connection that leaves may be given the same port first.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}
