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
use time::OffsetDateTime;

use super::{StoreError, members, rows::each};
use crate::ledger::{
    Account, AccountId, AccountStatus, Amount, Callback, CaseId, CaseState, Currency, Deposit, EventId,
    Facts, Fingerprint, Key, Kind, Known, Movement, OperationId, OperationKey, Payment, PaymentId,
    PaymentKey, PaymentState, Reason, Running, Snapshot, Source, StoredCase,
};

/// Waiting callbacks that a batch looks at for one payment, or for one account, at most. What waits behind them is found by the sweep.
const WAITING_PER_KEY_MAX: i64 = 64;

/// Waiting transfers, each with the money of the one before, that a batch follows. What waits behind them is found by the sweep.
const TRANSFERS_IN_A_ROW_MAX: usize = 8;

/// Waiting callbacks that a batch looks at in all.
const WAITING_MAX: i64 = 1_000;

/// Loads all that [`crate::ledger::decide`] needs to know about these callbacks.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Refused`] where a stored row is not what this program could have written.
pub async fn load(connection: &mut PgConnection, callbacks: &[Callback]) -> Result<Snapshot, StoreError> {
    let mut snapshot = load_besides_ledger(connection, callbacks).await?;
    add_ledger(connection, callbacks.iter().collect(), &mut snapshot).await?;
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
    let mut snapshot = Snapshot::default();
    let mut accounts: HashSet<AccountId> = named_accounts(callbacks.iter());
    let found = find_accounts(connection, callbacks, &mut snapshot).await?;
    accounts.extend(found.iter().cloned());
    let anything_waits = load_accounts(connection, &accounts, &mut snapshot).await?;
    if anything_waits {
        load_waiting(connection, callbacks, found, &mut snapshot).await?;
    }
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
    // A concurrent writer may have applied the fact of one that waits under another event since.
    add_ledger(connection, waiting.iter().collect(), &mut snapshot).await?;
    Ok(snapshot)
}

fn named_accounts<'a>(callbacks: impl Iterator<Item = &'a Callback>) -> HashSet<AccountId> {
    callbacks
        .flat_map(|callback| callback.named_account().into_iter().chain(callback.receiver()))
        .cloned()
        .collect()
}

