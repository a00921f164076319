//! Load tests for payonce: seeded plans of callbacks, real servers, real worker processes, and an audit with arithmetic of its own.
//!
//! What must not live here: anything that asks payonce's own code what is right. Its broker module publishes, its keys and
//! signatures modules sign; beyond that only `compare` uses it, for the rivals that are measured beside it, never for the audit.

#![forbid(unsafe_code)]

mod audit;
mod body;
mod chaos;
mod cli;
mod compare;
mod growth;
mod hostile;
mod ingress;
mod latency;
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
mod story;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
