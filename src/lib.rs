//! payonce takes payment callbacks from RabbitMQ, rejects every duplicate, and changes balances in PostgreSQL: applied at
//! most once per idempotency key, acknowledged only after the commit.
//!
//! A message's path, module by module: [`broker`] delivers it, [`worker`] gathers a batch, [`wire`] decodes it, [`dedupe`] asks
//! Redis, [`store`] loads what the database knows, [`ledger`] decides, [`store`] applies the plan in one transaction,
//! [`dedupe`] remembers, [`broker`] acknowledges. `docs/architecture.md` walks through it.
//!
//! Imports only go down: `cli → app → {worker, ops, feed, api} → ingress → {broker, dedupe}`; `config`, `keys`, `metrics`, `retry`,
//! `secrets`, `shown`, `telemetry` and `tls` are leaves. Below all of them are three crates, used under the names of what they hold:
//! `payonce-postgres` ([`store`], [`crash`], [`hosts`], [`latency`]), `payonce-message` ([`wire`], [`signature`], [`mask`], [`references`]) and
//! `payonce-ledger` ([`ledger`]).

#![forbid(unsafe_code)]

pub mod answers;
pub mod api;
pub mod app;
pub mod audit;
pub mod balances;
pub mod broker;
pub mod cli;
pub mod config;
pub mod dedupe;
pub mod feed;
mod http;
pub mod ingress;
pub mod keys;
pub mod metrics;
pub mod operators;
pub mod ops;
pub mod parameters;
pub mod reports;
pub mod retry;
pub mod secrets;
pub mod shown;
pub mod telemetry;
pub mod tls;
pub mod worker;

pub use payonce_ledger as ledger;
pub use payonce_message::{mask, references, signature, wire};
pub use payonce_postgres::{self as store, crash, hosts, latency};
