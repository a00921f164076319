//! Files that settings come from: the TOML file, and files that hold one secret each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Domain, IngressConfig, SETTINGS, Setting, SubscribersConfig, error,
    names::{is_setting, no_such_setting},
};

/// After the name of a secret: the file that holds it.
pub(super) const FILE_SUFFIX: &str = "_file";

/// A file with a secret is a line, not a book.
const SECRET_FILE_BYTES_MAX: u64 = 65_536;

/// The value under this name, or for a secret that of the file named under the same name with `suffix`; with where it came from.
pub(super) fn direct_or_file(
    setting: &Setting,
    name: &str,
    suffix: &str,
    value: impl Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>, ConfigError> {
    let direct = value(name).map(|value| (name.to_owned(), value));
    if !matches!(setting.domain, Domain::Secret) {
        return Ok(direct);
    }
    let file_name = format!("{name}{suffix}");
    match (direct, value(&file_name)) {
        (Some(_), Some(_)) => Err(error(&file_name, format!("{name} is set too: set one of the two"))),
        (direct, None) => Ok(direct),
        (None, Some(path)) => Ok(Some((file_name.clone(), read_secret(&file_name, &PathBuf::from(path))?))),
    }
}

fn read_secret(name: &str, path: &Path) -> Result<String, ConfigError> {
    let named = format!("{name} ({})", path.display());
    let metadata = std::fs::metadata(path).map_err(|cause| error(&named, cause.to_string()))?;
    if metadata.len() > SECRET_FILE_BYTES_MAX {
        return Err(error(&named, format!("larger than {SECRET_FILE_BYTES_MAX} bytes, expected one line")));
    }
    let text = std::fs::read_to_string(path).map_err(|cause| error(&named, cause.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A value in the configuration file.
#[derive(Debug, Clone)]
pub(super) struct FileValue {
    pub(super) text: String,
    /// Of the file, from 1.
    pub(super) line: usize,
}

/// What the configuration file says.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    /// Settings by name.
    pub(super) values: BTreeMap<String, FileValue>,
    /// `[ingress]`.
    pub(super) ingress: IngressConfig,
    /// `[feed]`.
    pub(super) feed: SubscribersConfig,
}

/// The tables alone, and whatever else there is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct IngressAlone {
    ingress: IngressConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FeedAlone {
    feed: SubscribersConfig,
}

/// Where a value in the configuration file stands, in words.
pub(super) fn place(line: usize) -> String {
    format!("configuration file, line {line}")
}

/// The lines of what stands in the tables of the configuration file, by path: `ingress.channels`, `feed.subscriber.0.types`.
#[derive(Default)]
pub(super) struct Lines(BTreeMap<String, usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let mut lines = Self::default();
        if let Ok(table) = DeTable::parse(text) {
            lines.add(text, "", table.get_ref());
        }
        lines
    }

    fn add(&mut self, text: &str, before: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let path = format!("{before}{}", name.get_ref());
            self.0.insert(path.clone(), line_of(text, name.span().start));
            match value.get_ref() {
                DeValue::Table(table) => self.add(text, &format!("{path}."), table),
                DeValue::Array(values) => {
                    for (at, value) in values.iter().enumerate() {
                        if let DeValue::Table(table) = value.get_ref() {
                            self.add(text, &format!("{path}.{at}."), table);
                        }
                    }
                }
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => {}
            }
        }
    }

    /// Where it stands, in words; a default stands nowhere.
    pub(super) fn place(&self, path: &str) -> String {
        self.0.get(path).map_or_else(|| "configuration file".to_owned(), |line| place(*line))
    }
}

/// The file, and all that cannot be used in it.
///
/// # Errors
/// Where there is no file, or it is not TOML.
pub(super) fn read_file(path: &Path) -> Result<(ConfigFile, Vec<ConfigError>), ConfigError> {
    let named = format!("--config {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|cause| error(&named, cause.to_string()))?;
    // The parser's own message quotes the line, which may hold a password.
    let not_toml = |cause: toml::de::Error| {
        let line = line_of(&text, cause.span().map_or(0, |span| span.start));
        error(&named, format!("line {line}: not TOML: {}", cause.message()))
    };
    let table: BTreeMap<Spanned<String>, toml::Value> = toml::from_str(&text).map_err(not_toml)?;
    let mut file = ConfigFile::default();
    let mut errors = Vec::new();
    let lines = Lines::of(&text);
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, value) in table {
        let line = line_of(&text, name.span().start);
        let name = name.into_inner();
        let wrong = |problem| error(&format!("{name} ({})", place(line)), problem);
        match (name.as_str(), value) {
            ("ingress", _) => match table_of::<IngressAlone>(&text, "ingress") {
                Ok(IngressAlone { ingress }) => file.ingress = ingress.checked(folder, &lines, &mut errors),
                Err(error) => errors.push(error),
            },
            ("feed", _) => match table_of::<FeedAlone>(&text, "feed") {
                Ok(FeedAlone { feed }) => file.feed = feed.checked(folder, &lines, &mut errors),
                Err(error) => errors.push(error),
            },
            (unknown, _) if !is_setting(unknown) => errors.push(wrong(no_such_setting(unknown))),
            (setting, value) => match as_text(setting, value) {
                Some(text) => {
                    file.values.insert(name, FileValue { text, line });
                }
                None => errors.push(wrong("expected a text, a whole number, true or false".to_owned())),
            },
        }
    }
    Ok((file, errors))
}

/// One table of the whole file: so its errors have their lines.
fn table_of<T: DeserializeOwned>(text: &str, name: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|cause: toml::de::Error| {
        let line = line_of(text, cause.span().map_or(0, |span| span.start));
        error(&format!("{name} ({})", place(line)), cause.message().to_owned())
    })
}

/// A value as a flag would have it. `None`: it is of a kind that no setting has.
fn as_text(name: &str, value: toml::Value) -> Option<String> {
    let has_list = |setting: &Setting| {
        matches!(setting.domain, Domain::Words(_) | Domain::Members | Domain::List { .. })
    };
    let is_list = SETTINGS.iter().any(|setting| setting.name == name && has_list(setting));
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Array(words) if is_list && words.iter().all(toml::Value::is_str) => {
            Some(words.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(","))
        }
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            None
        }
    }
}

/// The line that a byte is on, from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Reads TOML that holds secrets.
///
/// # Errors
/// The number of the line that cannot be read, from 1. Not the parser's words: they quote what they found.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T, usize> {
    toml::from_str(text).map_err(|error| line_of(text, error.span().map_or(0, |span| span.start)))
}

/// Writes TOML.
///
/// # Errors
/// Words for what cannot be written.
pub fn to_toml(value: &impl Serialize) -> Result<String, String> {
    toml::to_string_pretty(value).map_err(|error| error.to_string())
}
