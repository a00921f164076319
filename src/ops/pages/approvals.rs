//! What waits for a second person: who asks for what and why, and the buttons of the one who decides.

use std::sync::Arc;

use axum::{
    extract::{Form, Path, RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use crate::{
    answers::money,
    ops::{
        Pool,
        access::Action,
        actions,
        layout::{Frame, Place, ago, empty, id, link, number, state, visible},
    },
    parameters::{Parameters, Wrong},
    store::{
        actions::Via,
        proposals::{self, Arguments, ProposalRow},
    },
};

/// Proposals of a page.
const PAGE_MAX: i64 = 50;
/// Cases of a proposal that are named one by one.
const CASES_NAMED_MAX: usize = 50;

/// Whether all are asked for, and before which one.
fn asked(query: Option<&str>) -> Result<(bool, i64), Wrong> {
    let asked = Parameters::of_page(query, &["all", "before"])?;
    let all = asked.choice("all", |all| (all == "yes").then_some(true), "yes")?.unwrap_or(false);
    Ok((all, asked.number("before", 1..=i64::MAX)?.unwrap_or(i64::MAX)))
}

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let (all, before) = match asked(query.as_deref()) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Approvals, &wrong),
    };
    let read = pool.reader.run(async |connection| proposals::list(connection, all, before, PAGE_MAX).await);
    let rows = match read.await {
        Ok(rows) => rows,
        Err(cause) => return frame.unavailable(&now, Place::Approvals, &cause),
    };
    let tab = |words: &str, address: &str, is_here: bool| {
        html! { a href=(address) aria-current=[is_here.then_some("page")] { (words) } }
    };
    let body = html! {
        h1 { "Approvals" }
        p.lead { "What one person asks for and another one decides on. Nothing of it is done before." }
        nav.tabs aria-label="State" {
            (tab("waiting", "/approvals", !all))
            (tab("all", "/approvals?all=yes", all))
        }
        @if rows.is_empty() { (empty("Nothing waits for a second person", "The setting approvals says which acts need one.")) }
        @else {
            (table(&rows))
            nav.pages aria-label="Pages of proposals" {
                @if let Some(last) = rows.last().filter(|_| i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE_MAX)) {
                    @let before = last.id.to_string();
                    a rel="next" href=(link("/approvals", &[("all", if all { "yes" } else { "" }), ("before", &before)])) { "Older »" }
                }
            }
        }
    };
    frame.page(&now, Place::Approvals, "Approvals", body)
}

fn table(rows: &[ProposalRow]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Proposals" {
            table {
                thead { tr { th { "" } th { "State" } th { "When" } th { "Who" } th { "What" } th { "Which" } th { "Why" } } }
                tbody {
                    @for row in rows {
                        tr {
                            td { a href={ "/approvals/" (row.id) } { (row.id) } }
                            td { (state(&row.state)) }
                            td { (ago(row.proposed_at)) }
                            td { (visible(&row.proposed_by)) }
                            td { (row.action) }
                            td.detail { (visible(&row.chosen)) }
                            td.detail { (visible(&row.why)) }
                        }
                    }
                }
            }
        }
    }
}

/// One proposal.
pub(in crate::ops) async fn one(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Path(proposal): Path<String>,
) -> Response {
    let now = pool.watch.now();
    let found = match proposal.parse::<i64>() {
        Ok(id) => pool.reader.run(async |connection| proposals::show(connection, id).await).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(row)) => {
            let title = format!("Proposal {}", row.id);
            frame.page(&now, Place::Approvals, &title, body(&frame, &row))
        }
        Ok(None) => frame.not_found(&now, Place::Approvals, "There is no such proposal."),
        Err(cause) => frame.unavailable(&now, Place::Approvals, &cause),
    }
}

