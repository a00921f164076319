//! TLS to other servers: the files that the settings name, whom they make us trust, and the addresses that leave a link unprotected. What must
//! not live here: handshakes; those belong to the module that knows the server's client.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, pem::PemObject},
};
use url::Url;

use crate::{config::TlsConfig, hosts::each_host};

/// A key that every user of the machine can read is none. The group may, as with keys_file.
const FORBIDDEN_KEY_MODE: u32 = 0o007;

/// What the files hold, in PEM.
#[derive(Clone, Default)]
pub struct Pem {
    /// Whose signature a server's certificate needs; `None`: that of somebody whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// Our certificate, with its chain, and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Reads what the settings name.
///
/// # Errors
/// Words with the setting's name.
pub fn load(config: &TlsConfig) -> Result<Pem, String> {
    let ca = config.ca_file.as_deref().map(|path| read("tls_ca_file", path)).transpose()?;
    let identity = match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            let problem = |cause: io::Error| format!("tls_key_file {}: {cause}", key.display());
            let mode = fs::metadata(key).map_err(problem)?.permissions().mode() & 0o777;
            if mode & FORBIDDEN_KEY_MODE != 0 {
                let key = key.display();
                return Err(format!(
                    "tls_key_file {key}: mode {mode:o} lets everybody use it; run: chmod 600 {key}"
                ));
            }
            Some((read("tls_certificate_file", certificate)?, read("tls_key_file", key)?))
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err("tls_certificate_file and tls_key_file belong together: set both, or none".to_owned());
        }
    };
    Ok(Pem { ca, identity })
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).map_err(|cause| format!("{setting} {}: {cause}", path.display()))?;
    // Not a parser: a slip such as DER, or the wrong file, is told by name; all else shows in the handshake.
    if !bytes.starts_with(b"-----BEGIN ") && !bytes.windows(12).any(|words| words == b"\n-----BEGIN ") {
        return Err(format!(
            "{setting} {}: not PEM, which has lines such as -----BEGIN CERTIFICATE-----",
            path.display()
        ));
    }
    Ok(bytes)
}

/// The certificates that the system trusts (or those of `SSL_CERT_FILE`), in PEM.
#[must_use]
pub fn system_roots() -> String {
    let found = rustls_native_certs::load_native_certs();
    let pem = |der: &[u8]| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der))
    };
    found.certs.iter().map(|certificate| pem(certificate)).collect()
}

/// Authorities by which others' certificates are checked: the system's, and the file's besides, where there is one.
///
/// # Errors
/// Words about the file. Without a file: never; the system may trust nobody, and then nobody is trusted.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // The system may have one that rustls does not take.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let problem = |cause: String| format!("{}: {cause}", path.display());
        let pem = fs::read(path).map_err(|cause| problem(cause.to_string()))?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|_| problem("not PEM certificates".to_owned()))?;
            roots.add(certificate).map_err(|cause| problem(cause.to_string()))?;
        }
        if roots.len() == before {
            return Err(problem(
                "no certificate in it; expected PEM, with -----BEGIN CERTIFICATE-----".to_owned(),
            ));
        }
    }
    Ok(roots)
}

/// A client that shows no certificate of its own.
///
/// # Errors
/// Words where the crypto library has no version of TLS.
pub fn client(roots: impl Into<Arc<RootCertStore>>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What a stranger on the network could do because of these addresses, one sentence each. Links inside the machine are left out.
#[must_use]
pub fn risks(database_url: &str, redis_url: &str, amqp_url: &str) -> Vec<String> {
    let links = [("database_url", database_url), ("redis_url", redis_url), ("amqp_url", amqp_url)];
    let mut risks = Vec::new();
    for (setting, url) in links {
        for url in each_host(url).filter_map(|url| Url::parse(&url).ok()) {
            let host = url.host_str().unwrap_or_default();
            if let Some(risk) = risk(&url).filter(|_| !is_local(host)) {
                risks.push(format!("{setting}, host {host}: {risk}"));
            }
        }
    }
    risks
}

fn risk(url: &Url) -> Option<&'static str> {
    const CLEAR: &str = "not encrypted: whoever is on the way reads the password and every message, and can change them; use TLS";
    match url.scheme() {
        "redis" | "amqp" => Some(CLEAR),
        "postgres" | "postgresql" => {
            let mode = url.query_pairs().find(|(name, _)| name == "sslmode" || name == "ssl-mode");
            match mode.map(|(_, mode)| mode.to_ascii_lowercase()).as_deref() {
                Some("verify-full") => None,
                Some("verify-ca") => Some(
                    "sslmode=verify-ca does not check the host name: whoever has any certificate of that authority can pose as the \
                     database; use sslmode=verify-full",
                ),
                Some("require") => Some(
                    "sslmode=require does not check who answers: whoever is on the way can pose as the database, and read and change \
                     everything; use sslmode=verify-full",
                ),
                Some("disable" | "allow") => Some(CLEAR),
                Some(_) | None => Some(
                    "sslmode=prefer, the default, does not check who answers, and goes on without encryption where the server offers \
                     none; use sslmode=verify-full",
                ),
            }
        }
        _ => None,
    }
}

/// Whether packets to this host stay inside the machine. An empty one is a socket.
fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.is_empty()
        || host == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        // A socket's folder, as libpq has it in the host's place.
        || host.to_ascii_lowercase().starts_with("%2f")
}
