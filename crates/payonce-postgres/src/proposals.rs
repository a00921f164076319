//! What one person asks for and another one decides on: the rows of `proposals`. An approval is written in the transaction of the act that it
//! allows (`acts`). What must not live here: how an act is carried out.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    StoreError,
    actions::{Line, Verb},
    quarantine::{Filter, as_json},
    rows::expect_rows,
};
use payonce_ledger::{AccountId, Amount, Correction, Currency, Direction, EventId, Reason};

/// Proposals that may wait at once.
pub const WAITING_MAX: i64 = 1_000;
/// Cases of one proposal at most: they are discarded or reopened in one transaction.
pub const CASES_MAX: i64 = 10_000;

/// A proposal, as people see it.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ProposalRow {
    /// Grows with time.
    pub id: i64,
    /// What makes it one.
    pub idempotency_key: String,
    /// `adjust`, `assign`, `replay`, `discard` or `reopen`.
    pub action: String,
    /// The detail, as a JSON object.
    #[serde(serialize_with = "as_given")]
    pub arguments: String,
    /// The detail, in words.
    pub chosen: String,
    /// The reason, in the person's words.
    pub why: String,
    /// The person.
    pub proposed_by: String,
    /// `web`, `api` or `command line`.
    pub via: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub proposed_at: OffsetDateTime,
    /// From then on it cannot be approved.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// `proposed`, `expired`, `approved` or `rejected`.
    pub state: String,
    /// When it was decided.
    #[serde(with = "time::serde::rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// Why it was rejected.
    pub decided_why: Option<String>,
    /// The line of the audit log that carried it out.
    pub action_id: Option<i64>,
}

fn as_given<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    as_json(&Some(text.to_owned()), serializer)
}

impl ProposalRow {
    /// Rejected, or expired: it will never be carried out, and its key stays used.
    #[must_use]
    pub fn is_in_vain(&self) -> bool {
        matches!(self.state.as_str(), "rejected" | "expired")
    }

    /// What became of a proposal that is in vain, and what to do, in words.
    #[must_use]
    pub fn in_vain(&self) -> String {
        let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let end = match (self.decided_at, &self.decided_by) {
            (Some(at), Some(by)) => {
                let why = self.decided_why.as_deref().unwrap_or_default();
                format!("was rejected by {by} at {}: {why}", time(at))
            }
            _ => format!("expired at {} undecided", time(self.expires_at)),
        };
        format!(
            "nothing was done: proposal {} ({} {}) {end}. Its id or idempotency key {:?} stays used; to ask again, ask with another",
            self.id, self.action, self.chosen, self.idempotency_key
        )
    }

    /// What is to be done.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where this program did not write it.
    pub fn arguments(&self) -> Result<Arguments, StoreError> {
        serde_json::from_str(&self.arguments)
            .map_err(|_| StoreError::Refused(format!("the arguments of proposal {} cannot be read", self.id)))
    }
}

const COLUMNS: &str = "id, idempotency_key, action, arguments::text as arguments, chosen, why, proposed_by, via, proposed_at, expires_at, \
                       case when state = 'proposed' and expires_at <= clock_timestamp() then 'expired' else state end as state, \
                       decided_at, decided_by, decided_why, action_id";

/// What is to be done, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arguments {
    /// Post an adjustment.
    Adjust {
        /// Its id: the event id of its ledger row.
        id: String,
        /// The account.
        account: String,
        /// `credit` or `debit`.
        direction: String,
        /// Minor units.
        amount: i64,
        /// ISO 4217 code.
        currency: String,
    },
    /// Work cases.
    Cases {
        /// `replay`, `discard`, `reopen` or `assign`.
        verb: String,
        /// Just these, in the order of their ids: those that fitted when it was proposed.
        cases: Vec<i64>,
        /// What they were about then, number and money, in words. Where it is something else by now, nothing is done.
        sums: String,
        /// Of `assign`, the account.
        account: Option<String>,
    },
}

impl Arguments {
    /// Of an adjustment.
    #[must_use]
    pub fn of(adjustment: &Correction) -> Self {
        Self::Adjust {
            id: adjustment.id.as_str().to_owned(),
            account: adjustment.account_id.as_str().to_owned(),
            direction: adjustment.direction.as_str().to_owned(),
            amount: adjustment.amount.minor_units(),
            currency: adjustment.currency.as_str().to_owned(),
        }
    }
}

