//! What goes into the program, and what documents say about its security: no unsafe code of ours, checked arithmetic in what is
//! shipped, dependencies from one registry held to their checksums, and no threat whose test does not exist.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn toml(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Rust files under a folder.
fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root().join(folder)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn every_crate_forbids_unsafe_code() {
    let mut roots: Vec<String> = ["src/lib.rs", "src/main.rs", "load-tests/src/main.rs"]
        .map(str::to_owned)
        .into_iter()
        .chain(
            rust_files("crates")
                .into_iter()
                .filter(|path| path.ends_with("/src/lib.rs") || path.ends_with("/build.rs")),
        )
        .chain(rust_files("benches"))
        .collect();
    for folder in ["tests", "load-tests/tests", "crates/payonce-ledger/tests"] {
        roots.extend(rust_files(folder).into_iter().filter(|path| {
            let inside = path.strip_prefix(folder).unwrap().trim_start_matches('/');
            inside.ends_with("/main.rs") || !inside.contains('/')
        }));
    }
    assert!(roots.len() >= 8, "{roots:?}");
    for path in roots {
        assert!(read(&path).contains("\n#![forbid(unsafe_code)]\n"), "{path} does not forbid unsafe code");
    }
}

#[test]
fn what_is_shipped_checks_its_arithmetic() {
    let manifest = toml("Cargo.toml");
    assert_eq!(manifest["profile"]["release"]["overflow-checks"].as_bool(), Some(true));
    for (name, profile) in manifest["profile"].as_table().unwrap() {
        assert_ne!(profile.get("overflow-checks").and_then(toml::Value::as_bool), Some(false), "{name}");
    }
}

#[test]
fn every_dependency_is_from_the_registry_and_held_to_a_checksum() {
    let lock = toml("Cargo.lock");
    let own = ["payonce", "payonce-ledger", "payonce-message", "payonce-postgres", "load-tests", "shop"];
    let mut checked = 0;
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if own.contains(&name) {
            continue;
        }
        let source = package.get("source").and_then(toml::Value::as_str).unwrap_or_default();
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
        assert_eq!(package["checksum"].as_str().map(str::len), Some(64), "{name}");
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

/// A manifest of a copy, a licence of its own, a build for browsers: what somebody else wrote comes from a registry, by version and hash.
#[test]
fn no_file_that_somebody_else_wrote_is_in_the_tree() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().expect("git runs");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<&str> = listed.lines().filter(|path| root().join(path).is_file()).collect();
    assert!(files.len() > 300, "{} files", files.len());
    let theirs = ["vendor/", "third_party/", "node_modules/", ".min.js", ".min.css", ".LICENSE"];
    for path in &files {
        assert!(!theirs.iter().any(|mark| path.contains(mark)), "{path}");
        let is_licence = path.rsplit('/').next().is_some_and(|name| name.starts_with("LICEN"));
        assert!(!is_licence || !path.contains('/'), "{path}: a licence below the root is somebody else's");
        // A licence's head in a file of source; this test names the words in pieces.
        let is_source = [".rs", ".js", ".css", ".sh", ".py", ".toml"].iter().any(|end| path.ends_with(end));
        let text = if is_source { read(path) } else { String::new() };
        for words in
            [["Permission is hereby", "granted, free"], ["All rights", "reserved"], ["Copyright", "(c)"]]
        {
            assert!(!text.contains(&words.join(" ")), "{path}: {}", words.join(" "));
        }
    }
    assert!(toml("Cargo.toml").get("patch").is_none(), "a dependency is replaced by a copy");
}

#[test]
fn each_exception_for_a_dependency_has_its_reason() {
    let deny = toml("deny.toml");
    let ignored = deny["advisories"]["ignore"].as_array().unwrap();
    let banned = deny["bans"]["deny"].as_array().unwrap();
    for exception in ignored.iter().chain(banned) {
        assert!(exception["reason"].as_str().is_some_and(|reason| reason.len() > 5), "{exception}");
    }
    assert_eq!(deny["sources"]["unknown-registry"].as_str(), Some("deny"));
    assert_eq!(deny["sources"]["unknown-git"].as_str(), Some("deny"));
    // A crate that an exception is about and that is gone takes its exception with it.
    let lock = read("Cargo.lock");
    for name in ["backoff", "instant"] {
        assert!(
            lock.contains(&format!("name = \"{name}\"")),
            "{name} is gone: take its exception out of deny.toml"
        );
    }
}

