//! The operators' API: what the pages show, as JSON. What they do is in `acts`.

pub(super) mod acts;
pub(super) mod case_work;
pub(super) mod finance;
pub(super) mod find;
mod lists;
pub(super) mod openapi;

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::{Body, to_bytes},
    extract::{FromRequestParts, Path, RawQuery, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    Pool,
    access::Visitor,
    history::{self, Range},
    mask,
    pages::{
        audit_log::Asked as Lines,
        case_filter::{Asked, FILTER},
        debts::Asked as Indebted,
        duplicates,
    },
    watch::{Link, Now},
};
use lists::Export;

use crate::{
    answers,
    ledger::Layer,
    parameters::{Parameters, Wrong, whole},
    reports::{ROWS_MAX as LIST_ROWS_MAX, actions_table, cases_table},
    shown::safe_json,
    store::{
        StoreError, actions, audit_log,
        case_groups::{self, CaseMoney},
        debts, mismatch, payment_story,
        quarantine::{self, Page},
        report,
        workers::WorkerRow,
    },
};

/// Rows of one answer.
const ROWS_MAX: i64 = 1_000;
const ROWS_DEFAULT: i64 = 50;

/// Why there is no answer.
pub(super) enum Problem {
    Store(StoreError),
    NotFound(&'static str),
    Wrong(String),
    /// With this status and, where that says too little, a code of its own.
    Refused(StatusCode, Option<&'static str>, String),
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
        let (status, words) = match self {
            Self::Store(
                cause @ (StoreError::Unavailable(_) | StoreError::Blocked(_) | StoreError::Conflict(_)),
            ) => {
                warn!(cause = %cause, "no answer");
                (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer; try again".to_owned())
            }
            Self::Store(cause @ StoreError::Unfit(_)) => {
                warn!(cause = %cause, "no answer");
                (StatusCode::SERVICE_UNAVAILABLE, cause.to_string())
            }
            Self::Store(cause @ StoreError::Refused(_)) => {
                warn!(cause = %cause, "no answer");
                (StatusCode::BAD_REQUEST, "PostgreSQL cannot look this up".to_owned())
            }
            Self::NotFound(what) => (StatusCode::NOT_FOUND, format!("there is no such {what}")),
            Self::Wrong(words) => (StatusCode::BAD_REQUEST, words),
            Self::Refused(status, code, words) => {
                let code = code.unwrap_or_else(|| answers::code_of(status.as_u16()));
                return (status, Json(answers::error(code, &words))).into_response();
            }
        };
        (status, Json(answers::error(answers::code_of(status.as_u16()), &words))).into_response()
    }
}

/// Bytes of a refusal's words that are passed on.
const WORDS_BYTES_MAX: usize = 4_096;

/// Stands before everything: whoever refused a request under `/api` (the access rules, the router, a body or parameter that cannot be
/// read), a program is answered in JSON, with nothing hidden in it. Status and headers stay.
pub(super) async fn errors_in_json(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_api = path == "/api" || path.starts_with("/api/");
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.starts_with("application/json"));
    if is_api && is_json {
        return nothing_hidden(response).await;
    }
    if !is_api || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // One that is longer, or breaks off, is replaced by the status in words.
    let words = to_bytes(body, WORDS_BYTES_MAX).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    let words = if words.is_empty() { unsaid(status) } else { words };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = answers::error(answers::code_of(status.as_u16()), &words).to_string();
    Response::from_parts(parts, Body::from(safe_json(&answer)))
}

/// The same JSON, with characters spelled out that a terminal obeys or does not show: people read answers there, and ids come from whoever
/// writes to the queue.
async fn nothing_hidden(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // Made here in memory, with as many rows as an answer may have.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(safe_json(&String::from_utf8_lossy(&bytes))))
}

/// What a status means that came without words.
fn unsaid(status: StatusCode) -> String {
    let known = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path; docs/dashboard.md lists the API",
        StatusCode::METHOD_NOT_ALLOWED => {
            "this path does not take that method; the header Allow says which it takes"
        }
        other => other.canonical_reason().unwrap_or("the request was refused"),
    };
    known.to_owned()
}

