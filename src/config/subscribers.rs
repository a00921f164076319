//! The table `[feed]` of the configuration file: subscribers of the feed over HTTPS. Names and limits are checked here; files and addresses
//! are opened by `feed`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{ConfigError, error, files::Lines};
use crate::ledger::Kind;

/// Subscribers of one feed. Each reads the ledger by itself, on two connections to PostgreSQL.
pub const SUBSCRIBERS_MAX: usize = 16;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 50;
/// Prefixes of accounts of one subscriber.
const ACCOUNTS_MAX: usize = 100;
/// Deliveries at once to one subscriber.
const IN_FLIGHT_MAX: usize = 64;

/// Where a subscriber that is new begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the first row of the ledger.
    Beginning,
    /// With the next row.
    Now,
}

/// One address that events are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriberConfig {
    /// Its name: what it has taken is kept by it.
    pub name: String,
    /// `https://…`; `http://` only on this machine, or with `private_network`.
    pub url: String,
    /// File with its secrets, `whsec_…`, one a line; relative to the configuration file.
    pub secrets_file: PathBuf,
    /// Only accounts whose ids begin so; none: all.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// Only rows of callbacks of these types, such as `payment.captured`; none: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Where it begins, the first time.
    #[serde(default = "beginning")]
    pub start: Start,
    /// PEM file with an authority that is trusted besides those of the system; relative to the configuration file.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Whether addresses that are not public, and plain `http://`, are allowed.
    #[serde(default)]
    pub private_network: bool,
    /// Deliveries at once, at most; of one account always one.
    #[serde(default = "in_flight")]
    pub in_flight_max: usize,
}

fn beginning() -> Start {
    Start::Beginning
}

fn in_flight() -> usize {
    8
}

/// The table `[feed]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubscribersConfig {
    /// Who gets events over HTTPS.
    pub subscriber: Vec<SubscriberConfig>,
}

impl SubscribersConfig {
    /// Makes paths of files relative to `folder` whole, and tells of all that cannot be used.
    pub(super) fn checked(mut self, folder: &Path, lines: &Lines, errors: &mut Vec<ConfigError>) -> Self {
        if self.subscriber.len() > SUBSCRIBERS_MAX {
            let problem =
                format!("{} subscribers, at most {SUBSCRIBERS_MAX} are allowed", self.subscriber.len());
            let place = lines.place("feed.subscriber");
            errors.push(error(&format!("feed.subscriber ({place})"), problem));
        }
        let mut names = BTreeSet::new();
        for (at, subscriber) in self.subscriber.iter_mut().enumerate() {
            let mut wrong = |member: &str, problem: String| {
                let place = lines.place(&format!("feed.subscriber.{at}.{member}"));
                errors.push(error(
                    &format!("feed.subscriber {:?}, {member} ({place})", subscriber.name),
                    problem,
                ));
            };
            check(subscriber, &mut wrong);
            if !names.insert(subscriber.name.clone()) {
                wrong("name", "another subscriber has it too".to_owned());
            }
            subscriber.secrets_file = folder.join(&subscriber.secrets_file);
            subscriber.ca_file = subscriber.ca_file.take().map(|path| folder.join(path));
        }
        self
    }
}

fn check(subscriber: &SubscriberConfig, wrong: &mut impl FnMut(&str, String)) {
    let SubscriberConfig { name, accounts, types, in_flight_max, .. } = subscriber;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(super::checks::is_plain) {
        wrong("name", format!("expected 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.'"));
    }
    if !(1..=IN_FLIGHT_MAX).contains(in_flight_max) {
        wrong("in_flight_max", format!("{in_flight_max} is not a whole number from 1 to {IN_FLIGHT_MAX}"));
    }
    if accounts.len() > ACCOUNTS_MAX || accounts.iter().any(String::is_empty) {
        let words = format!(
            "expected at most {ACCOUNTS_MAX} prefixes, none of them empty; leave it out for all accounts"
        );
        wrong("accounts", words);
    }
    if let Some(unknown) = types.iter().find(|name| Kind::parse(name).is_none()) {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        wrong("types", format!("{unknown:?} is none of {}", known.join(", ")));
    }
}
