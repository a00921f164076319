//! One field, any id or reference or its beginning: leads to the story of what goes by it.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::amounts::{self, Typed};
use crate::{
    answers::money,
    ops::{
        Pool,
        api::find::{Search, wanted as search},
        layout::{Frame, Place, empty, id, id_or_dash, instant, link, state, visible},
    },
    parameters::Parameters,
    store::{
        find::{self, Found, Hit, Kind},
        quarantine,
    },
};

/// Things of each kind that are listed.
const FOUND_MAX: i64 = 20;

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = Parameters::of_page(query.as_deref(), &["id", "amount", "from", "to"]);
    let asked = match asked.and_then(|asked| Ok((search(&asked)?, asked))) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let only = |name| asked.1.all(name).next().unwrap_or_default();
    let typed = Typed { amount: only("amount"), from: only("from"), to: only("to") };
    let within = match asked.0 {
        Search::Amount(wanted) => {
            return amounts::page(&pool, &frame, wanted, &typed, fields("", &typed)).await;
        }
        Search::Text(within) => within,
    };
    let wanted = match asked.1.id("id") {
        Ok(wanted) => wanted.unwrap_or_default().trim(),
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let field = |wanted: &str| fields(wanted, &typed);
    if wanted.is_empty() {
        let hint = empty(
            "Search by id or reference",
            "An event, payment, operation or account id as the provider wrote it, a reference such as your order number (reference_fields), or the beginning of one; or the number of a case. Press / on any page to get here.",
        );
        return frame.page(&now, Place::Find, "Find", html! { h1 { "Find" } (field("")) (hint) });
    }
    let read = pool.reader.run(async |connection| {
        let found = find::find(connection, wanted, within, FOUND_MAX).await?;
        let number = case_number(wanted).filter(|_| found.only().is_none());
        let case = match number {
            Some(number) if quarantine::states(connection, &[number]).await?.is_empty() => None,
            other => other,
        };
        Ok((found, case))
    });
    let (found, case) = match read.await {
        Ok(read) => read,
        Err(cause) => return frame.unavailable(&now, Place::Find, &cause),
    };
    if let Some(case) = case.filter(|_| found.hits.is_empty()) {
        return Redirect::to(&format!("/quarantine/{case}")).into_response();
    }
    if let Some(only) = found.only() {
        return Redirect::to(&address(only)).into_response();
    }
    let body = html! {
        h1 { "Find" }
        (field(wanted))
        @if let Some(case) = case { p { a href={ "/quarantine/" (case) } { "Case " (case) } } }
        @if found.hits.is_empty() {
            @if within.is_always() {
                (empty("No results", "No id and no reference begins so; upper and lower case differ. For an amount there is a field of its own. A message that could not be read far enough has no id: look for it in quarantine, by reason malformed."))
            } @else {
                (empty("No results", "No event with just this reference was recorded in this time. By other ids it is not looked for by time: leave From and To empty."))
            }
        } @else {
            (list(wanted, &found))
        }
    };
    frame.page(&now, Place::Find, "Find", body)
}

/// Of a text such as `17`, `#17` or `case 17`.
fn case_number(text: &str) -> Option<i64> {
    let number = text.strip_prefix("case").unwrap_or(text).trim_start();
    let number = number.strip_prefix('#').unwrap_or(number);
    number.parse().ok().filter(|number| *number > 0 && !text.starts_with('+'))
}

fn fields(wanted: &str, typed: &Typed<'_>) -> Markup {
    html! {
        form.filters method="get" action="/find" role="search" {
            label { "Id or reference" input type="search" name="id" value=(wanted) maxlength="200" autocomplete="off" autofocus[wanted.is_empty()]; }
            @let (from, to) = if typed.amount.is_empty() { (typed.from, typed.to) } else { ("", "") };
            label { "Of a reference, from (UTC)" input name="from" value=(from) maxlength="40" placeholder="2026-11-25"; }
            label { "to (UTC)" input name="to" value=(to) maxlength="40" placeholder="2026-11-25"; }
            button type="submit" { "Find" }
        }
        (amounts::field(typed))
    }
}

fn address(hit: &Hit) -> String {
    let path = match hit.kind {
        Kind::Event => "/event",
        Kind::Payment => "/payment",
        Kind::Account => "/account",
    };
    link(path, &[("source", hit.source.as_deref().unwrap_or_default()), ("id", &hit.id)])
}

fn list(wanted: &str, found: &Found) -> Markup {
    let (events, others): (Vec<&Hit>, Vec<&Hit>) = found.hits.iter().partition(|hit| hit.kind == Kind::Event);
    html! {
        section.card {
            h2 { "What begins with " (visible(wanted)) }
            @if !others.is_empty() {
                ul.found {
                    @for hit in others {
                        li {
                            @if hit.kind == Kind::Payment { "Payment " } @else { "Account " }
                            a href=(address(hit)) { (id(&hit.id)) }
                            @if let Some(source) = &hit.source { " of " (id(source)) }
                            @if hit.is_exact { " " span.faint { "(exactly this id)" } }
                        }
                    }
                }
            }
            @if !events.is_empty() {
                div.scroll tabindex="0" role="region" aria-label="Events" {
                    table {
                        thead { tr { th { "Event" } th { "Recorded (UTC)" } th { "Type" } th.n { "Amount" } th { "State" } th { "Account" } th { "Source" } th { "Found by" } } }
                        tbody { @for hit in events { (event(hit)) } }
                    }
                }
            }
            @if found.has_more {
                p.note { "There are more than these. Give more of the id, or, of a reference, a time." }
            }
        }
    }
}

fn event(hit: &Hit) -> Markup {
    let facts = hit.facts.as_ref();
    let account = facts.and_then(|facts| facts.account_id.as_deref());
    let amount = facts.and_then(|facts| Some(money(facts.amount?, facts.currency.as_deref()?)));
    html! {
        tr {
            td { a href=(address(hit)) { (id(&hit.id)) } }
            td { @match facts { Some(facts) => (instant(facts.recorded_at)), None => "–" } }
            td { (visible(facts.and_then(|facts| facts.kind.as_deref()).unwrap_or("–"))) }
            td.n { (visible(amount.as_deref().unwrap_or("–"))) }
            td { @match facts { Some(facts) => (state(&facts.state)), None => "–" } }
            td { @match account { Some(of) => a href=(link("/account", &[("id", of)])) { (id(of)) }, None => (id_or_dash(None)) } }
            td { (id_or_dash(hit.source.as_deref())) }
            td {
                @match &hit.reference {
                    Some(reference) => { (visible(&reference.name)) " " strong { (id(&reference.value)) } },
                    None => { @if hit.is_exact { "exactly this id" } @else { "its id" } },
                }
            }
        }
    }
}
