//! Is money safe, and is everything running?

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use maud::{Markup, html};

use super::workers;
use crate::{
    ops::{
        Pool,
        figure::figure,
        history::{RANGES, Range},
        layout::{Frame, Place, link},
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
    let body = html! {
        h1.unseen { "Overview" }
        (servers(&now))
        p.stale role="status" data-text="stale" { (now.text("stale")) }
        div.tiles {
            (tile(&now, "Received", "received", html! { "in total" }))
            (tile(&now, "Applied", "applied", html! { "in total, " (live(&now, "released")) " of them released from quarantine" }))
            (tile(&now, "Duplicates rejected", "duplicates", html! { "in total, " (live(&now, "duplicate-share")) " of all deliveries" }))
            (tile(&now, "Quarantined", "quarantined", html! { "in total, " a href="/quarantine" { (live(&now, "open")) " open" } ", " a href="/quarantine?state=waiting" { (live(&now, "waiting")) " waiting" } }))
        }
        (chart(&pool, range, "/", &[], "Throughput by outcome", None).await)
        div.columns {
            section.card {
                h2 { "Backlog" }
                dl.facts {
                    dt { "Queue depth" } dd { (live(&now, "backlog")) }
                    dt { "Oldest message age" } dd { (live(&now, "backlog-age")) }
                    dt { "Time to drain (estimate)" } dd { (live(&now, "drain")) }
                    dt { "Oldest in-flight message" } dd { (live(&now, "oldest")) }
                    dt { "Dead-letter queue depth" } dd { (live(&now, "dead")) }
                }
                p.note { "The broker tells how many are ready, not how old they are. The age is worked out: the queue is first in, first out, so the oldest came when as much had come in all as is settled now; known from when this page's process started. The time to drain is an estimate at the rate of the last 10 s. What workers have taken is in neither; they report the age of the oldest." }
            }
            section.card {
                h2 { "Latency" }
                dl.facts {
                    dt { "p50" } dd { (live(&now, "p50")) }
                    dt { "p95" } dd { (live(&now, "p95")) }
                    dt { "p99" } dd { (live(&now, "p99")) }
                }
                p.note { "From taking a delivery to acknowledging it, after its commit; over the last report of each worker, within 16 %." }
            }
        }
        section.card {
            h2 { "Workers" }
            div data-html="worker-list" { (workers::list(&now)) }
        }
    };
    frame.page(&now, Place::Overview, "Overview", body)
}

fn live(now: &Now, name: &'static str) -> Markup {
    html! { span data-text=(name) { (now.text(name)) } }
}

fn tile(now: &Now, title: &str, name: &str, note: Markup) -> Markup {
    let rate = format!("{name}-rate");
    html! {
        section.tile data-kind=(name) {
            h2 { (title) }
            p.big { span data-text=(rate) { (now.text(&rate)) } span.unit { " /s" } }
            p.total { strong data-text=(name) { (now.text(name)) } " " (note) }
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
            (server("Ledger audit", "audit", "audit-state"))
            li data-state=(now.text("workers-state")) data-state-of="workers-state" {
                span.dot aria-hidden="true" {} "Workers up " strong data-text="workers" { (now.text("workers")) }
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
