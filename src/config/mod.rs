//! The configuration: read, checked, and in the types that the rest works with. A value comes from a flag, else a `PAYONCE_*` variable, else
//! the TOML file, else the default. A value outside its limits is refused by name, before anything is connected.

mod access;
mod checks;
mod error;
mod files;
mod ingress;
mod names;
mod oidc;
mod roles;
mod setting;
mod settings;
mod subscribers;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

pub use crate::store::{engine::Policy, history::HistoryConfig, requests::Approvals};
use crate::{ledger::Rules, references::ReferenceFields};
pub use access::{AccessConfig, Networks, ProxyConfig, RoleRules, SessionKeys};
use error::error;
pub use error::{ConfigError, ConfigErrors};
use files::{FILE_SUFFIX, FileValue, direct_or_file, read_file};
pub use files::{from_toml, to_toml};
pub use ingress::{EndpointConfig, IngressConfig};
pub use names::{StrayVariables, stray_variables};
pub use oidc::{OidcConfig, is_safe};
pub use roles::{Role, Roles};
pub use setting::{Domain, Part, Setting, Unit};
pub use settings::SETTINGS;
use settings::Values;
pub use subscribers::{Start, SubscriberConfig, SubscribersConfig};

/// Unsettled deliveries that a worker holds where nothing is set, and its lanes and batches ask for no more.
const PREFETCH_UNSET_MIN: usize = 4_000;

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
    /// Which references of callbacks are kept.
    pub references: ReferenceFields,
    /// The rules that a team may set.
    pub rules: Rules,
    /// Version conflicts after which a batch waits between tries.
    pub conflict_retries_max: u64,
    /// How long deliveries are held while PostgreSQL is down.
    pub outage_hold: Duration,
    /// How long a delivery is kept that cannot be written while others are.
    pub aside_hold_max: Duration,
    /// How long a started batch may take after SIGTERM.
    pub shutdown_deadline: Duration,
    /// How long a callback waits for money, an account, or room within its payment's sums.
    pub order_wait: Duration,
    /// How long a callback waits for its payment.
    pub waiting_max: Duration,
    /// Pause between two looks at what waits.
    pub waiting_sweep: Duration,
    /// Pause between two reports of how it is.
    pub report_pause: Duration,
    /// How long counts are kept, and how fine.
    pub history: HistoryConfig,
}

impl WorkerConfig {
    /// What holds for every decision, whoever asks for it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { rules: self.rules, mask_cards: self.mask_cards }
    }
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

/// What `payonce feed` sends.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// Names the position, and the CloudEvents source.
    pub name: String,
    /// How long a feed that says nothing keeps the right to send.
    pub lease: Duration,
    /// Whether the balance cache in Redis is kept.
    pub balance_cache: bool,
    /// How long an account without news stays in it.
    pub balance_ttl: Duration,
    /// Who gets events over HTTPS; the configuration file alone holds them.
    pub subscribers: Vec<SubscriberConfig>,
    /// How long a subscriber may take for an answer.
    pub webhook_timeout: Duration,
    /// The longest pause before an event that was not taken is sent again.
    pub webhook_pause_max: Duration,
    /// How long it is tried.
    pub webhook_retry_for: Duration,
}

/// The advice that Redis gives.
#[derive(Debug, Clone)]
pub struct DedupeConfig {
    /// How long a claim lasts.
    pub claim_lease: Duration,
    /// How long a done marker lasts.
    pub marker_ttl: Duration,
    /// When Redis counts as down.
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
    /// What is sent to others.
    pub feed: FeedConfig,
    /// Who may read over `payonce api`; `None`: not set.
    pub api_tokens_file: Option<PathBuf>,
    /// Where `payonce api` reads; `None`: `database_url`.
    pub api_database_url: Option<Secret>,
    /// Pauses.
    pub retry: RetryConfig,
    /// Redis.
    pub dedupe: DedupeConfig,
    /// When a statement is canceled.
    pub database_deadline: Duration,
    /// Connections of `payonce ops`.
    pub database_pool_max: u32,
    /// How long a report of the pages may take.
    pub report_deadline: Duration,
    /// What the pages mark latencies above.
    pub latency_target: Duration,
    /// Between two audits by `payonce ops`; zero: none.
    pub audit_pause: Duration,
    /// How long `payonce publish` waits for the broker.
    pub publish_deadline: Duration,
    /// How long it waits for workers.
    pub publish_wait_max: Duration,
    /// Sources that metrics name.
    pub source_labels_max: usize,
    /// Where traces are sent; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// Who may use the pages of `payonce ops`.
    pub access: AccessConfig,
    /// Which acts need a second person.
    pub approvals: Approvals,
    /// Whether card data is masked where a message is shown.
    pub mask_cards: bool,
    /// `error` to `trace`.
    pub log_level: String,
    /// Whether logs are JSON.
    pub log_json: bool,
    /// Endpoints of `payonce ingress`; the configuration file alone holds them.
    pub ingress: IngressConfig,
}

