//! What a setting is: its name, what it may hold, and how a value of it is read. What must not live here: which settings there are.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{ConfigError, Secret, error};
use crate::references::{FIELDS_MAX, ReferenceFields};

/// Which part of payonce uses a setting: `--help` of a command shows those of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every command.
    Log,
    /// PostgreSQL.
    Database,
    /// Redis.
    Redis,
    /// RabbitMQ.
    Broker,
    /// What instances are told apart by on Redis and RabbitMQ.
    Names,
    /// The TLS links to the three servers.
    Tls,
    /// Who may sign for which source.
    Signatures,
    /// Settling: batches, lanes, waiting, reports.
    Worker,
    /// Pauses between tries.
    Retry,
    /// By which rules callbacks and cases are decided.
    Rules,
    /// Reading for people and programs.
    Reading,
    /// The names that metrics give.
    Labels,
    /// `payonce ops`.
    Ops,
    /// `payonce publish`.
    Publish,
    /// `payonce feed`.
    Feed,
    /// `payonce api`.
    Api,
    /// What needs a second person.
    Approvals,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// What may stand behind a number, and how many of the unit it makes.
    const fn suffixes(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Count => &[],
            Self::Milliseconds => {
                &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
            }
            Self::Bytes => &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)],
        }
    }

    /// A whole number, alone or with one of the suffixes; `None`: neither, or larger than any limit.
    fn parse(self, value: &str) -> Option<u64> {
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = value.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        if suffix.is_empty() {
            return Some(number);
        }
        let (_, factor) = self.suffixes().iter().find(|(name, _)| *name == suffix)?;
        number.checked_mul(*factor)
    }

    const fn examples(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Milliseconds => " milliseconds, or such as 250ms, 30s, 5m, 72h or 3d",
            Self::Bytes => " bytes, or such as 512KiB, 64MiB or 1GiB",
        }
    }
}

/// What a setting may hold.
#[derive(Debug, Clone, Copy)]
pub enum Domain {
    /// A whole number within limits, both allowed.
    Number {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// Of what.
        unit: Unit,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, none twice: in the TOML file an array, else with commas between them.
    Words(&'static [&'static str]),
    /// Names of members of a message, or paths to them: as [`Domain::Words`], of an open list.
    Members,
    /// Text without control characters, at most 200 bytes.
    Text,
    /// Any number of texts: in the TOML file an array, else with commas between them. At most 4096 bytes in all.
    List {
        /// Whether this is one of them.
        is_fit: fn(&str) -> bool,
        /// What each must be, in words.
        expected: &'static str,
    },
    /// An address with a password in it. It is never printed, and there is no flag for it: arguments are visible to every user
    /// of a machine. `NAME_FILE`, or `name_file` in the TOML file, names a file that holds it.
    Secret,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name in the TOML file; `PAYONCE_` and capitals make the variable, dashes for underscores the flag.
    pub name: &'static str,
    /// Who uses it.
    pub part: Part,
    /// What it may hold.
    pub domain: Domain,
    /// Where nothing else is said; empty: none.
    pub default: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
}

impl Setting {
    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("PAYONCE_{}", self.name.to_uppercase())
    }

    pub(super) fn allowed(&self) -> String {
        match self.domain {
            Domain::Number { min, max, unit } => {
                format!("a whole number from {min} to {max}{}", unit.examples())
            }
            Domain::Word(words) => format!("one of {}", words.join(", ")),
            Domain::Words(words) => format!("any of {}, with commas between them", words.join(", ")),
            Domain::Members => format!(
                "at most {FIELDS_MAX} names of members such as order_id or customer.id, none twice, with commas between them"
            ),
            Domain::Text => "text of at most 200 bytes without control characters".to_owned(),
            Domain::List { expected, .. } => format!("{expected}, with commas between them"),
            Domain::Secret => "an address such as those in payonce.example.toml".to_owned(),
        }
    }

    /// The value as it is kept: a number in its unit, without a suffix. `None`: it is not allowed.
    pub(super) fn read(&self, value: &str) -> Option<String> {
        let is_allowed = match self.domain {
            Domain::Number { min, max, unit } => {
                let number = unit.parse(value).filter(|number| (min..=max).contains(number))?;
                return Some(number.to_string());
            }
            Domain::Word(words) => words.contains(&value),
            Domain::Words(words) => {
                let given: Vec<&str> = listed(value).collect();
                given.iter().enumerate().all(|(at, word)| words.contains(word) && !given[..at].contains(word))
            }
            Domain::Members => ReferenceFields::is_list(&listed(value).collect::<Vec<_>>()),
            Domain::Text => value.len() <= 200 && !value.chars().any(char::is_control),
            Domain::List { is_fit, .. } => {
                value.len() <= 4_096 && !value.chars().any(char::is_control) && listed(value).all(is_fit)
            }
            Domain::Secret => !value.is_empty(),
        };
        is_allowed.then(|| value.to_owned())
    }
}

/// The parts of a [`Domain::Words`], [`Domain::Members`] or [`Domain::List`].
pub(super) fn listed(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

const fn number(limits: RangeInclusive<u64>, unit: Unit) -> Domain {
    Domain::Number { min: *limits.start(), max: *limits.end(), unit }
}

/// A number of things, within these limits, both allowed.
pub(super) const fn count(limits: RangeInclusive<u64>) -> Domain {
    number(limits, Unit::Count)
}

/// A time, in milliseconds.
pub(super) const fn millis(limits: RangeInclusive<u64>) -> Domain {
    number(limits, Unit::Milliseconds)
}

/// A size, in bytes.
pub(super) const fn bytes(limits: RangeInclusive<u64>) -> Domain {
    number(limits, Unit::Bytes)
}

/// A type that settings are read as.
pub(super) trait Typed: Sized {
    /// The value of the setting of this name among checked texts.
    ///
    /// # Errors
    /// A number that the type cannot hold on this machine.
    fn of(name: &str, texts: &BTreeMap<&str, String>) -> Result<Self, ConfigError> {
        Self::typed(texts.get(name).map_or("", String::as_str))
            .ok_or_else(|| error(name, "not a number this machine can hold".to_owned()))
    }

    /// `None`: not a number that it can hold.
    fn typed(text: &str) -> Option<Self>;
}

impl Typed for String {
    fn typed(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// The words of a [`Domain::Words`].
impl Typed for Vec<String> {
    fn typed(text: &str) -> Option<Self> {
        Some(listed(text).map(str::to_owned).collect())
    }
}

/// The names of a [`Domain::Members`].
impl Typed for ReferenceFields {
    fn typed(text: &str) -> Option<Self> {
        Some(Self::new(listed(text)))
    }
}

/// Of two words, whether it is the one that switches something on.
impl Typed for bool {
    fn typed(text: &str) -> Option<Self> {
        Some(matches!(text, "on" | "true" | "required"))
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Typed for $type {
            fn typed(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

numbers!(u16 u32 u64 usize);

/// Of milliseconds.
impl Typed for Duration {
    fn typed(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_millis)
    }
}

impl Typed for Secret {
    fn typed(text: &str) -> Option<Self> {
        Some(Self::new(text.to_owned()))
    }
}

impl Typed for PathBuf {
    fn typed(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

/// Nothing, where the text is empty.
impl<T: Typed> Typed for Option<T> {
    fn typed(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::typed(text).map(Some) }
    }
}