pub(super) type Answer = Result<Response, Problem>;

/// In the form that applications get from `payonce api`, too.
pub(super) fn answer(value: &impl serde::Serialize) -> Answer {
    let value = answers::answer(value).map_err(|error| Problem::Wrong(error.to_string()))?;
    Ok(Json(value).into_response())
}

fn found(value: Option<impl serde::Serialize>, what: &'static str) -> Answer {
    answer(&value.ok_or(Problem::NotFound(what))?)
}

pub(super) async fn overview(State(pool): State<Arc<Pool>>) -> Json<Value> {
    let now = pool.watch.now();
    let ([applied, layers @ .., quarantined], received) = now.rates;
    let by_layer: serde_json::Map<String, Value> = Layer::ALL
        .iter()
        .zip(now.totals.layers)
        .map(|(layer, n)| (layer.as_str().to_owned(), json!(n)))
        .collect();
    let latencies = now.latencies();
    let money = now.cases.open.money.iter();
    let stuck: Vec<CaseMoney> =
        money.map(|(currency, amount)| CaseMoney { currency: currency.clone(), amount: *amount }).collect();
    let up = |link: Link| match link {
        Link::Up => json!(true),
        Link::Down => json!(false),
        Link::Unknown => json!(null),
    };
    Json(json!({
        "at": now.at.map(rfc3339),
        "stale_for_s": now.stale().map(|age| age.as_secs_f64()),
        "audit": {
            "ok": now.audit.is_ok(), "age_s": now.audit.age().as_secs_f64(), "pause_s": now.audit.pause.as_secs_f64(),
            "failed": now.audit.last.as_ref().map(|last| &last.failed),
            "markers_skipped": now.audit.last.as_ref().and_then(|last| last.markers_skipped.as_ref()),
            "problem": now.audit.problem,
            "checks": now.audit.last.as_ref().map(|last| last.checks),
            "checks_skipped": now.audit.last.as_ref().map(|last| last.skipped.iter().map(|(name, _)| *name).collect::<Vec<_>>()),
            "rows": now.audit.last.as_ref().map(|last| last.rows),
        },
        "summary": { "words": now.text("summary"), "state": now.text("summary-state") },
        "received": now.totals.received,
        "applied": now.totals.applied,
        "released": now.totals.released,
        "duplicates": now.totals.duplicates(),
        "duplicates_by_layer": by_layer,
        "quarantined": now.totals.quarantined,
        "per_second": {
            "received": received, "applied": applied, "duplicates": layers.iter().sum::<f64>(), "quarantined": quarantined,
        },
        "cases": {
            "open": now.cases.open.cases, "waiting": now.cases.waiting.cases,
            "open_money": answers::answer(&stuck).unwrap_or_default(), "open_unreadable": now.cases.open.unreadable,
        },
        "backlog": {
            "ready": now.depths.map(|depths| depths.ready),
            "dead_letters": now.depths.map(|depths| depths.dead),
            "oldest_ready_s_estimate": now.backlog_age.map(|age| age.as_secs_f64()),
            "drain_s_estimate": now.drain_s(),
            "oldest_held_ms": now.oldest_held_ms(),
        },
        "latency_s": {
            "p50": latencies.percentile_s(0.5), "p95": latencies.percentile_s(0.95), "p99": latencies.percentile_s(0.99),
        },
        "servers": { "postgresql": up(now.postgres), "redis": up(now.redis), "rabbitmq": up(now.broker) },
        "workers": worker_list(&now),
    }))
}

pub(super) async fn workers(State(pool): State<Arc<Pool>>) -> Json<Value> {
    Json(worker_list(&pool.watch.now()))
}

fn worker_list(now: &Now) -> Value {
    now.workers.iter().map(worker).collect()
}

