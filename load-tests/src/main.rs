//! Load tests for payonce: seeded plans of callbacks, real servers, real worker processes, and an audit with arithmetic of its own.
//!
//! What must not live here: anything that asks payonce's own code what is right. Its broker module publishes, its keys and
//! signatures modules sign, its store names the history of a database; beyond that only `compare` uses it, for the ceiling that is its own
//! SQL, never for the audit.

#![forbid(unsafe_code)]

mod api;
mod arguments;
mod audit;
mod body;
mod books;
mod chaos;
mod cli;
mod compare;
mod content;
mod failure;
mod growth;
mod hostile;
mod http;
mod ids;
mod ingress;
mod latency;
mod memory;
mod money;
mod order;
mod pages;
mod place;
mod plan;
mod poison;
mod publish;
mod rebuild;
mod replay;
mod report;
mod signing;
mod sound;
mod story;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
