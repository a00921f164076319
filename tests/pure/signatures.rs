//! Signatures: the vectors of the Standard Webhooks project, every way to be wrong, and the keys file.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use payonce::{
    keys::{Keyring, KeysError},
    signature::{Headers, Key, Kind, Policy, Refusal, Rule},
};
use proptest::prelude::*;

/// From the test suites of the specification's own libraries (Rust and Go).
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const TIMESTAMP: u64 = 1_614_265_330;
const BODY: &[u8] = b"{\"test\": 2432232314}";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECRET_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const SEED: &str = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=";
const SEED_SIGNATURE: &str =
    "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==";

fn rule(keys: &[&str]) -> Rule {
    Rule {
        policy: Policy::Required,
        keys: keys.iter().map(|text| Key::parse(text).expect("a key")).collect(),
    }
}

fn headers(id: &str, timestamp: &str, signature: &str) -> Headers {
    Headers::received(Some(id.as_bytes()), Some(timestamp.as_bytes()), Some(signature.as_bytes()))
}

fn verify(rule: &Rule, signature: &str) -> Result<(), Refusal> {
    rule.verify(&headers(ID, &TIMESTAMP.to_string(), signature), ID, BODY)
}

#[test]
fn the_specifications_own_vectors_are_made_and_accepted() {
    for (key, signature) in [(SECRET, SECRET_SIGNATURE), (SEED, SEED_SIGNATURE)] {
        let made = rule(&[key]).sign(ID, TIMESTAMP, BODY).expect("it can sign");
        assert_eq!(made, headers(ID, &TIMESTAMP.to_string(), signature));
        assert_eq!(verify(&rule(&[key]), signature), Ok(()));
    }
    let public = Key::parse(SEED).unwrap().public().expect("a public half");
    assert_eq!(verify(&rule(&[&public]), SEED_SIGNATURE), Ok(()));
    assert_eq!(rule(&[&public]).sign(ID, TIMESTAMP, BODY), None, "a public key cannot sign");
}

#[test]
fn any_of_several_keys_and_any_of_several_signatures_is_enough() {
    let other = Key::generate(Kind::Hmac).unwrap();
    let both = rule(&[other.expose(), SECRET, SEED]);
    assert_eq!(verify(&both, SECRET_SIGNATURE), Ok(()));
    assert_eq!(verify(&both, SEED_SIGNATURE), Ok(()));
    let wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
    let several = format!("{wrong} v2,something {SEED_SIGNATURE}  v1,not-base64 {SECRET_SIGNATURE} v1a,AAAA");
    for keys in [&[SECRET][..], &[SEED], &[SECRET, SEED]] {
        assert_eq!(verify(&rule(keys), &several), Ok(()), "{keys:?}");
    }
    // Whoever knows only one of the publisher's keys accepts what it signed with all of them.
    let signed = both.sign(ID, TIMESTAMP, BODY).unwrap();
    for keys in [&[SECRET][..], &[SEED], &[other.expose()]] {
        assert_eq!(rule(keys).verify(&signed, ID, BODY), Ok(()));
    }
}

#[test]
fn whatever_is_changed_is_refused() {
    let both = rule(&[SECRET, SEED]);
    let now = TIMESTAMP.to_string();
    for signature in [SECRET_SIGNATURE, SEED_SIGNATURE] {
        let right = headers(ID, &now, signature);
        assert_eq!(both.verify(&right, ID, BODY), Ok(()));
        assert_eq!(both.verify(&right, ID, b"{\"test\": 2432232315}"), Err(Refusal::NoMatch(2)));
        assert_eq!(both.verify(&right, "msg_other", BODY), Err(Refusal::OtherEvent));
        assert_eq!(
            both.verify(&headers("msg_other", &now, signature), "msg_other", BODY),
            Err(Refusal::NoMatch(2))
        );
        assert_eq!(both.verify(&headers(ID, "1614265331", signature), ID, BODY), Err(Refusal::NoMatch(2)));
        let other = Key::generate(Key::parse(SECRET).unwrap().kind()).unwrap();
        assert_eq!(rule(&[other.expose()]).verify(&right, ID, BODY), Err(Refusal::NoMatch(1)));
        // The version belongs to the signature: neither kind is tried as the other.
        let swapped = match signature.split_once(',') {
            Some(("v1", rest)) => format!("v1a,{rest}"),
            Some((_, rest)) => format!("v1,{rest}"),
            None => unreachable!("the vectors have versions"),
        };
        assert!(matches!(verify(&both, &swapped), Err(Refusal::Unusable { .. })), "{swapped}");
    }
}

