//! Subscribers over HTTPS, as people and alerts see them, and what people do with them. What must not live here: how events are delivered
//! (`webhooks`).

use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    actions::{self, Line},
    webhooks,
};

/// All that it has not taken is tried at once, as if nothing had failed. `None`: there is no such subscriber. False: it was enabled, and nothing of
/// it was waiting to be tried again; then nothing was done.
///
/// # Errors
/// [`StoreError`].
pub async fn enable(
    connection: &mut PgConnection,
    name: &str,
    line: &Line<'_>,
) -> Result<Option<bool>, StoreError> {
    let mut transaction = connection.begin().await?;
    let was_disabled: Option<bool> =
        sqlx::query_scalar("select disabled_at is not null from webhooks where name = $1 for update")
            .bind(name)
            .fetch_optional(&mut *transaction)
            .await?;
    let Some(was_disabled) = was_disabled else { return Ok(None) };
    let accounts = sqlx::query(
        "update webhook_accounts set due_at = clock_timestamp(), attempts = 0, failing_since = null where subscriber = $1 and attempts > 0",
    )
    .bind(name)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if !was_disabled && accounts == 0 {
        transaction.rollback().await?;
        return Ok(Some(false));
    }
    sqlx::query(
        "update webhooks set disabled_at = null, disabled_why = null, failing_since = null, acts = acts + 1 where name = $1",
    )
    .bind(name)
    .execute(&mut *transaction)
    .await?;
    actions::note(&mut transaction, line, "enabled").await?;
    transaction.commit().await?;
    Ok(Some(true))
}

/// Nothing more is sent to it, until it is enabled; what it has not taken is kept. `None`: there is no such subscriber. False: it was disabled.
///
/// # Errors
/// [`StoreError`].
pub async fn disable(
    connection: &mut PgConnection,
    name: &str,
    line: &Line<'_>,
) -> Result<Option<bool>, StoreError> {
    let mut transaction = connection.begin().await?;
    let was: Option<bool> =
        sqlx::query_scalar("select disabled_at is not null from webhooks where name = $1 for update")
            .bind(name)
            .fetch_optional(&mut *transaction)
            .await?;
    if was == Some(false) {
        webhooks::disable(&mut transaction, name, &format!("by {}: {}", line.who, line.why)).await?;
        actions::note(&mut transaction, line, "disabled").await?;
    }
    transaction.commit().await?;
    Ok(was.map(|was_disabled| !was_disabled))
}

/// Has the versions of an account from `from_version` sent again. The version of its last row; `None`: there is no such subscriber, or the
/// account has no such version.
///
/// # Errors
/// [`StoreError`].
pub async fn replay(
    connection: &mut PgConnection,
    name: &str,
    (account_id, from_version): (&str, i64),
    line: &Line<'_>,
) -> Result<Option<i64>, StoreError> {
    let mut transaction = connection.begin().await?;
    let last: Option<i64> = sqlx::query_scalar(
        "insert into webhook_accounts as w (subscriber, account_id, delivered, wanted)
         select s.name, a.account_id, $3 - 1, a.version from webhooks s, accounts a
         where s.name = $1 and a.account_id = $2 and $3 between 1 and a.version
         on conflict (subscriber, account_id) do update
         set delivered = least(w.delivered, excluded.delivered), wanted = greatest(w.wanted, excluded.wanted),
             due_at = clock_timestamp(), attempts = 0, failing_since = null
         returning wanted",
    )
    .bind(name)
    .bind(account_id)
    .bind(from_version)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(last) = last else {
        transaction.rollback().await?;
        return Ok(None);
    };
    sqlx::query("update webhooks set acts = acts + 1 where name = $1")
        .bind(name)
        .execute(&mut *transaction)
        .await?;
    actions::note(&mut transaction, line, &format!("versions {from_version} to {last} are sent again"))
        .await?;
    transaction.commit().await?;
    Ok(Some(last))
}

/// Forgets a subscriber, with what it has not taken. False: there is none, or a feed works for it.
///
/// # Errors
/// [`StoreError`].
pub async fn forget(connection: &mut PgConnection, name: &str, line: &Line<'_>) -> Result<bool, StoreError> {
    let mut transaction = connection.begin().await?;
    let is_forgotten: bool =
        sqlx::query_scalar("select forget_webhook($1)").bind(name).fetch_one(&mut *transaction).await?;
    if is_forgotten {
        actions::note(&mut transaction, line, "forgotten").await?;
    }
    transaction.commit().await?;
    Ok(is_forgotten)
}

/// A subscriber, as people and alerts see it.
#[derive(Debug, Clone, serde::Serialize, FromRow)]
pub struct WebhookRow {
    /// Its feed: `<feed_name>:webhook:<subscriber>`.
    pub name: String,
    /// Since when nothing is sent to it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
    /// Why.
    pub disabled_why: Option<String>,
    /// For how long it has taken nothing, in seconds; 0 while it takes some.
    pub failing_seconds: f64,
    /// When it took an event last.
    #[serde(with = "time::serde::rfc3339::option")]
    pub delivered_at: Option<OffsetDateTime>,
    /// Events that it has taken; copies count.
    pub delivered: i64,
    /// Accounts of which it has not taken all, at most [`super::webhooks::ACCOUNTS_BEHIND_MAX`] or so.
    pub accounts_behind: i64,
    /// Those of them whose retries are exhausted.
    pub accounts_exhausted: i64,
    /// The newest failure of an account that is behind.
    pub last_error: Option<String>,
}

impl WebhookRow {
    /// Its name in the configuration file, in which no colon can be.
    #[must_use]
    pub fn subscriber(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(_, subscriber)| subscriber)
    }
}

/// Every subscriber, by name.
///
/// # Errors
/// [`StoreError`].
pub async fn list(connection: &mut PgConnection) -> Result<Vec<WebhookRow>, StoreError> {
    Ok(sqlx::query_as(
        "select w.name, w.disabled_at, w.disabled_why, w.delivered_at, w.delivered,
                coalesce(extract(epoch from clock_timestamp() - w.failing_since), 0)::float8 as failing_seconds,
                b.behind as accounts_behind, b.exhausted as accounts_exhausted, b.last_error
         from webhooks w
         cross join lateral (
             select count(*) as behind, count(*) filter (where due_at = 'infinity') as exhausted,
                    (array_agg(last_error order by failing_since desc) filter (where last_error is not null))[1] as last_error
             from webhook_accounts where subscriber = w.name and delivered < wanted) as b
         order by w.name",
    )
    .fetch_all(connection)
    .await?)
}
