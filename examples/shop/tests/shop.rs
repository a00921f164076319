//! The shop ends right while its processes are killed and callbacks come twice.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn every_order_piece_point_and_cent_is_where_it_belongs_whoever_is_killed() {
    // With the features that the whole suite is built with: there is nothing to build then, and nobody finds another program in its place.
    let built = Command::new(env!("CARGO")).args(["test", "--quiet", "--workspace", "--no-run"]).status();
    assert!(built.expect("cargo runs").success());
    let seed = std::process::id();
    println!("seed {seed}");
    let output = Command::new(env!("CARGO_BIN_EXE_shop"))
        .args(["run", "--orders", "120", "--kills", "8", "--seed", &seed.to_string()])
        .output()
        .expect("the shop runs");
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{warned}");
    assert!(said.contains("is where it belongs"), "{said}");
}
