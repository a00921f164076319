//! Logging in at an OpenID Connect provider: authorization code with PKCE (RFC 7636), state and nonce. What has begun is in a signed cookie, so that
//! any replica can end it. What must not live here: sessions, and what somebody may do.

mod id_token;
mod provider;

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::{
    NAME_BYTES_MAX, Refusal, is_same,
    keys::{Keys, Purpose},
    proxy::Person,
    random_hex,
};
use crate::{config::OidcConfig, ops::clock};
use id_token::{Expected, Unproven};
use provider::Provider;

/// How long somebody may take at the provider, in seconds.
pub(super) const LOGIN_LIFETIME_S: i64 = 10 * 60;

/// What the provider sends somebody back with (RFC 6749, 4.1.2; RFC 9207).
#[derive(Deserialize)]
pub(in crate::ops) struct Returned {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// A login that has begun, as its cookie has it.
#[derive(Serialize, Deserialize)]
struct Begun {
    state: String,
    nonce: String,
    /// What proves to the provider that who has the code is who has begun.
    verifier: String,
    next: String,
    /// Seconds since 1970, by the database's clock.
    expires_at: i64,
}

pub(super) struct Oidc {
    config: OidcConfig,
    provider: Provider,
}

impl Oidc {
    pub(super) fn new(config: OidcConfig, tls: TlsConnector) -> Self {
        id_token::verify_by_ring();
        Self { provider: Provider::new(config.clone(), tls), config }
    }

    /// What a session proves that was let in by this provider.
    pub(super) fn way_secret(&self) -> String {
        format!("{}\0{}", self.config.issuer, self.config.client_id)
    }

    /// Where to send somebody who wants to log in, and the cookie's value.
    ///
    /// # Errors
    /// Where the provider does not answer.
    pub(super) async fn begin(&self, next: &str, keys: &Keys) -> Result<(String, String), Refusal> {
        let known = self.provider.known().await.map_err(|cause| unreachable_now(&cause))?;
        let begun = Begun {
            state: random_hex(),
            nonce: random_hex(),
            verifier: random_hex(),
            next: next.to_owned(),
            expires_at: clock::now().unix_timestamp().saturating_add(LOGIN_LIFETIME_S),
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&begun.verifier));
        let mut address = known.authorization_endpoint.clone();
        address
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", &self.config.redirect_uri())
            .append_pair("scope", &self.config.scopes)
            .append_pair("state", &begun.state)
            .append_pair("nonce", &begun.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok((address.into(), keys.seal(Purpose::Login, &begun)))
    }

    /// Who has logged in, and where they wanted to go.
    ///
    /// # Errors
    /// Where that is not proven.
    pub(super) async fn end(
        &self,
        returned: &Returned,
        cookie: Option<&str>,
        keys: &Keys,
    ) -> Result<(Person, String), Refusal> {
        let begun: Option<Begun> = cookie.and_then(|cookie| keys.open(Purpose::Login, cookie));
        let is_ours = |begun: &Begun| {
            begun.expires_at > clock::now().unix_timestamp()
                && returned.state.as_ref().is_some_and(|state| is_same(&begun.state, state))
        };
        let Some(begun) = begun.filter(is_ours) else {
            let words =
                "This login was not begun in this browser, or took longer than 10 minutes. Log in again.";
            return Err(refusal(StatusCode::BAD_REQUEST, words));
        };
        if returned.iss.as_ref().is_some_and(|issuer| *issuer != self.config.issuer) {
            return Err(unproven("the answer is of another issuer (iss)"));
        }
        if let Some(error) = &returned.error {
            warn!(error, "the OIDC provider has not logged somebody in");
            let words = "The identity provider has not logged you in; the log of payonce says its reason.";
            return Err(refusal(StatusCode::FORBIDDEN, words));
        }
        let Some(code) = &returned.code else { return Err(unproven("the answer has no code")) };
        let known = self.provider.known().await.map_err(|cause| unreachable_now(&cause))?;
        let token = self.provider.id_token(&known, code, &begun.verifier).await;
        let token = token.map_err(|cause| unreachable_now(&cause))?;
        let expected =
            Expected { issuer: &self.config.issuer, client_id: &self.config.client_id, nonce: &begun.nonce };
        let claims = match id_token::claims(&token, &known.keys, &expected) {
            Err(Unproven::UnknownKey) => {
                let anew = self.provider.known_anew().await.map_err(|cause| unreachable_now(&cause))?;
                id_token::claims(&token, &anew.keys, &expected)
            }
            claims => claims,
        };
        let claims = claims.map_err(|cause| match cause {
            Unproven::UnknownKey => unproven("the ID token: signed by none of the provider's keys"),
            Unproven::Wrong(words) => unproven(&words),
        })?;
        Ok((self.person(&claims)?, begun.next))
    }

    fn person(&self, claims: &Map<String, Value>) -> Result<Person, Refusal> {
        let claim = self.config.name_claim.as_str();
        let name = claims.get(claim).and_then(Value::as_str).map(str::trim).unwrap_or_default();
        let is_fit = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        // An address that its holder has only typed in could be anybody's, and some providers say that with a text, others with nothing
        // (OpenID Connect Core 1.0, 5.1).
        let is_proven = claim != "email"
            || match claims.get("email_verified") {
                Some(Value::Bool(is_verified)) => *is_verified,
                Some(Value::String(text)) => text == "true",
                Some(_) | None => false,
            };
        if !is_fit || !is_proven {
            warn!(claim, is_fit, is_proven, "the ID token names nobody");
            let words = format!(
                "The identity provider does not say who you are: the claim {claim:?} (ops_oidc_name_claim) is missing, longer than \
                 {NAME_BYTES_MAX} bytes or not verified."
            );
            return Err(refusal(StatusCode::FORBIDDEN, &words));
        }
        let groups = match claims.get(&self.config.groups_claim) {
            Some(Value::Array(groups)) => {
                groups.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(Value::String(group)) => vec![group.clone()],
            Some(_) | None => Vec::new(),
        };
        Ok(Person { name: name.to_owned(), groups })
    }
}

fn refusal(status: StatusCode, words: &str) -> Refusal {
    Refusal { status, words: words.to_owned(), retry_after: None }
}

fn unproven(cause: &str) -> Refusal {
    warn!(cause, "a login at the OIDC provider is refused");
    let words =
        "What the identity provider has sent does not prove who you are; the log of payonce says why.";
    refusal(StatusCode::FORBIDDEN, words)
}

fn unreachable_now(cause: &str) -> Refusal {
    warn!(cause, "the OIDC provider does not answer as it should");
    let words =
        "The identity provider does not answer as it should; the log of payonce says more. Try again later.";
    refusal(StatusCode::SERVICE_UNAVAILABLE, words)
}
