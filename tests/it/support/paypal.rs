//! PayPal as a test needs it: webhooks signed with an RSA key, and the host that certificates are fetched from, over TLS. Nothing of payonce's
//! own arithmetic is asked.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use payonce::ingress::sample::Made;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use ring::{rand::SystemRandom, rsa, signature::RSA_PKCS1_SHA256};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::Authority;

/// The name that PayPal's live certificates are made for.
pub const CERTIFICATE_NAME: &str = "messageverificationcerts.paypal.com";
pub const WEBHOOK_ID: &str = "8PT597110X687430LKGECATA";
const CERTIFICATES: &str = "/v1/notifications/certs/";

/// Who signs.
pub struct PayPalKey {
    pem: String,
}

impl PayPalKey {
    /// A new key: ring makes none for RSA, node does.
    pub fn new() -> Self {
        let script = "console.log(require('crypto').generateKeyPairSync('rsa', { modulusLength: 2048,\
            privateKeyEncoding: { type: 'pkcs8', format: 'pem' }, publicKeyEncoding: { type: 'spki', format: 'pem' } }).privateKey)";
        let output = Command::new("node").args(["-e", script]).output().expect("node runs");
        Self { pem: String::from_utf8(output.stdout).expect("PEM") }
    }

    /// For certificates.
    pub fn pair(&self) -> KeyPair {
        KeyPair::from_pkcs8_pem_and_sign_algo(&self.pem, &PKCS_RSA_SHA256).expect("an RSA key")
    }

    /// A capture, signed with this key, that names its certificate so.
    pub fn webhook(&self, id: &str, amount: &str, certificate_url: &str) -> Made {
        let body = serde_json::json!({
            "id": format!("WH-{id}"), "event_type": "PAYMENT.CAPTURE.COMPLETED", "create_time": "2026-11-26T08:00:00Z",
            "resource": {"id": id, "custom_id": "acct-1001", "amount": {"currency_code": "EUR", "value": amount}},
        })
        .to_string();
        let time = "2026-11-26T08:00:00Z";
        let content = format!("{id}|{time}|{WEBHOOK_ID}|{}", crc32(body.as_bytes()));
        let key = rsa::KeyPair::from_pkcs8(&self.pair().serialize_der()).expect("an RSA key");
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), content.as_bytes(), &mut signature)
            .expect("a signature");
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("paypal-transmission-id", id.to_owned()),
            ("paypal-transmission-time", time.to_owned()),
            ("paypal-transmission-sig", BASE64.encode(signature)),
            ("paypal-cert-url", certificate_url.to_owned()),
            ("paypal-auth-algo", "SHA256withRSA".to_owned()),
        ];
        Made { headers, body: body.into_bytes() }
    }
}

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[derive(Default)]
struct Pages {
    answers: BTreeMap<String, (u16, Vec<u8>)>,
    asked: BTreeMap<String, usize>,
}

/// The host that certificates are fetched from. Its answers lead on to `/v1/notifications/certs/CERT-elsewhere`, for who follows redirects.
pub struct CertificateHost {
    /// Where it listens, in place of port 443 of the host.
    pub address: String,
    pages: Arc<Mutex<Pages>>,
    is_open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl CertificateHost {
    /// One with a certificate of this authority for PayPal's two live hosts.
    pub async fn new(authority: &Authority) -> Self {
        authority.sign("host", &["api.paypal.com", "api-m.paypal.com"], time::Duration::days(1));
        let acceptor = authority.acceptor("host");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pages = Arc::new(Mutex::new(Pages::default()));
        let (is_open, opened) = watch::channel(true);
        let its_pages = Arc::clone(&pages);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, pages, opened) = (acceptor.clone(), Arc::clone(&its_pages), opened.clone());
                connections.spawn(async move {
                    // Who does not trust us hangs up.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service =
                        service_fn(move |request| answer(request, Arc::clone(&pages), opened.clone()));
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, pages, is_open, task }
    }

    /// From now on this is at `CERT-name`.
    pub fn put(&self, name: &str, status: u16, body: impl Into<Vec<u8>>) {
        let path = format!("{CERTIFICATES}CERT-{name}");
        self.pages.lock().unwrap().answers.insert(path, (status, body.into()));
    }

    /// The address of `CERT-name` as a webhook has it.
    pub fn url(name: &str) -> String {
        format!("https://api.paypal.com{CERTIFICATES}CERT-{name}")
    }

    /// How often `CERT-name` was asked for.
    pub fn asked(&self, name: &str) -> usize {
        let path = format!("{CERTIFICATES}CERT-{name}");
        self.pages.lock().unwrap().asked.get(&path).copied().unwrap_or(0)
    }

    /// How often anything was asked for.
    pub fn asked_at_all(&self) -> usize {
        self.pages.lock().unwrap().asked.values().sum()
    }

    /// Whether it answers, or keeps all waiting.
    pub fn open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }
}

impl Drop for CertificateHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    pages: Arc<Mutex<Pages>>,
    mut opened: watch::Receiver<bool>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().to_string();
    let found = {
        let mut pages = pages.lock().unwrap();
        *pages.asked.entry(path.clone()).or_default() += 1;
        pages.answers.get(&path).cloned()
    };
    drop(opened.wait_for(|is_open| *is_open).await);
    let (status, body) = found.unwrap_or((404, Vec::new()));
    let answer = Response::builder().status(status).header("location", CertificateHost::url("elsewhere"));
    Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
}
