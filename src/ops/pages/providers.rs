//! Does each provider still send, is it believed, and what of it could not be mapped?

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use futures_util::future::BoxFuture;
use maud::{Markup, html};
use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::overview::chart;
use crate::{
    ledger::OPERATOR_SOURCE,
    ops::{
        Pool,
        api::{Answer, answer},
        edge::{Count, Edge, EndpointSeen},
        history::Range,
        layout::{Frame, Place, ago, duration, empty, id, instant, link, number, percent, state, visible},
    },
    parameters::Parameters,
    store::{
        PgConnection, Reader, StoreError,
        providers::{self, SourceRow, UnmappedKind},
    },
};

/// A source that sent at least so many callbacks in an hour a week ago, and none in the last one, is called silent: by chance that happens
/// to one in a hundred.
const SILENT_BEFORE_MIN: i64 = 5;
/// Above this share of what came, another id for an operation that is known is a habit of the provider.
const SAME_OPERATION_SHARE: f64 = 0.1;

/// One provider, by the source of what it sends.
#[derive(Debug, Default, Serialize)]
pub(in crate::ops) struct Provider {
    source: String,
    /// The provider's name in the configuration of an endpoint; empty where there is none.
    provider: String,
    /// By path.
    endpoints: BTreeMap<String, EndpointSeen>,
    /// What its callbacks became; `None`: none was settled yet.
    settled: Option<SourceRow>,
    unmapped: Vec<UnmappedKind>,
}

impl Provider {
    fn last_webhook(&self) -> Option<OffsetDateTime> {
        let seconds = self.endpoints.values().filter_map(|endpoint| endpoint.last_webhook_s);
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        let edge = seconds.map(|seconds| seconds as i64).max();
        let edge = edge.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        edge.max(self.settled.as_ref().and_then(|settled| settled.last_settled_at))
    }

    fn is_silent(&self) -> bool {
        self.settled.as_ref().is_some_and(|settled| {
            settled.received_hour == 0 && settled.received_hour_last_week >= SILENT_BEFORE_MIN
        })
    }

    fn refused(&self) -> BTreeMap<&str, Count> {
        let mut refused: BTreeMap<&str, Count> = BTreeMap::new();
        for (cause, count) in self.endpoints.values().flat_map(|endpoint| &endpoint.refused) {
            let sum = refused.entry(cause).or_default();
            sum.last_hour += count.last_hour;
            sum.since_start += count.since_start;
        }
        refused
    }

    fn cases(&self) -> i64 {
        self.unmapped.iter().map(|kind| kind.cases).sum()
    }

    fn is_named(&self, name: &str) -> bool {
        self.source == name || self.provider == name || self.source.strip_prefix("/providers/") == Some(name)
    }
}

/// What the database says of all sources.
pub(in crate::ops) struct Known {
    settled: Vec<SourceRow>,
    unmapped: Vec<UnmappedKind>,
}

pub(in crate::ops) fn read(reader: Reader) -> BoxFuture<'static, Result<Known, StoreError>> {
    Box::pin(async move {
        let read = async |connection: &mut PgConnection| {
            let settled = providers::sources(connection).await?;
            Ok(Known { settled, unmapped: providers::unmapped(connection).await? })
        };
        reader.run(read).await
    })
}

/// Every provider that the counts, the cases or the edge know, by source.
pub(in crate::ops) struct All {
    pub(super) rows: Vec<Provider>,
    pub(super) edge: Arc<Edge>,
    /// What the counts and cases say is as of then.
    at: OffsetDateTime,
}

pub(in crate::ops) async fn all(pool: &Pool) -> Result<All, StoreError> {
    let reading = pool.providers.get().await?;
    let Known { settled, unmapped } = &*reading.value;
    let edge = pool.edge.now();
    let mut found: BTreeMap<String, Provider> = BTreeMap::new();
    for (path, endpoint) in &edge.endpoints {
        if endpoint.source.is_empty() {
            continue;
        }
        let provider = entry(&mut found, &endpoint.source);
        provider.provider.clone_from(&endpoint.provider);
        provider.endpoints.insert(path.clone(), endpoint.clone());
    }
    // Corrections are by people here.
    for row in settled.iter().filter(|row| row.source != OPERATOR_SOURCE) {
        entry(&mut found, &row.source).settled = Some(row.clone());
    }
    for kind in unmapped {
        entry(&mut found, &kind.source).unmapped.push(kind.clone());
    }
    Ok(All { rows: found.into_values().collect(), edge, at: reading.at })
}

