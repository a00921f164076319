//! The arithmetic of providers' signatures: HMAC, RSA, certificates, AES-GCM. Over bytes as they came, in constant time. What must not live
//! here: header names, and what a provider signs.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    hmac,
    signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use subtle::{Choice, ConstantTimeEq};
use x509_parser::{
    certificate::X509Certificate,
    pem::Pem,
    prelude::{FromDer, SubjectPublicKeyInfo},
};

/// Signatures in one request that are looked at.
pub const CLAIMS_MAX: usize = 16;

/// Why a request does not prove where it comes from: a cause that a person can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A header or member with the signature is missing.
    Missing,
    /// It is there, but in no form that this provider uses.
    Unreadable,
    /// Signed too long ago, or in the future.
    Clock,
    /// Right under none of the secrets: another secret, or a body that was changed on its way.
    NoMatch,
    /// It names a key or certificate that is not configured.
    UnknownKey,
    /// The certificate is not valid now, another's, or its provider's host has none of its name.
    Certificate,
    /// It was signed for another account of the provider, or under another address.
    OtherAccount,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Unreadable,
        Self::Clock,
        Self::NoMatch,
        Self::UnknownKey,
        Self::Certificate,
        Self::OtherAccount,
    ];

    /// Its name in metrics, logs and pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Clock => "clock",
            Self::NoMatch => "no_match",
            Self::UnknownKey => "unknown_key",
            Self::Certificate => "certificate",
            Self::OtherAccount => "other_account",
        }
    }
}

/// An HMAC key of one of the two hashes that providers use.
#[derive(Clone)]
pub struct Mac(hmac::Key);

impl Mac {
    /// HMAC-SHA256 with exactly these bytes as its key.
    #[must_use]
    pub fn sha256(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// HMAC-SHA1 whose key is the SHA-1 of a text: Braintree's. Nobody else may have it.
    #[must_use]
    pub fn sha1_of(text: &[u8]) -> Self {
        let key = digest(&SHA1_FOR_LEGACY_USE_ONLY, text);
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref()))
    }

    /// The tag over the parts, one after the other.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().to_vec()
    }
}

/// Whether one of the claimed tags is that of one of the keys. How long it takes tells nothing about where they differ.
///
/// # Errors
/// [`Cause::NoMatch`].
pub fn any_mac(keys: &[Mac], parts: &[&[u8]], claims: &[Vec<u8>]) -> Result<(), Cause> {
    let mut any = Choice::from(0);
    for key in keys {
        let tag = key.tag(parts);
        any = claims.iter().take(CLAIMS_MAX).fold(any, |any, claim| any | claim.as_slice().ct_eq(&tag));
    }
    if any.into() { Ok(()) } else { Err(Cause::NoMatch) }
}

/// Lower-case hexadecimal digits, as senders write them; `None` for anything else.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

/// Lower-case hexadecimal digits of these bytes.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Standard base64 with its padding; `None` for anything else.
#[must_use]
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Standard base64 of these bytes.
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// An RSA public key of 2048 to 8192 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaKey(Vec<u8>);

impl RsaKey {
    /// From a SubjectPublicKeyInfo in DER (RFC 5280 §4.1).
    ///
    /// # Errors
    /// Words for what is expected.
    pub fn from_spki(der: &[u8]) -> Result<Self, String> {
        let parsed = SubjectPublicKeyInfo::from_der(der);
        let (_, info) = parsed.map_err(|_| "expected a public key (SubjectPublicKeyInfo)".to_owned())?;
        Ok(Self(info.subject_public_key.data.to_vec()))
    }

    /// From PEM with one public key.
    ///
    /// # Errors
    /// Words for what is expected.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let found = first_pem(pem, "PUBLIC KEY")?;
        Self::from_spki(&found.contents)
    }

    /// Whether this is the key's RSA PKCS#1 v1.5 signature with SHA-256.
    ///
    /// # Errors
    /// [`Cause::NoMatch`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Cause> {
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.0);
        key.verify(message, signature).map_err(|_| Cause::NoMatch)
    }
}

fn first_pem(pem: &[u8], label: &str) -> Result<Pem, String> {
    let mut found = Pem::iter_from_buffer(pem).filter_map(Result::ok).filter(|block| block.label == label);
    found.next().ok_or_else(|| format!("expected PEM with -----BEGIN {label}-----"))
}

/// A certificate whose key verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its public key.
    pub key: RsaKey,
    /// Its serial number, in upper-case hexadecimal digits without zeros before it.
    pub serial: String,
    /// The names that it was given for: the subject's common name, and its alternative DNS names.
    pub names: Vec<String>,
    not_before_s: i64,
    not_after_s: i64,
}

impl Certificate {
    /// From PEM; the first one counts.
    ///
    /// # Errors
    /// Words for what is expected.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        Self::from_der(&first_pem(pem, "CERTIFICATE")?.contents)
    }

    /// From DER.
    ///
    /// # Errors
    /// Words for what is expected.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let parsed = X509Certificate::from_der(der);
        let (_, certificate) = parsed.map_err(|_| "expected an X.509 certificate".to_owned())?;
        let subject = certificate.subject();
        let mut names: Vec<String> =
            subject.iter_common_name().filter_map(|name| Some(name.as_str().ok()?.to_owned())).collect();
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            names.extend(alternative.value.general_names.iter().filter_map(|name| {
                if let x509_parser::extensions::GeneralName::DNSName(name) = name {
                    Some((*name).to_owned())
                } else {
                    None
                }
            }));
        }
        let hex = to_hex(certificate.raw_serial()).to_uppercase();
        Ok(Self {
            key: RsaKey(certificate.public_key().subject_public_key.data.to_vec()),
            serial: hex.trim_start_matches('0').to_owned(),
            names,
            not_before_s: certificate.validity().not_before.timestamp(),
            not_after_s: certificate.validity().not_after.timestamp(),
        })
    }

    /// Its key, where it is valid at `now_s` (seconds since 1970).
    ///
    /// # Errors
    /// [`Cause::Certificate`].
    pub fn key_at(&self, now_s: i64) -> Result<&RsaKey, Cause> {
        let is_valid = (self.not_before_s..=self.not_after_s).contains(&now_s);
        if is_valid { Ok(&self.key) } else { Err(Cause::Certificate) }
    }

    /// The last second at which it is valid, since 1970.
    #[must_use]
    pub fn not_after_s(&self) -> i64 {
        self.not_after_s
    }
}

/// The last second at which the first certificate of a PEM file is valid, since 1970; `None`: there is none in it.
#[must_use]
pub fn valid_until_s(pem: &[u8]) -> Option<i64> {
    Certificate::from_pem(pem).ok().map(|certificate| certificate.not_after_s())
}

/// AES-256-GCM with the tag at the end of the ciphertext; `None` where it does not open.
#[must_use]
pub fn open_aes_256_gcm(key: &[u8], nonce: &[u8], associated: &[u8], ciphertext: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = ciphertext.to_vec();
    let length = key.open_in_place(nonce, Aad::from(associated), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

/// Whether `at_s` lies within `tolerance_s` of `now_s`, both in seconds since 1970, on either side.
///
/// # Errors
/// [`Cause::Clock`].
pub fn is_recent(at_s: i64, now_s: i64, tolerance_s: u64) -> Result<(), Cause> {
    if now_s.abs_diff(at_s) <= tolerance_s { Ok(()) } else { Err(Cause::Clock) }
}

/// Seconds since 1970 in 1 to 12 digits, as headers carry them.
#[must_use]
pub fn seconds(text: &str) -> Option<i64> {
    let is_digits = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}
