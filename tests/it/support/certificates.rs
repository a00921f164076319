//! Certificates made for one test: an authority, what it vouches for, and what it does not.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use payonce::config::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

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
        let is_name = |name: &&&str| !name.contains(' ');
        let names_: Vec<String> = names.iter().filter(is_name).map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names_).expect("names");
        params.distinguished_name.push(DnType::CommonName, *names.first().expect("a name"));
        params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
        params.not_after = OffsetDateTime::now_utc() + valid;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.file(&format!("{file}.pem")), certificate.pem()).expect("a certificate's file");
        let key_file = self.file(&format!("{file}.key"));
        fs::write(&key_file, key.serialize_pem()).expect("a key's file");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).expect("permissions");
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
