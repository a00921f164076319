//! Counts that have grown old are added up, by the hour and by the day. Any number of workers may do this at once. What must not live here:
//! how they are added up, which is the store's.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::super::{Worker, sleep_unless};
use crate::store::{self, history};

/// Pause between two looks for counts to add up.
const ROLL_UP_PAUSE: Duration = Duration::from_secs(60);

/// Adds up until `stop`.
pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) {
    let mut connection = store::Connection::new(Arc::clone(&worker.database));
    let kept = &worker.config.history;
    while !stop.is_cancelled() {
        match connection.run(async |connection| history::roll_up(connection, kept).await).await {
            Ok(0) => sleep_unless(ROLL_UP_PAUSE, &stop).await,
            // There may be more.
            Ok(_) => {}
            Err(cause) => {
                warn!(cause = %cause, "old counts were not added up; they are counted nevertheless");
                sleep_unless(ROLL_UP_PAUSE, &stop).await;
            }
        }
    }
    connection.close().await;
}
