//! The house rules, read off the source tree: who may import whom, where each technology lives, and what every file says first.
//! A rule here is about names only; what the compiler and clippy can check is left to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::rust_words::words;

/// Which modules of the program each may import. A new module needs a line here, and so a thought. What lies in `crates/` is below all
/// of them, and cargo sees to it; but who may use the database is said here.
const IMPORTS: [(&str, &[&str]); 27] = [
    ("audit", &["dedupe", "store"]),
    ("lib", &[]),
    ("main", &["cli"]),
    (
        "cli",
        &[
            "answers",
            "app",
            "audit",
            "broker",
            "config",
            "dedupe",
            "feed",
            "ingress",
            "keys",
            "metrics",
            "operators",
            "ops",
            "parameters",
            "reports",
            "retry",
            "shown",
            "store",
            "telemetry",
            "tls",
            "worker",
        ],
    ),
    (
        "app",
        &[
            "api",
            "balances",
            "broker",
            "config",
            "dedupe",
            "feed",
            "ingress",
            "keys",
            "metrics",
            "operators",
            "ops",
            "retry",
            "store",
            "telemetry",
            "tls",
            "worker",
        ],
    ),
    // Below the operators' actions, which map kept requests again.
    ("ingress", &["broker", "config", "http", "keys", "metrics", "retry", "secrets", "shown", "tls"]),
    ("worker", &["broker", "config", "dedupe", "keys", "metrics", "retry", "store", "telemetry"]),
    // Of people, whether they come over pages, API or command line.
    ("operators", &["config", "ingress", "keys", "store"]),
    (
        "ops",
        &[
            "answers",
            "audit",
            "broker",
            "config",
            "dedupe",
            "http",
            "metrics",
            "operators",
            "parameters",
            "reports",
            "retry",
            "shown",
            "store",
            "tls",
        ],
    ),
    ("reports", &["answers", "parameters", "store"]),
    ("answers", &[]),
    ("api", &["answers", "config", "metrics", "parameters", "store"]),
    ("parameters", &[]),
    ("feed", &["balances", "broker", "config", "http", "metrics", "retry", "secrets", "store", "tls"]),
    ("broker", &["config", "metrics", "retry", "tls"]),
    ("balances", &["config", "dedupe"]),
    ("dedupe", &["config", "metrics", "retry", "tls"]),
    // The crate payonce-postgres, under this name.
    ("store", &[]),
    // Leaves: everybody may use them.
    ("config", &["store"]),
    ("http", &[]),
    ("keys", &["config", "metrics"]),
    ("metrics", &[]),
    ("retry", &["config"]),
    ("secrets", &[]),
    ("shown", &[]),
    ("telemetry", &[]),
    ("tls", &["config"]),
];

