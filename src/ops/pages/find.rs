//! One field, any id or reference or its beginning: leads to the story of what goes by it.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::amounts::{self, Typed};
use crate::{
    ops::{
        Pool,
        api::find::wanted as by_amount,
        layout::{Frame, Place, empty, id, link, visible},
    },
    parameters::Parameters,
    store::find::{self, Found, Hit, Kind},
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
    let asked = match asked.and_then(|asked| Ok((by_amount(&asked)?, asked))) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let only = |name| asked.1.all(name).next().unwrap_or_default();
    if let Some(wanted) = asked.0 {
        let typed = Typed { amount: only("amount"), from: only("from"), to: only("to") };
        return amounts::page(&pool, &frame, wanted, &typed, fields("", &typed)).await;
    }
    let wanted = match asked.1.id("id") {
        Ok(wanted) => wanted.unwrap_or_default().trim(),
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let field = |wanted: &str| fields(wanted, &Typed::default());
    if wanted.is_empty() {
        let hint = empty(
            "Search by id or reference",
            "An event, payment, operation or account id as the provider wrote it, a reference such as your order number (reference_fields), or the beginning of one. Press / on any page to get here.",
        );
        return frame.page(&now, Place::Find, "Find", html! { h1 { "Find" } (field("")) (hint) });
    }
    let read = pool.reader.run(async |connection| find::find(connection, wanted, FOUND_MAX).await);
    let found = match read.await {
        Ok(found) => found,
        Err(cause) => return frame.unavailable(&now, Place::Find, &cause),
    };
    if let Some(only) = found.only() {
        return Redirect::to(&address(only)).into_response();
    }
    let body = html! {
        h1 { "Find" }
        (field(wanted))
        @if found.hits.is_empty() {
            (empty("No results", "No id and no reference begins so; upper and lower case differ. A message that could not be read far enough has no id: look for it in quarantine, by reason malformed."))
        } @else {
            (list(wanted, &found))
        }
    };
    frame.page(&now, Place::Find, "Find", body)
}

fn fields(wanted: &str, typed: &Typed<'_>) -> Markup {
    html! {
        form.filters method="get" action="/find" role="search" {
            label { "Id" input type="search" name="id" value=(wanted) maxlength="200" autocomplete="off" autofocus[wanted.is_empty()]; }
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
    html! {
        section.card {
            h2 { "What begins with " (visible(wanted)) }
            ul.found {
                @for hit in &found.hits {
                    li {
                        @match hit.kind { Kind::Event => "Event ", Kind::Payment => "Payment ", Kind::Account => "Account " }
                        a href=(address(hit)) { (id(&hit.id)) }
                        @if let Some(source) = &hit.source { " of " (id(source)) }
                        @if let Some(reference) = &hit.reference { ", " (visible(&reference.name)) " " strong { (id(&reference.value)) } }
                        @else if hit.is_exact { " " span.faint { "(exactly this id)" } }
                    }
                }
            }
            @if found.has_more {
                p.note { "There are more than these. Give more of the id." }
            }
        }
    }
}
