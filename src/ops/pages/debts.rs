//! Which accounts owe money, and how much in each currency?

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    response::Response,
};
use maud::{Markup, html};
use serde::Deserialize;

use crate::{
    answers::money,
    ops::{
        Pool,
        layout::{Frame, Place, ago, empty, id, link, number, visible},
    },
    store::debts::{self, Debt, DebtSum},
};

/// Accounts of a page.
const PAGE_MAX: i64 = 50;

/// Which currency, and after which account: the last one of the page before, with what it owes.
#[derive(Deserialize)]
pub(in crate::ops) struct Asked {
    currency: Option<String>,
    after_debt: Option<String>,
    after_account: Option<String>,
}

impl Asked {
    fn after(&self) -> Option<(i64, &str)> {
        Some((self.after_debt.as_deref()?.parse().ok()?, self.after_account.as_deref()?))
    }
}

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Query(asked): Query<Asked>,
) -> Response {
    let now = pool.watch.now();
    let read = pool.reader.run(async |connection| {
        let sums = debts::sums(connection).await?;
        let named = asked.currency.clone().filter(|currency| !currency.is_empty());
        let currency = named.or_else(|| sums.first().map(|sum| sum.currency.clone())).unwrap_or_default();
        let list = debts::list(connection, &currency, asked.after(), PAGE_MAX).await?;
        Ok((sums, currency, list))
    });
    let (sums, currency, list) = match read.await {
        Ok(read) => read,
        Err(cause) => return frame.unavailable(&now, Place::Debts, &cause),
    };
    let body = html! {
        h1 { "Debts" }
        p.lead { "Accounts whose available money is below zero: a refund, dispute, fee or adjustment took more than there was. The next money that comes pays it off." }
        @if sums.is_empty() { (empty("No account owes anything", "Each has at least what is held of it.")) }
        @else {
            (totals(&sums, &currency))
            (table(&list))
            nav.pages aria-label="Pages of debts" {
                @if asked.after().is_some() { a href=(link("/debts", &[("currency", &currency)])) { "« Largest" } }
                @if let Some(last) = list.last().filter(|_| i64::try_from(list.len()).is_ok_and(|rows| rows == PAGE_MAX)) {
                    @let debt = last.debt.to_string();
                    @let next = [("currency", currency.as_str()), ("after_debt", debt.as_str()), ("after_account", last.account_id.as_str())];
                    a rel="next" href=(link("/debts", &next)) { "Smaller »" }
                }
            }
        }
    };
    frame.page(&now, Place::Debts, "Debts", body)
}

fn totals(sums: &[DebtSum], currency: &str) -> Markup {
    html! {
        nav.tabs aria-label="Currency" {
            @for sum in sums {
                a href=(link("/debts", &[("currency", &sum.currency)])) aria-current=[(sum.currency == currency).then_some("page")] {
                    (visible(&money(sum.sum, &sum.currency))) " " span.count { (number(sum.accounts)) }
                }
            }
        }
    }
}

fn table(list: &[Debt]) -> Markup {
    html! {
        @if list.is_empty() { (empty("No account owes this currency", "Or there is none after the last one.")) }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Accounts in debt" {
                table {
                    thead { tr { th { "Account" } th.n { "Owes" } th { "Since" } } }
                    tbody {
                        @for debt in list {
                            tr {
                                td { a href=(link("/account", &[("id", &debt.account_id)])) { (id(&debt.account_id)) } }
                                td.n { (visible(&money(debt.debt, &debt.currency))) }
                                td { (ago(debt.since)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
