//! What every `payonce ingress` says of itself: its metrics, asked for every few seconds by one task, whoever looks. Counts go on over a
//! restart of an ingress. What must not live here: what the database knows of a provider.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::Request;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config::EndpointConfig, http};

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(5);
/// How long one ingress may take for its answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4_194_304;
/// Over how long counts are shown: one hour.
const WINDOW: Duration = Duration::from_secs(3_600);
/// Between two of the readings that are kept for it.
const STEP: Duration = Duration::from_secs(60);
/// Counters that are followed, of all ingresses together; further ones are left out.
const COUNTERS_MAX: usize = 20_000;

const REQUESTS: &str = "payonce_ingress_requests_total";
const REFUSED: &str = "payonce_ingress_refused_total";
const LAST: &str = "payonce_ingress_last_webhook_timestamp_seconds";
const INFO: &str = "payonce_ingress_endpoint_info";
const CERTIFICATE: &str = "payonce_ingress_certificate_not_after_timestamp_seconds";

/// What is asked, and what the configuration says of the endpoints.
pub struct EdgeSources {
    /// `HOST:PORT` of each `payonce ingress --health-listen`.
    pub addresses: Vec<String>,
    /// Endpoints of this process's own configuration file.
    pub endpoints: Vec<EndpointConfig>,
}

/// A number lately, and since the ingresses that run now have started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub(super) last_hour: u64,
    pub(super) since_start: u64,
}

/// One endpoint, of all ingresses together.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct EndpointSeen {
    pub(super) provider: String,
    pub(super) source: String,
    /// Seconds since 1970, of the last webhook with a right signature.
    pub(super) last_webhook_s: Option<f64>,
    /// Requests, by what became of them.
    pub(super) requests: BTreeMap<String, Count>,
    /// Refused signatures, by cause.
    pub(super) refused: BTreeMap<String, Count>,
    /// Seconds since 1970: until when what verifies its webhooks is valid, where that is a certificate.
    pub(super) certificate_not_after_s: Option<f64>,
}

/// The edge as it is.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Edge {
    /// Whether each ingress answers, by its address.
    pub(super) ingresses: BTreeMap<String, bool>,
    /// By path.
    pub(super) endpoints: BTreeMap<String, EndpointSeen>,
    /// Over how many seconds `last_hour` counts: less than an hour after a start of this process.
    pub(super) window_s: u64,
}

/// The readings.
pub(super) struct EdgeWatch {
    now: Mutex<Arc<Edge>>,
}

impl EdgeWatch {
    pub(super) fn new(sources: &EdgeSources) -> Self {
        Self { now: Mutex::new(Arc::new(Edge { endpoints: configured(sources), ..Edge::default() })) }
    }

