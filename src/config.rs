//! Every setting: its name, unit, default and limits, in one table. A value comes from a flag, else a `PAYONCE_*` variable, else
//! the TOML file, else the default. A value outside its limits is refused by name, before anything is connected.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

/// What a setting may hold.
#[derive(Debug, Clone, Copy)]
pub enum Domain {
    /// A whole number within limits, both allowed.
    Number {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text without control characters, at most 200 bytes.
    Text,
    /// An address with a password in it. It is never printed, and there is no flag for it: arguments are visible to every user
    /// of a machine.
    Secret,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name in the TOML file; `PAYONCE_` and capitals make the variable, dashes for underscores the flag.
    pub name: &'static str,
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

    fn allowed(&self) -> String {
        match self.domain {
            Domain::Number { min, max } => format!("a whole number from {min} to {max}"),
            Domain::Word(words) => format!("one of {}", words.join(", ")),
            Domain::Text => "text of at most 200 bytes without control characters".to_owned(),
            Domain::Secret => "an address such as those in payonce.example.toml".to_owned(),
        }
    }

    fn check(&self, value: &str) -> bool {
        match self.domain {
            Domain::Number { min, max } => {
                value.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
            }
            Domain::Word(words) => words.contains(&value),
            Domain::Text => value.len() <= 200 && !value.chars().any(char::is_control),
            Domain::Secret => !value.is_empty(),
        }
    }
}

const fn number(
    name: &'static str,
    min: u64,
    max: u64,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, domain: Domain::Number { min, max }, default, help }
}

/// Shortest token of `payonce ops`.
const TOKEN_BYTES_MIN: usize = 16;

