//! Names that are none of a setting, and which setting was meant.

use super::{ConfigError, Domain, SETTINGS, error, files::FILE_SUFFIX};

/// Before the name of a setting, in capitals: its variable.
const PREFIX: &str = "PAYONCE_";

/// Variables of payonce, of its scripts and of its tests that are no settings.
const NOT_SETTINGS: [&str; 24] = [
    "PAYONCE_CONFIG",
    "PAYONCE_CRASH_POINT",
    "PAYONCE_DRY_RUN_SEED",
    "PAYONCE_DRY_RUN_STREAMS",
    "PAYONCE_FEED_PASSWORD",
    "PAYONCE_GRANT_API",
    "PAYONCE_GRANT_FEED",
    "PAYONCE_GRANT_OPS",
    "PAYONCE_GRANT_READER",
    "PAYONCE_GRANT_WORKER",
    "PAYONCE_INGRESS_PASSWORD",
    "PAYONCE_LARGE_MESSAGES",
    "PAYONCE_LOCAL_DIR",
    "PAYONCE_OPS_PASSWORD",
    "PAYONCE_PUBLISHER_PASSWORD",
    "PAYONCE_RABBITMQ_MANAGEMENT_URL",
    "PAYONCE_SCREENSHOTS_OF",
    "PAYONCE_SCREENSHOTS_TO",
    "PAYONCE_STREAMS",
    "PAYONCE_STREAMS_SEED",
    "PAYONCE_TLS_DIR",
    "PAYONCE_VHOST",
    "PAYONCE_WORKER_PASSWORD",
    "PAYONCE_WRITE_TABLES",
];

/// Letters that may be wrong, missing, too many or swapped in a name that can be meant for nothing else.
const SURE_EDITS_MAX: usize = 2;

/// Variables whose name begins with `PAYONCE_` and that set nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StrayVariables {
    /// So close to the name of a setting that it was meant: to go on without it would be to go on with another value.
    pub misspelled: Vec<ConfigError>,
    /// Others, which may belong to other programs: each with the setting that may be meant.
    pub unknown: Vec<(String, Option<&'static str>)>,
}

/// Looks for variables that somebody believes to set something. Those that Kubernetes makes for a service named payonce are none.
pub fn stray_variables(names: impl Iterator<Item = String>) -> StrayVariables {
    let mut stray = StrayVariables::default();
    for variable in names {
        let Some(name) = variable.strip_prefix(PREFIX).map(str::to_lowercase) else { continue };
        if is_setting(&name) || NOT_SETTINGS.contains(&variable.as_str()) || is_of_a_service(&variable) {
            continue;
        }
        match meant(&name) {
            Some((setting, edits)) if edits <= SURE_EDITS_MAX => stray.misspelled.push(error(
                &variable,
                format!("there is no such setting; did you mean PAYONCE_{}?", setting.to_uppercase()),
            )),
            meant => stray.unknown.push((variable, meant.map(|(setting, _)| setting))),
        }
    }
    stray
}

/// What is said of a name in the configuration file that is none of a setting.
pub(super) fn no_such_setting(name: &str) -> String {
    let meant = meant(name).map(|(setting, _)| format!("did you mean {setting}? "));
    format!("there is no such setting; {}payonce.example.toml lists all of them", meant.unwrap_or_default())
}

/// Whether this is the name of a setting, or of one's file.
pub(super) fn is_setting(name: &str) -> bool {
    SETTINGS.iter().any(|setting| {
        setting.name == name
            || matches!(setting.domain, Domain::Secret)
                && name.strip_suffix(FILE_SUFFIX) == Some(setting.name)
    })
}

/// The setting that this is closest to, and how many letters they differ by; `None`: none is close.
fn meant(name: &str) -> Option<(&'static str, usize)> {
    // Also with a slip in the suffix of a secret's file.
    let bare = match name.rsplit_once('_') {
        Some((bare, suffix)) if strsim::damerau_levenshtein(suffix, &FILE_SUFFIX[1..]) <= 1 => bare,
        _ => name,
    };
    let edits =
        |known: &str| strsim::damerau_levenshtein(name, known).min(strsim::damerau_levenshtein(bare, known));
    let closest =
        SETTINGS.iter().map(|setting| (setting.name, edits(setting.name))).min_by_key(|found| found.1);
    let is_close = |edits: usize, known: &str| edits <= SURE_EDITS_MAX && edits * 2 < known.len();
    if let Some(found) = closest.filter(|(known, edits)| is_close(*edits, known)) {
        return Some(found);
    }
    // A name without its unit or its end, or with too much of one.
    let begins = |known: &str| bare.len() >= 4 && (known.starts_with(bare) || bare.starts_with(known));
    SETTINGS.iter().find(|setting| begins(setting.name)).map(|setting| (setting.name, usize::MAX))
}

/// `{SVC}_SERVICE_HOST`, `{SVC}_SERVICE_PORT…`, `{SVC}_PORT`, `{SVC}_PORT_9300_TCP…`
/// (<https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>).
fn is_of_a_service(variable: &str) -> bool {
    let numbered =
        variable.split("_PORT_").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
        || numbered
}
