//! Which accounts owe money, and how much in each currency?

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use maud::{Markup, html};

use crate::{
    answers::money,
    ledger::Currency,
    ops::{
        Pool,
        layout::{Frame, Place, ago, empty, id, link, number, visible},
    },
    parameters::{Parameters, Wrong},
    store::debts::{self, Debt, DebtSum},
};

/// Accounts of a page.
const PAGE_MAX: i64 = 50;

/// Which currency, and after which account: the last one of the page before, with what it owes.
pub(in crate::ops) struct Asked {
    pub(in crate::ops) currency: Option<Currency>,
    after: Option<(i64, String)>,
}

impl Asked {
    pub(in crate::ops) const NAMES: [&str; 3] = ["currency", "after_debt", "after_account"];

    pub(in crate::ops) fn of(parameters: &Parameters) -> Result<Self, Wrong> {
        let expected = "an ISO 4217 code in capitals, such as EUR";
        let currency = parameters.choice("currency", Currency::parse, expected)?;
        let after_debt = parameters.number("after_debt", 1..=i64::MAX)?;
        let after = match (after_debt, parameters.id("after_account")?) {
            (Some(debt), Some(account)) => Some((debt, account.to_owned())),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Wrong("after_debt, after_account: expected both or none".to_owned()));
            }
        };
        Ok(Self { currency, after })
    }

    pub(in crate::ops) fn after(&self) -> Option<(i64, &str)> {
        self.after.as_ref().map(|(debt, account)| (*debt, account.as_str()))
    }
}

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let read = Parameters::of_page(query.as_deref(), &Asked::NAMES);
    let asked = match read.and_then(|parameters| Asked::of(&parameters)) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Debts, &wrong),
    };
    let read = pool.reader.run(async |connection| {
        let sums = debts::sums(connection).await?;
        let named = asked.currency.map(|currency| currency.as_str().to_owned());
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