/// The correction of an [`Arguments::Adjust`]; `None` where this program did not write it.
#[must_use]
pub fn correction(
    (id, account): (&str, &str),
    (direction, amount): (&str, i64),
    currency: &str,
) -> Option<Correction> {
    Some(Correction {
        id: EventId::new(id).ok()?,
        account_id: AccountId::new(account).ok()?,
        direction: Direction::parse(direction)?,
        amount: Amount::new(amount)?,
        currency: Currency::parse(currency)?,
    })
}

/// Why a proposal was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// There is no such proposal.
    NotThere,
    /// Who proposed it may not approve it.
    Own,
    /// Its time is up.
    Expired,
    /// This person has rejected it.
    Rejected(String),
    /// This person has approved it, with this line of the audit log.
    Approved(String, i64),
    /// Its cases are not those that were proposed: what they were about then, and now.
    Changed {
        /// When it was proposed.
        then: String,
        /// When it was approved.
        now: String,
    },
    /// A rule forbids the adjustment.
    Forbidden(Reason, String),
    /// It cannot be done, in words.
    Impossible(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing was done: ")?;
        match self {
            Self::NotThere => {
                f.write_str("there is no such proposal; `payonce approvals list` shows those there are")
            }
            Self::Own => f.write_str("you proposed this; another person has to approve it"),
            Self::Expired => f.write_str("the proposal has expired; propose it again"),
            Self::Rejected(by) => write!(f, "{by} has rejected it"),
            Self::Approved(by, action) => {
                write!(f, "{by} has approved it already; see line {action} of the audit log")
            }
            Self::Changed { then, now } => {
                write!(
                    f,
                    "the cases have changed since the proposal. It was for {then}; now it would be for {now}. Propose it again"
                )
            }
            Self::Forbidden(reason, detail) => write!(f, "{}: {detail}", reason.as_str()),
            Self::Impossible(words) => f.write_str(words),
        }
    }
}

/// What came of proposing.
#[derive(Debug, Clone)]
pub enum Proposed {
    /// It waits for another person; also where the same was proposed before with this key.
    Waits(Box<ProposalRow>),
    /// The key was used for something else. Nothing is done.
    OtherContent(Box<ProposalRow>),
    /// It cannot be proposed, in words.
    Refused(String),
}

/// Proposes what a line says, for another person to approve within `lifetime`.
///
/// # Errors
/// [`StoreError`].
pub async fn propose(
    connection: &mut PgConnection,
    line: Line<'_>,
    key: &str,
    arguments: &Arguments,
    lifetime: Duration,
) -> Result<Proposed, StoreError> {
    let arguments =
        serde_json::to_string(arguments).map_err(|error| StoreError::Refused(error.to_string()))?;
    // Two at once may both find room for one more: the limit is against floods, not a promise.
    let sql = format!(
        "insert into proposals (idempotency_key, action, arguments, chosen, why, proposed_by, via, expires_at)
         select $1, $2, $3::text::jsonb, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8)
         where (select count(*) from (select 1 from proposals where state = 'proposed' and expires_at > clock_timestamp()
                                      limit {WAITING_MAX}) w) < {WAITING_MAX}
         on conflict (idempotency_key) do nothing returning {COLUMNS}"
    );
    let new: Option<ProposalRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(key)
        .bind(line.action)
        .bind(&arguments)
        .bind(line.chosen)
        .bind(line.why)
        .bind(line.who)
        .bind(line.via.as_str())
        .bind(lifetime.as_secs_f64())
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(new) = new {
        return Ok(Proposed::Waits(Box::new(new)));
    }
    Ok(match of_key(connection, key).await? {
        Some(before) => compared(line.action, line.chosen, before),
        None => Proposed::Refused(format!(
            "{WAITING_MAX} proposals wait already, which is as many as may: approve or reject some first"
        )),
    })
}

/// Whether the earlier proposal of a key is about the same.
#[must_use]
pub fn compared(action: &str, chosen: &str, before: ProposalRow) -> Proposed {
    let is_same = before.action == action && before.chosen == chosen;
    if is_same { Proposed::Waits(Box::new(before)) } else { Proposed::OtherContent(Box::new(before)) }
}

