//! Who may see and do what: tokens, sessions and proxies say who somebody is, `rights` what a role may do; `guard` stands before every page and
//! action and asks both.
//!
//! Where nothing is set that lets people in, only loopback is served, and whoever is on this machine is the admin; then the `Host` header must
//! name this machine, or a web site elsewhere could reach these pages through the operator's browser (DNS rebinding). Nothing changes by GET.
//! Every other request must prove that it does not come from another site: a token that only our pages know, or a form of request that
//! browsers do not send elsewhere unasked.

mod brake;
mod guard;
mod keys;
mod oidc;
mod proxy;
mod rights;
mod sessions;

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{Extensions, HeaderMap, StatusCode, header, request::Parts},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use guard::{Guarded, act, same_site, see, shield};
pub(super) use oidc::Returned;
pub(super) use rights::Action;

use crate::{
    config::{AccessConfig, Role, RoleRules, Roles, Secret, TlsConfig},
    store::{Database, Reader},
    tls,
};
use brake::Brake;
use keys::Keys;
use oidc::{LOGIN_LIFETIME_S, Oidc};
use proxy::{Person, Proxy};
use sessions::{LIFETIME_S, Sessions, Way};

/// Longest name of a person, in bytes.
const NAME_BYTES_MAX: usize = 100;
const COOKIE: &str = "payonce_session";
/// Of a login at the provider that has begun.
const LOGIN_COOKIE: &str = "payonce_login";

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// As it is kept in the audit log.
    pub(super) name: String,
    /// What they are trusted with.
    pub(super) roles: Roles,
    /// What forms on our pages carry.
    pub(super) csrf: String,
    /// Whether there is a session to end.
    pub(super) has_session: bool,
}

impl Visitor {
    pub(super) fn may(&self, action: Action) -> bool {
        action.is_open_to(&self.roles)
    }

    /// # Errors
    /// Words for who may not.
    pub(super) fn need(&self, action: Action) -> Result<(), String> {
        if self.may(action) { Ok(()) } else { Err(action.refusal(&self.roles)) }
    }
}

/// Where a request comes from, and what it says of itself.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    peer: IpAddr,
    headers: HeaderMap,
}

impl Caller {
    fn of(extensions: &Extensions, headers: &HeaderMap) -> Self {
        // Not known: an address that no proxy can have.
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        Self { peer: peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), headers: headers.clone() }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions, &parts.headers))
    }
}

/// Why somebody is not let in, whoever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) words: String,
    /// In seconds, where waiting helps.
    pub(super) retry_after: Option<u64>,
}

/// The rules of one `payonce ops`.
pub struct Access {
    operator: Option<Secret>,
    readonly: Option<Secret>,
    /// Who is here where there is no login; `None`: there is one.
    local: Option<Visitor>,
    proxy: Proxy,
    roles: RoleRules,
    oidc: Option<Oidc>,
    sessions: Sessions,
    brake: Brake,
    is_loopback: bool,
}

impl Access {
    /// The rules for pages served at `listen`.
    ///
    /// # Errors
    /// Words, where other machines could reach pages that have no login.
    pub fn new(config: AccessConfig, listen: SocketAddr, tls: &TlsConfig) -> Result<Self, String> {
        let keys = Keys::new(&config.session_keys, &config.session_secrets());
        let proxy = Proxy::new(config.proxy)?;
        let has_token = config.operator_token.is_some() || config.readonly_token.is_some();
        let has_login = has_token || proxy.names_people() || config.oidc.is_some();
        let is_loopback = listen.ip().is_loopback();
        if !is_loopback && !has_login {
            return Err(format!(
                "--listen {listen}: other machines could reach it, and there is no login. Set ops_token (PAYONCE_OPS_TOKEN) to a \
                 secret of 16 bytes or more, such as `openssl rand -hex 32` prints, or listen on loopback (127.0.0.1)"
            ));
        }
        let oidc = match config.oidc {
            Some(oidc) => Some(Oidc::new(oidc, connector(tls)?)),
            None => None,
        };
        let sessions = Sessions::new(keys);
        let local = (!has_login).then(|| Visitor {
            csrf: sessions.form_token(&config.local_name),
            name: config.local_name,
            roles: Roles::from_iter([Role::Admin]),
            has_session: false,
        });
        Ok(Self {
            operator: config.operator_token,
            readonly: config.readonly_token,
            local,
            proxy,
            roles: config.roles,
            oidc,
            sessions,
            brake: Brake::default(),
            is_loopback,
        })
    }

    /// Keeps what other replicas say known, until `stop`.
    pub(super) async fn follow(&self, reader: &Reader, stop: &CancellationToken) {
        if self.has_tokens() || self.has_provider() {
            self.sessions.follow(reader, stop).await;
        }
    }