const HOUR_MS: u64 = 60 * 60 * 1_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// All settings, in the order of `payonce.example.toml`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "database_url",
        domain: Domain::Secret,
        default: "",
        help: "PostgreSQL 15 or later: postgres://user:password@host:port/database, with TLS ?sslmode=verify-full; of several hosts (host:port,host:port) the writable one is found",
    },
    Setting {
        name: "redis_url",
        domain: Domain::Secret,
        default: "",
        help: "Redis 7 or later: redis://host:port, with TLS rediss://host:port; of several hosts (host:port,host:port) the first that takes writes is used",
    },
    Setting {
        name: "amqp_url",
        domain: Domain::Secret,
        default: "",
        help: "RabbitMQ 3.10 or later: amqp://user:password@host:port/vhost (the vhost / is written %2f), with TLS amqps://; several hosts (host:port,host:port) are tried in turn",
    },
    Setting {
        name: "tls_ca_file",
        domain: Domain::Text,
        default: "",
        help: "PEM file with the authorities that may vouch for rediss:// and amqps:// servers; none: those the system trusts. For PostgreSQL, where its address has no sslrootcert",
    },
    Setting {
        name: "tls_certificate_file",
        domain: Domain::Text,
        default: "",
        help: "PEM file with the certificate (and its chain) that the servers are shown; with tls_key_file. For PostgreSQL, where its address has no sslcert",
    },
    Setting {
        name: "tls_key_file",
        domain: Domain::Text,
        default: "",
        help: "PEM file with the key of tls_certificate_file; not readable for everybody",
    },
    Setting {
        name: "prefix",
        domain: Domain::Text,
        default: "",
        help: "Put before each name on the broker and each Redis key, so that instances can share servers",
    },
    Setting {
        name: "signatures",
        domain: Domain::Word(&["required", "off"]),
        default: "required",
        help: "Whether callbacks of a source that keys_file does not name must be signed; `off` trusts whoever can write to the queue",
    },
    Setting {
        name: "keys_file",
        domain: Domain::Text,
        default: "",
        help: "TOML file that says for each source whether its callbacks must be signed, and with which keys (`payonce keys`); read again when it changes",
    },
    number(
        "lanes",
        1,
        64,
        "2",
        "Batches in work at once; each account belongs to one lane of a worker, each lane has one database connection",
    ),
    number("batch_size_max", 1, 5_000, "1000", "Callbacks per transaction at most"),
    number(
        "batch_linger_ms",
        0,
        10_000,
        "10",
        "How long a batch that is not full waits for more, in milliseconds, while its lane is behind; a quiet lane does not wait",
    ),
    number(
        "prefetch_count",
        2,
        65_535,
        "4000",
        "Unsettled deliveries a worker holds at most; at least 2 x lanes x batch_size_max",
    ),
    number(
        "claim_lease_ms",
        1_000,
        3_600_000,
        "30000",
        "How long a Redis claim lasts, in milliseconds; only advice to other workers",
    ),
    number(
        "marker_ttl_ms",
        1_000,
        30 * DAY_MS,
        "3600000",
        "How long Redis remembers a committed callback, in milliseconds; the ledger remembers for ever",
    ),
    number("redis_timeout_ms", 10, 10_000, "250", "After how many milliseconds Redis counts as away"),
    number(
        "database_deadline_ms",
        100,
        600_000,
        "10000",
        "After how many milliseconds a statement is given up",
    ),
    number("database_pool_max", 1, 100, "8", "Database connections of `payonce ops` at most"),
    number(
        "audit_pause_ms",
        0,
        7 * DAY_MS,
        "0",
        "How long `payonce ops` waits between two audits of what is new, in milliseconds; 0: it makes none",
    ),
    number(
        "conflict_retries_max",
        1,
        1_000,
        "20",
        "Lost races of a batch after which it waits between tries",
    ),
    number(
        "retry_delay_min_ms",
        1,
        60_000,
        "50",
        "First pause after a failure of a server, in milliseconds; it doubles, with jitter",
    ),
    number(
        "retry_delay_max_ms",
        1,
        600_000,
        "5000",
        "Longest pause between two tries, in milliseconds; at least retry_delay_min_ms",
    ),
    number(
        "outage_hold_ms",
        1_000,
        900_000,
        "60000",
        "How long a worker holds deliveries while PostgreSQL is away, in milliseconds, before it gives them back; far below RabbitMQ's consumer_timeout of 30 minutes",
    ),
    number(
        "shutdown_deadline_ms",
        100,
        600_000,
        "20000",
        "How long a started batch may take to finish after SIGTERM, in milliseconds",
    ),
    number(
        "waiting_max_ms",
        1_000,
        365 * DAY_MS,
        "259200000",
        "How long a callback waits for its payment, in milliseconds, before it becomes an open case",
    ),
    number(
        "waiting_sweep_ms",
        10,
        3_600_000,
        "60000",
        "How often a worker looks for callbacks that have waited longer than waiting_max_ms, and for counts to add up, in milliseconds",
    ),
    number(
        "worker_report_ms",
        100,
        60_000,
        "5000",
        "How often a worker reports how it is, in milliseconds, for the pages and metrics of `payonce ops`",
    ),
    number(
        "history_minutes_ms",
        HOUR_MS,
        365 * DAY_MS,
        "86400000",
        "How long counts are kept by the minute, in milliseconds; older ones are kept by the hour",
    ),
    number(
        "history_hours_ms",
        DAY_MS,
        3_650 * DAY_MS,
        "7776000000",
        "How long counts are kept by the hour, in milliseconds; older ones are kept by the day",
    ),
    number(
        "history_days_ms",
        DAY_MS,
        36_500 * DAY_MS,
        "94608000000",
        "How long counts are kept by the day, in milliseconds; older ones are kept as one total, for ever",
    ),
    number(
        "source_labels_max",
        1,
        10_000,
        "100",
        "Distinct sources that metrics and history name; further ones count as `other`",
    ),
    Setting {
        name: "otlp_endpoint",
        domain: Domain::Text,
        default: "",
        help: "Where a worker sends a trace of each batch: an OpenTelemetry collector's OTLP over HTTP, such as http://127.0.0.1:4318; empty: nowhere",
    },
    Setting {
        name: "ops_token",
        domain: Domain::Secret,
        default: "",
        help: "What operators log in with to `payonce ops`, and its API's bearer token: 16 bytes or more; with none, only loopback is served, without a login",
    },
    Setting {
        name: "ops_readonly_token",
        domain: Domain::Secret,
        default: "",
        help: "The same for those who may look but not act, and for Prometheus: 16 bytes or more",
    },
    Setting {
        name: "ops_local_name",
        domain: Domain::Text,
        default: "local operator",
        help: "Who acts, in the trail, where `payonce ops` has no token and so no login",
    },
    Setting {
        name: "log_level",
        domain: Domain::Word(&["error", "warn", "info", "debug", "trace"]),
        default: "info",
        help: "How much is logged",
    },
    Setting {
        name: "log_format",
        domain: Domain::Word(&["text", "json"]),
        default: "text",
        help: "How logs are written",
    },
];

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// Its name and where its value came from.
    pub setting: String,
    /// What was found and what is allowed.
    pub problem: String,
}

