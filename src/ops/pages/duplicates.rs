//! What is being rejected, by whom is it sent, and is any of it not a copy at all?

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use maud::{Markup, html};
use serde::Serialize;

use super::overview::chart;
use crate::{
    ledger::{Layer, OPERATOR_SOURCE, Reason},
    ops::{
        Pool, clock,
        history::{Range, SERIES},
        layout::{Frame, Place, ago, bar, empty, id, id_or_dash, instant, link, number, percent, visible},
        totals::Totals,
    },
    parameters::Parameters,
    store::{
        StoreError,
        history::{self, RepeatedKey},
        quarantine::{self, Filter, Page},
        report::CaseRow,
    },
};

/// Rows of each table.
const ROWS_MAX: i64 = 20;

/// One provider over a stretch of time.
#[derive(Debug, Default, Serialize)]
pub(in crate::ops) struct SourceRow {
    source: String,
    #[serde(flatten)]
    totals: Totals,
    /// Duplicates rejected, by all layers.
    duplicates: i64,
    /// New cases in which one key came with two contents.
    mismatches: i64,
}

impl SourceRow {
    fn count(&mut self, kind: &str, label: &str, n: i64) {
        self.totals.count(kind, label, n);
        self.duplicates = self.totals.duplicates();
        if kind == "quarantined" && label == Reason::PayloadMismatch.as_str() {
            self.mismatches += n;
        }
    }
}

/// All that the page shows, but the chart.
pub(in crate::ops) struct Seen {
    /// Open cases in which one key came with two contents, newest first.
    pub(in crate::ops) mismatches: Vec<CaseRow>,
    pub(in crate::ops) sources: Vec<SourceRow>,
    pub(in crate::ops) totals: Totals,
    pub(in crate::ops) keys: Vec<RepeatedKey>,
}

pub(in crate::ops) async fn seen(pool: &Pool, range: Range) -> Result<Seen, StoreError> {
    let (from, to) = (range.from(), clock::now().saturating_add(time::Duration::MINUTE));
    // Counts are by the minute, and older ones by the hour: the one that is cut by `from` is in.
    let from = from.saturating_sub(time::Duration::seconds(range.step_s.max(60)));
    // Side by side: each reads tens of thousands of rows.
    let counts = pool.reader.run(async |connection| {
        let filter =
            Filter { states: vec!["open"], reason: Some(Reason::PayloadMismatch), ..Filter::default() };
        let mismatches = quarantine::list(connection, &filter, Page::newest(ROWS_MAX)).await?;
        Ok((mismatches, history::sums(connection, from, to).await?))
    });
    let keys = pool.reader.run(async |connection| history::repeated_keys(connection, from, ROWS_MAX).await);
    let ((mismatches, sums), keys) = tokio::try_join!(counts, keys)?;
    let mut totals = Totals::default();
    let mut sources: BTreeMap<&str, SourceRow> = BTreeMap::new();
    for row in &sums {
        totals.count(&row.kind, &row.label, row.n);
        let source = sources
            .entry(&row.source)
            .or_insert_with(|| SourceRow { source: row.source.clone(), ..SourceRow::default() });
        source.count(&row.kind, &row.label, row.n);
    }
    // Corrections are by people here, not by a provider.
    sources.remove(OPERATOR_SOURCE);
    let mut sources: Vec<SourceRow> = sources.into_values().collect();
    sources.sort_by_key(|row| Reverse((row.totals.duplicates(), row.totals.received)));
    sources.truncate(usize::try_from(ROWS_MAX).unwrap_or(usize::MAX));
    Ok(Seen { mismatches, sources, totals, keys })
}

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let asked = Parameters::of_page(query.as_deref(), &["range", "source"]);
    let read =
        asked.and_then(|asked| Ok((Range::asked(&asked, "1h")?, asked.id("source")?.map(str::to_owned))));
    let (range, source) = match read {
        Ok(read) => read,
        Err(wrong) => return frame.wrong(&now, Place::Duplicates, &wrong),
    };
    let source = source.as_deref();
    let parameters: Vec<(&str, &str)> = source.map(|source| ("source", source)).into_iter().collect();
    let title = match source {
        Some(source) => format!("Duplicates rejected per second, of {}", visible(source)),
        None => "Duplicates rejected per second, by layer".to_owned(),
    };
    // Side by side: over 30 days, either takes a tenth of a second.
    let chart = chart(&pool, range, "/duplicates", &parameters, &title, Some("duplicates"));
    let (seen, chart) = tokio::join!(seen(&pool, range), chart);
    let seen = match seen {
        Ok(seen) => seen,
        Err(cause) => return frame.unavailable(&now, Place::Duplicates, &cause),
    };
    let body = html! {
        h1 { "Duplicates" }
        (mismatches(&seen.mismatches))
        (chart)
        div.columns {
            (layers(&seen.totals, range))
            (sources(&seen.sources, range))
        }
        (keys(&seen.keys, range))
    };
    frame.page(&now, Place::Duplicates, "Duplicates", body)
}

