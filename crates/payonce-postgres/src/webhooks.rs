//! What subscribers over HTTPS have not taken yet: per subscriber whether it takes anything, per account that is behind the last version that
//! it took, the last that it is to get, and when it is tried next. Each change is of one row by its key, so that whoever schedules and whoever
//! delivers need not wait for each other. What must not live here: HTTP, and how long to wait.

use std::time::Duration;

use sqlx::{Connection as _, FromRow, PgConnection};

use super::{EPOCH, Epoch, StoreError, feed::Entry, rows::storable};

/// Accounts of one subscriber that may be behind at once. Where there are more, its feed reads no further until some are taken.
pub const ACCOUNTS_BEHIND_MAX: i64 = 10_000;
/// Longest text of a failure that is kept.
const ERROR_CHARS_MAX: usize = 500;
/// The account of the news that the history is another.
pub const HISTORY_ACCOUNT: &str = "";

/// Has the subscriber's row there.
///
/// # Errors
/// [`StoreError`].
pub async fn make(connection: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    sqlx::query("insert into webhooks (name) values ($1) on conflict (name) do nothing")
        .bind(name)
        .execute(connection)
        .await?;
    Ok(())
}

/// True where the subscriber is enabled, and less than [`ACCOUNTS_BEHIND_MAX`] of its accounts are behind.
///
/// # Errors
/// [`StoreError`].
pub async fn has_room(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "select exists (select from webhooks where name = $1 and disabled_at is null)
            and (select count(*) from (select from webhook_accounts where subscriber = $1 limit $2) as behind) < $2",
    )
    .bind(name)
    .bind(ACCOUNTS_BEHIND_MAX)
    .fetch_one(connection)
    .await?)
}

/// News of an account: the first and the last version of it that the subscriber is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The account.
    pub account_id: String,
    /// The first version.
    pub first: i64,
    /// The last version.
    pub last: i64,
}

/// Has these accounts delivered. Safe to repeat: at worst a subscriber that has taken all of them gets copies.
///
/// # Errors
/// [`StoreError`].
pub async fn schedule(connection: &mut PgConnection, name: &str, news: &[News]) -> Result<(), StoreError> {
    let accounts: Vec<&str> = news.iter().map(|one| one.account_id.as_str()).collect();
    let first: Vec<i64> = news.iter().map(|one| one.first).collect();
    let last: Vec<i64> = news.iter().map(|one| one.last).collect();
    sqlx::query(
        "insert into webhook_accounts as w (subscriber, account_id, delivered, wanted)
         select $1, n.account_id, n.first - 1, n.last
         from unnest($2::text[], $3::bigint[], $4::bigint[]) as n(account_id, first, last) order by n.account_id
         on conflict (subscriber, account_id) do update set wanted = excluded.wanted where w.wanted < excluded.wanted",
    )
    .bind(name)
    .bind(accounts)
    .bind(first)
    .bind(last)
    .execute(connection)
    .await?;
    Ok(())
}

/// Has the subscriber told that the history is another, before anything else. One that has not been told of the last one yet hears of
/// both at once.
///
/// # Errors
/// [`StoreError`].
pub async fn schedule_history(
    connection: &mut PgConnection,
    name: &str,
    before: &str,
    txn: i64,
) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "update webhooks set history_before = coalesce(history_before, $2), history_txn = least(history_txn, $3) where name = $1",
    )
    .bind(name)
    .bind(before)
    .bind(txn)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "insert into webhook_accounts as w (subscriber, account_id, delivered, wanted) values ($1, $2, 0, 1)
         on conflict (subscriber, account_id) do update set wanted = w.delivered + 1, due_at = clock_timestamp()",
    )
    .bind(name)
    .bind(HISTORY_ACCOUNT)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// The subscriber, before a delivery.
#[derive(Debug, Clone, FromRow)]
pub struct Standing {
    /// Whether anything may be sent now: it is enabled, and the one who asks has the lease, in the history that it knows.
    pub may_send: bool,
    /// Rises with each act of a person.
    pub acts: i64,
    /// The history that the subscriber still believes in, and where it was left; `None`: it knows the present one.
    pub history_before: Option<String>,
    /// See `history_before`.
    pub history_txn: Option<i64>,
}

