//! What the documents tell a new user to type, typed: the blocks of a section are pasted into one shell, on servers that nobody has used.

use std::{fs, path::Path, process::Stdio};

use tokio::process::Command;

use crate::support::{DEADLINE, World, free_address};

/// The code blocks of the section with this heading, in order, as one text.
fn blocks(document: &str, heading: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).map(|block| block.trim_start()).collect();
    assert!(!blocks.is_empty(), "{document}: no block under {heading}");
    blocks.concat()
}

/// Pastes a text into a shell whose folder has what `make services build` leaves there: `.local/env` and `target/release/payonce`.
/// What each line printed follows the line itself, as on a terminal. Fails at the first line that fails.
async fn paste(world: &World, folder: &Path, text: &str) -> String {
    fs::create_dir_all(folder.join(".local")).unwrap();
    fs::create_dir_all(folder.join("target/release")).unwrap();
    fs::create_dir_all(folder.join("bin")).unwrap();
    let program = folder.join("target/release/payonce");
    if !program.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_payonce"), &program).unwrap();
    }
    let env = format!(
        "export PAYONCE_DATABASE_URL={}\nexport PAYONCE_REDIS_URL={}\nexport PAYONCE_AMQP_URL={}\nexport PAYONCE_SIGNATURES=off\n",
        world.database_url, world.redis_url, world.amqp_url
    );
    fs::write(folder.join(".local/env"), env).unwrap();
    // The servers are there, and the program is built.
    fs::write(folder.join("bin/make"), "#!/bin/sh\necho make \"$@\"\n").unwrap();
    let chmod = Command::new("chmod").arg("755").arg(folder.join("bin/make")).status().await.unwrap();
    assert!(chmod.success());
    // With job control, as at a prompt; a job that is left is ended with the shell.
    let script = format!("set -evm\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{text}");
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-c", &script]).current_dir(folder).stdin(Stdio::null());
    shell.env("PATH", path).env("PAYONCE_PREFIX", &world.prefix).kill_on_drop(true);
    for name in ["DATABASE_URL", "REDIS_URL", "AMQP_URL", "SIGNATURES", "KEYS_FILE", "CONFIG"] {
        shell.env_remove(format!("PAYONCE_{name}"));
    }
    let output = tokio::time::timeout(2 * DEADLINE, shell.output()).await.expect("it ends").unwrap();
    let (printed, said) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}\n{said}");
    printed
}

#[tokio::test]
async fn the_first_use_of_the_readme_works_when_it_is_pasted() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    // Others may use the port that the README names.
    let text = blocks("README.md", "First use, by hand").replace("127.0.0.1:9301", &free_address());
    let printed = paste(&world, folder.path(), &text).await;
    for words in [
        "2 applied, 1 rejected as a duplicate",
        "balance 30.01 CNY",
        "ok      balance_is_ledger_sum",
        "0 applied, 3 rejected as duplicates",
        "bad_signature",
    ] {
        assert!(printed.contains(words), "{words:?} is not in: {printed}");
    }
    assert_eq!(
        printed.matches("Account acct-1001: open, balance 30.01 CNY").count(),
        2,
        "the account is as it was: {printed}"
    );
    assert_eq!(world.account("acct-1001").await, Some((3_001, 0, 2)));
    world.audit().await;
    world.close().await;
}

#[tokio::test]
async fn the_five_minutes_of_signatures_work_when_they_are_pasted() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let first_use = blocks("README.md", "First use, by hand");
    let (_, rest) = first_use.split_once("callbacks.ndjson <<'END'\n").expect("the three callbacks");
    fs::write(folder.path().join("callbacks.ndjson"), rest.split("END").next().unwrap_or_default()).unwrap();
    // The guide is for who has the addresses in the environment already.
    let start = ". .local/env; export PATH=$PWD/target/release:$PATH\n";
    let text = format!("{start}{}", blocks("docs/signatures.md", "Five minutes"));
    let printed = paste(&world, folder.path(), &text).await;
    assert!(printed.contains("2 applied, 1 rejected as a duplicate"), "{printed}");
    assert!(printed.contains("bad_signature"), "{printed}");
    assert_eq!(world.account("acct-1001").await, Some((3_001, 0, 2)));
    world.close().await;
}

#[tokio::test]
async fn the_section_that_connects_stripe_works_when_it_is_pasted_after_the_first_use() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let text = blocks("README.md", "First use, by hand") + &blocks("README.md", "Connect Stripe");
    let text = text.replace("127.0.0.1:9301", &free_address()).replace("127.0.0.1:9400", &free_address());
    let printed = paste(&world, folder.path(), &text).await;
    assert!(printed.contains("Every endpoint can take webhooks, and every source has a key."), "{printed}");
    assert_eq!(printed.matches("/stripe first answered 200.").count(), 2, "{printed}");
    assert!(printed.contains("Account acct-2002: open, balance 19.99 "), "{printed}");
    assert_eq!(world.account("acct-2002").await, Some((1_999, 0, 1)));
    world.audit().await;
    world.close().await;
}
