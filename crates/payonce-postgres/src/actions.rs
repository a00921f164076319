//! The audit log of what people did to cases, accounts and subscribers. Written beside them, read by pages.

use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    quarantine::{Filter, as_json},
};
use payonce_ledger::{AccountId, CaseId};

/// Advisory locks of lines that are worked on: this and the line's id. Others of payonce begin with other 32 bits.
const WORK_LOCKS: i64 = 0x7061_7970_0000_0000;

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
    /// As it stands in the audit log.
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

/// What a person does to an account, to a subscriber over HTTPS, or to a case that stays where it is.
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
    /// Send to a subscriber again.
    Enable,
    /// Send nothing to a subscriber.
    Disable,
    /// Send an account's events to a subscriber again, from a version on.
    Resend,
    /// Forget a subscriber.
    Forget,
    /// Give cases to a person.
    Take,
    /// Take cases from whoever has them.
    HandBack,
    /// Note something about cases.
    Note,
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
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Resend => "resend",
            Self::Forget => "forget",
            Self::Take => "take",
            Self::HandBack => "hand_back",
            Self::Note => "note",
        }
    }
}

/// A line of the audit log before it stands there: who does what, and why.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The person, 1 to 200 bytes; of a proposal the one who approves it.
    pub who: &'a str,
    /// The channel.
    pub via: Via,
    /// [`Verb::as_str`] or [`Act::as_str`].
    pub action: &'static str,
    /// The reason, in the person's words.
    pub why: &'a str,
    /// The detail, in words.
    pub chosen: &'a str,
    /// Makes it one, 1 to 200 bytes: of one key there is one line.
    pub key: Option<&'a str>,
    /// Who proposed it, where it is a proposal that another person approves.
    pub proposed_by: Option<&'a str>,
}

/// Through which channel a person acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A page.
    Web,
    /// The operators' API.
    Api,
    /// `payonce quarantine`, `adjust`, `account`, `feed subscribers`.
    CommandLine,
}

impl Via {
    /// As it stands in the audit log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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
    /// The channel.
    pub via: Via,
    /// The action.
    pub verb: Verb,
    /// The reason, in the person's words.
    pub why: String,
    /// The cases; of these only those in a state that the action is for.
    pub filter: Filter,
    /// The same in words.
    pub chosen: String,
    /// Of [`Verb::Assign`], the account that the cases are handed to; without one nothing is done. `None` for the others.
    pub assign_to: Option<AccountId>,
    /// Makes it one: the same order with the same key is answered as the first was. 1 to 200 bytes.
    pub key: Option<String>,
}

impl Order {
    /// Its line of the audit log.
    #[must_use]
    pub fn line(&self) -> Line<'_> {
        Line {
            who: &self.who,
            via: self.via,
            action: self.verb.as_str(),
            why: &self.why,
            chosen: &self.chosen,
            key: self.key.as_deref(),
            proposed_by: None,
        }
    }
}

/// A line of the audit log.
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
    /// `replay`, `discard`, `reopen`, `assign`, `take`, `hand_back` or `note`; of an account `adjust`, `open`, `close` or `freeze`; of a
    /// subscriber `enable`, `disable`, `resend` or `forget`.
    pub action: String,
    /// The reason.
    pub why: String,
    /// Which cases were asked for.
    pub chosen: String,
    /// How many were looked at so far.
    pub cases: i64,
    /// What came of it, in words.
    pub result: Option<String>,
    /// What came of it, for programs: a JSON object.
    #[serde(serialize_with = "as_json")]
    pub outcome: Option<String>,
    /// Who proposed it, where `who` approved it.
    pub proposed_by: Option<String>,
    /// What makes it one.
    pub idempotency_key: Option<String>,
}

