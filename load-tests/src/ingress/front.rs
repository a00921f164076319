//! Endpoints of several providers, and a seeded plan of webhooks for them. What must not live here: HTTP, and what must be stored in the end.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use payonce::{
    config::EndpointConfig,
    ingress::{
        endpoint::Endpoint,
        sample::{Sample, make},
        secrets::Secrets,
    },
    keys::{Keyring, KeysError},
    signature::{Key, Kind, Policy, Rule},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tempfile::TempDir;

/// Providers, their secrets, and the body of their yes.
pub const PROVIDERS: [(&str, &str, &str); 6] = [
    ("stripe", "whsec_load", ""),
    (
        "adyen",
        "8E339EFD66564BAE60BDD289C69607E672CE34C97D237161C5AD2A42B6952544\nmerchant_account = Load",
        "[accepted]",
    ),
    ("checkout", "checkout-secret", ""),
    ("razorpay", "razorpay-secret", ""),
    ("square", "square-key\nnotification_url = https://hooks.example.com/square", ""),
    ("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ""),
];
/// What the sources of all that is published begin with: a replay before it has others.
pub const SOURCES: &str = "/webhooks/";
/// What their accounts begin with.
pub const ACCOUNT: &str = "web-";
/// What all of them pay in.
pub const CURRENCY: &str = "EUR";
/// Accounts that the money goes to.
const ACCOUNTS: u32 = 1_000;

/// One webhook of the plan.
pub struct Webhook {
    pub endpoint: usize,
    pub id: String,
    pub account: u32,
    pub amount: u64,
}

/// Endpoints, their secrets and the keys of their sources, in a folder of the run's own.
pub struct Front {
    pub folder: TempDir,
    endpoints: Vec<(Endpoint, Secrets)>,
    /// What somebody uses who does not know the secrets, by endpoint.
    strangers: Vec<Secrets>,
}

impl Front {
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("payonce-load-tests-").tempdir()?;
        let mut text = "[ingress]\nrate_per_second_max = 1000000\nrate_burst_max = 1000000\n".to_owned();
        let (mut endpoints, mut strangers) = (Vec::new(), Vec::new());
        for (provider, secret, _) in PROVIDERS {
            let path = put(&folder, provider, secret)?;
            let config = EndpointConfig {
                path: format!("/{provider}"),
                provider: provider.to_owned(),
                source: format!("{SOURCES}{provider}"),
                purpose: (provider != "standard-webhooks").then(|| "deposit".to_owned()),
                account: None,
                account_until: None,
                references: Default::default(),
                secrets_file: path,
                capture: match provider {
                    "adyen" => Some("automatic".to_owned()),
                    "checkout" => Some("manual".to_owned()),
                    _ => None,
                },
                live: None,
            };
            let endpoint = Endpoint::open(&config).map_err(anyhow::Error::msg)?;
            let names: Vec<&str> = endpoint.kind.names.iter().map(|(name, _)| *name).collect();
            let secrets = Secrets::load(&config.secrets_file, &names).map_err(anyhow::Error::msg)?;
            // Of the same form, and another one.
            let other = secret.replace("8E33", "8E34").replace("whsec_", "whsec_AAAA").replace("-", "+");
            let other = put(&folder, &format!("{provider}-stranger"), &other)?;
            strangers.push(Secrets::load(&other, &names).map_err(anyhow::Error::msg)?);
            text += &format!(
                "[[ingress.endpoint]]\npath = {:?}\nprovider = {:?}\nsource = {:?}\nsecrets_file = {:?}\n",
                config.path, config.provider, config.source, config.secrets_file
            );
            for (name, value) in [("purpose", &config.purpose), ("capture", &config.capture)] {
                text += &value.as_ref().map(|value| format!("{name} = {value:?}\n")).unwrap_or_default();
            }
            endpoints.push((endpoint, secrets));
        }
        fs::write(folder.path().join("payonce.toml"), text)?;
        Keyring::edit(&folder.path().join("keys.toml"), |rules| {
            for (endpoint, _) in &endpoints {
                let key = Key::generate(Kind::Hmac).expect("the system has random numbers");
                rules.insert(
                    endpoint.terms.source.clone(),
                    Rule { policy: Policy::Required, keys: vec![key] },
                );
            }
            Ok::<_, KeysError>(())
        })?;
        Ok(Self { folder, endpoints, strangers })
    }

    /// The keys file.
    pub fn keys(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    /// Lines of a log that hold an endpoint's secret.
    pub fn secrets_in(&self, log: &str) -> Vec<String> {
        let is_secret = |line: &str| {
            PROVIDERS.iter().flat_map(|(_, text, _)| text.lines().next()).any(|secret| line.contains(secret))
        };
        log.lines().filter(|line| is_secret(line)).map(|_| "a secret, in a log".to_owned()).collect()
    }

    /// The parts of a webhook's request, signed so many seconds ago.
    pub fn parts(&self, webhook: &Webhook, ago_s: u64) -> anyhow::Result<Parts> {
        self.signed_with(None, webhook, ago_s)
    }

    /// The same, signed by somebody who does not know the secret.
    pub fn forged(&self, webhook: &Webhook) -> anyhow::Result<Parts> {
        self.signed_with(Some(&self.strangers), webhook, 0)
    }

    fn signed_with(
        &self,
        strangers: Option<&Vec<Secrets>>,
        webhook: &Webhook,
        ago_s: u64,
    ) -> anyhow::Result<Parts> {
        let (endpoint, secrets) = &self.endpoints[webhook.endpoint];
        let secrets = strangers.map_or(secrets, |strangers| &strangers[webhook.endpoint]);
        let sample = Sample {
            event: String::new(),
            id: webhook.id.clone(),
            account: format!("{ACCOUNT}{}", webhook.account),
            amount: webhook.amount,
            currency: CURRENCY.to_owned(),
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let made = make(endpoint, secrets, &sample, now_s - ago_s).map_err(anyhow::Error::msg)?;
        Ok(Parts {
            method: "POST",
            path: endpoint.path.clone(),
            headers: made.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: made.body,
        })
    }
}

/// A request, to be changed before it is sent.
pub struct Parts {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Parts {
    pub fn bytes(&self) -> Vec<u8> {
        let (method, path, length) = (self.method, &self.path, self.body.len());
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

fn put(folder: &TempDir, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.path().join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path)
}

/// The webhooks in the order they are sent, copies included, and how many are distinct.
pub fn plan(events: u32, duplicates: f64, seed: u64) -> (Vec<Arc<Webhook>>, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let events = events as usize;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 10 million events"
    )]
    let copies = ((events as f64) * duplicates) as usize;
    let distinct = (events - copies).max(1);
    let mut webhooks: Vec<Arc<Webhook>> = (0..distinct)
        .map(|n| {
            Arc::new(Webhook {
                endpoint: random.random_range(0..PROVIDERS.len()),
                id: format!("{seed}x{n}"),
                account: random.random_range(0..ACCOUNTS),
                amount: random.random_range(1..=100_000),
            })
        })
        .collect();
    for _ in distinct..events {
        let copied = Arc::clone(&webhooks[random.random_range(0..distinct)]);
        webhooks.push(copied);
    }
    webhooks.shuffle(&mut random);
    (webhooks, distinct)
}
