//! The composition root: builds what a command needs from the configuration, starts it, and stops it on a signal.

mod ingress;

use std::{net::SocketAddr, sync::Arc};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api,
    balances::Balances,
    broker::{self, Names},
    config::{Config, Secret, TlsConfig},
    dedupe::Dedupe,
    feed,
    ingress::verify::valid_until_s,
    keys::{KEYS_REFRESH_PAUSE, Keys},
    metrics,
    operators::Operators,
    ops,
    store::{Database, Reader},
    tls,
    worker::{self, Readiness, Refusal, Worker},
};

pub use ingress::{case_endpoints, endpoints, run_ingress};

/// Why a long-running command ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A setting is missing or cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The worker cannot go on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The feed cannot go on.
    #[error(transparent)]
    FeedRefused(#[from] feed::Refusal),
    /// A defect of this machine, such as a port that closes by itself.
    #[error("{0}")]
    Failed(String),
}

/// The settings' PostgreSQL.
///
/// # Errors
/// Where `database_url` is missing or is not a PostgreSQL URL.
pub fn database(config: &Config, application_name: &str) -> Result<Database, AppError> {
    let url = required(config.database_url.as_ref(), "database_url")?;
    tls::load(&config.tls)
        .and_then(|pem| {
            let deadline = config.database_deadline;
            Database::with_tls(url.expose(), application_name, deadline, pem.ca, pem.identity)
        })
        .map_err(|problem| AppError::Usage(format!("database_url (PAYONCE_DATABASE_URL): {problem}")))
}

/// The settings' Redis.
///
/// # Errors
/// Where `redis_url` is missing or is not a Redis URL.
pub fn dedupe(config: &Config) -> Result<Dedupe, AppError> {
    let url = required(config.redis_url.as_ref(), "redis_url")?;
    Dedupe::with_tls(url.expose(), &config.prefix, config.dedupe.clone(), &config.tls)
        .map_err(|problem| AppError::Usage(format!("redis_url (PAYONCE_REDIS_URL): {problem}")))
}

/// The settings' RabbitMQ.
///
/// # Errors
/// Where `amqp_url` is missing or is not an AMQP URL.
pub fn amqp_url(config: &Config) -> Result<&Secret, AppError> {
    let url = required(config.amqp_url.as_ref(), "amqp_url")?;
    broker::check_address(url.expose())
        .map_err(|problem| AppError::Usage(format!("amqp_url (PAYONCE_AMQP_URL): {problem}")))?;
    Ok(url)
}

/// Who may sign for which source.
///
/// # Errors
/// Where `keys_file` cannot be used.
pub fn keys(config: &Config) -> Result<Keys, AppError> {
    Keys::open(config.keys_file.as_deref(), config.signatures_required)
        .map_err(|problem| AppError::Usage(problem.to_string()))
}

/// Who may sign, for cases that are verified again. Whatever the queue is trusted with, none that was refused for its signature is applied
/// without a rule for its source; a request that could not be mapped is where the queue needs no signatures ([`case_endpoints`]).
///
/// # Errors
/// Where `keys_file` cannot be used.
pub fn case_keys(config: &Config) -> Result<Keys, AppError> {
    Keys::open(config.keys_file.as_deref(), true).map_err(|problem| AppError::Usage(problem.to_string()))
}

/// Loudly: whoever reads this may not know what the addresses leave open.
fn warn_of_risks(config: &Config) {
    let url = |secret: &Option<Secret>| secret.as_ref().map_or("", Secret::expose).to_owned();
    for risk in tls::risks(&url(&config.database_url), &url(&config.redis_url), &url(&config.amqp_url)) {
        warn!("UNPROTECTED LINK: {risk}");
    }
}

