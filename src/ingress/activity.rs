//! What happens on one connection, and until when the next thing has to: so that nobody holds a connection by sending a byte now and then, and
//! one that is idle holds no buffers. What must not live here: what a request says.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Version, body::Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::edge::Limits;

/// No headers have begun.
const NONE: u64 = u64::MAX;
/// So long after its last request a connection of HTTP/1.1 lets go of its buffers.
const PARK_AFTER: Duration = Duration::from_millis(100);

/// When something last happened on a connection, and how much is in work.
pub(super) struct Activity {
    began: Instant,
    limits: Limits,
    /// The end of the last request, in milliseconds since `began`.
    last_ms: AtomicU64,
    /// When the first byte came that belongs to no request yet, in milliseconds since `began`; [`NONE`]: none has come. Before the first request
    /// that is when the connection was opened.
    headers_ms: AtomicU64,
    in_work: AtomicUsize,
    /// By HTTP/2 bytes come between requests that are no headers, and many requests at once: how long it is idle is all that counts.
    is_multiplexed: AtomicBool,
    /// Something was written that has not left yet.
    is_writing: AtomicBool,
}

impl Activity {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            began: Instant::now(),
            limits,
            last_ms: AtomicU64::new(0),
            headers_ms: AtomicU64::new(0),
            in_work: AtomicUsize::new(0),
            is_multiplexed: AtomicBool::new(false),
            is_writing: AtomicBool::new(false),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn bytes_came(&self) {
        let is_between = self.in_work.load(Ordering::Relaxed) == 0;
        if is_between && self.headers_ms.load(Ordering::Relaxed) == NONE {
            self.headers_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// A request has come whole but for its body, and is in work until what is returned is dropped.
    pub(super) fn begins(self: &Arc<Self>, version: Version) -> InWork {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        self.headers_ms.store(NONE, Ordering::Relaxed);
        self.is_multiplexed.store(version == Version::HTTP_2, Ordering::Relaxed);
        InWork(Arc::clone(self))
    }

    /// When the connection has to end if nothing happens until then. While a request is in work that is never now: a request has deadlines
    /// of its own.
    pub(super) fn due(&self) -> Instant {
        let at = |ms: u64, length: Duration| self.began + Duration::from_millis(ms) + length;
        if self.in_work.load(Ordering::Relaxed) > 0 {
            return at(self.now_ms(), self.limits.idle);
        }
        let idle = at(self.last_ms.load(Ordering::Relaxed), self.limits.idle);
        let headers_ms = self.headers_ms.load(Ordering::Relaxed);
        if headers_ms == NONE || self.is_multiplexed.load(Ordering::Relaxed) {
            return idle;
        }
        at(headers_ms, self.limits.headers)
    }

    /// Whether any request is in work.
    pub(super) fn is_in_work(&self) -> bool {
        self.in_work.load(Ordering::Relaxed) > 0
    }

    /// When the connection may let go of its buffers; `None`: not while it is as it is.
    pub(super) fn parks_at(&self) -> Option<Instant> {
        let is_idle = self.in_work.load(Ordering::Relaxed) == 0
            && self.headers_ms.load(Ordering::Relaxed) == NONE
            && !self.is_writing.load(Ordering::Relaxed)
            && !self.is_multiplexed.load(Ordering::Relaxed);
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        is_idle.then(|| self.began + last + PARK_AFTER)
    }
}

/// A request in work.
pub(super) struct InWork(Arc<Activity>);

impl Drop for InWork {
    fn drop(&mut self) {
        let Self(activity) = self;
        activity.last_ms.store(activity.now_ms(), Ordering::Relaxed);
        activity.in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose reads and writes are noticed.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) activity: Arc<Activity>,
    /// Read before, and to be read again first.
    pub(super) read_before: Bytes,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read_before.is_empty() {
            let count = self.read_before.len().min(buffer.remaining());
            buffer.put_slice(&self.read_before.split_to(count));
            self.activity.bytes_came();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_came();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.is_writing.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes after it has written all that it holds.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.activity.is_writing.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.is_writing.store(true, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
