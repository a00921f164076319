//! What people do over the operators' API: cases, corrections, proposals. A request with an `Idempotency-Key` is answered as the first of that
//! key was. What must not live here: how an act is carried out.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Numbered, Problem, answer, found, rows};
use crate::{
    ledger::{AccountId, Amount, Correction, Currency, Direction, EventId},
    operators::adjust::Requested,
    ops::{
        Pool,
        access::Visitor,
        actions::{self, Wanted},
        pages::case_filter::Asked,
    },
    parameters::{Parameters, Wrong},
    store::{
        self,
        actions::{ActionRow, Order, Verb, Via},
        acts::Adjusted,
        proposals::{self, Objection},
        quarantine::{self, Filter},
        requests::Start,
    },
};

/// The header that makes a request one (draft-ietf-httpapi-idempotency-key-header).
const KEY_HEADER: &str = "idempotency-key";

pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(KEY_HEADER) else { return Ok(None) };
    let wrong = |words: &str| Problem::Wrong(format!("Idempotency-Key: {words}"));
    let text = value.to_str().map_err(|_| wrong("expected visible ASCII"))?;
    actions::key(text.trim().trim_matches('"')).map_err(wrong)
}

/// Which cases, and why: ids, or parts of the filter that must all fit, or all there are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct Asking {
    #[serde(default)]
    ids: Vec<i64>,
    #[serde(default)]
    all: bool,
    why: String,
    reason: Option<String>,
    source: Option<String>,
    #[serde(default)]
    without_source: bool,
    account: Option<String>,
    from: Option<String>,
    to: Option<String>,
    amount: Option<String>,
    text: Option<String>,
    assignee: Option<String>,
    #[serde(default)]
    unassigned: bool,
}

impl Asking {
    /// The same parts as in the address of the list.
    fn filter(&self) -> Result<Asked, Wrong> {
        let yes = |is: bool| is.then(|| "yes".to_owned());
        let parts = [
            ("reason", self.reason.clone()),
            ("source", self.source.clone()),
            ("without_source", yes(self.without_source)),
            ("account", self.account.clone()),
            ("from", self.from.clone()),
            ("to", self.to.clone()),
            ("amount", self.amount.clone()),
            ("text", self.text.clone()),
            ("assignee", self.assignee.clone()),
            ("unassigned", yes(self.unassigned)),
        ];
        let given = parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Asked::of(&Parameters::of_members(given.collect()))
    }
}

pub(in crate::ops) async fn replay(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(asking): Json<Asking>,
) -> Answer {
    act(&pool, visitor, &headers, asking, Verb::Replay).await
}

pub(in crate::ops) async fn discard(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(asking): Json<Asking>,
) -> Answer {
    act(&pool, visitor, &headers, asking, Verb::Discard).await
}

pub(in crate::ops) async fn reopen(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(asking): Json<Asking>,
) -> Answer {
    act(&pool, visitor, &headers, asking, Verb::Reopen).await
}

/// Which case, to whom it belongs, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct Assigning {
    id: i64,
    account: String,
    why: String,
}

pub(in crate::ops) async fn assign(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(asking): Json<Assigning>,
) -> Answer {
    let why = actions::words(&asking.why).map_err(|words| Problem::Wrong(format!("why: {words}")))?;
    let account =
        AccountId::new(&asking.account).map_err(|error| Problem::Wrong(format!("account: {error}")))?;
    let states =
        pool.reader.run(async |connection| quarantine::states(connection, &[asking.id]).await).await?;
    if states.is_empty() {
        return Err(Problem::NotFound("case"));
    }
    let how = (why, key(&headers)?);
    begin(&pool, actions::assignment(visitor.name, Via::Api, how, asking.id, account)).await
}

