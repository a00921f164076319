//! Standard Webhooks 1.0.0 (<https://www.standardwebhooks.com>): what proves that a message comes from its provider. Pure: keys, headers
//! and bytes in, a decision out. What must not live here: files, AMQP, and any clock.
//!
//! The signed content is `id.timestamp.body`. The id must be the event's own, and the body names the provider whose keys are asked, so a
//! signature is good for one event of one provider. Whether the timestamp is *recent* is not asked: that is for the edge that took
//! the HTTP request. Here a message may have lain in the queue through an outage of hours, and refusing it then would lose a payment
//! that happened; a message sent again is a duplicate, whatever its age.
//!
//! The `standardwebhooks` crate was looked at: it has HMAC alone, one key at a time, and wants an HTTP header map.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{
    digest::{SHA256, digest},
    hmac,
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use subtle::{Choice, ConstantTimeEq};

/// Header with the event's id.
pub const ID_HEADER: &str = "webhook-id";
/// Header with the time of signing, in seconds since 1970, as decimal digits.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header with one or more signatures, separated by spaces: `v1,` (HMAC-SHA256) or `v1a,` (ed25519) and base64.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// Longest `webhook-id`, in bytes: that of an event's id.
const ID_BYTES_MAX: usize = 200;
/// Longest `webhook-timestamp`, in bytes: 2⁶⁴ has 20 digits.
const TIMESTAMP_BYTES_MAX: usize = 20;
/// Longest `webhook-signature`, in bytes; eight of ed25519 have 743.
const SIGNATURE_BYTES_MAX: usize = 2_048;
/// Signatures of one message that are looked at; each costs a comparison with each key of the source.
const SIGNATURES_MAX: usize = 8;
/// Keys of one source: a message is hashed once for each.
pub const KEYS_MAX: usize = 8;
/// Shortest and longest HMAC secret, in bytes (Standard Webhooks 1.0.0, "Signature scheme").
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Length of an HMAC secret that is made here, in bytes.
const NEW_SECRET_BYTES: usize = 32;
/// Length of an ed25519 seed and of a public key, in bytes (RFC 8032 §5.1.5).
const ED25519_BYTES: usize = 32;
/// Length of an HMAC-SHA256 tag, in bytes.
const TAG_BYTES: usize = 32;
/// Length of an ed25519 signature, in bytes.
const ED25519_SIGNATURE_BYTES: usize = 64;

const HMAC_PREFIX: &str = "whsec_";
const SECRET_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// The three headers of a message, as they came; nothing is verified. One that is there but cannot be right (too long, not text) is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Headers {
    /// `webhook-id`.
    pub id: Option<String>,
    /// `webhook-timestamp`.
    pub timestamp: Option<String>,
    /// `webhook-signature`.
    pub signature: Option<String>,
}

impl Headers {
    /// Takes headers from a message of unknown origin. What is kept of each is short, free of control characters, or empty.
    #[must_use]
    pub fn received(id: Option<&[u8]>, timestamp: Option<&[u8]>, signature: Option<&[u8]>) -> Self {
        let text = |bytes: &[u8], bytes_max: usize| {
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            let is_usable = text.len() <= bytes_max && !text.chars().any(char::is_control);
            if is_usable { text.to_owned() } else { String::new() }
        };
        Self {
            id: id.map(|bytes| text(bytes, ID_BYTES_MAX)),
            timestamp: timestamp.map(|bytes| text(bytes, TIMESTAMP_BYTES_MAX)),
            signature: signature.map(|bytes| text(bytes, SIGNATURE_BYTES_MAX)),
        }
    }

    /// Whether the message claims no signature at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.timestamp.is_none() && self.signature.is_none()
    }
}

/// Why a message's signature does not prove where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing says who may sign for this source.
    #[error(
        "keys_file has no rule for this source, and signatures = \"required\" refuses what no rule allows"
    )]
    NoRule,
    /// The rule wants a signature, but nothing could verify one.
    #[error("keys_file has no key for this source")]
    NoKey,
    /// A header is missing.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// A header is there, but cannot be right.
    #[error("{header}: expected {expected}")]
    Unusable {
        /// Which.
        header: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// It was signed for another event.
    #[error("webhook-id: not the id of this event; a signature is good for one event")]
    OtherEvent,
    /// The arithmetic says no.
    #[error(
        "webhook-signature: right under none of the {0} keys of this source; the body or the timestamp was changed, or it was signed \
         with a key that keys_file does not hold"
    )]
    NoMatch(usize),
}

/// Whether a source's messages must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Yes.
    Required,
    /// A signature that is there must be right.
    Optional,
    /// No: whoever can write to the queue may speak for this source.
    Off,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Required, Self::Optional, Self::Off];

    /// Its name in the keys file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::Off => "off",
        }
    }

    /// The policy of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }
}

