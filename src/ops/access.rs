//! Who may see and do what: tokens, sessions, and the checks that every request passes before a page or an action sees it.
//!
//! Without a token only loopback is served, and whoever is on this machine is the operator; then the `Host` header must name this
//! machine, or a web site elsewhere could reach these pages through the operator's browser (DNS rebinding). With a token: a bearer
//! token, or a login that becomes a session cookie. Nothing changes by GET. Every other request must prove that it does not come from
//! another site: a token that only our pages know, or a form of request that browsers do not send elsewhere unasked.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use crate::config::{AccessConfig, Secret};

/// Largest body of a form or an API call.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// How long a login lasts.
const SESSION_LIFETIME_S: u64 = 12 * 60 * 60;
/// Logins at once; the oldest goes.
const SESSIONS_MAX: usize = 1_000;
/// Longest name of a person.
const NAME_BYTES_MAX: usize = 100;
const COOKIE: &str = "payonce_session";

/// What a visitor may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Look.
    ReadOnly,
    /// Look, replay, discard.
    Operator,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// As it is kept in the audit log.
    pub(super) name: String,
    /// What they may do.
    pub(super) role: Role,
    /// What forms on our pages carry.
    pub(super) csrf: String,
    /// Whether there is a session to end.
    pub(super) has_session: bool,
}

struct Session {
    visitor: Visitor,
    began: Instant,
}

/// The rules of one `payonce ops`.
pub struct Access {
    operator: Option<Secret>,
    readonly: Option<Secret>,
    /// Who is here where there is no token; `None`: there is one.
    local: Option<Visitor>,
    is_loopback: bool,
    sessions: Mutex<HashMap<String, Session>>,
}

impl Access {
    /// The rules for pages served at `listen`.
    ///
    /// # Errors
    /// Words, where other machines could reach pages that have no token.
    pub fn new(config: AccessConfig, listen: SocketAddr) -> Result<Self, String> {
        let has_token = config.operator_token.is_some() || config.readonly_token.is_some();
        let is_loopback = listen.ip().is_loopback();
        if !is_loopback && !has_token {
            return Err(format!(
                "--listen {listen}: other machines could reach it, and there is no login. Set ops_token (PAYONCE_OPS_TOKEN) to a \
                 secret of 16 bytes or more, such as `openssl rand -hex 32` prints, or listen on loopback (127.0.0.1)"
            ));
        }
        let local = (!has_token).then(|| Visitor {
            name: config.local_name,
            role: Role::Operator,
            csrf: random_hex(),
            has_session: false,
        });
        Ok(Self {
            operator: config.operator_token,
            readonly: config.readonly_token,
            local,
            is_loopback,
            sessions: Mutex::default(),
        })
    }

    fn role_of(&self, token: &str) -> Option<Role> {
        // Both are compared, so that the time taken says nothing about either.
        let operator = self.operator.as_ref().is_some_and(|secret| is_same(secret.expose(), token));
        let readonly = self.readonly.as_ref().is_some_and(|secret| is_same(secret.expose(), token));
        if operator { Some(Role::Operator) } else { readonly.then_some(Role::ReadOnly) }
    }

    /// Opens a session: the cookie to set.
    pub(super) fn log_in(
        &self,
        name: &str,
        token: &str,
        headers: &HeaderMap,
    ) -> Result<String, &'static str> {
        let name = name.trim();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err("Say who you are, in at most 100 bytes: the audit log names you.");
        }
        let Some(role) = self.role_of(token) else {
            warn!("a login with a wrong token");
            return Err("That token opens nothing here.");
        };
        let id = random_hex();
        let visitor = Visitor { name: name.to_owned(), role, csrf: random_hex(), has_session: true };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.is_alive());
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.began).map(|(id, _)| id.clone());
            oldest.and_then(|id| sessions.remove(&id));
        }
        sessions.insert(key(&id), Session { visitor, began: Instant::now() });
        Ok(self.cookie(&id, SESSION_LIFETIME_S, headers))
    }

    /// Ends the session: the cookie to set.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> String {
        if let Some(id) = cookie(headers, COOKIE) {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(id));
        }
        self.cookie("", 0, headers)
    }

    fn cookie(&self, id: &str, lifetime_s: u64, headers: &HeaderMap) -> String {
        // On loopback a browser may come by plain HTTP; from elsewhere, or through a proxy that speaks TLS, it must not.
        let is_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
        let secure = if is_tls || !self.is_loopback { "; Secure" } else { "" };
        format!("{COOKIE}={id}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Whether a request with these headers would be let in now.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        self.visitor(headers).is_some()
    }

    fn visitor(&self, headers: &HeaderMap) -> Option<(Visitor, bool)> {
        if let Some(local) = &self.local {
            return Some((local.clone(), false));
        }
        if let Some(token) = bearer(headers) {
            let name = headers.get("x-operator").and_then(|name| name.to_str().ok()).map(str::trim);
            let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).unwrap_or("api");
            let role = self.role_of(token)?;
            let visitor = Visitor { name: name.to_owned(), role, csrf: String::new(), has_session: false };
            return Some((visitor, true));
        }
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&key(cookie(headers, COOKIE)?)).filter(|session| session.is_alive())?;
        Some((session.visitor.clone(), false))
    }
}

