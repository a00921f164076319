//! What happened to one event, payment or account, in order.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use maud::{Markup, html};
use time::OffsetDateTime;

use super::statement;
use crate::{
    answers::{decimal_of, money},
    ops::{
        Pool,
        layout::{Frame, Place, ago, empty, id, instant, link, number, state, visible},
    },
    parameters::{Parameters, Wrong},
    store::{
        audit_log::CaseAct,
        payment_story::{self, PaymentStory},
        report::{self, AccountStory, CaseRow, EventStory, LedgerRow},
    },
};

/// Entries of a page.
const ENTRIES_MAX: i64 = 50;

/// Whose story.
struct Asked {
    source: String,
    id: String,
}

impl Asked {
    fn of(query: Option<&str>) -> Result<Self, Wrong> {
        let asked = Parameters::of_page(query, &["source", "id"])?;
        Ok(Self { source: asked.required_id("source")?.to_owned(), id: asked.required_id("id")?.to_owned() })
    }

    /// Of an account, and before which of its entries.
    fn of_account(query: Option<&str>) -> Result<(String, i64), Wrong> {
        let asked = Parameters::of_page(query, &["id", "before"])?;
        let before = asked.number("before", 1..=i64::MAX)?.unwrap_or(i64::MAX);
        Ok((asked.required_id("id")?.to_owned(), before))
    }
}

/// Something that happened.
struct Moment {
    at: OffsetDateTime,
    state: &'static str,
    what: Markup,
}

pub(in crate::ops) async fn event(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = match Asked::of(query.as_deref()) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let read =
        pool.reader.run(async |connection| report::event(connection, &asked.source, &asked.id).await).await;
    match read {
        Ok(Some(story)) => frame.page(&now, Place::Find, "Event", event_body(&story)),
        Ok(None) => frame.not_found(&now, Place::Find, "No callback of this source and id was ever settled."),
        Err(cause) => frame.unavailable(&now, Place::Find, &cause),
    }
}

pub(in crate::ops) async fn payment(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = match Asked::of(query.as_deref()) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let read = pool
        .reader
        .run(async |connection| payment_story::show(connection, &asked.source, &asked.id).await)
        .await;
    match read {
        Ok(Some(story)) => frame.page(&now, Place::Find, "Payment", payment_body(&story)),
        Ok(None) => frame.not_found(
            &now,
            Place::Find,
            "No callback about this payment of this source was ever settled.",
        ),
        Err(cause) => frame.unavailable(&now, Place::Find, &cause),
    }
}

pub(in crate::ops) async fn account(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let (id, before) = match Asked::of_account(query.as_deref()) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let read = pool.reader.run(async |connection| {
        Ok((
            report::account(connection, &id, before, ENTRIES_MAX).await?,
            report::cases_of_account(connection, &id, ENTRIES_MAX).await?,
        ))
    });
    match read.await {
        Ok((None, cases)) if cases.is_empty() => frame.not_found(
            &now,
            Place::Find,
            "No deposit has opened this account, and no callback named it.",
        ),
        Ok((story, cases)) => {
            frame.page(&now, Place::Find, "Account", account_body(&id, story.as_ref(), &cases))
        }
        Err(cause) => frame.unavailable(&now, Place::Find, &cause),
    }
}

fn timeline(mut moments: Vec<Moment>) -> Markup {
    moments.sort_by_key(|moment| moment.at);
    html! {
        ol.timeline {
            @for moment in moments {
                li data-state=(moment.state) { p.when { (instant(moment.at)) } div { (moment.what) } }
            }
        }
    }
}

