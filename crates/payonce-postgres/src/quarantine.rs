//! The cases that people work: find them, look at one, discard them, and load them to be decided again.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer};
use sqlx::{FromRow, PgConnection, QueryBuilder, Row};
use time::OffsetDateTime;

use super::{
    StoreError,
    columns::{CASE_COLUMNS, stored_case},
    filter::push_filter,
    load::load_over,
    report::{CaseRow, case_row},
};
pub use super::{
    case_lists::{count, count_listed, count_up_to, list, text_read_to},
    filter::{Filter, Page, TEXT_READ_MAX},
};
use payonce_ledger::{Callback, CaseEnd, CaseId, Currency, Plan, Snapshot, StoredCase, Unwritten};
use payonce_message::mask::{mask, mask_text};
use payonce_message::signature::Headers;

/// A case with all that is stored of it.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct CaseDetail {
    /// State, reason, times.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub case: CaseRow,
    /// What the message was published with; null in these three for a callback, whose body says all of it.
    pub routing_key: Option<String>,
    /// The message's properties by name: a JSON object.
    #[serde(serialize_with = "as_json")]
    pub properties: Option<String>,
    /// The message's headers by name: a JSON object.
    #[serde(serialize_with = "as_json")]
    pub headers: Option<String>,
    /// `webhook-id` as it came; null in these three but for `bad_signature`.
    pub webhook_id: Option<String>,
    /// `webhook-timestamp`.
    pub webhook_timestamp: Option<String>,
    /// `webhook-signature`.
    pub webhook_signature: Option<String>,
    /// The message, byte for byte, but for masked card data; of one larger than [`super::CASE_BODY_BYTES_MAX`] the beginning.
    #[serde(skip)]
    pub body: Vec<u8>,
}

impl CaseDetail {
    /// Masks card data again: the case may be older than the setting.
    pub fn mask_cards(&mut self) {
        let identifiers = self.identifiers();
        let body = mask(&self.body, &identifiers).into_owned();
        let text =
            |text: &Option<String>| text.as_ref().map(|text| mask_text(text, &identifiers).into_owned());
        let [routing_key, properties, headers] =
            [&self.routing_key, &self.properties, &self.headers].map(text);
        (self.body, self.routing_key, self.properties, self.headers) =
            (body, routing_key, properties, headers);
    }

    /// What was read of the callback.
    #[must_use]
    pub fn identifiers(&self) -> Vec<&str> {
        let Self { case, .. } = self;
        let all = [&case.source, &case.event_id, &case.account_id, &case.payment_id, &case.operation_id];
        all.into_iter().filter_map(Option::as_deref).collect()
    }
}

/// Stored as text, because it may be masked; what is no JSON is shown as text too.
pub(super) fn as_json<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = text
        .as_ref()
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.clone())));
    value.serialize(serializer)
}

const COLUMNS: &str = case_row!();

/// The states of those of the cases that exist, by id.
///
/// # Errors
/// [`StoreError`].
pub async fn states(connection: &mut PgConnection, ids: &[i64]) -> Result<BTreeMap<i64, String>, StoreError> {
    let rows: Vec<(i64, String)> = sqlx::query_as("select id, state from quarantine where id = any($1)")
        .bind(ids)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().collect())
}

/// How many cases fit, and what they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// All of them.
    pub cases: i64,
    /// The newest of them.
    pub id_max: Option<i64>,
    /// When the oldest was first seen.
    pub oldest: Option<OffsetDateTime>,
    /// Of each ISO 4217 code the sum in minor units, which may be more than 64 bits hold.
    pub money: Vec<(String, i128)>,
    /// Of how many nothing can be said: messages that could not be decoded, or that nothing proves.
    pub unreadable: i64,
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self
            .money
            .iter()
            .map(|(code, amount)| {
                let currency = Currency::parse(code);
                currency.map_or_else(
                    || format!("{amount} {code} (minor units)"),
                    |currency| currency.money(*amount),
                )
            })
            .collect();
        if self.unreadable > 0 {
            parts.push(format!("{} of an unknown amount", self.unreadable));
        }
        let plural = if self.cases == 1 { "" } else { "s" };
        write!(f, "{} case{plural}", self.cases)?;
        if parts.is_empty() { Ok(()) } else { write!(f, ": {}", parts.join(", ")) }
    }
}