async fn act(pool: &Arc<Pool>, visitor: Visitor, headers: &HeaderMap, asking: Asking, verb: Verb) -> Answer {
    let why = actions::words(&asking.why).map_err(|words| Problem::Wrong(format!("why: {words}")))?;
    let asked = asking.filter()?;
    if asking.all && !asking.ids.is_empty() {
        return Err(Problem::Wrong("ids, all: expected one of them, not both".to_owned()));
    }
    if asking.ids.is_empty() && !asked.names_some() && !asking.all {
        let words = "which cases? Name ids or a part of the list's filter, such as reason, source or amount, or say \"all\": true";
        return Err(Problem::Wrong(words.to_owned()));
    }
    let known = pool.reader.run(async |connection| quarantine::states(connection, &asking.ids).await).await?;
    if let Some(unknown) = asking.ids.iter().find(|id| !known.contains_key(id)) {
        let words = format!("there is no case {unknown}; nothing was done");
        return Err(Problem::Refused(StatusCode::NOT_FOUND, None, words));
    }
    let filter = Filter { ids: asking.ids, states: verb.states().to_vec(), ..asked.filter().clone() };
    let chosen = filter.to_string();
    let key = key(headers)?;
    let order = Order { who: visitor.name, via: Via::Api, verb, why, filter, chosen, assign_to: None, key };
    begin(pool, order).await
}

/// Answers with the line of the audit log, or with the proposal that it is.
async fn begin(pool: &Arc<Pool>, order: Order) -> Answer {
    match actions::start(pool, order).await? {
        Start::Begun(action) => line(pool, action).await,
        other @ (Start::Before(_)
        | Start::Proposed(_)
        | Start::Ended(_)
        | Start::OtherContent(_)
        | Start::Refused(_)) => begun(other),
    }
}

/// What is not carried out now.
pub(super) fn begun(start: Start) -> Answer {
    match start {
        Start::Begun(_) => Err(Problem::NotFound("line of the audit log")),
        Start::Before(row) => of_line(*row),
        Start::Proposed(row) => {
            let status = if row.state == "proposed" { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok((status, Json(json!({ "outcome": row.state, "proposal": row }))).into_response())
        }
        Start::Ended(row) => {
            let code = if row.state == "expired" { "expired" } else { "rejected" };
            Err(Problem::Refused(StatusCode::CONFLICT, Some(code), row.in_vain()))
        }
        Start::OtherContent(what) => {
            let words = format!("the idempotency key was used for something else: {what}");
            Err(Problem::Refused(StatusCode::UNPROCESSABLE_ENTITY, Some("key_reused"), words))
        }
        Start::Refused(words) => Err(Problem::Refused(StatusCode::CONFLICT, None, words)),
    }
}

pub(super) async fn line(pool: &Arc<Pool>, action: i64) -> Answer {
    let row = pool.reader.run(async |connection| store::actions::show(connection, action).await).await?;
    of_line(row.ok_or(Problem::NotFound("line of the audit log"))?)
}

fn of_line(row: ActionRow) -> Answer {
    let outcome = row.outcome();
    // Of an assignment that was not made.
    if let Some(refused) = outcome["refused"].as_str() {
        let (status, code) = match refused {
            "not_decoded" => (StatusCode::UNPROCESSABLE_ENTITY, "not_decoded"),
            "unknown_account" => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_account"),
            "is_receiver" => (StatusCode::UNPROCESSABLE_ENTITY, "is_receiver"),
            _ => (StatusCode::CONFLICT, "ended"),
        };
        return Err(Problem::Refused(status, Some(code), row.result.unwrap_or_default()));
    }
    // Not ended yet: the line of the audit log goes on telling.
    let status = if row.ended_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut value = serde_json::to_value(&row).map_err(|error| Problem::Wrong(error.to_string()))?;
    value["outcome"] = outcome;
    Ok((status, Json(value)).into_response())
}

/// What is to be posted, to which account, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct Adjusting {
    account: String,
    direction: String,
    amount: i64,
    currency: String,
    why: String,
    id: Option<String>,
}