fn event_body(story: &EventStory) -> Markup {
    let mut moments = Vec::new();
    if let Some(row) = &story.applied {
        if let Some(at) = row.occurred_at {
            moments.push(Moment { at, state: "quiet", what: html! { "Occurred (provider time)" } });
        }
        moments.push(applied(row));
    }
    for case in &story.quarantined {
        // Each act of a person has its own line; what is left was ended by another callback, or by the clock.
        let is_of_a_person = story.acts.iter().any(|of| of.case_id == case.id);
        moments.extend(case_moments(case).into_iter().take(if is_of_a_person { 1 } else { 2 }));
    }
    moments.extend(story.acts.iter().map(act));
    for copies in &story.duplicates {
        let what = html! {
            strong { (number(copies.copies)) @if copies.copies == 1 { " duplicate" } @else { " duplicates" } " rejected" }
            " by layer " (visible(&copies.layer))
            @if copies.copies > 1 { ", the last " (ago(copies.last_seen_at)) }
        };
        moments.push(Moment { at: copies.first_seen_at, state: "duplicate", what });
    }
    html! {
        p.path { a href="/find" { "Find" } " / event" }
        h1 { "Event " (id(&story.event_id)) }
        p.lead { "of " (id(&story.source)) }
        @if !story.references.is_empty() {
            dl.facts {
                @for (name, values) in &story.references {
                    dt { (visible(name)) }
                    dd { @for value in values { a href=(link("/find", &[("id", value)])) { (id(value)) } " " } }
                }
            }
        }
        section.card { h2 { "Timeline" } (timeline(moments)) }
    }
}

fn applied(row: &LedgerRow) -> Moment {
    let what = html! {
        strong { "Applied" } ": " (visible(&row.kind)) " of " (visible(&money(row.amount, &row.currency)))
        " to account " a href=(link("/account", &[("id", &row.account_id)])) { (id(&row.account_id)) }
        @if let Some(payment) = &row.payment_id {
            ", payment " a href=(link("/payment", &[("source", &row.source), ("id", payment)])) { (id(payment)) }
        }
        br; span.faint { "version " (row.account_version) ", balance " (change(row.balance_delta, row)) " = " (decimal_of(row.balance_after, &row.currency)) ", held " (change(row.held_delta, row)) " = " (decimal_of(row.held_after, &row.currency)) }
    };
    Moment { at: row.recorded_at, state: "up", what }
}

/// With its sign, in the currency of its row.
fn change(amount: i64, row: &LedgerRow) -> String {
    let text = decimal_of(amount, &row.currency);
    match text.strip_prefix('-') {
        Some(digits) => format!("\u{2212}{digits}"),
        None if amount > 0 => format!("+{text}"),
        None => text,
    }
}

fn case_moments(case: &CaseRow) -> Vec<Moment> {
    let what = html! {
        strong { "Quarantined" } " as " a href={ "/quarantine/" (case.id) } { "case " (case.id) } ", " (case.reason) ": " (visible(&case.detail))
        @if case.attempts > 1 { br; span.faint { "delivered " (number(case.attempts)) " times, last " (ago(case.last_seen_at)) } }
    };
    let mut moments = vec![Moment { at: case.first_seen_at, state: "down", what }];
    if let Some(at) = case.resolved_at {
        let what = html! {
            strong { "Case " (case.id) " " (case.state) } " by " (visible(case.resolved_by.as_deref().unwrap_or("–"))) ": "
            (visible(case.resolved_why.as_deref().unwrap_or("–")))
        };
        moments.push(Moment { at, state: "quiet", what });
    }
    moments
}

fn act(of: &CaseAct) -> Moment {
    let CaseAct { case_id, act } = of;
    let what = html! {
        strong { "Case " (case_id) ": " (act.action) } " by " (visible(&act.who)) ": " (visible(&act.why))
        br; span.faint {
            a href={ "/audit-log/" (act.id) } { "audit log " (act.id) } ": "
            (visible(act.result.as_deref().unwrap_or("at work, or cut short")))
        }
    };
    Moment { at: act.began_at, state: "quiet", what }
}

fn payment_body(story: &PaymentStory) -> Markup {
    let moments: Vec<Moment> = story
        .entries
        .iter()
        .rev()
        .map(entry)
        .chain(story.quarantined.iter().flat_map(case_moments))
        .collect();
    html! {
        p.path { a href="/find" { "Find" } " / payment" }
        h1 { "Payment " (id(&story.payment_id)) }
        p.lead { "of " (id(&story.source)) }
        section.card {
            h2 { "Status" }
            dl.facts {
                // Of a fee alone there are rows and no state.
                @if story.state.is_some() || story.entries.is_empty() {
                    dt { "State" } dd { (state(story.state.as_deref().unwrap_or("nothing applied yet"))) }
                }
                @if let Some(account) = &story.account_id { dt { "Account" } dd { a href=(link("/account", &[("id", account)])) { (id(account)) } } }
                @if let Some(currency) = &story.currency {
                    @for (name, amount) in story.sums() { dt { (name) } dd { (money(amount, currency)) } }
                }
            }
        }
        section.card { h2 { "Timeline" } (timeline(moments)) }
    }
}

