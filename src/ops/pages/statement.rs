//! What did one account have at the beginning of some days, what moved, and what did it have at their end?

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use maud::{Markup, html};

use super::reports::{days_fields, not_there, table};
use crate::{
    answers::money,
    ops::{
        Pool,
        access::Action,
        finance,
        layout::{Frame, Place, id, link, number, visible},
    },
    parameters::{Parameters, Wrong},
    reports::{
        asked::{self, Days},
        statement_table,
    },
    store::statement::{Standing, Statement},
};

/// The parameters of a statement.
pub(in crate::ops) const NAMES: [&str; 5] = {
    let [month, from, to, time_zone] = Days::NAMES;
    ["id", month, from, to, time_zone]
};

/// Ledger rows that the page shows. The CSV has all.
const SHOWN_MAX: i64 = 500;

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let read = Parameters::of_page(query.as_deref(), &NAMES).and_then(|parameters| {
        let days = Days::of(&parameters)?.ok_or_else(|| Wrong(asked::MISSING.to_owned()))?;
        Ok((parameters.required_id("id")?.to_owned(), days, parameters))
    });
    let (account, days, parameters) = match read {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let body = match finance::statement(&pool, &account, &days, 0, SHOWN_MAX).await {
        Ok(Some(statement)) => body(&frame, &statement, &days, &parameters),
        Ok(None) => return frame.not_found(&now, Place::Find, "No deposit has opened this account."),
        Err(not_made) => return not_there(&frame, &now, Place::Find, not_made),
    };
    frame.page(&now, Place::Find, "Account statement", body)
}

/// Asks for the statement of an account.
pub(super) fn form(account: &str, asked: Option<&Parameters>) -> Markup {
    let value = |name| asked.and_then(|asked| asked.single(name).ok().flatten());
    html! {
        form.filters method="get" action="/account/statement" {
            input type="hidden" name="id" value=(account);
            (days_fields(value("month"), value("from"), value("to"), value("time_zone")))
            button type="submit" { "Statement" }
        }
    }
}

fn body(frame: &Frame, statement: &Statement, days: &Days, asked: &Parameters) -> Markup {
    let account = statement.account_id.as_str();
    let mut csv: Vec<(&str, &str)> =
        asked.pairs().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    csv.push(("csv", "yes"));
    let shown = i64::try_from(statement.entries.len()).unwrap_or(i64::MAX);
    html! {
        p.path { a href="/find" { "Find" } " / " a href=(link("/account", &[("id", account)])) { "account" } " / statement" }
        h1 { "Statement of " (id(account)) }
        (form(account, Some(asked)))
        p.lead {
            strong { (days.in_words()) } " (" (visible(&days.time_zone)) "), booked by recorded_at: a row counts on the day on which payonce wrote it, not on the provider's."
        }
        @if statement.preliminary {
            p.stale { "Preliminary: the period was not over then, or only just, and may get more rows." }
        }
        div.tiles {
            (standing("Opening balance", statement.opening, &statement.currency))
            section.tile { h2 { "Movements" } p.big { (number(statement.entries_total)) } p.total { "ledger rows" } }
            (standing("Closing balance", statement.closing, &statement.currency))
        }
        section.card {
            div.head {
                h2 { "Ledger rows, oldest first" }
                @if frame.may(Action::Export) { a href=(link("/api/account/statement", &csv)) download { "CSV" } }
            }
            (table(&statement_table(statement), "Statement", usize::MAX))
            @if shown < statement.entries_total {
                p.note { "The first " (number(shown)) " of " (number(statement.entries_total)) " ledger rows; the CSV has all." }
            }
        }
    }
}

fn standing(title: &str, had: Standing, currency: &str) -> Markup {
    html! {
        section.tile {
            h2 { (title) }
            p.big { (visible(&money(had.balance, currency))) }
            p.total { "held " (visible(&money(had.held, currency))) ", available " (visible(&money(had.available, currency))) }
        }
    }
}
