//! Every setting, each in one place: its name, the type that it is read as, its default, who uses it, its limits with their unit, and its help.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    ConfigError, Networks, RoleRules, Secret,
    setting::{Domain, Part, Setting, Typed, bytes, count, millis},
};
use crate::references::ReferenceFields;

const HOUR_MS: u64 = 60 * 60 * 1_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The table and the typed values, from one list: `NAME: TYPE = DEFAULT, PART, DOMAIN, HELP;`.
macro_rules! settings {
    ($($name:ident: $type:ty = $default:literal, $part:ident, $domain:expr, $help:literal;)*) => {
        /// All settings, in the order of `payonce.example.toml`.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: stringify!($name),
            part: Part::$part,
            domain: $domain,
            default: $default,
            help: $help,
        }),*];

        /// A checked value of each setting, under its name and in its type.
        pub(super) struct Values {
            $(pub(super) $name: $type,)*
        }

        impl Values {
            /// `texts` has a value that [`Setting::read`] returned, or the default, of each setting.
            pub(super) fn of(texts: &BTreeMap<&str, String>) -> Result<Self, ConfigError> {
                $(let $name = <$type>::of(stringify!($name), texts)?;)*
                Ok(Self { $($name),* })
            }
        }
    };
}

settings! {
    database_url: Option<Secret> = "", Database, Domain::Secret,
        "PostgreSQL 15 or later: postgres://user:password@host:port/database, with TLS ?sslmode=verify-full; of several hosts (host:port,host:port) the writable one is found";

    redis_url: Option<Secret> = "", Redis, Domain::Secret,
        "Redis 7 or later: redis://host:port, with TLS rediss://host:port; of several hosts (host:port,host:port) the first that takes writes is used";

    amqp_url: Option<Secret> = "", Broker, Domain::Secret,
        "RabbitMQ 3.10 or later: amqp://user:password@host:port/vhost (the vhost / is written %2f), with TLS amqps://; several hosts (host:port,host:port) are tried in turn";

    tls_ca_file: Option<PathBuf> = "", Tls, Domain::Text,
        "PEM file with the authorities that may vouch for rediss:// and amqps:// servers; none: those the system trusts. For PostgreSQL, where its address has no sslrootcert";

    tls_certificate_file: Option<PathBuf> = "", Tls, Domain::Text,
        "PEM file with the certificate (and its chain) that the servers are shown; with tls_key_file. For PostgreSQL, where its address has no sslcert";

    tls_key_file: Option<PathBuf> = "", Tls, Domain::Text,
        "PEM file with the key of tls_certificate_file; not readable for everybody";

    prefix: String = "", Names, Domain::Text,
        "Put before each name on the broker and each Redis key, so that instances can share servers";

    signatures: bool = "required", Signatures, Domain::Word(&["required", "off"]),
        "Whether callbacks of a source that keys_file does not name must be signed; `off` trusts whoever can write to the queue";

    keys_file: Option<PathBuf> = "", Signatures, Domain::Text,
        "TOML file that says for each source whether its callbacks must be signed, and with which keys (`payonce keys`); read again when it changes";

    lanes: usize = "2", Worker, count(1..=64),
        "Batches in work at once; each account belongs to one lane of a worker, each lane has one database connection";

    batch_size_max: usize = "1000", Worker, count(1..=5_000),
        "Callbacks per transaction at most";

    batch_linger_ms: Duration = "10", Worker, millis(0..=10_000),
        "How long a batch that is not full waits for more, in milliseconds, while its lane is behind; a quiet lane does not wait";

    prefetch_count: Option<u16> = "", Worker, count(2..=65_535),
        "Unsettled deliveries a worker holds at most; at least 2 x lanes x batch_size_max, which it is where nothing is set, and 4000 where that is more";

    prefetch_bytes_max: usize = "67108864", Worker, bytes(1_048_576..=4_294_967_296),
        "Bytes of unsettled deliveries a worker holds at most, of each of its two queues; where messages are large it takes fewer at a time";

    claim_lease_ms: Duration = "30000", Worker, millis(1_000..=3_600_000),
        "How long a Redis claim lasts, in milliseconds; only advice to other workers";

    marker_ttl_ms: Duration = "3600000", Worker, millis(1_000..=30 * DAY_MS),
        "How long Redis remembers a committed callback, in milliseconds; the ledger remembers for ever";

    redis_timeout_ms: Duration = "250", Redis, millis(10..=10_000),
        "After how many milliseconds Redis counts as down";

    database_deadline_ms: Duration = "10000", Database, millis(100..=600_000),
        "After how many milliseconds a statement is canceled";

    database_pool_max: u32 = "8", Reading, count(1..=100),
        "Database connections of `payonce ops` at most";

    report_deadline_ms: Duration = "60000", Ops, millis(1_000..=600_000),
        "How long a report of the pages and of their API may take, in milliseconds; one is made at a time, on one core of the database. `payonce report` has no limit";

    latency_target_ms: Duration = "1000", Ops, millis(1..=600_000),
        "Latency that the pages show as the target, from a delivery to its acknowledgement, in milliseconds; p50, p95 and p99 above it are marked";

    audit_pause_ms: Duration = "3600000", Ops, millis(0..=7 * DAY_MS),
        "How long `payonce ops` waits between two audits, in milliseconds: of every account, of what is new in the ledger, of all payments and cases; 0: it makes none, and an alert says so";

    conflict_retries_max: u64 = "20", Worker, count(1..=1_000),
        "Version conflicts of a batch after which it waits between tries";

    retry_delay_min_ms: Duration = "50", Retry, millis(1..=60_000),
        "First pause after a failure of a server, in milliseconds; it doubles, with jitter";

    retry_delay_max_ms: Duration = "5000", Retry, millis(1..=600_000),
        "Longest pause between two tries, in milliseconds; at least retry_delay_min_ms";

    outage_hold_ms: Duration = "60000", Worker, millis(1_000..=900_000),
        "How long a worker holds deliveries while PostgreSQL is down, in milliseconds, before it gives them back; far below RabbitMQ's consumer_timeout of 30 minutes";

    aside_hold_max_ms: Duration = "900000", Worker, millis(1_000..=1_200_000),
        "How long a worker keeps a delivery that cannot be written while others are, in milliseconds, before it gives back all that it has; below RabbitMQ's consumer_timeout of 30 minutes";

    shutdown_deadline_ms: Duration = "20000", Worker, millis(100..=600_000),
        "How long a started batch may take to finish after SIGTERM, in milliseconds";

    order_wait_ms: Duration = "60000", Rules, millis(0..=365 * DAY_MS),
        "How long a callback waits for money or an account that is not there yet, or for more to be authorized or captured, in milliseconds, before it becomes an open case; 0: not at all";

    over_capture_percent: u32 = "0", Rules, count(0..=1_000),
        "How much more than was authorized may be captured, in percent of it (tips)";

    accounts_open_by: String = "deposit", Rules, Domain::Word(&["deposit", "command"]),
        "What opens an account: its first deposit, or only `payonce account open`, so that a mistyped id opens none";

    waiting_max_ms: Duration = "259200000", Worker, millis(1_000..=365 * DAY_MS),
        "How long a callback waits for its payment, in milliseconds, before it becomes an open case";

    waiting_sweep_ms: Duration = "1000", Worker, millis(10..=3_600_000),
        "How often a worker looks for waiting callbacks whose time is up or whose cause has come, and for holds whose time is up, in milliseconds";

    worker_report_ms: Duration = "5000", Worker, millis(100..=60_000),
        "How often a worker reports how it is, in milliseconds, for the pages and metrics of `payonce ops`";

    history_minutes_ms: Duration = "86400000", Worker, millis(HOUR_MS..=365 * DAY_MS),
        "How long counts are kept by the minute, in milliseconds; older ones are kept by the hour";

    history_hours_ms: Duration = "7776000000", Worker, millis(DAY_MS..=3_650 * DAY_MS),
        "How long counts are kept by the hour, in milliseconds; older ones are kept by the day";

    history_days_ms: Duration = "94608000000", Worker, millis(DAY_MS..=36_500 * DAY_MS),
        "How long counts are kept by the day, in milliseconds; older ones are kept as one total, for ever";

    history_duplicates_ms: Duration = "604800000", Worker, millis(HOUR_MS..=3_650 * DAY_MS),
        "How long rejected duplicates are kept one by one, in milliseconds; older ones are added up per event and detection layer";

    source_labels_max: usize = "100", Labels, count(1..=10_000),
        "Distinct sources that metrics and history name; further ones count as `other`";

    publish_deadline_ms: Duration = "30000", Publish, millis(100..=600_000),
        "How long `payonce publish` waits for the broker to take or confirm the next message, in milliseconds";

    publish_wait_max_ms: Duration = "600000", Publish, millis(100..=7 * DAY_MS),
        "How long `payonce publish --wait` waits until what it published is settled, in milliseconds";

    feed_name: String = "main", Feed, Domain::Text,
        "Name of what `payonce feed` sends: the CloudEvents source is urn:payonce:ledger:NAME, and its position is kept by this name";

    feed_lease_ms: Duration = "5000", Feed, millis(500..=600_000),
        "How long another `payonce feed` waits for one that says nothing before it takes over, in milliseconds";

    webhook_timeout_ms: Duration = "15000", Feed, millis(100..=60_000),
        "How long a subscriber of `payonce feed` may take to answer an event that it is sent over HTTPS, in milliseconds";

    webhook_retry_max_ms: Duration = "3600000", Feed, millis(10..=DAY_MS),
        "Longest pause before an event that a subscriber has not taken is sent again, in milliseconds; the first is a second";

    webhook_give_up_ms: Duration = "259200000", Feed, millis(100..=30 * DAY_MS),
        "How long an event is sent again before the subscriber, or where it takes others the account, is not tried any more, in milliseconds";

    api_tokens_file: Option<PathBuf> = "", Api, Domain::Text,
        "TOML file with the tokens of `payonce api`: a digest, scopes and accounts of each; read again when it changes";

    api_database_url: Option<Secret> = "", Api, Domain::Secret,
        "PostgreSQL that `payonce api` reads from, such as a standby; how far that is behind stands on each answer. None: database_url";

    balance_cache: bool = "false", Feed, Domain::Word(&["true", "false"]),
        "Whether `payonce feed` keeps a hash with balance, held, currency and version of each account in Redis";

    balance_cache_ttl_ms: Duration = "86400000", Feed, millis(1_000..=30 * DAY_MS),
        "How long an account without news stays in the balance cache, in milliseconds";

    otlp_endpoint: Option<String> = "", Worker, Domain::Text,
        "Where a worker sends a trace of each batch: an OpenTelemetry collector's OTLP over HTTP, such as http://127.0.0.1:4318; empty: nowhere";

    ops_token: Option<Secret> = "", Ops, Domain::Secret,
        "What admins log in with to `payonce ops`, and its API's bearer token: 16 bytes or more; with none, and no other login, only loopback is served";

    ops_readonly_token: Option<Secret> = "", Ops, Domain::Secret,
        "The same for those with read-only access (viewer and finance), and for Prometheus: 16 bytes or more";

    ops_local_name: String = "local operator", Ops, Domain::Text,
        "Who acts, in the audit log, where `payonce ops` has no token and so no login";

    ops_session_key: Option<Secret> = "", Ops, Domain::Secret,
        "What the cookies of logins to `payonce ops` are signed with, 32 bytes or more, the same for all replicas; none: one that is made of ops_token and the provider's client secret, so that a new one of these ends all sessions";

    ops_session_key_previous: Option<Secret> = "", Ops, Domain::Secret,
        "The key from before: cookies that it has signed are still taken. Set it while the key is replaced, and for 12 hours after";

    ops_proxy_addresses: Networks = "", Ops, Domain::List { is_fit: Networks::has, expected: "addresses or networks, such as 10.1.2.3 or 10.0.0.0/8" },
        "Proxies before `payonce ops`: X-Forwarded-For and the two headers below are believed of these alone. Loopback is none unless it is named";

    ops_proxy_user_header: Option<String> = "", Ops, Domain::Text,
        "Header in which such a proxy names the person whom it has logged in, such as X-Forwarded-User; empty: it logs nobody in";

    ops_proxy_groups_header: Option<String> = "", Ops, Domain::Text,
        "Header in which it names that person's groups, with commas between them, such as X-Forwarded-Groups; empty: none";

    ops_roles: RoleRules = "", Ops, Domain::List { is_fit: RoleRules::has, expected: "user:NAME=ROLE, group:NAME=ROLE or everyone=ROLE, with a ROLE of viewer, operator, approver, finance or admin" },
        "Which roles people have whom a proxy or the OpenID Connect provider names; whoever has none sees nothing";

    ops_public_url: String = "", Ops, Domain::Text,
        "Where browsers find `payonce ops`, such as https://payonce.example.com: the provider sends people back to /login/oidc/back there";

    ops_oidc_issuer: Option<String> = "", Ops, Domain::Text,
        "OpenID Connect provider at which people log in to `payonce ops`, spelled as it spells its issuer; empty: none";

    ops_oidc_client_id: String = "", Ops, Domain::Text,
        "What payonce is called there";

    ops_oidc_client_secret: Option<Secret> = "", Ops, Domain::Secret,
        "What proves there that it is payonce; none: a public client, which PKCE alone protects";

    ops_oidc_scopes: String = "openid email profile", Ops, Domain::Text,
        "What is asked for there, with spaces between; openid at least, and what the two claims below need";

    ops_oidc_name_claim: String = "email", Ops, Domain::Text,
        "Claim of the ID token that names the person in the audit log: one that the provider proves, and that nobody can change alone";

    ops_oidc_groups_claim: String = "groups", Ops, Domain::Text,
        "Claim of the ID token with the person's groups, for ops_roles";

    approvals: Vec<String> = "", Approvals, Domain::Words(&["adjust", "assign", "discard", "bulk"]),
        "Acts of operators that another person has to approve before they are done: adjust, assign, discard, bulk (a replay, discard or reopening of more than one case by filter)";

    approval_wait_max_ms: Duration = "259200000", Approvals, millis(1_000..=90 * DAY_MS),
        "How long a proposal waits for another person, in milliseconds; then it has to be made anew";

    mask_cards: bool = "on", Rules, Domain::Word(&["on", "off"]),
        "Whether card numbers, and values of members such as cvv, are masked in the messages that cases keep and show";

    reference_fields: ReferenceFields = "", Rules, Domain::Members,
        "Members of callbacks, such as order_id, by whose values they are found too; none: none are kept";

    log_level: String = "info", Log, Domain::Word(&["error", "warn", "info", "debug", "trace"]),
        "How much is logged";

    log_format: String = "text", Log, Domain::Word(&["text", "json"]),
        "How logs are written";
}
