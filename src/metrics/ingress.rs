//! The metrics of `payonce ingress`, by endpoint. What must not live here: metrics of other processes.

use std::time::Duration;

use metrics::{Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const REQUESTS: &str = "payonce_ingress_requests_total";
const DURATION: &str = "payonce_ingress_duration_seconds";
const REFUSED: &str = "payonce_ingress_refused_total";
const UNMAPPED: &str = "payonce_ingress_unmapped_total";
const LAST: &str = "payonce_ingress_last_webhook_timestamp_seconds";
const ENDPOINT: &str = "payonce_ingress_endpoint_info";
const CERTIFICATE: &str = "payonce_ingress_certificate_not_after_timestamp_seconds";
const CONNECTIONS: &str = "payonce_ingress_connections";
const PARKED: &str = "payonce_ingress_connections_parked";
const FETCHES: &str = "payonce_ingress_certificate_fetches_total";

/// Says what each is.
pub(super) fn describe() {
    describe_counter!(REQUESTS, "Webhooks answered, by endpoint and what became of them.");
    describe_histogram!(DURATION, Unit::Seconds, "Time from a webhook's headers to its answer.");
    describe_counter!(REFUSED, "Webhooks refused for their signature, by endpoint and cause.");
    describe_counter!(UNMAPPED, "Events that could not be mapped, by endpoint and kind.");
    describe_counter!(FETCHES, "Certificates that webhooks are verified by, fetched or not.");
    describe_gauge!(ENDPOINT, "1, with an endpoint's provider and source.");
    describe_gauge!(
        CERTIFICATE,
        Unit::Seconds,
        "Until when the certificate of this edge (endpoint empty), or the last one that verifies an endpoint's webhooks, is valid."
    );
    describe_gauge!(CONNECTIONS, "Connections that are open.");
    describe_gauge!(PARKED, "Open connections that are idle and hold no buffers.");
    describe_gauge!(LAST, Unit::Seconds, "When the last webhook with a right signature came.");
}

/// Something that a gauge counts for as long as it is there.
#[must_use]
pub struct Counted(Gauge);

impl Counted {
    fn by(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Self(gauge) = self;
        gauge.decrement(1.0);
    }
}

/// A connection is open until what is returned is dropped.
pub fn connection() -> Counted {
    Counted::by(gauge!(CONNECTIONS))
}

/// An open connection is idle, and holds no buffers, until what is returned is dropped.
pub fn parked() -> Counted {
    Counted::by(gauge!(PARKED))
}

/// A webhook was answered.
pub fn answered(endpoint: &str, outcome: &'static str, took: Duration) {
    let endpoint = endpoint.to_owned();
    counter!(REQUESTS, "endpoint" => endpoint.clone(), "outcome" => outcome).increment(1);
    histogram!(DURATION, "endpoint" => endpoint).record(took.as_secs_f64());
}

/// A webhook with a right signature came, so long after 1970.
pub fn heard(endpoint: &str, now: Duration) {
    gauge!(LAST, "endpoint" => endpoint.to_owned()).set(now.as_secs_f64());
}

/// A webhook was refused for its signature.
pub fn refused(endpoint: &str, cause: &'static str) {
    counter!(REFUSED, "endpoint" => endpoint.to_owned(), "cause" => cause).increment(1);
}

/// An event could not be mapped. Only who has an endpoint's secret decides which kinds there are.
pub fn unmapped(endpoint: &str, event: &str) {
    counter!(UNMAPPED, "endpoint" => endpoint.to_owned(), "event" => event.to_owned()).increment(1);
}

/// A certificate was fetched, or could not be.
pub fn certificate_fetched(is_there: bool) {
    counter!(FETCHES, "outcome" => if is_there { "fetched" } else { "failed" }).increment(1);
}

/// An endpoint is in force.
pub fn configured(endpoint: &str, provider: &'static str, source: &str) {
    let labels =
        [("endpoint", endpoint.to_owned()), ("provider", provider.to_owned()), ("source", source.to_owned())];
    gauge!(ENDPOINT, &labels).set(1.0);
}

/// A certificate is valid until then (seconds since 1970): that of the edge, where `endpoint` is empty, else what verifies its webhooks.
pub fn certificate(endpoint: &str, not_after_s: i64) {
    #[expect(clippy::cast_precision_loss, reason = "seconds below 2^52")]
    gauge!(CERTIFICATE, "endpoint" => endpoint.to_owned()).set(not_after_s as f64);
}
