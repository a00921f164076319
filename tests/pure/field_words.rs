//! The field's words: which words a reader of another first language would have to guess, what to write instead, and the glossary that
//! says what the right ones mean. What must not live here: rules about names of modules and imports, which are in `tidy`.

use std::{collections::BTreeMap, fs};

use payonce::ledger::{CaseState, Layer, Reason};

use crate::tidy::{files, read, root};

/// A word, or several that follow each other, in lower case. `GivenUp`, `given_up` and "given up" are the same words.
struct Banned {
    words: &'static str,
    instead: &'static str,
    /// Where it is banned: paths begin with one of these. Empty: everywhere.
    within: &'static [&'static str],
}

const fn everywhere(words: &'static str, instead: &'static str) -> Banned {
    Banned { words, instead, within: &[] }
}

const CODE: &[&str] = &["src/", "crates/"];
const DECIDE: &[&str] = &["crates/payonce-ledger/src/"];

const BANNED: [Banned; 51] = [
    everywhere("vitals", "stats"),
    everywhere("rival", "concurrent writer; in a comparison: comparison program"),
    everywhere("rivals", "concurrent writers; in a comparison: comparison programs"),
    everywhere("turned away", "rejected"),
    everywhere("turn away", "reject"),
    everywhere("turns away", "rejects"),
    everywhere("layer that knew", "detection layer"),
    everywhere("trail", "audit log (of people); duplicate log (of duplicates)"),
    everywhere("goodbye", "stopped"),
    everywhere("own word", "self-reported"),
    everywhere(
        "given up",
        "dead-lettered (by the broker), exhausted (retries), canceled (a statement), released (a hold)",
    ),
    everywhere("give up", "dead-letter, exhaust, cancel, release"),
    everywhere("gives up", "dead-letters, exhausts, cancels, releases, stops"),
    everywhere("gave up", "dead-lettered, exhausted, canceled, released"),
    everywhere("half within", "p50"),
    everywhere("95 within", "p95"),
    everywhere("99 within", "p99"),
    everywhere("last trouble", "last error"),
    everywhere("no trouble", "no errors"),
    everywhere("what exactly", "detail"),
    everywhere("copies ever", "duplicates in total"),
    everywhere("lost race", "version conflict"),
    everywhere("lost races", "version conflicts"),
    everywhere("lost a race", "had a version conflict"),
    everywhere("carry out", "run"),
    everywhere("bring about", "inject"),
    everywhere("is away", "is down, is unreachable"),
    everywhere("are away", "are down"),
    everywhere("be away", "be down"),
    everywhere("was away", "was down"),
    everywhere("went away", "went down"),
    everywhere("as away", "as down"),
    everywhere("mend", "fix"),
    everywhere("mends", "fixes"),
    everywhere("mended", "fixed"),
    everywhere("mending", "fixing"),
    everywhere("deed", "action"),
    everywhere("deeds", "case actions"),
    everywhere("door", "via, channel"),
    everywhere("look not act", "read-only"),
    everywhere("the books are", "the ledger audit is"),
    Banned { words: "ink", instead: "style", within: CODE },
    Banned { words: "verdict", instead: "decision", within: CODE },
    Banned { words: "book", instead: "batch state", within: DECIDE },
    Banned { words: "judge", instead: "decide", within: DECIDE },
    Banned { words: "reconsider", instead: "decide again", within: DECIDE },
    Banned { words: "known besides", instead: "known excluding", within: DECIDE },
    Banned { words: "wake", instead: "release waiting", within: DECIDE },
    Banned { words: "stranger", instead: "belongs elsewhere", within: DECIDE },
    Banned { words: "crash reach", instead: "crash::hit", within: &[] },
    Banned { words: "told reach", instead: "configured::hit", within: &[] },
];

/// Longer phrases in which a banned one is right, because outside programs rely on the name.
const FIXED_NAMES: [(&str, &str); 1] = [("webhook give up ms", "contract §9 names the setting")];

const PLACES: [&str; 15] = [
    "src",
    "crates",
    "tests",
    "load-tests",
    "benches",
    "examples",
    "docs",
    "deploy",
    "scripts",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "Makefile",
    "payonce.example.toml",
];

/// Files that may have every word, and why.
const ALLOWED: [(&str, &str); 4] = [
    ("tests/pure/field_words.rs", "the table itself"),
    ("docs/glossary.md", "names what not to write"),
    ("tests/sabotage/words_that_only_we_know.patch", "puts such a word back"),
    ("docs/contract.md", "outside programs rely on it as it is; released migrations are not read at all"),
];

