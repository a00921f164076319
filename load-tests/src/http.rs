//! Just enough HTTP to ask a server of payonce's over one connection, again and again, and to wait until one is ready. What must not live here:
//! what is asked.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
};

use crate::workers::last_lines;

const READY_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(50);
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends a whole request and reads the answer to it; the connection stays open.
pub async fn ask(stream: &mut TcpStream, request: &[u8]) -> anyhow::Result<Answer> {
    stream.write_all(request).await?;
    let mut bytes = Vec::with_capacity(2_048);
    let head_end = loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the server closed the connection");
        if let Some(at) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) {
            break at;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let mut answer = Answer { status, head, body: String::new() };
    let length: usize = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let begin = head_end + HEAD_END.len();
    while bytes.len() < begin + length {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the server closed the connection");
    }
    answer.body = String::from_utf8_lossy(&bytes[begin..]).into_owned();
    Ok(answer)
}

/// A loopback address for a program to listen on. Nothing connects from this one, so that its port stays free until then.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.2:0")?.local_addr()?)
}

/// Waits until `/readyz` on `health` says yes; fails where the process ends, or takes too long.
pub async fn wait_until_ready(health: SocketAddr, process: &mut Child, log: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(health).await
            && let Ok(answer) = ask(&mut stream, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await
            && answer.status == 200
        {
            return Ok(());
        }
        if process.try_wait()?.is_some() || began.elapsed() > READY_DEADLINE {
            bail!("not ready\n{}", last_lines(log));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
