//! Subscribers over HTTPS, as Standard Webhooks (<https://www.standardwebhooks.com>): who they are, what proves that a request is ours, and
//! which rows they want. The feed's reading only notes which accounts have news (`sink`); what is noted is delivered at each account's own
//! pace (`deliver`), one request at a time per account (`post`). What must not live here: SQL.

mod clock;
mod deliver;
mod network;
mod post;
mod sink;

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use ring::digest::{Context, SHA256};
use tracing::{info, warn};

use crate::{
    config::{FeedConfig, Start, SubscriberConfig},
    secrets::Secrets,
    signature::{Headers, Key, Policy, Rule},
    store::feed::Entry,
};
use post::Address;
pub(super) use sink::ToSubscriber;

/// Between the names of a feed and of its subscriber: what the position is kept under.
const INFIX: &str = ":webhook:";

/// The name under which a feed keeps how far this subscriber is.
#[must_use]
pub fn feed_of(feed_name: &str, subscriber: &str) -> String {
    format!("{feed_name}{INFIX}{subscriber}")
}

/// Somebody who gets events over HTTPS.
pub struct Subscriber {
    /// Its feed.
    pub(super) name: String,
    /// Where its feed begins.
    pub(super) start: Start,
    accounts: Vec<String>,
    types: Vec<String>,
    secrets_file: PathBuf,
    rule: RwLock<Rule>,
    address: Address,
    in_flight_max: usize,
}

impl Subscriber {
    /// Opens everybody whom the configuration names.
    ///
    /// # Errors
    /// Every problem, one a line, with the subscriber and its member.
    pub fn open_all(config: &FeedConfig) -> Result<Vec<Arc<Self>>, String> {
        let (mut subscribers, mut problems) = (Vec::new(), Vec::new());
        for subscriber in &config.subscribers {
            match Self::open(config, subscriber) {
                Ok(opened) => subscribers.push(Arc::new(opened)),
                Err(problem) => problems.push(format!("feed.subscriber {:?}, {problem}", subscriber.name)),
            }
        }
        if problems.is_empty() { Ok(subscribers) } else { Err(problems.join("\n")) }
    }

    fn open(config: &FeedConfig, subscriber: &SubscriberConfig) -> Result<Self, String> {
        let rule = rule(&subscriber.secrets_file).map_err(|problem| format!("secrets_file: {problem}"))?;
        Ok(Self {
            name: feed_of(&config.name, &subscriber.name),
            start: subscriber.start,
            accounts: subscriber.accounts.clone(),
            types: subscriber.types.clone(),
            secrets_file: subscriber.secrets_file.clone(),
            rule: RwLock::new(rule),
            address: Address::new(subscriber, config.webhook_timeout)?,
            in_flight_max: subscriber.in_flight_max,
        })
    }

    /// Whether it is to get this row.
    fn wants(&self, entry: &Entry) -> bool {
        let is_its_type = self.types.is_empty() || self.types.contains(&entry.kind);
        is_its_type
            && (self.accounts.is_empty() || self.accounts.iter().any(|one| entry.account_id.starts_with(one)))
    }

    fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> Option<Headers> {
        self.rule.read().unwrap_or_else(PoisonError::into_inner).sign(id, timestamp_s, body)
    }

    /// Takes over a changed secrets file. One that cannot be used leaves the last good secrets in force; `reported` is what was said of it.
    fn refresh_secrets(&self, reported: &mut String) {
        match rule(&self.secrets_file) {
            Ok(new) => {
                reported.clear();
                if *self.rule.read().unwrap_or_else(PoisonError::into_inner) != new {
                    *self.rule.write().unwrap_or_else(PoisonError::into_inner) = new;
                    info!(
                        feed = self.name,
                        "the subscriber's secrets have changed; the new ones are in force"
                    );
                }
            }
            Err(problem) if problem != *reported => {
                warn!(
                    feed = self.name,
                    problem, "the subscriber's secrets cannot be used; the former ones stay in force"
                );
                *reported = problem;
            }
            Err(_) => {}
        }
    }
}

fn rule(file: &std::path::Path) -> Result<Rule, String> {
    let secrets = Secrets::load(file, &[])?;
    let keys: Result<Vec<Key>, _> =
        secrets.bare("a secret (whsec_…)")?.iter().map(|text| Key::parse(text)).collect();
    let keys = keys.map_err(|problem| format!("{}: {problem}", file.display()))?;
    if !keys.iter().all(Key::can_sign) {
        return Err(format!(
            "{}: a public key (whpk_) signs nothing; expected whsec_ or whsk_",
            file.display()
        ));
    }
    Ok(Rule { policy: Policy::Required, keys })
}

/// The `webhook-id` of a row: the same for every copy, also after a restart or a failover of the database that lost nothing; another where a
/// failover made a version stand for something else. A digest, because an account's id may hold what a header may not.
fn webhook_id(source: &str, entry: &Entry) -> String {
    let mut digest = Context::new(&SHA256);
    let (leg, version) = (entry.leg.to_string(), entry.account_version.to_string());
    let (balance, held) = (entry.balance_after.to_string(), entry.held_after.to_string());
    let texts = [
        source,
        &entry.account_id,
        &version,
        &entry.source,
        &entry.event_id,
        &leg,
        &entry.kind,
        &balance,
        &held,
    ];
    for part in texts.map(str::as_bytes).into_iter().chain([entry.payload_sha256.as_slice()]) {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    id_of(digest)
}

/// The `webhook-id` of the news that the history is another.
fn history_webhook_id(source: &str, epoch: &str) -> String {
    let mut digest = Context::new(&SHA256);
    for part in [source, "history", epoch] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    id_of(digest)
}

fn id_of(digest: Context) -> String {
    let hex: String = digest.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("evt_{hex}")
}
