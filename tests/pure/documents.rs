//! The documents hold together: each page stands in the book, each link leads to a page and a heading that are there, and none out of the site.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Documents under this folder, as paths from the root.
fn documents(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The text without its blocks and spans of code, in which nothing is a link.
fn prose(text: &str) -> String {
    let mut in_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let outside = line.split('`').step_by(2);
            prose.extend(outside.chain(["\n"]));
        }
    }
    prose
}

/// Where the links of a document lead to.
fn links(text: &str) -> Vec<String> {
    prose(text).split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// The anchors of a document's headings, as GitHub and mdBook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let headings = text.lines().filter(|line| {
        in_block ^= line.starts_with("```");
        !in_block && line.starts_with('#')
    });
    let anchor = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// A path without its `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other @ (Component::Normal(_) | Component::RootDir | Component::Prefix(_)) => normal.push(other),
        }
    }
    normal
}

/// What is wrong with the links of a document.
fn broken(document: &Path, text: &str, stays_in: Option<&Path>) -> Vec<String> {
    let mut problems = Vec::new();
    for link in links(text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
        let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = match file {
            "" => document.to_owned(),
            file => normal(&document.parent().unwrap_or(Path::new("")).join(file)),
        };
        let problem = if !root().join(&target).exists() {
            Some("no such file")
        } else if stays_in.is_some_and(|folder| !target.starts_with(folder)) {
            Some("leads out of the site: name the path as code")
        } else if !anchor.is_empty()
            && !anchors(&fs::read_to_string(root().join(&target)).unwrap()).contains(anchor)
        {
            Some("no such heading")
        } else {
            None
        };
        problems.extend(problem.map(|problem| format!("{}: ({link}): {problem}", document.display())));
    }
    problems
}

#[test]
fn every_link_leads_to_a_page_and_a_heading_that_are_there() {
    let docs = documents("docs").into_iter().map(|path| (path, Some(Path::new("docs"))));
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "load-tests/README.md",
        "examples/shop/README.md",
    ];
    let others = others.into_iter().map(|path| (PathBuf::from(path), None));
    let problems: Vec<String> = docs
        .chain(others)
        .flat_map(|(path, stays_in)| {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            broken(&path, &text, stays_in)
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_planted_link_that_leads_nowhere_is_found() {
    let planted = "[a](nowhere.md) [b](feed.md#nothing) [c](../README.md) `[d](code.md)`\n```\n[e](block.md)\n```\n[f](#a-heading) [g](https://x)\n## A heading\n";
    let found = broken(Path::new("docs/planted.md"), planted, Some(Path::new("docs")));
    // The heading is the planted document's own, which is not there to be read.
    let expected = [
        "(nowhere.md): no such file",
        "(feed.md#nothing): no such heading",
        "(../README.md): leads out",
        "(#a-heading): no such file",
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn every_page_has_its_one_place_in_the_book() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut places: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for link in links(&summary) {
        *places.entry(Path::new("docs").join(link)).or_default() += 1;
    }
    let pages: BTreeSet<PathBuf> =
        documents("docs").into_iter().filter(|path| !path.ends_with("SUMMARY.md")).collect();
    assert_eq!(places.keys().cloned().collect::<BTreeSet<_>>(), pages);
    assert!(places.values().all(|times| *times == 1), "{places:?}");
}