fn entry<'a>(found: &'a mut BTreeMap<String, Provider>, source: &str) -> &'a mut Provider {
    let new = || Provider { source: source.to_owned(), ..Provider::default() };
    found.entry(source.to_owned()).or_insert_with(new)
}

fn address(source: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(source.as_bytes()).collect();
    // In a path a space is not a plus.
    format!("/providers/{}", encoded.replace('+', "%20"))
}

pub(in crate::ops) async fn page(State(pool): State<Arc<Pool>>, frame: Frame) -> Response {
    let now = pool.watch.now();
    let all = match all(&pool).await {
        Ok(all) => all,
        Err(cause) => return frame.unavailable(&now, Place::Providers, &cause),
    };
    let body = html! {
        h1 { "Providers" }
        p.lead { "Who sends callbacks, whether they still do, and what of it was refused. One line for each source." }
        (edges(&all.edge))
        section.card { (list(&all)) }
    };
    frame.page(&now, Place::Providers, "Providers", body)
}

pub(in crate::ops) async fn one(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    // The ranges of the chart name the source, too.
    let asked = Parameters::of_page(query.as_deref(), &["range", "source"]);
    let range = match asked.and_then(|asked| Range::asked(&asked, "24h")) {
        Ok(range) => range,
        Err(wrong) => return frame.wrong(&now, Place::Providers, &wrong),
    };
    let All { rows: all, edge, at } = match all(&pool).await {
        Ok(all) => all,
        Err(cause) => return frame.unavailable(&now, Place::Providers, &cause),
    };
    let exact = all.iter().position(|provider| provider.source == name);
    let rows: Vec<Provider> = match exact {
        Some(at) => all.into_iter().skip(at).take(1).collect(),
        None => all.into_iter().filter(|provider| provider.is_named(&name)).collect(),
    };
    let title = visible(&name);
    let body = match &rows[..] {
        [] => {
            return frame.not_found(&now, Place::Providers, "No callback, case or endpoint has this source.");
        }
        [provider] => {
            let source = provider.source.as_str();
            let title = "Throughput by outcome";
            let chart = chart(&pool, range, &address(source), &[("source", source)], title, None).await;
            html! { (detail(provider, &edge, &chart)) p.note { "Counts and cases: as of " (instant(at)) "." } }
        }
        _ => html! {
            h1 { (title) }
            p.lead { "These endpoints are of this provider." }
            (edges(&edge))
            section.card { (list(&All { rows, edge, at })) }
        },
    };
    frame.page(&now, Place::Providers, &title, body)
}

/// What the pages show, as JSON.
pub(in crate::ops) async fn api(State(pool): State<Arc<Pool>>) -> Answer {
    let All { rows, edge, at } = all(&pool).await?;
    let (ingresses, window_s) = (&edge.ingresses, edge.window_s);
    let at = at.format(&Rfc3339).unwrap_or_default();
    answer(&json!({ "at": at, "ingresses": ingresses, "refused_window_s": window_s, "providers": rows }))
}

/// Where the numbers of the edge come from.
fn edges(edge: &Edge) -> Markup {
    html! {
        @if edge.ingresses.is_empty() {
            p.note { "What the edge itself counts (refused signatures, the last webhook to the second) is not known here: no "
                code { "ingress.health_addresses" } " is configured." }
        }
        @for (address, is_up) in &edge.ingresses {
            @if !is_up { p.problem role="status" { "The ingress at " (id(address)) " does not answer." } }
        }
    }
}

fn hour(settled: Option<&SourceRow>) -> (String, String) {
    settled.map_or_else(
        || ("–".to_owned(), "–".to_owned()),
        |row| (number(row.received_hour), number(row.received_hour_last_week)),
    )
}

