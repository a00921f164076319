//! What an ID token proves: who has logged in, at which provider, for us, now and for this login (OpenID Connect Core 1.0, 3.1.3.7). Signatures are
//! verified by ring, like all others of payonce. What must not live here: how a token is got.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{Jwk, PublicKeyUse},
};
use ring::{
    error::Unspecified,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
        RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaParameters,
        RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use serde_json::{Map, Value};

/// What providers sign with. None that is made with a shared secret, and not `none`.
static ALGORITHMS: [(Algorithm, By); 7] = [
    (Algorithm::RS256, By::Rsa(&RSA_PKCS1_2048_8192_SHA256)),
    (Algorithm::RS384, By::Rsa(&RSA_PKCS1_2048_8192_SHA384)),
    (Algorithm::RS512, By::Rsa(&RSA_PKCS1_2048_8192_SHA512)),
    (Algorithm::PS256, By::Rsa(&RSA_PSS_2048_8192_SHA256)),
    (Algorithm::ES256, By::Bytes(&ECDSA_P256_SHA256_FIXED)),
    (Algorithm::ES384, By::Bytes(&ECDSA_P384_SHA384_FIXED)),
    (Algorithm::EdDSA, By::Bytes(&ED25519)),
];

/// How far the provider's clock may be off, in seconds.
const LEEWAY_S: u64 = 60;

static RING: CryptoProvider = CryptoProvider {
    // Nothing is signed here.
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    // For JWK that are made, not read.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has ring verify all signatures of this process's tokens.
pub(super) fn verify_by_ring() {
    // A second time it is installed already.
    let _already = RING.install_default().is_err();
}

/// What a token must say beside its signature.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
}

/// Why a token proves nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unproven {
    /// None of these keys has signed it; newer ones may have.
    UnknownKey,
    /// In words, for the log.
    Wrong(String),
}

/// The claims of a token.
///
/// # Errors
/// Where it is not what it has to be.
pub(super) fn claims(
    token: &str,
    keys: &[Jwk],
    expected: &Expected<'_>,
) -> Result<Map<String, Value>, Unproven> {
    let wrong = |cause: Error| Unproven::Wrong(format!("the ID token: {cause}"));
    let header = decode_header(token).map_err(wrong)?;
    if by(header.alg).is_none() {
        return Err(Unproven::Wrong(format!(
            "the ID token: signed with {:?}, which is not taken",
            header.alg
        )));
    }
    let fits = |jwk: &&Jwk| {
        let is_named = header.kid.is_none() || header.kid == jwk.common.key_id;
        let is_for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let family = DecodingKey::from_jwk(jwk).map(|key| key.family());
        is_named && is_for_signatures && family.is_ok_and(|family| family.algorithms().contains(&header.alg))
    };
    let mut validation = Validation::new(header.alg);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[expected.issuer]);
    validation.set_audience(&[expected.client_id]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let mut refused = Unproven::UnknownKey;
    for jwk in keys.iter().filter(fits) {
        let key = DecodingKey::from_jwk(jwk).map_err(wrong)?;
        match decode::<Map<String, Value>>(token, &key, &validation) {
            Ok(found) => return check(found.claims, expected),
            // Without a name any of the keys may have signed it.
            Err(cause) if matches!(cause.kind(), ErrorKind::InvalidSignature) => {
                refused = Unproven::Wrong("the ID token: signed by none of the provider's keys".to_owned());
            }
            Err(cause) => return Err(wrong(cause)),
        }
    }
    Err(refused)
}

/// What the library does not look at.
fn check(claims: Map<String, Value>, expected: &Expected<'_>) -> Result<Map<String, Value>, Unproven> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("nonce") != Some(expected.nonce) {
        return Err(Unproven::Wrong("the ID token: made for another login (nonce)".to_owned()));
    }
    let audiences = claims.get("aud").and_then(Value::as_array).map_or(1, Vec::len);
    let party = text("azp");
    if party.is_some_and(|party| party != expected.client_id) || (audiences > 1 && party.is_none()) {
        return Err(Unproven::Wrong("the ID token: made for another party (azp)".to_owned()));
    }
    Ok(claims)
}

