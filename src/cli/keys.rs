//! `payonce keys list|generate|rotate|add|retire|policy`: makes the keys file and changes it. A secret is printed where it is asked for, and
//! read from standard input: arguments are visible to every user of a machine.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Read},
    path::Path,
};

use clap::{Subcommand, ValueEnum, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::{Failure, print_json, table};
use crate::{
    config::Config,
    keys::{Keyring, KeysError},
    ledger::Source,
    signature::{KEYS_MAX, Key, Kind, Policy, Rule},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists sources, whether they must sign, and their keys by name.
    List {
        /// Print the keys themselves, which are secrets.
        #[arg(long)]
        secrets: bool,
        /// One JSON object per source in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Makes the first key of a source, and the file where there is none.
    Generate {
        /// The provider, as the `source` member of its callbacks has it.
        #[arg(value_parser = source)]
        source: String,
        /// A shared secret, or a pair.
        #[arg(long, value_enum, default_value_t = KindArg::Hmac)]
        kind: KindArg,
        /// Whether its callbacks must be signed.
        #[arg(long, default_value = "required", value_parser = policies())]
        signatures: String,
    },
    /// Makes a further key, which signs from now on beside the old ones; those stay accepted until they are retired.
    Rotate {
        /// The provider.
        #[arg(value_parser = source)]
        source: String,
        /// A shared secret, or a pair; as the newest one, where nothing is said.
        #[arg(long, value_enum)]
        kind: Option<KindArg>,
    },
    /// Takes in a provider's key, which standard input holds: whsec_…, whpk_… or whsk_….
    Add {
        /// The provider.
        #[arg(value_parser = source)]
        source: String,
    },
    /// Removes a key: what is signed with it alone is refused from then on.
    Retire {
        /// The provider.
        #[arg(value_parser = source)]
        source: String,
        /// The key's name, as `list` shows it.
        key: String,
        /// Also where it is the last one of a source whose callbacks must be signed: all of them are refused from then on.
        #[arg(long)]
        last: bool,
    },
    /// Says whether a source's callbacks must be signed: required, optional (a signature that is there must be right), or off.
    Policy {
        /// The provider.
        #[arg(value_parser = source)]
        source: String,
        /// required, optional or off.
        #[arg(value_parser = policies())]
        signatures: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum KindArg {
    /// HMAC-SHA256: who can verify can also sign.
    Hmac,
    /// Only the holder of the secret half can sign.
    Ed25519,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Hmac => Self::Hmac,
            KindArg::Ed25519 => Self::Ed25519,
        }
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        Self::Usage(error.to_string())
    }
}

type Rules = BTreeMap<String, Rule>;

pub(super) fn run(config: &Config, command: Command) -> Result<(), Failure> {
    let path = config.keys_file.as_deref().ok_or_else(|| {
        Failure::Usage("keys_file: not set; export PAYONCE_KEYS_FILE, or give --keys-file".to_owned())
    })?;
    match command {
        Command::List { secrets, json } => list(path, secrets, json),
        Command::Generate { source, kind, signatures } => {
            let policy = policy(&signatures);
            let key = Keyring::edit(path, |rules| generate(rules, &source, kind.into(), policy))?;
            told(&format!("{source} has a key"), &key);
            Ok(())
        }
        Command::Rotate { source, kind } => {
            let (key, old) = Keyring::edit(path, |rules| rotate(rules, &source, kind.map(Kind::from)))?;
            told(&format!("{source} has a new key"), &key);
            for old in old {
                say!(
                    "Accepted still: {old}. When every publisher signs with the new one: payonce keys retire {source} {old}"
                );
            }
            Ok(())
        }
        Command::Add { source } => {
            let key = read_key()?;
            Keyring::edit(path, |rules| add(rules, &source, key.clone()))?;
            told(&format!("{source} has one more key"), &key);
            Ok(())
        }
        Command::Retire { source, key, last } => {
            Keyring::edit(path, |rules| retire(rules, &source, &key, last))?;
            say!("{source}: {key} is retired.");
            Ok(())
        }
        Command::Policy { source, signatures } => {
            Keyring::edit(path, |rules| {
                let rule =
                    rules.entry(source.clone()).or_insert(Rule { policy: Policy::Off, keys: Vec::new() });
                rule.policy = policy(&signatures);
                Ok::<_, Failure>(())
            })?;
            say!("{source}: signatures {signatures}.");
            Ok(())
        }
    }
}

fn generate(rules: &mut Rules, source: &str, kind: Kind, policy: Policy) -> Result<Key, Failure> {
    let key = Key::generate(kind).map_err(|problem| Failure::No(problem.to_string()))?;
    let rule = rules.entry(source.to_owned()).or_insert(Rule { policy, keys: Vec::new() });
    if !rule.keys.is_empty() {
        return Err(Failure::No(format!(
            "{source} has a key already; `payonce keys rotate` makes a further one"
        )));
    }
    rule.policy = policy;
    rule.keys.push(key.clone());
    Ok(key)
}

/// The new key, and the names of those that stay.
fn rotate(rules: &mut Rules, source: &str, kind: Option<Kind>) -> Result<(Key, Vec<String>), Failure> {
    let rule = rule_of(rules, source)?;
    let newest = rule.keys.first().map_or(Kind::Hmac, Key::kind);
    let key = Key::generate(kind.unwrap_or(newest)).map_err(|problem| Failure::No(problem.to_string()))?;
    let old = rule.keys.iter().map(Key::id).collect();
    push(rule, source, key.clone())?;
    Ok((key, old))
}

fn add(rules: &mut Rules, source: &str, key: Key) -> Result<(), Failure> {
    let rule = rules.entry(source.to_owned()).or_insert(Rule { policy: Policy::Required, keys: Vec::new() });
    if rule.keys.contains(&key) {
        return Err(Failure::No(format!("{source} has this key already")));
    }
    push(rule, source, key)
}

fn push(rule: &mut Rule, source: &str, key: Key) -> Result<(), Failure> {
    if rule.keys.len() >= KEYS_MAX {
        return Err(Failure::No(format!(
            "{source} has {KEYS_MAX} keys, the most there can be; retire one first"
        )));
    }
    rule.keys.insert(0, key);
    Ok(())
}

fn retire(rules: &mut Rules, source: &str, id: &str, may_be_last: bool) -> Result<(), Failure> {
    let rule = rule_of(rules, source)?;
    let before = rule.keys.len();
    rule.keys.retain(|key| key.id() != id);
    if rule.keys.len() == before {
        return Err(Failure::No(format!("{source} has no key named {id}")));
    }
    if rule.keys.is_empty() && rule.policy == Policy::Required && !may_be_last {
        return Err(Failure::No(format!(
            "{id} is the last key of {source}, whose callbacks must be signed: without it all of them are refused. `payonce keys rotate` \
             makes another; --last retires it all the same"
        )));
    }
    Ok(())
}

fn rule_of<'a>(rules: &'a mut Rules, source: &str) -> Result<&'a mut Rule, Failure> {
    let missing = || Failure::No(format!("{source} has no rule; `payonce keys generate` makes one"));
    rules.get_mut(source).ok_or_else(missing)
}

