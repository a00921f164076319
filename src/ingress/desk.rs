//! One request from its first header to its answer: which endpoint, how large, from whom, what it is, whether the broker has it. What must
//! not live here: connections (`edge`), and any provider's ways.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request as HttpRequest, Response, StatusCode, Version,
    body::{Body, Bytes, Incoming},
    header::{
        ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
        TRANSFER_ENCODING,
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    certificates::{Certificates, NotFetched},
    clock,
    endpoint::{Endpoint, Endpoints, Received},
    forwarded::Forwarded,
    limits::{Bodies, NoRoom, Rate, Room},
    outbox::Outbox,
    providers::{Answer, Probe, Refused},
    request::Request,
};
use crate::{
    config::{EndpointConfig, IngressConfig},
    metrics,
};

/// Largest body of a request, in bytes (contract §8).
pub const BODY_BYTES_MAX: usize = 1_048_576;
/// Memory for requests whose bodies come or are mapped, in KiB; beyond it requests are refused.
const BODIES_KIB_MAX: usize = 65_536;
/// How much of it those of one address may take: who sends slowly is in nobody else's way.
const BODIES_SHARE_KIB_MAX: usize = BODIES_KIB_MAX / 4;
/// What a request takes of it before a byte of its body has come: its headers and its task.
const HEAD_KIB: usize = 8;
/// What a provider is asked to wait before it sends again, in seconds.
const RETRY_AFTER_S: u64 = 5;
/// A cause of refusals is logged at most so often.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// What became of a request: the label of its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Money, and the broker has it.
    Accepted,
    /// No money.
    Ignored,
    /// Money that could not be mapped, and the broker has the request.
    Unmapped,
    /// It does not prove where it comes from.
    BadSignature,
    /// Not what the provider sends.
    Malformed,
    /// Too many bytes.
    TooLarge,
    /// The broker does not have it, or there is no room.
    Unavailable,
    /// Too many requests from one address.
    RateLimited,
    /// A provider's question when the endpoint is set up.
    Probe,
}

impl Counted {
    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Ignored => "ignored",
            Self::Unmapped => "unmapped",
            Self::BadSignature => "bad_signature",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::RateLimited => "rate_limited",
            Self::Probe => "probe",
        }
    }
}

/// Answers requests.
pub struct Desk {
    endpoints: RwLock<Arc<Endpoints>>,
    outbox: Outbox,
    certificates: Certificates,
    rate: Rate,
    began: Instant,
    requests_max: usize,
    in_work: AtomicUsize,
    bodies: Arc<Bodies>,
    body_deadline: Duration,
    forwarded: Forwarded,
    said: Mutex<std::collections::HashMap<(String, &'static str), Instant>>,
}

/// Leaves its place when it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Desk {
    /// A desk for these endpoints.
    #[must_use]
    pub fn new(
        endpoints: Endpoints,
        outbox: Outbox,
        certificates: Certificates,
        config: &IngressConfig,
    ) -> Self {
        tell(&endpoints);
        Self {
            endpoints: RwLock::new(Arc::new(endpoints)),
            outbox,
            certificates,
            rate: Rate::new(config.rate_per_second_max, config.rate_burst_max),
            began: Instant::now(),
            requests_max: config.requests_max,
            in_work: AtomicUsize::new(0),
            bodies: Arc::new(Bodies::new(BODIES_KIB_MAX, BODIES_SHARE_KIB_MAX)),
            body_deadline: Duration::from_millis(config.body_deadline_ms.into()),
            forwarded: Forwarded::new(&config.forwarded_header, config.trusted_proxies.clone()),
            said: Mutex::default(),
        }
    }

    /// From now on these endpoints are in force.
    pub fn replace(&self, endpoints: Endpoints) {
        tell(&endpoints);
        *self.endpoints.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(endpoints);
    }

