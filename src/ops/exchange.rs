//! One request over HTTP/1.1 on a connection of its own, and the whole of its answer. What must not live here: what is asked, and how often.

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Asks, and reads at most `answer_bytes_max` of the answer. The connection ends with this future, whichever way that does.
///
/// # Errors
/// Words for what the connection or the other side does.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |cause: hyper::Error| cause.to_string();
    let (mut link, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let exchange = async {
        let answer = link.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), answer_bytes_max).collect().await;
        let body = body.map_err(|_| format!("no whole answer of at most {answer_bytes_max} bytes"))?;
        Ok((status, body.to_bytes()))
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
