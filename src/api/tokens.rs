//! Who may read what: tokens with scopes, from a file that is read again when it changes. The file has a digest of each token, never the
//! token, so that a copy of it opens nothing.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::from_toml;

/// How often a running api looks at the file.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// Tokens of one file: all are compared with each request.
const TOKENS_MAX: usize = 1_000;
/// Shortest token that a request may show.
const TOKEN_BYTES_MIN: usize = 16;

/// What a token may be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Scope {
    /// `GET /v1/accounts…`
    #[serde(rename = "accounts:read")]
    Accounts,
    /// `GET /v1/payments`
    #[serde(rename = "payments:read")]
    Payments,
    /// `GET /v1/events`
    #[serde(rename = "events:read")]
    Events,
}

impl Scope {
    /// As in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "accounts:read",
            Self::Payments => "payments:read",
            Self::Events => "events:read",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    scopes: Vec<Scope>,
    accounts: Option<Vec<String>>,
}

/// A token that a request has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is, for logs.
    pub name: String,
    digest: [u8; 32],
    scopes: Vec<Scope>,
    /// Beginnings of account ids; `None`: all accounts.
    accounts: Option<Vec<String>>,
}

impl Grant {
    /// Whether it is good for this.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether it may see what is about this account; `None`: about no account that could be read.
    #[must_use]
    pub fn may_see(&self, account_id: Option<&str>) -> bool {
        match (&self.accounts, account_id) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(prefixes), Some(id)) => prefixes.iter().any(|prefix| id.starts_with(prefix.as_str())),
        }
    }
}

/// The tokens of a file.
#[derive(Debug, Clone)]
pub struct Tokens {
    path: PathBuf,
    grants: Arc<RwLock<Arc<Vec<Grant>>>>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// Words that name the file and what is wrong, never what is in it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let grants = load(path)?;
        Ok(Self { path: path.to_owned(), grants: Arc::new(RwLock::new(Arc::new(grants))) })
    }

    /// Whose token this is.
    #[must_use]
    pub fn grant_of(&self, token: &str) -> Option<Grant> {
        if token.len() < TOKEN_BYTES_MIN {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let grants = Arc::clone(&self.grants.read().unwrap_or_else(PoisonError::into_inner));
        // Digests of equal length, each compared in equal time.
        grants.iter().find(|grant| bool::from(grant.digest.ct_eq(&digest))).cloned()
    }

    /// Reads the file again when it has changed, until `stop`. One that cannot be used leaves the last good tokens in force.
    pub async fn keep_fresh(&self, stop: &CancellationToken) {
        let mut is_bad = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REFRESH_PAUSE) => {}
            }
            match load(&self.path) {
                Ok(grants) => {
                    let mut current = self.grants.write().unwrap_or_else(PoisonError::into_inner);
                    if **current != grants {
                        info!(tokens = grants.len(), "api_tokens_file was read again");
                        *current = Arc::new(grants);
                    }
                    is_bad = false;
                }
                Err(problem) => {
                    if !is_bad {
                        error!(problem, "the tokens from before stay in force");
                    }
                    is_bad = true;
                }
            }
        }
    }
}

fn load(path: &Path) -> Result<Vec<Grant>, String> {
    let named = |problem: String| format!("api_tokens_file {}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|cause| named(cause.to_string()))?;
    let document: Document = from_toml(&text)
        .map_err(|line| named(format!("line {line}: not a file of tokens; docs/api.md shows one")))?;
    if document.token.is_empty() || document.token.len() > TOKENS_MAX {
        return Err(named(format!(
            "{} tokens, expected 1 to {TOKENS_MAX}; docs/api.md shows a file",
            document.token.len()
        )));
    }
    let mut grants = Vec::with_capacity(document.token.len());
    for Entry { name, sha256, scopes, accounts } in document.token {
        let digest = digest_of(&sha256).ok_or_else(|| {
            named(format!("token {name:?}: sha256 is not 64 hexadecimal digits; `printf %s TOKEN | sha256sum` prints them"))
        })?;
        if scopes.is_empty() {
            return Err(named(format!("token {name:?}: no scopes, so it would open nothing")));
        }
        if accounts.as_ref().is_some_and(Vec::is_empty) {
            return Err(named(format!(
                "token {name:?}: accounts is empty, so it would see no account; leave it out for all accounts"
            )));
        }
        grants.push(Grant { name, digest, scopes, accounts });
    }
    Ok(grants)
}

fn digest_of(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}
