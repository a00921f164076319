//! An ingress in the test's process, with endpoints of several providers, and a client that speaks HTTP byte by byte.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use payonce::{
    config::{EndpointConfig, IngressConfig, RetryConfig, Secret},
    ingress::{
        certificates::Certificates,
        desk::Desk,
        edge,
        endpoint::{Endpoint, Endpoints},
        outbox::{Address, Outbox},
        sample::{self, Made, Sample},
        secrets::Secrets,
        tls::Tls,
    },
    keys::{Keyring, Keys, KeysError},
    signature::{Key, Kind, Policy, Rule},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, World, eventually};

/// A secret for each provider that a sample can be made of.
const SECRETS: [(&str, &str); 6] = [
    ("stripe", "whsec_sample"),
    ("adyen", "8E339EFD66564BAE60BDD289C69607E672CE34C97D237161C5AD2A42B6952544\nmerchant_account = Shop"),
    ("checkout", "checkout-secret"),
    ("razorpay", "razorpay-secret"),
    ("square", "square-key\nnotification_url = https://hooks.example.com/square"),
    ("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
];

/// An ingress in this process.
pub struct RunningIngress {
    pub address: SocketAddr,
    pub outbox: Outbox,
    pub desk: Arc<Desk>,
    pub folder: TempDir,
    pub configs: Vec<EndpointConfig>,
    stop: CancellationToken,
    hang_up: CancellationToken,
    serving: JoinHandle<()>,
    connecting: JoinHandle<()>,
}

/// What came back: the status, and all that followed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub head: String,
    pub body: String,
}

fn put(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    path
}

impl RunningIngress {
    /// One endpoint for each provider that samples are made of, under its name, with purpose deposit; connected.
    pub async fn new(world: &World) -> Self {
        let running = Self::start(world, &world.amqp_url, IngressConfig::default(), None).await;
        running.connected().await;
        running
    }

    /// Waits until it has found the broker.
    pub async fn connected(&self) {
        eventually("the ingress finds the broker", true, || {
            let ready = self.outbox.is_ready();
            async move { ready }
        })
        .await;
    }

    /// The same with this broker, these limits and this certificate, without waiting for anything.
    pub async fn start(world: &World, amqp_url: &str, config: IngressConfig, tls: Option<Tls>) -> Self {
        let folder = tempfile::Builder::new().prefix("payonce-it-").tempdir().expect("a folder");
        let keys_path = folder.path().join("keys.toml");
        let mut configs = Vec::new();
        for (provider, secret) in SECRETS {
            let says_itself = provider == "standard-webhooks";
            configs.push(EndpointConfig {
                path: format!("/{provider}"),
                provider: provider.to_owned(),
                source: format!("/providers/{provider}"),
                purpose: (!says_itself).then(|| "deposit".to_owned()),
                account: None,
                account_until: None,
                references: Default::default(),
                secrets_file: put(&folder, provider, secret),
                capture: ["adyen", "checkout"].contains(&provider).then(|| match provider {
                    "adyen" => "automatic".to_owned(),
                    _ => "manual".to_owned(),
                }),
                live: None,
            });
        }
        Keyring::edit(&keys_path, |rules| {
            for config in &configs {
                let keys = vec![Key::generate(Kind::Hmac).expect("random numbers")];
                rules.insert(config.source.clone(), Rule { policy: Policy::Required, keys });
            }
            Ok::<_, KeysError>(())
        })
        .expect("a keys file");
        let endpoints = Endpoints::open(&configs).unwrap_or_else(|problems| panic!("{problems:?}"));
        let address = Address {
            url: Secret::new(amqp_url.to_owned()),
            name: "payonce-it-ingress".to_owned(),
            tls: Default::default(),
            names: world.names(),
            channels: config.channels,
            retry: RetryConfig {
                delay_min: Duration::from_millis(10),
                delay_max: Duration::from_millis(100),
            },
        };
        let keys = Keys::open(Some(&keys_path), true).expect("the keys");
        let (stop, hang_up) = (CancellationToken::new(), CancellationToken::new());
        let (outbox, connecting) = Outbox::new(address, keys, hang_up.clone());
        let connecting = tokio::spawn(connecting);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let certificates = Certificates::open(&config).expect("authorities");
        let desk = Arc::new(Desk::new(endpoints, outbox.clone(), certificates, &config));
        let serving =
            tokio::spawn(edge::serve(listener, tls, Arc::clone(&desk), (&config).into(), stop.clone()));
        Self { address, outbox, desk, folder, configs, stop, hang_up, serving, connecting }
    }

    /// The keys file, for workers.
    pub fn keys_file(&self) -> String {
        self.folder.path().join("keys.toml").to_str().expect("UTF-8").to_owned()
    }

    /// A signed sample of a provider.
    pub fn sample(&self, provider: &str, event: &str, id: &str, amount: u64) -> Made {
        let config = self.configs.iter().find(|config| config.provider == provider).expect("an endpoint");
        let endpoint = Endpoint::open(config).expect("a sound endpoint");
        let names: Vec<&str> = endpoint.kind.names.iter().map(|(name, _)| *name).collect();
        let secrets = Secrets::load(&config.secrets_file, &names).expect("the secrets");
        let sample = Sample {
            event: event.to_owned(),
            id: id.to_owned(),
            account: "acct-1001".to_owned(),
            amount,
            currency: "EUR".to_owned(),
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("past 1970");
        sample::make(&endpoint, &secrets, &sample, now.as_secs()).expect("a sample")
    }

    /// Sends a request, and what came back.
    pub async fn post(&self, path: &str, made: &Made) -> Answered {
        let headers: Vec<(&str, &str)> =
            made.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.request("POST", path, &headers, &made.body).await
    }

    /// The same, in parts.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answered {
        let mut stream = TcpStream::connect(self.address).await.expect("the ingress listens");
        stream.write_all(&head(method, path, headers, body.len())).await.expect("written");
        // A refusal may come before all of the body is read.
        drop(stream.write_all(body).await);
        answered(stream).await
    }

    /// Stops it as SIGTERM would.
    pub async fn stop(self) {
        self.begin_to_stop();
        self.serving.await.expect("the edge panicked");
        self.hang_up.cancel();
        self.connecting.await.expect("the outbox panicked");
    }

    /// As SIGTERM does, without waiting.
    pub fn begin_to_stop(&self) {
        self.stop.cancel();
    }
}

/// The head of a request.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    (head + "\r\n").into_bytes()
}

/// Reads an answer to its end.
pub async fn answered(mut stream: TcpStream) -> Answered {
    let mut bytes = Vec::new();
    // A connection that is reset after the answer is one that was answered.
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await;
    drop(read.expect("the ingress neither answers nor closes"));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answered { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Sends a POST to a process of its own: the status of its answer.
pub async fn post_bytes(address: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    stream.write_all(&head("POST", path, headers, body.len())).await.expect("written");
    stream.write_all(body).await.expect("written");
    answered(stream).await.status
}
