//! Every callback that a mapping makes is one that the worker reads: recorded webhooks with each of their members missing or odd, under every
//! purpose and capture, become sound callbacks, cases or nothing, never a message that is malformed on the queue.

use std::{
    fs,
    path::{Path, PathBuf},
};

use payonce::{
    ingress::{
        endpoint::Endpoint,
        mapping::{Capture, Item, Outcome, Purpose},
    },
    wire::decode,
};
use serde_json::{Value, json};

use crate::provider_vectors::{endpoint, request};

/// A routing key of AMQP 0-9-1.
const ROUTING_KEY_BYTES_MAX: usize = 255;

fn odd_values() -> Vec<Value> {
    let texts = [
        "",
        " ",
        "\0",
        "a\nb",
        "0",
        "0.00",
        "-1",
        "+1",
        "1e3",
        "1,5",
        "0.001",
        "9007199254740993",
        "XXX",
        "JPY",
        "eur",
        "true",
        "2025-13-45T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "\u{202e}x",
        "a/b:c",
        "…",
    ];
    let mut values: Vec<Value> = texts.into_iter().map(Value::from).collect();
    values.extend([
        json!("x".repeat(200)),
        json!("x".repeat(201)),
        json!("中".repeat(67)),
        json!("x/".repeat(150)),
    ]);
    values.extend([
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(1.5),
        json!(1e300),
    ]);
    values.extend([
        json!(9_007_199_254_740_991_u64),
        json!(9_007_199_254_740_992_u64),
        json!(u64::MAX),
        json!(i64::MIN),
    ]);
    values.extend([json!([]), json!({}), json!([[]]), json!({"value": "1.00", "currency": "EUR"})]);
    values
}

/// The paths of all members, objects and lists included.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(n, value)| (n.to_string(), value)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return,
    };
    for (name, value) in members {
        let path = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        pointers(value, &path, found);
        found.push(path);
    }
}

fn without(value: &Value, path: &str) -> Value {
    let mut value = value.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    match value.pointer_mut(parent) {
        Some(Value::Object(members)) => drop(members.remove(&name.replace("~1", "/").replace("~0", "~"))),
        Some(Value::Array(list)) => drop(list.remove(name.parse().unwrap())),
        _ => unreachable!("{path}"),
    }
    value
}

/// Bodies like this one, each with one thing odd or missing.
fn odd_bodies(body: &[u8]) -> Vec<Vec<u8>> {
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let mut paths = Vec::new();
        pointers(&value, "", &mut paths);
        let mut bodies = Vec::new();
        for path in paths {
            bodies.push(without(&value, &path).to_string().into_bytes());
            for odd in odd_values() {
                let mut changed = value.clone();
                *changed.pointer_mut(&path).unwrap() = odd;
                bodies.push(changed.to_string().into_bytes());
            }
        }
        return bodies;
    }
    let members: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
    let mut bodies = Vec::new();
    let mut push = |members: &[(String, String)]| {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish();
        bodies.push(form.into_bytes());
    };
    for at in 0..members.len() {
        let mut changed = members.clone();
        changed.remove(at);
        push(&changed);
        for odd in odd_values().iter().filter_map(Value::as_str) {
            let mut changed = members.clone();
            odd.clone_into(&mut changed[at].1);
            push(&changed);
        }
    }
    bodies
}

fn problem(endpoint: &Endpoint, item: &Item) -> Option<String> {
    if item.kind.chars().count() > 80 || item.kind.chars().any(char::is_control) {
        return Some(format!("kind {:?}", item.kind));
    }
    let Outcome::Accepted(accepted) = &item.outcome else { return None };
    let shown = String::from_utf8_lossy(&accepted.body);
    match decode(&accepted.body) {
        Err(problem) => Some(format!("{}: {}: {shown}", item.kind, problem.detail)),
        Ok(callback) => {
            let key = (callback.key.source.as_str(), callback.key.event_id.as_str());
            let is_same = key == (endpoint.terms.source.as_str(), accepted.id.as_str());
            let is_routed = (1..=ROUTING_KEY_BYTES_MAX).contains(&accepted.routing_key.len());
            (!is_same || !is_routed)
                .then(|| format!("{key:?}, routing key {:?}: {shown}", accepted.routing_key))
        }
    }
}

#[test]
fn whatever_a_webhook_says_what_is_made_of_it_is_a_callback_that_the_worker_reads() {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")).unwrap() {
        files.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    let (mut problems, mut accepted, mut seen) = (std::collections::BTreeMap::new(), 0, 0);
    for file in files {
        let vector: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let is_request =
            !["adyen_string", "rsa_sha256_pkcs1", "aes_256_gcm", "braintree_challenge", "paypal"]
                .contains(&vector["scheme"].as_str().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let Some(mut endpoint) = is_request.then(|| endpoint(&vector, &folder).ok()).flatten() else {
            continue;
        };
        let request = request(&vector);
        let purposes: &[Option<Purpose>] = match endpoint.terms.purpose {
            None => &[None],
            Some(_) => &[Some(Purpose::Deposit), Some(Purpose::Payment)],
        };
        let captures: &[Capture] = if endpoint.kind.needs_capture {
            &[Capture::Automatic, Capture::Manual]
        } else {
            &[Capture::Automatic]
        };
        for body in odd_bodies(&request.body) {
            let mut changed = request.clone();
            changed.body = body;
            for purpose in purposes {
                for capture in captures {
                    (endpoint.terms.purpose, endpoint.terms.capture) = (*purpose, *capture);
                    let Ok(items) = endpoint.provider.map(&changed, &endpoint.terms) else { continue };
                    for item in items {
                        seen += 1;
                        accepted += usize::from(matches!(item.outcome, Outcome::Accepted(_)));
                        if let Some(problem) = problem(&endpoint, &item) {
                            problems.insert(problem, file.clone());
                        }
                    }
                }
            }
        }
    }
    println!("{seen} events, {accepted} callbacks");
    assert!(accepted > 1_000, "only {accepted} of {seen} are callbacks");
    let shown: Vec<_> = problems.iter().take(30).collect();
    assert!(problems.is_empty(), "{} problems: {shown:#?}", problems.len());
}
