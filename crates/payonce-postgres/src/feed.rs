//! The ledger read as a log: what has settled since a position, in the order of transactions, and who may read it for whom. A position is
//! stored in the database that it is about, so that a failover or a restore moves both together. What must not live here: where rows are sent.

use std::time::Duration;

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{EPOCH, Epoch, StoreError, epoch, rows::storable};

/// Transactions whose rows one look sorts at most: it is canceled after `database_deadline_ms`, whatever the backlog.
const STEP_MAX_TRANSACTIONS: i64 = 1 << 14;
/// Rows of a backlog that are counted; a longer one counts as this.
pub const LAG_ROWS_MAX: i64 = 100_000;
/// Longest text of a failure that is kept.
const ERROR_CHARS_MAX: usize = 500;

/// A committed ledger row, with the transaction that wrote it.
#[derive(Debug, Clone, FromRow)]
pub struct Entry {
    /// The transaction.
    pub txn: i64,
    /// The provider.
    pub source: String,
    /// The provider's id of the event.
    pub event_id: String,
    /// Which side of the callback: 0, and 1 for the receiving side of a transfer.
    #[sqlx(default)]
    pub leg: i16,
    /// What was reported.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// The account.
    pub account_id: String,
    /// Its version after the row.
    pub account_version: i64,
    /// The payment, where it has one.
    pub payment_id: Option<String>,
    /// The money movement, where the provider named it.
    pub operation_id: Option<String>,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// Change of the balance, minor units.
    pub balance_delta: i64,
    /// Change of what is held, minor units.
    pub held_delta: i64,
    /// The balance after the row, minor units.
    pub balance_after: i64,
    /// What was held after the row, minor units.
    pub held_after: i64,
    /// Over the canonical form of the callback, 32 bytes.
    pub payload_sha256: Vec<u8>,
    /// By the provider's clock, where it gave one.
    pub occurred_at: Option<OffsetDateTime>,
    /// By the database's clock.
    pub recorded_at: OffsetDateTime,
}

/// How far a reader is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// All rows of earlier transactions are read.
    pub txn: i64,
    /// Of this transaction the rows up to this account and version, in their order; `None`: all.
    pub within: Option<(String, i64)>,
}

impl Position {
    /// Right after this row.
    #[must_use]
    pub fn after(entry: &Entry) -> Self {
        Self { txn: entry.txn, within: Some((entry.account_id.clone(), entry.account_version)) }
    }
}

/// What one look found.
#[derive(Debug)]
pub struct Page {
    /// Rows, per account by version.
    pub entries: Vec<Entry>,
    /// Where to go on.
    pub next: Position,
    /// Nothing else had settled.
    pub is_end: bool,
}

/// Reads on from `position`, and learns how far a look may reach.
#[derive(Debug)]
pub struct Log {
    position: Position,
    step: i64,
}

impl Log {
    /// Begins after `position`.
    #[must_use]
    pub fn at(position: Position) -> Self {
        Self { position, step: 1 }
    }

    /// Where it is.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Goes to a place that [`Log::look`] showed, or anywhere before it.
    pub fn go_to(&mut self, position: Position) {
        self.position = position;
    }

    /// At most `rows_max` rows after the position, which stays where it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn look(&mut self, connection: &mut PgConnection, rows_max: usize) -> Result<Page, StoreError> {
        let mut entries = Vec::new();
        if let Some((account_id, version)) = &self.position.within {
            entries = sqlx::query_as(
                "select * from ledger where txn = $1 and (account_id, account_version) > ($2, $3)
                 order by account_id, account_version limit $4",
            )
            .bind(self.position.txn)
            .bind(account_id)
            .bind(version)
            .bind(limit(rows_max))
            .fetch_all(&mut *connection)
            .await?;
            if let Some(last) = entries.last().filter(|_| entries.len() >= rows_max) {
                let next = Position::after(last);
                return Ok(Page { entries, next, is_end: false });
            }
        }
        // Whatever a transaction below this has written is visible to the next statement, and no other row will ever be below it.
        let first_unsettled: i64 = sqlx::query_scalar(
            "select ahead + pg_snapshot_xmin(pg_current_snapshot())::text::bigint from ledger_clock",
        )
        .fetch_one(&mut *connection)
        .await?;
        let first = self.position.txn;
        let last_settled = first_unsettled.saturating_sub(1);
        let mut last = first.saturating_add(self.step).min(last_settled);
        // Over a wide stretch without rows, such as the life of a cluster before payonce, it goes in strides that are only looked into.
        while last.saturating_sub(first) > STEP_MAX_TRANSACTIONS {
            if !has_rows(connection, first, last).await? {
                self.step = self.step.saturating_mul(2);
                let is_end = last == last_settled;
                return Ok(Page { entries, next: Position { txn: last, within: None }, is_end });
            }
            self.step = (last.saturating_sub(first) / 2).max(STEP_MAX_TRANSACTIONS);
            last = first.saturating_add(self.step);
        }
        if last <= first {
            let next = Position { txn: first, within: None };
            return Ok(Page { entries, next, is_end: true });
        }
        let room = rows_max.saturating_sub(entries.len());
        let found: Vec<Entry> = sqlx::query_as(
            "select * from ledger where txn > $1 and txn <= $2 order by txn, account_id, account_version limit $3",
        )
        .bind(first)
        .bind(last)
        .bind(limit(room))
        .fetch_all(&mut *connection)
        .await?;
        let is_full = found.len() >= room;
        let next = match found.last() {
            Some(last) if is_full => {
                self.step = last.txn.saturating_sub(first).max(1);
                Position::after(last)
            }
            Some(_) | None => {
                if found.len() < room / 2 {
                    self.step = self.step.saturating_mul(2);
                }
                Position { txn: last, within: None }
            }
        };
        entries.extend(found);
        Ok(Page { entries, next, is_end: !is_full && last == last_settled })
    }
}

