//! Who works, how fast, and with what trouble?

use std::sync::Arc;

use axum::{extract::State, response::Response};
use maud::{Markup, html};

use crate::{
    ops::{
        Pool, clock,
        layout::{Frame, Place, ago, duration, empty, id, number, rate, since, state, visible},
        watch::Now,
    },
    store::{
        feed::{self, FeedRow},
        workers::WorkerRow,
    },
};

pub(in crate::ops) async fn page(State(pool): State<Arc<Pool>>, frame: Frame) -> Response {
    let now = pool.watch.now();
    let feeds = pool.reader.run(async |connection| feed::list(connection).await).await.unwrap_or_default();
    let body = html! {
        h1 { "Workers" }
        p.lead { "By their own word, every few seconds. One that has not been heard of for three reports counts as gone, and is forgotten after a day. Counts are since the worker started." }
        div data-html="workers" { (rows(&now)) }
        @if !feeds.is_empty() { (feed_list(&feeds)) }
    };
    frame.page(&now, Place::Workers, "Workers", body)
}

/// One line for each feed: how far other programs are behind the ledger.
fn feed_list(feeds: &[FeedRow]) -> Markup {
    html! {
        h2 { "Feeds" }
        div.scroll tabindex="0" role="region" aria-label="Feeds" {
            table {
                thead { tr { th { "Feed" } th { "State" } th.n { "Rows behind" } th.n { "Seconds behind" } th.n { "Sent" } th { "Last trouble" } } }
                tbody {
                    @for feed in feeds {
                        tr {
                            td { (id(&feed.name)) }
                            td { (state(if feed.holder.is_some() { "up" } else { "gone" })) }
                            td.n { (number(feed.lag_rows)) }
                            td.n { (duration(feed.lag_seconds)) }
                            td.n { (number(feed.sent)) }
                            td { (visible(feed.last_error.as_deref().unwrap_or("none"))) }
                        }
                    }
                }
            }
        }
    }
}

/// One card for each worker.
pub(in crate::ops) fn rows(now: &Now) -> Markup {
    if now.workers.is_empty() {
        return nobody();
    }
    html! {
        div.cards {
            @for worker in &now.workers { (card(worker)) }
        }
    }
}

fn nobody() -> Markup {
    empty("No worker has reported within a day", "Start one with payonce worker; it appears here by itself.")
}

fn card(worker: &WorkerRow) -> Markup {
    let percentile =
        |share: f64| worker.latency_buckets.percentile_s(share).map_or_else(|| "–".to_owned(), duration);
    html! {
        section.card data-state=(condition(worker)) {
            div.head { h2 { (id(&worker.name)) } (state(condition(worker))) }
            dl.facts {
                dt { "Throughput" } dd { (rate(worker.settled_per_second)) " /s" }
                dt { "Latency, half / 99 % within" } dd { (percentile(0.5)) " / " (percentile(0.99)) }
                dt { "Received" } dd { (number(worker.received)) }
                dt { "Applied" } dd { (number(worker.applied)) }
                dt { "Duplicates rejected" } dd { (number(worker.duplicates)) }
                dt { "Quarantined" } dd { (number(worker.quarantined)) }
                dt { "Accounts lost to rivals, decided again" } dd { (number(worker.conflicts)) }
                dt { "Lanes" } dd { (worker.lanes) }
                dt { "Batch at most" } dd { (number(worker.batch_size_max)) }
                dt { "Unsettled at most" } dd { (number(worker.prefetch_count)) }
                dt { "Redis" } dd { (if worker.redis_available { "up" } else { "away" }) }
                dt { "Version" } dd { (visible(&worker.version)) }
                dt { "Started" } dd { (since(worker.started_at)) }
                dt { "Last report" } dd { (since(worker.last_seen_at)) }
            }
            @if let Some(error) = &worker.last_error {
                p.trouble {
                    strong { "Last trouble" } " "
                    @if let Some(at) = worker.last_error_at { (ago(at)) }
                    br; (visible(error))
                }
            } @else {
                p.note { "No trouble since it started." }
            }
        }
    }
}

/// One line for each worker.
pub(in crate::ops) fn list(now: &Now) -> Markup {
    if now.workers.is_empty() {
        return nobody();
    }
    html! {
        div.scroll tabindex="0" role="region" aria-label="Workers" {
            table {
                thead { tr { th { "Worker" } th { "State" } th.n { "Settled /s" } th.n { "99 % within" } th.n { "Lanes" } th.n { "Up for" } } }
                tbody {
                    @for worker in now.workers.iter().filter(|worker| !worker.is_stopped) {
                        tr {
                            td { (id(&worker.name)) }
                            td { (state(condition(worker))) }
                            td.n { (rate(worker.settled_per_second)) }
                            td.n { (worker.latency_buckets.percentile_s(0.99).map_or_else(|| "–".to_owned(), duration)) }
                            td.n { (worker.lanes) }
                            td.n { (duration((clock::now() - worker.started_at).as_seconds_f64())) }
                        }
                    }
                }
            }
        }
    }
}

fn condition(worker: &WorkerRow) -> &'static str {
    match (worker.is_stopped, worker.is_up, worker.is_ready) {
        (true, ..) => "stopped",
        (false, false, _) => "gone",
        (false, true, false) => "waiting for a server",
        (false, true, true) => "up",
    }
}
