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
mod proxy;
mod rights;
mod sessions;

use std::{
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
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use guard::{Guarded, act, same_site, see, shield};
pub(super) use rights::Action;

use crate::{
    config::{AccessConfig, Role, RoleRules, Roles, Secret},
    store::{Database, Reader},
};
use brake::Brake;
use keys::Keys;
use proxy::{Person, Proxy};
use sessions::{LIFETIME_S, Sessions, Way};

/// Longest name of a person, in bytes.
const NAME_BYTES_MAX: usize = 100;
const COOKIE: &str = "payonce_session";

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
    sessions: Sessions,
    brake: Brake,
    is_loopback: bool,
}

impl Access {
    /// The rules for pages served at `listen`.
    ///
    /// # Errors
    /// Words, where other machines could reach pages that have no login.
    pub fn new(config: AccessConfig, listen: SocketAddr) -> Result<Self, String> {
        let proxy = Proxy::new(config.proxy)?;
        let has_token = config.operator_token.is_some() || config.readonly_token.is_some();
        let has_login = has_token || proxy.names_people();
        let is_loopback = listen.ip().is_loopback();
        if !is_loopback && !has_login {
            return Err(format!(
                "--listen {listen}: other machines could reach it, and there is no login. Set ops_token (PAYONCE_OPS_TOKEN) to a \
                 secret of 16 bytes or more, such as `openssl rand -hex 32` prints, or listen on loopback (127.0.0.1)"
            ));
        }
        let keys = Keys::new(
            &config.session_keys,
            &[config.operator_token.as_ref(), config.readonly_token.as_ref()],
        );
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
            sessions,
            brake: Brake::default(),
            is_loopback,
        })
    }

    /// Keeps what other replicas say known, until `stop`.
    pub(super) async fn follow(&self, reader: &Reader, stop: &CancellationToken) {
        if self.has_tokens() {
            self.sessions.follow(reader, stop).await;
        }
    }

    /// Whether somebody can log in here with a token.
    pub(super) fn has_tokens(&self) -> bool {
        self.operator.is_some() || self.readonly.is_some()
    }

    fn secret(&self, way: Way) -> Option<&Secret> {
        match way {
            Way::OperatorToken => self.operator.as_ref(),
            Way::ReadonlyToken => self.readonly.as_ref(),
        }
    }

    /// What a way in opens. The token that only shows has shown reports and lists ever since, so it has finance beside viewer.
    fn roles_by(way: Way) -> Roles {
        match way {
            Way::OperatorToken => Roles::from_iter([Role::Admin]),
            Way::ReadonlyToken => Roles::from_iter([Role::Viewer, Role::Finance]),
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
            .map(|way| self.secret(way).is_some_and(|secret| is_same(secret.expose(), token)));
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
        let cookie = self.sessions.begin(name, way, self.secret(way).map_or("", Secret::expose));
        Ok(self.cookie(&cookie, LIFETIME_S, &caller.headers))
    }

    /// Ends the session: the cookie to set.
    pub(super) async fn log_out(&self, caller: &Caller, database: &Arc<Database>) -> String {
        let session = cookie(&caller.headers, COOKIE).and_then(|cookie| self.sessions.read(cookie));
        if let Some(session) = session {
            self.sessions.end(&session, database).await;
        }
        self.cookie("", 0, &caller.headers)
    }

    fn cookie(&self, value: &str, lifetime_s: i64, headers: &HeaderMap) -> String {
        // On loopback a browser may come by plain HTTP; from elsewhere, or through a proxy that speaks TLS, it must not.
        let is_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
        let secure = if is_tls || !self.is_loopback { "; Secure" } else { "" };
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
                    let (name, roles) = (name.to_owned(), Self::roles_by(way));
                    Ok(Some((Visitor { name, roles, csrf: String::new(), has_session: false }, true)))
                }
                Err(Refusal { status: StatusCode::UNAUTHORIZED, .. }) => Ok(None),
                Err(refusal) => Err(refusal),
            };
        }
        let session = cookie(&caller.headers, COOKIE).and_then(|cookie| self.sessions.read(cookie));
        Ok(session.and_then(|session| {
            let secret = self.secret(session.way)?;
            self.sessions.is_proof_of(&session, secret.expose()).then(|| {
                let csrf = self.sessions.csrf(&session);
                let roles = Self::roles_by(session.way);
                (Visitor { name: session.name, roles, csrf, has_session: true }, false)
            })
        }))
    }
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
