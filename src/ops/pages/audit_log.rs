//! Who replayed or discarded what, when, and why?

use std::sync::Arc;

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use crate::{
    ops::{
        Pool,
        access::Action,
        layout::{Frame, Place, ago, empty, link, number, visible},
    },
    parameters::{Parameters, Wrong},
    reports::asked,
    store::{
        actions::{self, ActionRow, Verb},
        audit_log::{self, LineFilter},
    },
};

const PAGE_MAX: i64 = 50;

/// Which lines, and before which.
pub(in crate::ops) struct Asked {
    pub(in crate::ops) filter: LineFilter,
    pub(in crate::ops) before: i64,
}

impl Asked {
    pub(in crate::ops) const NAMES: [&str; 5] = ["who", "action", "from", "to", "before"];

    pub(in crate::ops) fn of(parameters: &Parameters) -> Result<Self, Wrong> {
        let names = || audit_log::action_names();
        let expected = names().collect::<Vec<_>>().join(", ");
        let day = |name| -> Result<Option<OffsetDateTime>, Wrong> {
            let text = parameters.single(name)?;
            let day = text.map(asked::day).transpose().map_err(|words| Wrong(format!("{name}: {words}")))?;
            Ok(day.map(|day| day.midnight().assume_utc()))
        };
        let (since, last) = (day("from")?, day("to")?);
        if since.zip(last).is_some_and(|(since, last)| last < since) {
            return Err(Wrong("to: comes before from".to_owned()));
        }
        let filter = LineFilter {
            who: parameters.id("who")?.map(|who| who.trim().to_owned()),
            action: parameters.choice("action", |text| names().find(|name| *name == text), &expected)?,
            since,
            until: last.map(|last| last + Duration::DAY),
        };
        Ok(Self { filter, before: parameters.number("before", 1..=i64::MAX)?.unwrap_or(i64::MAX) })
    }
}

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let read = Parameters::of_page(query.as_deref(), &Asked::NAMES);
    let asked = read.and_then(|parameters| Ok((Asked::of(&parameters)?, parameters)));
    let (Asked { filter, before }, parameters) = match asked {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::AuditLog, &wrong),
    };
    let read =
        pool.reader.run(async |connection| audit_log::list(connection, &filter, before, PAGE_MAX).await);
    let rows = match read.await {
        Ok(rows) => rows,
        Err(cause) => return frame.unavailable(&now, Place::AuditLog, &cause),
    };
    let given = |other: &[(&'static str, String)]| -> Vec<(String, String)> {
        let kept = parameters.pairs().iter().filter(|(name, _)| name != "before").cloned();
        kept.chain(other.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).collect()
    };
    let address = |path: &str, pairs: Vec<(String, String)>| {
        link(path, &pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>())
    };
    let body = html! {
        h1 { "Audit log" }
        p.lead { "Every replay, discard, reopening and assignment, from these pages, the API and the command line; every adjustment, and every account that was opened, closed or frozen; what was done to subscribers of the feed. A line is written before anything is touched." }
        (filters(&filter, &parameters))
        @if rows.is_empty() && filter == LineFilter::default() {
            (empty("Nobody has worked a case yet", "What operators do to cases is listed here."))
        } @else if rows.is_empty() { (empty("No matches", "Remove a filter.")) }
        @else {
            section.card { (table(&rows)) }
            nav.pages aria-label="Pages of the audit log" {
                @if before != i64::MAX { a href=(address("/audit-log", given(&[]))) { "« Newest" } }
                @if let Some(last) = rows.last().filter(|_| i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE_MAX)) {
                    a rel="next" href=(address("/audit-log", given(&[("before", last.id.to_string())]))) { "Older »" }
                }
                @for (form, name) in [("csv", "CSV"), ("ndjson", "NDJSON")].into_iter().filter(|_| frame.may(Action::Export)) {
                    a href=(address("/api/audit-log", given(&[("export", form.to_owned())]))) download { (name) }
                }
            }
        }
    };
    frame.page(&now, Place::AuditLog, "Audit log", body)
}

fn filters(filter: &LineFilter, asked: &Parameters) -> Markup {
    let value = |name| asked.single(name).ok().flatten();
    html! {
        form.filters method="get" action="/audit-log" {
            label { "Who" input name="who" value=[filter.who.as_deref()] maxlength="200" autocomplete="off"; }
            label { "Action"
                select name="action" {
                    option value="" { "any" }
                    @for name in audit_log::action_names() {
                        option value=(name) selected[filter.action == Some(name)] { (name) }
                    }
                }
            }
            label { "From (UTC)" input type="date" name="from" value=[value("from")]; }
            label { "to" input type="date" name="to" value=[value("to")]; }
            button type="submit" { "Filter" }
            @if *filter != LineFilter::default() { a href="/audit-log" { "Clear" } }
        }
    }
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
