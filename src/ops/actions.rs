//! Replays, discards and the like that people ask for: begun here, and carried out while the page already shows how far they are.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::Pool;
use crate::{
    ledger::AccountId,
    store::{
        self, StoreError,
        actions::{self, Door, Order, Verb},
        quarantine::Filter,
    },
};

/// How long a page waits for the end before it shows how far things are.
const PATIENCE: Duration = Duration::from_secs(3);

/// Begins, and waits a little for the end. Returns the line of the trail, which says how it went or goes.
pub(super) async fn start(pool: &Arc<Pool>, order: Order) -> Result<i64, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    let action = connection.run(async |connection| actions::begin(connection, &order).await).await?;
    info!(action, verb = order.verb.as_str(), "an operator works cases");
    let pool = Arc::clone(pool);
    let work = tokio::spawn(async move {
        if let Err(cause) = (pool.carry_out)(connection, order, action).await {
            warn!(action, cause = %cause, "cases were left");
        }
        pool.watch.cases_changed();
    });
    // Late is not wrong: the work goes on, and its line of the trail tells.
    drop(tokio::time::timeout(PATIENCE, work).await);
    Ok(action)
}

/// The order that hands one case to another account.
pub(super) fn assignment(who: String, via: Door, why: String, case: i64, to: AccountId) -> Order {
    let verb = Verb::Assign;
    let filter = Filter { ids: vec![case], states: verb.states().to_vec(), ..Filter::default() };
    let chosen = format!("{filter}; to account {:?}", to.as_str());
    Order { who, via, verb, why, filter, chosen, assign_to: Some(to) }
}

/// A reason as it is kept.
pub(super) fn words(why: &str) -> Result<String, &'static str> {
    let why = why.trim();
    let is_fit = !why.is_empty() && why.len() <= 1_000 && !why.chars().any(char::is_control);
    is_fit
        .then(|| why.to_owned())
        .ok_or("Say why, in 1 to 1000 bytes without control characters: it is kept with the cases.")
}