fn body(frame: &Frame, row: &ProposalRow) -> Markup {
    let me = frame.visitor.as_ref().map(|visitor| visitor.name.as_str()).unwrap_or_default();
    html! {
        p.path { a href="/approvals" { "Approvals" } " / " (row.id) }
        h1 { "Proposal " (row.id) ": " (row.action) " " (state(&row.state)) }
        section.card {
            dl.facts {
                (what(row))
                dt { "Why" } dd { (visible(&row.why)) }
                dt { "Proposed" } dd { (ago(row.proposed_at)) " by " (visible(&row.proposed_by)) " " span.faint { "by " (row.via) } }
                dt { "Until" } dd { (ago_or_ahead(row)) }
                @if let (Some(at), Some(by)) = (row.decided_at, &row.decided_by) {
                    dt { "Decided" } dd { (ago(at)) " by " (visible(by)) @if let Some(why) = &row.decided_why { ": " (visible(why)) } }
                }
                @if let Some(action) = row.action_id { dt { "Carried out" } dd { a href={ "/audit-log/" (action) } { "line " (action) " of the audit log" } } }
            }
        }
        @if matches!(row.state.as_str(), "proposed" | "expired") {
            @if !frame.may(Action::Decide) { (frame.may_not(Action::Decide)) }
            @else {
                @if row.state == "proposed" {
                    @if me == row.proposed_by { p.note { "You proposed this: another person has to approve it." } }
                    @else {
                        form method="post" action={ "/approvals/" (row.id) "/approve" } {
                            (frame.csrf())
                            fieldset.act { legend.unseen { "Approve" } button type="submit" { "Approve, and do it" } }
                        }
                    }
                }
                form method="post" action={ "/approvals/" (row.id) "/reject" } {
                    (frame.csrf())
                    fieldset.act {
                        legend.unseen { "Reject" }
                        label.why { "Why not" input name="why" required maxlength="1000" placeholder="kept with the proposal"; }
                        button.danger type="submit" { "Reject" }
                    }
                }
            }
        }
    }
}

fn ago_or_ahead(row: &ProposalRow) -> Markup {
    if row.state == "expired" { ago(row.expires_at) } else { crate::ops::layout::instant(row.expires_at) }
}

/// The detail, with money as people write it.
fn what(row: &ProposalRow) -> Markup {
    match row.arguments() {
        Ok(Arguments::Adjust { id: event_id, account, direction, amount, currency }) => {
            let sign = if direction == "debit" { "-" } else { "+" };
            html! {
                dt { "Account" } dd { a href=(link("/account", &[("id", &account)])) { (id(&account)) } }
                dt { "Amount" } dd { strong { (sign) (visible(&money(amount, &currency))) } }
                dt { "Id" } dd { (id(&event_id)) }
            }
        }
        Ok(Arguments::Cases { cases, sums, account, .. }) => html! {
            dt { "Cases" } dd { strong { (visible(&sums)) } }
            dt { "Chosen as" } dd { (visible(&row.chosen)) }
            @if let Some(account) = &account { dt { "To account" } dd { a href=(link("/account", &[("id", account)])) { (id(account)) } } }
            dt { "Selection" } dd {
                @for case in cases.iter().take(CASES_NAMED_MAX) { a href={ "/quarantine/" (case) } { (case) } " " }
                @if cases.len() > CASES_NAMED_MAX { "… " (number(i64::try_from(cases.len()).unwrap_or(i64::MAX))) " in all" }
            }
        },
        // Of another version of this program.
        Err(_) => html! { dt { "Selection" } dd { (visible(&row.chosen)) } },
    }
}

pub(in crate::ops) async fn approve(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Path(proposal): Path<i64>,
) -> Response {
    let who = frame.visitor.as_ref().map(|visitor| visitor.name.clone()).unwrap_or_default();
    let decided = actions::approve(&pool, proposal, who, Via::Web).await;
    after(&pool, &frame, proposal, decided)
}

#[derive(Deserialize)]
pub(in crate::ops) struct Rejection {
    #[serde(default)]
    why: String,
}

pub(in crate::ops) async fn reject(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Path(proposal): Path<i64>,
    Form(rejection): Form<Rejection>,
) -> Response {
    let who = frame.visitor.as_ref().map(|visitor| visitor.name.clone()).unwrap_or_default();
    let back = format!("/approvals/{proposal}");
    let why = match actions::words(&rejection.why) {
        Ok(why) => why,
        Err(words) => {
            let back = (back.as_str(), "Back to the proposal");
            return frame.refusal(&pool.watch.now(), Place::Approvals, words, back);
        }
    };
    let decided = actions::reject(&pool, proposal, &who, &why).await;
    after(&pool, &frame, proposal, decided)
}

fn after(
    pool: &Pool,
    frame: &Frame,
    proposal: i64,
    decided: Result<Option<proposals::Objection>, crate::store::StoreError>,
) -> Response {
    let now = pool.watch.now();
    let back = format!("/approvals/{proposal}");
    match decided {
        Ok(None) => Redirect::to(&back).into_response(),
        Ok(Some(objection)) => {
            let words = objection.to_string();
            frame.refusal(&now, Place::Approvals, &words, (&back, "Back to the proposal"))
        }
        Err(cause) => frame.unavailable(&now, Place::Approvals, &cause),
    }
}