pub(in crate::ops) async fn adjust(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(asking): Json<Adjusting>,
) -> Answer {
    let wrong = |member: &str, words: &str| Problem::Wrong(format!("{member}: {words}"));
    let why = actions::words(&asking.why).map_err(|words| wrong("why", words))?;
    let id = match asking.id {
        Some(id) => id,
        None => key(&headers)?.unwrap_or_else(actions::random_key),
    };
    let correction = Correction {
        id: EventId::new(&id).map_err(|error| wrong("id", &error.to_string()))?,
        account_id: AccountId::new(&asking.account).map_err(|error| wrong("account", &error.to_string()))?,
        direction: Direction::parse(&asking.direction)
            .ok_or_else(|| wrong("direction", "expected credit or debit"))?,
        amount: Some(asking.amount)
            .filter(|amount| *amount >= 1)
            .and_then(Amount::new)
            .ok_or_else(|| wrong("amount", "expected minor units: an integer from 1 to 9007199254740991"))?,
        currency: Currency::parse(&asking.currency)
            .ok_or_else(|| wrong("currency", "expected an ISO 4217 code in capitals, such as EUR"))?,
    };
    let (account, currency) = (asking.account, correction.currency);
    let wanted = Wanted { correction, who: visitor.name, via: Via::Api, why: Some(why) };
    match actions::adjust(&pool, wanted).await? {
        Requested::Proposed(start) => begun(start),
        Requested::Adjusted(adjusted @ Adjusted::Posted { .. }) => {
            let mut value = adjusted.outcome();
            value["id"] = json!(id);
            value["account_id"] = json!(account);
            value["currency"] = json!(currency.as_str());
            answer(&value)
        }
        Requested::Adjusted(adjusted @ Adjusted::OtherContent) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Err(Problem::Refused(status, Some("key_reused"), adjusted.to_string()))
        }
        Requested::Adjusted(Adjusted::Refused { reason, detail }) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Err(Problem::Refused(status, Some(reason.as_str()), format!("nothing was posted: {detail}")))
        }
    }
}

pub(in crate::ops) async fn proposals(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let asked = Parameters::of_query(query.as_deref(), &["all", "before", "limit"])?;
    let all = asked.choice("all", |all| all.parse().ok(), "true, false")?.unwrap_or(false);
    let limit = rows(&asked)?;
    let before = asked.number("before", 1..=i64::MAX)?.unwrap_or(i64::MAX);
    let rows =
        pool.reader.run(async |connection| proposals::list(connection, all, before, limit).await).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
    let next = rows.last().filter(|_| is_full).map(|last| last.id);
    answer(&json!({ "proposals": rows, "next_before": next }))
}

pub(in crate::ops) async fn proposal(State(pool): State<Arc<Pool>>, Numbered(id): Numbered) -> Answer {
    let row = pool.reader.run(async |connection| proposals::show(connection, id).await).await?;
    found(row, "proposal")
}

pub(in crate::ops) async fn approve(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    Numbered(id): Numbered,
) -> Answer {
    if let Some(objection) = actions::approve(&pool, id, visitor.name, Via::Api).await? {
        return Err(objected(&objection));
    }
    let row = pool.reader.run(async |connection| proposals::show(connection, id).await).await?;
    match row.and_then(|row| row.action_id) {
        Some(action) => line(&pool, action).await,
        // Still at work.
        None => Ok((StatusCode::ACCEPTED, Json(json!({ "outcome": "at work" }))).into_response()),
    }
}

/// Why it is rejected.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct Rejecting {
    why: String,
}

pub(in crate::ops) async fn reject(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    Numbered(id): Numbered,
    Json(asking): Json<Rejecting>,
) -> Answer {
    let why = actions::words(&asking.why).map_err(|words| Problem::Wrong(format!("why: {words}")))?;
    if let Some(objection) = actions::reject(&pool, id, &visitor.name, &why).await? {
        return Err(objected(&objection));
    }
    proposal(State(pool), Numbered(id)).await
}

fn objected(objection: &Objection) -> Problem {
    let (status, code) = match objection {
        Objection::NotThere => (StatusCode::NOT_FOUND, "not_found"),
        Objection::Own => (StatusCode::FORBIDDEN, "own_proposal"),
        Objection::Expired => (StatusCode::CONFLICT, "expired"),
        Objection::Rejected(_) => (StatusCode::CONFLICT, "rejected"),
        Objection::Approved(..) => (StatusCode::CONFLICT, "approved"),
        Objection::Changed { .. } => (StatusCode::CONFLICT, "changed"),
        Objection::Forbidden(reason, _) => (StatusCode::UNPROCESSABLE_ENTITY, reason.as_str()),
        Objection::Impossible(_) => (StatusCode::CONFLICT, "impossible"),
    };
    Problem::Refused(status, Some(code), objection.to_string())
}