async fn has_rows(connection: &mut PgConnection, after: i64, to: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("select exists (select from ledger where txn > $1 and txn <= $2)")
        .bind(after)
        .bind(to)
        .fetch_one(connection)
        .await?)
}

/// The right to read for a feed, for a time.
#[derive(Debug)]
pub struct Lease {
    /// How far it is.
    pub position: Position,
    /// The history that it read last; `None`: it has read nothing yet.
    pub epoch_before: Option<String>,
    /// The history that this connection reads.
    pub epoch: Epoch,
}

/// Takes or keeps the right to read for the feed `name`; makes it where it does not exist, `from_now`: after all that has settled, else before
/// the first row. `None`: somebody else has it.
///
/// # Errors
/// [`StoreError`].
pub async fn take(
    connection: &mut PgConnection,
    name: &str,
    holder: &str,
    lease: Duration,
    from_now: bool,
) -> Result<Option<Lease>, StoreError> {
    let take = async |connection: &mut PgConnection| {
        sqlx::query_as::<_, (i64, Option<String>, Option<i64>, String)>(
            "update feeds set holder = $2, lease_until = clock_timestamp() + make_interval(secs => $3)
             where name = $1 and (holder is null or holder = $2 or lease_until < clock_timestamp())
             returning txn, account_id, account_version, epoch",
        )
        .bind(name)
        .bind(holder)
        .bind(lease.as_secs_f64())
        .fetch_optional(connection)
        .await
    };
    let mut taken = take(connection).await?;
    if taken.is_none() {
        let made = sqlx::query(
            "insert into feeds (name, txn)
             select $1, case when $2 then ahead + pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1 else 0 end from ledger_clock
             on conflict (name) do nothing",
        )
        .bind(name)
        .bind(from_now)
        .execute(&mut *connection)
        .await?;
        if made.rows_affected() > 0 {
            taken = take(connection).await?;
        }
    }
    let Some((txn, account_id, version, before)) = taken else { return Ok(None) };
    let epoch = epoch(connection).await?;
    Ok(Some(Lease {
        position: Position { txn, within: account_id.zip(version) },
        epoch_before: Some(before).filter(|before| !before.is_empty()),
        epoch,
    }))
}

/// Keeps the position after so many more rows of the history `epoch`, and the right to read on. False: somebody else has taken it, or the database
/// goes on in another history, and nothing is written. There the lease is still this holder's, as it was in the copy that was promoted or
/// restored, and the position may lie behind rows that nobody has sent.
///
/// # Errors
/// [`StoreError`].
pub async fn keep(
    connection: &mut PgConnection,
    name: &str,
    holder: &str,
    lease: Duration,
    position: &Position,
    epoch: &Epoch,
    sent: usize,
) -> Result<bool, StoreError> {
    let (account_id, version) = position.within.clone().unzip();
    let sql = format!(
        "update feeds set txn = $4, account_id = $5, account_version = $6, epoch = $7, sent = sent + $8,
                          lease_until = clock_timestamp() + make_interval(secs => $3), updated_at = clock_timestamp(),
                          last_error = null
         where name = $1 and holder = $2 and $7 = ({EPOCH})"
    );
    let updated = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(name)
        .bind(holder)
        .bind(lease.as_secs_f64())
        .bind(position.txn)
        .bind(account_id)
        .bind(version)
        .bind(epoch.as_str())
        .bind(i64::try_from(sent).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(updated.rows_affected() > 0)
}

/// Keeps the right while a slow receiver is waited for, and says why it is waited for. False: somebody else has taken it.
///
/// # Errors
/// [`StoreError`].
pub async fn renew(
    connection: &mut PgConnection,
    name: &str,
    holder: &str,
    lease: Duration,
    problem: Option<&str>,
) -> Result<bool, StoreError> {
    let updated = sqlx::query(
        "update feeds set lease_until = clock_timestamp() + make_interval(secs => $3), last_error = coalesce($4, last_error)
         where name = $1 and holder = $2",
    )
    .bind(name)
    .bind(holder)
    .bind(lease.as_secs_f64())
    .bind(problem.map(kept))
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() > 0)
}