/// How a pool of workers is sized, and how long it tries. See [`SETTINGS`] for limits.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Batches in work at once.
    pub lanes: usize,
    /// Callbacks per transaction at most.
    pub batch_size_max: usize,
    /// How long a batch that is not full waits for more.
    pub batch_linger: Duration,
    /// Unsettled deliveries at most.
    pub prefetch_count: u16,
    /// Lost races after which a batch waits between tries.
    pub conflict_retries_max: u64,
    /// How long deliveries are held while PostgreSQL is away.
    pub outage_hold: Duration,
    /// How long a started batch may take after SIGTERM.
    pub shutdown_deadline: Duration,
    /// How long a callback waits for its payment.
    pub waiting_max: Duration,
    /// Pause between two looks at what waits.
    pub waiting_sweep: Duration,
    /// Pause between two reports of how it is.
    pub report_pause: Duration,
    /// How long counts are kept, and how fine.
    pub history: HistoryConfig,
}

/// How long counts are kept, and how fine.
#[derive(Debug, Clone, Copy)]
pub struct HistoryConfig {
    /// By the minute.
    pub minutes_kept: Duration,
    /// By the hour.
    pub hours_kept: Duration,
    /// By the day; then as one total.
    pub days_kept: Duration,
    /// Sources that history names.
    pub sources_max: usize,
}

/// Pauses between tries.
#[derive(Debug, Clone, Copy)]
pub struct RetryConfig {
    /// The first.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
}

/// The files of TLS links. See [`crate::tls`].
#[derive(Debug, Clone, Default)]
pub struct TlsConfig {
    /// Who may vouch for servers.
    pub ca_file: Option<PathBuf>,
    /// What we show them.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// The advice that Redis gives.
#[derive(Debug, Clone)]
pub struct DedupeConfig {
    /// How long a claim lasts.
    pub claim_lease: Duration,
    /// How long a done marker lasts.
    pub marker_ttl: Duration,
    /// When Redis counts as away.
    pub timeout: Duration,
}

/// Who may use the pages of `payonce ops`.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// Opens everything; `None`: not set.
    pub operator_token: Option<Secret>,
    /// Opens what only shows.
    pub readonly_token: Option<Secret>,
    /// Who acts where there is no token.
    pub local_name: String,
}

/// Every setting, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where PostgreSQL is; `None`: not set.
    pub database_url: Option<Secret>,
    /// Where Redis is.
    pub redis_url: Option<Secret>,
    /// Where RabbitMQ is.
    pub amqp_url: Option<Secret>,
    /// Certificates and keys.
    pub tls: TlsConfig,
    /// Before each name on the broker and in Redis.
    pub prefix: String,
    /// Whether callbacks of a source without a rule of its own must be signed.
    pub signatures_required: bool,
    /// The rules and keys of sources; `None`: no source has any.
    pub keys_file: Option<PathBuf>,
    /// The pool.
    pub worker: WorkerConfig,
    /// Pauses.
    pub retry: RetryConfig,
    /// Redis.
    pub dedupe: DedupeConfig,
    /// When a statement is given up.
    pub database_deadline: Duration,
    /// Connections of `payonce ops`.
    pub database_pool_max: u32,
    /// Between two audits by `payonce ops`; zero: none.
    pub audit_pause: Duration,
    /// Sources that metrics name.
    pub source_labels_max: usize,
    /// Where traces are sent; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// Who may use the pages of `payonce ops`.
    pub access: AccessConfig,
    /// `error` to `trace`.
    pub log_level: String,
    /// Whether logs are JSON.
    pub log_json: bool,
}

