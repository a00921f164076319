//! Who replayed or discarded what, when, and why?

use std::sync::Arc;

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use maud::{Markup, html};

use crate::{
    ops::{
        Pool,
        layout::{Frame, Place, ago, empty, number, visible},
    },
    parameters::Parameters,
    store::actions::{self, ActionRow, Verb},
};

const PAGE_MAX: i64 = 50;

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = Parameters::of_page(query.as_deref(), &["before"]);
    let before = match asked.and_then(|asked| asked.number("before", 1..=i64::MAX)) {
        Ok(before) => before.unwrap_or(i64::MAX),
        Err(wrong) => return frame.wrong(&now, Place::AuditLog, &wrong),
    };
    let read = pool.reader.run(async |connection| actions::list(connection, before, PAGE_MAX).await);
    let rows = match read.await {
        Ok(rows) => rows,
        Err(cause) => return frame.unavailable(&now, Place::AuditLog, &cause),
    };
    let body = html! {
        h1 { "Audit log" }
        p.lead { "Every replay, discard, reopening and assignment, from these pages, the API and the command line; every adjustment, and every account that was opened, closed or frozen; what was done to subscribers of the feed. A line is written before anything is touched." }
        @if rows.is_empty() { (empty("Nobody has worked a case yet", "What operators do to cases is listed here.")) }
        @else {
            section.card { (table(&rows)) }
            nav.pages aria-label="Pages of the audit log" {
                @if before != i64::MAX { a href="/audit-log" { "« Newest" } }
                @if let Some(last) = rows.last().filter(|_| i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE_MAX)) {
                    a rel="next" href={ "/audit-log?before=" (last.id) } { "Older »" }
                }
            }
        }
    };
    frame.page(&now, Place::AuditLog, "Audit log", body)
}

/// One action: what it asked for, and how far it is.
pub(in crate::ops) async fn one(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Path(action): Path<String>,
) -> Response {
    let now = pool.watch.now();
    let found = match action.parse::<i64>() {
        Ok(action) => pool.reader.run(async |connection| actions::show(connection, action).await).await,
        Err(_) => Ok(None),
    };
    let row = match found {
        Ok(Some(row)) => row,
        Ok(None) => return frame.not_found(&now, Place::AuditLog, "There is no such line of the audit log."),
        Err(cause) => return frame.unavailable(&now, Place::AuditLog, &cause),
    };
    let body = html! {
        p.path { a href="/audit-log" { "Audit log" } " / " (row.id) }
        h1 { (title(&row)) }
        section.card data-reload=[row.ended_at.is_none().then_some("1000")] data-state=(if row.ended_at.is_some() { "up" } else { "at work" }) {
            dl.facts {
                dt { "Result" } dd { strong { (result(&row)) } }
                dt { "Cases processed" } dd { (number(row.cases)) }
                dt { "Selection" } dd { (visible(&row.chosen)) }
                dt { "Why" } dd { (visible(&row.why)) }
                dt { "Who" } dd { (visible(&row.who)) " " span.faint { "by " (row.via) } }
                @if let Some(by) = &row.proposed_by { dt { "Proposed by" } dd { (visible(by)) } }
                dt { "Began" } dd { (ago(row.began_at)) }
                @if let Some(at) = row.ended_at { dt { "Ended" } dd { (ago(at)) } }
            }
        }
        p { a href="/quarantine" { "Back to the cases" } }
    };
    frame.page(&now, Place::AuditLog, &title(&row), body)
}

fn title(row: &ActionRow) -> String {
    let name = match Verb::parse(&row.action) {
        Some(Verb::Replay) => "Replay",
        Some(Verb::Discard) => "Discard",
        Some(Verb::Reopen) => "Reopen",
        Some(Verb::Assign) => "Assignment",
        None => row.action.as_str(),
    };
    format!("{name} {}", row.id)
}

fn result(row: &ActionRow) -> String {
    match (&row.result, row.ended_at) {
        (Some(result), _) => visible(result),
        (None, _) => "at work, or cut short".to_owned(),
    }
}

pub(super) fn table(rows: &[ActionRow]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Audit log" {
            table {
                thead { tr { th { "" } th { "When" } th { "Who" } th { "Action" } th { "Selection" } th { "Why" } th.n { "Cases" } th { "Result" } } }
                tbody {
                    @for row in rows {
                        tr {
                            td { a href={ "/audit-log/" (row.id) } { (row.id) } }
                            td { (ago(row.began_at)) }
                            td {
                                (visible(&row.who)) br; span.faint { (row.via) }
                                @if let Some(by) = &row.proposed_by { br; span.faint { "proposed by " (visible(by)) } }
                            }
                            td { (row.action) }
                            td.detail { (visible(&row.chosen)) }
                            td.detail { (visible(&row.why)) }
                            td.n { (number(row.cases)) }
                            td.detail { (result(row)) }
                        }
                    }
                }
            }
        }
    }
}
