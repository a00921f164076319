//! A case handed to another account than the one that its callback names, and decided again: the row, the count of the account's cases, what the
//! callback then does to the account, the line of the audit log and the end of a proposal, all in one transaction. What must not live here: the
//! decision, which is the caller's.

use std::fmt;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

use super::{
    StoreError, actions,
    acts::{self, Acted, Entry},
    apply::{self, Batch, Locking},
    cases::Resolver,
    columns::{CASE_COLUMNS, optional, stored_case},
    members,
    quarantine::{self, Replayed},
    rows::{each, expect_rows},
};
use crate::crash::{self, Point};
use payonce_ledger::{AccountId, CaseId, Plan, Snapshot, StoredCase};

/// What came of an assignment. All but the first: nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// The case is about `to` from now on.
    Made {
        /// The account that it was about; `None`: its callback names none, and nothing else said whose it is.
        from: Option<AccountId>,
        /// The account that it belongs to.
        to: AccountId,
    },
    /// The case is not there, or it has ended.
    Ended,
    /// The case's message is no callback: it has no account that could be another one.
    NotDecoded,
    /// No such account is open.
    UnknownAccount(AccountId),
    /// The callback is a transfer to this account: it would pay itself.
    IsReceiver(AccountId),
}

impl Assignment {
    /// In words, with what was decided then.
    #[must_use]
    pub fn with(&self, replayed: &Replayed) -> String {
        match self {
            Self::Made { .. } => format!("{self}: {replayed}"),
            Self::Ended | Self::NotDecoded | Self::UnknownAccount(_) | Self::IsReceiver(_) => {
                self.to_string()
            }
        }
    }

    /// For programs: `assigned` is 1, with both accounts and the numbers of a replay, or 0, with a code that says why.
    #[must_use]
    pub fn outcome(&self, replayed: &Replayed) -> Value {
        let refused = |code: &str| json!({ "assigned": 0, "refused": code });
        match self {
            Self::Made { from, to } => json!({
                "assigned": 1, "from": from.as_ref().map(AccountId::as_str), "to": to.as_str(),
                "applied": replayed.applied, "duplicates": replayed.duplicates, "refused": replayed.refused,
                "waiting": replayed.waiting, "untouched": replayed.untouched,
            }),
            Self::Ended => refused("ended"),
            Self::NotDecoded => refused("not_decoded"),
            Self::UnknownAccount(_) => refused("unknown_account"),
            Self::IsReceiver(_) => refused("is_receiver"),
        }
    }
}

impl fmt::Display for Assignment {
    /// In words, for the person and the audit log; ids with all that cannot be seen spelled out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made { from: Some(from), to } => {
                write!(f, "assigned from account {:?} to account {:?}", from.as_str(), to.as_str())
            }
            Self::Made { from: None, to } => {
                write!(f, "assigned from no account to account {:?}", to.as_str())
            }
            Self::Ended => f.write_str("not assigned: the case is not there, or has ended"),
            Self::NotDecoded => f.write_str(
                "not assigned: the case's message is no callback, so no money is known to belong to anybody",
            ),
            Self::UnknownAccount(to) => {
                write!(
                    f,
                    "not assigned: there is no account {:?}; open it first, or correct the id",
                    to.as_str()
                )
            }
            Self::IsReceiver(to) => {
                write!(f, "not assigned: account {:?} is the one that the transfer goes to", to.as_str())
            }
        }
    }
}

/// What is assigned, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Assigning<'a> {
    /// The case.
    pub id: CaseId,
    /// The account that it belongs to.
    pub to: &'a AccountId,
    /// Who ends the case, and why.
    pub resolver: Resolver<'a>,
    /// Whether what cases keep has its card data masked.
    pub mask_cards: bool,
    /// Where it is written down.
    pub entry: Entry<'a>,
}

