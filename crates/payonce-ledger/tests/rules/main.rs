//! The rules, without a server: against a naive model that reads the contract and not the code, in every order, cut into any batches, by
//! tables, and in a model of the protocol around them. What must not live here: how messages are read (`tests/pure`).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic there")]

mod book;
mod draft;
mod dry_runs;
mod model;
mod outcomes;
mod properties;
mod protocol;
mod replays;
mod state_machine;
mod stories;
mod streams;