/// Gives the right back, so that another takes over at once, and says why, where that is a failure.
///
/// # Errors
/// [`StoreError`].
pub async fn release(
    connection: &mut PgConnection,
    name: &str,
    holder: &str,
    problem: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "update feeds set holder = null, lease_until = null, last_error = coalesce($3, last_error)
         where name = $1 and holder = $2",
    )
    .bind(name)
    .bind(holder)
    .bind(problem.map(kept))
    .execute(connection)
    .await?;
    Ok(())
}

/// A failure, as it is kept.
fn kept(problem: &str) -> String {
    storable(problem).chars().take(ERROR_CHARS_MAX).collect()
}

/// Has the feed's index know the newest rows, so that a look reads only what it is after.
///
/// # Errors
/// [`StoreError`].
pub async fn summarize(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select summarize_ledger_txn()").execute(connection).await?;
    Ok(())
}

/// A feed, as people and alerts see it.
#[derive(Debug, Clone, serde::Serialize, FromRow)]
pub struct FeedRow {
    /// Its name.
    pub name: String,
    /// Who works for it; null: nobody.
    pub holder: Option<String>,
    /// Rows confirmed since it was first run; copies count.
    pub sent: i64,
    /// When it last went on.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// Why it does not go on.
    pub last_error: Option<String>,
    /// Committed rows that it has not sent, at most [`LAG_ROWS_MAX`].
    #[sqlx(default)]
    pub lag_rows: i64,
    /// How long the oldest of them has been in the ledger, in seconds.
    #[sqlx(default)]
    pub lag_seconds: f64,
}

/// Every feed, by name, with how far it is behind.
///
/// # Errors
/// [`StoreError`].
pub async fn list(connection: &mut PgConnection) -> Result<Vec<FeedRow>, StoreError> {
    // A bitmap scan goes through the ledger from its beginning, so the oldest rows are among those that are counted.
    Ok(sqlx::query_as(
        "select f.name, case when f.lease_until > clock_timestamp() then f.holder end as holder, f.sent, f.updated_at, f.last_error,
                b.rows as lag_rows,
                coalesce(greatest(extract(epoch from clock_timestamp() - b.oldest), 0), 0)::float8 as lag_seconds
         from feeds f
         cross join lateral (
             select count(*) as rows, min(recorded_at) as oldest
             from (select recorded_at from ledger
                   where txn >= f.txn
                     and (txn > f.txn or (account_id, account_version) > (f.account_id, f.account_version))
                   limit $1) as behind
         ) as b
         order by f.name",
    )
    .bind(LAG_ROWS_MAX)
    .fetch_all(connection)
    .await?)
}

/// True where the ledger has rows of transactions that this cluster has not reached: it was restored from a dump. New rows would then
/// stand behind old ones, where no feed looks.
///
/// # Errors
/// [`StoreError`].
pub async fn is_ahead_of_its_cluster(connection: &mut PgConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "select exists (
             select from ledger
             where txn >= (select ahead + pg_snapshot_xmax(pg_current_snapshot())::text::bigint from ledger_clock))",
    )
    .fetch_one(connection)
    .await?)
}

/// Lets this cluster's transactions count on from where the dump's ended. By the owner of the tables.
///
/// # Errors
/// [`StoreError`].
pub async fn catch_up_with_dump(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "do $$
         declare
             newest bigint;
             now_at bigint;
         begin
             lock table ledger, ledger_clock in share row exclusive mode;
             select coalesce(max(txn), 0) into newest from ledger;
             select pg_snapshot_xmin(pg_current_snapshot())::text::bigint into now_at;
             update ledger_clock set ahead = greatest(ahead, newest - now_at + 1);
             execute format('alter table ledger alter column txn set default (pg_current_xact_id()::text::bigint + %s)',
                            (select ahead from ledger_clock));
         end
         $$",
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
