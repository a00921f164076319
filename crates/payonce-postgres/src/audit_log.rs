//! The audit log as people read it: by person, action and day, and by case. What must not live here: what writes a line (`actions`).

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    actions::{Act, ActionRow, COLUMNS, Verb},
};

/// Which lines of the audit log; all parts that are set must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineFilter {
    /// This person did it, or proposed it.
    pub who: Option<String>,
    /// One of [`action_names`].
    pub action: Option<&'static str>,
    /// Began at this time or later.
    pub since: Option<OffsetDateTime>,
    /// Began before this time.
    pub until: Option<OffsetDateTime>,
}

/// What a line can be of.
pub fn action_names() -> impl Iterator<Item = &'static str> {
    let verbs = [Verb::Replay, Verb::Discard, Verb::Reopen, Verb::Assign].map(Verb::as_str);
    let acts = [
        Act::Take,
        Act::HandBack,
        Act::Note,
        Act::Adjust,
        Act::Open,
        Act::Close,
        Act::Freeze,
        Act::Enable,
        Act::Disable,
        Act::Resend,
        Act::Forget,
    ];
    verbs.into_iter().chain(acts.map(Act::as_str))
}

/// The newest lines before an id that fit.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    connection: &mut PgConnection,
    filter: &LineFilter,
    before: i64,
    limit: i64,
) -> Result<Vec<ActionRow>, StoreError> {
    let sql = format!(
        "select {COLUMNS} from operator_actions
         where id < $1 and ($3::text is null or who = $3 or proposed_by = $3) and ($4::text is null or action = $4)
           and ($5::timestamptz is null or began_at >= $5) and ($6::timestamptz is null or began_at < $6)
         order by id desc limit $2"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(before)
        .bind(limit)
        .bind(&filter.who)
        .bind(filter.action)
        .bind(filter.since)
        .bind(filter.until)
        .fetch_all(connection)
        .await?)
}

/// A line about a case.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct CaseAct {
    /// The case; a line may be about several.
    pub case_id: i64,
    /// The line.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub act: ActionRow,
}

/// The newest lines about any of these cases, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn of_cases(
    connection: &mut PgConnection,
    cases: &[i64],
    limit: i64,
) -> Result<Vec<CaseAct>, StoreError> {
    let sql = format!(
        "select * from (select case_id, {COLUMNS} from operator_action_cases join operator_actions on id = action_id
                        where case_id = any($1) order by action_id desc, case_id limit $2) as newest
         order by id, case_id"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(cases).bind(limit).fetch_all(connection).await?)
}
