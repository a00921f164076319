//! Bytes from whoever can write to the queue: decoding never panics, and ends in a callback within all limits or in an error that is
//! short, storable and harmless. Random mutations of `tests/corpus`, in the time that a test may take; `PROPTEST_CASES=1000000`
//! makes it a fuzzer, and a failing input is kept as a seed.

use std::{fs, path::Path};

use payonce::{
    ledger::{Amount, Callback, Reason},
    mask::mask,
    shown::{safe, safe_json},
    wire::{BODY_BYTES_MAX, DETAIL_BYTES_MAX, decode},
};
use proptest::{collection::vec, prelude::*, sample::Index};

const CASES: u32 = 3_000;

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(CASES, |cases| cases.parse().expect("a number"))
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What must hold for every message there is.
#[track_caller]
fn check(body: &[u8]) {
    match decode(body) {
        Ok(callback) => within_limits(body, &callback),
        Err(error) => {
            assert!(matches!(error.reason, Reason::Malformed | Reason::UnsupportedType), "{error}");
            // A cut one ends with three bytes more.
            assert!(error.detail.len() <= DETAIL_BYTES_MAX + 3, "{} bytes of detail", error.detail.len());
            assert!(!error.detail.is_empty());
            if let Some(key) = &error.key {
                identifier(key.source.as_str());
                identifier(key.event_id.as_str());
            }
            assert!(!safe(&error.detail).chars().any(char::is_control));
        }
    }
    let masked = mask(body, &[]);
    assert_eq!(masked.len(), body.len());
    assert!(masked.iter().zip(body).all(|(now, before)| now == before || *now == b'*'));
    assert_eq!(mask(&masked, &[]), masked, "masked once is masked");
    let json = serde_json::json!(String::from_utf8_lossy(body)).to_string();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&safe_json(&json)).unwrap().to_string(), json);
}

#[track_caller]
fn identifier(text: &str) {
    assert!((1..=200).contains(&text.len()) && !text.chars().any(char::is_control), "{text:?}");
}

#[track_caller]
fn within_limits(body: &[u8], callback: &Callback) {
    assert!(body.len() <= BODY_BYTES_MAX);
    for text in [callback.key.source.as_str(), callback.key.event_id.as_str()] {
        identifier(text);
    }
    for account_id in callback.account_id.iter().chain(&callback.to) {
        identifier(account_id.as_str());
    }
    callback.payment_id.iter().for_each(|id| identifier(id.as_str()));
    callback.operation_id.iter().for_each(|id| identifier(id.as_str()));
    let least = i64::from(!callback.kind.takes_zero(callback.is_final));
    assert!((least..=Amount::MAX).contains(&callback.amount.minor_units()));
    assert!(callback.currency.as_str().len() == 3);
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Splice(Index, Index, Index),
    Nest(Index, usize),
}

/// Pieces that mean something to a JSON reader.
const TOKENS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"null",
    b"1e999",
    b"-",
    b"\\ud800",
    b"\x00",
    b"\xff",
    b"\"cvv\":",
    b"4242424242424242",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), prop::sample::select(&TOKENS[..]))
            .prop_map(|(at, token)| Mutation::Insert(at, token.to_vec())),
        (at(), 1..64_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (at(), 1..32_usize, 1..64_usize).prop_map(|(at, count, times)| Mutation::Repeat(at, count, times)),
        (at(), at(), at()).prop_map(|(other, from, to)| Mutation::Splice(other, from, to)),
        (at(), 1..5_000_usize).prop_map(|(at, levels)| Mutation::Nest(at, levels)),
    ]
}

fn mutate(corpus: &[Vec<u8>], body: &mut Vec<u8>, mutation: Mutation) {
    let at = |index: &Index, length: usize| if length == 0 { 0 } else { index.index(length) };
    match mutation {
        Mutation::Flip(index, bits) => {
            let at = at(&index, body.len());
            body.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
        }
        Mutation::Insert(index, bytes) => {
            let at = at(&index, body.len() + 1);
            body.splice(at..at, bytes);
        }
        Mutation::Remove(index, count) => {
            let at = at(&index, body.len());
            body.drain(at..(at + count).min(body.len()));
        }
        Mutation::Repeat(index, count, times) => {
            let at = at(&index, body.len());
            let part = body[at..(at + count).min(body.len())].repeat(times);
            body.splice(at..at, part);
        }
        Mutation::Splice(other, from, to) => {
            let other = &corpus[other.index(corpus.len())];
            body.truncate(at(&to, body.len()));
            body.extend(&other[at(&from, other.len())..]);
        }
        Mutation::Nest(index, levels) => {
            let at = at(&index, body.len() + 1);
            body.splice(at..at, b"[".repeat(levels));
        }
    }
}

#[test]
fn the_corpus_is_decoded_within_all_limits() {
    let corpus = corpus();
    assert!(corpus.len() > 10);
    corpus.iter().for_each(|body| check(body));
    let decoded = corpus.iter().filter(|body| decode(body).is_ok()).count();
    assert!((3..corpus.len()).contains(&decoded), "{decoded} of {} are callbacks", corpus.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn mutated_messages_are_decoded_within_all_limits(seed in any::<Index>(), mutations in vec(mutation(), 1..6)) {
        let corpus = corpus();
        let mut body = corpus[seed.index(corpus.len())].clone();
        for mutation in mutations {
            mutate(&corpus, &mut body, mutation);
        }
        check(&body);
    }

    #[test]
    fn random_bytes_are_refused_within_all_limits(body in vec(any::<u8>(), 0..600)) {
        check(&body);
        prop_assert!(decode(&body).is_err());
    }
}

/// serde_json stops at 128 levels where it builds something, and skips what nobody asked for without recursion: the body's size is
/// the only limit there.
#[test]
fn no_depth_overflows_the_stack() {
    let levels = (BODY_BYTES_MAX - 400) / 2;
    let event = |unknown: String, data: String| {
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"a\",\"source\":\"/p\",\"type\":\"deposit.succeeded\",\"subject\":\"a\",\
             \"unknown\":{unknown},\"data\":{data}}}"
        )
    };
    let data = "{\"amount\":1,\"currency\":\"EUR\"}".to_owned();
    let nested = |open: &str, close: &str, levels: usize| open.repeat(levels) + "1" + &close.repeat(levels);
    assert!(decode(event(nested("[", "]", levels), data.clone()).as_bytes()).is_ok());
    assert!(decode(event(nested("{\"a\":", "}", levels / 3), data.clone()).as_bytes()).is_ok());
    for body in [
        event("1".to_owned(), nested("[", "]", levels)),
        event("1".to_owned(), nested("{\"amount\":", "}", levels / 6)),
        event("[".repeat(levels), data),
        nested("[", "]", levels),
        nested("{\"id\":", "}", levels / 4),
        "[".repeat(BODY_BYTES_MAX),
        "{\"id\":".repeat(BODY_BYTES_MAX / 6),
    ] {
        check(body.as_bytes());
        assert!(decode(body.as_bytes()).is_err());
    }
}