/// The only modules that may name a crate.
const PLACES: [(&str, &[&str]); 25] = [
    // In its crate only.
    ("sqlx", &[]),
    ("async_rs", &["broker"]),
    ("lapin", &["broker"]),
    ("redis", &["balances", "dedupe"]),
    ("axum", &["api", "ops"]),
    ("backoff", &["retry"]),
    ("toml", &["config"]),
    ("strsim", &["config"]),
    ("ipnet", &["config"]),
    ("jsonwebtoken", &["ops"]),
    ("tracing_subscriber", &["telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("tracing_opentelemetry", &["telemetry"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("ring", &["ingress", "feed", "ops"]),
    ("rustls_native_certs", &["tls"]),
    ("comfy_table", &["cli"]),
    ("csv", &["reports"]),
    ("indicatif", &["cli"]),
    ("hyper", &["feed", "http", "ingress", "ops", "telemetry"]),
    ("hyper_util", &["feed", "http", "ingress"]),
    ("tokio_rustls", &["feed", "ingress", "ops", "tls"]),
    ("x509_parser", &["ingress"]),
];

/// The pure crates, and all that each depends on.
const PURE: [(&str, &[&str]); 2] = [
    ("crates/payonce-ledger", &["sha2"]),
    (
        "crates/payonce-message",
        &[
            "base64",
            "payonce-ledger",
            "ring",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "subtle",
            "thiserror",
            "time",
        ],
    ),
];
/// What they may not take from the standard library, which no manifest lists.
const PURE_STD_FORBIDDEN: [&str; 7] = ["env", "fs", "io", "net", "process", "thread", "time"];

const FILE_LINES_MAX: usize = 450;
/// Longer ones, and why.
const LONG_FILES: [(&str, &str); 0] = [];

/// The module that a file under `src/` belongs to, and how deep it lies: `src/store/load.rs` is in `store`, 2 deep.
fn module(path: &str) -> (String, usize) {
    let path = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs").trim_end_matches("/mod");
    (path.split('/').next().unwrap_or_default().to_owned(), path.split('/').count())
}

/// Our modules that this file names: by `crate::…`, by enough `super::…`, in `main.rs` by `payonce::…`.
fn imports(path: &str, source: &str) -> BTreeSet<String> {
    let (module, depth) = module(path);
    let words = words(source);
    let mut found = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let root = match word.as_str() {
            "crate" => at + 1,
            "payonce" if module == "main" => at + 1,
            // By the name that `lib.rs` gives it, or by its own.
            "payonce_postgres" if module != "lib" => {
                found.insert("store".to_owned());
                continue;
            }
            "super" if at == 0 || words[at - 1] != "::" => {
                let supers = words[at..].chunks(2).take_while(|pair| pair[0] == "super").count();
                if supers < depth {
                    continue;
                }
                at + 2 * supers - 1
            }
            _ => continue,
        };
        if words.get(root).is_some_and(|word| word == "::") {
            found.extend(heads(&words[root + 1..]));
        }
    }
    found.retain(|name| *name != module && IMPORTS.iter().any(|(ours, _)| ours == name));
    found
}

/// The first names of a path or of a group of paths: `a::b` gives a, `{a::{b, c}, d}` gives a and d.
fn heads(words: &[String]) -> Vec<String> {
    if words.first().is_none_or(|word| word != "{") {
        return words.first().cloned().into_iter().collect();
    }
    let mut heads = Vec::new();
    let mut depth = 0_usize;
    for pair in words.windows(2) {
        let opens = pair[0] == "{";
        depth += usize::from(opens);
        depth -= usize::from(pair[0] == "}");
        if depth == 0 {
            break;
        }
        if depth == 1 && (opens || pair[0] == ",") {
            heads.push(pair[1].clone());
        }
    }
    heads
}

/// Crates out of `crates` that this file names at the head of a path.
fn crates_named<'a>(source: &str, crates: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let words = words(source);
    let is_head = |at: usize, name: &str| {
        words[at] == name
            && (at == 0 || words[at - 1] != "::")
            && words.get(at + 1).is_some_and(|next| next == "::" || (words[at - 1] == "use" && next != ","))
    };
    crates.into_iter().filter(|name| (1..words.len()).any(|at| is_head(at, name))).collect()
}

/// What files of the load tests use of payonce beside what every one may: to publish, and to sign. None of it decides or reads money.
const SHARED_WITH_LOAD_TESTS: [(&str, &[&str]); 2] = [
    // Makes webhooks as providers send them.
    ("load-tests/src/ingress/front.rs", &["config", "ingress", "keys", "signature"]),
    // Which keys of the cache are those of this history.
    ("load-tests/src/chaos/cache.rs", &["store"]),
];

fn layering_broken(path: &str, source: &str) -> Vec<String> {
    let (module, _) = module(path);
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: module {module} is not in the table of imports")];
    };
    let found = imports(path, source);
    let wrong = found.iter().filter(|name| !allowed.contains(&name.as_str()));
    wrong.map(|name| format!("{path}: {module} imports {name}")).collect()
}

fn misplaced(path: &str, source: &str) -> Vec<String> {
    let (module, _) = module(path);
    let named = crates_named(source, PLACES.iter().map(|(name, _)| *name));
    let places: BTreeMap<&str, &[&str]> = PLACES.into_iter().collect();
    let wrong = named.into_iter().filter(|name| !places[name].contains(&module.as_str()));
    wrong.map(|name| format!("{path}: names {name}, whose place is {}", places[name].join(", "))).collect()
}