/// How ring verifies.
#[derive(Clone, Copy)]
enum By {
    Rsa(&'static RsaParameters),
    Bytes(&'static dyn VerificationAlgorithm),
}

struct Verifier {
    key: DecodingKey,
    algorithm: Algorithm,
    by: By,
}

fn by(algorithm: Algorithm) -> Option<By> {
    ALGORITHMS.iter().find(|(known, _)| *known == algorithm).map(|(_, by)| *by)
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let by = by(*algorithm).ok_or(ErrorKind::InvalidAlgorithm)?;
    Ok(Box::new(Verifier { key: key.clone(), algorithm: *algorithm, by }))
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], proof: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.by, self.key.kind()) {
            (By::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, proof)
            }
            (By::Bytes(algorithm), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(algorithm, key).verify(message, proof)
            }
            (By::Rsa(_), DecodingKeyKind::SecretOrDer(_))
            | (By::Bytes(_), DecodingKeyKind::RsaModulusExponent { .. }) => Err(Unspecified),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Keys and signatures were made by OpenSSL.
    const MODULUS: &str = concat!(
        "kBy0ii0f9HYQsh43pnAzPMswF6MF8je5CJeXzMDJwbcdTF-uln5mRmesJLNB7h9Tne57fMl9jgoTb_ScFSNU6Dtz8SC3y9ue",
        "q6v2-ICegAWqTxXdrmKDHHRDOOByq5SJSkHg8jW6qsz_Y1qbJaeK-",
        "E5nUhqwT4HXGZKbqosgGVzfGalqp_9_dsvlqbM0p4ScOGg3M5j2ou16PRJuTln-7l28tGp4WFH7ry6Wdiu5uSB-",
        "e5dPnDyJ9ryrN28DX3GaO3ZZ4Rq5zz4m0A9Ta6oD2QR_ZYkLuQagS1WFLFZrxsoqK2DcuRQsPaQ0Eg6L4ejcVEzCaleMhg5Z",
        "XllSLQ7xIQ",
    );
    /// The claims that all of them sign.
    const CLAIMS: &str = concat!(
        "eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwiYXVkIjoicGF5b25jZSIsInN1YiI6IjciLCJleHAiOjQxMDI0NDQ4MDAs",
        "Im5vbmNlIjoibiJ9",
    );
    const SIGNED: [(&str, &str); 3] = [
        (
            "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9",
            concat!(
                "SLhgz0n58e8rEq7e9MUh35szb-YjhvUFBD1gxCxy0CF1QPWXkuHaUGGrydLb4vaiLa0_Ga_ouRYIf0zSoWcArycN3VhSGUY-",
                "Rwv3WRyVP6BfyNPQ3q0Ff-FRM3Ny6qmg-jSv2qq94mrmovNIqa9dbi-",
                "BzP0086BDvP6htvlMne4XdAVFajWte2pIEk3vscSLKms4XkSvrwL5Kz-ANVdOVllbaG_V35yW-",
                "jGsCemHbiCHlZSZQhTiuyFnsOW97ZBLuUfCS_NVYbruiV6mchzaGhj9bFdnr8F-3UcRthy2iOo2ad-",
                "mW2XTwDVYTViXYNmQIG7JbXipffIXkE05gaYKDQ",
            ),
        ),
        (
            "eyJhbGciOiJSUzUxMiIsImtpZCI6InJzYSJ9",
            concat!(
                "gA3I50aEkgEQt_3Xjd4tBPwFf1r3nF26IK7wr4bMe4nnwLzgX2M9vyt951N60s2wEUacB3WD738lnaE9C4FR739mJdb0KRMC",
                "zMJ8iUvj9aCeS7tD6V3sgLlP_wSETlHrvrXEhABKYhOp9kW6atGTuc6p1eWKBKvmfBT0SrqFql8_dMex1d6n629DixyEX7LE",
                "iCkXw-TWZF9rd48hokpmbk527M0eMbAlcmaB1ejWbs3bgSu3HO_fLPkokjW3eOdYdStOQfZna0C0QEIdowcJC1y5loPAkkA7",
                "qRlqILMb6Sjm_FbqcaZD6wxzMvDl43LMgBFF6eLj6IIxt76mkzjRhw",
            ),
        ),
        (
            "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSJ9",
            concat!(
                "PorOeZkKIUbajkV4sviGIP309MJUaguVpyMvOXXd3m-",
                "4zgPs3_lQLB6eH2F8bPSEoZFM_tu1nvid4_I6SGLIFXBhlfGVLQmTs1XKYRD4WlCxaDkQs7K0fl4ceVMP2NfXq6ogzGsGrWC",
                "wxp84zpOImBAtYDn0MaXGp4zlUG2sSksA5pXcK2rtXTjElbxRXpk5-dVZGrvE-",
                "tTesPGvD5N0udUy38PZBQpfRn441XV1eOudPXIHvsuw1zJbYxsxExnsEgAEBuuqsK-f4_YTGkjk35Bt-",
                "nvcN8b2qZQZEf_BfgRU3cSMRJq_QlR1P2Z8GXbOHjx2ecxHMoF7sGirHP2JRA",
            ),
        ),
    ];

    fn keys() -> Vec<Jwk> {
        verify_by_ring();
        let key = json!({ "kty": "RSA", "kid": "rsa", "use": "sig", "n": MODULUS, "e": "AQAB" });
        vec![serde_json::from_value(key).expect("a key")]
    }

    const EXPECTED: Expected<'static> =
        Expected { issuer: "https://idp.example", client_id: "payonce", nonce: "n" };

    #[test]
    fn tokens_that_openssl_has_signed_with_rsa_are_proven_and_changed_ones_are_not() {
        let (keys, wrong) = (keys(), |token: &str| claims(token, &keys(), &EXPECTED).is_err());
        for (header, signature) in SIGNED {
            let proven = claims(&format!("{header}.{CLAIMS}.{signature}"), &keys, &EXPECTED);
            assert_eq!(proven.expect("proven")["sub"], "7");
            let raised = CLAIMS.replacen("Ijci", "Ijgi", 1);
            assert!(raised != CLAIMS && wrong(&format!("{header}.{raised}.{signature}")));
            for (_, other) in SIGNED.iter().filter(|(_, other)| *other != signature) {
                assert!(wrong(&format!("{header}.{CLAIMS}.{other}")));
            }
        }
    }

    #[test]
    fn a_key_that_is_not_there_is_told_apart_from_a_token_that_is_wrong() {
        let (header, signature) = SIGNED[0];
        let token = format!("{header}.{CLAIMS}.{signature}");
        assert_eq!(claims(&token, &[], &EXPECTED), Err(Unproven::UnknownKey));
        let other_nonce = Expected { nonce: "m", ..EXPECTED };
        assert!(
            matches!(claims(&token, &keys(), &other_nonce), Err(Unproven::Wrong(words)) if words.contains("nonce"))
        );
        assert!(matches!(claims("no.token", &keys(), &EXPECTED), Err(Unproven::Wrong(_))));
    }
}