fn share(part: i64, whole: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = part as f64 / whole.max(1) as f64;
    share
}

pub(super) fn list(All { rows, edge, at }: &All) -> Markup {
    if rows.is_empty() {
        return empty("No provider has sent anything yet", "Connect one: payonce ingress init stripe");
    }
    html! {
        div.scroll tabindex="0" role="region" aria-label="Providers" {
            table {
                thead { tr {
                    th { "Source" } th { "Provider" } th { "State" } th { "Last heard of" } th.n { "Last full hour" } th.n { "Same hour last week" }
                    th.n { "Duplicates, 24 h" } th.n { "Refused, " (window(edge)) } th.n { "Unmapped, open" }
                } }
                tbody {
                    @for row in rows {
                        @let (this, last) = hour(row.settled.as_ref());
                        tr {
                            td { a href=(address(&row.source)) { (id(&row.source)) } }
                            td { @if row.provider.is_empty() { span.faint { "–" } } @else { (visible(&row.provider)) } }
                            td { (state(condition(row))) }
                            td { (when(row.last_webhook())) }
                            td.n { (this) }
                            td.n { (last) }
                            td.n { (row.settled.as_ref().map_or_else(|| "–".to_owned(), |row| percent(share(row.duplicates_day, row.received_day)))) }
                            td.n { @if row.endpoints.is_empty() { "–" } @else { (number(row.refused().values().map(|count| count.last_hour).sum::<u64>())) } }
                            td.n { (number(row.cases())) }
                        }
                    }
                }
            }
        }
        p.note { "As of " (instant(*at)) ". Hours are whole ones, by UTC. Refused webhooks changed nothing." }
    }
}

fn condition(row: &Provider) -> &'static str {
    if row.is_silent() {
        "silent"
    } else if row.last_webhook().is_none() {
        "never heard of"
    } else {
        "sends"
    }
}

fn when(at: Option<OffsetDateTime>) -> Markup {
    at.map_or_else(|| html! { span.faint { "–" } }, ago)
}

/// Over how long `last_hour` counts.
fn window(edge: &Edge) -> String {
    if edge.window_s >= 3_600 {
        return "last hour".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "at most an hour")]
    let seconds = edge.window_s as f64;
    format!("last {}", duration(seconds.max(1.0)))
}

fn detail(provider: &Provider, edge: &Edge, chart: &Markup) -> Markup {
    let source = provider.source.as_str();
    html! {
        h1 { (id(source)) }
        @if !provider.provider.is_empty() { p.lead { "Provider: " (visible(&provider.provider)) } }
        (edges(edge))
        @if provider.is_silent() {
            p.problem role="status" { "Silent: no callback of this source in the last full hour. See the runbook, PayonceProviderSilent." }
        }
        div.columns {
            (traffic(provider))
            (refusals(provider, edge))
        }
        (chart)
        (unmapped(provider))
        (endpoints(provider, edge))
    }
}

fn traffic(provider: &Provider) -> Markup {
    let settled = provider.settled.as_ref();
    let (this, last) = hour(settled);
    html! {
        section.card {
            h2 { "Traffic" }
            dl.facts {
                dt { "Last heard of" } dd { (when(provider.last_webhook())) }
                dt { "Callbacks in the last full hour" } dd { (this) }
                dt { "In the same hour last week" } dd { (last) }
                @if let Some(row) = settled {
                    dt { "Callbacks in 24 h" } dd { (number(row.received_day)) }
                    dt { "Duplicates among them" } dd {
                        a href=(link("/duplicates", &[("range", "24h"), ("source", &row.source)])) { (number(row.duplicates_day)) }
                        " (" (percent(share(row.duplicates_day, row.received_day))) ")"
                    }
                    dt { "Same operation, another event id" } dd { (number(row.same_operation_day)) " (" (percent(share(row.same_operation_day, row.received_day))) ")" }
                    dt { "New cases in 24 h" } dd { (number(row.quarantined_day)) }
                }
                dt { "Open cases" } dd { a href=(link("/quarantine", &[("source", &provider.source)])) { "Quarantine of this source" } }
            }
            @if settled.is_some_and(|row| share(row.same_operation_day, row.received_day) > SAME_OPERATION_SHARE) {
                p.problem { "This provider sends an operation again under another event id: only the operation's id keeps it from being applied twice. See the runbook, PayonceEventIdsChange." }
            }
        }
    }
}