/// What cargo cannot see: what a pure crate takes from the standard library, and words of the language that wait or print.
fn impure(path: &str, source: &str) -> Vec<String> {
    let words = words(source);
    let from_std: Vec<String> = (2..words.len())
        .filter(|at| words[at - 2] == "std" && words[at - 1] == "::")
        .flat_map(|at| heads(&words[at..]))
        .collect();
    let std = PURE_STD_FORBIDDEN.into_iter().filter(|name| from_std.iter().any(|head| head == name));
    let keywords = ["async", "await", "println", "eprintln", "SystemTime", "Instant"];
    let keywords = keywords.into_iter().filter(|keyword| words.iter().any(|word| word == keyword));
    let found: BTreeSet<&str> = std.chain(keywords).collect();
    found.into_iter().map(|name| format!("{path}: a pure crate names {name}")).collect()
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files under this directory, or the file itself, with paths from the package root; none where nothing is there.
pub(crate) fn files(under: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![root().join(under)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

/// Those that are no tests.
fn shipped_files(under: &[&str]) -> Vec<String> {
    rust_files(under).into_iter().filter(|path| !path.contains("/tests/")).collect()
}

fn rust_files(under: &[&str]) -> Vec<String> {
    let found: Vec<String> =
        under.iter().flat_map(|under| files(under)).filter(|path| path.ends_with(".rs")).collect();
    assert!(!found.is_empty(), "no Rust under {under:?}");
    found
}

/// Applies a rule to every file of the service.
#[track_caller]
fn check(rule: impl Fn(&str, &str) -> Vec<String>) {
    let broken: Vec<String> = rust_files(&["src"]).iter().flat_map(|path| rule(path, &read(path))).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn imports_only_go_down() {
    check(layering_broken);
    for (name, allowed) in IMPORTS {
        for other in allowed {
            let (_, back) = IMPORTS.iter().find(|(name, _)| name == other).expect("in the table");
            assert!(!back.contains(&name), "{name} and {other} may import each other");
        }
    }
}

#[test]
fn each_technology_has_one_place() {
    check(misplaced);
    for (name, place) in
        PLACES.iter().flat_map(|(name, places)| places.iter().map(move |place| (*name, *place)))
    {
        let is_used = rust_files(&["src"])
            .iter()
            .any(|path| module(path).0 == place && !crates_named(&read(path), [name]).is_empty());
        assert!(
            is_used,
            "{name} is not used in {place} any more: take it out of the table, and out of Cargo.toml"
        );
    }
}

#[test]
fn the_rules_and_the_message_are_pure() {
    let mut broken = Vec::new();
    for (folder, crates) in PURE {
        let manifest: toml::Table = read(&format!("{folder}/Cargo.toml")).parse().unwrap();
        let named: Vec<&String> = manifest["dependencies"].as_table().unwrap().keys().collect();
        assert_eq!(named, crates, "{folder} depends on more, or on less");
        // What its tests use is no part of it.
        let mut tables = manifest.keys().filter(|key| key.contains("dependencies"));
        assert!(tables.all(|key| ["dependencies", "dev-dependencies"].contains(&key.as_str())), "{folder}");
        let files = shipped_files(&[folder]);
        assert!(files.len() > 3, "{files:?}");
        broken.extend(files.iter().flat_map(|path| impure(path, &read(path))));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_load_tests_audit_with_their_own_arithmetic() {
    // The comparison programs in `compare` are payonce's own rules, carried out another way; what audits them is not among them.
    let audited = |path: &String| !path.starts_with("load-tests/src/compare/");
    for path in rust_files(&["load-tests/src"]).into_iter().filter(audited) {
        let words = words(&read(&path));
        let from_payonce = (2..words.len())
            .filter(|at| words[at - 2] == "payonce" && words[at - 1] == "::")
            .flat_map(|at| heads(&words[at..]));
        let allowed = SHARED_WITH_LOAD_TESTS.iter().find(|(file, _)| *file == path);
        let allowed = allowed.map_or(&["broker", "keys", "signature"][..], |(_, names)| names);
        let is_name = |name: &String| name.starts_with(|c: char| c.is_ascii_lowercase());
        let shared: Vec<String> =
            from_payonce.filter(|name| is_name(name) && !allowed.contains(&name.as_str())).collect();
        assert!(shared.is_empty(), "{path} shares {shared:?} with the service that it checks");
    }
    let manifest: toml::Table = read("load-tests/Cargo.toml").parse().unwrap();
    let ours = manifest["dependencies"].as_table().unwrap().keys().filter(|name| name.starts_with("payonce"));
    assert_eq!(ours.collect::<Vec<_>>(), ["payonce"], "the load tests depend on the crates that they check");
    for (path, _) in SHARED_WITH_LOAD_TESTS {
        assert!(root().join(path).is_file(), "{path} is gone: take it out of the table");
    }
}

#[test]
fn every_file_says_first_what_lives_in_it() {
    for path in rust_files(&["src", "crates", "load-tests/src", "tests"]) {
        let source = read(&path);
        let first = source.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > 10, "{path} begins with {first:?}");
    }
}

#[test]
fn no_file_outgrows_its_reader() {
    let mut long = BTreeMap::new();
    for path in shipped_files(&["src", "crates", "load-tests/src"]) {
        let lines = read(&path).lines().count();
        if lines > FILE_LINES_MAX {
            long.insert(path, lines);
        }
    }
    for (path, why) in LONG_FILES {
        let lines = long.remove(path);
        assert!(lines.is_some(), "{path} is short enough: its exception ({why}) can go");
    }
    assert!(long.is_empty(), "more than {FILE_LINES_MAX} lines: {long:?}");
}

/// The text as lower-case words, whatever line breaks, comment signs or dashes stand between them.
fn prose(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

#[test]
fn nothing_claims_what_no_test_can_show() {
    // "Applied at most once per key, acknowledged only after commit" is what the tests show.
    let phrase = ["exactly", "once"].join(" ");
    let places = [
        "src",
        "crates",
        "load-tests",
        "docs",
        "migrations",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.toml",
        "Makefile",
        "payonce.example.toml",
    ];
    for path in places.into_iter().flat_map(files) {
        if let Ok(text) = fs::read_to_string(root().join(&path)) {
            assert!(!prose(&text).contains(&format!(" {phrase} ")), "{path} says {phrase:?}");
        }
    }
}

#[test]
fn names_say_what_a_thing_is() {
    for path in shipped_files(&["src", "crates", "load-tests/src"]) {
        for part in ["util", "utils", "common", "helper", "helpers", "misc"] {
            let is_part = path.split(['/', '.']).any(|name| name == part);
            assert!(!is_part, "{path}: {part} says nothing");
        }
        let words = words(&read(&path));
        for pair in
            words.windows(2).filter(|pair| ["struct", "enum", "trait", "type", "mod"].contains(&&*pair[0]))
        {
            for part in ["Manager", "Service", "Helper", "Util"] {
                assert!(!pair[1].contains(part), "{path}: {} says nothing", pair[1]);
            }
        }
    }
}

#[test]
fn a_trait_has_two_real_implementations() {
    let sources: Vec<Vec<String>> =
        shipped_files(&["src", "crates"]).iter().map(|path| words(&read(path))).collect();
    let pairs = || sources.iter().flat_map(|words| words.windows(2));
    for declared in pairs().filter(|pair| pair[0] == "trait") {
        let name = &declared[1];
        let implementations = pairs().filter(|pair| pair[0] == *name && pair[1] == "for").count();
        assert!(implementations >= 2, "trait {name} has {implementations}");
    }
}

#[test]
fn what_the_database_stamped_is_never_compared_with_this_machines_clock() {
    // The clock of a page before the database was asked, and the time in a signature, which is its maker's.
    let allowed =
        ["src/ops/clock.rs", "src/cli/publish/mod.rs", "src/feed/webhooks/clock.rs", "src/ingress/clock.rs"];
    for path in shipped_files(&["src", "crates"]).into_iter().filter(|path| !allowed.contains(&path.as_str()))
    {
        let words = words(&read(&path));
        let asks = words.iter().any(|word| word == "now_utc" || word == "SystemTime");
        assert!(
            !asks,
            "{path} reads this machine's clock; store::now and ops::clock tell the database's time"
        );
    }
}

#[test]
fn no_test_is_switched_off() {
    for path in rust_files(&["src", "crates", "load-tests", "tests"]) {
        let words = words(&read(&path));
        let is_off = words.windows(3).any(|three| three == ["#", "[", "ignore"]);
        assert!(!is_off, "{path} ignores a test");
    }
}

/// Name, description and filter of each mistake.
fn mistakes() -> Vec<(String, String, String)> {
    let patches = files("tests/sabotage").into_iter().filter(|path| path.ends_with(".patch"));
    let read_one = |path: String| {
        let text = read(&path);
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
        let name = path.trim_start_matches("tests/sabotage/").trim_end_matches(".patch").to_owned();
        let filter = line("Caught by: ").unwrap_or_else(|| panic!("{path} names no test"));
        (name, text.lines().next().unwrap_or_default().to_owned(), filter)
    };
    patches.map(read_one).collect()
}

/// The modules of tests that a filter of nextest names, each with the beginning of a test's name, which may be empty.
fn tests_named(filter: &str) -> Vec<(String, String)> {
    let parts = filter.split(['/', '|', '(', ')']).filter_map(|part| part.strip_prefix('^'));
    parts
        .map(|part| {
            let (module, name) = part.split_once("::").unwrap_or((part, ""));
            (module.to_owned(), name.to_owned())
        })
        .collect()
}

#[test]
fn every_mistake_of_the_sabotage_fits_the_sources_and_names_tests_that_exist() {
    let output =
        Command::new(root().join("scripts/sabotage")).arg("--check").output().expect("scripts/sabotage runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = read("docs/reliability.md");
    for (name, what, filter) in mistakes() {
        let row = format!("| `{name}` | {what} | `{}` |", filter.replace('|', "\\|"));
        assert!(table.contains(&row), "docs/reliability.md has not this row:\n{row}");
        for (module, test) in tests_named(&filter) {
            let sources = ["tests/it", "tests/pure", "crates/payonce-ledger/tests/rules"].map(|folder| {
                fs::read_to_string(root().join(format!("{folder}/{module}.rs")))
                    .or_else(|_| fs::read_to_string(root().join(format!("{folder}/{module}/mod.rs"))))
                    .unwrap_or_default()
            });
            let is_there =
                sources.iter().any(|source| !source.is_empty() && source.contains(&format!("fn {test}")));
            assert!(is_there, "{name}: no test is called {module}::{test}…");
        }
    }
    let rows = table.lines().filter(|line| line.starts_with("| `") && line.matches("` |").count() == 2);
    let names: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let known: Vec<String> = mistakes().into_iter().map(|(name, ..)| name).collect();
    let (_, sabotage) = table.split_once("\n## Sabotage").expect("a chapter");
    for name in names.iter().filter(|name| sabotage.contains(&format!("| `{name}` |"))) {
        assert!(known.iter().any(|known| known == name), "docs/reliability.md has {name}, which is no patch");
    }
}

#[test]
fn the_checks_that_the_documents_name_are_those_of_the_load_tests() {
    let sources: String = rust_files(&["load-tests/src"]).iter().map(|path| read(path)).collect();
    let text = read("docs/reliability.md");
    let table = text.lines().filter(|line| line.starts_with("| I"));
    let names: Vec<&str> = table.flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| name.contains('_')).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(sources.contains(&format!("\"{name}\"")), "no check is called {name}");
    }
}

#[test]
fn a_planted_violation_is_found() {
    let found = |path: &str, source: &str| {
        [layering_broken(path, source), misplaced(path, source)].concat().join("; ")
    };
    for (path, source, expected) in [
        ("src/feed/tail.rs", "use crate::store::feed;", ""),
        (
            "src/broker/link.rs",
            "use crate::{dedupe::Dedupe, retry};",
            "src/broker/link.rs: broker imports dedupe",
        ),
        (
            "src/broker/link.rs",
            "use crate::{retry::{self, keys}, dedupe};",
            "src/broker/link.rs: broker imports dedupe",
        ),
        ("src/broker/link.rs", "use super::super::keys;", "src/broker/link.rs: broker imports keys"),
        ("src/broker/link.rs", "use super::keys;", ""),
        ("src/broker/mod.rs", "use super::keys::Keys;", "src/broker/mod.rs: broker imports keys"),
        ("src/tls.rs", "fn f() { crate::store::epoch() }", "src/tls.rs: tls imports store"),
        (
            "src/ingress/edge.rs",
            "use payonce_postgres::Database;",
            "src/ingress/edge.rs: ingress imports store",
        ),
        ("src/ops/mod.rs", "use crate::worker::Readiness;", "src/ops/mod.rs: ops imports worker"),
        ("src/main.rs", "fn main() { payonce::app::run() }", "src/main.rs: main imports app"),
        ("src/util.rs", "", "src/util.rs: module util is not in the table of imports"),
        ("src/tls.rs", "// use crate::store\n/* crate::store */ \"crate::store\" r#\"\"crate::store\"#", ""),
        ("src/tls.rs", "let c = '\"'; use crate::store; let d = '\"';", "src/tls.rs: tls imports store"),
        ("src/tls.rs", "fn f<'a>(x: &'a str) { crate::store::f(x) }", "src/tls.rs: tls imports store"),
        ("src/app/mod.rs", "use sqlx::PgConnection;", "src/app/mod.rs: names sqlx, whose place is "),
        (
            "src/app/mod.rs",
            "fn f() -> lapin::Result<()> {}",
            "src/app/mod.rs: names lapin, whose place is broker",
        ),
        ("src/worker/mod.rs", "fn f(redis: bool) { Layer::redis::x }", ""),
        ("src/dedupe.rs", "use redis::Client;", ""),
    ] {
        assert_eq!(found(path, source), expected, "{source}");
    }
    for (source, expected) in [
        ("use std::{time::Duration};", "time"),
        ("fn f() { std::fs::read() }", "fs"),
        ("use sha2::Sha256; use std::sync::Arc;", ""),
        ("pub async fn f() {}", "async"),
    ] {
        let found = impure("crates/payonce-ledger/src/x.rs", source);
        let expected: Vec<String> = [expected]
            .into_iter()
            .filter(|name| !name.is_empty())
            .map(|name| format!("crates/payonce-ledger/src/x.rs: a pure crate names {name}"))
            .collect();
        assert_eq!(found, expected, "{source}");
    }
    assert!(prose("delivered exactly\n//! once.").contains(" exactly once "));
}