/// How the subscriber stands, asked by the holder of its lease; `None`: there is no such subscriber.
///
/// # Errors
/// [`StoreError`].
pub async fn standing(
    connection: &mut PgConnection,
    name: &str,
    holder: &str,
    epoch: &Epoch,
) -> Result<Option<Standing>, StoreError> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select w.disabled_at is null and $3 = ({EPOCH})
                and exists (select from feeds f where f.name = w.name and f.holder = $2 and f.lease_until > clock_timestamp())
                as may_send,
                w.acts, w.history_before, w.history_txn
         from webhooks w where w.name = $1"
    )))
    .bind(name)
    .bind(holder)
    .bind(epoch.as_str())
    .fetch_optional(connection)
    .await?)
}

/// At most `accounts_max` accounts that have failed, of a subscriber that has taken nothing since some failed; not those whose retries are exhausted.
///
/// # Errors
/// [`StoreError`].
pub async fn failed(
    connection: &mut PgConnection,
    name: &str,
    accounts_max: usize,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "select a.account_id from webhook_accounts a join webhooks w on w.name = a.subscriber
         where w.name = $1 and w.failing_since is not null and a.attempts > 0 and a.due_at < 'infinity' limit $2",
    )
    .bind(name)
    .bind(i64::try_from(accounts_max).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?)
}

/// An account that is to be tried.
#[derive(Debug, Clone, FromRow)]
pub struct Due {
    /// The account; [`HISTORY_ACCOUNT`]: the news that the history is another.
    pub account_id: String,
    /// The last version that the subscriber has taken.
    pub delivered: i64,
    /// The last that it is to get.
    pub wanted: i64,
    /// Tries since it took one.
    pub attempts: i32,
}

/// Which accounts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that have not failed.
    First,
    /// Those that failed, and whose pause has ended.
    Again,
    /// The one whose time comes first, be it still to come: to see whether the subscriber is back.
    Next,
}

