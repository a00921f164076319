//! The HTTP edge: connections, limits, time-outs. It faces the internet, so that everything here is bounded, and nothing is said of what
//! is not configured. What must not live here: what a webhook means.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    activity::{Activity, Watched},
    desk::Desk,
    tls::Tls,
};
use crate::{config::IngressConfig, metrics};

/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's headers together; hyper wants room for 8 KiB at least.
const HEADER_BYTES_MAX: usize = 16_384;
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 64;
/// Bytes of a body that HTTP/2 takes before somebody reads them, by request and by connection.
const WINDOW_BYTES: u32 = 65_535;
/// What a client of HTTP/2 says first on a connection without TLS: of the preface (RFC 9113, 3.4) as much as no request of HTTP/1.1 begins with.
const PREFACE: [u8; 4] = *b"PRI ";
/// After an error of the listener, such as no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long after SIGTERM a client may still begin a request, one that it sent before it could know. One of HTTP/2 that does not read what it
/// is told would stay until it is idle for too long.
const LAST_REQUEST_MAX: Duration = Duration::from_secs(1);
/// How long requests in work may take after SIGTERM: longer than a confirm.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// What a connection is held to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    connections_max: usize,
    /// For the headers of a request from their first byte on, for a TLS handshake, and before a client says anything.
    pub(super) headers: Duration,
    /// Between requests.
    pub(super) idle: Duration,
}

impl From<&IngressConfig> for Limits {
    fn from(config: &IngressConfig) -> Self {
        Self {
            connections_max: config.connections_max,
            headers: Duration::from_millis(config.headers_deadline_ms.into()),
            idle: Duration::from_millis(config.idle_max_ms.into()),
        }
    }
}

