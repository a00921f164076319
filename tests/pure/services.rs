//! `scripts/services start` in a shell that names servers already: what becomes of `.local/env`. No server is started here.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const NAMES: [&str; 3] = ["PAYONCE_DATABASE_URL", "PAYONCE_REDIS_URL", "PAYONCE_AMQP_URL"];
const GIVEN: [&str; 3] = ["postgres://me:hidden@db/payonce", "redis://cache:6379", "amqp://me:hidden@mq/%2f"];

/// Runs a copy of the script whose `.local` is in `folder`, in a shell with these addresses.
fn start(folder: &Path, addresses: &[(&str, &str)]) -> Output {
    let scripts = folder.join("scripts");
    fs::create_dir_all(&scripts).unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"), scripts.join("services")).unwrap();
    let mut command = Command::new(scripts.join("services"));
    command.arg("start").env_remove("PAYONCE_LOCAL_DIR").env_remove("PAYONCE_TLS_DIR");
    for name in NAMES {
        command.env_remove(name);
    }
    command.envs(addresses.iter().copied()).output().unwrap()
}

fn env(folder: &Path) -> String {
    fs::read_to_string(folder.join(".local/env")).unwrap_or_default()
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat()
}

fn given() -> Vec<(&'static str, &'static str)> {
    NAMES.into_iter().zip(GIVEN).collect()
}

#[test]
fn servers_that_the_shell_names_are_used_where_no_others_are_known() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output = start(folder.path(), &given());
        assert!(output.status.success(), "{}", said(&output));
    }
    for address in GIVEN {
        assert!(env(folder.path()).contains(address), "{}", env(folder.path()));
    }
}

#[test]
fn a_shell_with_another_address_neither_replaces_what_stands_in_env_nor_starts_anything() {
    for other in NAMES {
        let folder = tempfile::tempdir().unwrap();
        assert!(start(folder.path(), &given()).status.success());
        let before = env(folder.path());
        let mut addresses = given();
        for (name, address) in &mut addresses {
            if *name == other {
                *address = "postgres://me:hidden@elsewhere/x";
            }
        }
        let output = start(folder.path(), &addresses);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(env(folder.path()), before);
        assert!(said.contains(other) && said.contains("unset PAYONCE_DATABASE_URL"), "{said}");
        assert!(!said.contains("hidden"), "{said}");
        let left: Vec<_> = fs::read_dir(folder.path().join(".local")).unwrap().collect();
        assert!(left.iter().all(|file| !file.as_ref().unwrap().path().ends_with("postgres")), "{left:?}");
    }
}

#[test]
fn two_of_three_addresses_are_refused_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let output = start(folder.path(), &given()[..2]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("2 of 3 are set"), "{}", said(&output));
}
