//! What `/v1/openapi.json` says: OpenAPI 3.1. A test has answers to generated requests checked against it (`tests/it/api.rs`).

use serde_json::{Value, json};

/// The description of the api.
pub(super) fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "payonce api", "version": env!("CARGO_PKG_VERSION"),
            "description": "Balances, entries, payments and events, read only. Amounts are whole minor units; NAME_decimal has the same as text."
        },
        "security": [{ "bearer": [] }],
        "paths": {
            "/v1/accounts/{id}": { "get": operation(
                "account", "An account's balance, now or as of a time. ETag is its version.",
                &[path_id(), query("at", false, json!({ "type": "string", "format": "date-time" }), "After the last row that was recorded by then."),
                  if_none_match()],
                &reference("Balance"), true, true,
            ) },
            "/v1/accounts": { "get": operation(
                "accounts", "Several accounts at once, in the order of their ids.",
                &[query("id", true, json!({ "type": "array", "items": id(), "minItems": 1, "maxItems": 100 }), "Given once for each account.")],
                &json!({ "type": "object", "required": ["accounts", "not_found"], "properties": {
                    "accounts": { "type": "array", "items": reference("Balance") },
                    "not_found": { "type": "array", "items": { "type": "string" } },
                } }), false, false,
            ) },
            "/v1/accounts/{id}/entries": { "get": operation(
                "entries", "An account's ledger rows, oldest first. Page on with after_version = next_after_version until that is null.",
                &[path_id(),
                  query("after_version", false, json!({ "type": "integer", "format": "int64", "minimum": 0 }), "Only rows that follow this version."),
                  query("limit", false, json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }), "Rows of a page.")],
                &json!({ "type": "object", "required": ["entries", "next_after_version"], "properties": {
                    "entries": { "type": "array", "items": reference("Entry") },
                    "next_after_version": { "type": ["integer", "null"], "format": "int64" },
                } }), true, false,
            ) },
            "/v1/payments": { "get": operation(
                "payment", "A payment's state and sums, with its first 100 ledger rows.", &source_and_id(),
                &json!({ "type": "object", "required": ["source", "payment_id", "account_id", "currency", "state", "authorized", "captured", "refunded", "entries"],
                    "properties": {
                        "state": { "type": "string" }, "authorized": money(), "captured": money(), "refunded": money(),
                        "entries": { "type": "array", "items": reference("Entry") },
                    } }), true, false,
            ) },
            "/v1/events": { "get": operation(
                "event", "Where a callback ended: in ledger rows, or in cases.", &source_and_id(),
                &json!({ "type": "object", "required": ["source", "event_id", "entries", "cases"], "properties": {
                    "entries": { "type": "array", "items": reference("Entry") },
                    "cases": { "type": "array", "items": { "type": "object", "required": ["account_id", "reason", "state", "first_seen_at"] } },
                } }), true, false,
            ) },
        },
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Balance": balance(), "Entry": entry(), "Error": error() },
        },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn money() -> Value {
    json!({ "type": "integer", "format": "int64" })
}

fn decimal() -> Value {
    json!({ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?$" })
}

/// Any text that a callback's id could be (contract §2). A schema counts characters; bytes it can only tell in words.
fn id() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        "description": "1 to 200 bytes of UTF-8 without control characters; a longer one is refused with 400.",
    })
}

fn path_id() -> Value {
    json!({ "name": "id", "in": "path", "required": true, "schema": id(), "description": "The account: CloudEvents subject." })
}

fn query(name: &str, required: bool, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "query", "required": required, "schema": schema, "description": description })
}

fn if_none_match() -> Value {
    json!({ "name": "If-None-Match", "in": "header", "required": false, "schema": { "type": "string" },
            "description": "The version that the asker has: 304 where it is still that." })
}

fn source_and_id() -> [Value; 2] {
    [
        query("source", true, id(), "The provider: CloudEvents source."),
        query("id", true, id(), "The provider's id."),
    ]
}

fn operation(
    id: &str,
    summary: &str,
    parameters: &[Value],
    schema: &Value,
    may_be_missing: bool,
    has_version: bool,
) -> Value {
    let mut responses = json!({
        "200": { "description": "Found.", "content": { "application/json": { "schema": schema } } },
        "400": refusal("A parameter cannot be used; the message says which."),
        "401": refusal("No token, or one that is not known."),
        "403": refusal("The token lacks the scope, or may not see that account."),
        "503": refusal("The database does not answer."),
    });
    if may_be_missing {
        responses["404"] = refusal("Not found.");
    }
    if has_version {
        responses["200"]["headers"] = json!({ "ETag": { "schema": { "type": "string" }, "description": "The account's version, quoted." } });
        responses["304"] = json!({ "description": "It is still the version of If-None-Match." });
    }
    json!({ "operationId": id, "summary": summary, "parameters": parameters, "responses": responses })
}

fn refusal(description: &str) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": reference("Error") } } })
}

fn error() -> Value {
    json!({ "type": "object", "required": ["error"], "properties": { "error": {
        "type": "object", "required": ["code", "message"], "additionalProperties": false,
        "properties": {
            "code": { "enum": ["bad_request", "unauthorized", "forbidden", "not_found", "method_not_allowed", "unavailable"] },
            "message": { "type": "string" },
        },
    } } })
}

fn balance() -> Value {
    json!({
        "type": "object", "additionalProperties": true,
        "required": ["account_id", "currency", "balance", "balance_decimal", "held", "held_decimal", "available", "available_decimal",
                     "debt", "debt_decimal", "version"],
        "properties": {
            "account_id": { "type": "string" }, "currency": { "type": "string", "pattern": "^[A-Z]{3}$" },
            "balance": money(), "balance_decimal": decimal(), "held": money(), "held_decimal": decimal(),
            "available": money(), "available_decimal": decimal(), "debt": money(), "debt_decimal": decimal(),
            "version": { "type": "integer", "format": "int64", "minimum": 0 },
        },
    })
}

fn entry() -> Value {
    json!({
        "type": "object", "additionalProperties": true,
        "required": ["source", "event_id", "leg", "type", "account_id", "account_version", "payment_id", "operation_id", "amount",
                     "amount_decimal", "currency", "balance_delta", "held_delta", "balance_after", "held_after", "occurred_at",
                     "recorded_at"],
        "properties": {
            "source": { "type": "string" }, "event_id": { "type": "string" }, "type": { "type": "string" },
            "leg": { "type": "integer", "minimum": 0, "maximum": 1, "description": "1: the receiving side of a transfer." },
            "account_id": { "type": "string" }, "account_version": { "type": "integer", "format": "int64", "minimum": 1 },
            "payment_id": { "type": ["string", "null"] }, "operation_id": { "type": ["string", "null"] },
            "amount": money(), "amount_decimal": decimal(), "currency": { "type": "string" },
            "balance_delta": money(), "held_delta": money(), "balance_after": money(), "held_after": money(),
            "occurred_at": { "type": ["string", "null"], "format": "date-time" },
            "recorded_at": { "type": "string", "format": "date-time" },
        },
    })
}
