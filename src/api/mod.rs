//! `payonce api`: applications' reads over HTTP (contract §10). Stateless; it reads from PostgreSQL, and changes nothing anywhere. What must not
//! live here: SQL, and pages for people (`ops`).

mod openapi;
mod reads;
mod tokens;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use tokens::{Grant, Scope, Tokens};

use crate::{
    answers, metrics,
    parameters::Wrong,
    store::{Reader, StoreError, reads as stored},
};

/// How old the answer to "how far behind is this standby?" may be.
const LAG_AGE_MAX: Duration = Duration::from_millis(100);
/// How far a standby is behind, on each answer that was read from it.
const LAG_HEADER: HeaderName = HeaderName::from_static("payonce-lag-ms");

/// What the api is given.
pub struct Setup {
    /// PostgreSQL: the primary, or a standby.
    pub reader: Reader,
    /// Who may read what.
    pub tokens: Tokens,
    /// This process's recorder.
    pub prometheus: PrometheusHandle,
}

struct Api {
    reader: Reader,
    tokens: Tokens,
    prometheus: PrometheusHandle,
    /// When it was asked last, and what it said. Held while it is asked, so that one asks for all.
    lag: tokio::sync::Mutex<Option<(Instant, Option<i64>)>>,
}

/// Why there is no answer.
enum Problem {
    Store(StoreError),
    Unauthorized,
    Forbidden(&'static str),
    NotFound(&'static str),
    Wrong(String),
    Method,
}

impl From<StoreError> for Problem {
    fn from(cause: StoreError) -> Self {
        Self::Store(cause)
    }
}

impl From<Wrong> for Problem {
    fn from(Wrong(words): Wrong) -> Self {
        Self::Wrong(words)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, words) = match self {
            Self::Store(StoreError::Refused(cause)) => {
                warn!(cause, "no answer");
                (StatusCode::BAD_REQUEST, "bad_request", "the database cannot look this up".to_owned())
            }
            Self::Store(cause) => {
                warn!(cause = %cause, "no answer");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "the database does not answer; try again".to_owned(),
                )
            }
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Authorization: Bearer TOKEN is needed, with a token of api_tokens_file".to_owned(),
            ),
            Self::Forbidden(words) => (StatusCode::FORBIDDEN, "forbidden", words.to_owned()),
            Self::NotFound(what) => (StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}")),
            Self::Wrong(words) => (StatusCode::BAD_REQUEST, "bad_request", words),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "only GET and HEAD are served".to_owned(),
            ),
        };
        let mut response = (status, Json(answers::error(code, &words))).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"payonce\""));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// Serves until `stop`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(listener: TcpListener, setup: Setup, stop: CancellationToken) -> std::io::Result<()> {
    let Setup { reader, tokens, prometheus } = setup;
    let api = Arc::new(Api { reader, tokens, prometheus, lag: tokio::sync::Mutex::default() });
    let refreshing = {
        let (api, stop) = (Arc::clone(&api), stop.clone());
        tokio::spawn(async move { api.tokens.keep_fresh(&stop).await })
    };
    let served =
        axum::serve(listener, router(api)).with_graceful_shutdown(stop.clone().cancelled_owned()).await;
    stop.cancel();
    drop(refreshing.await);
    served
}

fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/v1/accounts", get(reads::accounts))
        .route("/v1/accounts/{id}", get(reads::account))
        .route("/v1/accounts/{id}/entries", get(reads::entries))
        .route("/v1/payments", get(reads::payment))
        .route("/v1/events", get(reads::event))
        .route_layer(from_fn_with_state(Arc::clone(&api), say_lag))
        .route_layer(from_fn_with_state(Arc::clone(&api), guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/v1/openapi.json", get(|| async { Json(openapi::document()) }))
        .merge(guarded)
        .fallback(async || Problem::NotFound("path; /v1/openapi.json lists them"))
        .method_not_allowed_fallback(async || Problem::Method)
        .layer(from_fn(dress))
        .with_state(api)
}

/// Counts every answer, and gives it the headers that all have. Asks nobody: an answer that needs no database waits for none.
async fn dress(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let is_read = request.uri().path().starts_with("/v1/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A balance is nobody's to keep but the asker's, who asks again with the version it has.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    if is_read {
        metrics::api_answered(response.status().as_u16(), started.elapsed());
    }
    response
}

impl Api {
    /// How far the standby that is read from is behind; `None`: it is the primary, or does not answer.
    async fn lag_ms(&self) -> Option<i64> {
        let mut known = self.lag.lock().await;
        if let Some((_, lag)) = known.filter(|(at, _)| at.elapsed() < LAG_AGE_MAX) {
            return lag;
        }
        let asked = self.reader.run(async |connection| stored::standby_lag_ms(connection).await).await;
        let lag = asked.unwrap_or(None);
        *known = Some((Instant::now(), lag));
        lag
    }
}

/// Says how old an answer may be that the database gave. A refusal was not read from it.
async fn say_lag(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let is_read =
        matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND);
    if is_read && let Some(lag) = api.lag_ms().await {
        response.headers_mut().insert(LAG_HEADER, HeaderValue::from(lag));
    }
    response
}

async fn guard(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // The scheme's name is read whatever its case (RFC 9110, 11.1).
    let token = token
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some(grant) = token.and_then(|(_, token)| api.tokens.grant_of(token.trim())) else {
        return Problem::Unauthorized.into_response();
    };
    request.extensions_mut().insert(Arc::new(grant));
    next.run(request).await
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    match api.reader.check_schema().await {
        Ok(()) => "ready\n".into_response(),
        Err(cause) => {
            warn!(cause = %cause, "not ready");
            let words =
                "not ready: the database does not answer, or its schema does not fit; the log says which\n";
            (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
        }
    }
}

async fn scrape(State(api): State<Arc<Api>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.prometheus.render())
        .into_response()
}

/// An answer with its amounts in decimal, too.
fn found(value: &impl serde::Serialize) -> Result<Json<Value>, Problem> {
    answers::answer(value).map(Json).map_err(|cause| Problem::Wrong(cause.to_string()))
}
