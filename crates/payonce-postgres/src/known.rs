//! What the database knows under the idempotency keys of some callbacks: in quarantine, and in the ledger.

use std::collections::HashSet;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    StoreError,
    columns::{CASE_COLUMNS, column, fingerprint, stored_case},
    operation_index::{has_operation, in_ledger_operation},
    rows::each,
};
use payonce_ledger::{Callback, CaseId, CaseState, Fingerprint, Key, Known, OperationKey, Reason, Snapshot};

/// Adds what the ledger has under both idempotency keys of these callbacks.
///
/// # Errors
/// As [`super::load()`].
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
/// number of rows for each distinct key: the first owners of the key, and the first owner of the second key. The order is that of the
/// indexes of migration 0018, word for word: first those that own a key ([`Reason::owns_key`]), of these first those that nobody has
/// discarded, of these the oldest. Messages that are no callbacks have no type and own no key: a stranger can make any number of them
/// for one.
const KNOWN_CASES: &str = "
    select k.ord, 'key' as found_by, q.fingerprint, q.id as case_id, q.reason, q.state
    from unnest($1::text[], $2::text[]) with ordinality as k(source, event_id, ord),
         lateral (select * from quarantine q
                  where q.event_id = k.event_id and q.source = k.source and q.type is not null
                  order by q.reason in ('payload_mismatch', 'delivery_limit', 'unmapped'), q.state = 'discarded', q.id
                  limit $3) q
    union all
    select k.ord, 'operation', q.fingerprint, q.id, q.reason, q.state
    from unnest($4::text[], $5::text[], $6::text[]) with ordinality as k(source, type, operation_id, ord),
         lateral (select * from quarantine q
                  where coalesce(q.operation_id, q.payment_id) = k.operation_id and q.type = k.type and q.source = k.source
                    and (q.operation_id is not null or q.payment_id is not null
                         and q.type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
                  order by q.reason in ('payload_mismatch', 'delivery_limit', 'unmapped'), q.state = 'discarded', q.id
                  limit 1) q";

/// The case with exactly this content, of keys that may have more cases than [`KNOWN_CASES`] returns. Whether it has a type is asked
/// about the case that was found, not for it: else PostgreSQL may look for it in the index of the key's owners, among all of them.
const KNOWN_CONTENTS: &str = "
    select k.ord, 'content' as found_by, q.fingerprint, q.id as case_id, q.reason, q.state
    from unnest($1::text[], $2::text[], $3::bytea[]) with ordinality as k(source, event_id, fingerprint, ord),
         lateral (select * from quarantine q
                  where q.event_id = k.event_id and q.source = k.source and q.fingerprint = k.fingerprint
                  limit 1) q
    where q.type is not null";

/// The same in the ledger, whose unique keys allow one row each.
const KNOWN_ROWS: &str = concat!(
    "
    select k.ord, 'key' as found_by, l.payload_sha256 as fingerprint, null::bigint as case_id, null::text as reason,
           null::text as state
    from unnest($1::text[], $2::text[]) with ordinality as k(source, event_id, ord),
         lateral (select * from ledger l where l.event_id = k.event_id and l.source = k.source and l.leg = 0 limit 1) l
    union all
    select k.ord, 'operation', l.payload_sha256, null::bigint, null::text, null::text
    from unnest($3::text[], $4::text[], $5::text[]) with ordinality as k(source, type, operation_id, ord),
         lateral (select * from ledger l
                  where coalesce(l.operation_id, l.payment_id) = k.operation_id and l.type = k.type and l.source = k.source
                    and ",
    in_ledger_operation!(),
    " limit 1) l"
);

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

pub(super) async fn add_cases(
    connection: &mut PgConnection,
    callbacks: &[&Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let mut wanted = Wanted::of(callbacks);
    let Wanted { contents: _, keys, operations } = &wanted;
    let rows = sqlx::query(KNOWN_CASES)
        .bind(each(keys, |key| key.source.as_str()))
        .bind(each(keys, |key| key.event_id.as_str()))
        .bind(OWNERS_PER_KEY_MAX)
        .bind(each(operations, |key| key.source.as_str()))
        .bind(each(operations, |key| key.kind.as_str()))
        .bind(each(operations, |key| key.operation_id.as_str()))
        .fetch_all(&mut *connection)
        .await?;
    wanted.add(rows, snapshot)?;
    // Fewer cases than the bound are all that the key has.
    let may_have_more = |key: &Key| {
        snapshot
            .known
            .get(key)
            .is_some_and(|known| i64::try_from(known.len()).unwrap_or(i64::MAX) >= OWNERS_PER_KEY_MAX)
    };
    wanted.contents.retain(|(key, _)| may_have_more(key));
    if wanted.contents.is_empty() {
        return Ok(());
    }
    let contents = &wanted.contents;
    let rows = sqlx::query(KNOWN_CONTENTS)
        .bind(each(contents, |(key, _)| key.source.as_str()))
        .bind(each(contents, |(key, _)| key.event_id.as_str()))
        .bind(each(contents, |(_, fingerprint)| &fingerprint.0[..]))
        .fetch_all(&mut *connection)
        .await?;
    wanted.add(rows, snapshot)
}

/// Of the open cases that these callbacks are copies of, those that a person has assigned to another account than the copy names.
pub(super) async fn load_assigned(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let known = callbacks.iter().filter_map(|callback| Some((callback, snapshot.known.get(&callback.key)?)));
    let open: HashSet<i64> = known
        .flat_map(|(callback, known)| known.iter().filter_map(|known| known.open_case_of(callback)))
        .map(|id| id.0)
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select {CASE_COLUMNS} from quarantine q where q.id = any($1) and q.members ? 'assigned' order by q.id"
    )))
    .bind(open.into_iter().collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    snapshot.assigned = rows.iter().map(stored_case).collect::<Result<_, _>>()?;
    Ok(())
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
