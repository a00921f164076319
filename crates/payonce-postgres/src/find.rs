//! Finds what an id or a reference, or the beginning of one, belongs to. Every id column is in the collation "C", so that what begins so is one range of an index
//! that is there for settling; each look-up reads at most so many entries of one. What must not live here: search in texts, which no index helps.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;

use super::{
    StoreError,
    operation_index::{has_operation, in_ledger_operation},
    references::{self, NamedValue, Within},
    rows::each,
};

/// What goes by an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A callback that was applied or became a case; found by its own id or by that of its operation.
    Event,
    /// A payment.
    Payment,
    /// An account, open or only named by a case.
    Account,
}

/// A thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// What it is.
    pub kind: Kind,
    /// The provider; an account has none.
    pub source: Option<String>,
    /// Its own id.
    pub id: String,
    /// Whether the text is all of the id or reference by which it was found, not only its beginning.
    pub is_exact: bool,
    /// The reference that led to it; `None`: an id did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<NamedValue>,
    /// Of an event.
    #[serde(flatten)]
    pub facts: Option<Facts>,
}

/// What is known of an event: its ledger row of the account that it named, or else its newest case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Facts {
    /// When it was applied, or became a case.
    #[serde(with = "time::serde::rfc3339")]
    pub recorded_at: OffsetDateTime,
    /// `applied`, or the state of the case.
    pub state: String,
    /// What it reported.
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The account; this and the rest are missing where the message could not be read so far.
    pub account_id: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// ISO 4217 code.
    pub currency: Option<String>,
}

/// Things that go by an id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Exact ones first, then events, payments, accounts, each by id; last events by their references, of one value the newest first.
    pub hits: Vec<Hit>,
    /// There may be more that begin so.
    pub has_more: bool,
}

impl Found {
    /// The one thing that was surely meant: the only exact one, or, where there is none, the only one.
    #[must_use]
    pub fn only(&self) -> Option<&Hit> {
        let mut exact = self.hits.iter().filter(|hit| hit.is_exact);
        match (exact.next(), exact.next()) {
            (Some(one), None) => Some(one),
            (Some(_), Some(_)) => None,
            (None, _) => self.hits.first().filter(|_| self.hits.len() == 1 && !self.has_more),
        }
    }

    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Hit> {
        self.hits.iter().filter(move |hit| hit.kind == kind)
    }
}