impl ActionRow {
    /// [`ActionRow::outcome`] as it was given; null where there is none.
    #[must_use]
    pub fn outcome(&self) -> Value {
        self.outcome.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// What a line is begun with.
#[derive(Debug, Clone)]
pub enum Begun {
    /// It stands there now, and what it says may begin when this is committed.
    New(i64),
    /// There is a line of this key already, with this content: what came of it is the answer.
    Before(Box<ActionRow>),
    /// The key was used for something else, which this line says. Nothing is done.
    OtherContent(Box<ActionRow>),
}

pub(super) const COLUMNS: &str = "id, began_at, ended_at, who, via, action, why, chosen, cases, result, outcome::text as outcome, proposed_by, \
                       idempotency_key";

/// Begins a line, unless there is one of its key.
///
/// # Errors
/// [`StoreError`].
pub async fn begin(connection: &mut PgConnection, line: &Line<'_>) -> Result<Begun, StoreError> {
    let new: Option<i64> = sqlx::query_scalar(
        "insert into operator_actions (who, via, action, why, chosen, idempotency_key, proposed_by)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (idempotency_key) where idempotency_key is not null do nothing returning id",
    )
    .bind(line.who)
    .bind(line.via.as_str())
    .bind(line.action)
    .bind(line.why)
    .bind(line.chosen)
    .bind(line.key)
    .bind(line.proposed_by)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(id) = new {
        return Ok(Begun::New(id));
    }
    let before = of_key(connection, line.key.unwrap_or_default()).await?;
    let before =
        before.ok_or_else(|| StoreError::Conflict("a line of the audit log was removed".to_owned()))?;
    Ok(line.compared_with(before))
}

impl Line<'_> {
    /// Whether that earlier line is about the same: the act, and its detail; of a note, which is its reason, that too.
    #[must_use]
    pub fn compared_with(&self, before: ActionRow) -> Begun {
        let is_same = before.action == self.action
            && before.chosen == self.chosen
            && (self.action != Act::Note.as_str() || before.why == self.why);
        if is_same { Begun::Before(Box::new(before)) } else { Begun::OtherContent(Box::new(before)) }
    }
}

/// The line of an idempotency key.
///
/// # Errors
/// [`StoreError`].
pub async fn of_key(connection: &mut PgConnection, key: &str) -> Result<Option<ActionRow>, StoreError> {
    let sql = format!("select {COLUMNS} from operator_actions where idempotency_key = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(key).fetch_optional(connection).await?)
}

/// Writes the line of an act that is done in this transaction, where nothing else is to be known of it. Reads nothing of the audit log.
///
/// # Errors
/// [`StoreError`].
pub async fn note(connection: &mut PgConnection, line: &Line<'_>, result: &str) -> Result<(), StoreError> {
    sqlx::query(
        "insert into operator_actions (who, via, action, why, chosen, ended_at, result)
         values ($1, $2, $3, $4, $5, clock_timestamp(), $6)",
    )
    .bind(line.who)
    .bind(line.via.as_str())
    .bind(line.action)
    .bind(line.why)
    .bind(line.chosen)
    .bind(result)
    .execute(connection)
    .await?;
    Ok(())
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

/// Closes the line, in words and for programs, unless it is closed already.
///
/// # Errors
/// [`StoreError`].
pub async fn end(
    connection: &mut PgConnection,
    action: i64,
    result: &str,
    outcome: &Value,
) -> Result<(), StoreError> {
    sqlx::query(
        "update operator_actions set ended_at = clock_timestamp(), result = $2, outcome = $3::text::jsonb
         where id = $1 and ended_at is null",
    )
    .bind(action)
    .bind(result)
    .bind(outcome.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Holds a line while its work goes on after the transaction that wrote it: until this session ends. False: another session works on it.
///
/// # Errors
/// [`StoreError`].
pub async fn hold(connection: &mut PgConnection, action: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(WORK_LOCKS.saturating_add(action))
        .fetch_one(connection)
        .await?)
}

/// Opens a line again whose work was cut short, and holds it. False: all of it was done, or another session works on it.
///
/// # Errors
/// [`StoreError`].
pub async fn resume(connection: &mut PgConnection, action: i64) -> Result<bool, StoreError> {
    if !hold(connection, action).await? {
        return Ok(false);
    }
    let opened = sqlx::query(
        "update operator_actions set ended_at = null, result = null, outcome = null
         where id = $1 and (ended_at is null or outcome ->> 'stopped' = 'true')",
    )
    .bind(action)
    .execute(connection)
    .await?;
    Ok(opened.rows_affected() > 0)
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