fn worker(row: &WorkerRow) -> Value {
    json!({
        "name": row.name, "version": row.version, "started_at": rfc3339(row.started_at), "last_seen_at": rfc3339(row.last_seen_at),
        "is_up": row.is_up, "is_stopped": row.is_stopped, "is_ready": row.is_ready, "redis_available": row.redis_available,
        "lanes": row.lanes, "batch_size_max": row.batch_size_max, "prefetch_count": row.prefetch_count,
        "received": row.received, "applied": row.applied, "duplicates": row.duplicates, "quarantined": row.quarantined,
        "conflicts": row.conflicts, "settled_per_second": row.settled_per_second, "oldest_unsettled_ms": row.oldest_unsettled_ms,
        "latency_s": {
            "p50": row.latency_buckets.percentile_s(0.5), "p95": row.latency_buckets.percentile_s(0.95),
            "p99": row.latency_buckets.percentile_s(0.99),
        },
        "last_error": row.last_error, "last_error_at": row.last_error_at.map(rfc3339),
    })
}

fn rfc3339(at: time::OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

pub(super) async fn chart(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let asked = Parameters::of_query(query.as_deref(), &["range", "source"])?;
    let range = Range::asked(&asked, "1h")?;
    Ok(Json(history::chart(&pool, range, asked.id("source")?).await?).into_response())
}

pub(super) async fn duplicates(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let range = Range::asked(&Parameters::of_query(query.as_deref(), &["range"])?, "1h")?;
    let seen = duplicates::seen(&pool, range).await?;
    Ok(Json(json!({
        "range": range.name, "mismatches": seen.mismatches, "sources": seen.sources, "repeated_keys": seen.keys,
    }))
    .into_response())
}

pub(super) async fn cases(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    RawQuery(query): RawQuery,
) -> Answer {
    let parameters = Parameters::of_query(query.as_deref(), &openapi::CASE_LIST)?;
    let asked = Asked::of(&parameters)?;
    if let Some(export) = Export::asked(&parameters, &visitor)? {
        let page = Page::Before(asked.before(), LIST_ROWS_MAX + 1);
        let read =
            pool.reader.run(async |connection| quarantine::list(connection, asked.filter(), page).await);
        return export.file(&read.await?, cases_table, "cases");
    }
    let limit = rows(&parameters)?;
    let page = Page::Before(asked.before(), limit);
    let read = pool.reader.run(async |connection| {
        let cases = quarantine::list(connection, asked.filter(), page).await?;
        Ok((cases, quarantine::text_read_to(connection, asked.filter(), asked.before()).await?))
    });
    let (cases, read_to) = read.await?;
    let is_full = i64::try_from(cases.len()).is_ok_and(|cases| cases == limit);
    let next = if is_full { cases.last().map(|last| last.id) } else { read_to };
    answer(&json!({ "cases": cases, "next_before": next }))
}

/// The cases in groups, with their money.
pub(super) async fn case_groups(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let asked = Asked::of(&Parameters::of_query(query.as_deref(), &FILTER)?)?;
    let read = pool.reader.run(async |connection| case_groups::groups(connection, asked.filter()).await);
    answer(&read.await?)
}

/// How many rows are asked for.
fn rows(parameters: &Parameters) -> Result<i64, Wrong> {
    Ok(parameters.number("limit", 1..=ROWS_MAX)?.unwrap_or(ROWS_DEFAULT))
}

/// The number that a path ends in or has in its midst.
pub(super) struct Numbered(i64);

impl<S: Send + Sync> FromRequestParts<S> for Numbered {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |_| Wrong("the number in the path: not UTF-8".to_owned());
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(wrong)?;
        Ok(Self(whole("the number in the path", &text, 1..=i64::MAX)?))
    }
}

