//! One function for each path.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Api, Grant, Problem, Scope, found};
use crate::{
    parameters::{Parameters, checked_id},
    store::reads,
};

/// Accounts of one question.
const ACCOUNTS_MAX: usize = 100;
/// Entries of one page.
const ENTRIES_MAX: i64 = 1_000;
const ENTRIES_DEFAULT: i64 = 100;
type Answer = Result<Response, Problem>;

fn allowed(grant: &Grant, scope: Scope) -> Result<(), Problem> {
    if grant.has(scope) {
        Ok(())
    } else {
        Err(Problem::Forbidden("this token has not the scope that this path needs"))
    }
}

/// By the id alone, whether or not there is such an account: the answer tells nothing about others' accounts.
fn may_see(grant: &Grant, account_id: &str) -> Result<(), Problem> {
    if grant.may_see(Some(account_id)) {
        Ok(())
    } else {
        Err(Problem::Forbidden("this token may not see that account"))
    }
}

fn path_id(id: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(id) = id.map_err(|_| Problem::Wrong("account id: not UTF-8".to_owned()))?;
    checked_id("account id", &id)?;
    Ok(id)
}

/// Whether the asker has this version already (RFC 9110, 13.1.2).
fn has_version(headers: &HeaderMap, etag: &str) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn with_version(headers: &HeaderMap, version: i64, answer: Json<Value>) -> Response {
    let etag = format!("\"{version}\"");
    if has_version(headers, &etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    ([(header::ETAG, etag)], answer).into_response()
}

pub(super) async fn account(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Arc<Grant>>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    allowed(&grant, Scope::Accounts)?;
    let id = path_id(id)?;
    may_see(&grant, &id)?;
    let asked = Parameters::of_query(query.as_deref(), &["at"])?;
    let at = asked.single("at")?.map(time_of).transpose()?;
    let balance = api
        .reader
        .run(async |connection| match at {
            Some(at) => reads::account_at(connection, &id, at).await,
            None => Ok(reads::accounts(connection, std::slice::from_ref(&id)).await?.pop()),
        })
        .await?;
    let Some(balance) = balance else { return Err(Problem::NotFound("account")) };
    Ok(with_version(&headers, balance.version, found(&balance)?))
}

fn time_of(text: &str) -> Result<OffsetDateTime, Problem> {
    // In a query an unescaped plus is a blank.
    OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339)
        .ok()
        .filter(|at| (0..=9_999).contains(&at.to_offset(time::UtcOffset::UTC).year()))
        .ok_or_else(|| {
            Problem::Wrong("at: expected a time as RFC 3339 has it, such as 2026-11-22T13:44:14Z".to_owned())
        })
}

pub(super) async fn accounts(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Arc<Grant>>,
    RawQuery(query): RawQuery,
) -> Answer {
    allowed(&grant, Scope::Accounts)?;
    let asked = Parameters::of_query(query.as_deref(), &["id"])?;
    let ids: Vec<String> = asked.all("id").map(str::to_owned).collect();
    if ids.is_empty() || ids.len() > ACCOUNTS_MAX {
        return Err(Problem::Wrong(format!("id: given {} times, expected 1 to {ACCOUNTS_MAX}", ids.len())));
    }
    for id in &ids {
        may_see(&grant, checked_id("id", id)?)?;
    }
    let accounts = api.reader.run(async |connection| reads::accounts(connection, &ids).await).await?;
    let missing: Vec<&String> =
        ids.iter().filter(|id| !accounts.iter().any(|account| account.account_id == **id)).collect();
    Ok(found(&json!({ "accounts": accounts, "not_found": missing }))?.into_response())
}

pub(super) async fn entries(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Arc<Grant>>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Answer {
    allowed(&grant, Scope::Accounts)?;
    let id = path_id(id)?;
    may_see(&grant, &id)?;
    let asked = Parameters::of_query(query.as_deref(), &["after_version", "limit"])?;
    let after = asked.number("after_version", 0..=i64::MAX)?.unwrap_or(0);
    let limit = asked.number("limit", 1..=ENTRIES_MAX)?.unwrap_or(ENTRIES_DEFAULT);
    let rows = api.reader.run(async |connection| reads::entries(connection, &id, after, limit).await).await?;
    let Some(rows) = rows else { return Err(Problem::NotFound("account")) };
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
    let next = rows.last().filter(|_| is_full).map(|last| last.account_version);
    Ok(found(&json!({ "entries": rows, "next_after_version": next }))?.into_response())
}

pub(super) async fn payment(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Arc<Grant>>,
    RawQuery(query): RawQuery,
) -> Answer {
    allowed(&grant, Scope::Payments)?;
    let asked = Parameters::of_query(query.as_deref(), &["source", "id"])?;
    let (source, id) = (asked.required_id("source")?, asked.required_id("id")?);
    let payment = api.reader.run(async |connection| reads::payment(connection, source, id).await).await?;
    let payment = payment.filter(|payment| grant.may_see(Some(&payment.account_id)));
    let Some(mut payment) = payment else { return Err(Problem::NotFound("payment")) };
    payment.entries.retain(|entry| grant.may_see(Some(&entry.account_id)));
    Ok(found(&payment)?.into_response())
}

pub(super) async fn event(
    State(api): State<Arc<Api>>,
    Extension(grant): Extension<Arc<Grant>>,
    RawQuery(query): RawQuery,
) -> Answer {
    allowed(&grant, Scope::Events)?;
    let asked = Parameters::of_query(query.as_deref(), &["source", "id"])?;
    let (source, id) = (asked.required_id("source")?, asked.required_id("id")?);
    let event = api.reader.run(async |connection| reads::event(connection, source, id).await).await?;
    let Some(mut event) = event else { return Err(Problem::NotFound("event")) };
    event.entries.retain(|entry| grant.may_see(Some(&entry.account_id)));
    event.cases.retain(|case| grant.may_see(case.account_id.as_deref()));
    if event.entries.is_empty() && event.cases.is_empty() {
        return Err(Problem::NotFound("event"));
    }
    Ok(found(&event)?.into_response())
}
