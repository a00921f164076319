//! The keys that sessions and forms are signed with: HMAC-SHA-256, one key in use and one from before, so that a key is replaced without ending
//! anybody's session. What must not live here: what is signed.

use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, pbkdf2};
use serde::{Serialize, de::DeserializeOwned};

use crate::config::{Secret, SessionKeys};

/// Iterations of PBKDF2-HMAC-SHA-512 (OWASP Password Storage Cheat Sheet): a cookie must not help to guess a token that people have made up.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(210_000).expect("not zero");
const SALT: &[u8] = b"payonce session key 1";

/// What is signed never means something else: the purpose is signed with it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Session,
    Form,
    /// A login at the OIDC provider that has begun.
    Login,
    /// Which token or provider has let somebody in.
    Way,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Form => "form",
            Self::Login => "login",
            Self::Way => "way",
        }
    }
}

pub(super) struct Keys {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

impl Keys {
    /// Those of the settings; else one from the secrets that let people in: the same on every replica and after a restart, and another
    /// one as soon as such a secret is replaced. With neither, a random one.
    pub(super) fn new(config: &SessionKeys, secrets: &[&Secret]) -> Self {
        let key = |secret: &Secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let current = match &config.current {
            Some(secret) => key(secret),
            None => hmac::Key::new(hmac::HMAC_SHA256, &derived(secrets)),
        };
        Self { current, previous: config.previous.as_ref().map(key) }
    }

    /// Proof that we have said this.
    pub(super) fn sign(&self, purpose: Purpose, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.current, &signed(purpose, text)))
    }

    /// A value for a cookie, with the proof that it is ours.
    pub(super) fn seal(&self, purpose: Purpose, value: &impl Serialize) -> String {
        let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap_or_default());
        let proof = self.sign(purpose, &text);
        format!("{text}.{proof}")
    }

    /// The value that we have sealed; `None`: another, or for another purpose.
    pub(super) fn open<T: DeserializeOwned>(&self, purpose: Purpose, sealed: &str) -> Option<T> {
        let (text, proof) = sealed.split_once('.')?;
        if !self.is_ours(purpose, text, proof) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }

    /// Whether we have, with either key; in equal time.
    pub(super) fn is_ours(&self, purpose: Purpose, text: &str, proof: &str) -> bool {
        let Ok(proof) = URL_SAFE_NO_PAD.decode(proof) else { return false };
        let signed = signed(purpose, text);
        let keys = [Some(&self.current), self.previous.as_ref()];
        keys.into_iter().flatten().any(|key| hmac::verify(key, &signed, &proof).is_ok())
    }
}

fn signed(purpose: Purpose, text: &str) -> Vec<u8> {
    [purpose.as_str().as_bytes(), b"\0", text.as_bytes()].concat()
}

fn derived(secrets: &[&Secret]) -> [u8; 32] {
    if secrets.is_empty() {
        return rand::random();
    }
    let mut text = Vec::new();
    for secret in secrets {
        let bytes = secret.expose().as_bytes();
        text.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        text.extend_from_slice(bytes);
    }
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, ITERATIONS, SALT, &text, &mut key);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(current: &str, previous: Option<&str>) -> Keys {
        let secret = |text: &str| Secret::new(text.to_owned());
        Keys::new(&SessionKeys { current: Some(secret(current)), previous: previous.map(secret) }, &[])
    }

    #[test]
    fn a_proof_is_of_one_text_one_purpose_and_of_the_key_in_use_or_the_one_before() {
        let (first, second) = (keys("first", None), keys("second", Some("first")));
        let proof = first.sign(Purpose::Session, "text");
        assert!(
            first.is_ours(Purpose::Session, "text", &proof)
                && second.is_ours(Purpose::Session, "text", &proof)
        );
        assert!(!first.is_ours(Purpose::Form, "text", &proof));
        assert!(!first.is_ours(Purpose::Session, "texts", &proof));
        assert!(!keys("second", None).is_ours(Purpose::Session, "text", &proof));
        for forged in ["", "AAAA", "not base64!", &proof[1..]] {
            assert!(!first.is_ours(Purpose::Session, "text", forged), "{forged}");
        }
    }

    #[test]
    fn without_a_key_it_is_made_of_all_the_secrets_or_of_chance() {
        let [one, two] = ["a", "b"].map(|text| Secret::new(text.to_owned()));
        assert_eq!(derived(&[&one]), derived(&[&one]));
        assert_ne!(derived(&[&one]), derived(&[&two]));
        assert_ne!(derived(&[&one, &two]), derived(&[&one]));
        assert_ne!(derived(&[]), derived(&[]));
    }
}
