//! What is stuck in all: how many cases are open and waiting, and what they are about, as the triggers of `quarantine` keep it. Reads a row for each
//! reason, source and currency, and none for a case. What must not live here: which cases those are.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{StoreError, quarantine::Sums};

/// All cases that have not ended, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many, by state and reason.
    pub by_reason: Vec<(String, String, i64)>,
    /// Those that need a person.
    pub open: Sums,
    /// Those that wait for another callback.
    pub waiting: Sums,
}

impl Standing {
    /// How many are in this state, for this reason where one is given.
    #[must_use]
    pub fn count(&self, state: &str, reason: Option<&str>) -> i64 {
        let fits = |of: &&(String, String, i64)| of.0 == state && reason.is_none_or(|reason| of.1 == reason);
        self.by_reason.iter().filter(fits).map(|(.., n)| n).sum()
    }
}

/// The sums, to the last commit.
///
/// # Errors
/// [`StoreError`].
pub async fn standing(connection: &mut PgConnection) -> Result<Standing, StoreError> {
    let rows: Vec<(String, String, String, i64, String)> = sqlx::query_as(
        "select state, reason, currency, sum(cases)::bigint, sum(amount)::text
         from (table case_sums union all table case_changes) kept
         group by state, reason, currency having sum(cases) <> 0 order by state, reason, currency",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut standing = Standing::default();
    for (state, reason, currency, cases, amount) in rows {
        let of = if state == "open" { &mut standing.open } else { &mut standing.waiting };
        of.cases += cases;
        // A sum of bigints is a whole number.
        let amount: i128 = amount.parse().unwrap_or(i128::MAX);
        if currency.is_empty() {
            of.unreadable += cases;
        } else {
            match of.money.iter_mut().find(|(known, _)| *known == currency) {
                Some((_, sum)) => *sum = sum.saturating_add(amount),
                None => of.money.push((currency, amount)),
            }
        }
        match standing.by_reason.last_mut().filter(|last| last.0 == state && last.1 == reason) {
            Some((.., n)) => *n += cases,
            None => standing.by_reason.push((state, reason, cases)),
        }
    }
    standing.open.money.sort();
    standing.waiting.money.sort();
    standing.open.oldest = oldest(connection, "open").await?;
    standing.waiting.oldest = oldest(connection, "waiting").await?;
    Ok(standing)
}

/// One look into the index over (state, `first_seen_at`).
async fn oldest(connection: &mut PgConnection, state: &str) -> Result<Option<OffsetDateTime>, StoreError> {
    let oldest = "select min(first_seen_at) from quarantine where state = $1";
    Ok(sqlx::query_scalar(oldest).bind(state).fetch_one(connection).await?)
}

/// What open cases of each source are about, by ISO 4217 code in minor units, those with the most cases first; at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn by_source(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(String, String, i128)>, StoreError> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select source, currency, sum(amount)::text from (table case_sums union all table case_changes) kept
         where state = 'open' and currency <> ''
         group by source, currency having sum(cases) <> 0 order by sum(cases) desc, source, currency limit $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let parsed =
        rows.into_iter().map(|(source, currency, sum)| (source, currency, sum.parse().unwrap_or(i128::MAX)));
    Ok(parsed.collect())
}

/// Adds changes up, at most `rows_max`; returns how many it took. The sums stay what they are.
pub(super) async fn add_up(transaction: &mut PgConnection, rows_max: i64) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("select add_up_cases($1)").bind(rows_max).fetch_one(transaction).await?)
}
