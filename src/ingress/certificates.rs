//! Certificates by which webhooks are verified and which their provider names by address: fetched over HTTPS, checked (authority, name, time),
//! and kept. Whoever sends a request decides which address it names, so that all here is bounded: what is fetched at once, how often for one
//! sender and for all, how large an answer is, how long anybody waits. What must not live here: which addresses are the provider's.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    header::{HOST, USER_AGENT},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};
use tracing::{info, warn};

use super::{clock, limits::Rate, providers::CertificateAt, verify::Certificate};
use crate::{config::IngressConfig, http, metrics, tls};

/// How long one fetch may take, from looking up the name to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
/// How long a request waits for one; the fetch goes on without it, for when the request is sent again.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a certificate is used before it is fetched again, where it does not end before.
const USE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long an address is not tried again after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(30);
/// Fetches at once.
const FETCHES_MAX: usize = 4;
/// One sender may cause so many fetches at once, and then one in so long.
const SENDER_FETCHES_MAX: u32 = 3;
const SENDER_PAUSE: Duration = Duration::from_secs(10);
/// All senders together.
const ALL_FETCHES_MAX: u32 = 16;
const ALL_PAUSE: Duration = Duration::from_millis(250);
/// Addresses that something is known of: with the limits above at most 136 that failed, and the provider has a few that do not.
const ADDRESSES_MAX: usize = 256;
/// Bytes of an answer: a certificate with its chain has 4 to 8 KiB.
const ANSWER_BYTES_MAX: usize = 16_384;
/// Certificates of a chain.
const CHAIN_MAX: usize = 8;
const HTTPS_PORT: u16 = 443;

/// Why there is no certificate now. But for [`NotFetched::Missing`] the same request may find one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFetched {
    /// It was tried, now or some seconds ago.
    #[error("its certificate could not be fetched")]
    Failed,
    /// The provider's own host says that it has none at this address: 404 or 410.
    #[error("its certificate does not exist")]
    Missing,
    /// The answer is not there yet.
    #[error("its certificate is being fetched")]
    Late,
    /// Too many are wanted, by this sender or by all.
    #[error("too many certificates are wanted")]
    TooMany,
}

type Fetched = Result<Arc<Certificate>, NotFetched>;

/// What is known of an address.
enum Known {
    /// Empty until the fetch has ended.
    Fetching(watch::Receiver<Option<Fetched>>),
    /// What it gave, and until when that counts.
    Ended(Fetched, Instant),
}

impl Known {
    fn counts(&self, now: Instant) -> bool {
        match self {
            // A fetch that panicked has let go of its end.
            Self::Fetching(result) => result.has_changed().is_ok(),
            Self::Ended(_, until) => now < *until,
        }
    }
}

/// Fetches certificates, and keeps them. Cloning shares them.
#[derive(Clone)]
pub struct Certificates(Arc<Shared>);

struct Shared {
    source: Source,
    known: Mutex<HashMap<CertificateAt, Known>>,
    running: Arc<Semaphore>,
    by_sender: Rate,
    by_all: Rate,
    began: Instant,
}

/// Where they come from, and who vouches for them.
struct Source {
    connector: TlsConnector,
    roots: Arc<RootCertStore>,
    /// `HOST:PORT` that connections go to in place of the host itself.
    gateway: Option<String>,
}

impl Certificates {
    /// Nothing is fetched before it is wanted.
    ///
    /// # Errors
    /// Words that name the setting.
    pub fn open(config: &IngressConfig) -> Result<Self, String> {
        let roots = tls::roots(config.certificate_ca_file.as_deref());
        let roots = Arc::new(roots.map_err(|problem| format!("ingress.certificate_ca_file {problem}"))?);
        let connector = TlsConnector::from(Arc::new(tls::client(Arc::clone(&roots))?));
        Ok(Self(Arc::new(Shared {
            source: Source { connector, roots, gateway: config.certificate_gateway.clone() },
            known: Mutex::default(),
            running: Arc::new(Semaphore::new(FETCHES_MAX)),
            by_sender: Rate::every(SENDER_PAUSE, SENDER_FETCHES_MAX),
            by_all: Rate::every(ALL_PAUSE, ALL_FETCHES_MAX),
            began: Instant::now(),
        })))
    }

    /// The certificate at an address, for a request of this sender: one that is kept, else fetched, within a second.
    ///
    /// # Errors
    /// [`NotFetched`].
    pub async fn get(&self, at: &CertificateAt, sender: IpAddr) -> Fetched {
        let mut result = match self.look(at, sender) {
            Known::Ended(fetched, _) => return fetched,
            Known::Fetching(result) => result,
        };
        match tokio::time::timeout(WAIT_MAX, result.wait_for(Option::is_some)).await {
            Ok(Ok(fetched)) => fetched.clone().unwrap_or(Err(NotFetched::Failed)),
            Ok(Err(_)) => Err(NotFetched::Failed),
            Err(_) => Err(NotFetched::Late),
        }
    }

