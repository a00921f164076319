//! One POST to a subscriber over HTTP/1.1, and the connections that are kept for the next. Redirects are not followed, no proxy is asked, and
//! of an answer only its status and `Retry-After` are read. What must not live here: what is sent, and what becomes of an answer.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use url::{Host, Url};

use super::network::{addresses, is_public, is_this_machine};
use crate::{
    config::SubscriberConfig,
    http,
    signature::{Headers, ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER},
    tls,
};

/// Bytes of an answer that are read, so that its connection serves again; of a longer one the connection is closed.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long the rest of an answer may take after its status, for the same; a longer one is cut off, its status counts.
const ANSWER_REST_MAX: Duration = Duration::from_secs(1);
/// How long a connection is kept without use, less than servers do.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// What a subscriber answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx: it has the event.
    Taken,
    /// 410: it wants no more events.
    Gone,
    /// Another status; when it wants to be asked again, where it says so.
    Refused(u16, Option<Duration>),
    /// Nothing, within the time-out.
    TimedOut,
    /// There is no connection, or it ended early.
    Unreachable(String),
}

impl Answer {
    /// For the metric.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Gone => "gone",
            Self::Refused(..) => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

type Link = SendRequest<Full<Bytes>>;

/// Where a subscriber is.
pub(super) struct Address {
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    private_network: bool,
    timeout: Duration,
    idle: Mutex<Vec<(Instant, Link)>>,
}

impl Address {
    /// Reads the address and the authorities.
    ///
    /// # Errors
    /// Words that begin with the member's name and do not repeat the address, which may hold a secret.
    pub(super) fn new(subscriber: &SubscriberConfig, timeout: Duration) -> Result<Self, String> {
        let url = Url::parse(&subscriber.url).map_err(|cause| format!("url: {cause}"))?;
        let is_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("url: expected https://host/path".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("url: a user, a password or a fragment is not sent; the signature proves who sends"
                .to_owned());
        }
        let found = url.host().ok_or("url: names no host")?;
        let (host, literal) = match &found {
            Host::Domain(name) => ((*name).to_owned(), None),
            Host::Ipv4(address) => (address.to_string(), Some((*address).into())),
            Host::Ipv6(address) => (address.to_string(), Some((*address).into())),
        };
        let may_be_private = subscriber.private_network || is_this_machine(&host);
        if !is_tls && !may_be_private {
            return Err("url: http:// is for this machine; use https://, or private_network = true in a network that you trust".to_owned());
        }
        if literal.is_some_and(|address| !is_public(address)) && !may_be_private {
            return Err(
                "url: not a public address; where that is meant, set private_network = true".to_owned()
            );
        }
        let port = url.port_or_known_default().ok_or("url: names no port")?;
        let authority = url.port().map_or_else(|| found.to_string(), |port| format!("{found}:{port}"));
        let path =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| "url: no certificate can have this host's name")?;
            Some((connector(subscriber.ca_file.as_deref())?, name))
        } else {
            None
        };
        let private_network = subscriber.private_network;
        Ok(Self { host, port, authority, path, tls, private_network, timeout, idle: Mutex::default() })
    }

    /// Sends one event, and waits for the answer.
    pub(super) async fn post(&self, signed: &Headers, body: Vec<u8>) -> Answer {
        let body = Bytes::from(body);
        match tokio::time::timeout(self.timeout, self.exchange(signed, body)).await {
            Ok(Ok((response, link))) => self.read(response, link).await,
            Ok(Err(problem)) => Answer::Unreachable(problem),
            Err(_) => Answer::TimedOut,
        }
    }

    async fn exchange(&self, signed: &Headers, body: Bytes) -> Result<(Response<Incoming>, Link), String> {
        // The other side may close what it has kept long enough at any time: that is no failure of its.
        if let Some(mut link) = self.kept()
            && link.ready().await.is_ok()
            && let Ok(response) = link.send_request(self.request(signed, body.clone())?).await
        {
            return Ok((response, link));
        }
        let mut link = self.connect().await?;
        let response =
            link.send_request(self.request(signed, body)?).await.map_err(|cause| cause.to_string())?;
        Ok((response, link))
    }

    fn request(&self, signed: &Headers, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, concat!("payonce/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/cloudevents+json");
        let signed = [
            (ID_HEADER, &signed.id),
            (TIMESTAMP_HEADER, &signed.timestamp),
            (SIGNATURE_HEADER, &signed.signature),
        ];
        for (name, value) in signed {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Full::new(body)).map_err(|cause| cause.to_string())
    }

    async fn read(&self, response: Response<Incoming>, link: Link) -> Answer {
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        // What it says beside the status is nobody's here; it is read so that the connection can be used again, and only if it ends soon.
        let rest = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        if matches!(tokio::time::timeout(ANSWER_REST_MAX, rest).await, Ok(Ok(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), link));
        }
        match status.as_u16() {
            200..=299 => Answer::Taken,
            410 => Answer::Gone,
            other => Answer::Refused(other, retry_after.map(|pause| pause.min(RETRY_AFTER_MAX))),
        }
    }

    /// A connection that is open still.
    fn kept(&self) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, link)| since.elapsed() < IDLE_MAX && !link.is_closed());
        idle.pop().map(|(_, link)| link)
    }

    async fn connect(&self) -> Result<Link, String> {
        let found = addresses(&self.host, self.port, self.private_network)
            .await
            .map_err(|cause| cause.to_string())?;
        let stream = http::connect(&found, self.timeout).await?;
        // Small requests, each waited for: nothing is gained by holding one back.
        drop(stream.set_nodelay(true));
        match &self.tls {
            Some((connector, name)) => {
                let opened = connector.connect(name.clone(), stream).await;
                handshake(opened.map_err(|cause| format!("TLS: {cause}"))?).await
            }
            None => handshake(stream).await,
        }
    }
}

async fn handshake<S>(stream: S) -> Result<Link, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::Builder::new().max_buf_size(ANSWER_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (link, connection) = shaken.map_err(|cause| cause.to_string())?;
    // Ends when the link is dropped, or the other side closes; the link says which.
    tokio::spawn(async move { drop(connection.await) });
    Ok(link)
}

/// The system's authorities, and the file's.
fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let roots = tls::roots(ca_file).map_err(|problem| format!("ca_file: {problem}"))?;
    if roots.is_empty() {
        return Err(
            "url: the system trusts no authority, so that no certificate could be right; set ca_file"
                .to_owned(),
        );
    }
    Ok(TlsConnector::from(Arc::new(tls::client(roots)?)))
}
