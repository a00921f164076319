//! What the database knows about a batch, in three to five indexed look-ups.
//!
//! Each look-up is a lateral subquery with `offset 0`, which PostgreSQL carries out once per key of the batch, whatever it believes
//! about the table. As a plain join, one that it had last seen nearly empty was read in full and compared with every key.
//!
//! Accounts are read first. Whatever a rival commits after that moves the version or the number of cases of its account, and
//! the plan then loses its guard; so what is read later may be newer, but never wrongly old.

use std::collections::HashSet;

use sqlx::{PgConnection, Row, postgres::PgRow};
use time::OffsetDateTime;

use super::{StoreError, rows::each};
use crate::ledger::{
    Account, AccountId, Amount, Callback, CaseId, Currency, EventId, Fingerprint, Key, Kind, Known,
    OperationId, OperationKey, Payment, PaymentId, PaymentKey, PaymentState, Reason, Snapshot, Source,
    StoredCase,
};

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
    load_accounts(connection, callbacks, &mut snapshot).await?;
    load_payments(connection, callbacks, &mut snapshot).await?;
    add_cases(connection, &callbacks.iter().collect::<Vec<_>>(), &mut snapshot).await?;
    // What waits is decided again where this batch moves its payment. A rival may have applied its fact under another event since.
    let waiting: Vec<Callback> =
        snapshot.waiting.values().flatten().map(|waiting| waiting.callback.clone()).collect();
    if !waiting.is_empty() {
        add_cases(connection, &waiting.iter().collect::<Vec<_>>(), &mut snapshot).await?;
        add_ledger(connection, waiting.iter().collect(), &mut snapshot).await?;
    }
    Ok(snapshot)
}

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

async fn load_accounts(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let wanted: HashSet<&AccountId> = callbacks.iter().map(|callback| &callback.account_id).collect();
    let ids: Vec<&str> = wanted.iter().map(|id| id.as_str()).collect();
    let rows = sqlx::query(
        "select a.account_id, a.currency, a.balance, a.held, a.version, a.cases
         from unnest($1::text[]) as k(account_id),
              lateral (select * from accounts a where a.account_id = k.account_id offset 0) a",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let account = Account {
            currency: column(&row, "currency", Currency::parse)?,
            balance: row.try_get("balance")?,
            held: row.try_get("held")?,
            version: row.try_get("version")?,
            cases: row.try_get("cases")?,
        };
        snapshot.accounts.insert(column(&row, "account_id", |text| AccountId::new(text).ok())?, account);
    }
    let unopened: Vec<&str> =
        wanted.iter().filter(|id| !snapshot.accounts.contains_key(**id)).map(|id| id.as_str()).collect();
    if unopened.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(NEWEST_CASES).bind(&unopened).fetch_all(&mut *connection).await?;
    for row in rows {
        let account_id = column(&row, "account_id", |text| AccountId::new(text).ok())?;
        snapshot.unopened_cases.insert(account_id, row.try_get("newest")?);
    }
    Ok(())
}

/// The newest case about each of these accounts. For an account that is not open this is what it knows of its cases, as the number of
/// them is for an open one: it changes with each, and is one index entry, where counting reads all. Also the guard under which an
/// account is opened.
pub(super) const NEWEST_CASES: &str = "select k.account_id, q.id as newest
     from unnest($1::text[]) as k(account_id),
          lateral (select q.id from quarantine q where q.account_id = k.account_id order by q.id desc limit 1) q";

