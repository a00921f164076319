//! Payments that are looked for by their amount and when they came, on the page Find. What must not live here: how they are looked for.

use axum::response::Response;
use maud::{Markup, html};

use crate::{
    answers::money,
    ops::{
        Pool,
        layout::{Frame, Place, empty, id, id_or_dash, instant, link, number, state, visible},
    },
    store::{
        amounts::{self, ROWS_READ_MAX, Sightings, Wanted},
        report::{CaseRow, LedgerRow},
    },
};

/// Entries and cases that are listed, of each.
const LISTED_MAX: i64 = 50;

/// What a form holds: amount, from, to.
#[derive(Debug, Clone, Default)]
pub(super) struct Typed<'a> {
    pub(super) amount: &'a str,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
}

/// The form.
pub(super) fn field(typed: &Typed<'_>) -> Markup {
    html! {
        form.filters method="get" action="/find" role="search" {
            label { "Amount" input name="amount" value=(typed.amount) maxlength="60" placeholder="634.83 EUR" autocomplete="off" required; }
            label { "From (UTC)" input name="from" value=(typed.from) maxlength="40" placeholder="2026-11-25"; }
            label { "To (UTC)" input name="to" value=(typed.to) maxlength="40" placeholder="2026-11-25T14:00:00Z"; }
            button type="submit" { "Find by amount" }
        }
    }
}

/// What has this amount.
pub(super) async fn page(
    pool: &Pool,
    frame: &Frame,
    wanted: Wanted,
    typed: &Typed<'_>,
    fields: Markup,
) -> Response {
    let now = pool.watch.now();
    let read = pool.reader.run(async |connection| amounts::find(connection, wanted, LISTED_MAX).await);
    let found = match read.await {
        Ok(found) => found,
        Err(cause) => return frame.unavailable(&now, Place::Find, &cause),
    };
    let body = html! {
        h1 { "Find" }
        (fields)
        p.lead {
            "Callbacks of exactly " strong { (visible(&money(wanted.amount, wanted.currency.as_str()))) } ", recorded from "
            (instant(found.since)) " to " (instant(found.until)) " UTC."
        }
        (cut_short(&found, typed))
        @if found.entries.is_empty() && found.cases.is_empty() {
            (empty("No results", "Nothing of this amount was recorded in this time. A message that could not be read has no amount: look for it in quarantine."))
        } @else {
            (list(&found))
        }
        @if found.has_more { p.note { "There are more than these. Give a shorter time." } }
    };
    frame.page(&now, Place::Find, "Find", body)
}

/// More was recorded in this time than is read at once: how far it was read, and the way on.
fn cut_short(found: &Sightings, typed: &Typed<'_>) -> Markup {
    html! {
        @if let Some(read_until) = found.read_until {
            @let next = read_until.replace_nanosecond(0).unwrap_or(read_until);
            @let from = next.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
            p.problem role="status" {
                "More than " (number(ROWS_READ_MAX)) " callbacks were recorded in this time. Those up to " (instant(read_until))
                " were looked at. Give a shorter time, or "
                a href=(link("/find", &[("amount", typed.amount), ("from", &from), ("to", typed.to)])) { "go on from there" } "."
            }
        }
    }
}

fn list(found: &Sightings) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="What has this amount" {
            table {
                thead { tr { th { "Recorded (UTC)" } th { "Where" } th { "Type" } th { "Account" } th { "Payment" } th { "Event" } th { "Source" } } }
                tbody {
                    @for row in &found.entries { (entry(row)) }
                    @for row in &found.cases { (case(row)) }
                }
            }
        }
    }
}

fn account(account: &str) -> Markup {
    html! { a href=(link("/account", &[("id", account)])) { (id(account)) } }
}

fn entry(row: &LedgerRow) -> Markup {
    html! {
        tr {
            td { (instant(row.recorded_at)) }
            td { "ledger" }
            td { (visible(&row.kind)) }
            td { (account(&row.account_id)) }
            td { @match &row.payment_id {
                Some(payment) => a href=(link("/payment", &[("source", &row.source), ("id", payment)])) { (id(payment)) },
                None => (id_or_dash(None)),
            } }
            td { a href=(link("/event", &[("source", &row.source), ("id", &row.event_id)])) { (id(&row.event_id)) } }
            td { (id(&row.source)) }
        }
    }
}

fn case(row: &CaseRow) -> Markup {
    html! {
        tr {
            td { (instant(row.first_seen_at)) }
            td { a href={ "/quarantine/" (row.id) } { "case " (row.id) } " " (state(&row.state)) " " (row.reason) }
            td { (visible(row.kind.as_deref().unwrap_or("–"))) }
            td { @match &row.account_id { Some(of) => (account(of)), None => (id_or_dash(None)) } }
            td { (id_or_dash(row.payment_id.as_deref())) }
            td { (id_or_dash(row.event_id.as_deref())) }
            td { (id_or_dash(row.source.as_deref())) }
        }
    }
}
