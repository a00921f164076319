//! The table `[ingress]` of the configuration file: endpoints, and limits of the edge. Names and limits are checked here; what a provider
//! needs is checked by `ingress`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{ConfigError, error, files::Lines};

/// Endpoints of one process.
pub const ENDPOINTS_MAX: usize = 1_000;
/// Ingresses that `payonce ops` asks.
const HEALTH_ADDRESSES_MAX: usize = 64;

/// One path that takes one provider's webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// The path of the address, such as `/stripe-eu`.
    pub path: String,
    /// The provider's name.
    pub provider: String,
    /// The CloudEvents `source` of what it publishes.
    pub source: String,
    /// `deposit` or `payment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Where the account stands in the provider's object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What ends the account there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_until: Option<String>,
    /// Where references stand there, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, String>,
    /// File with the secrets; relative to the configuration file.
    pub secrets_file: PathBuf,
    /// `automatic` or `manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
    /// Whether only live or only test events are money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<bool>,
}

/// The table `[ingress]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressConfig {
    /// The paths.
    pub endpoint: Vec<EndpointConfig>,
    /// PEM file with the certificate and its chain; with `tls_key_file`. Without them the edge speaks plain HTTP, behind a proxy.
    pub tls_certificate_file: Option<PathBuf>,
    /// PEM file with its key.
    pub tls_key_file: Option<PathBuf>,
    /// Addresses of proxies whose `forwarded_header` is believed.
    pub trusted_proxies: Vec<std::net::IpAddr>,
    /// The header in which they say from whom a request came, the only one that is read: `forwarded` (RFC 7239), or one that is a list of
    /// addresses, such as `x-forwarded-for`. Its last address that is no proxy's counts.
    pub forwarded_header: String,
    /// PEM file with authorities that are trusted besides the system's where a provider's certificate is fetched, for the host and for what it
    /// gives; also certificates between that and an authority, where the host leaves them out.
    pub certificate_ca_file: Option<PathBuf>,
    /// `HOST:PORT` that connections for certificates go to in place of the provider's host: a gateway that passes TLS on by the name in it.
    pub certificate_gateway: Option<String>,
    /// Connections at once, at most.
    pub connections_max: usize,
    /// Requests whose bodies have come, in work at once, at most; further ones are answered with 503.
    pub requests_max: usize,
    /// How long a client may take for the headers of a request, for a TLS handshake, and before it says anything, in milliseconds.
    pub headers_deadline_ms: u32,
    /// How long a client may take for a body, in milliseconds.
    pub body_deadline_ms: u32,
    /// How long a connection may be idle between requests, in milliseconds. Longer than a proxy before it keeps one, or the proxy finds
    /// connections closed that it has just chosen.
    pub idle_max_ms: u32,
    /// Requests a second from one address to one endpoint, at most, on average.
    pub rate_per_second_max: u32,
    /// Requests at once that an address may send beyond that.
    pub rate_burst_max: u32,
    /// Channels to the broker.
    pub channels: usize,
    /// `HOST:PORT` of each `payonce ingress --health-listen`, for the pages of `payonce ops`.
    pub health_addresses: Vec<String>,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            endpoint: Vec::new(),
            tls_certificate_file: None,
            tls_key_file: None,
            trusted_proxies: Vec::new(),
            forwarded_header: "x-forwarded-for".to_owned(),
            certificate_ca_file: None,
            certificate_gateway: None,
            connections_max: 12_000,
            requests_max: 512,
            headers_deadline_ms: 10_000,
            body_deadline_ms: 10_000,
            idle_max_ms: 75_000,
            rate_per_second_max: 500,
            rate_burst_max: 2_000,
            channels: 4,
            health_addresses: Vec::new(),
        }
    }
}

impl IngressConfig {
    /// Makes paths of files relative to `folder` whole, and tells of all that cannot be used.
    pub(super) fn checked(mut self, folder: &Path, lines: &Lines, errors: &mut Vec<ConfigError>) -> Self {
        let mut wrong = |name: &str, problem: String| {
            let path = format!("ingress.{name}");
            errors.push(error(&format!("{path} ({})", lines.place(&path)), problem));
        };
        for (name, found, min, max) in [
            ("connections_max", self.connections_max, 1, 1_000_000),
            ("requests_max", self.requests_max, 1, 100_000),
            ("headers_deadline_ms", self.headers_deadline_ms as usize, 100, 600_000),
            ("body_deadline_ms", self.body_deadline_ms as usize, 100, 600_000),
            ("idle_max_ms", self.idle_max_ms as usize, 100, 3_600_000),
            ("rate_per_second_max", self.rate_per_second_max as usize, 1, 1_000_000),
            ("rate_burst_max", self.rate_burst_max as usize, 1, 1_000_000),
            ("channels", self.channels, 1, 64),
        ] {
            if !(min..=max).contains(&found) {
                wrong(name, format!("{found} is not a whole number from {min} to {max}"));
            }
        }
        let has_port = |address: &String| {
            address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.forwarded_header.is_empty() || !self.forwarded_header.bytes().all(is_name) {
            let expected = "expected the name of a header, such as forwarded or x-forwarded-for";
            wrong("forwarded_header", expected.to_owned());
        }
        if self.health_addresses.len() > HEALTH_ADDRESSES_MAX || !self.health_addresses.iter().all(has_port) {
            let expected = format!("expected at most {HEALTH_ADDRESSES_MAX} of the form host:port");
            wrong("health_addresses", expected);
        }
        if !self.certificate_gateway.iter().all(has_port) {
            wrong("certificate_gateway", "expected host:port".to_owned());
        }
        if self.endpoint.len() > ENDPOINTS_MAX {
            wrong(
                "endpoint",
                format!("{} endpoints, at most {ENDPOINTS_MAX} are allowed", self.endpoint.len()),
            );
        }
        let files = self.endpoint.iter_mut().map(|endpoint| &mut endpoint.secrets_file);
        let tls = [&mut self.tls_certificate_file, &mut self.tls_key_file, &mut self.certificate_ca_file];
        for path in files.chain(tls.into_iter().flatten()) {
            *path = folder.join(&*path);
        }
        self
    }
}