    pub(super) fn now(&self) -> Arc<Edge> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks again and again, until `stop`.
    pub(super) async fn run(&self, sources: &EdgeSources, stop: &CancellationToken) {
        if sources.addresses.is_empty() {
            return;
        }
        let mut counters = Counters::new(Instant::now());
        let mut is_up: BTreeMap<&str, bool> = BTreeMap::new();
        loop {
            let asked = sources.addresses.iter().map(|address| async move {
                let answer = tokio::time::timeout(DEADLINE, ask(address)).await;
                (address.as_str(), answer.unwrap_or_else(|_| Err("no answer in time".to_owned())))
            });
            let answers = tokio::select! {
                () = stop.cancelled() => return,
                answers = futures_util::future::join_all(asked) => answers,
            };
            let mut edge = Edge { endpoints: configured(sources), ..Edge::default() };
            for (address, answer) in answers {
                let was_up = is_up.insert(address, answer.is_ok());
                edge.ingresses.insert(address.to_owned(), answer.is_ok());
                match answer {
                    Ok(text) => {
                        if was_up == Some(false) {
                            info!(address, "an ingress answers again");
                        }
                        counters.take(&mut edge, address, &text);
                    }
                    Err(cause) if was_up != Some(false) => {
                        warn!(
                            address,
                            cause, "an ingress does not say how it is; pages show what was last known"
                        );
                    }
                    Err(_) => {}
                }
            }
            counters.show(&mut edge, Instant::now());
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(edge);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

fn configured(sources: &EdgeSources) -> BTreeMap<String, EndpointSeen> {
    let each = sources.endpoints.iter().map(|endpoint| {
        let (provider, source) = (endpoint.provider.clone(), endpoint.source.clone());
        (endpoint.path.clone(), EndpointSeen { provider, source, ..EndpointSeen::default() })
    });
    each.collect()
}

/// The metrics of one ingress.
async fn ask(address: &str) -> Result<String, String> {
    let stream = TcpStream::connect(address).await.map_err(|cause| cause.to_string())?;
    let request = Request::get("/metrics").header("host", address).body(Full::default());
    let request = request.map_err(|cause| cause.to_string())?;
    let (status, bytes) = http::exchange(stream, request, ANSWER_BYTES_MAX).await?;
    if !status.is_success() {
        return Err(format!("answered {}", status.as_u16()));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| "answered what is not UTF-8".to_owned())
}

/// One line of an exposition.
#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads `name{label="value",…} number`; `None` for any other line.
fn read(line: &str) -> Option<Series> {
    let (name, mut rest) = line.split_once('{').filter(|(name, _)| !name.starts_with('#'))?;
    let mut labels = BTreeMap::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let (mut value, mut characters) = (String::new(), after.char_indices());
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(label.trim_start_matches(',').to_owned(), value);
        rest = after.get(end + 1..)?;
        if rest.starts_with('}') {
            break;
        }
    }
    let value = rest.strip_prefix('}')?.trim().parse().ok()?;
    Some(Series { name: name.to_owned(), labels, value })
}

/// Counters of all ingresses, added up over their restarts.
struct Counters {
    /// (metric, endpoint, label) to its place in `sums`.
    places: BTreeMap<(&'static str, String, String), usize>,
    /// All that was counted while this process looked.
    sums: Vec<u64>,
    /// By address, then place: as it was the last time. What an ingress had counted before it was first asked is in no sum.
    before: BTreeMap<String, BTreeMap<usize, u64>>,
    /// Former sums, a minute apart.
    kept: VecDeque<(Instant, Vec<u64>)>,
}

impl Counters {
    fn new(now: Instant) -> Self {
        let kept = VecDeque::from([(now, Vec::new())]);
        Self { places: BTreeMap::new(), sums: Vec::new(), before: BTreeMap::new(), kept }
    }

    /// Takes over all that one ingress says.
    fn take(&mut self, edge: &mut Edge, address: &str, text: &str) {
        let is_first = !self.before.contains_key(address);
        let mut before = self.before.remove(address).unwrap_or_default();
        for Series { name, mut labels, value } in text.lines().filter_map(read) {
            let mut label = |name: &str| labels.remove(name).unwrap_or_default();
            let endpoint = label("endpoint");
            let counter = match name.as_str() {
                REQUESTS => Some((REQUESTS, endpoint, label("outcome"))),
                REFUSED => Some((REFUSED, endpoint, label("cause"))),
                INFO => {
                    let seen = edge.endpoints.entry(endpoint).or_default();
                    (seen.provider, seen.source) = (label("provider"), label("source"));
                    None
                }
                LAST => {
                    let seen = edge.endpoints.entry(endpoint).or_default();
                    seen.last_webhook_s = Some(seen.last_webhook_s.unwrap_or(0.0).max(value));
                    None
                }
                CERTIFICATE => {
                    let seen = edge.endpoints.entry(endpoint).or_default();
                    let other = seen.certificate_not_after_s.unwrap_or(f64::MAX);
                    seen.certificate_not_after_s = Some(other.min(value));
                    None
                }
                _ => None,
            };
            let Some(place) = counter.and_then(|counter| self.place(counter)) else { continue };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a counter: whole, not negative"
            )]
            let value = value as u64;
            let grown = match before.insert(place, value) {
                // Smaller than it was: the ingress has started again.
                Some(before) => value.checked_sub(before).unwrap_or(value),
                None if is_first => 0,
                None => value,
            };
            if let Some(sum) = self.sums.get_mut(place) {
                *sum = sum.saturating_add(grown);
            }
        }
        self.before.insert(address.to_owned(), before);
    }

    fn place(&mut self, counter: (&'static str, String, String)) -> Option<usize> {
        let next = self.places.len();
        let place = match self.places.get(&counter) {
            Some(place) => *place,
            None if next < COUNTERS_MAX => {
                self.sums.push(0);
                self.places.insert(counter, next);
                next
            }
            None => return None,
        };
        Some(place)
    }

    /// Writes the counts as they are at `now`.
    fn show(&mut self, edge: &mut Edge, now: Instant) {
        let age = |(at, _): &(Instant, Vec<u64>)| now.saturating_duration_since(*at);
        if self.kept.back().is_none_or(|kept| age(kept) >= STEP) {
            self.kept.push_back((now, self.sums.clone()));
        }
        // The newest one that is an hour old is where the window begins.
        while self.kept.get(1).is_some_and(|kept| age(kept) >= WINDOW) {
            self.kept.pop_front();
        }
        let first = self.kept.front();
        edge.window_s = first.map_or(0, age_s(now));
        for ((metric, endpoint, label), place) in &self.places {
            let at_first = first.and_then(|(_, sums)| sums.get(*place)).copied().unwrap_or(0);
            let sum = self.sums.get(*place).copied().unwrap_or(0);
            let since_start = self.before.values().filter_map(|before| before.get(place)).sum();
            let seen = edge.endpoints.entry(endpoint.clone()).or_default();
            let counts = if *metric == REQUESTS { &mut seen.requests } else { &mut seen.refused };
            counts.insert(label.clone(), Count { last_hour: sum.saturating_sub(at_first), since_start });
        }
    }
}

fn age_s(now: Instant) -> impl Fn(&(Instant, Vec<u64>)) -> u64 {
    move |(at, _)| now.saturating_duration_since(*at).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(n: u64) -> String {
        format!("# TYPE {REFUSED} counter\n{REFUSED}{{endpoint=\"/a\",cause=\"clock\"}} {n}\n")
    }

    #[test]
    fn a_line_is_read_whatever_its_labels_hold_and_other_lines_are_passed_over() {
        let labels =
            BTreeMap::from([("a".to_owned(), "x\"\\\n}=,é".to_owned()), ("b".to_owned(), String::new())]);
        let expected = Series { name: "n".to_owned(), labels, value: 1.5 };
        assert_eq!(read("n{a=\"x\\\"\\\\\\n}=,é\",b=\"\"} 1.5"), Some(expected));
        for line in ["", "# HELP n text", "n 1", "n{a=\"x} 1", "n{a=\"x\"}", "n{a=\"x\\", "n{a=\"x\"} one"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn counts_go_on_over_a_restart_and_what_was_before_the_first_look_is_not_of_this_hour() {
        let began = Instant::now();
        let mut counters = Counters::new(began);
        let mut count = |text: &str, at_s: u64| {
            let mut edge = Edge::default();
            counters.take(&mut edge, "one:1", text);
            counters.show(&mut edge, began + Duration::from_secs(at_s));
            (edge.endpoints["/a"].refused["clock"], edge.window_s)
        };
        assert_eq!(count(&refused(5), 0), (Count { last_hour: 0, since_start: 5 }, 0));
        assert_eq!(count(&refused(7), 60), (Count { last_hour: 2, since_start: 7 }, 60));
        // It was restarted, and has refused three since.
        assert_eq!(count(&refused(3), 120), (Count { last_hour: 5, since_start: 3 }, 120));
        assert_eq!(count(&refused(3), 3_660), (Count { last_hour: 3, since_start: 3 }, 3_600));
        assert_eq!(count(&refused(3), 9_000).0, Count { last_hour: 0, since_start: 3 });
    }
}
