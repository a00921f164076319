//! Whether callbacks that somebody just published are settled, and how each ended. For `payonce publish --wait`; nothing here is
//! decided on.

use sqlx::{FromRow, PgConnection};

use super::{StoreError, rows::each};
use payonce_ledger::{Fingerprint, Key};

/// Keys that one question may be about.
pub const KEYS_PER_LOOK_MAX: usize = 500;

/// What is known of one idempotency key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct Deliveries {
    /// Deliveries that were settled: ledger row, cases, and duplicates of both.
    pub settled: i64,
    /// Whether it has a ledger row.
    pub is_applied: bool,
}

/// How a callback of this content ended.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Ended {
    /// Whether the ledger row of its key has this content.
    pub is_applied: bool,
    /// Its newest case.
    pub case_id: Option<i64>,
    /// `waiting`, `open`, `replayed` or `discarded`.
    pub state: Option<String>,
    /// Why it is not in the ledger.
    pub reason: Option<String>,
    /// The detail.
    pub detail: Option<String>,
}

/// What is known of these keys, at most [`KEYS_PER_LOOK_MAX`], in their order. A delivery counts once its transaction is committed, and a
/// redelivery counts again: the number may run ahead of what was published, never behind.
///
/// # Errors
/// [`StoreError`].
pub async fn deliveries(connection: &mut PgConnection, keys: &[&Key]) -> Result<Vec<Deliveries>, StoreError> {
    Ok(sqlx::query_as(
        "select (coalesce(q.attempts, 0) + coalesce(d.copies, 0)
                 + case when l.event_id is not null and coalesce(q.replayed, 0) = 0 then 1 else 0 end)::bigint as settled,
                l.event_id is not null as is_applied
         from unnest($1::text[], $2::text[]) with ordinality as k(source, event_id, ord)
         left join lateral (select event_id from ledger
                            where event_id = k.event_id and source = k.source limit 1) l on true
         left join lateral (select sum(attempts) as attempts, count(*) filter (where state = 'replayed') as replayed
                            from quarantine where event_id = k.event_id and source = k.source) q on true
         left join lateral (select sum(copies) as copies from duplicates_of_keys
                            where event_id = k.event_id and source = k.source and layer <> 'quarantine') d on true
         order by k.ord",
    )
    .bind(each(keys, |key| key.source.as_str()))
    .bind(each(keys, |key| key.event_id.as_str()))
    .fetch_all(connection)
    .await?)
}

/// How callbacks of these contents ended, at most [`KEYS_PER_LOOK_MAX`], in their order.
///
/// # Errors
/// [`StoreError`].
pub async fn ended(
    connection: &mut PgConnection,
    contents: &[(&Key, Fingerprint)],
) -> Result<Vec<Ended>, StoreError> {
    Ok(sqlx::query_as(
        "select l.event_id is not null as is_applied, q.id as case_id, q.state, q.reason, q.detail
         from unnest($1::text[], $2::text[], $3::bytea[]) with ordinality as k(source, event_id, payload_sha256, ord)
         left join lateral (select event_id from ledger
                            where event_id = k.event_id and source = k.source and payload_sha256 = k.payload_sha256
                            limit 1) l on true
         -- A case of reason bad_signature goes by its signature too, so its fingerprint is another.
         left join lateral (select id, state, reason, detail from quarantine
                            where event_id = k.event_id and source = k.source
                              and (fingerprint = k.payload_sha256 or reason = 'bad_signature')
                            order by id desc limit 1) q on true
         order by k.ord",
    )
    .bind(each(contents, |(key, _)| key.source.as_str()))
    .bind(each(contents, |(key, _)| key.event_id.as_str()))
    .bind(each(contents, |(_, fingerprint)| &fingerprint.0[..]))
    .fetch_all(connection)
    .await?)
}
