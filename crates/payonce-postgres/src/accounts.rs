//! Accounts as operators open, close and freeze them. No money moves here.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::{
    StoreError,
    actions::{self, Act, ActionRow, Begun, Line, Via},
    columns::unreadable,
    openings::hold_openings,
    requests::{self, Start},
    rows::expect_rows,
    server,
};
use payonce_ledger::{AccountId, AccountStatus, Currency};

/// What an operator wants of an account.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// Which.
    pub account_id: &'a AccountId,
    /// The status that it is to have.
    pub to: AccountStatus,
    /// Its currency; needed only where it is opened for the first time.
    pub currency: Option<Currency>,
    /// The person, 1 to 200 bytes.
    pub who: &'a str,
    /// The channel.
    pub via: Via,
    /// The reason, in the person's words.
    pub why: &'a str,
    /// Makes it one: the same order with the same key is answered as the first was. 1 to 200 bytes.
    pub key: Option<&'a str>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// There was no such account, and now it is open, with a balance of 0.
    Opened,
    /// It had this status, and now it has the one that was asked for.
    Changed(AccountStatus),
    /// Nothing was done, because of this.
    Refused(Obstacle),
    /// The key of the order was used for something else. Nothing was done.
    OtherContent,
}

/// Why nothing was done to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing has opened it.
    Unknown,
    /// It has that status.
    Already,
    /// It is not open yet, and the currency to open it in is not given.
    NeedsCurrency,
    /// It is in this one.
    OtherCurrency(Currency),
    /// It is closed, which is more than frozen.
    Closed,
    /// It can be closed only where both are 0. Minor units.
    HasMoney {
        /// The account's currency.
        currency: Currency,
        /// The balance.
        balance: i64,
        /// What authorizations hold of it.
        held: i64,
    },
}

/// Carries the order out, and writes it to the audit log, in one transaction. Safe beside workers: whoever decides about the account at
/// the same moment finds its guard changed, and decides again.
///
/// # Errors
/// [`StoreError`]; nothing is half done then.
pub async fn change(connection: &mut PgConnection, order: &Order<'_>) -> Result<Ordered, StoreError> {
    let act = match order.to {
        AccountStatus::Open => Act::Open,
        AccountStatus::Closed => Act::Close,
        AccountStatus::Frozen => Act::Freeze,
    };
    let chosen = format!("account {}", order.account_id);
    let line = Line {
        who: order.who,
        via: order.via,
        action: act.as_str(),
        why: order.why,
        chosen: &chosen,
        key: order.key,
        proposed_by: None,
    };
    let mut transaction = connection.begin().await?;
    // A proposal may wait under this key: a line of the audit log with it would leave the proposal nothing to be carried out under.
    match requests::before(&mut transaction, &line).await? {
        Some(Start::Before(before)) => return Ok(as_before(&before)),
        Some(
            Start::Proposed(_)
            | Start::Ended(_)
            | Start::OtherContent(_)
            | Start::Refused(_)
            | Start::Begun(_),
        ) => return Ok(Ordered::OtherContent),
        None => {}
    }
    // First of all that is written, so that of two requests of one key the second waits here, and is answered as the first.
    let action = match actions::begin(&mut transaction, &line).await? {
        Begun::New(action) => action,
        Begun::Before(before) => return Ok(as_before(&before)),
        Begun::OtherContent(_) => return Ok(Ordered::OtherContent),
    };
    let ordered = decide_and_write(&mut transaction, order).await?;
    let was = match ordered {
        Ordered::Refused(_) | Ordered::OtherContent => {
            transaction.rollback().await?;
            return Ok(ordered);
        }
        Ordered::Changed(from) => Some(from.as_str()),
        Ordered::Opened => None,
    };
    let is = order.to.as_str();
    let result = was.map_or_else(|| "opened".to_owned(), |was| format!("was {was}, is {is}"));
    let outcome = json!({ "account_id": order.account_id.as_str(), "status": is, "was": was });
    actions::end(&mut transaction, action, &result, &outcome).await?;
    server::confirm(&mut transaction).await?;
    transaction.commit().await?;
    Ok(ordered)
}

/// What the first request of a key was answered.
fn as_before(before: &ActionRow) -> Ordered {
    let was = before.outcome()["was"].as_str().and_then(AccountStatus::parse);
    was.map_or(Ordered::Opened, Ordered::Changed)
}

async fn decide_and_write(transaction: &mut PgConnection, order: &Order<'_>) -> Result<Ordered, StoreError> {
    if order.to == AccountStatus::Open {
        // Before the row, as those do who open accounts by deposits.
        hold_openings(transaction).await?;
    }
    let found: Option<(String, String, i64, i64)> = sqlx::query_as(
        "select currency, status, balance, held from accounts where account_id = $1 for no key update",
    )
    .bind(order.account_id.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((currency, status, balance, held)) = found else {
        return match (order.to, order.currency) {
            (AccountStatus::Open, Some(currency)) => open(transaction, order.account_id, currency).await,
            (AccountStatus::Open, None) => Ok(Ordered::Refused(Obstacle::NeedsCurrency)),
            (AccountStatus::Frozen | AccountStatus::Closed, _) => Ok(Ordered::Refused(Obstacle::Unknown)),
        };
    };
    let currency = Currency::parse(&currency).ok_or_else(|| unreadable("currency"))?;
    let from = AccountStatus::parse(&status).ok_or_else(|| unreadable("status"))?;
    let obstacle = match (from, order.to) {
        (AccountStatus::Open, AccountStatus::Open)
        | (AccountStatus::Frozen, AccountStatus::Frozen)
        | (AccountStatus::Closed, AccountStatus::Closed) => Some(Obstacle::Already),
        (AccountStatus::Closed, AccountStatus::Frozen) => Some(Obstacle::Closed),
        (AccountStatus::Open | AccountStatus::Frozen, AccountStatus::Closed) => {
            (balance != 0 || held != 0).then_some(Obstacle::HasMoney { currency, balance, held })
        }
        (AccountStatus::Open, AccountStatus::Frozen)
        | (AccountStatus::Frozen | AccountStatus::Closed, AccountStatus::Open) => None,
    };
    let is_other = order.currency.is_some_and(|wanted| wanted != currency);
    if let Some(obstacle) = is_other.then_some(Obstacle::OtherCurrency(currency)).or(obstacle) {
        return Ok(Ordered::Refused(obstacle));
    }
    // The number of cases is half of the guard of every plan about this account; it may be higher than the cases there are.
    let changed = sqlx::query(
        "update accounts set status = $2, cases = cases + 1 where account_id = $1 and status = $3",
    )
    .bind(order.account_id.as_str())
    .bind(order.to.as_str())
    .bind(from.as_str())
    .execute(transaction)
    .await?
    .rows_affected();
    expect_rows("accounts", changed, 1)?;
    Ok(Ordered::Changed(from))
}

/// While nobody else opens any.
async fn open(
    transaction: &mut PgConnection,
    account_id: &AccountId,
    currency: Currency,
) -> Result<Ordered, StoreError> {
    // As a deposit opens it: from here on it counts its cases.
    let inserted = sqlx::query(
        "insert into accounts (account_id, currency, balance, held, version, cases)
         values ($1, $2, 0, 0, 0, (select count(*) from quarantine q where q.account_id = $1))",
    )
    .bind(account_id.as_str())
    .bind(currency.as_str())
    .execute(transaction)
    .await?
    .rows_affected();
    expect_rows("accounts", inserted, 1)?;
    Ok(Ordered::Opened)
}
