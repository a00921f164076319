//! Endpoints as the edge works with them: an `EndpointConfig` whose names, files and provider are checked. What must not live here: HTTP.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    envelope::{self, Kept},
    mapping::{Accepted, Capture, Item, Outcome, Purpose, Terms},
    paths::{AccountPath, ReferencePaths, is_id},
    providers::{self, Kind, Provider, Refused},
    request::Request,
    secrets::Secrets,
};
use crate::{config::EndpointConfig, ledger::OPERATOR_SOURCE};

/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 200;

/// An endpoint that is ready to take requests.
pub struct Endpoint {
    /// The path of its address.
    pub path: String,
    /// Its provider.
    pub kind: &'static Kind,
    /// How its events are read.
    pub terms: Terms,
    /// Its provider, with the secrets.
    pub provider: Box<dyn Provider>,
}

/// A message that a request turns into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The account id, else the payment's, else the event's.
    pub routing_key: String,
    /// The event's id, which is signed.
    pub id: String,
    /// The event.
    pub body: Vec<u8>,
    /// Whether it is a callback, not a request that could not be mapped.
    pub is_callback: bool,
}

/// What a request is, all told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What is to be published before yes is said.
    pub messages: Vec<Message>,
    /// Callbacks among them.
    pub accepted: u64,
    /// Requests' events among them that could not be mapped: the kinds.
    pub unmapped: Vec<String>,
    /// Events that are no money.
    pub ignored: u64,
    /// Whether it proves that the provider sent it: else it is no sign that the provider still does.
    pub is_signed: bool,
}

impl Endpoint {
    /// Checks an endpoint and reads its secrets.
    ///
    /// # Errors
    /// Words for what is wrong and what to do; they quote no secret.
    pub fn open(config: &EndpointConfig) -> Result<Self, String> {
        let at = format!("ingress.endpoint {}", config.path);
        let kind = providers::kind(&config.provider).ok_or_else(|| {
            let names: Vec<&str> = providers::KINDS.iter().map(|kind| kind.name).collect();
            format!("{at}: provider: {:?} is not one of {}", config.provider, names.join(", "))
        })?;
        let terms = terms(config, kind).map_err(|problem| format!("{at}: {problem}"))?;
        let names: Vec<&str> = kind.names.iter().map(|(name, _)| *name).collect();
        let secrets = Secrets::load(&config.secrets_file, &names);
        let secrets = secrets.map_err(|problem| format!("{at}: secrets_file {problem}"))?;
        let provider = (kind.build)(&secrets)
            .map_err(|problem| format!("{at}: secrets_file {}: {problem}", config.secrets_file.display()))?;
        Ok(Self { path: config.path.clone(), kind, terms, provider })
    }

    /// What a request is, at `now_s` (seconds since 1970).
    ///
    /// # Errors
    /// [`Refused`].
    pub fn receive(&self, request: &Request, now_s: i64) -> Result<Received, Refused> {
        self.provider.verify(request, now_s)?;
        let items = self.provider.map(request, &self.terms).map_err(Refused::Malformed)?;
        let is_unmapped = |item: &Item| matches!(item.outcome, Outcome::Unmapped(_));
        // Each event that a person looks at keeps its own part of the request: together never more than came.
        let parts = match items.len() {
            2.. if items.iter().any(is_unmapped) => {
                let parts = self.provider.apart(request).map_err(Refused::Malformed)?;
                if parts.len() != items.len() {
                    return Err(Refused::Malformed("the request's events cannot be told apart".to_owned()));
                }
                parts
            }
            0.. => Vec::new(),
        };
        let mut received = Received {
            messages: Vec::with_capacity(items.len()),
            accepted: 0,
            unmapped: Vec::new(),
            ignored: 0,
            is_signed: false,
        };
        for (at, Item { id, kind, outcome }) in items.into_iter().enumerate() {
            match outcome {
                Outcome::Ignored(_) => received.ignored += 1,
                Outcome::Accepted(Accepted { routing_key, id, body }) => {
                    received.accepted += 1;
                    received.messages.push(Message { routing_key, id, body, is_callback: true });
                }
                Outcome::Unmapped(why) => {
                    received.unmapped.push(kind.clone());
                    let body = parts.get(at).unwrap_or(&request.body);
                    let headers = request.kept(self.provider.kept_headers());
                    let written = envelope::write(self.about(), (at, id, kind, why), body, headers);
                    let envelope::Unmapped { id, body } = written.map_err(Refused::Malformed)?;
                    let routing_key = id.clone();
                    received.messages.push(Message { routing_key, id, body, is_callback: false });
                }
            }
        }
        // Nothing that is not signed is money.
        received.is_signed = !received.messages.is_empty() || self.provider.is_signed(request);
        Ok(received)
    }

