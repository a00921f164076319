//! References of callbacks, such as an order or a customer: written with what they belong to, and found by their value. What must not live
//! here: where in a message they stand.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{StoreError, apply::Batch, rows::each};
use payonce_ledger::Outcome;
use payonce_message::references::FIELDS_MAX;

/// References of an event that are shown: all, unless many messages came under its key.
const OF_EVENT_MAX: i64 = 5 * FIELDS_MAX as i64;

/// An event that a reference led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Referenced {
    pub(super) reference: NamedValue,
    pub(super) source: String,
    pub(super) event_id: String,
}

/// A reference, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedValue {
    /// One of `reference_fields`, as they were when the callback came.
    pub name: String,
    /// What the callback said.
    pub value: String,
}

/// When something was recorded: from one time, included, to before another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Within {
    /// `None`: from the beginning.
    pub since: Option<OffsetDateTime>,
    /// `None`: up to now.
    pub before: Option<OffsetDateTime>,
}

impl Within {
    /// Whether no time is meant.
    #[must_use]
    pub const fn is_always(self) -> bool {
        self.since.is_none() && self.before.is_none()
    }
}

/// Keeps the references of what this batch has stored; of a duplicate nothing is stored. Another writer that keeps the same ones of the same
/// event is waited for, in the order of the key.
pub(super) async fn insert(
    transaction: &mut PgConnection,
    batch: &Batch<'_>,
    lost: &[bool],
) -> Result<(), StoreError> {
    let stored = batch.callbacks.iter().zip(batch.references).zip(batch.plan.outcomes.iter().zip(lost));
    let stored = stored.filter(|(_, (outcome, is_lost))| {
        !**is_lost
            && match outcome {
                Outcome::Applied | Outcome::Quarantined(_) | Outcome::Waiting(_) => true,
                Outcome::Duplicate(_) => false,
            }
    });
    let rows: BTreeSet<(&str, &str, &str, &str)> = stored
        .flat_map(|((callback, references), _)| {
            let (event_id, source) = (callback.key.event_id.as_str(), callback.key.source.as_str());
            references.iter().map(move |one| (event_id, source, one.name.as_str(), one.value.as_str()))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = rows.into_iter().collect();
    sqlx::query(
        "insert into callback_references (event_id, source, name, value)
         select unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[])
         on conflict do nothing",
    )
    .bind(each(&rows, |row| row.0))
    .bind(each(&rows, |row| row.1))
    .bind(each(&rows, |row| row.2))
    .bind(each(&rows, |row| row.3))
    .execute(transaction)
    .await?;
    Ok(())
}

/// The references of an event, by name.
pub(super) async fn of_event(
    connection: &mut PgConnection,
    source: &str,
    event_id: &str,
) -> Result<BTreeMap<String, Vec<String>>, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select name, value from callback_references where event_id = $1 and source = $2 order by name, value limit $3",
    )
    .bind(event_id)
    .bind(source)
    .bind(OF_EVENT_MAX)
    .fetch_all(connection)
    .await?;
    let mut references = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in rows {
        references.entry(name).or_default().push(value);
    }
    Ok(references)
}

/// Events with a reference that begins with `text` and ends before `end`: those of just this one first, the newest first, then the others by
/// their references. Each of two look-ups reads at most `limit` entries of an index. With a time `within`, those of just this one alone.
pub(super) async fn find(
    connection: &mut PgConnection,
    text: &str,
    end: &str,
    within: Within,
    limit: i64,
) -> Result<Vec<Referenced>, StoreError> {
    const EXACT: &str = "select name, value, source, event_id from callback_references
         where value = $1 and value < $2 and recorded_at >= coalesce($4::timestamptz, '-infinity')
           and recorded_at < coalesce($5::timestamptz, 'infinity')
         order by recorded_at desc limit $3";
    const LONGER: &str = "select name, value, source, event_id from callback_references
         where value > $1 and value < $2 and $4::timestamptz is null and $5::timestamptz is null order by value limit $3";
    let mut found = Vec::new();
    for sql in [EXACT, LONGER] {
        let rows: Vec<(String, String, String, String)> = sqlx::query_as(sql)
            .bind(text)
            .bind(end)
            .bind(limit)
            .bind(within.since)
            .bind(within.before)
            .fetch_all(&mut *connection)
            .await?;
        found.extend(rows.into_iter().map(|(name, value, source, event_id)| Referenced {
            reference: NamedValue { name, value },
            source,
            event_id,
        }));
    }
    Ok(found)
}
