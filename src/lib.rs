//! payonce takes payment callbacks from RabbitMQ, turns every duplicate away, and changes balances in PostgreSQL: applied at
//! most once per idempotency key, acknowledged only after the commit.
//!
//! A message's path, module by module: [`broker`] delivers it, [`worker`] gathers a batch, [`wire`] decodes it, [`dedupe`] asks
//! Redis, [`store`] loads what the database knows, [`ledger`] decides, [`store`] applies the plan in one transaction,
//! [`dedupe`] remembers, [`broker`] acknowledges. `docs/architecture.md` walks through it.
//!
//! Imports only go down: `cli → app → {worker, ops, feed, api} → ingress → {broker, dedupe, store, wire}`; `config`, `crash`, `hosts`,
//! `keys`, `latency`, `mask`, `metrics`, `retry`, `secrets`, `shown`, `signature`, `telemetry` and `tls` are leaves. [`ledger`] is a crate of
//! its own, `payonce-ledger`, below all of them.

#![forbid(unsafe_code)]

pub mod answers;
pub mod api;
pub mod app;
pub mod audit;
pub mod balances;
pub mod broker;
pub mod cli;
pub mod config;
pub mod crash;
pub mod dedupe;
pub mod feed;
pub mod hosts;
pub mod ingress;
pub mod keys;
pub mod latency;
pub mod mask;
pub mod metrics;
pub mod ops;
pub mod retry;
pub mod secrets;
pub mod shown;
pub mod signature;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod wire;
pub mod worker;

pub use payonce_ledger as ledger;