async fn load_payments(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let keys: HashSet<PaymentKey> = callbacks.iter().filter_map(Callback::payment_key).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let sources: Vec<&str> = keys.iter().map(|key| key.source.as_str()).collect();
    let payment_ids: Vec<&str> = keys.iter().map(|key| key.payment_id.as_str()).collect();
    let rows = sqlx::query(
        "select p.source, p.payment_id, p.account_id, p.currency, p.state, p.authorized, p.captured, p.refunded, p.version
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select * from payments p where p.payment_id = k.payment_id and p.source = k.source offset 0) p",
    )
    .bind(&sources)
    .bind(&payment_ids)
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let payment = Payment {
            account_id: column(&row, "account_id", |text| AccountId::new(text).ok())?,
            currency: column(&row, "currency", Currency::parse)?,
            state: column(&row, "state", PaymentState::parse)?,
            authorized: row.try_get("authorized")?,
            captured: row.try_get("captured")?,
            refunded: row.try_get("refunded")?,
            version: row.try_get("version")?,
        };
        snapshot.payments.insert(payment_key(&row)?, payment);
    }
    // Only an account with cases can have one that waits.
    if snapshot.accounts.values().all(|account| account.cases == 0) {
        return Ok(());
    }
    let rows = sqlx::query(
        "select q.id, q.source, q.event_id, q.type, q.account_id, q.payment_id, q.operation_id, q.amount, q.currency,
                q.is_final, q.occurred_at, q.fingerprint
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select * from quarantine q
                       where q.payment_id = k.payment_id and q.source = k.source and q.state = 'waiting' offset 0) q
         order by q.id",
    )
    .bind(&sources)
    .bind(&payment_ids)
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let waiting = StoredCase { id: CaseId(row.try_get("id")?), callback: callback(&row)? };
        snapshot.waiting.entry(payment_key(&row)?).or_default().push(waiting);
    }
    Ok(())
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
    select k.ord, 'content' as found_by, q.fingerprint, q.id as case_id, q.reason, q.state = 'discarded' as is_discarded
    from unnest($1::text[], $2::text[], $3::bytea[]) with ordinality as k(source, event_id, fingerprint, ord),
         lateral (select * from quarantine q
                  where q.event_id = k.event_id and q.source = k.source and q.fingerprint = k.fingerprint
                  limit 1) q
    where q.type is not null
    union all
    select k.ord, 'key', q.fingerprint, q.id, q.reason, q.state = 'discarded'
    from unnest($4::text[], $5::text[]) with ordinality as k(source, event_id, ord),
         lateral (select * from quarantine q
                  where q.event_id = k.event_id and q.source = k.source and q.type is not null
                  order by q.reason in ('payload_mismatch', 'delivery_limit'), q.state = 'discarded', q.id
                  limit $6) q
    union all
    select k.ord, 'operation', q.fingerprint, q.id, q.reason, q.state = 'discarded'
    from unnest($7::text[], $8::text[], $9::text[]) with ordinality as k(source, type, operation_id, ord),
         lateral (select * from quarantine q
                  where q.operation_id = k.operation_id and q.type = k.type and q.source = k.source
                  order by q.reason in ('payload_mismatch', 'delivery_limit'), q.state = 'discarded', q.id
                  limit 1) q";

/// The same in the ledger, whose unique keys allow one row each.
const KNOWN_ROWS: &str = "
    select k.ord, 'key' as found_by, l.payload_sha256 as fingerprint, null::bigint as case_id, null::text as reason,
           false as is_discarded
    from unnest($1::text[], $2::text[]) with ordinality as k(source, event_id, ord),
         lateral (select * from ledger l where l.event_id = k.event_id and l.source = k.source limit 1) l
    union all
    select k.ord, 'operation', l.payload_sha256, null::bigint, null::text, false
    from unnest($3::text[], $4::text[], $5::text[]) with ordinality as k(source, type, operation_id, ord),
         lateral (select * from ledger l
                  where l.operation_id = k.operation_id and l.type = k.type and l.source = k.source limit 1) l";

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
            is_discarded: row.try_get("is_discarded")?,
        },
    })
}

fn fingerprint(row: &PgRow) -> Result<Fingerprint, StoreError> {
    let bytes: &[u8] = row.try_get("fingerprint")?;
    Ok(Fingerprint(bytes.try_into().map_err(|_| unreadable("fingerprint"))?))
}

fn payment_key(row: &PgRow) -> Result<PaymentKey, StoreError> {
    Ok(PaymentKey {
        source: column(row, "source", |text| Source::new(text).ok())?,
        payment_id: column(row, "payment_id", |text| PaymentId::new(text).ok())?,
    })
}

/// A quarantine row's callback, as it was when it came.
pub(super) fn callback(row: &PgRow) -> Result<Callback, StoreError> {
    let occurred_at: Option<OffsetDateTime> = row.try_get("occurred_at")?;
    Ok(Callback {
        key: Key {
            source: column(row, "source", |text| Source::new(text).ok())?,
            event_id: column(row, "event_id", |text| EventId::new(text).ok())?,
        },
        kind: column(row, "type", Kind::parse)?,
        account_id: column(row, "account_id", |text| AccountId::new(text).ok())?,
        payment_id: optional(row, "payment_id", |text| PaymentId::new(text).ok())?,
        operation_id: optional(row, "operation_id", |text| OperationId::new(text).ok())?,
        amount: Amount::new(row.try_get("amount")?).ok_or_else(|| unreadable("amount"))?,
        currency: column(row, "currency", Currency::parse)?,
        is_final: row.try_get("is_final")?,
        occurred_at_us: occurred_at.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000).ok()),
        fingerprint: fingerprint(row)?,
    })
}

fn column<T>(row: &PgRow, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
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

fn unreadable(column: &str) -> StoreError {
    StoreError::Refused(format!(
        "a stored row has a {column} that payonce could not have written; run `payonce audit`"
    ))
}
