//! Builds again when a migration changes: they are embedded in the crate.

#![forbid(unsafe_code)]

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
