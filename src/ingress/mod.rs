//! `payonce ingress`: providers' webhooks in, callbacks on the queue out (contract §8). A request is verified over its bytes, mapped, signed
//! anew with the source's key, published with a confirm, and only then answered with yes. What must not live here: SQL, Redis, and any
//! decision about a balance. All below `providers` is pure: no clock, no I/O; `desk`
//! takes a request to its answer, `edge` holds the connections, `outbox` the broker.

mod activity;
pub mod amount;
pub mod certificates;
pub mod client;
pub mod clock;
pub mod desk;
pub mod edge;
pub mod endpoint;
pub mod envelope;
pub mod forwarded;
pub mod limits;
pub mod mapping;
pub mod members;
pub mod outbox;
pub mod paths;
pub mod providers;
pub mod request;
pub mod sample;
pub mod tls;
pub mod verify;

pub use crate::secrets;
