//! Acts of people that are one transaction each: what is done, its line of the audit log, and the end of the proposal that it carries out.
//! So of two operators at once one acts, and a crash leaves all of it or nothing. What must not live here: what an act does.

use std::fmt;

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{
    StoreError,
    actions::{self, Begun, Line, Verb},
    apply::{self, Applied, Batch},
    closing,
    columns::unreadable,
    proposals::{self, Objection},
    quarantine, server,
};
use payonce_ledger::{CaseId, Currency, Key, Reason};

/// The line that an act is written to.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// This one, which stands there.
    Begun(i64),
    /// A new one, in the act's transaction.
    New(Line<'a>),
    /// A new one, in the act's transaction, which ends this proposal too. `who` of the line approves it.
    Approves(i64, Line<'a>),
}

/// An act, or why another person's proposal was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted<T> {
    /// What came of it.
    Done(T),
    /// Nothing was done.
    Objected(Objection),
}

/// What became of an adjustment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adjusted {
    /// It is posted. The account after it, in minor units.
    Posted {
        /// The account's currency.
        currency: Currency,
        /// The balance before it.
        before: i64,
        /// The balance.
        balance: i64,
        /// What authorizations hold of it.
        held: i64,
        /// The account's version.
        version: i64,
        /// Whether it was posted earlier, with the same content: these are the numbers of then, and nothing was done now.
        is_repeat: bool,
    },
    /// Its id was used before, with other content. Nothing was done.
    OtherContent,
    /// A rule forbids it. Nothing was done, and no case was made.
    Refused {
        /// The rule.
        reason: Reason,
        /// The detail, in words.
        detail: String,
    },
}

impl Adjusted {
    /// For programs.
    #[must_use]
    pub fn outcome(&self) -> Value {
        match self {
            Self::Posted { balance, held, version, is_repeat, .. } => json!({
                "outcome": "posted", "balance": balance, "held": held, "version": version, "repeated": is_repeat,
            }),
            Self::OtherContent => json!({ "outcome": "refused", "reason": Reason::PayloadMismatch.as_str() }),
            Self::Refused { reason, .. } => json!({ "outcome": "refused", "reason": reason.as_str() }),
        }
    }
}

impl fmt::Display for Adjusted {
    /// In words, for the person and the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Posted { currency, balance, held, version, is_repeat, .. } => {
                let (balance, held) = (currency.money(*balance), currency.money(*held));
                let when = if *is_repeat { "posted already" } else { "posted" };
                write!(f, "{when}: balance {balance}, held {held}, version {version}")
            }
            Self::OtherContent => {
                f.write_str("nothing was posted: the id was used for another adjustment; use another")
            }
            Self::Refused { reason, detail } => {
                write!(f, "nothing was posted: {}: {detail}", reason.as_str())
            }
        }
    }
}

/// Opens the line of an act in its transaction; an objection: nothing may be done, and the caller rolls back.
pub(super) async fn open(transaction: &mut PgConnection, entry: Entry<'_>) -> Result<Acted<i64>, StoreError> {
    let line = match entry {
        Entry::Begun(action) => return Ok(Acted::Done(action)),
        Entry::New(line) => line,
        Entry::Approves(proposal, line) => {
            if let Some(objection) = proposals::take(transaction, proposal, line.who).await? {
                return Ok(Acted::Objected(objection));
            }
            line
        }
    };
    match actions::begin(transaction, &line).await? {
        Begun::New(action) => Ok(Acted::Done(action)),
        // Of two people at once, whoever proposed and whoever acted: trying again would find the same.
        Begun::Before(row) | Begun::OtherContent(row) if matches!(entry, Entry::Approves(..)) => {
            Ok(Acted::Objected(Objection::Impossible(format!(
                "its id or idempotency key was used for another act meanwhile, line {} of the audit log: {} {}. Reject this, and propose it \
                 again with another",
                row.id, row.action, row.chosen
            ))))
        }
        // The caller has looked before, and decides again.
        Begun::Before(_) | Begun::OtherContent(_) => {
            Err(StoreError::Conflict("another request of the same idempotency key came first".to_owned()))
        }
    }
}

/// Ends the proposal, if there is one: it was carried out by this line.
pub(super) async fn settle(
    transaction: &mut PgConnection,
    entry: Entry<'_>,
    action: i64,
) -> Result<(), StoreError> {
    match entry {
        Entry::Begun(_) | Entry::New(_) => Ok(()),
        Entry::Approves(proposal, line) => proposals::approve(transaction, proposal, line.who, action).await,
    }
}

