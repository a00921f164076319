//! What `/api/v1/openapi.json` says: OpenAPI 3.1 of the operators' API. `tests/it/ops_api.rs` compares its paths with the router, its parameters and the
//! members of its bodies with what each path takes, and its answers with real ones. What must not live here: what a request does.

use axum::Json;
use serde_json::{Map, Value, json};

use super::{ROWS_DEFAULT, ROWS_MAX};
use crate::{
    ledger::{CaseState, Reason},
    ops::{
        history::RANGES,
        pages::case_filter::{FILTER, PART_COUNT, joined},
    },
};

/// What an answer is.
enum Shape {
    /// An object with at least these members.
    Object(&'static [&'static str]),
    /// A list of objects.
    List,
}

/// A request that only shows.
struct Read {
    path: &'static str,
    summary: &'static str,
    /// Those with a `!` have to be given.
    parameters: &'static [&'static str],
    shape: Shape,
    /// Whether what is asked for may not be there.
    may_be_missing: bool,
}

/// A request that changes something.
struct Act {
    path: &'static str,
    summary: &'static str,
    /// Members of the body; those with a `!` have to be given.
    members: &'static [&'static str],
}

const fn read(
    path: &'static str,
    summary: &'static str,
    parameters: &'static [&'static str],
    shape: Shape,
) -> Read {
    Read { path, summary, parameters, shape, may_be_missing: false }
}

const fn one(
    path: &'static str,
    summary: &'static str,
    parameters: &'static [&'static str],
    members: &'static [&'static str],
) -> Read {
    Read { path, summary, parameters, shape: Shape::Object(members), may_be_missing: true }
}

const CASE: &[&str] = &["id", "state", "reason", "detail", "attempts", "first_seen_at", "body"];
const LINE: &[&str] = &["id", "who", "via", "action", "why", "began_at", "ended_at"];
const PROPOSAL: &[&str] = &["id", "state", "action", "why", "proposed_by", "proposed_at", "expires_at"];

/// What a list of cases takes.
pub(in crate::ops) static CASE_LIST: [&str; PART_COUNT + 3] = joined(FILTER, ["before", "limit", "export"]);

static READS: [Read; 20] = [
    read(
        "/overview",
        "Totals, rates, cases, backlog, latency, servers, workers and the last audit.",
        &[],
        Shape::Object(&[
            "at",
            "stale_for_s",
            "audit",
            "received",
            "applied",
            "per_second",
            "cases",
            "backlog",
            "servers",
            "workers",
        ]),
    ),
    read("/workers", "Every worker of the last day.", &[], Shape::List),
    read(
        "/providers",
        "Each provider, whether it still sends, and what of it could not be mapped.",
        &[],
        Shape::Object(&["providers", "ingresses", "refused_window_s"]),
    ),
    read(
        "/history",
        "Outcomes per second over a time.",
        &["range", "source"],
        Shape::Object(&["t", "series"]),
    ),
    read(
        "/duplicates",
        "What was rejected, by source and layer, and which keys come again and again.",
        &["range"],
        Shape::Object(&["range", "mismatches", "sources", "repeated_keys"]),
    ),
    read(
        "/quarantine",
        "Cases, newest first. Page on with before = next_before until that is null.",
        &CASE_LIST,
        Shape::Object(&["cases", "next_before"]),
    ),
    read(
        "/quarantine/groups",
        "Cases by state, reason and source, with number, age and money.",
        &FILTER,
        Shape::Object(&["groups", "has_more", "other_cases"]),
    ),
    one("/quarantine/{id}", "One case, with its masked body.", &[], CASE),
    read(
        "/approvals",
        "Proposals that wait for a second person, or all.",
        &["all", "before", "limit"],
        Shape::Object(&["proposals", "next_before"]),
    ),
    one("/approvals/{id}", "One proposal.", &[], PROPOSAL),
    read(
        "/debts",
        "The sum of debts of each currency, and the largest debts of one.",
        &["currency", "after_debt", "after_account", "limit"],
        Shape::Object(&["sums", "debts"]),
    ),
    read(
        "/report",
        "A period closed: month, or from and to.",
        &["month", "from", "to", "time_zone", "by", "at", "csv"],
        Shape::Object(&["movements", "balances", "clearing", "preliminary"]),
    ),
    read(
        "/audit-log",
        "Lines of the audit log, newest first.",
        &["who", "action", "from", "to", "before", "limit", "export"],
        Shape::Object(&["lines", "next_before"]),
    ),
    one("/audit-log/{id}", "One line of the audit log.", &[], LINE),
    read(
        "/find",
        "Events, payments and accounts by id, its beginning or a reference; or by amount, ledger rows and cases of a time.",
        &["id", "amount", "from", "to", "limit"],
        Shape::Object(&["has_more"]),
    ),
    one(
        "/event",
        "Where a callback ended.",
        &["source!", "id!"],
        &["source", "event_id", "applied", "quarantined", "acts", "duplicates"],
    ),
    one(
        "/payment",
        "A payment and its story.",
        &["source!", "id!"],
        &["source", "payment_id", "state", "entries"],
    ),
    one(
        "/account",
        "An account and its last entries.",
        &["id!"],
        &["account_id", "currency", "balance", "held", "version"],
    ),
    one(
        "/account/statement",
        "An account over days: month, or from and to.",
        &["id!", "month", "from", "to", "time_zone", "after_version", "limit", "csv"],
        &["opening", "closing", "entries", "entries_total", "next_after_version"],
    ),
    read("/openapi.json", "This description.", &[], Shape::Object(&["openapi", "info", "paths"])),
];