impl Session {
    fn is_alive(&self) -> bool {
        self.began.elapsed() < Duration::from_secs(SESSION_LIFETIME_S)
    }
}

/// Stands before everything: the `Host` check, and the headers of every answer.
pub(super) async fn shield(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let mut response = if access.local.is_some() && !names_this_machine(request.headers()) {
        let words =
            "This address serves only requests whose Host is this machine (127.0.0.1, [::1] or localhost).\n";
        (StatusCode::MISDIRECTED_REQUEST, words).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            header::HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=()",
        ),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-store"));
    response
}

/// Who sent a request that would change something, before that is proven.
#[derive(Clone)]
struct Unproven {
    visitor: Visitor,
    by_bearer: bool,
}

/// Stands before all that is not for everybody: who is it? Where something would change, the route itself asks for more ([`prove`]), so that
/// a method which a path does not take is answered as that; a handler that was not told who asks refuses.
pub(super) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let Some((visitor, by_bearer)) = access.visitor(request.headers()) else { return stranger(&request) };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        request.extensions_mut().insert(visitor);
    } else {
        request.extensions_mut().insert(Unproven { visitor, by_bearer });
    }
    next.run(request).await
}

/// Stands before each route that changes something: may they, and is it really them?
pub(super) async fn prove(mut request: Request, next: Next) -> Response {
    let Some(Unproven { visitor, by_bearer }) = request.extensions_mut().remove::<Unproven>() else {
        return StatusCode::FORBIDDEN.into_response();
    };
    if !by_bearer {
        request = match from_our_pages(request, &visitor).await {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
    }
    if visitor.role != Role::Operator && request.uri().path() != "/logout" {
        return (StatusCode::FORBIDDEN, "Your token is read-only.\n").into_response();
    }
    request.extensions_mut().insert(visitor);
    next.run(request).await
}

/// Stands before the login: it has no session yet, but must not come from another site either.
pub(super) async fn same_site(request: Request, next: Next) -> Response {
    if is_from_elsewhere(request.headers()) {
        return elsewhere();
    }
    next.run(request).await
}

fn stranger(request: &Request) -> Response {
    let path = request.uri().path();
    if path.starts_with("/api/") || path == "/metrics" || path == "/live" {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"payonce\"")];
        let words = "Authorization: Bearer TOKEN is needed, with the ops_token or ops_readonly_token of this payonce.\n";
        return (StatusCode::UNAUTHORIZED, challenge, words).into_response();
    }
    let wanted = request.uri().path_and_query().map_or("/", |wanted| wanted.as_str());
    let wanted: String = url::form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
    Redirect::to(&format!("/login?next={wanted}")).into_response()
}

/// A request with effects, proven to come from a page of ours, or to be of a kind that no other site's page can send.
async fn from_our_pages(request: Request, visitor: &Visitor) -> Result<Request, Response> {
    if is_from_elsewhere(request.headers()) {
        return Err(elsewhere());
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|_| {
        (StatusCode::PAYLOAD_TOO_LARGE, format!("more than {REQUEST_BYTES_MAX} bytes\n")).into_response()
    })?;
    // JSON crosses sites only after the browser has asked, and we never say yes.
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.starts_with("application/json"));
    let proven = is_json
        || url::form_urlencoded::parse(&body)
            .any(|(name, value)| name == "csrf" && is_same(&visitor.csrf, &value));
    if !proven {
        let words = "This form is out of date, or did not come from these pages. Load the page again.\n";
        return Err((StatusCode::FORBIDDEN, words).into_response());
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn elsewhere() -> Response {
    (StatusCode::FORBIDDEN, "Requests from other sites change nothing here.\n").into_response()
}

/// What the browser itself says of where a request comes from (Fetch Metadata; the Origin header where that is missing).
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, origin)| origin != host),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Compares digests: equal time, whatever the lengths.
fn is_same(secret: &str, given: &str) -> bool {
    Sha256::digest(secret).ct_eq(&Sha256::digest(given)).into()
}

/// Sessions are kept by a digest of their id, so that looking one up tells nothing by its time.
fn key(id: &str) -> String {
    hex(&Sha256::digest(id))
}

fn random_hex() -> String {
    hex(&rand::random::<[u8; 32]>())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
