//! A chart as SVG: a stack of rates over a range, with axes, a legend of the newest values, and what each step was as its title. Made here, so
//! that it is there without a script; a script only fetches it again. What must not live here: where the numbers come from.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use maud::{Markup, html};
use std::{fmt::Write, sync::Arc};
use time::OffsetDateTime;

use super::{
    Pool, clock,
    history::{self, Chart, Range, SERIES},
};
use crate::parameters::{Parameters, Wrong};

/// Pixels: the plot, and the labels of time below it.
const PLOT_HEIGHT: f64 = 200.0;
const HEIGHT: f64 = 228.0;
/// The plot's own units, which are stretched to its width and height.
const UNITS: f64 = 1_000.0;
/// Lines across, at most; labels of time.
const LINES_MAX: f64 = 4.0;
const LABELS: i64 = 4;
/// Steps that tell their values when pointed at, at most.
const TITLES_MAX: usize = 120;

/// The chart by itself, for the script.
pub(super) async fn fragment(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Response {
    match asked(&pool, query.as_deref()).await {
        Ok(drawn) => Html(drawn.into_string()).into_response(),
        Err(Wrong(words)) => (StatusCode::BAD_REQUEST, format!("{words}\n")).into_response(),
    }
}

async fn asked(pool: &Pool, query: Option<&str>) -> Result<Markup, Wrong> {
    let asked = Parameters::of_query(query, &["range", "source", "only"])?;
    let range = Range::asked(&asked, "1h")?;
    let only = asked.choice("only", |only| (only == "duplicates").then_some("duplicates"), "duplicates")?;
    Ok(figure(pool, range, asked.id("source")?, only).await)
}

/// The chart of a range, or why there is none.
pub(super) async fn figure(pool: &Pool, range: Range, source: Option<&str>, only: Option<&str>) -> Markup {
    match history::chart(pool, range, source).await {
        Ok(chart) => draw(&chart, range, only == Some("duplicates")),
        Err(_) => html! { p.note { "The past cannot be shown while PostgreSQL does not answer." } },
    }
}

/// What the legend calls a series.
fn title(series: &str) -> String {
    match series {
        "applied" | "quarantined" => series.to_owned(),
        layer => format!("duplicate: {layer}"),
    }
}

/// A rate, short: `1,234`, `12.5`, `0.025`.
fn written(rate: f64) -> String {
    match rate {
        _ if rate >= 10_000.0 => format!("{:.0}k", rate / 1_000.0),
        _ if rate >= 100.0 || rate == 0.0 => format!("{rate:.0}"),
        _ if rate < 0.1 => format!("{rate:.3}"),
        _ => format!("{rate:.1}"),
    }
}

fn moment(seconds: i64, step_s: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (hour, minute, second) = at.to_hms();
    let (month, day) = (at.month().to_string(), at.day());
    let month = month.get(..3).unwrap_or_default();
    match step_s {
        ..60 => format!("{hour:02}:{minute:02}:{second:02}"),
        60..3_600 => format!("{hour:02}:{minute:02}"),
        _ => format!("{month} {day} {hour:02}:{minute:02}"),
    }
}

/// The distance of the lines across: 1, 2 or 5 times a power of ten.
fn spacing(highest: f64) -> f64 {
    let least = highest / LINES_MAX;
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|gap| *gap >= least).unwrap_or(least)
}