/// Which cases: ids, all, or parts of the list's filter.
const CASES: &[&str] = &[
    "ids",
    "all",
    "why!",
    "reason",
    "source",
    "without_source",
    "account",
    "from",
    "to",
    "amount",
    "text",
    "assignee",
    "unassigned",
];

const ACTS: [Act; 10] = [
    Act { path: "/quarantine/replay", summary: "Decides open and waiting cases again.", members: CASES },
    Act {
        path: "/quarantine/discard",
        summary: "Ends open and waiting cases without applying them.",
        members: CASES,
    },
    Act { path: "/quarantine/reopen", summary: "Takes the discard of cases back.", members: CASES },
    Act {
        path: "/quarantine/assign",
        summary: "Hands a case to another account, and decides it.",
        members: &["id!", "account!", "why!"],
    },
    Act {
        path: "/quarantine/take",
        summary: "Gives cases an assignee: whoever asks, or another.",
        members: &["ids!", "assignee", "why"],
    },
    Act {
        path: "/quarantine/hand-back",
        summary: "Takes the assignee of cases away.",
        members: &["ids!", "why"],
    },
    Act { path: "/quarantine/note", summary: "Notes something about cases.", members: &["ids!", "text!"] },
    Act {
        path: "/adjust",
        summary: "Posts a correction to an account, once for its id.",
        members: &["account!", "direction!", "amount!", "currency!", "why!", "id"],
    },
    Act {
        path: "/approvals/{id}/approve",
        summary: "Approves what another person proposed, and does it.",
        members: &[],
    },
    Act { path: "/approvals/{id}/reject", summary: "Ends a proposal.", members: &["why!"] },
];

pub(in crate::ops) async fn document() -> Json<Value> {
    let mut paths = Map::new();
    for of in &READS {
        paths.insert(of.path.to_owned(), json!({ "get": get(of) }));
    }
    for of in &ACTS {
        paths.insert(of.path.to_owned(), json!({ "post": post(of) }));
    }
    Json(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "payonce ops", "version": env!("CARGO_PKG_VERSION"),
            "description": "What operators see and do. Amounts are whole minor units; NAME_decimal has the same as text. Times are RFC 3339. \
                            Which role may ask for what: docs/dashboard.md.",
        },
        "servers": [{ "url": "/api/v1" }],
        "security": [{ "bearer": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": "payonce_session" },
            },
            "schemas": { "Error": error() },
        },
    }))
}

fn get(of: &Read) -> Value {
    let schema = match of.shape {
        Shape::Object(members) => json!({ "type": "object", "required": members }),
        Shape::List => json!({ "type": "array", "items": { "type": "object" } }),
    };
    let mut content = json!({ "application/json": { "schema": schema } });
    let is_file = |name: &str| of.parameters.contains(&name);
    if is_file("export") || is_file("csv") {
        content["text/csv"] = json!({ "schema": { "type": "string" } });
    }
    if is_file("export") {
        content["application/x-ndjson"] = json!({ "schema": { "type": "string" } });
    }
    let mut responses = refusals(&[400, 401, 403, 429, 503]);
    responses["200"] = json!({ "description": "Found.", "content": content });
    if is_file("export") || is_file("csv") {
        responses["422"] = refusal("More rows than an answer may have.");
    }
    if of.may_be_missing {
        responses["404"] = refusal("There is none.");
    }
    let mut parameters: Vec<Value> = path_parameter(of.path).into_iter().collect();
    parameters.extend(of.parameters.iter().map(|name| query(name)));
    json!({ "operationId": operation_id(of.path), "summary": of.summary, "parameters": parameters, "responses": responses })
}

