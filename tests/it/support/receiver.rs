//! A subscriber over HTTP or HTTPS that answers as the test says, and keeps all that it was sent. Its check of signatures is its own: nothing
//! of payonce is asked.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{Authority, eventually};

/// What it was sent.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub event: Value,
    /// What was answered; `None`: nothing.
    pub status: Option<u16>,
}

impl Received {
    pub fn account(&self) -> &str {
        self.event["subject"].as_str().unwrap_or_default()
    }

    pub fn version(&self) -> i64 {
        self.event["sequence"].as_i64().unwrap_or_default()
    }
}

/// The status to answer with, and headers; `None`: no answer at all.
pub type Reply = Option<(u16, Vec<(&'static str, String)>)>;

/// An answer with this status.
pub fn status(code: u16) -> Reply {
    Some((code, Vec::new()))
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    in_flight: HashMap<String, usize>,
    /// Requests of one account at the same time, at most.
    at_once_max: usize,
}

type Answers = Box<dyn FnMut(&Received) -> Reply + Send>;

pub struct Receiver {
    pub url: String,
    state: Arc<Mutex<State>>,
    answers: Arc<Mutex<Answers>>,
    folder: tempfile::TempDir,
    task: JoinHandle<()>,
}

/// Secrets of every receiver: two, as while one is rotated.
pub const SECRETS: [&str; 2] = [
    "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "whsec_YW5vdGhlci1zZWNyZXQtb2YtMzItYnl0ZXMtbG9uZy4=",
];

impl Receiver {
    /// One that answers 200.
    pub async fn new() -> Self {
        Self::start(None).await
    }

    /// The same over TLS, with a certificate of this authority for 127.0.0.1.
    pub async fn with_tls(authority: &Authority) -> Self {
        Self::start(Some(authority.acceptor("server"))).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook?from=payonce", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(|_| status(200))));
        let (its_state, its_answers) = (Arc::clone(&state), Arc::clone(&answers));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, answers, tls) = (Arc::clone(&its_state), Arc::clone(&its_answers), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        // Who does not trust us hangs up.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state, answers).await;
                            }
                        }
                        None => serve(stream, state, answers).await,
                    }
                });
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let receiver = Self { url, state, answers, folder, task };
        receiver.write("secrets", &format!("# two while one is rotated\n{}\n{}\n", SECRETS[0], SECRETS[1]));
        receiver
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes another secrets file.
    pub fn secrets(&self, lines: &str) {
        self.write("secrets", lines);
    }

    /// From now on it answers so.
    pub fn answers(&self, answers: impl FnMut(&Received) -> Reply + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answers);
    }

    /// Its table in a configuration file.
    pub fn table(&self, name: &str, more: &str) -> String {
        let secrets = self.folder.path().join("secrets");
        format!(
            "[[feed.subscriber]]\nname = {name:?}\nurl = {:?}\nsecrets_file = {secrets:?}\n{more}\n",
            self.url
        )
    }

    /// A configuration file with these tables.
    pub fn file(&self, tables: &str) -> PathBuf {
        self.write("payonce.toml", tables)
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// Versions of an account that it has taken, as they came, without copies of the last.
    pub fn taken(&self, account: &str) -> Vec<i64> {
        let received = self.received();
        let taken = received.iter().filter(|one| one.account() == account && one.status == Some(200));
        taken.map(Received::version).collect()
    }

    /// Requests of one account at the same time, at most.
    pub fn at_once_max(&self) -> usize {
        self.state.lock().unwrap().at_once_max
    }

    /// Waits until the last version of this account that it has taken is this one.
    pub async fn has_taken(&self, account: &str, version: i64) {
        eventually(&format!("the last version of {account}"), Some(version), || async {
            self.taken(account).last().copied()
        })
        .await;
    }

    /// Forgets what it was sent.
    pub fn forget(&self) {
        self.state.lock().unwrap().received.clear();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(stream: S, state: Arc<Mutex<State>>, answers: Arc<Mutex<Answers>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, answers) = (Arc::clone(&state), Arc::clone(&answers));
        async move { answer(request, &state, &answers).await }
    });
    // A feed that is killed hangs up in the middle.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(
    request: Request<Incoming>,
    state: &Mutex<State>,
    answers: &Mutex<Answers>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().to_string();
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or("?").to_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = request.into_body().collect().await?.to_bytes().to_vec();
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut received = Received { path, headers, body, event, status: None };
    let account = received.account().to_owned();
    let guard = InFlight::new(state, &account);
    let reply = {
        let mut answers = answers.lock().unwrap();
        (*answers)(&received)
    };
    received.status = reply.as_ref().map(|(code, _)| *code);
    // Others could come meanwhile: one of the same account must not.
    tokio::task::yield_now().await;
    state.lock().unwrap().received.push(received);
    let Some((code, headers)) = reply else {
        return std::future::pending().await;
    };
    drop(guard);
    let mut response = Response::builder().status(code);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from("what it says is not read"))).unwrap())
}

/// Counts the requests of an account that are at work.
struct InFlight<'a> {
    state: &'a Mutex<State>,
    account: String,
}

impl<'a> InFlight<'a> {
    fn new(state: &'a Mutex<State>, account: &str) -> Self {
        let mut at_work = state.lock().unwrap();
        let count = at_work.in_flight.entry(account.to_owned()).or_default();
        *count += 1;
        let count = *count;
        at_work.at_once_max = at_work.at_once_max.max(count);
        drop(at_work);
        Self { state, account: account.to_owned() }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        *self.state.lock().unwrap().in_flight.get_mut(&self.account).unwrap() -= 1;
    }
}

/// Whether the headers hold a right signature by this secret, computed anew from the specification: HMAC-SHA256 over `id.timestamp.body`.
pub fn is_signed(received: &Received, secret: &str) -> bool {
    let header = |name: &str| received.headers.get(name).cloned().unwrap_or_default();
    let key = BASE64.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
    let content =
        [format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes(), &received.body]
            .concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &content);
    let expected = format!("v1,{}", BASE64.encode(tag));
    header("webhook-signature").split(' ').any(|one| one == expected)
}
