//! Server-sent events: each reading, to every page that is open.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Pool,
    access::Caller,
    pages::{overview, workers},
    watch::Now,
};

/// Pages that may listen at once.
pub(super) const LISTENERS_MAX: usize = 200;

struct Listener {
    readings: watch::Receiver<Arc<Now>>,
    pool: Arc<Pool>,
    stop: CancellationToken,
    /// Who listens is asked again with each reading.
    caller: Caller,
    is_new: bool,
    _place: OwnedSemaphorePermit,
}

/// A stream that ends when the process stops, and then the browser comes back by itself; or when the session of its page ends.
pub(super) async fn live(State(pool): State<Arc<Pool>>, caller: Caller) -> Response {
    let Ok(place) = Arc::clone(&pool.listeners).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages listen already\n").into_response();
    };
    let listener = Listener {
        readings: pool.watch.follow(),
        stop: pool.stop.clone(),
        pool,
        caller,
        is_new: true,
        _place: place,
    };
    let events = stream::unfold(listener, |mut listener| async move {
        if !std::mem::take(&mut listener.is_new) {
            tokio::select! {
                () = listener.stop.cancelled() => return None,
                changed = listener.readings.changed() => changed.ok()?,
            }
        }
        if !listener.pool.access.knows(&listener.caller) {
            return None;
        }
        let now = Arc::clone(&listener.readings.borrow_and_update());
        let event = Event::default().data(event(&now));
        Some((Ok::<_, Infallible>(event), listener))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// The texts of the page, and the rows of the workers.
fn event(now: &Now) -> String {
    json!({
        "texts": now.texts(),
        "html": { "workers": workers::rows(now).into_string(), "worker-list": workers::list(now).into_string(), "latency": overview::latency(now).into_string(), "stuck": overview::money_stuck(now).into_string() },
    })
    .to_string()
}
