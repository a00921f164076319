//! What moved in a period, what do accounts have, what do providers owe? Made when it is asked for, not by opening the page.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use maud::{Markup, html};

use crate::{
    answers::money,
    ops::{
        Pool, clock,
        finance::{self, NotMade},
        layout::{Frame, Place, empty, instant, link, number, visible},
    },
    parameters::Parameters,
    reports::{
        Cell, Part, Table,
        asked::{self, Days},
    },
    store::finance::{Booking, Period, Report},
};

/// The parameters of a report.
pub(in crate::ops) const NAMES: [&str; 6] = {
    let ([month, from, to, time_zone], [by, at]) = (Days::NAMES, asked::REPORT_NAMES);
    [month, from, to, time_zone, by, at]
};

/// Movements that the page shows. The CSV has all.
const SHOWN_MAX: usize = 500;

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let read = Parameters::of_page(query.as_deref(), &NAMES);
    let asked = read.and_then(|parameters| Ok((asked::period_of(&parameters)?, parameters)));
    let (period, parameters) = match asked {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Reports, &wrong),
    };
    let Some(period) = period else {
        let hint = empty(
            "Choose the days of the report",
            "A month, or a first and a last day. It is made when you ask for it, and changes nothing.",
        );
        let body = html! { h1 { "Reports" } (form(&parameters)) (hint) };
        return frame.page(&now, Place::Reports, "Reports", body);
    };
    let report = match finance::report(&pool, &period).await {
        Ok(report) => report,
        Err(not_made) => return not_there(&frame, &now, Place::Reports, not_made),
    };
    let body = html! {
        h1 { "Reports" }
        (form(&parameters))
        (about(&report, &period))
        @for part in Part::ALL { (section(part, &report, &parameters)) }
    };
    frame.page(&now, Place::Reports, "Reports", body)
}

/// A page in place of a report or a statement that could not be made.
pub(super) fn not_there(
    frame: &Frame,
    now: &crate::ops::watch::Now,
    place: Place,
    not_made: NotMade,
) -> Response {
    match not_made {
        NotMade::Wrong(wrong) => frame.wrong(now, place, &wrong),
        NotMade::TooLarge(words) => frame.not_made(now, place, StatusCode::UNPROCESSABLE_ENTITY, &words),
        NotMade::Late(words) => frame.not_made(now, place, StatusCode::SERVICE_UNAVAILABLE, &words),
        NotMade::Store(cause) => frame.unavailable(now, place, &cause),
    }
}

fn form(asked: &Parameters) -> Markup {
    let value = |name| asked.single(name).ok().flatten();
    let is_any = asked.pairs().iter().any(|(name, _)| name != "time_zone");
    let last_month = last_month();
    let month = if is_any { value("month") } else { Some(last_month.as_str()) };
    html! {
        form.filters method="get" action="/reports" {
            (days_fields(month, value("from"), value("to"), value("time_zone")))
            label { "Booked by"
                select name="by" {
                    @for (name, words) in [("recorded", "recording (recorded_at)"), ("occurred", "provider's time (occurred_at)")] {
                        option value=(name) selected[value("by") == Some(name)] { (words) }
                    }
                }
            }
            label { "As known before" input name="at" value=[value("at")] placeholder="2026-11-01T00:00:00Z" size="22" autocomplete="off"; }
            button type="submit" { "Make the report" }
        }
    }
}

/// The fields that name days.
pub(super) fn days_fields(
    month: Option<&str>,
    from: Option<&str>,
    to: Option<&str>,
    time_zone: Option<&str>,
) -> Markup {
    html! {
        label { "Month" input name="month" value=[month] placeholder="2026-10" size="8" pattern="[0-9]{4}-[0-9]{2}" title="a month such as 2026-10" autocomplete="off"; }
        label { "or from" input type="date" name="from" value=[from]; }
        label { "to" input type="date" name="to" value=[to]; }
        label { "Time zone" input name="time_zone" value=(time_zone.unwrap_or("UTC")) size="16" autocomplete="off"; }
    }
}

/// The month before this one, which is what is usually closed.
fn last_month() -> String {
    let before = clock::now().date().replace_day(1).ok().and_then(time::Date::previous_day);
    before.map_or_else(String::new, |day| format!("{:04}-{:02}", day.year(), u8::from(day.month())))
}

fn about(report: &Report, period: &Period) -> Markup {
    let days = asked::days(period);
    let unbalanced: Vec<String> =
        report.unbalanced().map(|balance| money(balance.trial_balance, &balance.currency)).collect();
    html! {
        p.lead {
            strong { (days.in_words()) } " (" (visible(&period.time_zone)) "), booked by " (period.booking.as_str())
            ", of what was recorded before " (instant(report.as_of)) " UTC. Debts are those at the end of the period"
            @match period.booking {
                Booking::Recorded => ".",
                Booking::Occurred => " as it was recorded.",
            }
        }
        @if report.preliminary {
            p.stale { "Preliminary: the period was not over then, or only just, and may get more rows." }
        }
        @if unbalanced.is_empty() {
            p.good { "The trial balance of every currency is 0." }
        } @else {
            p.problem role="alert" { strong { "The trial balance is not 0" } ", but " (unbalanced.join(", ")) ": run payonce audit, and see docs/operations.md." }
        }
    }
}

fn section(part: Part, report: &Report, asked: &Parameters) -> Markup {
    let all = part.table(report);
    let mut csv: Vec<(&str, &str)> =
        asked.pairs().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    csv.push(("csv", part.as_str()));
    html! {
        section.card {
            div.head { h2 { (part.title()) } a href=(link("/api/report", &csv)) download { "CSV" } }
            @if all.rows.is_empty() { (empty("Nothing", "There is no ledger row to show.")) }
            @else { (table(&all, part.title(), SHOWN_MAX)) }
            @if all.rows.len() > SHOWN_MAX {
                p.note { "The first " (number(i64::try_from(SHOWN_MAX).unwrap_or_default())) " of " (number(i64::try_from(all.rows.len()).unwrap_or_default())) " rows; the CSV has all." }
            }
        }
    }
}

/// A table of a report on a page: money with its minus, times, texts made visible.
pub(super) fn table(of: &Table<'_>, label: &str, rows_max: usize) -> Markup {
    let is_number = |at: usize| of.rows.iter().any(|row| row.get(at).is_some_and(Cell::is_number));
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr { @for (at, heading) in of.headings.iter().enumerate() { th.n[is_number(at)] { (heading.replace('_', " ")) } } } }
                tbody {
                    @for row in of.rows.iter().take(rows_max) {
                        tr { @for cell in row { td.n[cell.is_number()] { (shown(cell)) } } }
                    }
                }
            }
        }
    }
}

fn shown(cell: &Cell<'_>) -> Markup {
    match cell {
        Cell::Text(text) => html! { (visible(text)) },
        Cell::Number(n) => html! { (number(*n)) },
        Cell::Money(..) => html! { (cell.text().replace('-', "\u{2212}")) },
        Cell::Time(at) => instant(*at),
        Cell::Absent => html! {},
    }
}