fn draw(chart: &Chart, range: Range, is_duplicates_only: bool) -> Markup {
    let rows: Vec<(&str, &[f64])> = SERIES
        .into_iter()
        .zip(chart.y.iter().map(Vec::as_slice))
        .filter(|(name, _)| !is_duplicates_only || !matches!(*name, "applied" | "quarantined"))
        .collect();
    let mut sums = vec![0.0_f64; chart.t.len()];
    let mut stacked = Vec::with_capacity(rows.len());
    for (name, row) in &rows {
        sums.iter_mut().zip(*row).for_each(|(sum, value)| *sum += value);
        stacked.push((*name, sums.clone()));
    }
    let highest = sums.iter().copied().fold(1.0_f64, f64::max) * 1.08;
    let last = chart.t.last().map_or(0, |begin| begin + if chart.step_s >= 60 { chart.step_s } else { 0 });
    let end = last.max(clock::now().unix_timestamp());
    let start = end - range.length_s;
    #[expect(clippy::cast_precision_loss, reason = "places in a picture")]
    let across = |seconds: i64, width: f64| (seconds - start) as f64 * width / range.length_s as f64;
    let up = |rate: f64, height: f64| height - rate * height / highest;
    // The highest first, each filled down to the axis, so that the next covers all but its own share.
    let areas = stacked.iter().rev().map(|(name, sums)| {
        let mut points = String::new();
        let mut point = |seconds: i64, rate: f64| {
            // Writing to a string cannot fail.
            let _written = write!(points, "{:.1},{:.1} ", across(seconds, UNITS), up(rate, UNITS));
        };
        for (begin, sum) in chart.t.iter().zip(sums) {
            point(*begin, *sum);
            if chart.step_s >= 60 {
                point(begin + chart.step_s, *sum);
            }
        }
        if let Some(first) = chart.t.first() {
            point(last, 0.0);
            point(*first, 0.0);
        }
        (*name, points)
    });
    let gap = spacing(highest);
    let lines = (0..).map(|n| f64::from(n) * gap).take_while(|rate| *rate <= highest);
    let labels = (1..LABELS).map(|n| start + n * range.length_s / LABELS);
    let every = chart.t.len().div_ceil(TITLES_MAX).max(1);
    let is_quiet = sums.iter().all(|sum| *sum == 0.0);
    html! {
        svg.plot width="100%" height=(HEIGHT) role="img" aria-label="Rates per second, stacked" {
            @for rate in lines {
                line.grid x1="0" x2="100%" y1=(up(rate, PLOT_HEIGHT)) y2=(up(rate, PLOT_HEIGHT)) {}
            }
            svg width="100%" height=(PLOT_HEIGHT) viewBox={ "0 0 " (UNITS) " " (UNITS) } preserveAspectRatio="none" {
                @for (name, points) in areas { polygon data-series=(name) points=(points.trim_end()) {} }
                @for (at, begin) in chart.t.iter().enumerate().step_by(every) {
                    @let width = across(start + chart.step_s, UNITS) * (every as f64);
                    rect.step x=(across(*begin, UNITS)) y="0" width=(width) height=(UNITS) {
                        title {
                            (moment(*begin, chart.step_s)) " UTC"
                            @for (name, row) in &rows { ", " (title(name)) " " (row.get(at).map_or_else(String::new, |rate| written(*rate))) "/s" }
                        }
                    }
                }
            }
            @for n in (1..).map(f64::from).take_while(|n| n * gap <= highest) {
                text x="4" y=(up(n * gap, PLOT_HEIGHT) - 4.0) { (written(n * gap)) "/s" }
            }
            @for at in labels {
                text x={ (across(at, 100.0)) "%" } y=(HEIGHT - 8.0) text-anchor="middle" { (moment(at, chart.step_s)) }
            }
        }
        ul.legend {
            @for (name, row) in &rows {
                li { span.swatch data-series=(name) aria-hidden="true" {} (title(name)) " " strong { (row.last().map_or_else(|| "–".to_owned(), |rate| written(*rate))) "/s" } }
            }
        }
        @if is_quiet { p.note { "Nothing was received in this time." } }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::history::RANGES, *};

    fn chart(rates: &[f64]) -> Chart {
        let first = clock::now().unix_timestamp() - 60 * i64::try_from(rates.len()).unwrap();
        Chart {
            range: "1h",
            step_s: 60,
            t: (0..).map(|n| first + 60 * n).take(rates.len()).collect(),
            series: SERIES,
            y: std::array::from_fn(|row| if row < 2 { rates.to_vec() } else { vec![0.0; rates.len()] }),
        }
    }

    #[test]
    fn each_series_is_drawn_on_top_of_those_below_it() {
        let range = RANGES[2];
        let drawn = draw(&chart(&[50.0, 50.0]), range, false).into_string();
        assert_eq!(drawn.matches("<polygon").count(), SERIES.len());
        // 50 and 50 are 100, of 108 that the plot is high.
        let height = |series: &str| {
            let (_, rest) = drawn.split_once(&format!("data-series=\"{series}\" points=\"")).unwrap();
            let first = rest.split([' ', '"']).next().unwrap();
            first.split_once(',').unwrap().1.parse::<f64>().unwrap()
        };
        assert!((height("batch") - (UNITS - 100.0 / 108.0 * UNITS)).abs() < 1.0, "{}", height("batch"));
        assert!((height("applied") - (UNITS - 50.0 / 108.0 * UNITS)).abs() < 1.0, "{}", height("applied"));
        assert!(drawn.contains("applied 50.0/s, duplicate: batch 50.0/s"), "{drawn}");
        assert!(!draw(&chart(&[50.0]), range, true).into_string().contains("applied"));
    }

    #[test]
    fn a_range_without_anything_says_so() {
        let range = RANGES[2];
        for rates in [&[][..], &[0.0]] {
            assert!(draw(&chart(rates), range, false).into_string().contains("Nothing was received"));
        }
    }

    #[test]
    fn lines_across_are_at_round_numbers() {
        for (highest, gap) in [(1.08, 0.5), (4.0, 1.0), (108.0, 50.0), (21_600.0, 10_000.0)] {
            assert!((spacing(highest) - gap).abs() < 1e-9, "{highest}: {}", spacing(highest));
        }
    }
}
