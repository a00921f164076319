//! The time that a batch spends in each of its stages: told to metrics, and, where somebody collects traces, a span for each under
//! the span of its batch.

use std::time::Instant;

use tracing::{Span, info_span};

use super::{batch::Taken, lane::Lane};
use crate::{
    metrics::{self, Stage},
    telemetry,
};

/// A stage that has begun. Dropped without [`Timed::end`], it failed: its span ends, and it counts nowhere.
pub(super) struct Timed {
    stage: Stage,
    started: Instant,
    span: Span,
}

impl Timed {
    pub(super) fn begin(batch: &Span, stage: Stage) -> Self {
        let span = info_span!(target: telemetry::SPANS, parent: batch, "stage", otel.name = stage.as_str());
        Self { stage, started: Instant::now(), span }
    }

    pub(super) fn end(self) {
        metrics::stage_took(self.stage, self.started.elapsed());
        drop(self.span);
    }
}

/// The span of a batch, by the semantic conventions for messaging, linked to the publishers of its messages.
pub(super) fn batch_span(lane: &Lane, queue: &str, batch: &[Taken]) -> Span {
    let span = info_span!(
        target: telemetry::SPANS,
        parent: None,
        "batch",
        otel.name = format_args!("process {queue}"),
        otel.kind = "consumer",
        messaging.system = "rabbitmq",
        messaging.operation.name = "process",
        messaging.operation.r#type = "process",
        messaging.destination.name = queue,
        messaging.batch.message_count = batch.len(),
        messaging.client.id = lane.writer.as_str(),
    );
    telemetry::link(
        &span,
        batch.iter().filter_map(|taken| taken.delivery.traceparent.as_ref().map(|header| &header[..])),
    );
    span
}
