//! The provider as it is asked over HTTP: what it says of itself, its keys, and the token for a code. It is asked when somebody logs in, not at
//! start: where it is down, all else goes on. What must not live here: what a token proves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::Full;
use hyper::{Request, StatusCode, body::Bytes, header, http::request::Builder};
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tracing::warn;
use url::{Url, form_urlencoded};

use crate::{
    config::{OidcConfig, is_safe},
    http,
};

/// How long the provider has for an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long what it says of itself is believed; then it is asked again, and while it does not answer what was known goes on.
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// When it is asked again after it did not answer, while what it said before is known.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// What the provider says of itself (OpenID Connect Discovery 1.0, 3), and its keys.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) authorization_endpoint: Url,
    token_endpoint: Url,
    takes_basic: bool,
    pub(super) keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

pub(super) struct Provider {
    config: OidcConfig,
    tls: TlsConnector,
    /// What it said, and when it is asked again. Held while it is asked, so that one asks for all.
    known: Mutex<Option<(Instant, Arc<Known>)>>,
}

impl Provider {
    pub(super) fn new(config: OidcConfig, tls: TlsConnector) -> Self {
        Self { config, tls, known: Mutex::default() }
    }

    /// What it says of itself, and its keys, as they were within the last hour; while it does not answer, as they were before.
    ///
    /// # Errors
    /// Words for the log, where it was never reached.
    pub(super) async fn known(&self) -> Result<Arc<Known>, String> {
        let mut known = self.known.lock().await;
        if let Some((_, known)) = known.as_ref().filter(|(ask_again, _)| Instant::now() < *ask_again) {
            return Ok(Arc::clone(known));
        }
        match (self.discover().await, known.as_mut()) {
            (Ok(found), _) => Ok(Self::keep(&mut known, found)),
            (Err(cause), Some((ask_again, before))) => {
                warn!(cause, "the OIDC provider does not say what it is; what was known goes on");
                // Else each login would wait for it, one after another.
                *ask_again = Instant::now() + RETRY_PAUSE;
                Ok(Arc::clone(before))
            }
            (Err(cause), None) => Err(cause),
        }
    }

    /// As they are now: the provider may have signed with a key that it has just made.
    ///
    /// # Errors
    /// Words for the log.
    pub(super) async fn known_anew(&self) -> Result<Arc<Known>, String> {
        let mut known = self.known.lock().await;
        let found = self.discover().await?;
        Ok(Self::keep(&mut known, found))
    }

    fn keep(known: &mut Option<(Instant, Arc<Known>)>, found: Known) -> Arc<Known> {
        let found = Arc::new(found);
        *known = Some((Instant::now() + AGE_MAX, Arc::clone(&found)));
        found
    }

    async fn discover(&self) -> Result<Known, String> {
        let issuer = &self.config.issuer;
        let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let said: Metadata = self.get(&at).await?;
        // Another one could have its own tokens taken for this one's (RFC 8414, 3.3).
        if said.issuer != *issuer {
            return Err(format!("{at}: its issuer is {:?}, ops_oidc_issuer is {issuer:?}", said.issuer));
        }
        let KeySet { keys } = self.get(&said.jwks_uri).await?;
        let methods = said.token_endpoint_auth_methods_supported;
        Ok(Known {
            authorization_endpoint: endpoint(&said.authorization_endpoint)?,
            token_endpoint: endpoint(&said.token_endpoint)?,
            // Where nothing is said, that is what it takes.
            takes_basic: methods
                .is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic")),
            // Some may be of a kind that nobody here knows.
            keys: keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect(),
        })
    }

    /// The ID token for a code.
    ///
    /// # Errors
    /// Words for the log.
    pub(super) async fn id_token(&self, known: &Known, code: &str, verifier: &str) -> Result<String, String> {
        let redirect_uri = self.config.redirect_uri();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", verifier),
        ];
        let client_id = self.config.client_id.as_str();
        let mut request = Request::post(path(&known.token_endpoint));
        match &self.config.client_secret {
            Some(secret) if known.takes_basic => {
                // Both are encoded as in a form first (RFC 6749, 2.3.1).
                let encoded =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
                request = request.header(header::AUTHORIZATION, format!("Basic {}", BASE64.encode(pair)));
            }
            Some(secret) => form.extend([("client_id", client_id), ("client_secret", secret.expose())]),
            None => form.push(("client_id", client_id)),
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let tokens: Tokens = self.ask(&known.token_endpoint, request, form).await?;
        tokens.id_token.ok_or_else(|| format!("{}: no id_token in its answer", known.token_endpoint))
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, at: &str) -> Result<T, String> {
        let url = endpoint(at)?;
        self.ask(&url, Request::get(path(&url)), String::new()).await
    }

    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        url: &Url,
        request: Builder,
        body: String,
    ) -> Result<T, String> {
        let named = |problem: String| format!("{}: {problem}", without_query(url));
        let authority = url.authority().to_owned();
        let request = request
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("payonce/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|cause| named(cause.to_string()))?;
        let answer = tokio::time::timeout(DEADLINE, self.send(url, request)).await;
        let (status, body) = answer
            .unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())))
            .map_err(named)?;
        if status != StatusCode::OK {
            // What else it says may hold the code.
            let said: Option<Value> = serde_json::from_slice(&body).ok();
            let code = said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or("no error in it");
            return Err(named(format!("status {}, {code:?}", status.as_u16())));
        }
        serde_json::from_slice(&body)
            .map_err(|cause| named(format!("not the JSON that it should be: {cause}")))
    }

    async fn send(&self, url: &Url, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let found =
            tokio::net::lookup_host((bare.as_str(), port)).await.map_err(|cause| cause.to_string())?;
        let stream = http::connect(&found.collect::<Vec<_>>(), DEADLINE).await?;
        if url.scheme() != "https" {
            return http::exchange(stream, request, ANSWER_BYTES_MAX).await;
        }
        let name = ServerName::try_from(bare).map_err(|_| "not a host's name".to_owned())?;
        let stream = self.tls.connect(name, stream).await.map_err(|cause| format!("TLS: {cause}"))?;
        http::exchange(stream, request, ANSWER_BYTES_MAX).await
    }
}

/// An address that may be asked.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|cause| format!("{text:?}: {cause}"))?;
    if is_safe(&url) { Ok(url) } else { Err(format!("{text:?}: not https://, and not on this machine")) }
}

fn path(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