/// Hands an open or waiting case that holds a callback to an open account, and decides it again by `decide`. Key and hash stay those of the
/// original, so that a later copy of it is a duplicate.
///
/// # Errors
/// [`StoreError::Conflict`] where concurrent writers changed first what it was decided on: nothing is changed, and it is to be done again.
/// Others: nothing is changed, but for [`StoreError::Unavailable`] during the commit, after which it is unknown: doing it again is right in
/// both cases.
pub async fn assign(
    connection: &mut PgConnection,
    assigning: Assigning<'_>,
    decide: impl FnOnce(&Snapshot, &[StoredCase]) -> Plan,
) -> Result<Acted<(Assignment, Replayed)>, StoreError> {
    let Assigning { id, to, resolver, mask_cards, entry } = assigning;
    let mut transaction = connection.begin().await?;
    let action = match acts::open(&mut transaction, entry).await? {
        Acted::Done(action) => action,
        Acted::Objected(objection) => {
            transaction.rollback().await?;
            return Ok(Acted::Objected(objection));
        }
    };
    let assignment = change(&mut transaction, id, to).await?;
    if !matches!(assignment, Assignment::Made { .. }) {
        transaction.rollback().await?;
        return Ok(Acted::Done((assignment, Replayed::default())));
    }
    // This transaction holds the account: nobody changes it between what is read here and what is written.
    let (cases, snapshot) = quarantine::load_cases(&mut transaction, &[id]).await?;
    let plan = decide(&snapshot, &cases);
    in_order(&mut transaction, &plan).await?;
    let replayed = Replayed::of(&plan, &cases);
    crash::hit(Point::Replay).await?;
    let batch = Batch {
        writer: "replay",
        plan,
        callbacks: &[],
        bodies: &[],
        mask_cards,
        references: &[],
        undecodable: &[],
        resolver,
        proven: &[],
        remembered: &[],
        locking: Locking::Wait,
    };
    let written = apply::write(&mut transaction, batch).await?;
    if !written.applied.lost.is_empty() {
        return Err(StoreError::Conflict("a concurrent writer changed an account first".to_owned()));
    }
    actions::add_cases(&mut transaction, action, &[id]).await?;
    acts::settle(&mut transaction, entry, action).await?;
    let (words, outcome) = (assignment.with(&replayed), assignment.outcome(&replayed));
    actions::end(&mut transaction, action, &words, &outcome).await?;
    written.commit(transaction).await?;
    Ok(Acted::Done((assignment, replayed)))
}

/// Unlike a batch, an assignment has its transaction's id before it reads accounts: what was committed in between has a higher one, and a
/// later version here would have a lower `ledger.txn` than the version before it. What is committed after the load loses to the version.
async fn in_order(transaction: &mut PgConnection, plan: &Plan) -> Result<(), StoreError> {
    let late: bool = sqlx::query_scalar(
        "select exists (
             select from unnest($1::text[]) as k(account_id),
                  lateral (select txn from ledger l where l.account_id = k.account_id
                           order by l.account_version desc limit 1) l
             where l.txn > (select ahead + pg_current_xact_id()::text::bigint from ledger_clock))",
    )
    .bind(each(&plan.accounts, |change| change.account_id.as_str()))
    .fetch_one(transaction)
    .await?;
    if late {
        return Err(StoreError::Conflict("a later transaction changed an account first".to_owned()));
    }
    Ok(())
}

async fn change(
    transaction: &mut PgConnection,
    id: CaseId,
    to: &AccountId,
) -> Result<Assignment, StoreError> {
    // The account before the case, as every transaction locks them. Whoever has decided about the account without this case is
    // refused by the count, and looks again.
    let counted = sqlx::query("update accounts set cases = cases + 1 where account_id = $1")
        .bind(to.as_str())
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    if counted == 0 {
        return Ok(Assignment::UnknownAccount(to.clone()));
    }
    let sql = format!(
        "select {CASE_COLUMNS} from quarantine q where q.id = $1 and q.state in ('open', 'waiting') for no key update"
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(&mut *transaction).await?;
    let Some(row) = row else { return Ok(Assignment::Ended) };
    if row.try_get::<Option<&str>, _>("type")?.is_none() {
        return Ok(Assignment::NotDecoded);
    }
    let mut callback = stored_case(&row)?.callback;
    if callback.receiver() == Some(to) {
        return Ok(Assignment::IsReceiver(to.clone()));
    }
    let from = optional(&row, "account_id", |text| AccountId::new(text).ok())?;
    callback.assigned_to = Some(to.clone());
    let changed =
        sqlx::query("update quarantine set account_id = $2, members = $3::text::jsonb where id = $1")
            .bind(id.0)
            .bind(to.as_str())
            .bind(members::of(&callback, Some(to)))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
    expect_rows("assigned cases", changed, 1)?;
    Ok(Assignment::Made { from, to: to.clone() })
}