    /// What is known of an address; where that is nothing, a fetch begins, one for all who want it.
    fn look(&self, at: &CertificateAt, sender: IpAddr) -> Known {
        let shared = &self.0;
        let now = Instant::now();
        let mut known = shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(at) {
            Some(Known::Fetching(result)) if result.has_changed().is_ok() => {
                return Known::Fetching(result.clone());
            }
            Some(Known::Ended(fetched, until)) if now < *until => {
                return Known::Ended(fetched.clone(), *until);
            }
            Some(_) | None => {}
        }
        known.retain(|_, known| known.counts(now));
        let elapsed = shared.began.elapsed();
        // A sender who has used up its own share takes none of that of all.
        let is_within = known.len() < ADDRESSES_MAX
            && shared.by_sender.take("", sender, elapsed).is_ok()
            && shared.by_all.take("", IpAddr::from([0; 4]), elapsed).is_ok();
        let permit = Arc::clone(&shared.running).try_acquire_owned();
        let (true, Ok(permit)) = (is_within, permit) else {
            return Known::Ended(Err(NotFetched::TooMany), now);
        };
        let (sender, result) = watch::channel(None);
        known.insert(at.clone(), Known::Fetching(result.clone()));
        let (all, at) = (self.clone(), at.clone());
        // A task of its own: it ends for all who wait, also where the first of them has gone.
        tokio::spawn(async move {
            let _permit = permit;
            let ended = all.0.source.fetch(&at).await;
            let (fetched, keep) = match ended {
                Ok(certificate) => {
                    info!(host = at.host, serial = certificate.serial, "a certificate was fetched");
                    let left_s = certificate.not_after_s().saturating_sub(now_s());
                    let left = Duration::from_secs(u64::try_from(left_s).unwrap_or_default());
                    (Ok(Arc::new(certificate)), USE_MAX.min(left))
                }
                Err((cause, words)) => {
                    warn!(host = at.host, cause = words, "a certificate could not be fetched");
                    (Err(cause), FAILURE_PAUSE)
                }
            };
            metrics::ingress::certificate_fetched(fetched.is_ok());
            let mut known = all.0.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(at, Known::Ended(fetched.clone(), Instant::now() + keep));
            drop(known);
            sender.send_replace(Some(fetched));
        });
        Known::Fetching(result)
    }
}

impl Source {
    /// Errors in words for the log.
    async fn fetch(&self, at: &CertificateAt) -> Result<Certificate, (NotFetched, String)> {
        let failed = |words| (NotFetched::Failed, words);
        let answer = tokio::time::timeout(FETCH_DEADLINE, self.download(at)).await;
        let late = |_| failed(format!("no answer within {} s", FETCH_DEADLINE.as_secs()));
        let (status, pem) = answer.map_err(late)?.map_err(failed)?;
        match status {
            StatusCode::OK => self.check(&pem, at.name).map_err(failed),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err((NotFetched::Missing, format!("status {}", status.as_u16())))
            }
            // A redirect leads to where nobody has looked: it is a failure like any other status.
            status => Err(failed(format!("status {}", status.as_u16()))),
        }
    }

    async fn download(&self, at: &CertificateAt) -> Result<(StatusCode, Bytes), String> {
        let name = ServerName::try_from(at.host.clone()).map_err(|_| "not a host's name".to_owned())?;
        let stream = self.connect(&at.host).await?;
        let stream = self.connector.connect(name, stream).await.map_err(|cause| format!("TLS: {cause}"))?;
        let request = Request::get(&at.path)
            .header(HOST, &at.host)
            .header(USER_AGENT, concat!("payonce/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|cause| cause.to_string())?;
        http::exchange(stream, request, ANSWER_BYTES_MAX).await
    }

    async fn connect(&self, host: &str) -> Result<TcpStream, String> {
        let found = match &self.gateway {
            Some(gateway) => tokio::net::lookup_host(gateway).await.map(Iterator::collect::<Vec<_>>),
            None => tokio::net::lookup_host((host, HTTPS_PORT)).await.map(Iterator::collect),
        };
        http::connect(&found.map_err(|cause| cause.to_string())?, FETCH_DEADLINE).await
    }

    /// The first certificate, where the others lead from it to an authority, it was made for this name, and it is valid now.
    fn check(&self, pem: &[u8], name: &str) -> Result<Certificate, String> {
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(pem).take(CHAIN_MAX).collect();
        let chain = chain.map_err(|_| "the answer is not PEM certificates".to_owned())?;
        let (leaf, others) = chain.split_first().ok_or("the answer holds no PEM certificate")?;
        let name = ServerName::try_from(name).map_err(|cause| cause.to_string())?;
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
            .build()
            .map_err(|cause| cause.to_string())?;
        let now = UnixTime::since_unix_epoch(clock::now());
        let verified = verifier.verify_server_cert(leaf, others, &name, &[], now);
        verified.map_err(|cause| format!("the certificate is not what it should be: {cause}"))?;
        Certificate::from_der(leaf)
    }
}

fn now_s() -> i64 {
    i64::try_from(clock::now().as_secs()).unwrap_or(i64::MAX)
}
