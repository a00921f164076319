//! Accounts that owe money, as the trigger `debts` of `accounts` lists them. Only read here: nobody writes that list but the trigger.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::StoreError;

/// An account whose available money is below zero.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Debt {
    /// The account.
    pub account_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Minor units owed, at least 1: held − balance.
    pub debt: i64,
    /// When it last had none, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// All debts of one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DebtSum {
    /// ISO 4217 code.
    pub currency: String,
    /// How many accounts are in debt.
    pub accounts: i64,
    /// Minor units that they owe together, which may be more than 64 bits hold.
    pub sum: i128,
}

/// Number and sum of debts by currency, in the order of the codes. Reads an index entry for each account in debt, none for the others.
///
/// # Errors
/// [`StoreError`].
pub async fn sums(connection: &mut PgConnection) -> Result<Vec<DebtSum>, StoreError> {
    let rows: Vec<(String, i64, String)> = sqlx::query_as(
        "select currency, count(*), sum(debt)::text from debts group by currency order by currency",
    )
    .fetch_all(connection)
    .await?;
    let sum = |(currency, accounts, sum): (String, i64, String)| DebtSum {
        currency,
        accounts,
        // A sum of bigints is a whole number; the largest possible has 38 digits only beyond 2^63 accounts.
        sum: sum.parse().unwrap_or(i128::MAX),
    };
    Ok(rows.into_iter().map(sum).collect())
}

/// The largest debts of a currency, at most `limit`, that come after the one with this sum and account.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    connection: &mut PgConnection,
    currency: &str,
    after: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<Debt>, StoreError> {
    let (debt, account_id) = after.unwrap_or((i64::MAX, ""));
    Ok(sqlx::query_as(
        "select account_id, currency, debt, since from debts
         where currency = $1 and debt <= $2 and (debt < $2 or account_id > $3)
         order by debt desc, account_id limit $4",
    )
    .bind(currency)
    .bind(debt)
    .bind(account_id)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}