fn mismatches(cases: &[CaseRow]) -> Markup {
    html! {
        section.card data-state=(if cases.is_empty() { "up" } else { "down" }) {
            div.head {
                h2 { "Conflicting payloads (same event or operation id)" }
                a href="/quarantine?reason=payload_mismatch" { "All of them" }
            }
            @if cases.is_empty() {
                p.good { "None is open: every rejected duplicate had the same content as the first delivery." }
            } @else {
                p.problem { "These are not duplicates: an event or operation id that is known was received with another amount, account or type. Nothing of these is applied; a case shows what differs. Ask the provider which one is right." }
                div.scroll tabindex="0" role="region" aria-label="Open payload mismatches" {
                    table {
                        thead { tr { th { "Case" } th { "Event" } th { "Source" } th { "Detail" } th { "First seen" } } }
                        tbody {
                            @for case in cases {
                                tr {
                                    td { a href={ "/quarantine/" (case.id) } { (case.id) } }
                                    td { (id_or_dash(case.event_id.as_deref())) }
                                    td { (id_or_dash(case.source.as_deref())) }
                                    td { (visible(&case.detail)) }
                                    td { (ago(case.first_seen_at)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn layers(totals: &Totals, range: Range) -> Markup {
    let all = totals.duplicates();
    html! {
        section.card {
            h2 { "By detection layer, " (range.title) }
            div.scroll tabindex="0" role="region" aria-label="Detection layers" {
            table {
                thead { tr { th { "Layer" } th.n { "Duplicates" } th { "Share" } } }
                tbody {
                    @for (at, layer) in Layer::ALL.into_iter().enumerate() {
                        @let copies = totals.layers.get(at).copied().unwrap_or(0);
                        tr {
                            td { span.swatch data-series=(SERIES[at + 1]) aria-hidden="true" {} (layer.as_str()) br; span.faint { (meaning(layer)) } }
                            td.n { (number(copies)) }
                            td { (share_bar(copies, all)) }
                        }
                    }
                }
                tfoot { tr { th { "All" } td.n { (number(all)) } td {} } }
            }
            }
        }
    }
}

fn meaning(layer: Layer) -> &'static str {
    match layer {
        Layer::Batch => "a copy inside the same batch",
        Layer::Redis => "a done marker, confirmed",
        Layer::Ledger => "the ledger's unique key",
        Layer::Operation => "another event for the same fact",
        Layer::Quarantine => "a copy of a quarantined callback",
    }
}

fn sources(rows: &[SourceRow], range: Range) -> Markup {
    html! {
        section.card {
            h2 { "By provider, " (range.title) }
            @if rows.is_empty() {
                (empty("Nothing was received in this time", "Choose a longer range above."))
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Providers" {
                    table {
                        thead { tr { th { "Provider" } th.n { "Deliveries" } th.n { "Duplicates" } th { "Share of duplicates" } th.n { "Mismatches" } } }
                        tbody {
                            @for row in rows {
                                tr {
                                    td {
                                        @if row.source.is_empty() { span.faint { "not readable" } }
                                        @else { a href=(link("/duplicates", &[("range", range.name), ("source", &row.source)])) { (id(&row.source)) } }
                                    }
                                    td.n { (number(row.totals.received)) }
                                    td.n { (number(row.duplicates)) }
                                    td { (share_bar(row.duplicates, row.totals.received)) }
                                    td.n { (number(row.mismatches)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn share_bar(part: i64, whole: i64) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = part as f64 / whole.max(1) as f64;
    html! { span.share { (bar(share)) " " (percent(share)) } }
}

fn keys(rows: &[RepeatedKey], range: Range) -> Markup {
    html! {
        section.card {
            h2 { "Most repeated keys, " (range.title) }
            @if rows.is_empty() {
                (empty("No duplicate was rejected in this time", "Providers that deliver each callback a single time are rare; choose a longer range."))
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Most repeated keys" {
                    table {
                        thead { tr { th { "Event" } th { "Source" } th.n { "Duplicates in total" } th { "First duplicate" } th { "Last duplicate" } } }
                        tbody {
                            @for row in rows {
                                tr {
                                    td { a href=(link("/event", &[("source", &row.source), ("id", &row.event_id)])) { (id(&row.event_id)) } }
                                    td { (id(&row.source)) }
                                    td.n { (number(row.copies)) }
                                    td { (instant(row.first_seen_at)) }
                                    td { (ago(row.last_seen_at)) }
                                }
                            }
                        }
                    }
                }
                p.note { "Based on the latest 50,000 or so entries of the duplicate log; counts and times are over all of it." }
            }
        }
    }
}
