//! Files that settings come from: the TOML file, and files that hold one secret each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{ConfigError, Domain, IngressConfig, SETTINGS, Setting, SubscribersConfig, error};

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

/// What stands in the configuration file besides settings.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// `[ingress]`.
    pub(super) ingress: IngressConfig,
    /// `[feed]`.
    pub(super) feed: SubscribersConfig,
}

/// What the configuration file says: settings by name, and its tables.
pub(super) fn read_file(path: &Path) -> Result<(BTreeMap<String, String>, Tables), ConfigError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|cause| error(&format!("--config {shown}"), cause.to_string()))?;
    let table: toml::Table =
        // The parser's own message quotes the line, which may hold a password.
        text.parse().map_err(|cause: toml::de::Error| error(&format!("--config {shown}"), format!("not TOML: {}", cause.message())))?;
    let mut values = BTreeMap::new();
    let mut tables = Tables::default();
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, value) in table {
        if name == "ingress" {
            tables.ingress = IngressConfig::from_toml(value, folder)?;
            continue;
        }
        if name == "feed" {
            tables.feed = SubscribersConfig::from_toml(value, folder)?;
            continue;
        }
        let is_setting = |setting: &Setting| {
            setting.name == name
                || matches!(setting.domain, Domain::Secret)
                    && name.strip_suffix(FILE_SUFFIX) == Some(setting.name)
        };
        if !SETTINGS.iter().any(is_setting) {
            return Err(error(
                &format!("{name} (configuration file)"),
                "there is no such setting; payonce.example.toml lists all of them".to_owned(),
            ));
        }
        let is_list =
            SETTINGS.iter().any(|setting| setting.name == name && matches!(setting.domain, Domain::Words(_)));
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Array(words) if is_list && words.iter().all(toml::Value::is_str) => {
                words.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            toml::Value::Float(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_) => {
                return Err(error(
                    &format!("{name} (configuration file)"),
                    "expected a text, a whole number, true or false".to_owned(),
                ));
            }
        };
        values.insert(name, value);
    }
    Ok((values, tables))
}

/// Reads TOML that holds secrets.
///
/// # Errors
/// The number of the line that cannot be read, from 1. Not the parser's words: they quote what they found.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T, usize> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    })
}

/// Writes TOML.
///
/// # Errors
/// Words for what cannot be written.
pub fn to_toml(value: &impl Serialize) -> Result<String, String> {
    toml::to_string_pretty(value).map_err(|error| error.to_string())
}
