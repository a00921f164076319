//! What the broker took off the queue: what it is called where it cannot be read, and how one that may end workers is decided no more than
//! once more. What must not live here: how a callback is decided.

use std::time::Instant;

use tracing::error;

use super::{
    lane::{Lane, LaneEnd, Origin},
    work::Work,
};
use crate::{
    broker::Death,
    ledger::{Expires, Reason},
    retry::Pauses,
    store::{Resolver, StoreError, engine::replay, quarantine},
};

/// What the case of a dead letter says until it is decided once more: for good, where that is not survived.
pub(super) const DETAIL: &str = "a dead letter that a worker had before, and gave back or ended over: stored before it was decided once more. \
                                 Where it still reads so, the worker that did so ended: look at that worker's log, then replay";

/// Why a message that is no callback is a case. What the broker dead-lettered after so many returns says so; what merely expired, or came when the
/// queue was full, is what it is. So is what proves nothing: once its key is known, it can be verified and decided.
pub(super) fn reason(reason: Reason, origin: Origin, death: Option<Death>) -> Reason {
    match (origin, death) {
        (Origin::DeadLetter, Some(Death::DeliveryLimit) | None) if reason != Reason::BadSignature => {
            Reason::DeliveryLimit
        }
        (Origin::DeadLetter | Origin::Queue, _) => reason,
    }
}

/// Decides dead letters whose case is new, once: whoever takes one of them after this worker finds the case, and leaves it to people. So it
/// is decided before anybody has to look at it, and what ends workers ends no third one.
pub(super) async fn decide_stored(
    lane: &mut Lane,
    work: &Work<'_>,
    started: Instant,
    pauses: &mut Pauses,
) -> Result<(), LaneEnd> {
    let resolver = Resolver { by: "payonce", why: "decided once more, after it had been a dead letter" };
    for callback in &work.callbacks {
        loop {
            let Lane { connection, worker, .. } = lane;
            let how = (worker.config.policy(), Expires::Nothing);
            let case =
                connection.run(async |connection| quarantine::dead_letter(connection, callback).await).await;
            let decided = match case {
                Ok(case) => replay(connection, case.as_slice(), resolver, how).await,
                Err(cause) => Err(cause),
            };
            match decided {
                Ok(_) => break,
                Err(
                    cause @ (StoreError::Unavailable(_) | StoreError::Unfit(_) | StoreError::Conflict(_)),
                ) => {
                    lane.pause(&cause, started, pauses).await?;
                }
                Err(cause @ (StoreError::Blocked(_) | StoreError::Refused(_))) => {
                    error!(writer = lane.writer, cause = %cause, "a dead letter was not decided; its case is open");
                    break;
                }
            }
        }
    }
    Ok(())
}
