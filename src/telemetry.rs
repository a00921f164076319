//! Logs: to standard error, as text or JSON. Ids, hashes, sizes, states and codes are logged; never bodies, secrets or
//! addresses with passwords.
//!
//! And traces, where an OTLP endpoint is set: one tree of spans per batch, with links to the traces of the publishers. Spans have a
//! target of their own that logs never show; without an endpoint nobody asks for them, and tracing switches them off where they are
//! made. The only place that knows OpenTelemetry.

use std::{future::Future, io::IsTerminal, pin::Pin, time::Duration};

use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// What spans are made with as `target`.
pub const SPANS: &str = "payonce::span";

/// Publishers that one batch is linked to at most, which is also what OpenTelemetry allows a span by default.
pub const LINKS_MAX: usize = 128;

/// After so long a collector that does not answer is no longer waited for, and the spans are dropped with it.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);

/// Length of a W3C `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// What runs until the program ends. [`Telemetry::stop`] sends what has not been sent.
#[must_use]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logs, and traces where `otlp_endpoint` is set, such as `http://127.0.0.1:4318`. A second call changes nothing. To be
/// called inside the runtime, which sends the spans.
///
/// # Errors
/// Words for what is wrong with the endpoint.
pub fn start(level: &str, json: bool, otlp_endpoint: Option<&str>) -> Result<Telemetry, String> {
    // lapin and sqlx log every reconnect of their own as errors; payonce reports those itself, once. A channel that the broker
    // closes may be an answer, not a failure: a user that may not declare is told so by it.
    let filter =
        EnvFilter::new(format!("payonce={level},{SPANS}=off,warn,lapin=error,lapin::channel=off,sqlx=error"));
    let logs = if json {
        fmt::layer().json().with_writer(std::io::stderr).boxed()
    } else {
        let colour = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        fmt::layer().with_ansi(colour).with_writer(std::io::stderr).boxed()
    };
    let provider = otlp_endpoint.map(provider).transpose()?;
    let subscriber = tracing_subscriber::registry().with(logs.with_filter(filter));
    // No layer at all without an endpoint: `None` as a layer wants every span.
    let started = match &provider {
        None => subscriber.try_init(),
        Some(provider) => {
            let traces = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("payonce"))
                .with_location(false)
                .with_threads(false)
                .with_level(false)
                .with_target(false)
                .with_tracked_inactivity(false);
            let only_spans = Targets::new().with_target(SPANS, tracing::Level::INFO);
            subscriber.with(traces.with_filter(only_spans)).try_init()
        }
    };
    // Fails only where a subscriber is set already, as in tests that start several workers.
    drop(started);
    Ok(Telemetry(provider))
}

impl Telemetry {
    /// Sends the last spans, for at most five seconds. To be called from outside the runtime, while that is still there.
    pub fn stop(self) {
        if let Some(provider) = self.0 {
            // A collector that is down has been logged by then.
            drop(provider.shutdown_with_timeout(EXPORT_DEADLINE));
        }
    }
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let client = OnRuntime {
        runtime: Handle::current(),
        client: HyperClient::with_default_connector(EXPORT_DEADLINE, None),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_DEADLINE)
        .build()
        .map_err(|error| format!("otlp_endpoint: {error}"))?;
    let resource = Resource::builder_empty()
        .with_attribute(KeyValue::new("service.name", "payonce"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_max_links_per_span(u32::try_from(LINKS_MAX).unwrap_or(u32::MAX))
        .with_resource(resource)
        .build())
}

/// The SDK sends from a thread of its own, hyper needs a runtime.
#[derive(Debug)]
struct OnRuntime {
    runtime: Handle,
    client: HyperClient,
}

impl HttpClient for OnRuntime {
    // The trait is one of `async_trait`, written out.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.client.clone();
        let sending = self.runtime.spawn(async move { client.send_bytes(request).await });
        Box::pin(async move { sending.await? })
    }
}

/// Links a span to the traces that these W3C `traceparent` headers name, those that cannot be read left out.
pub fn link<'a>(span: &Span, traceparents: impl Iterator<Item = &'a [u8]>) {
    if span.is_disabled() {
        return;
    }
    let mut linked: Vec<SpanContext> = Vec::new();
    for context in traceparents.filter_map(context) {
        // Callbacks published together often come from one trace.
        if linked.len() < LINKS_MAX && !linked.contains(&context) {
            span.add_link(context.clone());
            linked.push(context);
        }
    }
}

/// `00-<trace id>-<span id>-<flags>` (W3C Trace Context, 3.2). Later versions may be longer, but begin the same.
fn context(header: &[u8]) -> Option<SpanContext> {
    let text = std::str::from_utf8(header.get(..TRACEPARENT_BYTES)?).ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let are_hex = [(version, 2), (trace, 32), (span, 16), (flags, 2)].iter().all(|(part, len)| {
        part.len() == *len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    if !are_hex || version == "ff" {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_endpoint_no_span_is_made_however_much_is_logged() {
        drop(start("trace", false, None));
        let batch = tracing::info_span!(target: SPANS, "batch");
        assert!(batch.is_disabled());
        assert!(
            !tracing::info_span!(target: "payonce::worker", "another").is_disabled(),
            "logs were not started"
        );
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_says_or_not_at_all() {
        let good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = context(good).expect("the standard's own example");
        assert_eq!(read.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(read.span_id().to_string(), "00f067aa0ba902b7");
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
        ] {
            assert!(context(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
