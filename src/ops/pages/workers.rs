//! Which workers run, how fast, and with which errors?

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
        subscribers::{self, WebhookRow},
        workers::WorkerRow,
    },
};

pub(in crate::ops) async fn page(State(pool): State<Arc<Pool>>, frame: Frame) -> Response {
    let now = pool.watch.now();
    let feeds = pool.reader.run(async |connection| feed::list(connection).await).await.unwrap_or_default();
    let webhooks = pool.reader.run(async |connection| subscribers::list(connection).await).await;
    let webhooks = webhooks.unwrap_or_default();
    let body = html! {
        h1 { "Workers" }
        p.lead { "Self-reported every few seconds. One that has not been heard of for three reports counts as gone, and is forgotten after a day. Counts are since the worker started." }
        div data-html="workers" { (rows(&now)) }
        @if !feeds.is_empty() { (feed_list(&feeds)) }
        @if !webhooks.is_empty() { (subscriber_list(&webhooks)) }
    };
    frame.page(&now, Place::Workers, "Workers", body)
}

/// One line for each feed: how far other programs are behind the ledger.
fn feed_list(feeds: &[FeedRow]) -> Markup {
    html! {
        h2 { "Feeds" }
        div.scroll tabindex="0" role="region" aria-label="Feeds" {
            table {
                thead { tr { th { "Feed" } th { "State" } th.n { "Rows behind" } th.n { "Seconds behind" } th.n { "Sent" } th { "Last error" } } }
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

/// One line for each subscriber over HTTPS: whether anything is sent to it, and the command that begins again where not.
fn subscriber_list(webhooks: &[WebhookRow]) -> Markup {
    html! {
        h2 { "Subscribers" }
        div.scroll tabindex="0" role="region" aria-label="Subscribers" {
            table {
                thead { tr { th { "Subscriber" } th { "State" } th { "Since" } th { "Why" } th.n { "Accounts behind" } th.n { "Retries exhausted" } th { "Last taken" } th { "To send again" } } }
                tbody {
                    @for webhook in webhooks {
                        @let is_stuck = webhook.disabled_at.is_some() || webhook.accounts_exhausted > 0;
                        tr {
                            td { (id(&webhook.name)) }
                            td { (state(condition_of(webhook))) }
                            td {
                                @if let Some(at) = webhook.disabled_at { (ago(at)) }
                                @else if webhook.failing_seconds > 0.0 { (duration(webhook.failing_seconds)) }
                            }
                            td.detail { (visible(webhook.disabled_why.as_deref().or(webhook.last_error.as_deref()).unwrap_or("–"))) }
                            td.n { (number(webhook.accounts_behind)) }
                            td.n { (number(webhook.accounts_exhausted)) }
                            td { @match webhook.delivered_at { Some(at) => (ago(at)), None => "–" } }
                            td { @if is_stuck { code { "payonce feed subscribers enable " (visible(webhook.subscriber())) } } }
                        }
                    }
                }
            }
        }
    }
}

fn condition_of(webhook: &WebhookRow) -> &'static str {
    match (webhook.disabled_at.is_some(), webhook.failing_seconds > 0.0) {
        (true, _) => "disabled",
        (false, true) => "failing",
        (false, false) => "up",
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
                dt { "Latency p50 / p99" } dd { (percentile(0.5)) " / " (percentile(0.99)) }
                dt { "Received" } dd { (number(worker.received)) }
                dt { "Applied" } dd { (number(worker.applied)) }
                dt { "Duplicates rejected" } dd { (number(worker.duplicates)) }
                dt { "Quarantined" } dd { (number(worker.quarantined)) }
                dt { "Version conflicts, retried" } dd { (number(worker.conflicts)) }
                dt { "Lanes" } dd { (worker.lanes) }
                dt { "Max batch size" } dd { (number(worker.batch_size_max)) }
                dt { "Prefetch" } dd { (number(worker.prefetch_count)) }
                dt { "Redis" } dd { (if worker.redis_available { "up" } else { "down" }) }
                dt { "Version" } dd { (visible(&worker.version)) }
                dt { "Started" } dd { (since(worker.started_at)) }
                dt { "Last report" } dd { (since(worker.last_seen_at)) }
            }
            @if let Some(error) = &worker.last_error {
                p.problem {
                    strong { "Last error" } " "
                    @if let Some(at) = worker.last_error_at { (ago(at)) }
                    br; (visible(error))
                }
            } @else {
                p.note { "No errors since it started." }
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
                thead { tr { th { "Worker" } th { "State" } th.n { "Processed /s" } th.n { "p99" } th.n { "Lanes" } th.n { "Up for" } } }
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
