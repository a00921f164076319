//! What is said of settings that cannot be used. What must not live here: which those are.

use std::fmt;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// Its name and where its value came from.
    pub setting: String,
    /// What was found and what is allowed.
    pub problem: String,
}

/// All settings that cannot be used, one a line: whoever fixes one should not find the next by starting again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ConfigError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

pub(super) fn error(setting: &str, problem: String) -> ConfigError {
    ConfigError { setting: setting.to_owned(), problem }
}