/// Serves until `stop`, then finishes what it has begun. Errors of the listener are waited out.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    desk: Arc<Desk>,
    limits: Limits,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let tasks = TaskTracker::new();
    loop {
        // No place, no accept: the kernel's queue holds what comes then.
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Err(cause) => {
                warn!(cause = %cause, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Ok((stream, peer)) => {
                let (tls, desk, stop) = (tls.clone(), Arc::clone(&desk), stop.clone());
                tasks.spawn(async move {
                    let _place = place;
                    let _counted = metrics::ingress::connection();
                    connection((stream, peer), tls, desk, limits, stop).await;
                });
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN_DEADLINE, tasks.wait()).await.is_err() {
        warn!(connections = tasks.len(), "connections were still open at the end of the deadline");
    }
}

async fn connection(
    (stream, peer): (TcpStream, SocketAddr),
    tls: Option<Tls>,
    desk: Arc<Desk>,
    limits: Limits,
    stop: CancellationToken,
) {
    // Answers are small: waiting for more to send would only make them late.
    drop(stream.set_nodelay(true));
    let activity = Arc::new(Activity::new(limits));
    // A client that says nothing costs no buffer: what would hold some is not made before it speaks.
    let mut first = [0; PREFACE.len()];
    let said = tokio::select! {
        said = tokio::time::timeout(limits.headers, stream.peek(&mut first)) => said,
        () = stop.cancelled() => return,
    };
    let Ok(Ok(1..)) = said else { return };
    let client = Client { peer: peer.ip(), desk, activity, stop };
    // In boxes, or each connection would have room for what only those over TLS need.
    match tls {
        None => Box::pin(client.serve(stream, first == PREFACE)).await,
        Some(tls) => Box::pin(client.serve_tls(stream, tls, limits.headers)).await,
    }
}

/// A stream over TCP, plain or not.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// How a connection was driven to where it is.
enum Driven {
    Ended,
    /// It has answered all it was asked, and waits.
    Idle,
}

/// One client, and what its requests are answered by.
struct Client {
    peer: IpAddr,
    desk: Arc<Desk>,
    activity: Arc<Activity>,
    stop: CancellationToken,
}

impl Client {
    async fn serve_tls(self, stream: TcpStream, tls: Tls, deadline: Duration) {
        let accepted = Box::pin(tokio::time::timeout(deadline, tls.acceptor().accept(stream))).await;
        match accepted {
            Ok(Ok(stream)) => {
                let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Box::pin(self.serve(stream, is_http_2)).await;
            }
            Ok(Err(cause)) => debug!(cause = %cause, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
    }

    async fn serve<S: Socket>(self, mut stream: S, is_http_2: bool) {
        if is_http_2 {
            // In a box, or every parked connection would have room for one of these.
            return Box::pin(self.serve_http_2(stream)).await;
        }
        let mut read_before = Bytes::new();
        loop {
            let Some((idle, rest)) = Box::pin(self.serve_http_1(stream, read_before)).await else { return };
            (stream, read_before) = (idle, rest);
            // Parked: no buffers, until the client says something more.
            let _parked = metrics::ingress::parked();
            let mut first = [0];
            let said = tokio::select! {
                said = tokio::time::timeout_at(self.activity.due().into(), stream.tcp().peek(&mut first)) => said,
                () = self.stop.cancelled() => return,
            };
            let Ok(Ok(1..)) = said else { return };
        }
    }

    /// Answers requests until the connection ends, or is idle and can be parked: with what was read of it and belongs to no request yet.
    async fn serve_http_1<S: Socket>(&self, stream: S, read_before: Bytes) -> Option<(S, Bytes)> {
        let mut builder = http1::Builder::new();
        // `Activity` ends headers that are late: hyper's own time-out would end idle connections too.
        builder.header_read_timeout(None).max_headers(HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX);
        let stream = Watched { stream, activity: Arc::clone(&self.activity), read_before };
        let mut connection = builder.serve_connection(TokioIo::new(stream), self.service());
        let shut_down = |connection: Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
        match self.drive(Pin::new(&mut connection), shut_down).await {
            Driven::Ended => None,
            Driven::Idle => {
                let parts = connection.into_parts();
                // A copy, also of nothing: the empty end of hyper's buffer keeps all 8 KiB of it.
                let read_before = Bytes::copy_from_slice(&parts.read_buf);
                Some((parts.io.into_inner().stream, read_before))
            }
        }
    }

    async fn serve_http_2<S: Socket>(self, stream: S) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES);
        let stream = Watched { stream, activity: Arc::clone(&self.activity), read_before: Bytes::new() };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), self.service()));
        let shut_down = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
        self.drive(connection.as_mut(), shut_down).await;
    }

    fn service(
        &self,
    ) -> impl HttpService<Incoming, ResBody = Full<Bytes>, Error = Infallible, Future: Send + 'static>
    + Unpin
    + use<> {
        let (desk, activity, peer) = (Arc::clone(&self.desk), Arc::clone(&self.activity), self.peer);
        service_fn(move |request: Request<Incoming>| {
            let (desk, activity) = (Arc::clone(&desk), Arc::clone(&activity));
            async move {
                let _in_work = activity.begins(request.version());
                Ok::<_, Infallible>(desk.answer(request, peer).await)
            }
        })
    }

    /// Lets a connection go on until it ends, is too slow, or can be parked.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        shut_down: fn(Pin<&mut C>),
    ) -> Driven {
        let activity = &self.activity;
        let due = |stopped: Option<Instant>| match stopped {
            Some(stopped) if !activity.is_in_work() => activity.due().min(stopped + LAST_REQUEST_MAX),
            Some(_) | None => activity.due(),
        };
        let next = |stopped: Option<Instant>| match activity.parks_at() {
            Some(parks_at) if stopped.is_none() => parks_at.min(due(stopped)),
            Some(_) | None => due(stopped),
        };
        let mut stopping = pin!(self.stop.cancelled());
        let mut stopped = None;
        let mut at = next(stopped);
        let mut alarm = pin!(tokio::time::sleep_until(at.into()));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    if let Err(cause) = ended {
                        debug!(cause = %cause, "a connection ended");
                    }
                    return Poll::Ready(Driven::Ended);
                }
                if stopped.is_none() && stopping.as_mut().poll(cx).is_ready() {
                    stopped = Some(Instant::now());
                    shut_down(connection.as_mut());
                    continue;
                }
                // One that is set too early costs less than one that is set anew with each request: it goes off, and is set then.
                let next = next(stopped);
                if next < at || alarm.is_elapsed() {
                    at = next;
                    alarm.as_mut().reset(at.into());
                }
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                // Requests of HTTP/2 begin and end without waking this task: the time may have moved on.
                let now = Instant::now();
                if due(stopped) <= now {
                    debug!("a connection was silent or slow for too long");
                    return Poll::Ready(Driven::Ended);
                }
                if stopped.is_none() && activity.parks_at().is_some_and(|parks_at| parks_at <= now) {
                    return Poll::Ready(Driven::Idle);
                }
            }
        })
        .await
    }
}
