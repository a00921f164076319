//! The audit log of what people did to cases and accounts. Written beside them, read by pages.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{StoreError, quarantine::Filter};
use crate::ledger::{AccountId, CaseId};

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Decide again.
    Replay,
    /// End without applying.
    Discard,
    /// Take a discard back.
    Reopen,
    /// Hand one case to another account, and decide it again.
    Assign,
}

impl Verb {
    /// As it stands in the trail.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
            Self::Reopen => "reopen",
            Self::Assign => "assign",
        }
    }

    /// The action of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Replay, Self::Discard, Self::Reopen, Self::Assign]
            .into_iter()
            .find(|verb| verb.as_str() == name)
    }

    /// The states of cases that it is for; it passes others over.
    #[must_use]
    pub fn states(self) -> &'static [&'static str] {
        match self {
            Self::Replay | Self::Discard | Self::Assign => &["open", "waiting"],
            Self::Reopen => &["discarded"],
        }
    }
}

/// What a person does to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Post an adjustment.
    Adjust,
    /// Open it, for the first time or again.
    Open,
    /// Close it.
    Close,
    /// Freeze it.
    Freeze,
}

impl Act {
    /// As it stands in the audit log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adjust => "adjust",
            Self::Open => "open",
            Self::Close => "close",
            Self::Freeze => "freeze",
        }
    }
}

/// Who does what to an account, and why.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The person, 1 to 200 bytes.
    pub who: &'a str,
    /// The door.
    pub via: Door,
    /// What is done.
    pub act: Act,
    /// The reason, in the person's words.
    pub why: &'a str,
    /// To which account, and what exactly, in words.
    pub chosen: &'a str,
}

/// By which door a person came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A page.
    Web,
    /// The operators' API.
    Api,
    /// `payonce quarantine`, `payonce adjust`, `payonce account`.
    CommandLine,
}

impl Door {
    fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Api => "api",
            Self::CommandLine => "command line",
        }
    }
}

/// Who wants what done to which cases, and why.
#[derive(Debug, Clone)]
pub struct Order {
    /// The person, 1 to 200 bytes.
    pub who: String,
    /// The door.
    pub via: Door,
    /// The deed.
    pub verb: Verb,
    /// The reason, in the person's words.
    pub why: String,
    /// The cases; of these only those in a state that the action is for.
    pub filter: Filter,
    /// The same in words.
    pub chosen: String,
    /// Of [`Verb::Assign`], the account that the cases are handed to; without one nothing is done. `None` for the others.
    pub assign_to: Option<AccountId>,
}

/// A line of the trail.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ActionRow {
    /// Grows with time.
    pub id: i64,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub began_at: OffsetDateTime,
    /// When it ended; null: at work, or cut short.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// The person.
    pub who: String,
    /// `web`, `api` or `command line`.
    pub via: String,
    /// `replay`, `discard`, `reopen` or `assign`; of an account `adjust`, `open`, `close` or `freeze`.
    pub action: String,
    /// The reason.
    pub why: String,
    /// Which cases were asked for.
    pub chosen: String,
    /// How many were looked at so far.
    pub cases: i64,
    /// What came of it.
    pub result: Option<String>,
}

const COLUMNS: &str = "id, began_at, ended_at, who, via, action, why, chosen, cases, result";

/// Opens a line of the trail; the deed may begin when this is committed.
///
/// # Errors
/// [`StoreError`].
pub async fn begin(connection: &mut PgConnection, order: &Order) -> Result<i64, StoreError> {
    insert(connection, (&order.who, &order.why), order.via, order.verb.as_str(), &order.chosen).await
}

/// Opens a line about an account; what it says may begin when this is committed, or in the same transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn begin_act(connection: &mut PgConnection, record: Record<'_>) -> Result<i64, StoreError> {
    let Record { who, via, act, why, chosen } = record;
    insert(connection, (who, why), via, act.as_str(), chosen).await
}

async fn insert(
    connection: &mut PgConnection,
    (who, why): (&str, &str),
    via: Door,
    action: &str,
    chosen: &str,
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "insert into operator_actions (who, via, action, why, chosen) values ($1, $2, $3, $4, $5) returning id",
    )
    .bind(who)
    .bind(via.as_str())
    .bind(action)
    .bind(why)
    .bind(chosen)
    .fetch_one(connection)
    .await?)
}

/// Names cases that are about to be looked at.
///
/// # Errors
/// [`StoreError`].
pub async fn add_cases(connection: &mut PgConnection, action: i64, ids: &[CaseId]) -> Result<(), StoreError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    // One statement, so that the number and the names agree.
    sqlx::query(
        "with named as (
             insert into operator_action_cases (case_id, action_id) select id, $1 from unnest($2::bigint[]) as ids(id)
             on conflict do nothing returning 1)
         update operator_actions set cases = cases + (select count(*) from named) where id = $1",
    )
    .bind(action)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Says how far it is, in the transaction of what it says.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn note(connection: &mut PgConnection, action: i64, words: &str) -> Result<(), StoreError> {
    sqlx::query("update operator_actions set result = $2 where id = $1")
        .bind(action)
        .bind(words)
        .execute(connection)
        .await?;
    Ok(())
}

/// Closes the line.
///
/// # Errors
/// [`StoreError`].
pub async fn end(connection: &mut PgConnection, action: i64, result: &str) -> Result<(), StoreError> {
    sqlx::query("update operator_actions set ended_at = clock_timestamp(), result = $2 where id = $1")
        .bind(action)
        .bind(result)
        .execute(connection)
        .await?;
    Ok(())
}

/// The newest lines before an id.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    connection: &mut PgConnection,
    before: i64,
    limit: i64,
) -> Result<Vec<ActionRow>, StoreError> {
    let sql = format!("select {COLUMNS} from operator_actions where id < $1 order by id desc limit $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(before).bind(limit).fetch_all(connection).await?)
}

/// One line.
///
/// # Errors
/// [`StoreError`].
pub async fn show(connection: &mut PgConnection, action: i64) -> Result<Option<ActionRow>, StoreError> {
    let sql = format!("select {COLUMNS} from operator_actions where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(action).fetch_optional(connection).await?)
}

/// The newest lines about one case.
///
/// # Errors
/// [`StoreError`].
pub async fn of_case(
    connection: &mut PgConnection,
    case: i64,
    limit: i64,
) -> Result<Vec<ActionRow>, StoreError> {
    let sql = format!(
        "select {COLUMNS} from operator_actions
         where id in (select action_id from operator_action_cases where case_id = $1 order by action_id desc limit $2)
         order by id desc"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(case).bind(limit).fetch_all(connection).await?)
}
