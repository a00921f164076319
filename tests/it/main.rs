//! Promises kept on real servers: PostgreSQL, Redis and RabbitMQ as `make services` starts them. Each test has a database, a key
//! prefix and a queue prefix of its own, so all run in parallel; tests that restart a server start one of their own.

mod access;
mod audit;
mod browser;
mod claims;
mod command_line;
mod crash_points;
mod dashboard;
mod duplicates;
mod history;
mod hot_account;
mod lifecycle;
mod look_ups;
mod malformed_neighbours;
mod mismatch;
mod monitoring;
mod outages;
mod quarantine;
mod redis_failures;
mod rivals;
mod signatures;
mod stopping;
mod support;
mod terminal;
mod tls;
mod topology;
mod traces;
mod workers;
