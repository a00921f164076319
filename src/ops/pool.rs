//! The pool seen as a whole, from what its workers have committed: health, metrics, and all pages.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    handler::Handler,
    middleware::{from_fn, from_fn_with_state},
    response::Response,
    routing::{MethodRouter, get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    access::{self, Access},
    api, assets,
    audits::Auditor,
    edge::{EdgeSources, EdgeWatch},
    exposition, figure, live, pages, readiness, scrape,
    watch::{Sources, Watch},
};
use crate::{
    broker::Names,
    config::{Secret, TlsConfig},
    dedupe::Dedupe,
    ledger::Rules,
    metrics::BySource,
    operators::Operators,
    store::{Database, Reader},
};

/// What the pages are given.
pub struct Setup {
    /// PostgreSQL, to read from.
    pub reader: Reader,
    /// The same for reports.
    pub reports: Reader,
    /// PostgreSQL, for actions.
    pub database: Arc<Database>,
    /// Redis.
    pub dedupe: Arc<Dedupe>,
    /// RabbitMQ; `None`: not set, and the backlog is not known.
    pub amqp_url: Option<Secret>,
    /// For the link to it.
    pub tls: TlsConfig,
    /// The objects on it.
    pub names: Names,
    /// Of the connection to it.
    pub process_name: String,
    /// This process's recorder.
    pub prometheus: PrometheusHandle,
    /// Counters.
    pub by_source: BySource,
    /// Who may do what.
    pub access: Access,
    /// Between two audits; zero: none.
    pub audit_pause: Duration,
    /// What captures may exceed, for audits.
    pub rules: Rules,
    /// Where the edge is asked how it is.
    pub edge: EdgeSources,
    /// What people do here.
    pub operators: Operators,
    /// For how long callbacks wait.
    pub waits: Waits,
}

/// For how long a callback waits before it is an open case, by the settings of this process.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For another callback (`waiting_max_ms`).
    pub for_payment: Duration,
    /// For money or an account (`order_wait_ms`).
    pub for_funds: Duration,
}

/// What every page reads from.
pub(super) struct Pool {
    pub(super) reader: Reader,
    pub(super) reports: Reader,
    pub(super) database: Arc<Database>,
    pub(super) access: Arc<Access>,
    pub(super) watch: Watch,
    pub(super) edge: EdgeWatch,
    pub(super) operators: Operators,
    /// Places for open pages.
    pub(super) listeners: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    prometheus: PrometheusHandle,
    by_source: BySource,
    waits: Waits,
}

/// Serves health, metrics, pages and API of all workers until `stop`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve_pool(listener: TcpListener, setup: Setup, stop: CancellationToken) -> std::io::Result<()> {
    let auditor =
        Auditor::new(Arc::clone(&setup.database), Arc::clone(&setup.dedupe), setup.rules, setup.audit_pause);
    let audit = auditor.follow();
    let pool = Arc::new(Pool {
        reader: setup.reader.clone(),
        reports: setup.reports,
        database: setup.database,
        access: Arc::new(setup.access),
        watch: Watch::new(audit.borrow().clone()),
        edge: EdgeWatch::new(&setup.edge),
        operators: setup.operators,
        listeners: Arc::new(Semaphore::new(live::LISTENERS_MAX)),
        stop: stop.clone(),
        prometheus: setup.prometheus,
        by_source: setup.by_source,
        waits: setup.waits,
    });
    let sources = Sources {
        audit,
        reader: setup.reader,
        dedupe: setup.dedupe,
        amqp_url: setup.amqp_url,
        tls: setup.tls,
        names: setup.names,
        process_name: setup.process_name,
    };
    let auditing = {
        let stop = stop.clone();
        tokio::spawn(async move { auditor.run(&stop).await })
    };
    let watching = {
        let (pool, stop) = (Arc::clone(&pool), stop.clone());
        tokio::spawn(async move { pool.watch.run(&sources, &stop).await })
    };
    let asking = {
        let (pool, stop) = (Arc::clone(&pool), stop.clone());
        let edge = setup.edge;
        tokio::spawn(async move { pool.edge.run(&edge, &stop).await })
    };
    let served =
        axum::serve(listener, router(pool)).with_graceful_shutdown(stop.clone().cancelled_owned()).await;
    stop.cancel();
    drop(tokio::join!(watching, auditing, asking));
    served
}

