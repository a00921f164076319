//! HTTP/1.1 as a client: a connection to the first address that answers, and one request over it. What must not live here: whom we ask, by
//! which name and certificate, and how often.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How many addresses of one name are tried.
const ADDRESSES_MAX: usize = 4;
/// Bytes that a connection holds at once: the head of an answer must fit.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Connects to the first of these addresses that answers, four at most. One that drops what is sent to it leaves time for the others, and for
/// what is asked, within `patience` as a whole.
///
/// # Errors
/// Words for why the last of them did not answer.
pub(crate) async fn connect(addresses: &[SocketAddr], patience: Duration) -> Result<TcpStream, String> {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    let each = patience / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
    let mut problem = "the name has no address".to_owned();
    for address in addresses {
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(cause)) => problem = cause.to_string(),
            Err(_) => problem = format!("{address} did not answer within {} ms", each.as_millis()),
        }
    }
    Err(problem)
}

/// Sends a request, and reads at most `answer_bytes_max` of the answer's body; of a longer one with another status than 200 nothing, as its
/// status says enough. The connection ends with this future, whichever way that does.
///
/// # Errors
/// Words for what the connection or the other side does.
pub(crate) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |cause: hyper::Error| cause.to_string();
    let shaken = http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(TokioIo::new(stream));
    let (mut link, connection) = shaken.await.map_err(failed)?;
    let exchange = async {
        let answer = link.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        match Limited::new(answer.into_body(), answer_bytes_max).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(_) if status != StatusCode::OK => Ok((status, Bytes::new())),
            Err(_) => Err(format!("no whole answer of at most {answer_bytes_max} bytes")),
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(cause) => Err(cause.to_string()),
        },
    }
}
