//! Tests that need no servers: the wire format, settings, and the house rules over the source tree. The rules have
//! theirs beside them: `crates/payonce-ledger/tests/rules`.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic there")]

mod deployment;
mod documents;
mod field_words;
mod frames;
mod hostile_input;
mod links;
mod provider_batches;
mod provider_callbacks;
mod provider_disputes;
mod provider_faults;
mod provider_properties;
mod provider_tables;
mod provider_vectors;
mod rust_words;
mod services;
mod settings;
mod signatures;
mod supply_chain;
mod tidy;
mod wire_format;
