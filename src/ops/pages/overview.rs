//! Is money safe, and is everything running?

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use maud::{Markup, html};

use super::{providers, workers};
use crate::{
    answers::money,
    ops::{
        Pool,
        figure::figure,
        history::{RANGES, Range},
        layout::{Frame, Place, duration, instant, link, number, since, visible},
        watch::Now,
    },
    parameters::Parameters,
};

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = Parameters::of_page(query.as_deref(), &["range"]);
    let range = match asked.and_then(|asked| Range::asked(&asked, "5m")) {
        Ok(range) => range,
        Err(wrong) => return frame.wrong(&now, Place::Overview, &wrong),
    };
    // Not worth the page, where the database does not answer.
    let providers = providers::all(&pool).await.ok();
    let body = html! {
        h1.unseen { "Overview" }
        p.summary data-state=(now.text("summary-state")) data-state-of="summary-state" data-text="summary" { (now.text("summary")) }
        (servers(&now))
        p.stale role="status" data-text="stale" { (now.text("stale")) }
        div data-html="stuck" { (money_stuck(&now)) }
        div.fresh data-state=(now.text("freshness")) data-state-of="freshness" {
            div.tiles {
                (tile(&now, "Received", "received", "/providers"))
                (tile(&now, "Applied", "applied", "/reports"))
                (tile(&now, "Duplicates rejected", "duplicates", "/duplicates?range=24h"))
                (tile(&now, "Quarantined", "quarantined", "/quarantine"))
            }
            (chart(&pool, range, "/", &[], "Throughput by outcome", None).await)
            div.columns {
                section.card {
                    (titled(html! { "Backlog" }, "The broker tells how many are ready, not how old they are. The age is worked out: the queue is first in, first out, so the oldest came when as much had come in all as is settled now; known from when this page's process started. The time to drain is an estimate at the rate of the last 10 s. What workers have taken is in neither; they report the age of the oldest."))
                    dl.facts {
                        dt { "Queue depth" } dd { (live(&now, "backlog")) }
                        dt { "Oldest message age" } dd { (live(&now, "backlog-age")) }
                        dt { "Time to drain (estimate)" } dd { (live(&now, "drain")) }
                        dt { a href="/workers" { "Oldest in-flight message" } } dd { (live(&now, "oldest")) }
                        dt { a href="/quarantine?reason=delivery_limit" { "Dead-letter queue depth" } } dd { (live(&now, "dead")) }
                    }
                }
                section.card {
                    (titled(html! { "Latency" }, "From taking a delivery to acknowledging it, after its commit; over the last report of each worker, within 16 %. The line is the target, latency_target_ms."))
                    div data-html="latency" { (latency(&now)) }
                }
                (audit(&now))
                section.card {
                    (titled(html! { "In total" }, "Since the first callback of this database. Deliveries: each copy counts. Applied: those included that were quarantined first."))
                    dl.facts {
                        dt { "Received" } dd { (live(&now, "received")) }
                        dt { a href="/reports" { "Applied" } } dd { (live(&now, "applied")) ", " (live(&now, "released")) " of them released from quarantine" }
                        dt { a href="/duplicates" { "Duplicates rejected" } } dd { (live(&now, "duplicates")) ", " (live(&now, "duplicate-share")) " of all deliveries" }
                        dt { a href="/quarantine?state=all" { "Quarantined" } } dd { (live(&now, "quarantined")) }
                        dt { "Cases now" } dd { a href="/quarantine" { (live(&now, "open")) " open" } ", " a href="/quarantine?state=waiting" { (live(&now, "waiting")) " waiting" } }
                    }
                }
            }
        }
        @if let Some(all) = providers.filter(|all| !all.rows.is_empty()) {
            section.card {
                (titled(html! { a href="/providers" { "Providers" } }, "Silent: it sent at least 5 callbacks in this hour a week ago, and none in the last full hour."))
                (providers::list(&all))
            }
        }
        section.card {
            (titled(html! { a href="/workers" { "Workers" } " " span data-text="workers" { (now.text("workers")) } " up" }, "Expected are all that have reported within a day and have not said that they stop."))
            div data-html="worker-list" { (workers::list(&now)) }
        }
    };
    frame.page(&now, Place::Overview, "Overview", body)
}

/// A heading, and what its numbers are behind a question mark.
fn titled(title: Markup, words: &str) -> Markup {
    html! {
        div.titled {
            h2 { (title) }
            details { summary title="What is this?" aria-label="What is this?" { "?" } p { (words) } }
        }
    }
}

/// The money of cases that need a person, and as of when.
pub(in crate::ops) fn money_stuck(now: &Now) -> Markup {
    let stuck = &now.cases.open;
    html! {
        @if let Some(at) = now.at.filter(|_| stuck.cases > 0) {
            p.stuck {
                a href="/quarantine" { (number(stuck.cases)) @if stuck.cases == 1 { " open case" } @else { " open cases" } } ": "
                @for (nth, (currency, amount)) in stuck.money.iter().enumerate() {
                    @if nth > 0 { ", " }
                    strong { (visible(&money(*amount, currency))) }
                }
                @if stuck.unreadable > 0 {
                    @if !stuck.money.is_empty() { ", " }
                    (number(stuck.unreadable)) " of an unknown amount"
                }
                @if let Some(oldest) = stuck.oldest { "; the oldest " (since(oldest)) }
                span.faint { ". As of " (instant(at)) }
            }
        }
    }
}