    /// Reads the secrets again until `stop`, so that they can be rotated without a restart. Files that cannot be used are reported, and
    /// those from before stay in force.
    pub async fn keep_fresh(&self, configs: &[EndpointConfig], pause: Duration, stop: &CancellationToken) {
        let mut reported = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match Endpoints::open(configs) {
                Ok(endpoints) => {
                    reported.clear();
                    self.replace(endpoints);
                }
                Err(problems) if problems != reported => {
                    for problem in &problems {
                        error!(
                            problem,
                            "an endpoint's secrets cannot be used any more; those from before stay in force"
                        );
                    }
                    reported = problems;
                }
                Err(_) => {}
            }
        }
    }

    /// Answers one request.
    pub async fn answer(&self, request: HttpRequest<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let endpoints = Arc::clone(&self.endpoints.read().unwrap_or_else(PoisonError::into_inner));
        let Some(endpoint) = endpoints.get(request.uri().path()) else {
            return response(&Answer::empty(404));
        };
        let began = Instant::now();
        let (counted, answer) = self.take(endpoint, request, peer).await;
        metrics::ingress::answered(&endpoint.path, counted.as_str(), began.elapsed());
        answer
    }

    async fn take(
        &self,
        endpoint: &Endpoint,
        request: HttpRequest<Incoming>,
        peer: IpAddr,
    ) -> (Counted, Response<Full<Bytes>>) {
        let no = |counted, status: u16| (counted, response(&endpoint.provider.no(status)));
        let busy = |counted, status, seconds| {
            let (counted, mut answer) = no(counted, status);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            (counted, answer)
        };
        let lines = request.headers().get_all(self.forwarded.header()).iter();
        let sender = self.forwarded.sender(lines.map(HeaderValue::as_bytes), peer);
        if let Err(wait) = self.rate.take(&endpoint.path, sender, self.began.elapsed()) {
            return busy(Counted::RateLimited, 429, wait.as_secs() + 1);
        }
        let (head, body) = request.into_parts();
        let pairs =
            head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let mut request = Request::new(pairs, Vec::new());
        if head.method != Method::POST {
            let probe = Probe {
                method: head.method.as_str(),
                query: head.uri.query().unwrap_or_default(),
                request: &request,
            };
            if let Some(answer) = endpoint.provider.probe(probe) {
                return (Counted::Probe, response(&answer));
            }
            let (counted, mut answer) = no(Counted::Malformed, 405);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return (counted, answer);
        }
        // Whether a signature is over the packed or the unpacked bytes is anybody's guess.
        if is_coded(&head.headers, &CONTENT_ENCODING, "identity")
            || is_coded(&head.headers, &TRANSFER_ENCODING, "chunked")
        {
            return no(Counted::Malformed, 415);
        }
        let mut room = self.bodies.room(sender);
        // The rest of the body is not read: the connection has no use after that, and by HTTP/1.1 its client is told so.
        let last = |counted, status| {
            let (counted, mut answer) = no(counted, status);
            if head.version <= Version::HTTP_11 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            (counted, answer)
        };
        match self.read(body, &mut request.body, &mut room).await {
            Ok(()) => {}
            Err(Unread::TooLarge) => return last(Counted::TooLarge, 413),
            Err(Unread::Slow) => return last(Counted::Malformed, 408),
            Err(Unread::NoRoom(NoRoom::Full)) => return busy(Counted::Unavailable, 503, RETRY_AFTER_S),
            Err(Unread::NoRoom(NoRoom::Share)) => return busy(Counted::RateLimited, 429, RETRY_AFTER_S),
        }
        if let Some(at) = endpoint.provider.certificate_at(&request) {
            // In a box: each request would have room for what few of them need.
            match Box::pin(self.certificates.get(&at, sender)).await {
                Ok(certificate) => request.certificate = Some(certificate),
                // The provider has not signed this: it verifies by nothing.
                Err(NotFetched::Missing) => {}
                Err(cause @ (NotFetched::Failed | NotFetched::Late | NotFetched::TooMany)) => {
                    if self.is_to_be_said(endpoint, "certificate") {
                        warn!(endpoint = endpoint.path, cause = %cause, "a webhook was answered with 503; the provider sends it again");
                    }
                    return busy(Counted::Unavailable, 503, RETRY_AFTER_S);
                }
            }
        }
        // Only now, or whoever sends a body slowly, or waits for a certificate, would hold a place meanwhile.
        let _place = Place(&self.in_work);
        if self.in_work.fetch_add(1, Ordering::AcqRel) >= self.requests_max {
            return busy(Counted::Unavailable, 503, RETRY_AFTER_S);
        }
        let now_s = clock::now().as_secs();
        let received = endpoint.receive(&request, i64::try_from(now_s).unwrap_or(i64::MAX));
        let bytes = request.body.len();
        drop(request);
        let received = match received {
            Ok(received) => received,
            Err(Refused::BadSignature(cause)) => {
                metrics::ingress::refused(&endpoint.path, cause.as_str());
                if self.is_to_be_said(endpoint, cause.as_str()) {
                    warn!(
                        endpoint = endpoint.path,
                        cause = cause.as_str(),
                        bytes,
                        "a webhook was refused: its signature"
                    );
                }
                return no(Counted::BadSignature, 401);
            }
            Err(Refused::Malformed(why)) => {
                if self.is_to_be_said(endpoint, "malformed") {
                    warn!(
                        endpoint = endpoint.path,
                        bytes, why, "a webhook was refused: not what this provider sends"
                    );
                }
                return no(Counted::Malformed, 400);
            }
        };
        drop(room);
        if received.is_signed {
            metrics::ingress::heard(&endpoint.path, clock::now());
        }
        let counted = counted(&received);
        let Received { messages, unmapped, .. } = received;
        if let Err(cause) = self.outbox.publish(&endpoint.terms.source, messages).await {
            if self.is_to_be_said(endpoint, "unavailable") {
                warn!(endpoint = endpoint.path, cause = %cause, "a webhook was answered with 503; the provider sends it again");
            }
            return busy(Counted::Unavailable, 503, RETRY_AFTER_S);
        }
        for kind in &unmapped {
            metrics::ingress::unmapped(&endpoint.path, kind);
            if self.is_to_be_said(endpoint, "unmapped") {
                info!(
                    endpoint = endpoint.path,
                    event = kind,
                    "a webhook could not be mapped; it becomes a case"
                );
            }
        }
        (counted, response(&endpoint.provider.yes()))
    }

    async fn read(&self, body: Incoming, into: &mut Vec<u8>, room: &mut Room) -> Result<(), Unread> {
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return Err(Unread::TooLarge);
        }
        room.grow(HEAD_KIB).map_err(Unread::NoRoom)?;
        let reading = async {
            let mut body = body;
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| Unread::Slow)?.into_data() else { continue };
                if into.len() + data.len() > BODY_BYTES_MAX {
                    return Err(Unread::TooLarge);
                }
                let kib = (into.len() + data.len()).div_ceil(1_024) - into.len().div_ceil(1_024);
                room.grow(kib).map_err(Unread::NoRoom)?;
                into.extend_from_slice(&data);
            }
            Ok(())
        };
        tokio::time::timeout(self.body_deadline, reading).await.unwrap_or(Err(Unread::Slow))
    }

    /// Whoever sends nonsense decides how often: the log does not.
    fn is_to_be_said(&self, endpoint: &Endpoint, what: &'static str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match said.insert((endpoint.path.clone(), what), now) {
            Some(before) if now.duration_since(before) < LOG_PAUSE => {
                said.insert((endpoint.path.clone(), what), before);
                false
            }
            Some(_) | None => true,
        }
    }
}

/// What metrics say of endpoints that are in force.
fn tell(endpoints: &Endpoints) {
    for endpoint in endpoints.iter() {
        metrics::ingress::configured(&endpoint.path, endpoint.kind.name, &endpoint.terms.source);
        if let Some(at_s) = endpoint.provider.certificates_end_s() {
            metrics::ingress::certificate(&endpoint.path, at_s);
        }
    }
}

/// Why a body could not be read.
enum Unread {
    TooLarge,
    Slow,
    NoRoom(NoRoom),
}

/// One count for a request with several events: what a person has to look at comes first.
fn counted(received: &Received) -> Counted {
    if !received.unmapped.is_empty() {
        Counted::Unmapped
    } else if received.accepted > 0 {
        Counted::Accepted
    } else {
        Counted::Ignored
    }
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body.clone())));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !answer.content_type.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    }
    for (name, value) in &answer.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// Whether a request says that its bytes are packed, in any other way than the plain one.
fn is_coded(headers: &HeaderMap, name: &HeaderName, plain: &str) -> bool {
    let is_plain = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case(plain);
    headers
        .get_all(name)
        .iter()
        .any(|line| line.to_str().map_or(true, |line| line.split(',').any(|coding| !is_plain(coding.trim()))))
}