/// Reads and checks all settings.
///
/// `flags` holds what the command line set, by setting name; `variable` looks up the environment.
///
/// # Errors
/// [`ConfigError`] names the setting, where its value came from, the value (unless it is a secret) and what is allowed.
pub fn load(
    file: Option<&Path>,
    flags: &BTreeMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let file = file.map(read_file).transpose()?.unwrap_or_default();
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        let found = flags
            .get(setting.name)
            .map(|value| (format!("flag --{}", setting.name.replace('_', "-")), value.clone()))
            .or_else(|| {
                variable(&setting.variable())
                    .filter(|value| !value.is_empty())
                    .map(|value| (setting.variable(), value))
            })
            .or_else(|| file.get(setting.name).map(|value| ("configuration file".to_owned(), value.clone())))
            // An empty secret is none, in a file as in a variable.
            .filter(|(_, value)| !(matches!(setting.domain, Domain::Secret) && value.is_empty()));
        if let Some((from, value)) = &found
            && !setting.check(value)
        {
            let shown = if matches!(setting.domain, Domain::Secret) {
                "the value".to_owned()
            } else {
                format!("{value:?}")
            };
            return Err(error(
                &format!("{} ({from})", setting.name),
                format!("{shown} is not {}", setting.allowed()),
            ));
        }
        values.insert(setting.name, found.map_or_else(|| setting.default.to_owned(), |(_, value)| value));
    }
    build(&Values(values))
}

struct Values(BTreeMap<&'static str, String>);

impl Values {
    fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        Some(self.text(name)).filter(|value| !value.is_empty()).map(Secret)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<T, ConfigError> {
        let number = self.text(name).parse::<u64>().ok().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| error(name, "not a number this machine can hold".to_owned()))
    }

    fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        Ok(Duration::from_millis(self.number(name)?))
    }
}

fn build(values: &Values) -> Result<Config, ConfigError> {
    let config = Config {
        database_url: values.secret("database_url"),
        redis_url: values.secret("redis_url"),
        amqp_url: values.secret("amqp_url"),
        tls: TlsConfig {
            ca_file: values.path("tls_ca_file"),
            certificate_file: values.path("tls_certificate_file"),
            key_file: values.path("tls_key_file"),
        },
        prefix: values.text("prefix"),
        signatures_required: values.text("signatures") == "required",
        keys_file: values.path("keys_file"),
        worker: WorkerConfig {
            lanes: values.number("lanes")?,
            batch_size_max: values.number("batch_size_max")?,
            batch_linger: values.duration("batch_linger_ms")?,
            prefetch_count: values.number("prefetch_count")?,
            conflict_retries_max: values.number("conflict_retries_max")?,
            outage_hold: values.duration("outage_hold_ms")?,
            shutdown_deadline: values.duration("shutdown_deadline_ms")?,
            waiting_max: values.duration("waiting_max_ms")?,
            waiting_sweep: values.duration("waiting_sweep_ms")?,
            report_pause: values.duration("worker_report_ms")?,
            history: HistoryConfig {
                minutes_kept: values.duration("history_minutes_ms")?,
                hours_kept: values.duration("history_hours_ms")?,
                days_kept: values.duration("history_days_ms")?,
                sources_max: values.number("source_labels_max")?,
            },
        },
        retry: RetryConfig {
            delay_min: values.duration("retry_delay_min_ms")?,
            delay_max: values.duration("retry_delay_max_ms")?,
        },
        dedupe: DedupeConfig {
            claim_lease: values.duration("claim_lease_ms")?,
            marker_ttl: values.duration("marker_ttl_ms")?,
            timeout: values.duration("redis_timeout_ms")?,
        },
        database_deadline: values.duration("database_deadline_ms")?,
        database_pool_max: values.number("database_pool_max")?,
        audit_pause: values.duration("audit_pause_ms")?,
        source_labels_max: values.number("source_labels_max")?,
        otlp_endpoint: Some(values.text("otlp_endpoint")).filter(|endpoint| !endpoint.is_empty()),
        access: AccessConfig {
            operator_token: values.secret("ops_token"),
            readonly_token: values.secret("ops_readonly_token"),
            local_name: values.text("ops_local_name"),
        },
        log_level: values.text("log_level"),
        log_json: values.text("log_format") == "json",
    };
    check_together(&config)?;
    Ok(config)
}

