//! Reports and statements as pages and their API make them: bounded in rows and time. What must not live here: how they are shown.

use time::Date;

use super::Pool;
use crate::{
    parameters::Wrong,
    reports::{ENTRIES_MAX, asked::Days},
    store::{
        StoreError,
        finance::{self, Period, Report},
        statement::{self, Statement},
    },
};

/// Movements of one report: a year of 50 sources, types and currencies a day is 18 250. `payonce report` has no limit.
pub(super) const MOVEMENTS_MAX: i64 = 50_000;

/// Why one is not there.
pub(super) enum NotMade {
    /// What was asked for cannot be.
    Wrong(Wrong),
    /// It would have too many rows, in words.
    TooLarge(String),
    /// The database did not get to it, in words.
    Late(String),
    /// Something else about the database.
    Store(StoreError),
}

impl From<StoreError> for NotMade {
    fn from(cause: StoreError) -> Self {
        Self::Store(cause)
    }
}

/// A closed period.
pub(super) async fn report(pool: &Pool, period: &Period) -> Result<Report, NotMade> {
    let made = pool.reports.run(async |connection| {
        if !finance::is_time_zone(connection, &period.time_zone).await? {
            return Ok(None);
        }
        finance::report(connection, period, MOVEMENTS_MAX).await.map(Some)
    });
    let report = match made.await {
        Ok(report) => report,
        Err(cause @ (StoreError::Blocked(_) | StoreError::Unavailable(_))) => {
            return Err(NotMade::Late(format!(
                "The report was not made: {cause}. One is made at a time, in at most report_deadline_ms. Try again, ask for fewer days, or run \
                 payonce report, which has no limit and may read from a standby"
            )));
        }
        Err(cause @ (StoreError::Unfit(_) | StoreError::Conflict(_) | StoreError::Refused(_))) => {
            return Err(cause.into());
        }
    };
    let days = || Days { first: period.first, last: period.last, time_zone: period.time_zone.clone() };
    let Some(report) = report else { return Err(NotMade::Wrong(Wrong(days().unknown_time_zone()))) };
    if i64::try_from(report.movements.len()).is_ok_and(|rows| rows > MOVEMENTS_MAX) {
        return Err(NotMade::TooLarge(format!(
            "These days have more than {MOVEMENTS_MAX} movements: ask for fewer days, or run payonce report, which has no limit"
        )));
    }
    Ok(report)
}

/// An account over days. `None`: nothing has opened it.
pub(super) async fn statement(
    pool: &Pool,
    account_id: &str,
    days: &Days,
    after_version: i64,
    entries_max: i64,
) -> Result<Option<Statement>, NotMade> {
    let between: (Date, Date) = (days.first, days.last);
    let made = pool.reader.run(async |connection| {
        if !finance::is_time_zone(connection, &days.time_zone).await? {
            return Ok(None);
        }
        let zone = &days.time_zone;
        statement::statement(connection, account_id, between, zone, after_version, entries_max)
            .await
            .map(Some)
    });
    made.await?.ok_or_else(|| NotMade::Wrong(Wrong(days.unknown_time_zone())))
}

/// As CSV it is one file, of at most so many rows.
pub(super) fn too_many(entries_total: i64) -> Option<NotMade> {
    (entries_total > ENTRIES_MAX).then(|| {
        NotMade::TooLarge(format!(
            "These days have {entries_total} ledger rows, and a statement has at most {ENTRIES_MAX}: ask for fewer days"
        ))
    })
}