/// What a source's messages need, and the keys that may sign for it: several, so that one can be rotated without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether they must be signed.
    pub policy: Policy,
    /// Any of these is accepted; the newest first.
    pub keys: Vec<Key>,
}

impl Rule {
    /// Whether this message may speak for the rule's source. `event_id` is the id inside `body`.
    ///
    /// # Errors
    /// [`Refusal`] where a signature is needed, or there, and does not prove it.
    pub fn verify(&self, headers: &Headers, event_id: &str, body: &[u8]) -> Result<(), Refusal> {
        match self.policy {
            Policy::Off => return Ok(()),
            Policy::Optional if headers.is_empty() => return Ok(()),
            Policy::Optional | Policy::Required => {}
        }
        if self.keys.is_empty() {
            return Err(Refusal::NoKey);
        }
        let id = present(headers.id.as_ref(), ID_HEADER)?;
        let timestamp = present(headers.timestamp.as_ref(), TIMESTAMP_HEADER)?;
        let signature = present(headers.signature.as_ref(), SIGNATURE_HEADER)?;
        if id != event_id {
            return Err(Refusal::OtherEvent);
        }
        // With digits only, and a body that is JSON, no other id and timestamp give the same signed content.
        if timestamp.is_empty() || !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
            let expected = "seconds since 1970, in 1 to 20 digits";
            return Err(Refusal::Unusable { header: TIMESTAMP_HEADER, expected });
        }
        let claims = Claims::parse(signature)?;
        if self.keys.iter().any(|key| key.signed(&claims, id, timestamp, body)) {
            return Ok(());
        }
        Err(Refusal::NoMatch(self.keys.len()))
    }

    /// Signs a message with every key that can, so that receivers which know only one of them accept it; `None` where none can.
    ///
    /// `timestamp_s`: now, in seconds since 1970.
    #[must_use]
    pub fn sign(&self, event_id: &str, timestamp_s: u64, body: &[u8]) -> Option<Headers> {
        let timestamp = timestamp_s.to_string();
        let signatures: Vec<String> =
            self.keys.iter().filter_map(|key| key.sign(event_id, &timestamp, body)).collect();
        (!signatures.is_empty()).then(|| Headers {
            id: Some(event_id.to_owned()),
            timestamp: Some(timestamp),
            signature: Some(signatures.join(" ")),
        })
    }
}

fn present<'a>(value: Option<&'a String>, header: &'static str) -> Result<&'a str, Refusal> {
    value.map(String::as_str).ok_or(Refusal::Missing(header))
}

/// The signatures of one message, decoded once. Versions that are not known are passed over, as the specification asks.
#[derive(Default)]
struct Claims {
    tags: Vec<[u8; TAG_BYTES]>,
    ed25519: Vec<[u8; ED25519_SIGNATURE_BYTES]>,
}

impl Claims {
    fn parse(header: &str) -> Result<Self, Refusal> {
        let mut claims = Self::default();
        for (number, part) in header.split(' ').filter(|part| !part.is_empty()).enumerate() {
            if number == SIGNATURES_MAX {
                let expected = "at most 8 signatures";
                return Err(Refusal::Unusable { header: SIGNATURE_HEADER, expected });
            }
            match part.split_once(',') {
                Some(("v1", text)) => claims.tags.extend(decode(text)),
                Some(("v1a", text)) => claims.ed25519.extend(decode(text)),
                Some(_) | None => {}
            }
        }
        if claims.tags.is_empty() && claims.ed25519.is_empty() {
            let expected = "\"v1,\" or \"v1a,\" and a signature in base64";
            return Err(Refusal::Unusable { header: SIGNATURE_HEADER, expected });
        }
        Ok(claims)
    }
}

/// Base64 of just so many bytes.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The decoder wants room for whole groups of three bytes.
    let mut room = [0; ED25519_SIGNATURE_BYTES + 3];
    let length = BASE64.decode_slice(text, &mut room).ok()?;
    room.get(..length)?.try_into().ok()
}

/// A key that signs, verifies, or both.
#[derive(Clone)]
pub struct Key {
    /// As it stands in the keys file. Never printed unless asked for.
    text: String,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Hmac(hmac::Key),
    /// Verifies; the pair's other half is elsewhere.
    Public([u8; ED25519_BYTES]),
    /// Signs, and verifies by its public half.
    Pair {
        seed: [u8; ED25519_BYTES],
        public: [u8; ED25519_BYTES],
    },
}

/// Which kind of key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A shared secret: who can verify can also sign.
    Hmac,
    /// A pair: whoever holds only the public half cannot sign.
    Ed25519,
}

/// A text that is not a key. The text is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(&'static str);

