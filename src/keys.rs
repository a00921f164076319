//! The keys file: for each source, whether its callbacks must be signed and by whose keys. Read, checked, written, and read again while
//! a worker runs. What must not live here: the arithmetic of signatures (`signature`).

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    config::{from_toml, to_toml},
    metrics,
    signature::{Headers, KEYS_MAX, Key, Policy, Refusal, Rule},
};

/// How often a running worker looks at the file; a change is in force after two looks. A new key is needed before the first callback that
/// is signed with it; two seconds leave time for that, and cost two small reads.
pub const KEYS_REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// The only bits of a file's mode that may be set for others: a secret that every user of the machine can read is none. The group may
/// read, because that is how orchestrators hand secrets to a process that is not root.
const FORBIDDEN_MODE: u32 = 0o027;

/// Why a keys file cannot be used. Never quotes what is in it.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file system says so.
    #[error("keys_file {path}: {cause}")]
    File {
        /// Which file.
        path: String,
        /// What it says.
        cause: io::Error,
    },
    /// Others could read or change it.
    #[error("keys_file {path}: mode {mode:o} lets others read or change it; run: chmod 600 {path}")]
    TooOpen {
        /// Which file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not what docs/signatures.md describes.
    #[error(
        "keys_file {path}, line {line}: not a keys file; docs/signatures.md shows one, `payonce keys` writes one"
    )]
    NotOne {
        /// Which file.
        path: String,
        /// Where.
        line: usize,
    },
    /// It names no source: emptied by mistake, or read while somebody writes it. Nothing that `payonce keys` writes is like that.
    #[error(
        "keys_file {path}: names no source, so every callback would be refused or none verified. `payonce keys generate SOURCE` adds \
         one; to go without rules, unset keys_file (PAYONCE_KEYS_FILE)"
    )]
    Empty {
        /// Which file.
        path: String,
    },
    /// A rule is not sound.
    #[error("keys_file {path}, source {from:?}: {problem}")]
    Rule {
        /// Which file.
        path: String,
        /// Whose rule.
        from: String,
        /// What is wrong.
        problem: String,
    },
}

/// The file as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    sources: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    signatures: String,
    #[serde(default)]
    keys: Vec<String>,
}

/// The rules of all sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    rules: BTreeMap<String, Rule>,
    /// Whether a source without a rule is refused.
    is_strict: bool,
}

impl Keyring {
    /// No rules. `is_strict`: whether a source without a rule is refused.
    #[must_use]
    pub fn empty(is_strict: bool) -> Self {
        Self { rules: BTreeMap::new(), is_strict }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`KeysError`], which names the file and never quotes a key.
    pub fn load(path: &Path, is_strict: bool) -> Result<Self, KeysError> {
        let keyring = Self::load_any(path, is_strict)?;
        if keyring.rules.is_empty() {
            return Err(KeysError::Empty { path: path.display().to_string() });
        }
        Ok(keyring)
    }

    /// The same, also of a file that names no source yet.
    fn load_any(path: &Path, is_strict: bool) -> Result<Self, KeysError> {
        let shown = path.display().to_string();
        let failed = |cause| KeysError::File { path: shown.clone(), cause };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & FORBIDDEN_MODE != 0 {
            return Err(KeysError::TooOpen { path: shown, mode });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let document: Document =
            from_toml(&text).map_err(|line| KeysError::NotOne { path: shown.clone(), line })?;
        let mut rules = BTreeMap::new();
        for (source, entry) in document.sources {
            let rule = rule(&entry).map_err(|problem| KeysError::Rule {
                path: shown.clone(),
                from: source.clone(),
                problem,
            })?;
            rules.insert(source, rule);
        }
        Ok(Self { rules, is_strict })
    }

    /// Changes the file under a lock of its folder, so that of two changes at once neither is lost, and puts it in the old one's place
    /// whole. A file that is not there yet begins empty.
    ///
    /// # Errors
    /// [`KeysError`], or those of `change`; the file is then as it was.
    pub fn edit<T, E: From<KeysError>>(
        path: &Path,
        change: impl FnOnce(&mut BTreeMap<String, Rule>) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |cause| KeysError::File { path: path.display().to_string(), cause };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = File::open(folder).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut keyring = match Self::load_any(path, true) {
            Err(KeysError::File { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Self::empty(true)
            }
            loaded => loaded?,
        };
        let result = change(&mut keyring.rules)?;
        keyring.save(path, &lock).map_err(failed)?;
        Ok(result)
    }

    fn save(&self, path: &Path, folder: &File) -> io::Result<()> {
        let entry = |rule: &Rule| Entry {
            signatures: rule.policy.as_str().to_owned(),
            keys: rule.keys.iter().map(|key| key.expose().to_owned()).collect(),
        };
        let document = Document {
            sources: self.rules.iter().map(|(source, rule)| (source.clone(), entry(rule))).collect(),
        };
        let text = to_toml(&document).map_err(io::Error::other)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = path.with_file_name(name);
        let written = write_secret(&new, &text).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            // Nothing of a secret stays behind; what was wrong is said below.
            let _removed = fs::remove_file(&new);
        }
        written?;
        folder.sync_all()
    }

    /// Whether a message may speak for `source`, which is the one inside `body`, as `event_id` is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(
        &self,
        source: &str,
        event_id: &str,
        headers: &Headers,
        body: &[u8],
    ) -> Result<(), Refusal> {
        match self.rules.get(source) {
            Some(rule) => rule.verify(headers, event_id, body),
            None if self.is_strict => Err(Refusal::NoRule),
            None => Ok(()),
        }
    }

