//! A run on a ledger that has rows already is audited as one on an empty ledger is: by its own rows alone.

#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value;

#[test]
fn a_run_on_a_grown_ledger_is_audited_by_its_own_rows() {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args(["growth", "--by", "rows", "--steps", "0,3000", "--events", "500", "--rounds", "1", "--json"])
        .output()
        .expect("load-tests runs");
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{warned}");
    let growth: Value = serde_json::from_str(&said).expect("one JSON object");
    let steps = growth["steps"].as_array().expect("steps");
    let values: Vec<&Value> = steps.iter().map(|step| &step["value"]).collect();
    assert_eq!(values, [0, 3_000]);
    for step in steps {
        assert_eq!(step["audit"], "ok", "{said}");
        assert!(step["wal_per_row"][0]["bytes"].as_f64().is_some_and(|bytes| bytes > 0.0), "{said}");
    }
}
