//! A short, fixed part of `make chaos`: two seeds of up to half a minute, and failovers that lose commits, on servers of their own.

#![forbid(unsafe_code)]

use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs `load-tests chaos`; its audit decides. At least so many faults must have come.
fn chaos(seed: u32, seconds: u32, more: &[&str], faults_min: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args([
            "chaos",
            "--seed",
            &seed.to_string(),
            "--seconds",
            &seconds.to_string(),
            "--signatures",
            "required",
            "--json",
        ])
        .args(more)
        // What gets no money is waited for at the end; longer than any fault keeps a callback from what it needs.
        .env("PAYONCE_ORDER_WAIT_MS", "30000")
        .stdin(Stdio::null())
        .output()
        .expect("load-tests runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed} {more:?}: {}", output.status);
    let report: Value = serde_json::from_str(&said).expect("one JSON object");
    assert_eq!(report["audit"], "ok");
    let faults = report["faults"].as_object().expect("faults by name");
    assert!(faults.len() >= faults_min, "{faults:?}");
    let together = report["together"].as_object().expect("faults that came together");
    assert_eq!(together.is_empty(), more.contains(&"--fault"), "{together:?}");
    assert_eq!(report["recovery_seconds"].as_object().map(serde_json::Map::len), Some(faults.len()));
}

#[test]
fn seed_1_ends_with_every_cent_in_its_place() {
    chaos(1, 30, &[], 3);
}

#[test]
fn seed_2_ends_with_every_cent_in_its_place() {
    // Its next fault comes when all that is published for the first time is out, and would show nothing.
    chaos(2, 20, &[], 3);
}

#[test]
fn commits_that_failovers_lose_are_applied_when_they_are_sent_again() {
    let faults = ["failover_asynchronous", "commit_dropped", "failover_asynchronous"];
    let faults: Vec<&str> = faults.iter().flat_map(|fault| ["--fault", fault]).collect();
    chaos(3, 30, &faults, 2);
}
