//! TLS of the edge: certificate and key from files, read again when they change. A renewal that cannot be used is reported, and the former
//! certificate stays in force.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::verify::Certificate;
use crate::{config::TlsConfig, metrics, tls};

/// How often the files are looked at.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// The certificate that is in force. Cloning shares it.
#[derive(Clone)]
pub struct Tls {
    files: TlsConfig,
    current: Arc<RwLock<(Vec<u8>, Arc<ServerConfig>)>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Words that name the setting.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, String> {
        let files = TlsConfig {
            ca_file: None,
            certificate_file: Some(certificate.to_owned()),
            key_file: Some(key.to_owned()),
        };
        let current = Arc::new(RwLock::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// What accepts a connection now.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).1))
    }

    /// Takes over renewed files until `stop`.
    pub async fn keep_fresh(&self, pause: Duration, stop: &CancellationToken) {
        let mut reported = String::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match self.refresh() {
                Ok(is_new) => {
                    reported.clear();
                    if is_new {
                        info!("the certificate of the ingress has changed; the new one is in force");
                    }
                }
                Err(problem) if problem != reported => {
                    error!(problem, "the renewed certificate cannot be used; the former one stays in force");
                    reported = problem;
                }
                Err(_) => {}
            }
        }
    }

    /// Reads the files once more; whether they have changed.
    ///
    /// # Errors
    /// Words that name the setting; what was in force stays.
    pub fn refresh(&self) -> Result<bool, String> {
        let new = read(&self.files)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = current.0 != new.0;
        if is_new {
            *current = new;
        }
        Ok(is_new)
    }
}

/// The certificates' bytes, to see a change by, and what serves them.
fn read(files: &TlsConfig) -> Result<(Vec<u8>, Arc<ServerConfig>), String> {
    let pem = tls::load(files)?;
    let (certificate, key) = pem.identity.ok_or("tls_certificate_file and tls_key_file belong together")?;
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|_| "ingress.tls_certificate_file: not PEM certificates")?;
    let leaf = chain.first().and_then(|leaf| Certificate::from_der(leaf).ok());
    let secret = PrivateKeyDer::from_pem_slice(&key).map_err(|_| "ingress.tls_key_file: not a PEM key")?;
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|cause| format!("ingress.tls_certificate_file and ingress.tls_key_file: {cause}"))?;
    if let Some(leaf) = leaf {
        metrics::ingress::certificate("", leaf.not_after_s());
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(([certificate, key].concat(), Arc::new(config)))
}