/// The accounts of callbacks that name none, by their payment or by the movement they name.
async fn find_accounts(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    snapshot: &mut Snapshot,
) -> Result<Vec<AccountId>, StoreError> {
    let nameless: Vec<&Callback> =
        callbacks.iter().filter(|callback| callback.named_account().is_none()).collect();
    if nameless.is_empty() {
        return Ok(Vec::new());
    }
    let payments: HashSet<PaymentKey> =
        nameless.iter().filter_map(|callback| callback.payment_key()).collect();
    let mut found: Vec<String> = sqlx::query_scalar(
        "select p.account_id
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select account_id from payments p where p.payment_id = k.payment_id and p.source = k.source
                       union all
                       (select account_id from ledger l
                        where l.payment_id = k.payment_id and l.source = k.source and l.type like 'deposit.%' limit 1)) p",
    )
    .bind(payments.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
    .bind(payments.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let operations: HashSet<(&Source, &OperationId)> = nameless
        .iter()
        .filter_map(|callback| Some((&callback.key.source, callback.operation_id.as_ref()?)))
        .collect();
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select {MOVEMENT}
         from unnest($1::text[], $2::text[]) as k(source, operation_id),
              lateral (select * from ledger l
                       where l.operation_id = k.operation_id and l.source = k.source and l.leg = 0
                         and coalesce(l.operation_id, l.payment_id) = k.operation_id limit 16) l"
    )))
    .bind(operations.iter().map(|(source, _)| source.as_str()).collect::<Vec<_>>())
    .bind(operations.iter().map(|(_, operation_id)| operation_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    add_movements(&rows, snapshot)?;
    found.extend(snapshot.movements.values().map(|movement| movement.account_id.as_str().to_owned()));
    found.iter().map(|text| AccountId::new(text).map_err(|_| unreadable("account_id"))).collect()
}

/// Returns whether any callback waits for anything, on any account: mostly none does, and then nothing looks for one.
async fn load_accounts(
    connection: &mut PgConnection,
    wanted: &HashSet<AccountId>,
    snapshot: &mut Snapshot,
) -> Result<bool, StoreError> {
    let ids: Vec<&str> = wanted.iter().map(AccountId::as_str).collect();
    let rows = sqlx::query(
        "select a.account_id, a.currency, a.balance, a.held, a.version, a.cases, a.status,
                exists (select from quarantine where state = 'waiting') as anything_waits
         from unnest($1::text[]) as k(account_id),
              lateral (select * from accounts a where a.account_id = k.account_id offset 0) a",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut anything_waits = rows.is_empty();
    for row in rows {
        anything_waits |= row.try_get::<bool, _>("anything_waits")?;
        let account = Account {
            currency: column(&row, "currency", Currency::parse)?,
            balance: row.try_get("balance")?,
            held: row.try_get("held")?,
            version: row.try_get("version")?,
            cases: row.try_get("cases")?,
            status: column(&row, "status", AccountStatus::parse)?,
        };
        snapshot.accounts.insert(column(&row, "account_id", |text| AccountId::new(text).ok())?, account);
    }
    let unopened: Vec<&str> =
        wanted.iter().filter(|id| !snapshot.accounts.contains_key(*id)).map(AccountId::as_str).collect();
    if unopened.is_empty() {
        return Ok(anything_waits);
    }
    let rows = sqlx::query(NEWEST_CASES).bind(&unopened).fetch_all(&mut *connection).await?;
    for row in rows {
        let account_id = column(&row, "account_id", |text| AccountId::new(text).ok())?;
        snapshot.unopened_cases.insert(account_id, row.try_get("newest")?);
    }
    Ok(anything_waits)
}

/// The newest case about each of these accounts. For an account that is not open this is what it knows of its cases, as the number of
/// them is for an open one: it changes with each, and is one index entry, where counting reads all. Also the guard under which an
/// account is opened.
pub(super) const NEWEST_CASES: &str = "select k.account_id, q.id as newest
     from unnest($1::text[]) as k(account_id),
          lateral (select q.id from quarantine q where q.account_id = k.account_id order by q.id desc limit 1) q";

/// The columns of a quarantined callback.
pub(super) const CASE_COLUMNS: &str = "q.id, q.reason, q.source, q.event_id, q.type, q.account_id, q.payment_id, q.operation_id, q.amount, q.currency, q.is_final, \
     q.occurred_at, q.fingerprint, q.members::text as members";

/// What waits for the payments of the batch, and for money of its accounts, `found` ones included, and of those that a waiting transfer
/// brings money to in turn; then what else waits for the payments of those.
async fn load_waiting(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    found: Vec<AccountId>,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let mut payments: HashSet<PaymentKey> = callbacks.iter().filter_map(Callback::payment_key).collect();
    // Where any names no account, which of them those are about that bring money is not told apart.
    let mut next = named_accounts(callbacks.iter().filter(|callback| callback.kind.may_bring_funds()));
    next.extend(found);
    let mut looked_at: HashSet<AccountId> = HashSet::new();
    let by_account = format!(
        "select {CASE_COLUMNS}
         from unnest($1::text[]) as k(account_id),
              lateral (select * from (
                  (select * from quarantine q where q.account_id = k.account_id and q.state = 'waiting'
                   and q.reason = 'waiting_for_funds' order by q.id limit {WAITING_PER_KEY_MAX})
                  union all
                  (select * from quarantine q where q.members ->> 'to' = k.account_id and q.members ? 'to'
                   and q.state = 'waiting' and q.reason = 'waiting_for_funds' order by q.id limit {WAITING_PER_KEY_MAX})) q) q
         order by q.id limit {WAITING_MAX}"
    );
    let mut rows = Vec::new();
    for _ in 0..TRANSFERS_IN_A_ROW_MAX {
        // Only an account with cases can have one that waits.
        next.retain(|id| snapshot.accounts.get(id).is_none_or(|account| account.cases > 0));
        if next.is_empty() {
            break;
        }
        let found = sqlx::query(sqlx::AssertSqlSafe(by_account.clone()))
            .bind(next.iter().map(AccountId::as_str).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        looked_at.extend(next.drain());
        for row in &found {
            let callback = callback(row)?;
            payments.extend(callback.payment_key());
            next.extend(callback.receiver().filter(|to| !looked_at.contains(*to)).cloned());
        }
        rows.extend(found);
    }
    let by_payment = format!(
        "select {CASE_COLUMNS}
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select * from quarantine q
                       where q.payment_id = k.payment_id and q.source = k.source and q.state = 'waiting'
                       order by q.id limit {WAITING_PER_KEY_MAX}) q
         order by q.id limit {WAITING_MAX}"
    );
    if !payments.is_empty() {
        let more = sqlx::query(sqlx::AssertSqlSafe(by_payment))
            .bind(payments.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
            .bind(payments.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        rows.extend(more);
    }
    let mut seen = HashSet::new();
    for row in &rows {
        let case = stored_case(row)?;
        if seen.insert(case.id) {
            snapshot.waiting.push(case);
        }
    }
    snapshot.waiting.sort_by_key(|case| case.id);
    Ok(())
}

/// A case that holds a callback, of [`CASE_COLUMNS`].
pub(super) fn stored_case(row: &PgRow) -> Result<StoredCase, StoreError> {
    Ok(StoredCase {
        id: CaseId(row.try_get("id")?),
        reason: column(row, "reason", Reason::parse)?,
        callback: callback(row)?,
    })
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
        "select k.source, k.payment_id, l.account_id, l.currency, l.type, l.sum::bigint, l.total::bigint
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select l.account_id, l.currency, l.type,
                              coalesce(sum(l.amount) filter (where l.type = 'deposit.succeeded' or l.members ->> 'cumulative' is null),
                                       0) as sum,
                              coalesce(max(l.amount) filter (where l.type <> 'deposit.succeeded' and l.members ->> 'cumulative' is not null),
                                       0) as total
                       from ledger l
                       where l.payment_id = k.payment_id and l.source = k.source and l.type like 'deposit.%'
                       group by l.account_id, l.currency, l.type order by min(l.recorded_at), l.account_id limit 16) l",
    )
    .bind(keys.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let account_id = column(&row, "account_id", |text| AccountId::new(text).ok())?;
        let currency = column(&row, "currency", Currency::parse)?;
        let entry = snapshot.deposits.entry(payment_key(&row)?);
        let deposit = entry.or_insert_with(|| Deposit::expected(account_id.clone(), currency));
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
const LEDGER_OPERATION: &str = "coalesce(l.operation_id, l.payment_id) = k.operation_id and l.type = k.type
    and l.source = k.source and l.leg = 0
    and (l.operation_id is not null or l.payment_id is not null
         and l.type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))";

/// Adds what the ledger has under both idempotency keys of these callbacks.
///
/// # Errors
/// As [`load`].
pub async fn add_ledger(
    connection: &mut PgConnection,
    callbacks: Vec<&Callback>,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    if callbacks.is_empty() {
        return Ok(());
    }
    add_rows(connection, &callbacks, snapshot).await
}

/// Cases of one idempotency key that a decision may look at: its owner, and, where a case is decided again, those that own it
/// once that one and its neighbours in the same plan have ended.
pub const OWNERS_PER_KEY_MAX: i64 = 4;

/// Both idempotency keys in quarantine, in one round trip. `ord` is the position in the arguments, from 1.
///
/// Whoever sends callbacks chooses their keys, and may give one key to all of them. So no part returns, or reads, more than a fixed
/// number of rows for each distinct key: the case with exactly this content, the first owners of the key, and the first owner
/// of the second key. The order is that of the indexes of migration 0018, word for word: first those that own a key
/// ([`Reason::owns_key`]), of these first those that nobody has discarded, of these the oldest.
/// Messages that are no callbacks have no type and own no key: a stranger can make any number of them for one. That is asked about
/// the content that was found, not for it: else PostgreSQL may look for it in the index of the key's owners, among all of them.
const KNOWN_CASES: &str = "
    select k.ord, 'content' as found_by, q.fingerprint, q.id as case_id, q.reason, q.state
    from unnest($1::text[], $2::text[], $3::bytea[]) with ordinality as k(source, event_id, fingerprint, ord),
         lateral (select * from quarantine q
                  where q.event_id = k.event_id and q.source = k.source and q.fingerprint = k.fingerprint
                  limit 1) q
    where q.type is not null
    union all
    select k.ord, 'key', q.fingerprint, q.id, q.reason, q.state
    from unnest($4::text[], $5::text[]) with ordinality as k(source, event_id, ord),
         lateral (select * from quarantine q
                  where q.event_id = k.event_id and q.source = k.source and q.type is not null
                  order by q.reason in ('payload_mismatch', 'delivery_limit', 'unmapped'), q.state = 'discarded', q.id
                  limit $6) q
    union all
    select k.ord, 'operation', q.fingerprint, q.id, q.reason, q.state
    from unnest($7::text[], $8::text[], $9::text[]) with ordinality as k(source, type, operation_id, ord),
         lateral (select * from quarantine q
                  where coalesce(q.operation_id, q.payment_id) = k.operation_id and q.type = k.type and q.source = k.source
                    and (q.operation_id is not null or q.payment_id is not null
                         and q.type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
                  order by q.reason in ('payload_mismatch', 'delivery_limit', 'unmapped'), q.state = 'discarded', q.id
                  limit 1) q";

/// The same in the ledger, whose unique keys allow one row each.
const KNOWN_ROWS: &str = "
    select k.ord, 'key' as found_by, l.payload_sha256 as fingerprint, null::bigint as case_id, null::text as reason,
           null::text as state
    from unnest($1::text[], $2::text[]) with ordinality as k(source, event_id, ord),
         lateral (select * from ledger l where l.event_id = k.event_id and l.source = k.source and l.leg = 0 limit 1) l
    union all
    select k.ord, 'operation', l.payload_sha256, null::bigint, null::text, null::text
    from unnest($3::text[], $4::text[], $5::text[]) with ordinality as k(source, type, operation_id, ord),
         lateral (select * from ledger l
                  where coalesce(l.operation_id, l.payment_id) = k.operation_id and l.type = k.type and l.source = k.source
                    and l.leg = 0
                    and (l.operation_id is not null or l.payment_id is not null
                         and l.type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded')) limit 1) l";

/// The distinct keys of some callbacks: what is asked twice is answered twice.
struct Wanted<'a> {
    contents: Vec<(&'a Key, Fingerprint)>,
    keys: Vec<&'a Key>,
    operations: Vec<OperationKey>,
}

impl<'a> Wanted<'a> {
    fn of(callbacks: &[&'a Callback]) -> Self {
        let distinct: HashSet<_> =
            callbacks.iter().map(|callback| (&callback.key, callback.fingerprint)).collect();
        let keys: HashSet<_> = callbacks.iter().map(|callback| &callback.key).collect();
        let operations: HashSet<_> =
            callbacks.iter().filter_map(|callback| callback.operation_key()).collect();
        Self {
            contents: distinct.into_iter().collect(),
            keys: keys.into_iter().collect(),
            operations: operations.into_iter().collect(),
        }
    }

    /// Adds what a look-up found.
    fn add(&self, rows: Vec<PgRow>, snapshot: &mut Snapshot) -> Result<(), StoreError> {
        for row in rows {
            let at = usize::try_from(row.try_get::<i64, _>("ord")? - 1).unwrap_or(usize::MAX);
            let known = known(&row)?;
            let key = match row.try_get("found_by")? {
                "content" => self.contents.get(at).map(|(key, _)| *key),
                "key" => self.keys.get(at).copied(),
                _ => {
                    if let Some(key) = self.operations.get(at).filter(|_| known.owns_key()) {
                        let owner = snapshot.operations.entry(key.clone()).or_insert(known);
                        if known.rank() < owner.rank() {
                            *owner = known;
                        }
                    }
                    None
                }
            };
            if let Some(key) = key {
                let known_of_key = snapshot.known.entry(key.clone()).or_default();
                if !known_of_key.contains(&known) {
                    known_of_key.push(known);
                }
            }
        }
        Ok(())
    }
}

async fn add_cases(
    connection: &mut PgConnection,
    callbacks: &[&Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let wanted = Wanted::of(callbacks);
    let Wanted { contents, keys, operations } = &wanted;
    let rows = sqlx::query(KNOWN_CASES)
        .bind(each(contents, |(key, _)| key.source.as_str()))
        .bind(each(contents, |(key, _)| key.event_id.as_str()))
        .bind(each(contents, |(_, fingerprint)| &fingerprint.0[..]))
        .bind(each(keys, |key| key.source.as_str()))
        .bind(each(keys, |key| key.event_id.as_str()))
        .bind(OWNERS_PER_KEY_MAX)
        .bind(each(operations, |key| key.source.as_str()))
        .bind(each(operations, |key| key.kind.as_str()))
        .bind(each(operations, |key| key.operation_id.as_str()))
        .fetch_all(&mut *connection)
        .await?;
    wanted.add(rows, snapshot)
}

async fn add_rows(
    connection: &mut PgConnection,
    callbacks: &[&Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let wanted = Wanted::of(callbacks);
    let Wanted { contents: _, keys, operations } = &wanted;
    let rows = sqlx::query(KNOWN_ROWS)
        .bind(each(keys, |key| key.source.as_str()))
        .bind(each(keys, |key| key.event_id.as_str()))
        .bind(each(operations, |key| key.source.as_str()))
        .bind(each(operations, |key| key.kind.as_str()))
        .bind(each(operations, |key| key.operation_id.as_str()))
        .fetch_all(&mut *connection)
        .await?;
    wanted.add(rows, snapshot)
}

fn known(row: &PgRow) -> Result<Known, StoreError> {
    let fingerprint = fingerprint(row)?;
    Ok(match row.try_get("case_id")? {
        None => Known::Ledger(fingerprint),
        Some(id) => Known::Case {
            id: CaseId(id),
            fingerprint,
            reason: column(row, "reason", Reason::parse)?,
            state: column(row, "state", CaseState::parse)?,
        },
    })
}

fn fingerprint(row: &PgRow) -> Result<Fingerprint, StoreError> {
    let bytes: &[u8] = row.try_get("fingerprint")?;
    Ok(Fingerprint(bytes.try_into().map_err(|_| unreadable("fingerprint"))?))
}

pub(super) fn payment_key(row: &PgRow) -> Result<PaymentKey, StoreError> {
    Ok(PaymentKey {
        source: column(row, "source", |text| Source::new(text).ok())?,
        payment_id: column(row, "payment_id", |text| PaymentId::new(text).ok())?,
    })
}

/// A quarantine row's callback, as it was when it came.
pub(super) fn callback(row: &PgRow) -> Result<Callback, StoreError> {
    let occurred_at: Option<OffsetDateTime> = row.try_get("occurred_at")?;
    let mut callback = Callback {
        key: Key {
            source: column(row, "source", |text| Source::new(text).ok())?,
            event_id: column(row, "event_id", |text| EventId::new(text).ok())?,
        },
        kind: column(row, "type", Kind::parse)?,
        account_id: optional(row, "account_id", |text| AccountId::new(text).ok())?,
        assigned_to: None,
        payment_id: optional(row, "payment_id", |text| PaymentId::new(text).ok())?,
        operation_id: optional(row, "operation_id", |text| OperationId::new(text).ok())?,
        amount: Amount::new(row.try_get("amount")?).ok_or_else(|| unreadable("amount"))?,
        currency: column(row, "currency", Currency::parse)?,
        is_final: row.try_get("is_final")?,
        is_cumulative: false,
        expires_at_us: None,
        to: None,
        direction: None,
        occurred_at_us: occurred_at.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000).ok()),
        fingerprint: fingerprint(row)?,
    };
    members::restore(&mut callback, row.try_get("members")?)?;
    Ok(callback)
}

pub(super) fn column<T>(
    row: &PgRow,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, StoreError> {
    parse(row.try_get(name)?).ok_or_else(|| unreadable(name))
}

fn optional<T>(
    row: &PgRow,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, StoreError> {
    let text: Option<&str> = row.try_get(name)?;
    text.map(|text| parse(text).ok_or_else(|| unreadable(name))).transpose()
}

pub(super) fn unreadable(column: &str) -> StoreError {
    StoreError::Refused(format!(
        "a stored row has a {column} that payonce could not have written; run `payonce audit`"
    ))
}