pub(super) async fn case(State(pool): State<Arc<Pool>>, Numbered(id): Numbered) -> Answer {
    let read = pool.reader.run(async |connection| {
        let Some(detail) = quarantine::show(connection, id).await? else { return Ok(None) };
        let fields = mismatch::fields(connection, &detail).await?;
        Ok(Some((detail, fields)))
    });
    let Some((detail, fields)) = read.await? else { return Err(Problem::NotFound("case")) };
    let mut value = serde_json::to_value(&detail).map_err(|error| Problem::Wrong(error.to_string()))?;
    value["body"] = json!(mask::body(&detail.body, &detail.identifiers()));
    value["difference"] = json!(fields);
    for (name, text) in [("properties", &detail.properties), ("headers", &detail.headers)] {
        value[name] = json!(text.as_ref().map(|text| mask::body(text.as_bytes(), &detail.identifiers())));
    }
    value["routing_key"] =
        json!(detail.routing_key.as_deref().map(|key| mask::body(key.as_bytes(), &detail.identifiers())));
    Ok(Json(value).into_response())
}

/// What accounts owe: the sums of every currency, and of one the largest.
pub(super) async fn debts(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let known = [&Indebted::NAMES[..], &["limit"]].concat();
    let parameters = Parameters::of_query(query.as_deref(), &known)?;
    let asked = Indebted::of(&parameters)?;
    let limit = rows(&parameters)?;
    let read = pool.reader.run(async |connection| {
        let sums = debts::sums(connection).await?;
        let list = match asked.currency {
            Some(currency) => debts::list(connection, currency.as_str(), asked.after(), limit).await?,
            None => Vec::new(),
        };
        Ok((sums, list))
    });
    let (sums, list) = read.await?;
    // A sum may be more than the integers that JSON carries: so it is text.
    let sums: Vec<Value> = sums
        .iter()
        .map(|sum| {
            json!({
                "currency": sum.currency, "accounts": sum.accounts, "sum_minor_units": sum.sum.to_string(),
                "sum": answers::money(sum.sum, &sum.currency),
            })
        })
        .collect();
    answer(&json!({ "sums": sums, "debts": list }))
}

/// The audit log, newest first: page by page, or as a file.
pub(super) async fn audit_log_lines(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    RawQuery(query): RawQuery,
) -> Answer {
    let known = [&Lines::NAMES[..], &["limit", "export"]].concat();
    let parameters = Parameters::of_query(query.as_deref(), &known)?;
    let asked = Lines::of(&parameters)?;
    let export = Export::asked(&parameters, &visitor)?;
    let limit = if export.is_some() { LIST_ROWS_MAX + 1 } else { rows(&parameters)? };
    let read = pool
        .reader
        .run(async |connection| audit_log::list(connection, &asked.filter, asked.before, limit).await);
    let lines = read.await?;
    if let Some(export) = export {
        return export.file(&lines, actions_table, "audit-log");
    }
    let is_full = i64::try_from(lines.len()).is_ok_and(|lines| lines == limit);
    let next = lines.last().filter(|_| is_full).map(|last| last.id);
    answer(&json!({ "lines": lines, "next_before": next }))
}

pub(super) async fn audit_log(State(pool): State<Arc<Pool>>, Numbered(action): Numbered) -> Answer {
    let row = pool.reader.run(async |connection| actions::show(connection, action).await).await?;
    found(row, "line of the audit log")
}

/// Whose story: source and id.
fn named(query: Option<&str>) -> Result<(String, String), Wrong> {
    let asked = Parameters::of_query(query, &["source", "id"])?;
    Ok((asked.required_id("source")?.to_owned(), asked.required_id("id")?.to_owned()))
}

/// An id alone.
fn id(query: Option<&str>) -> Result<String, Wrong> {
    Ok(Parameters::of_query(query, &["id"])?.required_id("id")?.to_owned())
}

pub(super) async fn event(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let (source, id) = named(query.as_deref())?;
    let story = pool.reader.run(async |connection| report::event(connection, &source, &id).await).await?;
    found(story, "event")
}

pub(super) async fn payment(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let (source, id) = named(query.as_deref())?;
    let story =
        pool.reader.run(async |connection| payment_story::show(connection, &source, &id).await).await?;
    found(story, "payment")
}

pub(super) async fn account(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let id = id(query.as_deref())?;
    let story = pool
        .reader
        .run(async |connection| report::account(connection, &id, i64::MAX, ROWS_DEFAULT).await)
        .await?;
    found(story, "account")
}
