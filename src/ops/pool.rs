//! The pool seen as a whole, from what its workers have committed: health, metrics, and all pages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    middleware::{from_fn, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    access::{Access, Action, Guarded, act, same_site, see, shield},
    api, assets,
    audits::Auditor,
    edge::{EdgeSources, EdgeWatch},
    exposition, figure,
    kept::Kept,
    live, pages, readiness, scrape,
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
    /// What latencies are marked above (`latency_target_ms`).
    pub latency_target: Duration,
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
    /// What the counts say of each provider.
    pub(super) providers: Kept<pages::providers::Known>,
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
        watch: Watch::new(audit.borrow().clone(), setup.latency_target),
        edge: EdgeWatch::new(&setup.edge),
        providers: Kept::new(setup.reader.clone(), pages::providers::read),
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
    let following = {
        let (pool, stop) = (Arc::clone(&pool), stop.clone());
        tokio::spawn(async move { pool.access.follow(&pool.reader, &stop).await })
    };
    let asking = {
        let (pool, stop) = (Arc::clone(&pool), stop.clone());
        let edge = setup.edge;
        tokio::spawn(async move { pool.edge.run(&edge, &stop).await })
    };
    let counting = {
        let (pool, stop) = (Arc::clone(&pool), stop.clone());
        tokio::spawn(async move { pool.providers.follow(&stop).await })
    };
    let service = router(pool).into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned()).await;
    stop.cancel();
    drop(tokio::join!(watching, auditing, asking, following, counting));
    served
}

fn router(pool: Arc<Pool>) -> Router {
    let access = Arc::clone(&pool.access);
    let login = Router::new()
        .route("/login", get(pages::login::page).merge(post(pages::login::log_in).layer(from_fn(same_site))))
        .route("/login/oidc", get(pages::login::to_provider))
        .route("/login/oidc/back", get(pages::login::from_provider));
    let guarded = Guarded::new()
        .route("/", see(Action::View, pages::overview::page))
        .route("/duplicates", see(Action::View, pages::duplicates::page))
        .route("/quarantine", see(Action::View, pages::quarantine::page))
        .route("/quarantine/act", act(Action::WorkCases, pages::quarantine::act))
        .route("/quarantine/{case}", see(Action::View, pages::case::page))
        .route("/find", see(Action::View, pages::find::page))
        .route("/event", see(Action::View, pages::stories::event))
        .route("/payment", see(Action::View, pages::stories::payment))
        .route("/account", see(Action::View, pages::stories::account))
        .route("/account/statement", see(Action::View, pages::statement::page))
        .route(
            "/adjust",
            see(Action::View, pages::adjust::page).and(act(Action::Adjust, pages::adjust::post)),
        )
        .route("/approvals", see(Action::View, pages::approvals::page))
        .route("/approvals/{proposal}", see(Action::View, pages::approvals::one))
        .route("/approvals/{proposal}/approve", act(Action::Decide, pages::approvals::approve))
        .route("/approvals/{proposal}/reject", act(Action::Decide, pages::approvals::reject))
        .route("/debts", see(Action::View, pages::debts::page))
        .route("/reports", see(Action::Report, pages::reports::page))
        .route("/providers", see(Action::View, pages::providers::page))
        .route("/providers/{name}", see(Action::View, pages::providers::one))
        .route("/workers", see(Action::View, pages::workers::page))
        .route("/audit-log", see(Action::View, pages::audit_log::page))
        .route("/audit-log/{action}", see(Action::View, pages::audit_log::one))
        .route("/live", see(Action::View, live::live))
        .route("/figure", see(Action::View, figure::fragment))
        .route("/logout", act(Action::View, pages::login::log_out))
        .route("/metrics", see(Action::View, metrics));
    let guarded = api_routes(guarded).behind(Arc::clone(&access));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/assets/{digest}/{name}", get(assets::serve))
        .merge(login)
        .merge(guarded)
        .fallback(pages::nowhere::page)
        .layer(from_fn_with_state(access, shield))
        .layer(from_fn(api::errors_in_json))
        .with_state(pool)
}

fn api_routes(guarded: Guarded) -> Guarded {
    guarded
        .route("/api/overview", see(Action::View, api::overview))
        .route("/api/workers", see(Action::View, api::workers))
        .route("/api/providers", see(Action::View, pages::providers::api))
        .route("/api/history", see(Action::View, api::chart))
        .route("/api/duplicates", see(Action::View, api::duplicates))
        .route("/api/quarantine", see(Action::View, api::cases))
        .route("/api/quarantine/groups", see(Action::View, api::case_groups))
        .route("/api/quarantine/replay", act(Action::WorkCases, api::acts::replay))
        .route("/api/quarantine/discard", act(Action::WorkCases, api::acts::discard))
        .route("/api/quarantine/reopen", act(Action::WorkCases, api::acts::reopen))
        .route("/api/quarantine/assign", act(Action::WorkCases, api::acts::assign))
        .route("/api/quarantine/take", act(Action::WorkCases, api::case_work::take))
        .route("/api/quarantine/hand-back", act(Action::WorkCases, api::case_work::hand_back))
        .route("/api/quarantine/note", act(Action::WorkCases, api::case_work::note))
        .route("/api/quarantine/{id}", see(Action::View, api::case))
        .route("/api/adjust", act(Action::Adjust, api::acts::adjust))
        .route("/api/approvals", see(Action::View, api::acts::proposals))
        .route("/api/approvals/{id}", see(Action::View, api::acts::proposal))
        .route("/api/approvals/{id}/approve", act(Action::Decide, api::acts::approve))
        .route("/api/approvals/{id}/reject", act(Action::Decide, api::acts::reject))
        .route("/api/debts", see(Action::View, api::debts))
        .route("/api/report", see(Action::Report, api::finance::report))
        .route("/api/audit-log", see(Action::View, api::audit_log_lines))
        .route("/api/audit-log/{action}", see(Action::View, api::audit_log))
        .route("/api/find", see(Action::View, api::find::search))
        .route("/api/event", see(Action::View, api::event))
        .route("/api/payment", see(Action::View, api::payment))
        .route("/api/account", see(Action::View, api::account))
        .route("/api/openapi.json", see(Action::View, api::openapi::document))
        .route("/api/account/statement", see(Action::View, api::finance::statement))
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
