//! A short, fixed part of `make chaos`: three seeds of half a minute, on servers of their own.

use std::process::{Command, Stdio};

/// Runs `load-tests chaos`; its audit decides.
fn chaos(seed: u32) {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args(["chaos", "--seed", &seed.to_string(), "--seconds", "30", "--signatures", "required"])
        .stdin(Stdio::null())
        .output()
        .expect("load-tests runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}: {}", output.status);
    assert!(said.contains("every_sound_callback_is_applied"), "no audit was printed");
}

#[test]
fn seed_1_ends_with_every_cent_in_its_place() {
    chaos(1);
}

#[test]
fn seed_2_ends_with_every_cent_in_its_place() {
    chaos(2);
}

#[test]
fn seed_3_ends_with_every_cent_in_its_place() {
    chaos(3);
}
