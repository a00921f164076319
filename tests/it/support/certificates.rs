//! Certificates made for one test: an authority, what it vouches for, and what it does not.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use payonce::config::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// A private authority, with a folder for what it signs.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// An authority in `ca.pem`, and a server's certificate for 127.0.0.1 in `server.pem` and `server.key`.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("payonce-it-tls-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary folder");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        // By its name a client finds out that it does not know it.
        let name = format!("authority {}", folder.path().display());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("ca.pem");
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.sign("server", &["127.0.0.1"], Duration::days(1));
        authority.sign("client", &["a client"], Duration::days(1));
        authority
    }

    /// Writes a certificate for these names, valid from two days ago until `valid` from now.
    pub fn sign(&self, file: &str, names: &[&str], valid: Duration) {
        let key = KeyPair::generate().expect("a key");
        let certificate = self.certificate(names, valid, &key);
        fs::write(self.file(&format!("{file}.pem")), certificate).expect("a certificate's file");
        let key_file = self.file(&format!("{file}.key"));
        fs::write(&key_file, key.serialize_pem()).expect("a key's file");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).expect("permissions");
    }

    /// A certificate for this key, in PEM, with the same validity.
    pub fn certificate(&self, names: &[&str], valid: Duration, key: &KeyPair) -> String {
        Self::signed_by(&self.issuer, names, valid, key)
    }

    /// The same for a day, by an authority that this one vouches for: with that one's certificate.
    pub fn certificate_below(&self, names: &[&str], key: &KeyPair) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "an authority below");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let below = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&below, &self.issuer).expect("a certificate").pem();
        let leaf = Self::signed_by(&Issuer::new(params, below), names, Duration::days(1), key);
        (leaf, certificate)
    }

    fn signed_by(
        issuer: &Issuer<'static, KeyPair>,
        names: &[&str],
        valid: Duration,
        key: &KeyPair,
    ) -> String {
        let is_name = |name: &&&str| !name.contains(' ');
        let names_: Vec<String> = names.iter().filter(is_name).map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names_).expect("names");
        params.distinguished_name.push(DnType::CommonName, *names.first().expect("a name"));
        params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
        params.not_after = OffsetDateTime::now_utc() + valid;
        params.signed_by(key, issuer).expect("a certificate").pem()
    }

    /// A server that shows the certificate of this file.
    pub fn acceptor(&self, file: &str) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(self.file(&format!("{file}.pem"))).expect("its file");
        let chain: Vec<CertificateDer<'static>> = chain.map(|one| one.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{file}.key"))).expect("its key");
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        TlsAcceptor::from(Arc::new(config))
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that trusts this authority and shows its certificate.
    pub fn client(&self) -> TlsConfig {
        TlsConfig {
            ca_file: Some(self.file("ca.pem")),
            certificate_file: Some(self.file("client.pem")),
            key_file: Some(self.file("client.key")),
        }
    }
}
