//! A way to a server that can be made to say nothing any more: connections stay open, and what the server answers does not arrive.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::POLL_PAUSE;

/// Stops when dropped, and with it every connection.
pub struct MuteProxy {
    port: u16,
    is_mute: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl MuteProxy {
    /// Listens on loopback, and passes on to the host and port of this URL.
    pub async fn before(url: &str) -> Self {
        let target = address(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let is_mute = Arc::new(AtomicBool::new(false));
        let rule = Arc::clone(&is_mute);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, target.clone(), Arc::clone(&rule)));
            }
        });
        Self { port, is_mute, accepting }
    }

    /// The URL by way of this proxy.
    pub fn url(&self, url: &str) -> String {
        url.replace(address(url), &format!("127.0.0.1:{}", self.port))
    }

    /// From now on no answer arrives, or all that were held back do.
    pub fn mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Ordering::SeqCst);
    }
}

impl Drop for MuteProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Host and port of a URL.
fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

async fn carry(client: TcpStream, target: String, is_mute: Arc<AtomicBool>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async {
        let mut chunk = vec![0; 16_384];
        while let Ok(count @ 1..) = from_server.read(&mut chunk).await {
            while is_mute.load(Ordering::SeqCst) {
                tokio::time::sleep(POLL_PAUSE).await;
            }
            if to_client.write_all(&chunk[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
    }
}
