//! A program that knows nothing but the feed comes to every balance, while the feed is killed.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn all_balances_are_rebuilt_from_the_feed_while_it_is_killed() {
    // The plan in which a debit and its refund once missed each other.
    let seed = 7_652_u64;
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args([
            "rebuild",
            "--events",
            "4000",
            "--lifecycle",
            "0.7",
            "--duplicates",
            "0.3",
            "--accounts",
            "100",
        ])
        .args(["--kills", "3", "--json", "--seed", &seed.to_string()])
        // What gets no money is waited for at the end.
        .env("PAYONCE_ORDER_WAIT_MS", "15000")
        .output()
        .expect("load-tests runs");
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("\"audit\":\"ok\""), "{said}{warned}");
}
