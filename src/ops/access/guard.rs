//! What every request passes before a page or an action sees it: the `Host` check and the headers of every answer, who asks, what a request
//! does and whether that is open to the roles of who asks, and the proof that a request with effects comes from our own pages. What must
//! not live here: who somebody is, and which role may do what.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    handler::Handler,
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, get, post},
};

use super::{Access, Caller, Refusal, Visitor, is_same, rights::Action};
use crate::ops::{Pool, layout::refused};

/// Largest body of a form or an API call.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// The routes behind the login. It takes no other than those of [`see`] and [`act`], so that none is added without its action.
pub(in crate::ops) struct Guarded(Router<Arc<Pool>>);

/// Methods of one path, each with its action.
pub(in crate::ops) struct Route(MethodRouter<Arc<Pool>>);

impl Guarded {
    pub(in crate::ops) fn new() -> Self {
        Self(Router::new())
    }

    /// What is under `/api` is under `/api/v1` too: by that path a program says for which version it was written.
    pub(in crate::ops) fn route(self, path: &str, Route(methods): Route) -> Self {
        let router = match path.strip_prefix("/api/") {
            Some(rest) => self.0.route(&format!("/api/v1/{rest}"), methods.clone()),
            None => self.0,
        };
        Self(router.route(path, methods))
    }

    /// All of them, closed to whoever is not known.
    pub(in crate::ops) fn behind(self, access: Arc<Access>) -> Router<Arc<Pool>> {
        self.0.layer(from_fn_with_state(access, guard))
    }
}

/// What only shows: by GET.
pub(in crate::ops) fn see<H, T>(action: Action, handler: H) -> Route
where
    H: Handler<T, Arc<Pool>>,
    T: 'static,
{
    Route(get(handler).route_layer(from_fn_with_state(action, may)))
}

/// What changes something: by POST, and only for whom that is proven of.
pub(in crate::ops) fn act<H, T>(action: Action, handler: H) -> Route
where
    H: Handler<T, Arc<Pool>>,
    T: 'static,
{
    Route(post(handler).route_layer(from_fn_with_state(action, may)).route_layer(from_fn(prove)))
}

impl Route {
    /// With the methods of another one.
    pub(in crate::ops) fn and(self, Self(other): Self) -> Self {
        Self(self.0.merge(other))
    }
}

/// Stands before everything: the `Host` check, and the headers of every answer.
pub(in crate::ops) async fn shield(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
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

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.words)).into_response();
        if let Some(wait_s) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, wait_s.into());
        }
        response
    }
}

/// Who asks, before it is known whether they may.
#[derive(Clone)]
struct Asking {
    visitor: Visitor,
    by_bearer: bool,
}

/// Stands before all that is not for everybody: who is it? What they may is asked by the route itself ([`may`], [`prove`]), so that
/// a method which a path does not take is answered as that; a handler that was not told who asks refuses.
async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let found = access.visitor(&Caller::of(request.extensions(), request.headers()));
    let (visitor, by_bearer) = match found {
        Ok(Some(found)) => found,
        Ok(None) => return unknown(&request),
        Err(refusal) => return refusal.into_response(),
    };
    request.extensions_mut().insert(Asking { visitor, by_bearer });
    next.run(request).await
}

/// Stands before each route that changes something: is it really them?
async fn prove(request: Request, next: Next) -> Response {
    let Some(Asking { visitor, by_bearer }) = request.extensions().get::<Asking>().cloned() else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let proven = if by_bearer { Ok(request) } else { from_our_pages(request, &visitor).await };
    match proven {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    }
}

/// Stands before each handler: may they? Then it is told who asks.
async fn may(State(action): State<Action>, mut request: Request, next: Next) -> Response {
    let Some(Asking { visitor, .. }) = request.extensions_mut().remove::<Asking>() else {
        return StatusCode::FORBIDDEN.into_response();
    };
    if !action.is_open_to(&visitor.roles) {
        return refused(request.headers(), request.uri().path(), &action.refusal(&visitor.roles));
    }
    request.extensions_mut().insert(visitor);
    next.run(request).await
}

/// Stands before the login: it has no session yet, but must not come from another site either.
pub(in crate::ops) async fn same_site(request: Request, next: Next) -> Response {
    if is_from_elsewhere(request.headers()) {
        return elsewhere();
    }
    next.run(request).await
}

fn unknown(request: &Request) -> Response {
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
