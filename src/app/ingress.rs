//! `payonce ingress` put together: endpoints with their keys, the broker, the edge. What must not live here: what a webhook means.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{AppError, amqp_url, keys, process_name, serve_health, stop_on_signal, warn_of_risks};
use crate::{
    broker::Names,
    config::Config,
    ingress::{
        self,
        certificates::Certificates,
        desk::Desk,
        edge,
        endpoint::Endpoints,
        outbox::{self, Outbox},
        tls::Tls,
    },
    keys::{KEYS_REFRESH_PAUSE, Keys},
    ops,
};

/// How often endpoints' secrets are read again, so that one can be rotated without a restart.
const SECRETS_REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// The configuration's endpoints, each with a key that signs for its source.
///
/// # Errors
/// Every problem, one a line.
pub fn endpoints(config: &Config, keys: &Keys) -> Result<Endpoints, AppError> {
    if config.ingress.endpoint.is_empty() {
        return Err(AppError::Usage(
            "ingress.endpoint: none is configured; name the file by --config, or `payonce ingress init stripe` writes one".to_owned(),
        ));
    }
    let (endpoints, mut problems) = match Endpoints::open(&config.ingress.endpoint) {
        Ok(endpoints) => (endpoints, Vec::new()),
        Err(problems) => (Endpoints::default(), problems),
    };
    if let Err(problem) = Certificates::open(&config.ingress) {
        problems.push(problem);
    }
    for endpoint in &config.ingress.endpoint {
        if let Err(problem) = keys.current().sign(&endpoint.source, "check", 0, b"") {
            problems.push(format!("ingress.endpoint {}: {problem}", endpoint.path));
        }
    }
    if problems.is_empty() { Ok(endpoints) } else { Err(AppError::Usage(problems.join("\n"))) }
}

/// The endpoints by which requests that could not be mapped are mapped again. One that cannot be opened here, such as for its secrets file, maps
/// nothing again; a warning says so.
pub fn case_endpoints(config: &Config) -> Endpoints {
    let mut usable = Vec::new();
    for endpoint in &config.ingress.endpoint {
        match Endpoints::open(std::slice::from_ref(endpoint)) {
            Ok(_) => usable.push(endpoint.clone()),
            Err(problems) => {
                warn!(problem = problems.join("; "), "requests of this endpoint are not mapped again")
            }
        }
    }
    Endpoints::open(&usable).unwrap_or_default().trusting_the_queue(!config.signatures_required)
}

/// Takes providers' webhooks until SIGTERM or SIGINT.
///
/// # Errors
/// [`AppError`]; a broker that is down is not one, webhooks are answered with 503 meanwhile.
pub async fn run_ingress(
    config: Config,
    listen: SocketAddr,
    health: Option<SocketAddr>,
) -> Result<(), AppError> {
    let keys = keys(&config)?;
    let endpoints = endpoints(&config, &keys)?;
    let tls = match (&config.ingress.tls_certificate_file, &config.ingress.tls_key_file) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key).map_err(AppError::Usage)?),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let problem =
                "ingress.tls_certificate_file and ingress.tls_key_file belong together: set both, or none";
            return Err(AppError::Usage(problem.to_owned()));
        }
    };
    let certificates = Certificates::open(&config.ingress).map_err(AppError::Usage)?;
    warn_of_risks(&config);
    let stop = stop_on_signal()?;
    let address = outbox::Address {
        url: amqp_url(&config)?.clone(),
        name: process_name("payonce-ingress"),
        tls: config.tls.clone(),
        names: Names::new(&config.prefix),
        channels: config.ingress.channels,
        retry: config.retry,
    };
    // The broker is let go after the last request has its answer.
    let hang_up = CancellationToken::new();
    let (outbox, connecting) = Outbox::new(address, keys.clone(), hang_up.clone());
    let connecting = tokio::spawn(connecting);
    let listener = ops::bind(listen).await.map_err(AppError::Usage)?;
    let watched = outbox.clone();
    let serving = serve_health(&config.tls, health, Arc::new(move || watched.is_ready()), &stop).await?;
    let address = listener.local_addr().unwrap_or(listen);
    info!(address = %address, endpoints = endpoints.iter().count(), tls = tls.is_some(), "taking webhooks");
    let desk = Arc::new(Desk::new(endpoints, outbox, certificates, &config.ingress));
    let refreshing = {
        let (keys, desk, tls, stop) = (keys.clone(), Arc::clone(&desk), tls.clone(), stop.clone());
        let configured = config.ingress.endpoint.clone();
        tokio::spawn(async move {
            let tls = async {
                if let Some(tls) = &tls {
                    tls.keep_fresh(ingress::tls::REFRESH_PAUSE, &stop).await;
                }
            };
            let endpoints = desk.keep_fresh(&configured, SECRETS_REFRESH_PAUSE, &stop);
            tokio::join!(keys.keep_fresh(KEYS_REFRESH_PAUSE, &stop), tls, endpoints);
        })
    };
    edge::serve(listener, tls, desk, edge::Limits::from(&config.ingress), stop.clone()).await;
    stop.cancel();
    hang_up.cancel();
    drop(tokio::join!(connecting, refreshing));
    drop(serving.await);
    Ok(())
}