#[test]
fn headers_that_cannot_be_right_are_refused_in_words() {
    let rule = rule(&[SECRET]);
    let with = |change: fn(&mut Headers)| {
        let mut headers = headers(ID, &TIMESTAMP.to_string(), SECRET_SIGNATURE);
        change(&mut headers);
        rule.verify(&headers, ID, BODY).expect_err("it is refused").to_string()
    };
    assert_eq!(with(|headers| headers.id = None), "webhook-id: missing");
    assert_eq!(with(|headers| headers.timestamp = None), "webhook-timestamp: missing");
    assert_eq!(with(|headers| headers.signature = None), "webhook-signature: missing");
    assert!(with(|headers| headers.id = Some(String::new())).contains("webhook-id"));
    for timestamp in ["", "now", "-1", "+1614265330", " 1614265330", "1614265330.0", "0x60"] {
        let headers = headers(ID, timestamp, SECRET_SIGNATURE);
        let problem = rule.verify(&headers, ID, BODY).expect_err(timestamp).to_string();
        assert!(problem.starts_with("webhook-timestamp: expected seconds"), "{timestamp}: {problem}");
    }
    for signature in
        ["", "v1", "v1,", "v1, ", "g0hM9SsE", "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "v1;x"]
    {
        assert!(matches!(verify(&rule, signature), Err(Refusal::Unusable { .. })), "{signature:?}");
    }
    // Nine of them are not looked at, though the last one is right.
    let nine = format!("{}{SECRET_SIGNATURE}", "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= ".repeat(8));
    assert!(matches!(verify(&rule, &nine), Err(Refusal::Unusable { .. })));
    for bytes in [&b"\xff\xfe"[..], b"a\nb", b"a\0b", &[b'x'; 3_000]] {
        let received = Headers::received(Some(bytes), Some(bytes), Some(bytes));
        let empty = Some(String::new());
        assert_eq!(received, Headers { id: empty.clone(), timestamp: empty.clone(), signature: empty });
        assert!(!received.is_empty(), "it claims something");
    }
}

#[test]
fn a_rule_decides_who_must_sign() {
    let signed = rule(&[SECRET]).sign(ID, TIMESTAMP, BODY).unwrap();
    let wrong = headers(ID, "1", SECRET_SIGNATURE);
    let none = Headers::default();
    let verify = |policy: Policy, headers: &Headers| {
        Rule { policy, ..rule(&[SECRET]) }.verify(headers, ID, BODY).is_ok()
    };
    for (policy, expected) in [
        (Policy::Required, [true, false, false]),
        (Policy::Optional, [true, false, true]),
        (Policy::Off, [true, true, true]),
    ] {
        assert_eq!([&signed, &wrong, &none].map(|headers| verify(policy, headers)), expected, "{policy:?}");
    }
    let keyless = Rule { policy: Policy::Required, keys: Vec::new() };
    assert_eq!(keyless.verify(&signed, ID, BODY), Err(Refusal::NoKey));
    assert_eq!(Keyring::empty(true).verify("/s", ID, &signed, BODY), Err(Refusal::NoRule));
    assert_eq!(Keyring::empty(false).verify("/s", ID, &none, BODY), Ok(()));
}

#[test]
fn texts_that_are_no_keys_are_refused_and_not_repeated() {
    for text in [
        "",
        "secret",
        "whsec_",
        "whsec_!!!",
        "whsec_c2hvcnQ=",
        &format!("whsec_{}", "A".repeat(88)),
        "whpk_c2hvcnQ=",
        "whsk_c2hvcnQ=",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ] {
        let problem = Key::parse(text).expect_err(text).to_string();
        let rest = text.rsplit('_').next().unwrap();
        assert!(rest.len() < 4 || !problem.contains(rest), "{problem}");
    }
}

#[test]
fn a_key_shows_its_name_and_never_itself() {
    for kind in [Kind::Hmac, Kind::Ed25519] {
        let key = Key::generate(kind).unwrap();
        let shown = format!("{key:?} {key:#?} {:?}", rule(&[key.expose()]));
        let secret = key.expose().split_once('_').unwrap().1;
        assert!(!shown.contains(secret) && shown.contains(&key.id()), "{shown}");
        assert_ne!(key, Key::generate(kind).unwrap());
    }
    let pair = Key::parse(SEED).unwrap();
    assert_eq!(pair.id(), Key::parse(&pair.public().unwrap()).unwrap().id());
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_keys_file_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    write(&path, &format!("[sources.\"/s\"]\nsignatures = \"required\"\nkeys = [\"{SECRET}\"]\n"));
    for (mode, is_fine) in
        [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
    {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        match Keyring::load(&path, true) {
            Ok(_) => assert!(is_fine, "{mode:o} is accepted"),
            Err(problem) => {
                assert!(!is_fine && problem.to_string().contains("chmod 600"), "{mode:o}: {problem}")
            }
        }
    }
}

#[test]
fn a_keys_file_with_a_mistake_is_refused_by_place_and_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let broken = SECRET.replace("MfKQ", "MfK!");
    for (text, words) in [
        (format!("[sources.\"/s\"]\nsignatures = \"required\"\nkeys = \"{SECRET}\"\n"), "line 3"),
        (format!("keys = [\"{SECRET}\"]\n"), "line 1"),
        (format!("[sources.\"/s\"]\nsignatures = \"required\"\nkeys = [\"{SECRET}\"\n"), "line"),
        (
            format!("[sources.\"/s\"]\nsignatures = \"on\"\nkeys = [\"{SECRET}\"]\n"),
            "required, optional, off",
        ),
        (format!("[sources.\"/s\"]\nsignatures = \"required\"\nkeys = [\"{broken}\"]\n"), "\"/s\""),
        (
            format!(
                "[sources.\"/s\"]\nsignatures = \"required\"\nkeys = [\"{SECRET}\", \"whsec_c2hvcnQ=\"]\n"
            ),
            "source \"/s\": keys: number 2 of 2: whsec_: expected base64 of 24 to 64 bytes; `payonce keys generate`",
        ),
        (
            format!(
                "[sources.\"/s\"]\nsignatures = \"off\"\nkeys = [{}]\n",
                format!("\"{SECRET}\",").repeat(9)
            ),
            "at most 8",
        ),
    ] {
        write(&path, &text);
        let problem = Keyring::load(&path, true).expect_err(&text).to_string();
        assert!(problem.contains(words) && problem.contains("keys.toml"), "{words}: {problem}");
        assert!(!problem.contains("r8GKYqrTwjUPD8ILPZIo2"), "{problem}");
    }
    fs::remove_file(&path).unwrap();
    let problem = Keyring::load(&path, true).expect_err("it is gone").to_string();
    assert!(problem.contains("keys.toml"), "{problem}");
}

#[test]
fn a_changed_keys_file_is_private_and_a_failed_change_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let change = |policy: Policy| {
        Keyring::edit(&path, |rules| {
            rules.insert("/providers/\"quoted\" é".to_owned(), Rule { policy, ..rule(&[SECRET, SEED]) });
            Ok::<_, KeysError>(())
        })
    };
    change(Policy::Required).unwrap();
    change(Policy::Optional).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let keyring = Keyring::load(&path, true).unwrap();
    let expected = Rule { policy: Policy::Optional, ..rule(&[SECRET, SEED]) };
    assert_eq!(keyring.rule("/providers/\"quoted\" é"), Some(&expected));
    let before = fs::read(&path).unwrap();
    let failed = Keyring::edit(&path, |rules| {
        rules.clear();
        Err::<(), _>(KeysError::NotOne { path: String::new(), line: 1 })
    });
    assert!(failed.is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["keys.toml"], "nothing else is left");
}

