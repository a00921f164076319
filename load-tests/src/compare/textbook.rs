//! The textbook consumer: per message a SETNX, one transaction, an acknowledgement. Written as well as that design allows: prepared
//! statements, a pool, a done marker only after the commit, the ledger's unique key as the authority. It shares payonce's rules
//! (`ledger::decide`, for one callback), tables and durability; what it lacks is the batch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use lapin::{
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use payonce::{
    ledger::{
        Account, Callback, CaseEnd, CaseId, Currency, Entry, Kind, Outcome, Payment, PaymentChange,
        PaymentKey, PaymentState, Plan, Reason, Snapshot, StoredCase, decide,
    },
    wire,
};
use redis::aio::MultiplexedConnection;
use sqlx::{PgConnection, PgPool, Row, postgres::PgPoolOptions};
use tokio::sync::mpsc;

use crate::place::Place;

const CLAIM_MS: u64 = 60_000;
/// A failed transaction (a deadlock, a lost race for an opening) is tried again so often.
const TRIES_MAX: u32 = 20;

/// Counts of what was turned away, by layer.
type Duplicates = BTreeMap<String, u64>;

struct Textbook {
    pool: PgPool,
    redis: MultiplexedConnection,
    prefix: String,
    by_redis: AtomicU64,
    by_ledger: AtomicU64,
    by_quarantine: AtomicU64,
}

enum End {
    Settled,
    InLedger,
    CopyOfCase,
}