/// Runs one member of the worker pool until SIGTERM or SIGINT.
///
/// # Errors
/// [`AppError`]; a server that is down is not one, it is waited for.
pub async fn run_worker(config: Config, listen: Option<SocketAddr>) -> Result<(), AppError> {
    let keys = keys(&config)?;
    if config.signatures_required && config.keys_file.is_none() {
        return Err(AppError::Usage(
            "signatures (PAYONCE_SIGNATURES): \"required\", but keys_file (PAYONCE_KEYS_FILE) is not set, so that no callback could be \
             accepted. `payonce keys generate SOURCE` makes one; set signatures to \"off\" only where every program that can write \
             to the queue may move money"
                .to_owned(),
        ));
    }
    warn_of_risks(&config);
    if !config.signatures_required {
        warn!(
            "signatures = off: whoever can write to the queue can move money in the name of any source that keys_file does not name"
        );
    }
    let stop = stop_on_signal()?;
    let name = process_name("payonce-worker");
    let readiness = Readiness::default();
    let ready = readiness.clone();
    let serving = serve_health(&config.tls, listen, Arc::new(move || ready.is_ready()), &stop).await?;
    metrics::worker_starts();
    let worker = Worker {
        database: Arc::new(database(&config, &name)?),
        dedupe: Arc::new(dedupe(&config)?),
        amqp_url: amqp_url(&config)?.clone(),
        tls: config.tls,
        keys,
        names: Names::new(&config.prefix),
        by_source: metrics::BySource::new(config.source_labels_max),
        config: config.worker,
        retry: config.retry,
        readiness,
        stats: worker::Stats::default(),
        name,
    };
    let result = worker::run(worker, stop.clone()).await;
    stop.cancel();
    drop(serving.await);
    Ok(result?)
}

/// Answers applications' reads until SIGTERM or SIGINT.
///
/// # Errors
/// [`AppError`]; a database that is down is not one, the answers say so.
pub async fn run_api(config: Config, listen: SocketAddr) -> Result<(), AppError> {
    let Some(path) = &config.api_tokens_file else {
        return Err(AppError::Usage(
            "api_tokens_file (PAYONCE_API_TOKENS_FILE): not set, so that nobody could read anything; docs/api.md shows one".to_owned(),
        ));
    };
    let tokens = api::Tokens::open(path).map_err(AppError::Usage)?;
    warn_of_risks(&config);
    let stop = stop_on_signal()?;
    let prometheus = install_metrics(&config.tls)?;
    let mut reads_from = config.clone();
    reads_from.database_url = config.api_database_url.or(config.database_url);
    let database = database(&reads_from, &process_name("payonce-api"))?;
    let reader = Reader::new(&database, config.database_pool_max);
    let listener = ops::bind(listen).await.map_err(AppError::Usage)?;
    let address = listener.local_addr().unwrap_or(listen);
    info!(address = %address, "serving /v1, /healthz, /readyz and /metrics");
    let served = api::serve(listener, api::Setup { reader, tokens, prometheus }, stop.clone()).await;
    stop.cancel();
    served.map_err(|error| AppError::Failed(error.to_string()))
}

/// Sends what the ledger says until SIGTERM or SIGINT.
///
/// # Errors
/// [`AppError`]; a server that is down is not one, it is waited for.
pub async fn run_feed(
    config: Config,
    listen: Option<SocketAddr>,
    from_beginning: bool,
) -> Result<(), AppError> {
    warn_of_risks(&config);
    let stop = stop_on_signal()?;
    // More than host and process id: in two containers both can be the same, and the lease is this name's.
    let name = format!("{}-{:08x}", process_name("payonce-feed"), rand::random::<u32>());
    let readiness = feed::Readiness::default();
    let ready = readiness.clone();
    let balances =
        match (config.feed.balance_cache, &config.redis_url) {
            (false, _) => None,
            (true, url) => {
                let (url, feed) = (required(url.as_ref(), "redis_url")?, &config.feed);
                let (timeout, ttl) = (config.dedupe.timeout, feed.balance_ttl);
                let opened = Balances::new(url.expose(), &config.prefix, timeout, ttl, &config.tls);
                Some(opened.map_err(|problem| {
                    AppError::Usage(format!("redis_url (PAYONCE_REDIS_URL): {problem}"))
                })?)
            }
        };
    let links = config.tls.clone();
    let feed = feed::Feed {
        balances,
        subscribers: feed::Subscriber::open_all(&config.feed).map_err(AppError::Usage)?,
        database: Arc::new(database(&config, &name)?),
        amqp_url: amqp_url(&config)?.clone(),
        tls: config.tls,
        names: Names::new(&config.prefix),
        config: config.feed,
        retry: config.retry,
        from_beginning,
        readiness,
        name,
    };
    let serving = serve_health(&links, listen, Arc::new(move || ready.is_ready()), &stop).await?;
    let result = feed::run(feed, stop.clone()).await;
    stop.cancel();
    drop(serving.await);
    Ok(result?)
}

/// This process's recorder, with what can be told at once.
fn install_metrics(tls: &TlsConfig) -> Result<PrometheusHandle, AppError> {
    let prometheus = metrics::install().map_err(|error| AppError::Failed(error.to_string()))?;
    // One that cannot be read is refused by name where it is used.
    let pem = tls.certificate_file.as_deref().and_then(|file| std::fs::read(file).ok());
    metrics::limits::link_certificate(pem.and_then(|pem| valid_until_s(&pem)));
    Ok(prometheus)
}

