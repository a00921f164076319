//! Tests that need no servers: the pure core against a naive model, the wire format, and the house rules over the source tree.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic there")]

mod book;
mod deployment;
mod draft;
mod dry_runs;
mod frames;
mod hostile_input;
mod links;
mod model;
mod outcomes;
mod properties;
mod protocol;
mod provider_batches;
mod provider_callbacks;
mod provider_disputes;
mod provider_faults;
mod provider_properties;
mod provider_tables;
mod provider_vectors;
mod replays;
mod rust_words;
mod services;
mod settings;
mod signatures;
mod state_machine;
mod stories;
mod streams;
mod supply_chain;
mod tidy;
mod wire_format;