/// Writes a batch that is an act: all of it or nothing.
///
/// # Errors
/// [`StoreError::Conflict`] where concurrent writers changed first what the plan was decided on: nothing is written, and it is to be decided
/// again. After [`StoreError::Unavailable`] it is unknown whether all is written or nothing.
pub async fn post(
    connection: &mut PgConnection,
    batch: Batch<'_>,
    entry: Entry<'_>,
    adjusted: &Adjusted,
) -> Result<Acted<Applied>, StoreError> {
    let mut transaction = connection.begin().await?;
    let action = match open(&mut transaction, entry).await? {
        Acted::Done(action) => action,
        Acted::Objected(objection) => {
            transaction.rollback().await?;
            return Ok(Acted::Objected(objection));
        }
    };
    let written = apply::write(&mut transaction, batch).await?;
    if !written.applied.lost.is_empty() {
        return Err(StoreError::Conflict("a concurrent writer changed the account first".to_owned()));
    }
    settle(&mut transaction, entry, action).await?;
    actions::end(&mut transaction, action, &adjusted.to_string(), &adjusted.outcome()).await?;
    Ok(Acted::Done(written.commit(transaction).await?))
}

/// What is left to do of cases whose proposal was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// The line of the audit log.
    pub action: i64,
    /// Cases that are to be decided again, each by itself: all of a replay, of a reopening those that wait.
    pub left: Vec<CaseId>,
    /// How many were discarded or reopened.
    pub changed: u64,
}

/// Approves what was proposed for `cases`: discards or reopens them, or, for a replay, names what is to be decided again. Only where they are
/// still about `then`, number and money.
///
/// # Errors
/// [`StoreError`]; nothing is done then, but for [`StoreError::Unavailable`] during the commit, after which it is unknown.
pub async fn approve_cases(
    connection: &mut PgConnection,
    (verb, cases, then): (Verb, &[i64], &str),
    (proposal, line): (i64, Line<'_>),
) -> Result<Acted<Approved>, StoreError> {
    let entry = Entry::Approves(proposal, line);
    let mut transaction = connection.begin().await?;
    let action = match open(&mut transaction, entry).await? {
        Acted::Done(action) => action,
        Acted::Objected(objection) => {
            transaction.rollback().await?;
            return Ok(Acted::Objected(objection));
        }
    };
    let filter = proposals::of_cases(verb, cases);
    quarantine::hold(&mut transaction, &filter).await?;
    let now = quarantine::sums(&mut transaction, &filter, proposals::CASES_MAX).await?.to_string();
    if now != then {
        transaction.rollback().await?;
        return Ok(Acted::Objected(Objection::Changed { then: then.to_owned(), now }));
    }
    let ids: Vec<CaseId> = cases.iter().copied().map(CaseId).collect();
    actions::add_cases(&mut transaction, action, &ids).await?;
    let (left, changed) = match verb {
        Verb::Replay | Verb::Assign => (ids, 0),
        Verb::Discard => {
            (Vec::new(), quarantine::discard(&mut transaction, &filter, line.who, line.why).await?)
        }
        Verb::Reopen => {
            let (open, waiting) = quarantine::reopen(&mut transaction, &ids).await?;
            let changed = (open.len() + waiting.len()) as u64;
            (waiting, changed)
        }
    };
    settle(&mut transaction, entry, action).await?;
    match verb {
        // Decided by the caller, batch by batch, who closes the line then. Meanwhile nobody takes it for cut short.
        Verb::Replay | Verb::Assign => {
            actions::hold(&mut transaction, action).await?;
        }
        Verb::Discard | Verb::Reopen => {
            let done = if verb == Verb::Discard { "discarded" } else { "reopened" };
            let (words, outcome) = (format!("{changed} {done}"), json!({ done: changed }));
            actions::end(&mut transaction, action, &words, &outcome).await?;
        }
    }
    server::confirm(&mut transaction).await?;
    closing::commit(transaction).await?;
    Ok(Acted::Done(Approved { action, left, changed }))
}

/// Writes a line about an act that was not done, or had been done before, with what is to be said of it.
///
/// # Errors
/// [`StoreError`].
pub async fn note(
    connection: &mut PgConnection,
    line: Line<'_>,
    adjusted: &Adjusted,
) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await?;
    if let Acted::Done(action) = open(&mut transaction, Entry::New(line)).await? {
        actions::end(&mut transaction, action, &adjusted.to_string(), &adjusted.outcome()).await?;
    }
    server::confirm(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// The numbers of an adjustment that stands in the ledger.
///
/// # Errors
/// [`StoreError`].
pub async fn posted(connection: &mut PgConnection, key: &Key) -> Result<Option<Adjusted>, StoreError> {
    let row: Option<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "select currency, balance_after - balance_delta, balance_after, held_after, account_version from ledger
         where event_id = $2 and source = $1 and leg = 0",
    )
    .bind(key.source.as_str())
    .bind(key.event_id.as_str())
    .fetch_optional(connection)
    .await?;
    let Some((code, before, balance, held, version)) = row else { return Ok(None) };
    let currency = Currency::parse(&code).ok_or_else(|| unreadable("currency"))?;
    Ok(Some(Adjusted::Posted { currency, before, balance, held, version, is_repeat: true }))
}
