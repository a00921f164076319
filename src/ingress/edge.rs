//! The HTTP edge: connections, limits, time-outs. It faces the internet, so that everything here is bounded, and nothing is said of what
//! is not configured. What must not live here: what a webhook means.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    activity::{Activity, Watched},
    desk::Desk,
    tls::Tls,
};
use crate::config::IngressConfig;

/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's headers together; hyper wants room for 8 KiB at least.
const HEADER_BYTES_MAX: usize = 16_384;
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 64;
/// Bytes of a body that HTTP/2 takes before somebody reads them, by request and by connection.
const WINDOW_BYTES: u32 = 65_535;
/// After an error of the listener, such as no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
    // A client that says nothing costs no buffer.
    let mut first = [0];
    let said = tokio::select! {
        said = tokio::time::timeout(limits.headers, stream.peek(&mut first)) => said,
        () = stop.cancelled() => return,
    };
    if !matches!(said, Ok(Ok(1..))) {
        return;
    }
    match tls {
        None => requests(stream, peer.ip(), desk, limits, stop).await,
        Some(tls) => match tokio::time::timeout(limits.headers, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => requests(stream, peer.ip(), desk, limits, stop).await,
            Ok(Err(cause)) => debug!(cause = %cause, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

async fn requests<S>(stream: S, peer: IpAddr, desk: Arc<Desk>, limits: Limits, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(limits));
    let seen = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (desk, activity) = (Arc::clone(&desk), Arc::clone(&seen));
        async move {
            let _in_work = activity.begins(request.version());
            Ok::<_, Infallible>(desk.answer(request, peer).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // `Activity` ends headers that are late: hyper's own time-out would end idle connections too.
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES);
    let stream = Watched { stream, activity: Arc::clone(&activity) };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopping = pin!(stop.cancelled());
    let mut is_stopping = false;
    let mut due = activity.due();
    let mut alarm = pin!(tokio::time::sleep_until(due.into()));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                if let Err(cause) = ended {
                    debug!(cause = %cause, "a connection ended");
                }
                return Poll::Ready(());
            }
            if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
                continue;
            }
            let now_due = activity.due();
            if now_due != due {
                due = now_due;
                alarm.as_mut().reset(due.into());
            }
            match alarm.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                // Requests of HTTP/2 begin and end without waking this task: the time may have moved on.
                Poll::Ready(()) if activity.due() > Instant::now() => {}
                Poll::Ready(()) => {
                    debug!("a connection was silent or slow for too long");
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
}