fn post(of: &Act) -> Value {
    let mut responses = refusals(&[400, 401, 403, 404, 409, 413, 415, 422, 429, 503]);
    let done = json!({ "application/json": { "schema": { "type": "object" } } });
    responses["200"] =
        json!({ "description": "Done: the line of the audit log, or what was posted.", "content": done });
    responses["202"] =
        json!({ "description": "It is at work, or waits for a second person: a proposal.", "content": done });
    let mut parameters: Vec<Value> = path_parameter(of.path).into_iter().collect();
    let key = json!({
        "name": "Idempotency-Key", "in": "header", "required": false, "schema": { "type": "string", "maxLength": 200 },
        "description": "A request with the key of another one is answered as that was.",
    });
    let takes_key = of.path.starts_with("/quarantine") || of.path == "/adjust";
    parameters.extend(takes_key.then_some(key));
    let mut operation = json!({
        "operationId": operation_id(of.path), "summary": of.summary, "parameters": parameters, "responses": responses,
    });
    if !of.members.is_empty() {
        let required: Vec<&str> = of.members.iter().filter_map(|name| name.strip_suffix('!')).collect();
        let properties: Map<String, Value> = of
            .members
            .iter()
            .map(|name| name.trim_end_matches('!'))
            .map(|name| {
                let is_filter = of.members == CASES && FILTER.contains(&name);
                (name.to_owned(), if is_filter { filter_member(name) } else { member(name) })
            })
            .collect();
        let schema = json!({
            "type": "object", "required": required, "properties": properties, "additionalProperties": false,
        });
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

/// `quarantine_groups` of `/quarantine/groups`.
fn operation_id(path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

fn path_parameter(path: &str) -> Option<Value> {
    let number = json!({ "type": "integer", "format": "int64", "minimum": 1 });
    path.contains("{id}").then(|| json!({ "name": "id", "in": "path", "required": true, "schema": number }))
}

fn query(name: &str) -> Value {
    let (name, required) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
    let whole = |minimum: i64| json!({ "type": "integer", "format": "int64", "minimum": minimum });
    let words = |words: Vec<&str>| json!({ "enum": words });
    let schema = match name {
        "range" => words(RANGES.iter().map(|range| range.name).collect()),
        "state" => words(CaseState::ALL.iter().map(|state| state.as_str()).chain(["all"]).collect()),
        "reason" => words(Reason::ALL.iter().map(|reason| reason.as_str()).collect()),
        "without_source" | "unassigned" => words(vec!["yes"]),
        "all" => words(vec!["true", "false"]),
        "export" => words(vec!["csv", "ndjson"]),
        "by" => words(vec!["recorded", "occurred"]),
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": ROWS_MAX, "default": ROWS_DEFAULT }),
        "before" | "after_debt" => whole(1),
        "after_version" => whole(0),
        "month" => json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$" }),
        "from" | "to" => {
            json!({ "type": "string", "description": "A day, such as 2026-10-31; of a search by amount and of cases a time, too." })
        }
        "at" => json!({ "type": "string", "format": "date-time" }),
        "currency" => json!({ "type": "string", "pattern": "^[A-Z]{3}$" }),
        "source" | "account" | "after_account" | "id" | "text" => id(),
        "amount" => {
            json!({ "type": "string", "description": "An amount with its currency, such as 634.83 EUR." })
        }
        _ => json!({ "type": "string" }),
    };
    json!({ "name": name, "in": "query", "required": required, "schema": schema })
}

/// A part of the filter, as in the address of the list; but what is `yes` there is `true` here.
fn filter_member(name: &str) -> Value {
    match name {
        "without_source" | "unassigned" => json!({ "type": "boolean" }),
        _ => query(name)["schema"].take(),
    }
}

fn member(name: &str) -> Value {
    match name {
        "ids" => json!({ "type": "array", "items": { "type": "integer", "format": "int64" } }),
        "all" => json!({ "type": "boolean" }),
        "amount" => {
            json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": 9_007_199_254_740_991_i64 })
        }
        "direction" => json!({ "enum": ["credit", "debit"] }),
        "why" | "text" => json!({ "type": "string", "minLength": 1, "maxLength": 1_000 }),
        "currency" => json!({ "type": "string", "pattern": "^[A-Z]{3}$" }),
        _ => json!({}),
    }
}

/// Any text that a callback's id could be (contract §2). A schema counts characters; bytes it can only tell in words.
fn id() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": 200,
        "description": "1 to 200 bytes of UTF-8 without control characters.",
    })
}

fn refusals(statuses: &[u16]) -> Value {
    let said = |status: u16| match status {
        400 => "A parameter or the body cannot be used; the message says which.",
        401 => "Nobody who is known.",
        403 => "The roles of who asks do not allow it.",
        404 => "There is none.",
        409 => "It has ended, or changed.",
        413 => "The body is too large.",
        415 => "The body is not application/json.",
        422 => "The body cannot be used, or a rule forbids it: code says which.",
        429 => "Too many wrong tokens from this address; Retry-After says for how long.",
        _ => "PostgreSQL does not answer.",
    };
    let refusals: Map<String, Value> =
        statuses.iter().map(|status| (status.to_string(), refusal(said(*status)))).collect();
    Value::Object(refusals)
}

fn refusal(description: &str) -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Error" });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn error() -> Value {
    json!({ "type": "object", "required": ["error"], "properties": { "error": {
        "type": "object", "required": ["code", "message"], "additionalProperties": false,
        "properties": { "code": { "type": "string" }, "message": { "type": "string" } },
    } } })
}
