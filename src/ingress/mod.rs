//! `payonce ingress`: providers' webhooks in, callbacks on the queue out (contract §8). A request is verified over its bytes, mapped, signed
//! anew with the source's key, published with a confirm, and only then answered with yes. What must not live here: SQL, Redis, and any
//! decision about a balance. All below `providers` is pure: no clock, no I/O.

pub mod amount;
pub mod endpoint;
pub mod envelope;
pub mod mapping;
pub mod members;
pub mod providers;
pub mod request;
pub mod secrets;
pub mod verify;
