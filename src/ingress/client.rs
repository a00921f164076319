//! One POST over a connection that is open: how samples are sent. What must not live here: any use of it while webhooks are answered.

use http_body_util::Full;
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::sample::Made;

/// Sends a request over HTTP/1.1; the status of its answer.
///
/// # Errors
/// Words for what the connection or the other side does.
pub async fn post<S>(stream: S, path: &str, host: &str, made: Made) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |cause: hyper::Error| cause.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driving = tokio::spawn(connection);
    let mut request = Request::post(path).header("host", host);
    for (name, value) in made.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(made.body))).map_err(|cause| cause.to_string())?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    let status = answer.status().as_u16();
    driving.abort();
    Ok(status)
}