/// A ledger row among others of its payment.
fn entry(row: &LedgerRow) -> Moment {
    let mut moment = applied(row);
    let event = link("/event", &[("source", &row.source), ("id", &row.event_id)]);
    moment.what = html! { (moment.what) br; span.faint { "event " a href=(event) { (id(&row.event_id)) } } };
    moment
}

fn account_body(account_id: &str, story: Option<&AccountStory>, cases: &[CaseRow]) -> Markup {
    html! {
        p.path { a href="/find" { "Find" } " / account" }
        h1 { "Account " (id(account_id)) }
        @if let Some(story) = story {
            p { a href=(link("/adjust", &[("account", account_id), ("currency", &story.currency)])) { "Adjust it" } }
        }
        @match story {
            Some(story) => {
                div.tiles {
                    (sum("Balance", story.balance, &story.currency))
                    (sum("Held", story.held, &story.currency))
                    (sum("Available", story.available, &story.currency))
                    @if story.debt > 0 {
                        section.tile { h2 { "Owes" } p.big { (money(story.debt, &story.currency)) } p.total { a href=(link("/debts", &[("currency", &story.currency)])) { "all debts" } } }
                    }
                    section.tile { h2 { "Version" } p.big { (number(story.version)) } p.total { "number of ledger entries" } }
                }
                section.card { h2 { "Statement by dates" } (statement::form(account_id, None)) }
                section.card { h2 { "Ledger, newest first" } (entries(account_id, story)) }
            }
            None => (empty("Not open", "No deposit has opened this account yet.")),
        }
        @if !cases.is_empty() {
            section.card {
                h2 { "Related cases" }
                ul.found {
                    @for case in cases {
                        li { a href={ "/quarantine/" (case.id) } { "Case " (case.id) } " " (state(&case.state)) " " (case.reason) ": " (visible(&case.detail)) " " span.faint { (instant(case.first_seen_at)) } }
                    }
                }
            }
        }
    }
}

fn sum(title: &str, amount: i64, currency: &str) -> Markup {
    html! {
        section.tile { h2 { (title) } p.big { (decimal_of(amount, currency)) } p.total { (visible(currency)) } }
    }
}

fn entries(account_id: &str, story: &AccountStory) -> Markup {
    html! {
        @if story.entries.is_empty() { (empty("No entry here", "There is none before this one.")) }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Ledger entries" {
                table {
                    thead { tr { th.n { "Version" } th { "Recorded" } th { "Type" } th { "Event" } th { "Payment" } th.n { "Balance" } th.n { "after" } th.n { "Held" } th.n { "after" } } }
                    tbody {
                        @for row in &story.entries {
                            tr {
                                td.n { (number(row.account_version)) }
                                td { (instant(row.recorded_at)) }
                                td { (visible(&row.kind)) }
                                td { a href=(link("/event", &[("source", &row.source), ("id", &row.event_id)])) { (id(&row.event_id)) } }
                                td {
                                    @if let Some(payment) = &row.payment_id { a href=(link("/payment", &[("source", &row.source), ("id", payment)])) { (id(payment)) } }
                                    @else { span.faint { "–" } }
                                }
                                td.n { (change(row.balance_delta, row)) } td.n { (decimal_of(row.balance_after, &row.currency)) }
                                td.n { (change(row.held_delta, row)) } td.n { (decimal_of(row.held_after, &row.currency)) }
                            }
                        }
                    }
                }
            }
            @if let Some(last) = story.entries.last().filter(|row| row.account_version > 1) {
                @let before = last.account_version.to_string();
                nav.pages aria-label="Pages of the ledger" { a rel="next" href=(link("/account", &[("id", account_id), ("before", &before)])) { "Older »" } }
            }
        }
    }
}