fn router(pool: Arc<Pool>) -> Router {
    let access = Arc::clone(&pool.access);
    let login = Router::new()
        .route("/login", get(pages::login::page).post(pages::login::log_in))
        .layer(from_fn(access::same_site));
    let guarded = Router::new()
        .route("/", get(pages::overview::page))
        .route("/duplicates", get(pages::duplicates::page))
        .route("/quarantine", get(pages::quarantine::page))
        .route("/quarantine/act", act(pages::quarantine::act))
        .route("/quarantine/{case}", get(pages::case::page))
        .route("/find", get(pages::find::page))
        .route("/event", get(pages::stories::event))
        .route("/payment", get(pages::stories::payment))
        .route("/account", get(pages::stories::account))
        .route("/account/statement", get(pages::statement::page))
        .route("/adjust", get(pages::adjust::page).merge(act(pages::adjust::post)))
        .route("/approvals", get(pages::approvals::page))
        .route("/approvals/{proposal}", get(pages::approvals::one))
        .route("/approvals/{proposal}/approve", act(pages::approvals::approve))
        .route("/approvals/{proposal}/reject", act(pages::approvals::reject))
        .route("/debts", get(pages::debts::page))
        .route("/reports", get(pages::reports::page))
        .route("/providers", get(pages::providers::page))
        .route("/providers/{name}", get(pages::providers::one))
        .route("/workers", get(pages::workers::page))
        .route("/audit-log", get(pages::audit_log::page))
        .route("/audit-log/{action}", get(pages::audit_log::one))
        .route("/live", get(live::live))
        .route("/figure", get(figure::fragment))
        .route("/logout", act(pages::login::log_out))
        .merge(api_routes())
        .route("/metrics", get(metrics))
        .layer(from_fn_with_state(Arc::clone(&access), access::guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/assets/{digest}/{name}", get(assets::serve))
        .merge(login)
        .merge(guarded)
        .layer(from_fn_with_state(access, access::shield))
        .layer(from_fn(api::errors_in_json))
        .with_state(pool)
}

/// What changes something: by POST, and only for whom that is proven of.
fn act<H, T>(handler: H) -> MethodRouter<Arc<Pool>>
where
    H: Handler<T, Arc<Pool>>,
    T: 'static,
{
    post(handler).route_layer(from_fn(access::prove))
}

fn api_routes() -> Router<Arc<Pool>> {
    Router::new()
        .route("/api/overview", get(api::overview))
        .route("/api/workers", get(api::workers))
        .route("/api/providers", get(pages::providers::api))
        .route("/api/history", get(api::chart))
        .route("/api/duplicates", get(api::duplicates))
        .route("/api/quarantine", get(api::cases))
        .route("/api/quarantine/groups", get(api::case_groups))
        .route("/api/quarantine/replay", act(api::acts::replay))
        .route("/api/quarantine/discard", act(api::acts::discard))
        .route("/api/quarantine/reopen", act(api::acts::reopen))
        .route("/api/quarantine/assign", act(api::acts::assign))
        .route("/api/quarantine/{id}", get(api::case))
        .route("/api/adjust", act(api::acts::adjust))
        .route("/api/approvals", get(api::acts::proposals))
        .route("/api/approvals/{id}", get(api::acts::proposal))
        .route("/api/approvals/{id}/approve", act(api::acts::approve))
        .route("/api/approvals/{id}/reject", act(api::acts::reject))
        .route("/api/debts", get(api::debts))
        .route("/api/report", get(api::finance::report))
        .route("/api/audit-log", get(api::audit_log_lines))
        .route("/api/audit-log/{action}", get(api::audit_log))
        .route("/api/find", get(api::search))
        .route("/api/event", get(api::event))
        .route("/api/payment", get(api::payment))
        .route("/api/account", get(api::account))
        .route("/api/account/statement", get(api::finance::statement))
}

/// As it was at the last reading: anybody may ask, and that must cost the database nothing.
async fn ready(State(pool): State<Arc<Pool>>) -> Response {
    let now = pool.watch.now();
    if let Err(cause) = &now.readiness {
        warn!(cause, "not ready");
    }
    let words = "PostgreSQL does not answer, or its schema does not fit; the log says which";
    readiness(now.readiness.as_ref().copied().map_err(|_| words))
}

async fn metrics(State(pool): State<Arc<Pool>>) -> Response {
    scrape::refresh(&pool.reader, &pool.by_source, pool.waits, &pool.watch.now()).await;
    exposition(&pool.prometheus)
}
