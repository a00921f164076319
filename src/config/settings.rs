//! Every setting: its name, unit, default and limits, in one table.

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
    /// Any of these words, none twice: in the TOML file an array, else with commas between them.
    Words(&'static [&'static str]),
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

    pub(super) fn allowed(&self) -> String {
        match self.domain {
            Domain::Number { min, max } => format!("a whole number from {min} to {max}"),
            Domain::Word(words) => format!("one of {}", words.join(", ")),
            Domain::Words(words) => format!("any of {}, with commas between them", words.join(", ")),
            Domain::Text => "text of at most 200 bytes without control characters".to_owned(),
            Domain::Secret => "an address such as those in payonce.example.toml".to_owned(),
        }
    }

    pub(super) fn check(&self, value: &str) -> bool {
        match self.domain {
            Domain::Number { min, max } => {
                value.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
            }
            Domain::Word(words) => words.contains(&value),
            Domain::Words(words) => {
                let given: Vec<&str> = listed(value).collect();
                given.iter().enumerate().all(|(at, word)| words.contains(word) && !given[..at].contains(word))
            }
            Domain::Text => value.len() <= 200 && !value.chars().any(char::is_control),
            Domain::Secret => !value.is_empty(),
        }
    }
}

/// The words of a [`Domain::Words`].
pub(super) fn listed(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
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
    number("redis_timeout_ms", 10, 10_000, "250", "After how many milliseconds Redis counts as down"),
    number(
        "database_deadline_ms",
        100,
        600_000,
        "10000",
        "After how many milliseconds a statement is canceled",
    ),
    number("database_pool_max", 1, 100, "8", "Database connections of `payonce ops` at most"),
    number(
        "audit_pause_ms",
        0,
        7 * DAY_MS,
        "3600000",
        "How long `payonce ops` waits between two audits, in milliseconds: of every account, of what is new in the ledger, of all payments and cases; 0: it makes none, and an alert says so",
    ),
    number(
        "conflict_retries_max",
        1,
        1_000,
        "20",
        "Version conflicts of a batch after which it waits between tries",
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
        "How long a worker holds deliveries while PostgreSQL is down, in milliseconds, before it gives them back; far below RabbitMQ's consumer_timeout of 30 minutes",
    ),
    number(
        "aside_hold_max_ms",
        1_000,
        1_200_000,
        "900000",
        "How long a worker keeps a delivery that cannot be written while others are, in milliseconds, before it gives back all that it has; below RabbitMQ's consumer_timeout of 30 minutes",
    ),
    number(
        "shutdown_deadline_ms",
        100,
        600_000,
        "20000",
        "How long a started batch may take to finish after SIGTERM, in milliseconds",
    ),
    number(
        "order_wait_ms",
        0,
        365 * DAY_MS,
        "60000",
        "How long a callback waits for money or an account that is not there yet, or for more to be authorized or captured, in milliseconds, before it becomes an open case; 0: not at all",
    ),
    number(
        "over_capture_percent",
        0,
        1_000,
        "0",
        "How much more than was authorized may be captured, in percent of it (tips)",
    ),
    Setting {
        name: "accounts_open_by",
        domain: Domain::Word(&["deposit", "command"]),
        default: "deposit",
        help: "What opens an account: its first deposit, or only `payonce account open`, so that a mistyped id opens none",
    },
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
        "1000",
        "How often a worker looks for waiting callbacks whose time is up or whose cause has come, and for holds whose time is up, in milliseconds",
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
        "history_duplicates_ms",
        HOUR_MS,
        3_650 * DAY_MS,
        "604800000",
        "How long rejected duplicates are kept one by one, in milliseconds; older ones are added up per event and detection layer",
    ),
    number(
        "source_labels_max",
        1,
        10_000,
        "100",
        "Distinct sources that metrics and history name; further ones count as `other`",
    ),
    number(
        "publish_deadline_ms",
        100,
        600_000,
        "30000",
        "How long `payonce publish` waits for the broker to take or confirm the next message, in milliseconds",
    ),
    number(
        "publish_wait_max_ms",
        100,
        7 * DAY_MS,
        "600000",
        "How long `payonce publish --wait` waits until what it published is settled, in milliseconds",
    ),
    Setting {
        name: "feed_name",
        domain: Domain::Text,
        default: "main",
        help: "Name of what `payonce feed` sends: the CloudEvents source is urn:payonce:ledger:NAME, and its position is kept by this name",
    },
    number(
        "feed_lease_ms",
        500,
        600_000,
        "5000",
        "How long another `payonce feed` waits for one that says nothing before it takes over, in milliseconds",
    ),
    number(
        "webhook_timeout_ms",
        100,
        60_000,
        "15000",
        "How long a subscriber of `payonce feed` may take to answer an event that it is sent over HTTPS, in milliseconds",
    ),
    number(
        "webhook_retry_max_ms",
        10,
        DAY_MS,
        "3600000",
        "Longest pause before an event that a subscriber has not taken is sent again, in milliseconds; the first is a second",
    ),
    number(
        "webhook_give_up_ms",
        100,
        30 * DAY_MS,
        "259200000",
        "How long an event is sent again before the subscriber, or where it takes others the account, is not tried any more, in milliseconds",
    ),
    Setting {
        name: "api_tokens_file",
        domain: Domain::Text,
        default: "",
        help: "TOML file with the tokens of `payonce api`: a digest, scopes and accounts of each; read again when it changes",
    },
    Setting {
        name: "api_database_url",
        domain: Domain::Secret,
        default: "",
        help: "PostgreSQL that `payonce api` reads from, such as a standby; how far that is behind stands on each answer. None: database_url",
    },
    Setting {
        name: "balance_cache",
        domain: Domain::Word(&["true", "false"]),
        default: "false",
        help: "Whether `payonce feed` keeps a hash with balance, held, currency and version of each account in Redis",
    },
    number(
        "balance_cache_ttl_ms",
        1_000,
        30 * DAY_MS,
        "86400000",
        "How long an account without news stays in the balance cache, in milliseconds",
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
        help: "The same for those with read-only access, and for Prometheus: 16 bytes or more",
    },
    Setting {
        name: "ops_local_name",
        domain: Domain::Text,
        default: "local operator",
        help: "Who acts, in the audit log, where `payonce ops` has no token and so no login",
    },
    Setting {
        name: "approvals",
        domain: Domain::Words(&["adjust", "assign", "discard", "bulk"]),
        default: "",
        help: "Acts of operators that another person has to approve before they are done: adjust, assign, discard, bulk (a replay, discard or reopening of more than one case by filter)",
    },
    number(
        "approval_wait_max_ms",
        1_000,
        90 * DAY_MS,
        "259200000",
        "How long a proposal waits for another person, in milliseconds; then it has to be made anew",
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
