//! The api answers rightly beside a pool that has work.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn answers_are_right_beside_a_loaded_pool() {
    let seed = std::process::id();
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args(["api", "--rate", "50", "--seconds", "4", "--rows", "4000", "--load", "1000", "--json"])
        .args(["--seed", &seed.to_string()])
        .output()
        .expect("load-tests runs");
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}: {said}{warned}");
    for part in ["\"audit\":\"ok\"", "\"account in the past\"", "\"account, if changed\"", "\"p99\""] {
        assert!(said.contains(part), "seed {seed}: no {part} in {said}");
    }
}
