//! Where in a provider's object stands what a team put there: the account, and references. What must not live here: any provider's names.

use std::collections::BTreeMap;

use serde_json::Value;

use super::members::{at, text};
use crate::{
    ledger::TEXT_BYTES_MAX,
    references::{self, ReferenceFields},
};

/// Where an account id stands: members from the object down, and a text at which it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountPath {
    /// Such as `metadata.account_id`.
    pub path: String,
    /// What ends it, such as `/` in `acct-1001/order-7`; `None`: all of the text is the account.
    pub until: Option<String>,
}

impl AccountPath {
    /// The account in an object of JSON.
    #[must_use]
    pub fn of(&self, object: &Value) -> Option<String> {
        self.cut(text(object, &self.path)?)
    }

    /// The account in the text that stands at the path.
    #[must_use]
    pub fn cut(&self, found: &str) -> Option<String> {
        let cut = match &self.until {
            Some(until) => found.split_once(until.as_str()).map_or(found, |(account, _)| account),
            None => found,
        };
        is_id(cut).then(|| cut.to_owned())
    }
}

/// Where references stand, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferencePaths(BTreeMap<String, String>);

impl ReferencePaths {
    /// Checks the paths of an endpoint.
    ///
    /// # Errors
    /// Words for what is wrong.
    pub fn new(paths: &BTreeMap<String, String>) -> Result<Self, String> {
        let names: Vec<&str> = paths.keys().map(String::as_str).collect();
        if !ReferenceFields::is_list(&names) {
            let most = references::FIELDS_MAX;
            return Err(format!(
                "references: expected at most {most} names of letters, digits, _, - and dots"
            ));
        }
        if let Some((name, path)) = paths.iter().find(|(_, path)| path.split('.').any(str::is_empty)) {
            return Err(format!(
                "references: {name}: {path:?}: expected names of members, separated by dots"
            ));
        }
        Ok(Self(paths.clone()))
    }

    /// The references in an object of JSON. One that is not there, or is no short text, is none: what the money does depends on none of them.
    #[must_use]
    pub fn of(&self, object: &Value) -> BTreeMap<String, String> {
        self.each(|path| at(object, path).and_then(references::text))
    }

    /// Those that `find` finds by their paths.
    #[must_use]
    pub fn each(&self, find: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
        self.0.iter().filter_map(|(name, path)| Some((name.clone(), find(path)?))).collect()
    }
}

/// Whether a text can be an id (contract §2): 1 to 200 bytes without control characters.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}