/// Latencies as bars, with the target as a line across them.
pub(in crate::ops) fn latency(now: &Now) -> Markup {
    let all = now.latencies();
    let seconds =
        [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)].map(|(name, share)| (name, all.percentile_s(share)));
    let target_s = now.latency_target.as_secs_f64();
    let longest = seconds.iter().filter_map(|(_, seconds)| *seconds).fold(target_s * 1.25, f64::max);
    let across = |seconds: f64| format!("{:.1}%", seconds / longest * 100.0);
    html! {
        dl.facts.latency {
            @for (name, seconds) in seconds {
                dt { (name) }
                dd {
                    span.ms { (seconds.map_or_else(|| "–".to_owned(), duration)) }
                    svg.bar width="100%" height="12" role="img" aria-label={ (name) ", target " (duration(target_s)) } {
                        rect.track width="100%" height="12" rx="3" {}
                        @if let Some(seconds) = seconds { rect.fill data-over[seconds > target_s] width=(across(seconds)) height="12" rx="3" {} }
                        line.target x1=(across(target_s)) x2=(across(target_s)) y1="0" y2="12" {}
                    }
                }
            }
        }
        p.note { "The line: " (duration(target_s)) ", the target." }
    }
}

/// What the last audit looked at.
fn audit(now: &Now) -> Markup {
    html! {
        section.card #audit data-state=(now.text("audit-state")) data-state-of="audit-state" {
            (titled(html! { "Ledger audit" }, "Every balance, version, payment and count is worked out again by SQL that shares nothing with what wrote them. Here of every account and of what is new in the ledger; payonce audit looks at all of it."))
            dl.facts {
                dt { "Result" } dd { (live(now, "audit")) }
                @if let Some(last) = &now.audit.last {
                    dt { "Checks made" } dd { (number(i64::try_from(last.checks).unwrap_or(i64::MAX))) }
                    dt { "New ledger rows" } dd { (number(last.rows)) ", since " (instant(last.since)) }
                    @if !last.skipped.is_empty() {
                        dt { "Skipped" } dd { @for (name, reason) in &last.skipped { div { (name) ": " span.faint { (visible(reason)) } } } }
                    }
                }
                @if let Some(problem) = &now.audit.problem { dt { "Last try" } dd { (visible(problem)) } }
                @if !now.audit.pause.is_zero() { dt { "Pause between two" } dd { (duration(now.audit.pause.as_secs_f64())) } }
            }
        }
    }
}

fn live(now: &Now, name: &'static str) -> Markup {
    html! { span data-text=(name) { (now.text(name)) } }
}

/// A rate, and how much it makes: today, and in an hour beside the same one a week ago.
fn tile(now: &Now, title: &str, name: &str, behind: &str) -> Markup {
    let count = |of: &str| {
        let key = format!("{name}-{of}");
        html! { span data-text=(key) { (now.text(&key)) } }
    };
    html! {
        section.tile data-kind=(name) {
            h2 { a href=(behind) { (title) } }
            p.big { (count("rate")) span.unit { " /s" } }
            p.total { strong { (count("today")) } " today" }
            p.total { (count("hour")) " in the last full hour, " (count("week")) " in the same hour last week" }
        }
    }
}

fn servers(now: &Now) -> Markup {
    let server = |name: &str, key: &str, state: &str| {
        html! {
            li data-state=(now.text(state)) data-state-of=(state) {
                span.dot aria-hidden="true" {} (name) " " strong data-text=(key) { (now.text(key)) }
            }
        }
    };
    html! {
        ul.servers aria-label="Servers and workers" {
            (server("PostgreSQL", "postgres", "postgres"))
            (server("RabbitMQ", "broker", "broker"))
            (server("Redis", "redis", "redis"))
            li data-state=(now.text("audit-state")) data-state-of="audit-state" {
                span.dot aria-hidden="true" {} a href="#audit" { "Ledger audit" } " " strong data-text="audit" { (now.text("audit")) }
            }
            li data-state=(now.text("workers-state")) data-state-of="workers-state" {
                span.dot aria-hidden="true" {} a href="/workers" { "Workers up" } " " strong data-text="workers" { (now.text("workers")) }
            }
        }
    }
}

/// A chart with its ranges. The script fetches the figure again from `/figure`.
pub(in crate::ops) async fn chart(
    pool: &Pool,
    range: Range,
    path: &str,
    parameters: &[(&str, &str)],
    title: &str,
    only: Option<&str>,
) -> Markup {
    let source = parameters.iter().find(|(name, _)| *name == "source").map(|(_, source)| *source);
    html! {
        section.card {
            div.head {
                h2 { (title) }
                nav.ranges aria-label="Range of the chart" {
                    @for other in RANGES {
                        a href=(link(path, &[parameters, &[("range", other.name)]].concat()))
                          aria-current=[(other == range).then_some("true")] { (other.title) }
                    }
                }
            }
            figure.chart data-chart=(range.name) data-step=(range.step_s) data-source=[source] data-only=[only] aria-label={ (title) ", over the last " (range.title) } {
                (figure(pool, range, source, only).await)
            }
        }
    }
}