    /// Whether somebody can log in here with a token.
    pub(super) fn has_tokens(&self) -> bool {
        self.operator.is_some() || self.readonly.is_some()
    }

    /// Whether somebody can log in here at a provider.
    pub(super) fn has_provider(&self) -> bool {
        self.oidc.is_some()
    }

    /// What a way in is proven by; `None`: it is closed.
    fn secret(&self, way: Way) -> Option<Cow<'_, str>> {
        match way {
            Way::OperatorToken => self.operator.as_ref().map(|token| token.expose().into()),
            Way::ReadonlyToken => self.readonly.as_ref().map(|token| token.expose().into()),
            Way::Oidc => self.oidc.as_ref().map(Oidc::way_secret).map(Cow::Owned),
        }
    }

    /// What a way in opens. The token that only shows has shown reports and lists ever since, so it has finance beside viewer.
    fn roles_by(&self, way: Way, name: &str, groups: &[String]) -> Roles {
        match way {
            Way::OperatorToken => Roles::from_iter([Role::Admin]),
            Way::ReadonlyToken => Roles::from_iter([Role::Viewer, Role::Finance]),
            Way::Oidc => self.roles.roles(name, groups),
        }
    }

    /// Which token this is.
    ///
    /// # Errors
    /// Where it is none, or this address has shown too many that are none.
    fn way_of(&self, token: &str, caller: &Caller) -> Result<Way, Refusal> {
        let (address, now) = (self.proxy.client(caller.peer, &caller.headers), Instant::now());
        self.brake.check(address, now).map_err(|wait_s| {
            warn!(%address, "too many wrong tokens from this address: not looked at");
            Refusal {
                status: StatusCode::TOO_MANY_REQUESTS,
                words: format!("Too many wrong tokens came from your address. Try again in {wait_s} s."),
                retry_after: Some(wait_s),
            }
        })?;
        // Both are compared, so that the time taken says nothing about either.
        let [operator, readonly] = [Way::OperatorToken, Way::ReadonlyToken]
            .map(|way| self.secret(way).is_some_and(|secret| is_same(&secret, token)));
        match (operator, readonly) {
            (true, _) => Ok(Way::OperatorToken),
            (false, true) => Ok(Way::ReadonlyToken),
            (false, false) => {
                self.brake.count(address, now);
                warn!(%address, "a wrong token");
                Err(Refusal {
                    status: StatusCode::UNAUTHORIZED,
                    words: "Invalid token.".to_owned(),
                    retry_after: None,
                })
            }
        }
    }

    /// Opens a session: the cookie to set.
    ///
    /// # Errors
    /// Words for the form.
    pub(super) fn log_in(&self, name: &str, token: &str, caller: &Caller) -> Result<String, Refusal> {
        let name = name.trim();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                words: "Say who you are, in at most 100 bytes: the audit log names you.".to_owned(),
                retry_after: None,
            });
        }
        let way = self.way_of(token, caller)?;
        info!(name, "somebody has logged in");
        Ok(self.begin(name, Vec::new(), way, caller))
    }

    fn begin(&self, name: &str, groups: Vec<String>, way: Way, caller: &Caller) -> String {
        let cookie = self.sessions.begin(name, groups, way, &self.secret(way).unwrap_or_default());
        self.cookie(&cookie, LIFETIME_S, &caller.headers)
    }

    /// Begins a login at the provider: where to send the browser, and the cookie to set.
    ///
    /// # Errors
    /// Where there is none, or it does not answer.
    pub(super) async fn begin_at_provider(
        &self,
        next: &str,
        caller: &Caller,
    ) -> Result<(String, String), Refusal> {
        let oidc = self.oidc.as_ref().ok_or_else(no_provider)?;
        let (address, login) = oidc.begin(next, self.sessions.keys()).await?;
        Ok((address, self.login_cookie(&login, LOGIN_LIFETIME_S, caller)))
    }

    /// Ends a login at the provider: the session's cookie, and where to go on. The login's own cookie is of no use after it:
    /// [`Access::no_login`].
    ///
    /// # Errors
    /// Where it does not prove who somebody is, or that person has no role.
    pub(super) async fn end_at_provider(
        &self,
        returned: &Returned,
        caller: &Caller,
    ) -> Result<(String, String), Refusal> {
        let oidc = self.oidc.as_ref().ok_or_else(no_provider)?;
        let cookie = cookie(&caller.headers, LOGIN_COOKIE);
        let (Person { name, groups }, next) = oidc.end(returned, cookie, self.sessions.keys()).await?;
        let groups = self.roles.known(groups);
        if self.roles.roles(&name, &groups).is_empty() {
            warn!(name, "somebody without a role has logged in at the OIDC provider");
            let words = format!(
                "{name} has no role here. Whoever runs this payonce can give one by a rule of ops_roles."
            );
            return Err(Refusal { status: StatusCode::FORBIDDEN, words, retry_after: None });
        }
        info!(name, "somebody has logged in at the OIDC provider");
        Ok((self.begin(&name, groups, Way::Oidc, caller), next))
    }

    /// Takes the cookie of a login back.
    pub(super) fn no_login(&self, caller: &Caller) -> String {
        self.login_cookie("", 0, caller)
    }

    /// One that comes along when the provider sends the browser back: that comes from another site.
    fn login_cookie(&self, value: &str, lifetime_s: i64, caller: &Caller) -> String {
        let secure = self.secure(&caller.headers);
        format!(
            "{LOGIN_COOKIE}={value}; Path=/login/oidc; Max-Age={lifetime_s}; HttpOnly; SameSite=Lax{secure}"
        )
    }

    /// Ends the session: the cookie to set.
    pub(super) async fn log_out(&self, caller: &Caller, database: &Arc<Database>) -> String {
        let session = cookie(&caller.headers, COOKIE).and_then(|cookie| self.sessions.read(cookie));
        if let Some(session) = session {
            self.sessions.end(&session, database).await;
        }
        self.cookie("", 0, &caller.headers)
    }

    /// On loopback a browser may come by plain HTTP; from elsewhere, or through a proxy that speaks TLS, it must not.
    fn secure(&self, headers: &HeaderMap) -> &'static str {
        let is_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
        if is_tls || !self.is_loopback { "; Secure" } else { "" }
    }

    fn cookie(&self, value: &str, lifetime_s: i64, headers: &HeaderMap) -> String {
        let secure = self.secure(headers);
        format!("{COOKIE}={value}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Whether this request would be let in now.
    pub(super) fn knows(&self, caller: &Caller) -> bool {
        matches!(self.visitor(caller), Ok(Some(_)))
    }

    /// Who it is, and whether that is proven by what no browser sends by itself; `None`: nobody who is known.
    ///
    /// # Errors
    /// Where nobody is let in with such a request.
    fn visitor(&self, caller: &Caller) -> Result<Option<(Visitor, bool)>, Refusal> {
        if let Some(local) = &self.local {
            return Ok(Some((local.clone(), false)));
        }
        let person = self.proxy.person(caller.peer, &caller.headers).map_err(|words| {
            warn!(peer = %caller.peer, words, "refused");
            Refusal { status: StatusCode::FORBIDDEN, words, retry_after: None }
        })?;
        if let Some(Person { name, groups }) = person {
            let (roles, csrf) = (self.roles.roles(&name, &groups), self.sessions.form_token(&name));
            return Ok(Some((Visitor { name, roles, csrf, has_session: false }, false)));
        }
        if let Some(token) = bearer(&caller.headers) {
            let name = caller.headers.get("x-operator").and_then(|name| name.to_str().ok()).map(str::trim);
            let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).unwrap_or("api");
            return match self.way_of(token, caller) {
                Ok(way) => {
                    let (name, roles) = (name.to_owned(), self.roles_by(way, name, &[]));
                    Ok(Some((Visitor { name, roles, csrf: String::new(), has_session: false }, true)))
                }
                Err(Refusal { status: StatusCode::UNAUTHORIZED, .. }) => Ok(None),
                Err(refusal) => Err(refusal),
            };
        }
        let session = cookie(&caller.headers, COOKIE).and_then(|cookie| self.sessions.read(cookie));
        Ok(session.and_then(|session| {
            let secret = self.secret(session.way)?;
            self.sessions.is_proof_of(&session, &secret).then(|| {
                let csrf = self.sessions.csrf(&session);
                let roles = self.roles_by(session.way, &session.name, &session.groups);
                (Visitor { name: session.name, roles, csrf, has_session: true }, false)
            })
        }))
    }
}

fn no_provider() -> Refusal {
    let words = "People do not log in at a provider here: ops_oidc_issuer is not set.".to_owned();
    Refusal { status: StatusCode::NOT_FOUND, words, retry_after: None }
}

/// The system's authorities, and those of `tls_ca_file`.
fn connector(tls: &TlsConfig) -> Result<TlsConnector, String> {
    let roots = tls::roots(tls.ca_file.as_deref()).map_err(|problem| format!("tls_ca_file: {problem}"))?;
    Ok(TlsConnector::from(Arc::new(tls::client(roots)?)))
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

fn random_hex() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}
