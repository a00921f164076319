//! What the database knows about a batch. Three or four indexed look-ups for most: accounts, payments, cases, and the ledger for what
//! Redis does not take for new. More only where something waits, names no account, or takes another movement back.
//!
//! Each look-up is a lateral subquery with `offset 0` or a limit, which PostgreSQL carries out once per key of the batch, whatever it
//! believes about the table. As a plain join, one that it had last seen nearly empty was read in full and compared with every key.
//!
//! Accounts are read first. Whatever a concurrent writer commits after that moves the version or the number of cases of its account,
//! and the plan then loses its guard; so what is read later may be newer, but never wrongly old.

use std::collections::HashSet;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    StoreError,
    columns::{column, optional, payment_key, unreadable},
    known::{add_cases, add_ledger, load_assigned},
    members,
    operation_index::{has_operation, in_ledger_operation},
    waiting::load_waiting,
};
use payonce_ledger::{
    Account, AccountId, AccountStatus, Callback, Currency, DEPOSIT_ROWS_MAX, Deposit, Facts, Kind, Movement,
    OperationId, OperationKey, Payment, PaymentId, PaymentKey, PaymentState, Running, Snapshot, Source,
    Unwritten,
};

/// Loads all that [`payonce_ledger::decide()`] needs to know about these callbacks.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Refused`] where a stored row is not what this program could have written.
pub async fn load(connection: &mut PgConnection, callbacks: &[Callback]) -> Result<Snapshot, StoreError> {
    load_over(connection, callbacks, &Unwritten::default()).await
}

/// The same, as if what is unwritten were stored: for dry runs.
///
/// # Errors
/// As [`load`].
pub async fn load_over(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    unwritten: &Unwritten,
) -> Result<Snapshot, StoreError> {
    let mut snapshot = load_stored(connection, callbacks, unwritten).await?;
    add_ledger(connection, callbacks.iter().collect(), &mut snapshot).await?;
    unwritten.cover(callbacks, &mut snapshot);
    Ok(snapshot)
}

/// Loads all but whether the callbacks are in the ledger: for those that are probably not, which the ledger's unique keys find out
/// when they are written.
///
/// # Errors
/// As [`load`].
pub async fn load_besides_ledger(
    connection: &mut PgConnection,
    callbacks: &[Callback],
) -> Result<Snapshot, StoreError> {
    load_stored(connection, callbacks, &Unwritten::default()).await
}

/// What is stored, of the callbacks and of what waits for them: which is found with what is unwritten.
async fn load_stored(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    unwritten: &Unwritten,
) -> Result<Snapshot, StoreError> {
    let mut snapshot = Snapshot::default();
    let mut accounts: HashSet<AccountId> = named_accounts(callbacks.iter());
    let mut found = find_accounts(connection, callbacks).await?;
    found.extend(unwritten.found_accounts(callbacks));
    accounts.extend(found.iter().cloned());
    let anything_waits = load_accounts(connection, &accounts, &mut snapshot).await?;
    if anything_waits {
        let payments = unwritten.waiting_payments(callbacks, &found);
        load_waiting(connection, callbacks, (&found, payments), &mut snapshot).await?;
    }
    unwritten.cover_waiting(callbacks, &found, &mut snapshot.waiting);
    // What waits is decided again where this batch moves its payment, or brings money.
    let waiting: Vec<Callback> = snapshot.waiting.iter().map(|case| case.callback.clone()).collect();
    if !waiting.is_empty() {
        let mut others = named_accounts(waiting.iter());
        others.retain(|account_id| !accounts.contains(account_id));
        if !others.is_empty() {
            load_accounts(connection, &others, &mut snapshot).await?;
        }
    }
    let all: Vec<&Callback> = callbacks.iter().chain(&waiting).collect();
    load_payments(connection, &all, &mut snapshot).await?;
    load_deposits(connection, &all, &mut snapshot).await?;
    load_reversed(connection, &all, &mut snapshot).await?;
    add_cases(connection, &all, &mut snapshot).await?;
    load_assigned(connection, callbacks, &mut snapshot).await?;
    let mut others = named_accounts(snapshot.assigned.iter().map(|case| &case.callback));
    // What names no account is about that of its payment. Deposits of several accounts can share one id: whose it is, is known only now.
    let nameless = all.iter().filter(|callback| callback.named_account().is_none());
    for key in nameless.filter_map(|callback| callback.payment_key()) {
        others.extend(snapshot.payments.get(&key).map(|payment| payment.account_id.clone()));
        others.extend(snapshot.deposits.get(&key).map(|deposit| deposit.account_id.clone()));
    }
    others.retain(|account_id| !accounts.contains(account_id));
    if !others.is_empty() {
        load_accounts(connection, &others, &mut snapshot).await?;
        // Their versions and numbers of cases guard what is read after them.
        snapshot.known.clear();
        snapshot.operations.clear();
        add_cases(connection, &all, &mut snapshot).await?;
        load_payments(connection, &all, &mut snapshot).await?;
        load_deposits(connection, &all, &mut snapshot).await?;
        load_reversed(connection, &all, &mut snapshot).await?;
    }
    // A concurrent writer may have applied the fact of one that waits under another event since.
    add_ledger(connection, waiting.iter().collect(), &mut snapshot).await?;
    Ok(snapshot)
}