/// At most `rows_max` accounts, none of those `in_flight`. While the subscriber has not been told of another history, only that.
///
/// # Errors
/// [`StoreError`].
pub async fn due(
    connection: &mut PgConnection,
    name: &str,
    which: Which,
    in_flight: &[String],
    rows_max: usize,
) -> Result<Vec<Due>, StoreError> {
    Ok(sqlx::query_as(
        "select account_id, delivered, wanted, attempts from webhook_accounts
         where subscriber = $1
           and due_at <= case when $2 = 'next' then timestamptz '9999-01-01' else clock_timestamp() end
           and ($2 = 'next' or (attempts > 0) = ($2 = 'again'))
           and delivered < wanted and account_id <> all($3)
           and (account_id = '' or not exists (
               select from webhook_accounts where subscriber = $1 and account_id = '' and delivered < wanted))
         order by due_at limit $4",
    )
    .bind(name)
    .bind(match which {
        Which::First => "first",
        Which::Again => "again",
        Which::Next => "next",
    })
    .bind(in_flight)
    .bind(i64::try_from(rows_max).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?)
}

/// At most `rows_max` rows of each of these accounts, from the first that the subscriber has not taken to the last that it is to get; by account
/// and version.
///
/// # Errors
/// [`StoreError`].
pub async fn rows(
    connection: &mut PgConnection,
    due: &[Due],
    rows_max: usize,
) -> Result<Vec<Entry>, StoreError> {
    let accounts: Vec<&str> = due.iter().map(|one| one.account_id.as_str()).collect();
    let delivered: Vec<i64> = due.iter().map(|one| one.delivered).collect();
    let wanted: Vec<i64> = due.iter().map(|one| one.wanted).collect();
    Ok(sqlx::query_as(
        "select l.* from unnest($1::text[], $2::bigint[], $3::bigint[]) as d(account_id, delivered, wanted)
         cross join lateral (
             select * from ledger
             where account_id = d.account_id and account_version > d.delivered and account_version <= d.wanted
             order by account_version limit $4) as l
         order by l.account_id, l.account_version",
    )
    .bind(accounts)
    .bind(delivered)
    .bind(wanted)
    .bind(i64::try_from(rows_max).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?)
}

/// What became of a try.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The account.
    pub account_id: String,
    /// What it had taken before.
    pub was: i64,
    /// What it has taken now.
    pub upto: i64,
    /// Events that it has taken.
    pub taken: i64,
    /// Why it took no more, and how long to wait; `None`: it took all that it was sent.
    pub failure: Option<(String, Duration)>,
}

/// Keeps what became of tries. True: the subscriber has failed for longer than `retry_for` and is disabled by this. An account that has
/// failed for so long while others were taken is not tried any more, alone.
///
/// # Errors
/// [`StoreError`].
pub async fn keep(
    connection: &mut PgConnection,
    name: &str,
    tried: &[Tried],
    retry_for: Duration,
) -> Result<bool, StoreError> {
    let error = |one: &Tried| {
        one.failure
            .as_ref()
            .map(|(words, _)| storable(words).chars().take(ERROR_CHARS_MAX).collect::<String>())
    };
    let pause_s = |one: &Tried| one.failure.as_ref().map_or(0.0, |(_, pause)| pause.as_secs_f64());
    let retry_for_s = retry_for.as_secs_f64();
    let mut transaction = connection.begin().await?;
    // Somebody may have asked for older versions meanwhile; then this try says nothing of them.
    sqlx::query(
        "update webhook_accounts w
         set delivered = t.upto, last_error = t.error, due_at = clock_timestamp() + make_interval(secs => t.pause_s),
             attempts = case when t.error is null then 0 when t.upto > t.was then 1 else w.attempts + 1 end,
             failing_since = case when t.error is null then null when t.upto > t.was then clock_timestamp()
                                  else coalesce(w.failing_since, clock_timestamp()) end
         from unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::float8[]) as t(account_id, was, upto, error, pause_s)
         where w.subscriber = $1 and w.account_id = t.account_id and w.delivered = t.was",
    )
    .bind(name)
    .bind(tried.iter().map(|one| one.account_id.as_str()).collect::<Vec<_>>())
    .bind(tried.iter().map(|one| one.was).collect::<Vec<_>>())
    .bind(tried.iter().map(|one| one.upto).collect::<Vec<_>>())
    .bind(tried.iter().map(error).collect::<Vec<_>>())
    .bind(tried.iter().map(pause_s).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    let taken: i64 = tried.iter().map(|one| one.taken).sum();
    let is_told = tried.iter().any(|one| one.account_id == HISTORY_ACCOUNT && one.taken > 0);
    sqlx::query(
        "update webhooks
         set delivered = delivered + $2,
             delivered_at = case when $2 > 0 then clock_timestamp() else delivered_at end,
             failing_since = case when $2 > 0 then null when $3 then coalesce(failing_since, clock_timestamp()) else failing_since end,
             history_before = case when $4 then null else history_before end,
             history_txn = case when $4 then null else history_txn end
         where name = $1",
    )
    .bind(name)
    .bind(taken)
    .bind(tried.iter().any(|one| one.failure.is_some()))
    .bind(is_told)
    .execute(&mut *transaction)
    .await?;
    let why = format!("it has taken nothing for {} s", retry_for.as_secs());
    let disabled = sqlx::query(
        "update webhooks set disabled_at = clock_timestamp(), disabled_why = $3
         where name = $1 and disabled_at is null and failing_since < clock_timestamp() - make_interval(secs => $2)",
    )
    .bind(name)
    .bind(retry_for_s)
    .bind(why)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if disabled == 0 {
        sqlx::query(
            "update webhook_accounts set due_at = 'infinity'
             where subscriber = $1 and account_id = any($3) and failing_since < clock_timestamp() - make_interval(secs => $2)",
        )
        .bind(name)
        .bind(retry_for_s)
        .bind(tried.iter().filter(|one| one.failure.is_some()).map(|one| one.account_id.as_str()).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    sqlx::query("select forget_settled_webhooks($1)").bind(name).execute(connection).await?;
    Ok(disabled > 0)
}

/// The subscriber takes events again: what failed meanwhile is tried at once.
///
/// # Errors
/// [`StoreError`].
pub async fn wake(connection: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    sqlx::query(
        "update webhook_accounts set due_at = clock_timestamp() where subscriber = $1 and attempts > 0 and due_at < 'infinity'",
    )
    .bind(name)
    .execute(connection)
    .await?;
    Ok(())
}

/// Nothing more is sent to this subscriber, until a person enables it. False: it was disabled already.
///
/// # Errors
/// [`StoreError`].
pub async fn disable(connection: &mut PgConnection, name: &str, why: &str) -> Result<bool, StoreError> {
    let disabled = sqlx::query(
        "update webhooks set disabled_at = clock_timestamp(), disabled_why = $2 where name = $1 and disabled_at is null",
    )
    .bind(name)
    .bind(why)
    .execute(connection)
    .await?;
    Ok(disabled.rows_affected() > 0)
}
