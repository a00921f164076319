//! The `payonce` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    payonce::cli::main()
}