    fn about(&self) -> envelope::About<'_> {
        envelope::About { endpoint: &self.path, provider: self.kind.name, source: &self.terms.source }
    }
}

fn terms(config: &EndpointConfig, kind: &Kind) -> Result<Terms, String> {
    let path = &config.path;
    let is_path = path.len() > 1
        && path.len() <= PATH_BYTES_MAX
        && path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
    if !is_path {
        return Err("path: expected / and letters, digits, - _ . ~ / (2 to 200 of them)".to_owned());
    }
    if !is_id(&config.source) {
        return Err("source: expected 1 to 200 bytes without control characters".to_owned());
    }
    if config.source == OPERATOR_SOURCE {
        return Err(format!(
            "source: {OPERATOR_SOURCE} is that of `payonce adjust`; no worker believes it on the queue"
        ));
    }
    let purpose = match config.purpose.as_deref() {
        Some("deposit") => Some(Purpose::Deposit),
        Some("payment") => Some(Purpose::Payment),
        None if !kind.needs_purpose => None,
        None => {
            return Err(format!(
                "purpose: missing; \"deposit\" where {} brings money into accounts, \"payment\" where accounts pay by it",
                kind.title
            ));
        }
        Some(other) => return Err(format!("purpose: {other:?} is not deposit or payment")),
    };
    if purpose.is_some() && !kind.needs_purpose {
        return Err(format!("purpose: not for {}, whose events say themselves what they are", kind.title));
    }
    if config.live.is_some() && !kind.says_live {
        return Err(format!(
            "live: not for {}, whose test events have an endpoint and secrets of their own",
            kind.title
        ));
    }
    let capture = match config.capture.as_deref() {
        Some("automatic") => Capture::Automatic,
        Some("manual") => Capture::Manual,
        None if !kind.needs_capture => Capture::Automatic,
        None => {
            return Err("capture: missing; \"automatic\" where an authorisation is money at once, \"manual\" where it is captured later"
                .to_owned());
        }
        Some(other) => return Err(format!("capture: {other:?} is not automatic or manual")),
    };
    let mut account = kind.default_account();
    if let Some(path) = &config.account {
        account = AccountPath { path: path.clone(), until: None };
    }
    if let Some(until) = &config.account_until {
        account.until = Some(until.clone()).filter(|until| !until.is_empty());
    }
    if account.path.is_empty() || account.path.split('.').any(str::is_empty) {
        return Err("account: expected names of members, separated by dots".to_owned());
    }
    let references = ReferencePaths::new(&config.references)?;
    Ok(Terms { source: config.source.clone(), purpose, capture, account, references, is_live: config.live })
}

/// Every endpoint, by path.
#[derive(Clone, Default)]
pub struct Endpoints {
    by_path: BTreeMap<String, Arc<Endpoint>>,
    /// Whether a request whose source has no rule in the keys file is mapped again.
    trusts_the_queue: bool,
}

impl Endpoints {
    /// Checks every endpoint.
    ///
    /// # Errors
    /// One line for each that is wrong.
    pub fn open(configs: &[EndpointConfig]) -> Result<Self, Vec<String>> {
        let mut endpoints = Self::default();
        let mut problems = Vec::new();
        for config in configs {
            match Endpoint::open(config) {
                Err(problem) => problems.push(problem),
                Ok(endpoint) => {
                    if endpoints.by_path.insert(config.path.clone(), Arc::new(endpoint)).is_some() {
                        problems.push(format!("ingress.endpoint {}: the path stands twice", config.path));
                    }
                }
            }
        }
        if problems.is_empty() { Ok(endpoints) } else { Err(problems) }
    }

    /// The same for a queue without signatures (`signatures = "off"`): whoever can publish there can publish callbacks too, so that a request
    /// whose source has no rule is mapped again, as a callback of that source is decided.
    #[must_use]
    pub fn trusting_the_queue(mut self, trusts: bool) -> Self {
        self.trusts_the_queue = trusts;
        self
    }

    /// Whether [`Endpoints::trusting_the_queue`] was said.
    #[must_use]
    pub fn trusts_the_queue(&self) -> bool {
        self.trusts_the_queue
    }

    /// The endpoint of a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.by_path.get(path)
    }

    /// Every endpoint.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_path.values()
    }

    /// Maps a request again that could not be mapped when it came: the callback's JSON.
    ///
    /// # Errors
    /// Why it still cannot.
    pub fn map_again(&self, kept: &Kept) -> Result<Vec<u8>, String> {
        let endpoint = self.get(&kept.endpoint).filter(|endpoint| endpoint.terms.source == kept.source);
        let endpoint = endpoint.ok_or_else(|| {
            format!("the configuration has no endpoint {} with source {:?}", kept.endpoint, kept.source)
        })?;
        envelope::map_again(kept, endpoint.provider.as_ref(), &endpoint.terms)
    }
}
