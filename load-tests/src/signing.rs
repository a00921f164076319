//! The providers' keys of a run, and how each message is signed, or mis-signed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Context;
use payonce::{
    keys::{Keyring, KeysError},
    signature::{Headers, Key, Kind, Policy, Rule},
};
use tempfile::TempDir;

use crate::{
    body,
    plan::{Distinct, Plan},
    poison::{Forgery, Poison},
};

/// The time of every signature, in seconds since 1970: the same for all, so that equal plans give equal messages.
pub const SIGNED_AT_S: u64 = 1_764_000_000;

/// Keys of every provider that a plan names, in a keys file for the workers.
#[derive(Debug)]
pub struct Signing {
    keyring: Keyring,
    /// Somebody whose keys no worker knows.
    stranger: Rule,
    path: PathBuf,
    /// Removed with it.
    _folder: Option<TempDir>,
}

impl Signing {
    /// `policy` as the flag `--signatures` has it: `required` makes keys; `off`: nobody signs.
    pub fn of_flag(policy: &str) -> anyhow::Result<Option<Arc<Self>>> {
        Ok(if policy == "required" { Some(Arc::new(Self::new()?)) } else { None })
    }

    /// New keys; one provider is in the midst of a rotation, and has two.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("payonce-load-tests-keys-").tempdir()?;
        let path = folder.path().join("keys.toml");
        let mut rules = BTreeMap::new();
        for (number, source) in body::SOURCES.into_iter().enumerate() {
            rules.insert(source.to_owned(), rule(if number == 0 { 2 } else { 1 })?);
        }
        Keyring::edit(&path, |written| {
            *written = rules;
            Ok::<_, KeysError>(())
        })?;
        Self::load(path, Some(folder))
    }

    /// The keys of a file that somebody else made.
    pub fn load(path: PathBuf, folder: Option<TempDir>) -> anyhow::Result<Self> {
        Ok(Self { keyring: Keyring::load(&path, true)?, stranger: rule(1)?, path, _folder: folder })
    }

    /// The keys themselves, to be looked for where they must not be.
    pub fn secrets(&self) -> Vec<String> {
        let keys = self.keyring.rules().values().flat_map(|rule| &rule.keys);
        keys.map(|key| key.expose().to_owned()).collect()
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The headers that a provider puts on a body.
    pub fn sign(&self, source: &str, id: &str, body: &[u8]) -> anyhow::Result<Headers> {
        let signed = self.keyring.sign(source, id, SIGNED_AT_S, body).map_err(anyhow::Error::msg)?;
        signed.context("the provider has no key")
    }

    /// The headers that somebody else puts on it.
    pub fn sign_as_stranger(&self, id: &str, body: &[u8]) -> Headers {
        self.stranger.sign(id, SIGNED_AT_S, body).unwrap_or_default()
    }

    /// The headers of a message of a plan.
    pub fn headers(&self, plan: &Plan, one: &Distinct, body: &[u8]) -> anyhow::Result<Headers> {
        let (source, id) = body::key(plan, one);
        match one.poison {
            Some(Poison::BadSignature(Forgery::Unsigned)) => Ok(Headers::default()),
            Some(Poison::BadSignature(Forgery::Stranger)) => Ok(self.sign_as_stranger(&id, body)),
            Some(Poison::BadSignature(Forgery::OtherBody)) => self.sign(&source, &id, &[body, b" "].concat()),
            // As it was made for an event of another id; sent as that one, or as this one.
            Some(Poison::BadSignature(Forgery::OtherId)) => {
                let (real, text) = (format!("{id}_real"), String::from_utf8_lossy(body));
                let headers = self.sign(&source, &real, text.replace(&id, &real).as_bytes())?;
                let is_renamed = one.number.is_multiple_of(2);
                Ok(if is_renamed { Headers { id: Some(id), ..headers } } else { headers })
            }
            Some(
                Poison::Malformed(_)
                | Poison::UnsupportedType
                | Poison::UnknownAccount
                | Poison::CurrencyMismatch
                | Poison::InsufficientFunds
                | Poison::PayloadMismatch(..)
                | Poison::OperationMismatch(_)
                | Poison::InvalidTransition(_)
                | Poison::OtherAccount(_)
                | Poison::OverCapture
                | Poison::OverRefund,
            )
            | None => self.sign(&source, &id, body),
        }
    }
}

fn rule(keys: usize) -> anyhow::Result<Rule> {
    let keys: Result<Vec<Key>, _> = (0..keys).map(|_| Key::generate(Kind::Hmac)).collect();
    Ok(Rule { policy: Policy::Required, keys: keys? })
}