fn list(path: &Path, secrets: bool, json: bool) -> Result<(), Failure> {
    let keyring = Keyring::load(path, true)?;
    let shown = |key: &Key| if secrets { Some(key.expose().to_owned()) } else { key.public() };
    if json {
        return keyring.rules().iter().try_for_each(|(source, rule)| {
            let keys: Vec<Value> = rule
                .keys
                .iter()
                .map(|key| json!({ "id": key.id(), "kind": kind(key), "signs": key.can_sign(), "key": shown(key) }))
                .collect();
            print_json(&json!({ "source": source, "signatures": rule.policy.as_str(), "keys": keys }))
        });
    }
    let mut rows = table::new(&["source", "signatures", "key", "kind", "signs", "public half"]);
    for (source, rule) in keyring.rules() {
        let start = [table::safe(source), rule.policy.as_str().to_owned()];
        if rule.keys.is_empty() {
            rows.add_row(start.iter().cloned().chain(["-", "", "", ""].map(str::to_owned)));
        }
        for key in &rule.keys {
            let signs = if key.can_sign() { "yes" } else { "no" };
            let key = [key.id(), kind(key).to_owned(), signs.to_owned(), shown(key).unwrap_or_default()];
            rows.add_row(start.iter().cloned().chain(key));
        }
    }
    say!("{rows}");
    Ok(())
}

fn told(what: &str, key: &Key) {
    say!("{what}: {} ({}).", key.id(), kind(key));
    match key.public() {
        Some(public) => say!("Who only verifies needs its public half: {public}"),
        None => say!("`payonce keys list --secrets` prints it, for whoever else signs."),
    }
}

fn kind(key: &Key) -> &'static str {
    match key.kind() {
        Kind::Hmac => "hmac",
        Kind::Ed25519 => "ed25519",
    }
}

fn read_key() -> Result<Key, Failure> {
    /// No key is longer, in bytes.
    const KEY_BYTES_MAX: u64 = 1_024;
    if std::io::stdin().is_terminal() {
        eprintln!("The key, then Enter and Ctrl-D:");
    }
    let mut text = String::new();
    let read = std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    Key::parse(text.trim()).map_err(|problem| Failure::Usage(format!("standard input: {problem}")))
}

fn policies() -> PossibleValuesParser {
    PossibleValuesParser::new(Policy::ALL.map(Policy::as_str))
}

/// clap lets nothing else through.
fn policy(name: &str) -> Policy {
    Policy::parse(name).unwrap_or(Policy::Required)
}

fn source(text: &str) -> Result<String, String> {
    Source::new(text).map(|source| source.as_str().to_owned()).map_err(|error| error.to_string())
}