/// Consumes `total` messages with at most `in_flight` at once. Returns the seconds and the duplicates by layer.
pub async fn run(place: &Place, in_flight: u16, total: usize) -> anyhow::Result<(f64, Duplicates)> {
    let started = Instant::now();
    let client = redis::Client::open(place.redis_url.as_str()).context("PAYONCE_REDIS_URL")?;
    let textbook = Arc::new(Textbook {
        pool: PgPoolOptions::new()
            .max_connections(u32::from(in_flight))
            .connect(&place.database_url)
            .await
            .context("PAYONCE_DATABASE_URL")?,
        redis: client.get_multiplexed_async_connection().await.context("PAYONCE_REDIS_URL")?,
        prefix: place.prefix.clone(),
        by_redis: AtomicU64::new(0),
        by_ledger: AtomicU64::new(0),
        by_quarantine: AtomicU64::new(0),
    });
    let connection = place.broker().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(in_flight, BasicQosOptions::default()).await?;
    let queue = place.names().queue;
    let mut deliveries = channel
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    // The prefetch limits how many are at work; each reports its end.
    let (ended, mut ends) = mpsc::channel::<anyhow::Result<()>>(usize::from(in_flight));
    let mut left = total;
    while left > 0 {
        tokio::select! {
            delivery = deliveries.next() => {
                let delivery = delivery.context("the broker cancelled the consumer")??;
                let (textbook, ended) = (Arc::clone(&textbook), ended.clone());
                tokio::spawn(async move {
                    let result = textbook.settle(delivery).await;
                    // Nobody listens after another one failed.
                    let _unheard = ended.send(result).await;
                });
            }
            end = ends.recv() => {
                end.context("no end")??;
                left -= 1;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    connection.close(200, "done".into()).await?;
    textbook.pool.close().await;
    let counts = [
        ("redis", &textbook.by_redis),
        ("ledger", &textbook.by_ledger),
        ("quarantine", &textbook.by_quarantine),
    ];
    let duplicates = counts.map(|(layer, count)| (layer.to_owned(), count.load(Ordering::Relaxed)));
    Ok((seconds, duplicates.into_iter().filter(|(_, count)| *count > 0).collect()))
}

impl Textbook {
    async fn settle(&self, delivery: Delivery) -> anyhow::Result<()> {
        let callback =
            wire::decode(&delivery.data).map_err(|error| anyhow::anyhow!("not a callback: {error:?}"))?;
        let marker = format!("{}textbook:{}", self.prefix, callback.key);
        let mut redis = self.redis.clone();
        let seen: Option<String> = redis::cmd("SET")
            .arg(&marker)
            .arg("processing")
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(CLAIM_MS)
            .query_async(&mut redis)
            .await?;
        if seen.as_deref() == Some("done") {
            self.by_redis.fetch_add(1, Ordering::Relaxed);
        } else {
            match self.apply(&callback, &delivery.data).await? {
                End::Settled => {}
                End::InLedger => {
                    self.by_ledger.fetch_add(1, Ordering::Relaxed);
                }
                End::CopyOfCase => {
                    self.by_quarantine.fetch_add(1, Ordering::Relaxed);
                }
            }
            let _: () = redis::cmd("SET")
                .arg(&marker)
                .arg("done")
                .arg("EX")
                .arg(3_600)
                .query_async(&mut redis)
                .await?;
        }
        delivery.acker.ack(BasicAckOptions::default()).await?;
        Ok(())
    }

    async fn apply(&self, callback: &Callback, body: &[u8]) -> anyhow::Result<End> {
        let mut tries = 0;
        loop {
            let error = match self.transaction(callback, body).await {
                Ok(end) => return Ok(end),
                Err(error) => error,
            };
            tries += 1;
            if tries == TRIES_MAX {
                return Err(error.context(format!("{} was tried {TRIES_MAX} times", callback.key)));
            }
        }
    }

    async fn transaction(&self, callback: &Callback, body: &[u8]) -> anyhow::Result<End> {
        let mut transaction = self.pool.begin().await?;
        let mut snapshot = Snapshot::default();
        let mut account = lock_account(&mut transaction, callback).await?;
        if account.is_none() && callback.kind == Kind::DepositSucceeded {
            open_account(&mut transaction, callback).await?;
            account = lock_account(&mut transaction, callback).await?;
        }
        if let Some(account) = account {
            snapshot.accounts.insert(callback.account_id.clone(), account);
            if let Some(key) = callback.payment_key() {
                load_payment(&mut transaction, &key, account.cases > 0, &mut snapshot).await?;
            }
        }
        let plan = decide(&snapshot, std::slice::from_ref(callback));
        if plan.outcomes == [Outcome::Applied] {
            for entry in &plan.entries {
                if !insert_entry(&mut transaction, entry).await? {
                    return Ok(End::InLedger);
                }
            }
        } else if is_in_ledger(&mut transaction, callback).await? {
            return Ok(End::InLedger);
        }
        let mut is_copy = false;
        for case in &plan.new_cases {
            is_copy = !insert_case(&mut transaction, callback, case.reason, &case.detail, body).await?;
        }
        if is_copy {
            transaction.commit().await?;
            return Ok(End::CopyOfCase);
        }
        write_account(&mut transaction, &plan).await?;
        for change in &plan.payments {
            write_payment(&mut transaction, change).await?;
        }
        for case in &plan.resolved_cases {
            end_case(&mut transaction, case.id, &case.end).await?;
        }
        transaction.commit().await?;
        Ok(End::Settled)
    }
}

async fn lock_account(
    transaction: &mut PgConnection,
    callback: &Callback,
) -> anyhow::Result<Option<Account>> {
    let row = sqlx::query(
        "select currency, balance, held, version, cases from accounts where account_id = $1 for no key update",
    )
    .bind(callback.account_id.as_str())
    .fetch_optional(transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Account {
        currency: Currency::parse(row.try_get("currency")?).context("currency")?,
        balance: row.try_get("balance")?,
        held: row.try_get("held")?,
        version: row.try_get("version")?,
        cases: row.try_get("cases")?,
    }))
}

async fn open_account(transaction: &mut PgConnection, callback: &Callback) -> anyhow::Result<()> {
    sqlx::query(
        "insert into accounts (account_id, currency, balance, held, version) values ($1, $2, 0, 0, 0)
         on conflict do nothing",
    )
    .bind(callback.account_id.as_str())
    .bind(callback.currency.to_string())
    .execute(transaction)
    .await?;
    Ok(())
}

async fn load_payment(
    transaction: &mut PgConnection,
    key: &PaymentKey,
    may_wait: bool,
    snapshot: &mut Snapshot,
) -> anyhow::Result<()> {
    let row = sqlx::query(
        "select account_id, currency, state, authorized, captured, refunded, version
         from payments where payment_id = $1 and source = $2",
    )
    .bind(key.payment_id.as_str())
    .bind(key.source.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(row) = row {
        let payment = Payment {
            account_id: payonce::ledger::AccountId::new(row.try_get("account_id")?)
                .map_err(|_| anyhow::anyhow!("account_id"))?,
            currency: Currency::parse(row.try_get("currency")?).context("currency")?,
            state: PaymentState::parse(row.try_get("state")?).context("state")?,
            authorized: row.try_get("authorized")?,
            captured: row.try_get("captured")?,
            refunded: row.try_get("refunded")?,
            version: row.try_get("version")?,
        };
        snapshot.payments.insert(key.clone(), payment);
    }
    if !may_wait {
        return Ok(());
    }
    let rows = sqlx::query(
        "select id, body from quarantine where payment_id = $1 and source = $2 and state = 'waiting' order by id",
    )
    .bind(key.payment_id.as_str())
    .bind(key.source.as_str())
    .fetch_all(transaction)
    .await?;
    for row in rows {
        let callback = wire::decode(row.try_get("body")?)
            .map_err(|error| anyhow::anyhow!("a stored body: {error:?}"))?;
        let case = StoredCase { id: CaseId(row.try_get("id")?), callback };
        snapshot.waiting.entry(key.clone()).or_default().push(case);
    }
    Ok(())
}

async fn is_in_ledger(transaction: &mut PgConnection, callback: &Callback) -> anyhow::Result<bool> {
    let row = sqlx::query("select 1 from ledger where event_id = $1 and source = $2")
        .bind(callback.key.event_id.as_str())
        .bind(callback.key.source.as_str())
        .fetch_optional(transaction)
        .await?;
    Ok(row.is_some())
}

/// `false`: it is there already.
async fn insert_entry(transaction: &mut PgConnection, entry: &Entry) -> anyhow::Result<bool> {
    let callback = &entry.callback;
    let done = sqlx::query(
        "insert into ledger (source, event_id, type, account_id, account_version, payment_id, operation_id, amount, currency,
                             balance_delta, held_delta, balance_after, held_after, payload_sha256)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict do nothing",
    )
    .bind(callback.key.source.as_str())
    .bind(callback.key.event_id.as_str())
    .bind(callback.kind.as_str())
    .bind(callback.account_id.as_str())
    .bind(entry.account_version)
    .bind(callback.payment_id.as_ref().map(|id| id.as_str()))
    .bind(callback.operation_id.as_ref().map(|id| id.as_str()))
    .bind(callback.amount.minor_units())
    .bind(callback.currency.to_string())
    .bind(entry.balance_delta)
    .bind(entry.held_delta)
    .bind(entry.balance_after)
    .bind(entry.held_after)
    .bind(&callback.fingerprint.0[..])
    .execute(transaction)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn write_account(transaction: &mut PgConnection, plan: &Plan) -> anyhow::Result<()> {
    for change in &plan.accounts {
        let done = sqlx::query(
            "update accounts set balance = $2, held = $3, version = $4, cases = $5
             where account_id = $1 and version = $6",
        )
        .bind(change.account_id.as_str())
        .bind(change.after.balance)
        .bind(change.after.held)
        .bind(change.after.version)
        .bind(change.after.cases)
        .bind(change.before.version)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() != 1 {
            bail!("{} was changed by a rival", change.account_id);
        }
    }
    Ok(())
}

async fn write_payment(transaction: &mut PgConnection, change: &PaymentChange) -> anyhow::Result<()> {
    let statement = match change.expected {
        None => {
            "insert into payments (source, payment_id, account_id, currency, state, authorized, captured, refunded, version)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing"
        }
        Some(_) => {
            "update payments set account_id = $3, currency = $4, state = $5, authorized = $6, captured = $7, refunded = $8,
                    version = $9
             where source = $1 and payment_id = $2 and version = $10"
        }
    };
    let after = &change.after;
    let mut query = sqlx::query(statement)
        .bind(change.key.source.as_str())
        .bind(change.key.payment_id.as_str())
        .bind(after.account_id.as_str())
        .bind(after.currency.to_string())
        .bind(after.state.as_str())
        .bind(after.authorized)
        .bind(after.captured)
        .bind(after.refunded)
        .bind(after.version);
    if let Some(version) = change.expected {
        query = query.bind(version);
    }
    if query.execute(transaction).await?.rows_affected() != 1 {
        bail!("payment {:?} was changed by a rival", change.key);
    }
    Ok(())
}

/// `false`: it is a copy of a case.
async fn insert_case(
    transaction: &mut PgConnection,
    callback: &Callback,
    reason: Reason,
    detail: &str,
    body: &[u8],
) -> anyhow::Result<bool> {
    let state = if reason == Reason::WaitingForPayment { "waiting" } else { "open" };
    let is_new = sqlx::query_scalar(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint, type, account_id,
                                 payment_id, operation_id, amount, currency, is_final)
         values ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict on constraint quarantine_content
         do update set attempts = quarantine.attempts + 1, last_seen_at = clock_timestamp()
         returning attempts = 1",
    )
    .bind(callback.key.source.as_str())
    .bind(callback.key.event_id.as_str())
    .bind(reason.as_str())
    .bind(detail)
    .bind(body)
    .bind(state)
    .bind(&callback.fingerprint.0[..])
    .bind(callback.kind.as_str())
    .bind(callback.account_id.as_str())
    .bind(callback.payment_id.as_ref().map(|id| id.as_str()))
    .bind(callback.operation_id.as_ref().map(|id| id.as_str()))
    .bind(callback.amount.minor_units())
    .bind(callback.currency.to_string())
    .bind(callback.is_final)
    .fetch_one(transaction)
    .await?;
    Ok(is_new)
}

async fn end_case(transaction: &mut PgConnection, id: CaseId, end: &CaseEnd) -> anyhow::Result<()> {
    let (state, reason) = match end {
        CaseEnd::Applied => ("replayed", None),
        CaseEnd::Duplicate(_) => ("discarded", None),
        CaseEnd::Open(reason, _) => ("open", Some(reason.as_str())),
    };
    let done = sqlx::query(
        "update quarantine set state = $2, reason = coalesce($3, reason),
                resolved_at = case when $2 = 'open' then null else clock_timestamp() end
         where id = $1 and state = 'waiting'",
    )
    .bind(id.0)
    .bind(state)
    .bind(reason)
    .execute(transaction)
    .await?;
    if done.rows_affected() != 1 {
        bail!("case {id:?} waits no longer");
    }
    Ok(())
}
