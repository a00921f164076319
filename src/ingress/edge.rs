//! The HTTP edge: connections, limits, time-outs. It faces the internet, so that everything here is bounded, and nothing is said of what
//! is not configured. What must not live here: what a webhook means.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{desk::Desk, tls::Tls};

/// How long a client may take for the headers of a request, for a TLS handshake, or before its first request.
const HEADERS_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests.
const IDLE_MAX: Duration = Duration::from_secs(60);
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

/// Serves until `stop`, then finishes what it has begun.
///
/// # Errors
/// None at present; the listener's errors are waited out.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    desk: Arc<Desk>,
    connections_max: usize,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(connections_max));
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
                    connection(stream, peer, tls, desk, stop).await;
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
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    desk: Arc<Desk>,
    stop: CancellationToken,
) {
    // Answers are small: waiting for more to send would only make them late.
    drop(stream.set_nodelay(true));
    // A client that says nothing costs no buffer.
    let said = tokio::select! {
        said = tokio::time::timeout(HEADERS_DEADLINE, stream.readable()) => said,
        () = stop.cancelled() => return,
    };
    if !matches!(said, Ok(Ok(()))) {
        return;
    }
    match tls {
        None => requests(stream, peer.ip(), desk, stop).await,
        Some(tls) => match tokio::time::timeout(HEADERS_DEADLINE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => requests(stream, peer.ip(), desk, stop).await,
            Ok(Err(cause)) => debug!(cause = %cause, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

/// When something last happened on a connection, and how much is in work.
struct Activity {
    began: Instant,
    last_ms: AtomicU64,
    in_work: AtomicUsize,
}

impl Activity {
    fn touch(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    fn idle_until(&self) -> tokio::time::Instant {
        let last = self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        tokio::time::Instant::from_std(last + IDLE_MAX)
    }
}

async fn requests<S>(stream: S, peer: IpAddr, desk: Arc<Desk>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity {
        began: Instant::now(),
        last_ms: AtomicU64::new(0),
        in_work: AtomicUsize::new(0),
    });
    let seen = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (desk, activity) = (Arc::clone(&desk), Arc::clone(&seen));
        async move {
            activity.in_work.fetch_add(1, Ordering::Relaxed);
            let answer: Response<Full<Bytes>> = desk.answer(request, peer).await;
            activity.touch();
            activity.in_work.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_DEADLINE)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .keep_alive_interval(Some(IDLE_MAX / 2))
        .keep_alive_timeout(HEADERS_DEADLINE);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(cause) = ended {
                    debug!(cause = %cause, "a connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(activity.idle_until()), if activity.in_work.load(Ordering::Relaxed) == 0 => {
                if activity.idle_until() <= tokio::time::Instant::now() {
                    return;
                }
            }
        }
    }
}