/// Limits between settings.
fn check_together(config: &Config) -> Result<(), ConfigError> {
    let worker = &config.worker;
    // With less, the broker waits for acks before any lane has a full batch, and nothing is ready when a batch ends.
    let prefetch_min = 2 * worker.lanes * worker.batch_size_max;
    if usize::from(worker.prefetch_count) < prefetch_min {
        return Err(error(
            "prefetch_count",
            format!(
                "{} is less than 2 x lanes x batch_size_max = 2 x {} x {} = {prefetch_min}: raise it, or lower lanes or batch_size_max",
                worker.prefetch_count, worker.lanes, worker.batch_size_max
            ),
        ));
    }
    check_tokens(&config.access)?;
    if config.retry.delay_max < config.retry.delay_min {
        return Err(error(
            "retry_delay_max_ms",
            format!(
                "{} is less than retry_delay_min_ms = {}",
                config.retry.delay_max.as_millis(),
                config.retry.delay_min.as_millis()
            ),
        ));
    }
    if let Some(endpoint) = &config.otlp_endpoint
        && endpoint.strip_prefix("http://").is_none_or(str::is_empty)
    {
        let problem = format!(
            "{endpoint:?} does not begin with http:// and a host; a collector on this host or network takes traces on and encrypts them"
        );
        return Err(error("otlp_endpoint", problem));
    }
    let HistoryConfig { minutes_kept, hours_kept, days_kept, .. } = worker.history;
    for (finer, kept, coarser, longer) in [
        ("history_minutes_ms", minutes_kept, "history_hours_ms", hours_kept),
        ("history_hours_ms", hours_kept, "history_days_ms", days_kept),
    ] {
        if longer < kept {
            let problem = format!("{} is less than {finer} = {}", longer.as_millis(), kept.as_millis());
            return Err(error(coarser, problem));
        }
    }
    Ok(())
}

/// Tokens are guessed at over the network: short ones are refused, and one that opens two roles would make the lesser one useless.
fn check_tokens(access: &AccessConfig) -> Result<(), ConfigError> {
    for (name, token) in
        [("ops_token", &access.operator_token), ("ops_readonly_token", &access.readonly_token)]
    {
        if token.as_ref().is_some_and(|token| token.expose().len() < TOKEN_BYTES_MIN) {
            return Err(error(
                name,
                format!("shorter than {TOKEN_BYTES_MIN} bytes; `openssl rand -hex 32` makes a good one"),
            ));
        }
    }
    if access.operator_token.is_some() && access.operator_token == access.readonly_token {
        return Err(error("ops_readonly_token", "the same as ops_token; use two tokens".to_owned()));
    }
    if access.local_name.trim().is_empty() {
        return Err(error("ops_local_name", "empty; name who acts".to_owned()));
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|cause| error(&format!("--config {shown}"), cause.to_string()))?;
    let table: toml::Table =
        // The parser's own message quotes the line, which may hold a password.
        text.parse().map_err(|cause: toml::de::Error| error(&format!("--config {shown}"), format!("not TOML: {}", cause.message())))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        if !SETTINGS.iter().any(|setting| setting.name == name) {
            return Err(error(
                &format!("{name} (configuration file)"),
                "there is no such setting; payonce.example.toml lists all of them".to_owned(),
            ));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_) => {
                return Err(error(
                    &format!("{name} (configuration file)"),
                    "expected a text or a whole number".to_owned(),
                ));
            }
        };
        values.insert(name, value);
    }
    Ok(values)
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

fn error(setting: &str, problem: String) -> ConfigError {
    ConfigError { setting: setting.to_owned(), problem }
}
