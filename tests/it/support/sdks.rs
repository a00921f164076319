//! Programs that the project does not make, installed by `make sdks`: a script of `tests/sdks` is run beside them.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

/// What the script says to `asked`, which it reads from its standard input: in JavaScript with the SDKs from npm, in Python with those from PyPI.
pub async fn ask_sdks(script: &str, asked: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = root.join(".local/sdks");
    let (program, mark) = match script.rsplit_once('.') {
        Some((_, "py")) => (installed.join("python/bin/python"), "python/installed"),
        Some(_) | None => ("node".into(), "installed"),
    };
    assert!(installed.join(mark).exists(), "the SDKs are not installed: run `make sdks`");
    let mut child = Command::new(program)
        .arg(root.join("tests/sdks").join(script))
        .current_dir(&installed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the script runs");
    let mut input = child.stdin.take().expect("it is piped");
    // A script that asks for nothing may have ended.
    drop(input.write_all(asked.to_string().as_bytes()).await);
    drop(input);
    let output = child.wait_with_output().await.expect("the script ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}
