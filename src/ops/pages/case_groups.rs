//! The cases of a page in groups: what is stuck, how much money, since when. What must not live here: single cases, and what is done to them.

use maud::{Markup, html};

use crate::{
    answers::money,
    ops::layout::{ago, id_or_dash, link, number, visible},
    store::case_groups::{CASES_READ_MAX, CaseGroups},
};

/// A row leads to the cases of its group, which can be acted on together there.
/// With what else was asked for, `asked`.
pub(super) fn table(found: &CaseGroups, asked: &[(&str, &str)]) -> Markup {
    let CaseGroups { groups, other_cases, has_more } = found;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Groups of cases" {
            table {
                thead { tr {
                    th { "Reason" } th { "Source" } th.n { "Cases" } th.n { "Money" } th { "Oldest" } th.n { "Last hour" }
                    th.n { "The hour before" }
                } }
                tbody {
                    @for group in groups {
                        @let source = group.source.as_deref().unwrap_or_default();
                        @let without_source = if group.source.is_none() { "yes" } else { "" };
                        @let cases = [
                            ("state", group.state.as_str()), ("reason", &group.reason), ("source", source),
                            ("without_source", without_source),
                        ];
                        @let kept = asked.iter().filter(|(name, _)| cases.iter().all(|(other, _)| other != name));
                        @let cases: Vec<(&str, &str)> = cases.into_iter().chain(kept.copied()).collect();
                        tr {
                            td { a href=(link("/quarantine", &cases)) { (group.reason) } }
                            td { (id_or_dash(group.source.as_deref())) }
                            td.n { (number(group.cases)) }
                            td.n {
                                @for of in &group.money { div { (visible(&money(of.amount, &of.currency))) } }
                                @if group.unreadable > 0 { div.faint { (number(group.unreadable)) " of an unknown amount" } }
                            }
                            td { (ago(group.oldest)) }
                            td.n { (number(group.last_hour)) }
                            td.n { (number(group.hour_before)) }
                        }
                    }
                }
            }
        }
        @if *other_cases > 0 { p.note { (number(*other_cases)) " cases are in smaller groups." } }
        @if *has_more { p.note { "Only the oldest " (number(CASES_READ_MAX)) " cases are in these groups." } }
    }
}
