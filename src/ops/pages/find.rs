//! One field, any id: leads to the story of what goes by it.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use crate::{
    ops::{
        Pool,
        layout::{Frame, Place, empty, id, link, visible},
    },
    parameters::Parameters,
    store::find::{self, Found},
};

/// Things of each kind that are listed.
const FOUND_MAX: i64 = 20;

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = Parameters::of_page(query.as_deref(), &["id"]);
    let wanted = match asked.and_then(|asked| Ok(asked.id("id")?.unwrap_or_default().trim().to_owned())) {
        Ok(wanted) => wanted,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let wanted = wanted.as_str();
    if wanted.is_empty() {
        let hint = empty(
            "Search by id",
            "An event, payment, operation or account id, as the provider wrote it. Press / on any page to get here.",
        );
        return frame.page(&now, Place::Find, "Find", html! { h1 { "Find" } (field("")) (hint) });
    }
    let read = pool.reader.run(async |connection| find::find(connection, wanted, FOUND_MAX).await);
    let found = match read.await {
        Ok(found) => found,
        Err(cause) => return frame.unavailable(&now, Place::Find, &cause),
    };
    if found.len() == 1
        && let Some(only) = addresses(&found).into_iter().next()
    {
        return Redirect::to(&only).into_response();
    }
    let body = html! {
        h1 { "Find" }
        (field(wanted))
        @if found.is_empty() {
            (empty("No results", "Ids must match exactly, also in upper and lower case. A message that could not be read far enough has no id: look for it in quarantine, by reason malformed."))
        } @else {
            (list(wanted, &found))
        }
    };
    frame.page(&now, Place::Find, "Find", body)
}

fn field(wanted: &str) -> Markup {
    html! {
        form.filters method="get" action="/find" role="search" {
            label { "Id" input type="search" name="id" value=(wanted) maxlength="200" autocomplete="off" autofocus[wanted.is_empty()]; }
            button type="submit" { "Find" }
        }
    }
}

fn event(source: &str, event: &str) -> String {
    link("/event", &[("source", source), ("id", event)])
}

fn payment(source: &str, payment: &str) -> String {
    link("/payment", &[("source", source), ("id", payment)])
}

fn account(account: &str) -> String {
    link("/account", &[("id", account)])
}

fn addresses(found: &Found) -> Vec<String> {
    let events = found.events.iter().map(|(source, id)| event(source, id));
    let payments = found.payments.iter().map(|(source, id)| payment(source, id));
    events.chain(payments).chain(found.accounts.iter().map(|id| account(id))).collect()
}

fn list(wanted: &str, found: &Found) -> Markup {
    html! {
        section.card {
            h2 { "Results for " (visible(wanted)) }
            ul.found {
                @for (source, event_id) in &found.events {
                    li { "Event " a href=(event(source, event_id)) { (id(event_id)) } " of " (id(source)) }
                }
                @for (source, payment_id) in &found.payments {
                    li { "Payment " a href=(payment(source, payment_id)) { (id(payment_id)) } " of " (id(source)) }
                }
                @for account_id in &found.accounts {
                    li { "Account " a href=(account(account_id)) { (id(account_id)) } }
                }
            }
        }
    }
}
