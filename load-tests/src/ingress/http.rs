//! A client that writes HTTP/1.1 byte by byte, so that it costs little and can say what no library would. What must not live here: what is
//! asked, and what is a right answer.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 65_536;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub has_retry_after: bool,
    pub body: String,
}

/// One connection, opened when it is needed.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    bytes: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, bytes: Vec::with_capacity(1_024) }
    }

    /// Sends a request, and reads its answer.
    ///
    /// # Errors
    /// Where the connection ends before the answer; the next request opens another one.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.context("no connection")?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        // A refusal may come before all is read, and the connection end with it.
        let written = stream.write_all(request).await;
        self.bytes.clear();
        let (answer, keeps_open) = read(&mut stream, &mut self.bytes).await?;
        if keeps_open && written.is_ok() {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    /// Lets go of the connection.
    pub fn hang_up(&mut self) {
        self.stream = None;
    }

    /// Whether the other side has kept the connection since the last answer.
    pub fn is_open(&self) -> bool {
        let would_block = |cause: std::io::Error| cause.kind() == std::io::ErrorKind::WouldBlock;
        self.stream.as_ref().is_some_and(|stream| stream.try_read(&mut [0]).is_err_and(would_block))
    }
}

/// One answer, and whether the connection stays open.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> anyhow::Result<(Answer, bool)> {
    loop {
        ensure!(bytes.len() < ANSWER_BYTES_MAX, "an answer without an end");
        ensure!(stream.read_buf(bytes).await? > 0, "the connection was closed before the answer");
        let Some(at) = bytes.windows(END_OF_HEAD.len()).position(|part| part == END_OF_HEAD) else {
            continue;
        };
        let head = String::from_utf8_lossy(bytes.get(..at).unwrap_or_default()).to_ascii_lowercase();
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = value("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        let body = bytes.get(at + END_OF_HEAD.len()..).unwrap_or_default();
        if body.len() < length {
            continue;
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        let answer = Answer {
            status,
            has_retry_after: value("retry-after:").is_some(),
            body: String::from_utf8_lossy(body).into_owned(),
        };
        return Ok((answer, value("connection:") != Some("close")));
    }
}