pub(super) fn named_accounts<'a>(callbacks: impl Iterator<Item = &'a Callback>) -> HashSet<AccountId> {
    callbacks
        .flat_map(|callback| callback.named_account().into_iter().chain(callback.receiver()))
        .cloned()
        .collect()
}

/// The accounts of callbacks that name none, by their payment.
async fn find_accounts(
    connection: &mut PgConnection,
    callbacks: &[Callback],
) -> Result<Vec<AccountId>, StoreError> {
    let nameless: Vec<&Callback> =
        callbacks.iter().filter(|callback| callback.named_account().is_none()).collect();
    if nameless.is_empty() {
        return Ok(Vec::new());
    }
    let payments: HashSet<PaymentKey> =
        nameless.iter().filter_map(|callback| callback.payment_key()).collect();
    let found: Vec<String> = sqlx::query_scalar(
        "select p.account_id
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select account_id from payments p where p.payment_id = k.payment_id and p.source = k.source
                       union
                       (select account_id from ledger_of_payments l
                        where l.payment_id = k.payment_id and l.source = k.source and l.type like 'deposit.%' limit 16)) p",
    )
    .bind(payments.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
    .bind(payments.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    found.iter().map(|text| AccountId::new(text).map_err(|_| unreadable("account_id"))).collect()
}

/// Returns whether any callback waits for anything, on any account: mostly none does, and then nothing looks for one. What an account
/// that is not open knows of its cases is the newest one, as the number of them is for an open one: it changes with each, and is one index
/// entry, where counting reads all.
async fn load_accounts(
    connection: &mut PgConnection,
    wanted: &HashSet<AccountId>,
    snapshot: &mut Snapshot,
) -> Result<bool, StoreError> {
    let ids: Vec<&str> = wanted.iter().map(AccountId::as_str).collect();
    let rows = sqlx::query(
        "select k.account_id, a.currency, a.balance, a.held, a.version, a.cases, a.status,
                exists (select from quarantine where state = 'waiting') as anything_waits,
                case when a.account_id is null
                     then (select q.id from quarantine q where q.account_id = k.account_id order by q.id desc limit 1) end as newest
         from unnest($1::text[]) as k(account_id)
              left join lateral (select * from accounts a where a.account_id = k.account_id offset 0) a on true",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut anything_waits = rows.is_empty();
    for row in rows {
        anything_waits |= row.try_get::<bool, _>("anything_waits")?;
        let account_id = column(&row, "account_id", |text| AccountId::new(text).ok())?;
        let Some(currency) = optional(&row, "currency", Currency::parse)? else {
            if let Some(newest) = row.try_get("newest")? {
                snapshot.unopened_cases.insert(account_id, newest);
            }
            continue;
        };
        let account = Account {
            currency,
            balance: row.try_get("balance")?,
            held: row.try_get("held")?,
            version: row.try_get("version")?,
            cases: row.try_get("cases")?,
            status: column(&row, "status", AccountStatus::parse)?,
        };
        snapshot.accounts.insert(account_id, account);
    }
    Ok(anything_waits)
}

async fn load_payments(
    connection: &mut PgConnection,
    callbacks: &[&Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let of_payment = callbacks.iter().filter(|callback| !callback.kind.is_of_deposit());
    let keys: HashSet<PaymentKey> = of_payment.filter_map(|callback| callback.payment_key()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "select p.source, p.payment_id, p.account_id, p.currency, p.state, p.authorized, p.captured, p.refunded, p.version,
                p.facts::text as facts
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select * from payments p where p.payment_id = k.payment_id and p.source = k.source offset 0) p",
    )
    .bind(keys.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let facts = match row.try_get::<Option<&str>, _>("facts")? {
            Some(json) => members::read_facts(json)?,
            None => Facts::plain(
                column(&row, "state", PaymentState::parse)?,
                row.try_get("authorized")?,
                row.try_get("captured")?,
                row.try_get("refunded")?,
            ),
        };
        let payment = Payment {
            account_id: column(&row, "account_id", |text| AccountId::new(text).ok())?,
            currency: column(&row, "currency", Currency::parse)?,
            facts,
            version: row.try_get("version")?,
        };
        snapshot.payments.insert(payment_key(&row)?, payment);
    }
    Ok(())
}

/// What is known of the deposits that any of these take back or give back. They have no row of their own: every ledger row of a deposit
/// moves the version of its account, which guards what is read here.
async fn load_deposits(
    connection: &mut PgConnection,
    callbacks: &[&Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let taken_back =
        callbacks.iter().filter(|callback| callback.kind.is_of_deposit() && callback.kind.needs_payment_id());
    let keys: HashSet<PaymentKey> = taken_back.filter_map(|callback| callback.payment_key()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "select k.source, k.payment_id, l.account_id, l.currency, l.type, l.sum::bigint, l.total::bigint, l.rows::bigint
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select l.account_id, l.currency, l.type, sum(count(*)) over () as rows,
                              coalesce(sum(l.amount) filter (where l.type = 'deposit.succeeded' or l.members ->> 'cumulative' is null),
                                       0) as sum,
                              coalesce(max(l.amount) filter (where l.type <> 'deposit.succeeded' and l.members ->> 'cumulative' is not null),
                                       0) as total
                       from (select * from ledger_of_payments l
                             where l.payment_id = k.payment_id and l.source = k.source and l.type like 'deposit.%'
                             limit $3) l
                       group by l.account_id, l.currency, l.type order by min(l.recorded_at), l.account_id limit 16) l",
    )
    .bind(keys.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
    .bind(DEPOSIT_ROWS_MAX + 1)
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let account_id = column(&row, "account_id", |text| AccountId::new(text).ok())?;
        let currency = column(&row, "currency", Currency::parse)?;
        let entry = snapshot.deposits.entry(payment_key(&row)?);
        let deposit = entry.or_insert_with(|| Deposit::expected(account_id.clone(), currency));
        deposit.is_too_long = row.try_get::<i64, _>("rows")? > DEPOSIT_ROWS_MAX;
        // Of two deposits with one payment's id the older one's account has it.
        if deposit.account_id == account_id
            && let Some(sum) = deposit.sum_of(column(&row, "type", Kind::parse)?)
        {
            *sum = Running { sum: row.try_get("sum")?, total: row.try_get("total")? };
        }
    }
    Ok(())
}

const MOVEMENT: &str = "l.source, l.type, l.operation_id, l.account_id, l.payment_id, l.amount";

/// The movements that any of these take back.
async fn load_reversed(
    connection: &mut PgConnection,
    callbacks: &[&Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let keys: HashSet<OperationKey> =
        callbacks.iter().filter_map(|callback| callback.reversed_key()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select {MOVEMENT}
         from unnest($1::text[], $2::text[], $3::text[]) as k(source, type, operation_id),
              lateral (select * from ledger l where {LEDGER_OPERATION} limit 1) l"
    )))
    .bind(keys.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.kind.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.operation_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    add_movements(&rows, snapshot)
}

fn add_movements(rows: &[PgRow], snapshot: &mut Snapshot) -> Result<(), StoreError> {
    for row in rows {
        let key = OperationKey {
            source: column(row, "source", |text| Source::new(text).ok())?,
            kind: column(row, "type", Kind::parse)?,
            operation_id: column(row, "operation_id", |text| OperationId::new(text).ok())?,
        };
        let movement = Movement {
            account_id: column(row, "account_id", |text| AccountId::new(text).ok())?,
            payment_id: optional(row, "payment_id", |text| PaymentId::new(text).ok())?,
            amount: row.try_get("amount")?,
        };
        snapshot.movements.insert(key, movement);
    }
    Ok(())
}

/// The ledger row `l` with the second key `k`, as the index `ledger_operation` has it.
const LEDGER_OPERATION: &str = concat!(
    "coalesce(l.operation_id, l.payment_id) = k.operation_id and l.type = k.type and l.source = k.source and ",
    in_ledger_operation!()
);
