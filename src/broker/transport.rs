//! The stream below lapin: TCP or TLS, with every frame of the broker made harmless by `frame` before lapin reads it. lapin takes such a
//! stream by `Connection::connector`. What must not live here: what a frame means.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, TokioRuntime, traits::Reactor, util::RuntimeParts};
use futures_util::{AsyncRead, AsyncWrite, Stream};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, OwnedTLSConfig},
    uri::AMQPUri,
};

use super::frame::{END_BYTES, HEAD_BYTES, holds_texts, sanitize};

/// The largest method or content-header frame that is held back. RabbitMQ's `frame_max` is 131 072 bytes unless its configuration says otherwise.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// How much is read from the network at once.
const READ_BYTES: usize = 65_536;

/// Opens a connection whose frames are made harmless on their way in.
///
/// # Errors
/// As lapin's own `connect`.
pub async fn open(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let network = TokioRuntime::tokio_current();
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Guarded(Tokio::current())));
    let connect = async move |uri: AMQPUri, _: Runtime<RuntimeParts<Tokio, Guarded>>| {
        let stream = uri.connect_with_config_async(tls.as_ref(), &network).await?;
        Ok(AsyncTcpStream::Plain(Sanitized::new(stream)))
    };
    Connection::connector(uri, runtime, connect, properties).await
}

/// Tokio's reactor, but for the type of its streams.
#[derive(Debug, Clone)]
struct Guarded(Tokio);

impl Reactor for Guarded {
    type TcpStream = Sanitized<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Sanitized::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}

/// A stream whose method and content-header frames are held back until they are whole, and made harmless; bodies and heartbeats are handed
/// through as they come.
struct Sanitized<S> {
    stream: S,
    /// Up to `taken` lapin has it, up to `released` it may take it, up to `filled` the network has brought it.
    buffer: Vec<u8>,
    taken: usize,
    released: usize,
    filled: usize,
    /// Bytes of a frame that is handed through which are not released yet.
    through: usize,
}

impl<S> Sanitized<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), taken: 0, released: 0, filled: 0, through: 0 }
    }

    /// Releases all that is whole.
    fn release(&mut self) -> io::Result<()> {
        loop {
            let through = self.through.min(self.filled - self.released);
            self.released += through;
            self.through -= through;
            let left = self.buffer.get_mut(self.released..self.filled).unwrap_or_default();
            let Some(&[frame_type, _, _, a, b, c, d]) = left.first_chunk::<HEAD_BYTES>() else {
                return Ok(());
            };
            let payload = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let whole = payload.saturating_add(HEAD_BYTES + END_BYTES);
            if !holds_texts(frame_type) {
                self.through = whole;
            } else if whole > FRAME_BYTES_MAX {
                let problem =
                    format!("RabbitMQ sent a frame of {whole} bytes; at most {FRAME_BYTES_MAX} are read");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            } else if left.len() >= whole
                && let Some(payload) = left.get_mut(HEAD_BYTES..HEAD_BYTES + payload)
            {
                sanitize(frame_type, payload);
                self.released += whole;
            } else {
                return Ok(());
            }
        }
    }

    /// Makes room for the next read, after what is not taken yet.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.taken..self.filled, 0);
        (self.filled, self.released, self.taken) = (self.filled - self.taken, self.released - self.taken, 0);
        if self.buffer.len() < self.filled + READ_BYTES {
            self.buffer.resize(self.filled + READ_BYTES, 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sanitized<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.taken == this.released {
            this.make_room();
            let room = this.buffer.get_mut(this.filled..).unwrap_or_default();
            let count = ready!(Pin::new(&mut this.stream).poll_read(context, room))?;
            if count == 0 {
                // The end; of a frame that is cut off nothing is handed on.
                return Poll::Ready(Ok(0));
            }
            this.filled += count;
            this.release()?;
        }
        let ready = this.buffer.get(this.taken..this.released).unwrap_or_default();
        let count = Read::read(&mut &*ready, into)?;
        this.taken += count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sanitized<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(context)
    }
}