/// Counts the cases that fit, the oldest first and no more than `limit`, and adds up their money.
///
/// # Errors
/// [`StoreError`].
pub async fn sums(connection: &mut PgConnection, filter: &Filter, limit: i64) -> Result<Sums, StoreError> {
    let mut query = QueryBuilder::new(
        "select currency, count(*), max(id), min(first_seen_at), sum(amount)::text
         from (select id, first_seen_at, currency, amount from quarantine",
    );
    push_filter(&mut query, filter);
    query.push(" order by id limit ").push_bind(limit).push(") as found group by currency order by currency");
    type Part = (Option<String>, i64, i64, OffsetDateTime, Option<String>);
    let rows: Vec<Part> = query.build_query_as().fetch_all(connection).await?;
    let mut sums = Sums::default();
    for (currency, cases, id_max, oldest, amount) in rows {
        sums.cases += cases;
        sums.id_max = sums.id_max.max(Some(id_max));
        sums.oldest = Some(sums.oldest.map_or(oldest, |other| other.min(oldest)));
        match (currency, amount.and_then(|amount| amount.parse().ok())) {
            (Some(currency), Some(amount)) => sums.money.push((currency, amount)),
            (None, _) | (_, None) => sums.unreadable += cases,
        }
    }
    Ok(sums)
}

/// What became of cases that were decided again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Applied, those included that were released by one of these.
    pub applied: u64,
    /// Their fact was applied before, under this or another event.
    pub duplicates: u64,
    /// Still not applied; the reason may be another one now.
    pub refused: u64,
    /// Now waiting for another callback.
    pub waiting: u64,
    /// Not decided: ended by somebody else meanwhile, or a message that could not be decoded.
    pub untouched: u64,
}

impl Replayed {
    /// Of one plan about these cases.
    #[must_use]
    pub fn of(plan: &Plan, cases: &[StoredCase]) -> Self {
        let mut replayed = Self::default();
        for case in &plan.resolved_cases {
            match &case.end {
                CaseEnd::Applied => replayed.applied += 1,
                CaseEnd::Duplicate(_) => replayed.duplicates += 1,
                CaseEnd::Open(reason, _) if reason.is_waiting() => replayed.waiting += 1,
                CaseEnd::Open(..) => replayed.refused += 1,
            }
        }
        // What waits and goes on waiting is not in the plan.
        let is_left = |case: &&StoredCase| plan.resolved_cases.iter().all(|resolved| resolved.id != case.id);
        replayed.waiting += cases.iter().filter(is_left).count() as u64;
        replayed
    }

    /// Adds another part.
    pub fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
        self.waiting += other.waiting;
        self.untouched += other.untouched;
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} applied, {} known already, {} still refused, {} waiting, {} untouched (ended meanwhile, or not decodable)",
            self.applied, self.duplicates, self.refused, self.waiting, self.untouched
        )
    }
}

/// One case; `None`: there is none with this id.
///
/// # Errors
/// [`StoreError`].
pub async fn show(connection: &mut PgConnection, id: i64) -> Result<Option<CaseDetail>, StoreError> {
    let mut query = QueryBuilder::new(format!(
        "select {COLUMNS}, routing_key, properties, headers, \
         webhook_id, webhook_timestamp, webhook_signature, body from quarantine where id = "
    ));
    query.push_bind(id);
    Ok(query.build_query_as().fetch_optional(connection).await?)
}

/// Locks these cases until the end of the transaction, in the order of their ids.
pub(super) async fn hold(transaction: &mut PgConnection, filter: &Filter) -> Result<(), StoreError> {
    let mut query = QueryBuilder::new("select id from quarantine");
    push_filter(&mut query, filter);
    query.push(" order by id for no key update");
    query.build().execute(transaction).await?;
    Ok(())
}

/// Ends open and waiting cases without applying them; returns how many. A worker that releases one of them at this moment
/// either comes first, and the case is not discarded, or finds it ended, and decides again without it.
///
/// # Errors
/// [`StoreError`].
pub async fn discard(
    connection: &mut PgConnection,
    filter: &Filter,
    by: &str,
    why: &str,
) -> Result<u64, StoreError> {
    let mut query = QueryBuilder::new(
        "update quarantine set state = 'discarded', resolved_at = clock_timestamp(), resolved_by = ",
    );
    query.push_bind(by).push(", resolved_why = ").push_bind(why);
    push_filter(&mut query, filter);
    query.push(" and state in ('open', 'waiting')");
    Ok(query.build().execute(connection).await?.rows_affected())
}