    /// Whether this name of a source is more than what a stranger wrote into a message: counts and labels are kept under such names only,
    /// since a stranger can invent any number of others.
    #[must_use]
    pub fn vouches_for(&self, source: &str) -> bool {
        !self.is_strict || self.rules.contains_key(source)
    }

    /// The rule of this source.
    #[must_use]
    pub fn rule(&self, source: &str) -> Option<&Rule> {
        self.rules.get(source)
    }

    /// Every rule, by source.
    #[must_use]
    pub fn rules(&self) -> &BTreeMap<String, Rule> {
        &self.rules
    }

    /// Signs a message of `source`: its headers; `None` where no key can, and none is needed.
    ///
    /// # Errors
    /// Words for a signature that is needed and cannot be made.
    pub fn sign(
        &self,
        source: &str,
        event_id: &str,
        timestamp_s: u64,
        body: &[u8],
    ) -> Result<Option<Headers>, String> {
        let rule = self.rules.get(source);
        let signed = rule.and_then(|rule| rule.sign(event_id, timestamp_s, body));
        let is_needed = rule.map_or(self.is_strict, |rule| rule.policy == Policy::Required);
        if signed.is_none() && is_needed {
            return Err(format!(
                "keys_file has no key that can sign for {source:?}, and workers refuse it unsigned; `payonce keys generate` makes one"
            ));
        }
        Ok(signed)
    }
}

fn rule(entry: &Entry) -> Result<Rule, String> {
    let policy = Policy::parse(&entry.signatures).ok_or_else(|| {
        format!("signatures: expected one of {}", Policy::ALL.map(Policy::as_str).join(", "))
    })?;
    let count = entry.keys.len();
    if count > KEYS_MAX {
        return Err(format!("keys: {count} of them, at most {KEYS_MAX} are allowed"));
    }
    let parse = |(at, text): (usize, &String)| {
        Key::parse(text).map_err(|problem| {
            format!("keys: number {} of {count}: {problem}; `payonce keys generate` makes one", at + 1)
        })
    };
    let keys: Result<Vec<Key>, String> = entry.keys.iter().enumerate().map(parse).collect();
    Ok(Rule { policy, keys: keys? })
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Whatever the umask says.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The keyring that is in force now. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Keys {
    path: Option<PathBuf>,
    is_strict: bool,
    current: Arc<RwLock<Arc<Keyring>>>,
}

impl Keys {
    /// Reads the file, where there is one.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn open(path: Option<&Path>, is_strict: bool) -> Result<Self, KeysError> {
        let keyring = match path {
            Some(path) => Keyring::load(path, is_strict)?,
            None => Keyring::empty(is_strict),
        };
        let current = Arc::new(RwLock::new(Arc::new(keyring)));
        Ok(Self { path: path.map(Path::to_owned), is_strict, current })
    }

    /// The keyring in force: one look for a whole batch.
    #[must_use]
    pub fn current(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over each change of the file, until `stop`: when two looks in a row have read the same, so that a file that is being written
    /// in place is not read by half. One that cannot be used, or names no source any more, is reported in the log and by the metric
    /// `payonce_keys_file_ok`, and the keys from before stay in force: a slip of the editor must not reject every payment.
    pub async fn keep_fresh(&self, pause: Duration, stop: &CancellationToken) {
        metrics::keys_file_ok(true);
        let Some(path) = &self.path else { return };
        let mut reported = String::new();
        let mut seen = self.current();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match Keyring::load(path, self.is_strict) {
                Ok(keyring) => {
                    reported.clear();
                    metrics::keys_file_ok(true);
                    let is_settled = keyring == *seen;
                    if is_settled && keyring != *self.current() {
                        info!(
                            sources = keyring.rules.len(),
                            "keys_file has changed; its new keys are in force"
                        );
                        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&seen);
                    }
                    if !is_settled {
                        seen = Arc::new(keyring);
                    }
                }
                Err(problem) => {
                    metrics::keys_file_ok(false);
                    let problem = problem.to_string();
                    if problem != reported {
                        error!(
                            problem,
                            "keys_file cannot be used any more; the keys from before stay in force"
                        );
                        reported = problem;
                    }
                }
            }
        }
    }
}
