//! Every setting: its name, unit, default and limits, in one table. A value comes from a flag, else a `PAYONCE_*` variable, else
//! the TOML file, else the default. A value outside its limits is refused by name, before anything is connected.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

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
    /// of a machine. `NAME_FILE`, or `name_file` in the TOML file, names a file that holds it.
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

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// All settings, in the order of `payonce.example.toml`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "database_url",
        domain: Domain::Secret,
        default: "",
        help: "PostgreSQL 15 or later: postgres://user:password@host:port/database; of several hosts (host:port,host:port) the writable one is found",
    },
    Setting {
        name: "redis_url",
        domain: Domain::Secret,
        default: "",
        help: "Redis 7 or later: redis://host:port; of several hosts (host:port,host:port) the first that takes writes is used",
    },
    Setting {
        name: "amqp_url",
        domain: Domain::Secret,
        default: "",
        help: "RabbitMQ 3.10 or later: amqp://user:password@host:port/vhost (the vhost / is written %2f); several hosts (host:port,host:port) are tried in turn",
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
        help: "Whether callbacks must be signed; `off` trusts whoever can write to the queue",
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
        "prefetch_bytes_max",
        1_048_576,
        4_294_967_296,
        "67108864",
        "Bytes of unsettled deliveries a worker holds at most, of each of its two queues; where messages are large it takes fewer at a time",
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
        "How often a worker looks for callbacks that have waited longer than waiting_max_ms, in milliseconds",
    ),
    number(
        "source_labels_max",
        1,
        10_000,
        "100",
        "Distinct sources that metrics name; further ones count as `other`",
    ),
    Setting {
        name: "mask_cards",
        domain: Domain::Word(&["on", "off"]),
        default: "on",
        help: "Whether card numbers, and values of members such as cvv, are masked in the messages that cases keep and show",
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
    /// Bytes of unsettled deliveries at most, of each queue.
    pub prefetch_bytes_max: usize,
    /// Whether cases keep card data masked.
    pub mask_cards: bool,
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
}

/// Pauses between tries.
#[derive(Debug, Clone, Copy)]
pub struct RetryConfig {
    /// The first.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
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

/// Every setting, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where PostgreSQL is; `None`: not set.
    pub database_url: Option<Secret>,
    /// Where Redis is.
    pub redis_url: Option<Secret>,
    /// Where RabbitMQ is.
    pub amqp_url: Option<Secret>,
    /// Before each name on the broker and in Redis.
    pub prefix: String,
    /// Whether callbacks must be signed.
    pub signatures_required: bool,
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
    /// Sources that metrics name.
    pub source_labels_max: usize,
    /// Whether card data is masked where a message is shown.
    pub mask_cards: bool,
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
        let from_flag = flags
            .get(setting.name)
            .map(|value| (format!("flag --{}", setting.name.replace('_', "-")), value.clone()));
        let from_variable = || {
            let named = |name: &str| variable(name).filter(|value| !value.is_empty());
            direct_or_file(setting, &setting.variable(), "_FILE", named)
        };
        let from_file = || {
            let found = direct_or_file(setting, setting.name, FILE_SUFFIX, |name| file.get(name).cloned())?;
            Ok(found.map(|(_, value)| ("configuration file".to_owned(), value)))
        };
        let found = match from_flag {
            Some(found) => Some(found),
            None => match from_variable()? {
                Some(found) => Some(found),
                None => from_file()?,
            },
        };
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

/// After the name of a secret: the file that holds it.
const FILE_SUFFIX: &str = "_file";

/// A file with a secret is a line, not a book.
const SECRET_FILE_BYTES_MAX: u64 = 65_536;

/// The value under this name, or for a secret that of the file named under the same name with `suffix`; with where it came from.
fn direct_or_file(
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

struct Values(BTreeMap<&'static str, String>);

impl Values {
    fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        Some(self.text(name)).filter(|value| !value.is_empty()).map(Secret)
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
        prefix: values.text("prefix"),
        signatures_required: values.text("signatures") == "required",
        worker: WorkerConfig {
            lanes: values.number("lanes")?,
            batch_size_max: values.number("batch_size_max")?,
            batch_linger: values.duration("batch_linger_ms")?,
            prefetch_count: values.number("prefetch_count")?,
            prefetch_bytes_max: values.number("prefetch_bytes_max")?,
            mask_cards: values.text("mask_cards") == "on",
            conflict_retries_max: values.number("conflict_retries_max")?,
            outage_hold: values.duration("outage_hold_ms")?,
            shutdown_deadline: values.duration("shutdown_deadline_ms")?,
            waiting_max: values.duration("waiting_max_ms")?,
            waiting_sweep: values.duration("waiting_sweep_ms")?,
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
        source_labels_max: values.number("source_labels_max")?,
        mask_cards: values.text("mask_cards") == "on",
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

fn error(setting: &str, problem: String) -> ConfigError {
    ConfigError { setting: setting.to_owned(), problem }
}