fn refusals(provider: &Provider, edge: &Edge) -> Markup {
    let refused = provider.refused();
    html! {
        section.card {
            h2 { "Refused signatures" }
            @if provider.endpoints.is_empty() {
                (empty("No endpoint of payonce ingress", "This source publishes to the queue by itself; what is refused there becomes a case bad_signature."))
            } @else if refused.is_empty() {
                p.good { "None." }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Refused signatures" {
                    table {
                        thead { tr { th { "Cause" } th.n { (window(edge)) } th.n { "Since the ingress started" } } }
                        tbody {
                            @for (cause, count) in refused {
                                tr {
                                    td { (visible(cause)) br; span.faint { (meaning(cause)) } }
                                    td.n { (number(count.last_hour)) }
                                    td.n { (number(count.since_start)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a cause of `payonce_ingress_refused_total` means for a person; docs/ingress.md lists the same.
fn meaning(cause: &str) -> &'static str {
    match cause {
        "missing" => "no signature: not from the provider, or a proxy drops its header",
        "unreadable" => "a signature in no form that this provider uses",
        "clock" => "signed too long ago, or in the future: compare the clocks",
        "no_match" => "another secret than the endpoint's, or the body was changed on its way",
        "unknown_key" => "signed with a key or certificate that is not configured",
        "certificate" => "a certificate that is not valid now, or not the provider's",
        "other_account" => "signed for another account or address of the provider",
        _ => "see docs/ingress.md",
    }
}

fn unmapped(provider: &Provider) -> Markup {
    let all = link("/quarantine", &[("reason", "unmapped"), ("source", &provider.source)]);
    html! {
        section.card data-state=(if provider.unmapped.is_empty() { "up" } else { "down" }) {
            div.head { h2 { "Events that could not be mapped" } a href=(all) { "All of these cases" } }
            @if provider.unmapped.is_empty() {
                p.good { "None is open." }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Events that could not be mapped" {
                    table {
                        thead { tr { th { "Kind of event" } th.n { "Open cases" } th { "Newest" } th { "Last received" } } }
                        tbody {
                            @for kind in &provider.unmapped {
                                tr {
                                    td { @if kind.event.is_empty() { span.faint { "not said" } } @else { (id(&kind.event)) } }
                                    td.n { (number(kind.cases)) }
                                    td { a href={ "/quarantine/" (kind.newest_case) } { "case " (kind.newest_case) } }
                                    td { (ago(kind.last_seen_at)) }
                                }
                            }
                        }
                    }
                }
                p.note { "Each of them is money that was verified and not booked. Fix the configuration, then replay the cases." }
            }
        }
    }
}

fn endpoints(provider: &Provider, edge: &Edge) -> Markup {
    html! {
        @if !provider.endpoints.is_empty() {
            section.card {
                h2 { "Endpoints" }
                div.scroll tabindex="0" role="region" aria-label="Endpoints" {
                    table {
                        thead { tr { th { "Path" } th { "Outcome" } th.n { (window(edge)) } th.n { "Since the ingress started" } th { "Certificate valid until" } } }
                        tbody {
                            @for (path, endpoint) in &provider.endpoints {
                                @if endpoint.requests.is_empty() {
                                    tr { td { (id(path)) } td { span.faint { "no request yet" } } td.n { "–" } td.n { "–" } td { (until(endpoint)) } }
                                }
                                @for (outcome, count) in &endpoint.requests {
                                    tr {
                                        td { (id(path)) }
                                        td { (visible(outcome)) }
                                        td.n { (number(count.last_hour)) }
                                        td.n { (number(count.since_start)) }
                                        td { (until(endpoint)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn until(endpoint: &EndpointSeen) -> Markup {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let at = endpoint.certificate_not_after_s.map(|seconds| seconds as i64);
    let at = at.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.map_or_else(|| html! { span.faint { "–" } }, instant)
}