/// Each look-up: what it finds, and how. $1: from here, $2: to before here, $3: entries of the index at most. Columns: source, own id, the
/// id by which it was found, which is null where the index has an entry that does not count.
const LOOK_UPS: [(Kind, &str); 9] = [
    (
        Kind::Event,
        "select source, event_id, event_id from ledger where event_id >= $1 and event_id < $2 order by event_id limit $3",
    ),
    (
        Kind::Event,
        "select source, event_id, event_id from quarantine where event_id >= $1 and event_id < $2 order by event_id limit $3",
    ),
    (
        Kind::Event,
        concat!(
            "select source, event_id, operation_id from ledger l
         where coalesce(operation_id, payment_id) >= $1 and coalesce(operation_id, payment_id) < $2 and ",
            in_ledger_operation!(),
            " order by coalesce(operation_id, payment_id) limit $3"
        ),
    ),
    (
        Kind::Event,
        concat!(
            "select source, event_id, operation_id from quarantine l
         where coalesce(operation_id, payment_id) >= $1 and coalesce(operation_id, payment_id) < $2 and ",
            has_operation!(),
            " order by coalesce(operation_id, payment_id) limit $3"
        ),
    ),
    // Not in `payments`, where that of a deposit has no row; and not in the view of both, which is not read in the order of their indexes.
    (
        Kind::Payment,
        "select source, payment_id, payment_id from ledger
         where payment_id >= $1 and payment_id < $2
           and (operation_id is not null or repeats_payment_id is not null
                or type not in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
         order by payment_id limit $3",
    ),
    (
        Kind::Payment,
        concat!(
            "select source, payment_id, case when operation_id is null then payment_id end from ledger l
         where coalesce(operation_id, payment_id) >= $1 and coalesce(operation_id, payment_id) < $2 and ",
            in_ledger_operation!(),
            " order by coalesce(operation_id, payment_id) limit $3"
        ),
    ),
    (
        Kind::Payment,
        "select source, payment_id, payment_id from quarantine
         where payment_id >= $1 and payment_id < $2 order by payment_id limit $3",
    ),
    (
        Kind::Account,
        "select null, account_id, account_id from accounts where account_id >= $1 and account_id < $2 order by account_id limit $3",
    ),
    (
        Kind::Account,
        "select null, account_id, account_id from quarantine
         where account_id >= $1 and account_id < $2 order by account_id limit $3",
    ),
];

/// Everything whose id begins with `text`: events by their own ids and by those of their operations, payments, accounts, and events by their
/// references; at most `limit` of each kind. `text` is 1 to 200 bytes. With a time `within`: events alone with just this reference that were recorded
/// then, because ids are not kept by time.
///
/// # Errors
/// [`StoreError`].
pub async fn find(
    connection: &mut PgConnection,
    text: &str,
    within: Within,
    limit: i64,
) -> Result<Found, StoreError> {
    let mut transaction = connection.begin_with("begin read only").await?;
    // In the order of the index or not at all: ids are chosen by whoever writes to the queue, who may use one a million times.
    sqlx::raw_sql(
        "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off",
    )
    .execute(&mut *transaction)
    .await?;
    let end = end_of_prefix(text);
    let entries_max = limit.saturating_add(1);
    let mut has_more = false;
    // By kind, source and id, whether it is exact: one thing has entries in several indexes.
    let mut things: BTreeMap<(Kind, String, Option<String>), bool> = BTreeMap::new();
    let look_ups = LOOK_UPS.into_iter().filter(|_| within.is_always());
    for (kind, sql) in look_ups {
        let rows: Vec<(Option<String>, Option<String>, Option<String>)> =
            sqlx::query_as(sql).bind(text).bind(&end).bind(entries_max).fetch_all(&mut *transaction).await?;
        has_more |= i64::try_from(rows.len()).is_ok_and(|rows| rows == entries_max);
        for (source, id, found_by) in rows {
            // A case that could not be read has no source or no id, and leads nowhere.
            let (Some(id), Some(found_by)) = (id, found_by) else { continue };
            if kind != Kind::Account && source.is_none() {
                continue;
            }
            *things.entry((kind, id, source)).or_default() |= found_by == text;
        }
    }
    let referenced = references::find(&mut transaction, text, &end, within, entries_max).await?;
    has_more |= i64::try_from(referenced.len()).is_ok_and(|found| found > limit);
    transaction.rollback().await?;
    let mut found = Found { hits: Vec::new(), has_more };
    for kind in [Kind::Event, Kind::Payment, Kind::Account] {
        let of_kind = things.iter().filter(|((other, ..), _)| *other == kind);
        let mut hits: Vec<Hit> = of_kind
            .map(|((kind, id, source), is_exact)| Hit {
                kind: *kind,
                source: source.clone(),
                id: id.clone(),
                is_exact: *is_exact,
                reference: None,
                facts: None,
            })
            .collect();
        hits.sort_by_key(|hit| !hit.is_exact);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        found.has_more |= hits.len() > limit;
        hits.truncate(limit);
        found.hits.append(&mut hits);
    }
    let mut seen = BTreeSet::new();
    let by_reference = referenced.into_iter().filter(|one| {
        let key = (Kind::Event, one.event_id.clone(), Some(one.source.clone()));
        !things.contains_key(&key) && seen.insert(key)
    });
    found.hits.extend(by_reference.take(usize::try_from(limit).unwrap_or(usize::MAX)).map(|one| Hit {
        kind: Kind::Event,
        is_exact: one.reference.value == text,
        source: Some(one.source),
        id: one.event_id,
        reference: Some(one.reference),
        facts: None,
    }));
    found.hits.sort_by_key(|hit| !hit.is_exact);
    add_facts(connection, &mut found.hits).await?;
    Ok(found)
}

/// To each event what is known of it.
async fn add_facts(connection: &mut PgConnection, hits: &mut [Hit]) -> Result<(), StoreError> {
    let mut events: Vec<&mut Hit> = hits.iter_mut().filter(|hit| hit.kind == Kind::Event).collect();
    // Of the cases of one key, which anybody may make, a hundred are looked at.
    let facts: Vec<FactsRow> = sqlx::query_as(
        "select k.n, coalesce(l.recorded_at, q.first_seen_at) as recorded_at, case when l.recorded_at is null then q.state else 'applied' end as state,
                coalesce(l.type, q.type) as type, coalesce(l.account_id, q.account_id) as account_id, coalesce(l.amount, q.amount) as amount,
                coalesce(l.currency, q.currency) as currency
         from (select unnest($1::text[]) as event_id, unnest($2::text[]) as source, unnest($3::bigint[]) as n) k
              left join lateral (
                  select * from ledger l where l.event_id = k.event_id and l.source = k.source and l.leg = 0 offset 0) l on true
              left join lateral (
                  select * from (select * from quarantine q where q.event_id = k.event_id and q.source = k.source limit 100) q
                  order by id desc limit 1) q on true
         where l.recorded_at is not null or q.id is not null",
    )
    .bind(each(&events, |hit| hit.id.as_str()))
    .bind(each(&events, |hit| hit.source.as_deref().unwrap_or_default()))
    .bind((0..).take(events.len()).collect::<Vec<i64>>())
    .fetch_all(connection)
    .await?;
    for FactsRow { n, facts } in facts {
        if let Some(hit) = usize::try_from(n).ok().and_then(|n| events.get_mut(n)) {
            hit.facts = Some(facts);
        }
    }
    Ok(())
}

/// The facts of the event with this number.
#[derive(FromRow)]
struct FactsRow {
    n: i64,
    #[sqlx(flatten)]
    facts: Facts,
}

/// The smallest text that is larger than all that begin with this one: by bytes, which for UTF-8 is by code points.
fn end_of_prefix(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // From one code point to the next, over the gap of the surrogates, which are none.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return end;
        }
    }
    // Nothing but the last code point: then only the text itself, which no control character follows.
    format!("{prefix}\u{1}")
}

#[cfg(test)]
mod tests {
    use super::end_of_prefix;

    #[test]
    fn what_begins_so_lies_before_its_end_and_nothing_else_does() {
        for (prefix, end) in [
            ("evt_1", "evt_2"),
            ("é", "ê"),
            ("a\u{d7ff}", "a\u{e000}"),
            ("a\u{10ffff}", "b"),
            ("\u{7f}", "\u{80}"),
        ] {
            assert_eq!(end_of_prefix(prefix), end);
            assert!(format!("{prefix}\u{10ffff}\u{10ffff}").as_str() < end, "{prefix}");
            assert!(prefix < end);
        }
        let last = "\u{10ffff}";
        assert!(last < end_of_prefix(last).as_str());
    }
}
