//! Audits that `payonce ops` makes by itself, where it is told to, so that an alert can say that the books are wrong.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tracing::{error, warn};

use crate::{
    metrics,
    store::{self, Database, StoreError},
};

/// How far an audit reaches back behind the start of the one before: a transaction that was open then has its rows stamped earlier.
const OVERLAP: Duration = Duration::from_secs(600);

/// Audits for ever, with this pause; with none, never. Each audit looks at what is new since the last one that found the books right,
/// so that nothing is left out between them; the first one at what came within one pause. `payonce audit` looks at everything.
pub(super) async fn again_and_again(database: Arc<Database>, pause: Duration) {
    if pause.is_zero() {
        return std::future::pending().await;
    }
    let mut since = OffsetDateTime::now_utc() - pause - OVERLAP;
    loop {
        let started = OffsetDateTime::now_utc();
        match audit(&database, since).await {
            Ok(failed) => {
                if failed.is_empty() {
                    since = started - OVERLAP;
                } else {
                    error!(checks = ?failed, "the audit failed; `payonce audit` shows examples");
                }
                metrics::audited(failed.is_empty(), OffsetDateTime::now_utc().unix_timestamp());
            }
            Err(cause) => warn!(cause = %cause, "no audit"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// The names of the checks that failed. On a connection without a deadline: some checks read whole tables.
async fn audit(database: &Database, since: OffsetDateTime) -> Result<Vec<&'static str>, StoreError> {
    let mut connection = database.for_reading().connect().await?;
    let findings = store::audit(&mut connection, Some(since), |_| {}).await?;
    for finding in &findings {
        metrics::audit_violations(finding.name, finding.violations);
    }
    Ok(findings.iter().filter(|finding| !finding.ok).map(|finding| finding.name).collect())
}
