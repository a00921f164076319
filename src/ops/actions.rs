//! Replays and discards that people ask for: written into the trail first, then done batch by batch, whoever goes on watching.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::Pool;
use crate::{
    ledger::CaseId,
    store::{
        self, StoreError,
        actions::{self, Door, Order, Verb},
        quarantine::{self, Filter, Page, Replayed},
    },
};

/// Cases of one transaction.
const BATCH_MAX: i64 = 500;
/// How long a page waits for the end before it shows how far things are.
const PATIENCE: Duration = Duration::from_secs(3);

/// What somebody wants done.
pub(super) struct Wish {
    pub(super) who: String,
    pub(super) via: Door,
    pub(super) verb: Verb,
    pub(super) why: String,
    /// Open and waiting cases only, whatever it says.
    pub(super) filter: Filter,
    pub(super) chosen: String,
}

/// Begins, and waits a little for the end. Returns the line of the trail, which says how it went or goes.
pub(super) async fn start(pool: &Arc<Pool>, wish: Wish) -> Result<i64, StoreError> {
    let mut connection = store::Connection::new(Arc::clone(&pool.database));
    let order =
        Order { who: &wish.who, via: wish.via, verb: wish.verb, why: &wish.why, chosen: &wish.chosen };
    let action = connection.run(async |connection| actions::begin(connection, order).await).await?;
    info!(action, verb = wish.verb.as_str(), "an operator works cases");
    let work = tokio::spawn(finish(Arc::clone(pool), connection, wish, action));
    // Late is not wrong: the work goes on, and its line of the trail tells.
    drop(tokio::time::timeout(PATIENCE, work).await);
    Ok(action)
}

async fn finish(pool: Arc<Pool>, mut connection: store::Connection, mut wish: Wish, action: i64) {
    wish.filter.states = vec!["open", "waiting"];
    let done = work(&pool, &mut connection, &wish, action).await;
    let result = match &done {
        Ok(words) => words.clone(),
        Err(cause) => {
            warn!(action, cause = %cause, "cases were left");
            "stopped, because PostgreSQL did not answer; what was done stays, do the rest again".to_owned()
        }
    };
    if let Err(cause) =
        connection.run(async |connection| actions::end(connection, action, &result).await).await
    {
        warn!(action, cause = %cause, "the trail does not say how it ended");
    }
    connection.close().await;
    pool.watch.cases_changed();
}

async fn work(
    pool: &Pool,
    connection: &mut store::Connection,
    wish: &Wish,
    action: i64,
) -> Result<String, StoreError> {
    let mut replayed = Replayed::default();
    let mut discarded = 0;
    let mut last = 0;
    loop {
        let page = Page::After(last, BATCH_MAX);
        let cases =
            connection.run(async |connection| quarantine::list(connection, &wish.filter, page).await).await?;
        let ids: Vec<CaseId> = cases.iter().map(|case| CaseId(case.id)).collect();
        let Some(CaseId(newest)) = ids.last() else { break };
        last = *newest;
        connection.run(async |connection| actions::add_cases(connection, action, &ids).await).await?;
        match wish.verb {
            Verb::Replay => {
                let batch = (pool.replay)(ids, wish.who.clone(), wish.why.clone());
                replayed.add(batch.await?);
            }
            Verb::Discard => {
                let filter = Filter { ids: ids.iter().map(|id| id.0).collect(), ..wish.filter.clone() };
                discarded += connection
                    .run(async |connection| {
                        quarantine::discard(connection, &filter, &wish.who, &wish.why).await
                    })
                    .await?;
            }
        }
    }
    Ok(match wish.verb {
        Verb::Replay => replayed.to_string(),
        Verb::Discard => format!("{discarded} discarded"),
    })
}

/// A reason as it is kept.
pub(super) fn words(why: &str) -> Result<String, &'static str> {
    let why = why.trim();
    let is_fit = !why.is_empty() && why.len() <= 1_000 && !why.chars().any(char::is_control);
    is_fit
        .then(|| why.to_owned())
        .ok_or("Say why, in 1 to 1000 bytes without control characters: it is kept with the cases.")
}