/// Health and metrics of a process that is not looked at by people; without an address a task that has nothing to do.
async fn serve_health(
    tls: &TlsConfig,
    listen: Option<SocketAddr>,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
    stop: &CancellationToken,
) -> Result<JoinHandle<()>, AppError> {
    let prometheus = install_metrics(tls)?;
    let Some(address) = listen else { return Ok(tokio::spawn(async {})) };
    let listener = ops::bind(address).await.map_err(AppError::Usage)?;
    let address = listener.local_addr().unwrap_or(address);
    info!(address = %address, "serving /healthz, /readyz and /metrics");
    let served = ops::serve_worker(listener, prometheus, ready, stop.clone());
    // What becomes of a last scrape does not matter.
    Ok(tokio::spawn(async move { drop(served.await) }))
}

/// Serves the pool's pages until SIGTERM or SIGINT.
///
/// # Errors
/// [`AppError`]; a server that is down is not one, `/readyz` says so.
pub async fn run_ops(config: Config, listen: SocketAddr) -> Result<(), AppError> {
    let access = ops::Access::new(config.access.clone(), listen, &config.tls).map_err(AppError::Usage)?;
    if config.amqp_url.is_some() {
        amqp_url(&config)?;
    }
    let keys = case_keys(&config)?;
    warn_of_risks(&config);
    let stop = stop_on_signal()?;
    let prometheus = install_metrics(&config.tls)?;
    let process_name = process_name("payonce-ops");
    let database = Arc::new(database(&config, &process_name)?);
    let dedupe = Arc::new(dedupe(&config)?);
    let watch_redis = {
        let (dedupe, stop) = (Arc::clone(&dedupe), stop.clone());
        tokio::spawn(async move { dedupe.keep_connected(worker::REDIS_PROBE_PAUSE, &stop).await })
    };
    let watch_keys = {
        let (keys, stop) = (keys.clone(), stop.clone());
        tokio::spawn(async move { keys.keep_fresh(KEYS_REFRESH_PAUSE, &stop).await })
    };
    let listener = ops::bind(listen).await.map_err(AppError::Usage)?;
    let setup = ops::Setup {
        reader: Reader::new(&database, config.database_pool_max),
        reports: Reader::for_reports(&database, config.report_deadline),
        operators: Operators {
            keys,
            endpoints: case_endpoints(&config),
            policy: config.worker.policy(),
            references: config.worker.references,
            approvals: config.approvals,
        },
        database,
        dedupe,
        amqp_url: config.amqp_url,
        tls: config.tls,
        names: Names::new(&config.prefix),
        process_name,
        prometheus,
        by_source: metrics::BySource::new(config.source_labels_max),
        latency_target: config.latency_target,
        audit_pause: config.audit_pause,
        waits: ops::Waits { for_payment: config.worker.waiting_max, for_funds: config.worker.order_wait },
        rules: config.worker.rules,
        access,
        edge: ops::EdgeSources {
            addresses: config.ingress.health_addresses,
            endpoints: config.ingress.endpoint,
        },
    };
    // The port that was found, where port 0 asked for any.
    let address = listener.local_addr().unwrap_or(listen);
    info!(address = %address, "serving the dashboard, its API, /healthz, /readyz and /metrics");
    let served = ops::serve_pool(listener, setup, stop.clone()).await;
    stop.cancel();
    drop(tokio::join!(watch_redis, watch_keys));
    served.map_err(|error| AppError::Failed(error.to_string()))
}

fn required<'a>(secret: Option<&'a Secret>, setting: &str) -> Result<&'a Secret, AppError> {
    secret.ok_or_else(|| {
        AppError::Usage(format!(
            "{setting}: not set; export PAYONCE_{}, or put {setting} into the file that --config names",
            setting.to_uppercase()
        ))
    })
}

/// Host and process id: enough to find the process that a log line, a connection or a count belongs to.
fn process_name(what: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown-host" } else { host.trim() };
    format!("{what}@{host}:{}", std::process::id())
}

/// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once, as it would a program without a handler.
fn stop_on_signal() -> Result<CancellationToken, AppError> {
    let stop = CancellationToken::new();
    let failed = |error: std::io::Error| AppError::Failed(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if cancelled.is_cancelled() {
                warn!(signal = name, "second signal; ending without draining");
                std::process::exit(130);
            }
            info!(signal = name, "stopping: finishing the started batches");
            cancelled.cancel();
        }
    });
    Ok(stop)
}