/// These cases, as far as they are in a state that the verb is for.
#[must_use]
pub fn of_cases(verb: Verb, cases: &[i64]) -> Filter {
    Filter { ids: cases.to_vec(), states: verb.states().to_vec(), ..Filter::default() }
}

/// Whether its time is up, whether it is this person's own, who has decided it, and by which line of the audit log it was carried out.
type Locked = (bool, bool, Option<String>, Option<i64>);

/// Locks a proposal until the end of the transaction; why this person may not approve it, if so.
pub(super) async fn take(
    transaction: &mut PgConnection,
    proposal: i64,
    by: &str,
) -> Result<Option<Objection>, StoreError> {
    // Names are compared as the table's constraint does.
    let found: Option<Locked> = sqlx::query_as(
        "select expires_at <= clock_timestamp(), lower(btrim(proposed_by)) = lower(btrim($2)), decided_by, action_id
         from proposals where id = $1 for update",
    )
    .bind(proposal)
    .bind(by)
    .fetch_optional(transaction)
    .await?;
    let Some((is_expired, is_own, decided_by, action)) = found else {
        return Ok(Some(Objection::NotThere));
    };
    Ok(match (decided_by, action) {
        (Some(by), Some(action)) => Some(Objection::Approved(by, action)),
        (Some(by), None) => Some(Objection::Rejected(by)),
        (None, _) if is_own => Some(Objection::Own),
        (None, _) => is_expired.then_some(Objection::Expired),
    })
}

/// Ends a proposal that [`take`] has locked: this line of the audit log carried it out.
pub(super) async fn approve(
    transaction: &mut PgConnection,
    proposal: i64,
    by: &str,
    action: i64,
) -> Result<(), StoreError> {
    let approved = sqlx::query(
        "update proposals set state = 'approved', decided_at = clock_timestamp(), decided_by = $2, action_id = $3
         where id = $1 and state = 'proposed'",
    )
    .bind(proposal)
    .bind(by)
    .bind(action)
    .execute(transaction)
    .await?
    .rows_affected();
    expect_rows("proposals", approved, 1)
}

/// Rejects a proposal that waits or has expired; its own author may, too: that withdraws it. `None`: it is rejected now.
///
/// # Errors
/// [`StoreError`].
pub async fn reject(
    connection: &mut PgConnection,
    proposal: i64,
    by: &str,
    why: &str,
) -> Result<Option<Objection>, StoreError> {
    let rejected = sqlx::query(
        "update proposals set state = 'rejected', decided_at = clock_timestamp(), decided_by = $2, decided_why = $3
         where id = $1 and state = 'proposed'",
    )
    .bind(proposal)
    .bind(by)
    .bind(why)
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if rejected == 1 {
        return Ok(None);
    }
    let Some(row) = show(connection, proposal).await? else { return Ok(Some(Objection::NotThere)) };
    let decided_by = row.decided_by.unwrap_or_default();
    Ok(match row.action_id {
        Some(action) => Some(Objection::Approved(decided_by, action)),
        // Said once more, by whoever did it.
        None if decided_by == by => None,
        None => Some(Objection::Rejected(decided_by)),
    })
}

/// The newest proposals before an id: those that wait, or all.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    connection: &mut PgConnection,
    all: bool,
    before: i64,
    limit: i64,
) -> Result<Vec<ProposalRow>, StoreError> {
    let which = if all { "true" } else { "state = 'proposed' and expires_at > clock_timestamp()" };
    let sql = format!("select {COLUMNS} from proposals where id < $1 and {which} order by id desc limit $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(before).bind(limit).fetch_all(connection).await?)
}

/// One proposal.
///
/// # Errors
/// [`StoreError`].
pub async fn show(connection: &mut PgConnection, id: i64) -> Result<Option<ProposalRow>, StoreError> {
    let sql = format!("select {COLUMNS} from proposals where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(connection).await?)
}

/// The proposal of an idempotency key.
///
/// # Errors
/// [`StoreError`].
pub async fn of_key(connection: &mut PgConnection, key: &str) -> Result<Option<ProposalRow>, StoreError> {
    let sql = format!("select {COLUMNS} from proposals where idempotency_key = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(key).fetch_optional(connection).await?)
}