/// Reads and checks all settings.
///
/// `flags` holds what the command line set, by setting name; `variable` looks up the environment.
///
/// # Errors
/// [`ConfigErrors`]: each names the setting, where its value came from, the value (unless it is a secret) and what is allowed.
pub fn load(
    file: Option<&Path>,
    flags: &BTreeMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigErrors> {
    let (file, mut errors) = file.map(read_file).transpose()?.unwrap_or_default();
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        match found(setting, flags, &variable, &file.values).and_then(|found| checked(setting, found)) {
            Ok(value) => {
                values.insert(setting.name, value);
            }
            Err(error) => errors.push(error),
        }
    }
    // Limits between settings hold only where each by itself can be used.
    if errors.is_empty() {
        let mut config = build(Values::of(&values)?)?;
        errors = checks::check_together(&config);
        config.ingress = file.ingress;
        config.feed.subscribers = file.feed.subscriber;
        if errors.is_empty() {
            return Ok(config);
        }
    }
    Err(ConfigErrors(errors))
}

/// A value, and where it came from.
type Found = Option<(String, String)>;

fn found(
    setting: &Setting,
    flags: &BTreeMap<String, String>,
    variable: &impl Fn(&str) -> Option<String>,
    file: &BTreeMap<String, FileValue>,
) -> Result<Found, ConfigError> {
    if let Some(value) = flags.get(setting.name) {
        return Ok(Some((format!("flag --{}", setting.name.replace('_', "-")), value.clone())));
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(found) = direct_or_file(setting, &setting.variable(), "_FILE", set)? {
        return Ok(Some(found));
    }
    // An empty secret is none, as in a variable.
    let is_none = |value: &FileValue| matches!(setting.domain, Domain::Secret) && value.text.is_empty();
    let in_file = |name: &str| file.get(name).filter(|value| !is_none(value));
    let text = |name: &str| in_file(name).map(|value| value.text.clone());
    let found = direct_or_file(setting, setting.name, FILE_SUFFIX, text)?;
    Ok(found.map(|(name, value)| {
        let line = in_file(&name).map(|value| value.line).unwrap_or_default();
        (files::place(line), value)
    }))
}

fn checked(setting: &Setting, found: Found) -> Result<String, ConfigError> {
    let Some((from, value)) = found else { return Ok(setting.default.to_owned()) };
    setting.read(&value).ok_or_else(|| {
        let is_secret = matches!(setting.domain, Domain::Secret);
        let shown = if is_secret { "the value".to_owned() } else { format!("{value:?}") };
        error(&format!("{} ({from})", setting.name), format!("{shown} is not {}", setting.allowed()))
    })
}

fn build(values: Values) -> Result<Config, ConfigError> {
    let prefetch_count = prefetch_count(&values)?;
    let approved = |act: &str| values.approvals.iter().any(|approved| approved == act);
    Ok(Config {
        database_url: values.database_url,
        redis_url: values.redis_url,
        amqp_url: values.amqp_url,
        tls: TlsConfig {
            ca_file: values.tls_ca_file,
            certificate_file: values.tls_certificate_file,
            key_file: values.tls_key_file,
        },
        prefix: values.prefix,
        signatures_required: values.signatures,
        keys_file: values.keys_file,
        worker: WorkerConfig {
            lanes: values.lanes,
            batch_size_max: values.batch_size_max,
            batch_linger: values.batch_linger_ms,
            prefetch_count,
            prefetch_bytes_max: values.prefetch_bytes_max,
            mask_cards: values.mask_cards,
            references: values.reference_fields,
            rules: Rules {
                over_capture_percent: values.over_capture_percent,
                waits_for_funds: !values.order_wait_ms.is_zero(),
                deposit_opens: values.accounts_open_by == "deposit",
            },
            conflict_retries_max: values.conflict_retries_max,
            outage_hold: values.outage_hold_ms,
            aside_hold_max: values.aside_hold_max_ms,
            shutdown_deadline: values.shutdown_deadline_ms,
            order_wait: values.order_wait_ms,
            waiting_max: values.waiting_max_ms,
            waiting_sweep: values.waiting_sweep_ms,
            report_pause: values.worker_report_ms,
            history: HistoryConfig {
                minutes_kept: values.history_minutes_ms,
                hours_kept: values.history_hours_ms,
                days_kept: values.history_days_ms,
                duplicates_kept: values.history_duplicates_ms,
                sources_max: values.source_labels_max,
            },
        },
        api_tokens_file: values.api_tokens_file,
        api_database_url: values.api_database_url,
        feed: FeedConfig {
            name: values.feed_name,
            lease: values.feed_lease_ms,
            balance_cache: values.balance_cache,
            balance_ttl: values.balance_cache_ttl_ms,
            subscribers: Vec::new(),
            webhook_timeout: values.webhook_timeout_ms,
            webhook_pause_max: values.webhook_retry_max_ms,
            webhook_retry_for: values.webhook_give_up_ms,
        },
        retry: RetryConfig { delay_min: values.retry_delay_min_ms, delay_max: values.retry_delay_max_ms },
        dedupe: DedupeConfig {
            claim_lease: values.claim_lease_ms,
            marker_ttl: values.marker_ttl_ms,
            timeout: values.redis_timeout_ms,
        },
        database_deadline: values.database_deadline_ms,
        database_pool_max: values.database_pool_max,
        report_deadline: values.report_deadline_ms,
        latency_target: values.latency_target_ms,
        audit_pause: values.audit_pause_ms,
        publish_deadline: values.publish_deadline_ms,
        publish_wait_max: values.publish_wait_max_ms,
        source_labels_max: values.source_labels_max,
        otlp_endpoint: values.otlp_endpoint,
        access: AccessConfig {
            operator_token: values.ops_token,
            readonly_token: values.ops_readonly_token,
            local_name: values.ops_local_name,
            proxy: ProxyConfig {
                addresses: values.ops_proxy_addresses,
                user_header: values.ops_proxy_user_header,
                groups_header: values.ops_proxy_groups_header,
            },
            roles: values.ops_roles,
            oidc: values.ops_oidc_issuer.map(|issuer| OidcConfig {
                issuer,
                client_id: values.ops_oidc_client_id,
                client_secret: values.ops_oidc_client_secret,
                public_url: values.ops_public_url,
                scopes: values.ops_oidc_scopes,
                name_claim: values.ops_oidc_name_claim,
                groups_claim: values.ops_oidc_groups_claim,
            }),
            session_keys: SessionKeys {
                current: values.ops_session_key,
                previous: values.ops_session_key_previous,
            },
        },
        approvals: Approvals {
            adjust: approved("adjust"),
            assign: approved("assign"),
            discard: approved("discard"),
            bulk: approved("bulk"),
            wait_max: values.approval_wait_max_ms,
        },
        mask_cards: values.mask_cards,
        log_level: values.log_level,
        log_json: values.log_format == "json",
        ingress: IngressConfig::default(),
    })
}

/// What is set; else two full batches for each lane, and no fewer than payonce always took: what is set aside counts too, and must
/// not keep the others from coming.
fn prefetch_count(values: &Values) -> Result<u16, ConfigError> {
    if let Some(set) = values.prefetch_count {
        return Ok(set);
    }
    let Values { lanes, batch_size_max, .. } = values;
    let derived = lanes.saturating_mul(*batch_size_max).saturating_mul(2).max(PREFETCH_UNSET_MIN);
    u16::try_from(derived).map_err(|_| {
        let problem = format!(
            "2 x lanes x batch_size_max = 2 x {lanes} x {batch_size_max} = {derived} is more than {}: lower lanes or batch_size_max",
            u16::MAX
        );
        error("prefetch_count", problem)
    })
}