/// The words of a text in lower case, each with its line. Names are taken apart at `_` and at capital letters.
fn words_by_line(text: &str) -> Vec<(String, usize)> {
    let mut words = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut word = String::new();
        let mut was_lower = false;
        for c in line.chars().chain([' ']) {
            let begins = c.is_uppercase() && was_lower;
            if (begins || !c.is_alphanumeric()) && !word.is_empty() {
                words.push((std::mem::take(&mut word), at + 1));
            }
            if c.is_alphanumeric() {
                word.extend(c.to_lowercase());
            }
            was_lower = c.is_lowercase();
        }
    }
    words
}

fn is_at(words: &[(String, usize)], phrase: &[&str]) -> bool {
    words.len() >= phrase.len() && words.iter().zip(phrase).all(|((word, _), expected)| word == expected)
}

/// File, line and replacement of each banned word of this text.
fn found(path: &str, text: &str) -> Vec<String> {
    let words = words_by_line(text);
    let split = |phrase: &'static str| phrase.split(' ').collect::<Vec<_>>();
    let fixed: Vec<Vec<&str>> = FIXED_NAMES.iter().map(|(phrase, _)| split(phrase)).collect();
    let is_fixed = |at: usize| {
        fixed.iter().any(|phrase| {
            (at.saturating_sub(phrase.len())..=at)
                .any(|start| start + phrase.len() > at && is_at(&words[start..], phrase))
        })
    };
    let mut broken = Vec::new();
    for banned in BANNED {
        let is_within = banned.within.is_empty() || banned.within.iter().any(|place| path.starts_with(place));
        if !is_within {
            continue;
        }
        let phrase = split(banned.words);
        for at in (0..words.len()).filter(|at| is_at(&words[*at..], &phrase) && !is_fixed(*at)) {
            let line = words[at].1;
            broken.push(format!("{path}:{line}: {:?}; write: {}", banned.words, banned.instead));
        }
    }
    broken
}

#[test]
fn people_read_the_words_of_the_field() {
    let mut broken = Vec::new();
    for path in PLACES.into_iter().flat_map(files) {
        let is_allowed = ALLOWED.iter().any(|(allowed, _)| *allowed == path);
        // Pictures are no text.
        if let Ok(text) = fs::read_to_string(root().join(&path))
            && !is_allowed
            && !path.contains("/target/")
        {
            broken.extend(found(&path, &text));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn a_planted_word_is_found_with_file_line_and_replacement() {
    let planted = |path: &str, text: &str| found(path, text).join("; ");
    assert_eq!(planted("src/x.rs", "\nOrigin::GivenUp"), planted("src/x.rs", "\ngiven_up"));
    assert_eq!(
        planted("docs/x.md", "a copy is turned\naway"),
        "docs/x.md:1: \"turned away\"; write: rejected"
    );
    assert_eq!(planted("docs/x.md", "`webhook_give_up_ms`"), "", "a fixed name");
    assert_ne!(planted("docs/x.md", "`webhook_give_up`"), "", "not the whole of it");
    assert_eq!(planted("tests/pure/book.rs", "struct Book"), "", "banned elsewhere only");
    assert_ne!(planted("crates/payonce-ledger/src/decide/mod.rs", "struct Book"), "");
}

#[test]
fn the_glossary_is_sorted_and_has_the_closed_lists_of_the_contract() {
    let text = read("docs/glossary.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    let terms: Vec<String> = rows.filter_map(|row| row.split(" | ").next().map(str::to_owned)).collect();
    let plain = |term: &str| term.replace('`', "").to_lowercase();
    let mut lines = BTreeMap::new();
    for pair in terms.windows(2) {
        assert!(plain(&pair[0]) < plain(&pair[1]), "{} stands before {}", pair[0], pair[1]);
    }
    for term in &terms {
        assert!(lines.insert(plain(term), ()).is_none(), "{term} stands there twice");
    }
    assert!(terms.len() > 60, "{terms:?}");
    let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
    let layers = Layer::ALL.iter().map(|layer| layer.as_str());
    let states = CaseState::ALL.iter().map(|state| state.as_str());
    for name in reasons.chain(layers).chain(states) {
        assert!(text.contains(&format!("`{name}`")), "docs/glossary.md does not have `{name}`");
    }
}
