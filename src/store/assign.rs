//! A case handed to another account than the one that its callback names: the row, the count of the account's cases and the line of the
//! audit log in one transaction. What must not live here: what the callback then does to the account, which is decided like any replay.

use std::fmt;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

use super::{
    StoreError, actions,
    columns::{CASE_COLUMNS, optional, stored_case},
    members,
    rows::expect_rows,
    server,
};
use crate::ledger::{AccountId, CaseId};

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

/// Hands an open or waiting case that holds a callback to an open account, and says so in line `action` of the audit log. Key and hash
/// stay those of the original, so that a later copy of it is a duplicate. The caller decides the case again.
///
/// # Errors
/// [`StoreError`]; then nothing is changed, but for [`StoreError::Unavailable`] during the commit, after which it is unknown: doing it
/// again is right in both cases.
pub async fn assign(
    connection: &mut PgConnection,
    id: CaseId,
    to: &AccountId,
    action: i64,
) -> Result<Assignment, StoreError> {
    let mut transaction = connection.begin().await?;
    let assignment = change(&mut transaction, id, to).await?;
    if !matches!(assignment, Assignment::Made { .. }) {
        transaction.rollback().await?;
        return Ok(assignment);
    }
    actions::note(&mut transaction, action, &format!("{assignment}; not decided yet")).await?;
    server::confirm(&mut transaction).await?;
    transaction.commit().await?;
    Ok(assignment)
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