#[test]
fn the_bill_of_materials_names_every_crate_with_version_licence_and_checksum() {
    let output = Command::new(root().join("scripts/sbom")).output().expect("scripts/sbom runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bom: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = bom["components"].as_array().unwrap();
    let lock = toml("Cargo.lock");
    for component in components {
        let (name, version) = (component["name"].as_str().unwrap(), component["version"].as_str().unwrap());
        let locked = lock["package"].as_array().unwrap().iter().find(|package| {
            package["name"].as_str() == Some(name) && package["version"].as_str() == Some(version)
        });
        let locked = locked.unwrap_or_else(|| panic!("{name} {version} is not in Cargo.lock"));
        let checksum = locked.get("checksum").and_then(toml::Value::as_str);
        assert_eq!(component["hashes"][0]["content"].as_str(), checksum, "{name}");
        assert!(component["licenses"][0]["expression"].as_str().is_some_and(|text| text.len() > 2), "{name}");
    }
    // Direct ones are there, those of tests are not.
    let names: BTreeSet<&str> =
        components.iter().map(|component| component["name"].as_str().unwrap()).collect();
    for name in toml("Cargo.toml")["dependencies"].as_table().unwrap().keys() {
        let is_ours = name.starts_with("payonce-");
        assert_ne!(names.contains(name.as_str()), is_ours, "{name}");
    }
    assert!(!names.contains("proptest") && !names.contains("load-tests"), "{names:?}");
}

/// Names of tests in a text: what stands between back-quotes and holds `::`, but no path of a file or a type.
fn tests_named(text: &str) -> BTreeSet<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| {
        name.contains("::")
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':')
    };
    quoted.filter(is_test).map(str::to_owned).collect()
}

#[test]
fn each_test_that_a_document_names_exists() {
    let sources: Vec<(String, String)> = ["src", "crates", "tests", "load-tests"]
        .into_iter()
        .flat_map(rust_files)
        .map(|path| (path.clone(), read(&path)))
        .collect();
    for (document, name) in
        ["docs/security.md", "docs/providers/faults.md"].into_iter().flat_map(|document| {
            let named = tests_named(&read(document));
            assert!(named.len() > 15, "{document}: {named:?}");
            named.into_iter().map(move |name| (document, name))
        })
    {
        let (module, function) = name.rsplit_once("::").unwrap();
        // Tests beside the code are in a module `tests` of its file.
        let module = module.rsplit("::").find(|part| *part != "tests").unwrap();
        let is_there = sources.iter().any(|(path, source)| {
            path.split(['/', '.']).any(|part| part == module) && source.contains(&format!("fn {function}("))
        });
        assert!(is_there, "{document} names the test {name}, which does not exist");
    }
}

#[test]
fn a_threat_without_a_test_is_found() {
    let text = "| x | `hostile_input::no_such_test` and `crates/payonce-message/src/mask.rs`, `Secret::new`, `payonce keys` |";
    assert_eq!(tests_named(text), BTreeSet::from(["hostile_input::no_such_test".to_owned()]));
    // Each row of the table of threats names a test, or says where its tests are named.
    let security = read("docs/security.md");
    let (_, table) =
        security.split_once("| who | what | how it is met | which test shows it |").expect("the table");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 15, "{}", rows.len());
    for row in rows {
        assert!(
            !tests_named(row).is_empty() || row.contains("docs/signatures.md") || row.contains("docs/tls.md"),
            "{row}"
        );
    }
}

/// What the filters of the mistakes begin with: modules, or tests.
fn tried_by_sabotage() -> BTreeSet<String> {
    let patches = fs::read_dir(root().join("tests/sabotage")).unwrap();
    let texts = patches.map(|patch| fs::read_to_string(patch.unwrap().path()).unwrap());
    let filters = texts
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("Caught by: ")).map(str::to_owned));
    let parts = filters.flat_map(|filter| {
        let parts = filter.split(['/', '|', '(', ')', '=']).map(|part| part.trim().trim_start_matches('^'));
        parts.filter(|part| part.contains("::")).map(str::to_owned).collect::<Vec<_>>()
    });
    parts.collect()
}

#[test]
fn how_many_threats_have_a_mistake_that_takes_their_defence_out_is_said() {
    let security = read("docs/security.md");
    let (_, table) =
        security.split_once("| who | what | how it is met | which test shows it |").expect("the table");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let tried = tried_by_sabotage();
    let is_tried = |row: &&&str| {
        tests_named(row).iter().any(|test| tried.iter().any(|beginning| test.starts_with(beginning)))
    };
    let said = format!("for {} of these {} rows", rows.iter().filter(is_tried).count(), rows.len());
    assert!(security.contains(&said), "docs/security.md does not say: {said}");
}