/// Takes discards back; returns the cases that are open again, and those that wait again. What such a case waits for may have come
/// meanwhile: the caller decides it once.
///
/// # Errors
/// [`StoreError`].
pub async fn reopen(
    connection: &mut PgConnection,
    ids: &[CaseId],
) -> Result<(Vec<CaseId>, Vec<CaseId>), StoreError> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "update quarantine
         set state = case when reason like 'waiting\\_for\\_%' then 'waiting' else 'open' end,
             resolved_at = null, resolved_by = null, resolved_why = null
         where id = any($1) and state = 'discarded'
         returning id, state",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let (waiting, open): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, state)| state == "waiting");
    let ids = |rows: Vec<(i64, String)>| rows.into_iter().map(|(id, _)| CaseId(id)).collect();
    Ok((ids(open), ids(waiting)))
}

/// Those of the cases that are still open or waiting and hold a callback, oldest first, and what the database knows about them.
///
/// # Errors
/// [`StoreError`].
pub async fn load_cases(
    connection: &mut PgConnection,
    ids: &[CaseId],
) -> Result<(Vec<StoredCase>, Snapshot), StoreError> {
    load_cases_over(connection, ids, &Unwritten::default()).await
}

/// The same, as if what is unwritten were stored: for dry runs.
///
/// # Errors
/// [`StoreError`].
pub async fn load_cases_over(
    connection: &mut PgConnection,
    ids: &[CaseId],
    unwritten: &Unwritten,
) -> Result<(Vec<StoredCase>, Snapshot), StoreError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select {CASE_COLUMNS} from quarantine q
         where q.id = any($1) and q.state in ('open', 'waiting') and q.type is not null
         order by q.id"
    )))
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut cases: Vec<StoredCase> = rows.iter().map(stored_case).collect::<Result<_, _>>()?;
    unwritten.cover_cases(&mut cases);
    let callbacks: Vec<Callback> = cases.iter().map(|case| case.callback.clone()).collect();
    let snapshot = load_over(connection, &callbacks, unwritten).await?;
    Ok((cases, snapshot))
}

/// The open case of a callback that came from the dead-letter queue; at most one.
///
/// # Errors
/// [`StoreError`].
pub async fn dead_letter(
    connection: &mut PgConnection,
    callback: &Callback,
) -> Result<Option<CaseId>, StoreError> {
    let id: Option<i64> = sqlx::query_scalar(
        "select id from quarantine
         where event_id = $1 and source = $2 and fingerprint = $3 and state = 'open' and reason = 'delivery_limit'",
    )
    .bind(callback.key.event_id.as_str())
    .bind(callback.key.source.as_str())
    .bind(&callback.fingerprint.0[..])
    .fetch_optional(connection)
    .await?;
    Ok(id.map(CaseId))
}

/// A message that was quarantined because nothing proved where it comes from.
#[derive(Debug, Clone)]
pub struct Unproven {
    /// The case.
    pub id: CaseId,
    /// The message, byte for byte.
    pub body: Vec<u8>,
    /// What it claims.
    pub signature: Headers,
}

/// Those of the cases that are still open for their signature, or as a request that could not be mapped, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn load_unproven(
    connection: &mut PgConnection,
    ids: &[CaseId],
) -> Result<Vec<Unproven>, StoreError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "select id, body, webhook_id, webhook_timestamp, webhook_signature from quarantine
         where id = any($1) and state = 'open' and reason in ('bad_signature', 'unmapped') order by id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Unproven {
                id: CaseId(row.try_get("id")?),
                body: row.try_get("body")?,
                signature: Headers {
                    id: row.try_get("webhook_id")?,
                    timestamp: row.try_get("webhook_timestamp")?,
                    signature: row.try_get("webhook_signature")?,
                },
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn sums_are_a_whole_sentence_whatever_is_known_of_the_money() {
        let said = |cases, money: &[(&str, i128)], unreadable| {
            let money = money.iter().map(|(currency, amount)| ((*currency).to_owned(), *amount)).collect();
            Sums { cases, money, unreadable, ..Sums::default() }.to_string()
        };
        assert_eq!(said(0, &[], 0), "0 cases");
        assert_eq!(said(1, &[("EUR", 5)], 0), "1 case: 0.05 EUR");
        assert_eq!(said(2, &[], 2), "2 cases: 2 of an unknown amount");
    }
}
