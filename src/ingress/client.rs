//! How samples are sent. What must not live here: any use of it while webhooks are answered.

use std::net::SocketAddr;

use http_body_util::Full;
use hyper::{Request, body::Bytes, header::HOST};
use tokio::net::TcpStream;

use super::sample::Made;
use crate::http;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends one in clear text: to this machine, or a network that is trusted. The status of the answer.
///
/// # Errors
/// Words for what the connection or the other side does.
pub async fn send(to: SocketAddr, path: &str, made: Made) -> Result<u16, String> {
    let mut request = Request::post(path).header(HOST, to.to_string());
    for (name, value) in made.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(made.body))).map_err(|cause| cause.to_string())?;
    let stream = TcpStream::connect(to).await.map_err(|cause| cause.to_string())?;
    let (status, _) = http::exchange(stream, request, ANSWER_BYTES_MAX).await?;
    Ok(status.as_u16())
}
