//! Promises kept on real servers: PostgreSQL, Redis and RabbitMQ as `make services` starts them. Each test has a database, a key
//! prefix and a queue prefix of its own, so all run in parallel; tests that restart a server start one of their own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic there")]

mod access;
mod addresses;
mod adjust;
mod amounts;
mod api;
mod approvals;
mod audit;
mod backup;
#[path = "../../crates/payonce-ledger/tests/rules/book.rs"]
#[allow(dead_code, reason = "the tests of the rules use the rest")]
mod book;
mod browser;
mod case_filters;
mod case_groups;
mod case_sums;
mod case_work;
mod claims;
mod command_line;
mod concurrent_writers;
mod crash_points;
mod dashboard;
mod database_settings;
mod dead_letters;
mod debts;
#[path = "../../crates/payonce-ledger/tests/rules/draft.rs"]
#[allow(dead_code, reason = "the tests of the rules use the rest")]
mod draft;
mod dry_runs;
mod duplicates;
mod embed;
mod feed;
mod feed_failover;
mod find;
mod former_primary;
mod generated;
mod history;
mod hostile_messages;
mod hot_account;
mod ingress;
mod ingress_broker;
mod ingress_certificates;
mod ingress_edge;
mod intake;
mod least_privilege;
mod lifecycle;
mod lists;
mod look_ups;
mod malformed_neighbours;
mod migrations;
mod mismatch;
#[path = "../../crates/payonce-ledger/tests/rules/model.rs"]
#[allow(dead_code, reason = "the tests of the rules use the rest")]
mod model;
mod money;
mod monitoring;
mod oidc;
mod ops_api;
mod outages;
mod parameters;
mod provider_pages;
mod provider_sdks;
mod publish;
mod quarantine;
mod readme;
mod redis_failures;
mod references;
mod reinstated;
mod removal;
mod report;
mod restored_history;
mod roles;
mod secrets;
mod sessions;
mod signatures;
mod stalls;
mod standby;
mod stopping;
mod stories;
#[path = "../../crates/payonce-ledger/tests/rules/streams.rs"]
#[allow(dead_code, reason = "the tests of the rules use the rest")]
mod streams;
mod support;
mod terminal;
mod tls;
mod topology;
mod traces;
mod webhooks;
mod workers;