proptest! {
    #[test]
    fn any_bytes_in_the_headers_are_read_without_a_panic_and_prove_nothing(
        id in proptest::collection::vec(any::<u8>(), 0..300),
        timestamp in proptest::collection::vec(any::<u8>(), 0..40),
        signature in proptest::collection::vec(any::<u8>(), 0..3_000),
        pieces in proptest::collection::vec("(v1|v1a|v2|),[A-Za-z0-9+/=]{0,100}", 0..10),
    ) {
        let rule = rule(&[SECRET, SEED]);
        let received = Headers::received(Some(&id), Some(&timestamp), Some(&signature));
        prop_assert!(rule.verify(&received, ID, BODY).is_err());
        let pieces = headers(ID, &TIMESTAMP.to_string(), &pieces.join(" "));
        prop_assert!(rule.verify(&pieces, ID, BODY).is_err());
    }

    #[test]
    fn what_is_signed_is_accepted_and_one_flipped_bit_is_not(
        id in "[^\\p{Cc}]{1,40}",
        body in proptest::collection::vec(any::<u8>(), 1..400),
        timestamp in any::<u64>(),
        flip in any::<proptest::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let rule = rule(&[SECRET, SEED]);
        let signed = rule.sign(&id, timestamp, &body).unwrap();
        prop_assert_eq!(rule.verify(&signed, &id, &body), Ok(()));
        let mut other = body.clone();
        other[flip.index(body.len())] ^= 1 << bit;
        prop_assert_eq!(rule.verify(&signed, &id, &other), Err(Refusal::NoMatch(2)));
    }
}
