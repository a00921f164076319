//! A provider that signs, and the keys file that says so.

use std::path::PathBuf;

use payonce::{
    keys::{Keyring, KeysError},
    signature::{Headers, Key, Kind, Policy, Rule},
};
use tempfile::TempDir;

use super::{Event, callbacks::SOURCE};

/// The time of signing, in seconds since 1970: long ago, because nobody asks.
const SIGNED_AT_S: u64 = 1_614_265_330;

/// The keys of one provider, and a keys file of the test's own.
pub struct Signer {
    folder: TempDir,
    pub rule: Rule,
}

impl Signer {
    /// One HMAC key for the source of the tests' events, and a keys file that holds it and nothing else.
    pub fn new() -> Self {
        let signer = Self::without_a_file();
        signer.write(SOURCE, &signer.rule);
        signer
    }

    /// Keys that no file holds; the file exists, and names another source.
    pub fn stranger() -> Self {
        let signer = Self::without_a_file();
        signer.write("/providers/another", &Rule { policy: Policy::Required, keys: Vec::new() });
        signer
    }

    fn without_a_file() -> Self {
        let keys = vec![Key::generate(Kind::Hmac).expect("random numbers")];
        let rule = Rule { policy: Policy::Required, keys };
        let folder = tempfile::Builder::new().prefix("payonce-it-").tempdir().expect("a temporary folder");
        Self { folder, rule }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    pub fn file(&self) -> String {
        self.path().to_str().expect("a path in UTF-8").to_owned()
    }

    /// Puts the rule of a source into the file.
    pub fn write(&self, source: &str, rule: &Rule) {
        let put = |rules: &mut std::collections::BTreeMap<_, _>| {
            rules.insert(source.to_owned(), rule.clone());
            Ok::<_, KeysError>(())
        };
        Keyring::edit(&self.path(), put).expect("the keys file can be written");
    }

    /// The headers of an event's body.
    pub fn sign(&self, event: &Event) -> Headers {
        self.rule.sign(&event.id, SIGNED_AT_S, &event.body()).expect("the key can sign")
    }

    /// (routing key, body, headers), as the provider sends it.
    pub fn message(&self, event: &Event) -> (String, Vec<u8>, Headers) {
        (event.account.clone(), event.body(), self.sign(event))
    }
}