impl PartialEq for Key {
    /// Whether it is written the same. For files, not for what a stranger sends.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

impl Key {
    /// Reads `whsec_` (HMAC secret), `whsk_` (ed25519 seed) or `whpk_` (ed25519 public key) and base64.
    ///
    /// # Errors
    /// [`KeyError`] says what is expected; it does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes =
            |base64: &str| BASE64.decode(base64).map_err(|_| KeyError("the part after _ is not base64"));
        let material = if let Some(rest) = text.strip_prefix(HMAC_PREFIX) {
            let secret = bytes(rest)?;
            if !SECRET_BYTES.contains(&secret.len()) {
                return Err(KeyError("whsec_: expected base64 of 24 to 64 bytes"));
            }
            Material::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &secret))
        } else if let Some(rest) = text.strip_prefix(PUBLIC_PREFIX) {
            let public = bytes(rest)?.try_into();
            Material::Public(public.map_err(|_| KeyError("whpk_: expected base64 of 32 bytes"))?)
        } else if let Some(rest) = text.strip_prefix(SECRET_PREFIX) {
            let seed: Result<[u8; ED25519_BYTES], _> = bytes(rest)?.try_into();
            let seed = seed.map_err(|_| KeyError("whsk_: expected base64 of 32 bytes, the seed"))?;
            Material::Pair { seed, public: public_of(&pair(&seed)?) }
        } else {
            return Err(KeyError("expected whsec_, whsk_ or whpk_ and base64"));
        };
        Ok(Self { text: text.to_owned(), material })
    }

    /// Makes a new key from the system's random numbers.
    ///
    /// # Errors
    /// Where the system has none.
    pub fn generate(kind: Kind) -> Result<Self, KeyError> {
        let mut bytes = [0; NEW_SECRET_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| KeyError("the system gives no random numbers"))?;
        let prefix = match kind {
            Kind::Hmac => HMAC_PREFIX,
            Kind::Ed25519 => SECRET_PREFIX,
        };
        Self::parse(&format!("{prefix}{}", BASE64.encode(bytes)))
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.material {
            Material::Hmac(_) => Kind::Hmac,
            Material::Public(_) | Material::Pair { .. } => Kind::Ed25519,
        }
    }

    /// A name that says nothing about the key: 12 hexadecimal digits of a SHA-256. Both halves of a pair have the same.
    #[must_use]
    pub fn id(&self) -> String {
        let hash = match &self.material {
            Material::Hmac(_) => digest(&SHA256, self.text.as_bytes()),
            Material::Public(public) | Material::Pair { public, .. } => digest(&SHA256, public),
        };
        hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key itself: a secret, but for `whpk_`.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The half of a pair that may be shown to everybody; `None` for a shared secret.
    #[must_use]
    pub fn public(&self) -> Option<String> {
        match &self.material {
            Material::Hmac(_) => None,
            Material::Public(public) | Material::Pair { public, .. } => {
                Some(format!("{PUBLIC_PREFIX}{}", BASE64.encode(public)))
            }
        }
    }

    /// Whether it can sign.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        match self.material {
            Material::Hmac(_) | Material::Pair { .. } => true,
            Material::Public(_) => false,
        }
    }

    /// Whether one of the claims is this key's signature. The body is hashed once, however many claims there are.
    fn signed(&self, claims: &Claims, id: &str, timestamp: &str, body: &[u8]) -> bool {
        match &self.material {
            Material::Hmac(key) => {
                if claims.tags.is_empty() {
                    return false;
                }
                let tag = tag(key, id, timestamp, body);
                // Every byte of every claim is compared: how long that takes tells nothing about the right one.
                let is_equal = claims.tags.iter().map(|claim| claim[..].ct_eq(tag.as_ref()));
                is_equal.fold(Choice::from(0), |any, one| any | one).into()
            }
            Material::Public(public) | Material::Pair { public, .. } => {
                if claims.ed25519.is_empty() {
                    return false;
                }
                let content = content(id, timestamp, body);
                let key = UnparsedPublicKey::new(&ED25519, public);
                claims.ed25519.iter().any(|claim| key.verify(&content, claim).is_ok())
            }
        }
    }

    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
        match &self.material {
            Material::Hmac(key) => Some(format!("v1,{}", BASE64.encode(tag(key, id, timestamp, body)))),
            Material::Pair { seed, .. } => {
                let signature = pair(seed).ok()?.sign(&content(id, timestamp, body));
                Some(format!("v1a,{}", BASE64.encode(signature)))
            }
            Material::Public(_) => None,
        }
    }
}

fn pair(seed: &[u8; ED25519_BYTES]) -> Result<Ed25519KeyPair, KeyError> {
    Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError("whsk_: not an ed25519 seed"))
}

fn public_of(pair: &Ed25519KeyPair) -> [u8; ED25519_BYTES] {
    let mut public = [0; ED25519_BYTES];
    public.copy_from_slice(pair.public_key().as_ref());
    public
}

fn tag(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    context.sign()
}

fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}
