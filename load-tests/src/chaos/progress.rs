//! Whether a chaos run goes on: what the database says was settled, by whom, and waiting for more of it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::{POLL_PAUSE, RECOVERY_DEADLINE, is_queue_empty, pool::Pool, site::Site};

/// So long without one more callback settled, and nothing is on its way.
pub const QUIET: Duration = Duration::from_secs(2);

/// Deliveries counted so far, in the transactions that settled them; `None`: the database does not answer.
pub async fn settled(connection: &mut Option<PgConnection>, site: &Site) -> Option<i64> {
    Some(settled_by(connection, site).await?.values().sum())
}

/// The same by who has settled them: worker and lane.
async fn settled_by(connection: &mut Option<PgConnection>, site: &Site) -> Option<BTreeMap<String, i64>> {
    if connection.is_none() {
        *connection = site.connect().await.ok();
    }
    let counted: Result<Vec<(String, i64)>, _> =
        sqlx::query_as("select writer, sum(n)::bigint from tallies where kind <> 'released' group by writer")
            .fetch_all(connection.as_mut()?)
            .await;
    if counted.is_err() {
        *connection = None;
    }
    Some(counted.ok()?.into_iter().collect())
}

/// Waits until every lane of every worker has settled one more callback than now, and says how many seconds that took. A lane has not
/// recovered because its neighbours have; one that gets nothing more, because they have taken all there is, is not waited for.
pub async fn wait_for_progress(site: &Site, pool: &mut Pool) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut connection = None;
    let mut before = None;
    let (mut last, mut progressed) = (None, Instant::now());
    loop {
        pool.check()?;
        let now = settled_by(&mut connection, site).await;
        let left = match (&before, &now) {
            (Some(before), Some(now)) => pool.without_progress(before, now)?,
            (_, _) => pool.lanes(),
        };
        if left == 0 {
            return Ok(started.elapsed().as_secs_f64());
        }
        if now != last {
            (last, progressed) = (now.clone(), Instant::now());
        }
        let is_idle = left < pool.lanes() && progressed.elapsed() > QUIET;
        if is_idle && is_queue_empty(site).await.unwrap_or(false) {
            return Ok((progressed - started).as_secs_f64());
        }
        before = before.or(now);
        if started.elapsed() > RECOVERY_DEADLINE {
            bail!(
                "{left} lanes have not recovered: they settled nothing for {RECOVERY_DEADLINE:?}\n{}",
                pool.last_words()
            );
        }
        sleep(POLL_PAUSE).await;
    }
}

/// Waits until nothing was settled for a while.
pub async fn wait_until_quiet(site: &Site) -> anyhow::Result<()> {
    let mut connection = None;
    let (mut before, mut since) = (None, Instant::now());
    while since.elapsed() < QUIET {
        let now = settled(&mut connection, site).await;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        sleep(POLL_PAUSE).await;
    }
    Ok(())
}

/// Asks until a number is reached.
pub async fn wait_for(
    site: &Site,
    pool: &mut Pool,
    question: &'static str,
    number: i64,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut connection = site.connect().await?;
    while sqlx::query_scalar::<_, i64>(question).fetch_one(&mut connection).await? < number {
        pool.check()?;
        if started.elapsed() > RECOVERY_DEADLINE {
            bail!("{question}: not {number} within {RECOVERY_DEADLINE:?}");
        }
        sleep(POLL_PAUSE).await;
    }
    Ok(())
}
