//! The secrets file of one endpoint, or of one subscriber: one secret a line, several while one is rotated, and `name = value` lines for providers that need keys and
//! ids. Nothing here is ever printed. What must not live here: what is done with them.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Largest secrets file, in bytes.
const FILE_BYTES_MAX: u64 = 65_536;
/// Largest file that a line names (a certificate with its chain), in bytes.
const NAMED_FILE_BYTES_MAX: u64 = 65_536;
/// Secrets of one endpoint: a request is hashed once for each.
pub const SECRETS_MAX: usize = 8;
/// The only bits of the mode that may be set for others: as for keys_file.
const FORBIDDEN_MODE: u32 = 0o027;

/// What a secrets file holds.
#[derive(Clone, Default)]
pub struct Secrets {
    bare: Vec<String>,
    named: Vec<(String, String)>,
    /// Where files that it names are looked for.
    folder: PathBuf,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} bare, {} named)", self.bare.len(), self.named.len())
    }
}

impl Secrets {
    /// Reads a file whose `name = value` lines may have these names.
    ///
    /// # Errors
    /// Words that name the file and the line, and quote nothing.
    pub fn load(path: &Path, names: &[&str]) -> Result<Self, String> {
        let shown = path.display();
        let metadata = fs::metadata(path).map_err(|cause| format!("{shown}: {cause}"))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & FORBIDDEN_MODE != 0 {
            return Err(format!(
                "{shown}: mode {mode:o} lets others read or change it; run: chmod 600 {shown}"
            ));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(format!("{shown}: larger than {FILE_BYTES_MAX} bytes"));
        }
        let text = fs::read_to_string(path).map_err(|cause| format!("{shown}: {cause}"))?;
        let mut secrets = Self::parse(&text, names).map_err(|problem| format!("{shown}, {problem}"))?;
        secrets.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(secrets)
    }

    /// Reads the text of such a file. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// Words with the number of the line.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let mut secrets = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.chars().any(char::is_control) {
                return Err(format!("line {number}: holds a control character"));
            }
            // A secret may hold `=` itself (base64 ends in it): only known names make a named line.
            let named = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            match named.filter(|(name, _)| names.contains(name)) {
                Some((name, "")) => return Err(format!("line {number}: {name} has no value")),
                Some((name, value)) => secrets.named.push((name.to_owned(), value.to_owned())),
                None => secrets.bare.push(line.to_owned()),
            }
        }
        if secrets.bare.len() > SECRETS_MAX {
            return Err(format!("{} secrets, at most {SECRETS_MAX} are allowed", secrets.bare.len()));
        }
        Ok(secrets)
    }

    /// The lines without a name, in order.
    ///
    /// # Errors
    /// Words where there is none.
    pub fn bare(&self, what: &str) -> Result<&[String], String> {
        if self.bare.is_empty() { Err(format!("expected {what} on a line")) } else { Ok(&self.bare) }
    }

    /// The lines without a name; none is allowed too.
    #[must_use]
    pub fn bare_or_none(&self) -> &[String] {
        &self.bare
    }

    /// Every value under a name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.named.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The value under a name.
    ///
    /// # Errors
    /// Words where it is missing or stands twice.
    pub fn one(&self, name: &str) -> Result<&str, String> {
        let mut found = self.named.iter().filter(|(found, _)| found == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(value.as_str()),
            (None, _) => Err(format!("expected a line `{name} = …`")),
            (Some(_), Some(_)) => Err(format!("two lines `{name} = …`, expected one")),
        }
    }

    /// The bytes of a file that a line names, relative to the secrets file.
    ///
    /// # Errors
    /// Words that name the file.
    pub fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.folder.join(name);
        let shown = path.display();
        let metadata = fs::metadata(&path).map_err(|cause| format!("{shown}: {cause}"))?;
        if metadata.len() > NAMED_FILE_BYTES_MAX {
            return Err(format!("{shown}: larger than {NAMED_FILE_BYTES_MAX} bytes"));
        }
        fs::read(&path).map_err(|cause| format!("{shown}: {cause}"))
    }
}
