//! The cases that people work: find them, look at one, discard them, and load them to be decided again.

use std::fmt;

use serde::{Serialize, Serializer};
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder, Row};
use time::OffsetDateTime;

use super::{StoreError, load, report::CaseRow};
use crate::{
    ledger::{Callback, CaseId, Reason, Snapshot, StoredCase},
    mask::{mask, mask_text},
    signature::Headers,
};

/// Which cases. Every part that is set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These ones; empty: any.
    pub ids: Vec<i64>,
    /// In one of these states; empty: any.
    pub states: Vec<&'static str>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// From this provider.
    pub source: Option<String>,
    /// About this account.
    pub account_id: Option<String>,
    /// No newer than this case: what a person saw when they chose.
    pub id_max: Option<i64>,
    /// First seen before.
    pub seen_before: Option<OffsetDateTime>,
    /// First seen at or after.
    pub seen_since: Option<OffsetDateTime>,
}

impl fmt::Display for Filter {
    /// In words, for the trail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(i64::to_string).collect();
            parts.push(format!("cases {}", ids.join(", ")));
        }
        if !self.states.is_empty() {
            parts.push(self.states.join(" or "));
        }
        if let Some(reason) = self.reason {
            parts.push(format!("reason {}", reason.as_str()));
        }
        if let Some(source) = &self.source {
            parts.push(format!("source {source}"));
        }
        if let Some(account_id) = &self.account_id {
            parts.push(format!("account {account_id}"));
        }
        if let Some(id) = self.id_max {
            parts.push(format!("up to case {id}"));
        }
        if let Some(before) = self.seen_before {
            parts.push(format!("first seen before {before}"));
        }
        if let Some(since) = self.seen_since {
            parts.push(format!("first seen since {since}"));
        }
        f.write_str(if parts.is_empty() { "all" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

/// Where a page of cases ends, and how long it is.
#[derive(Debug, Clone, Copy)]
pub enum Page {
    /// The newest with a smaller id.
    Before(i64, i64),
    /// The oldest with a greater id.
    After(i64, i64),
}

impl Page {
    /// The newest cases, at most so many.
    #[must_use]
    pub fn newest(limit: i64) -> Self {
        Self::Before(i64::MAX, limit)
    }
}

/// A case with all that is stored of it.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct CaseDetail {
    /// State, reason, times.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub case: CaseRow,
    /// Type of the callback; null in all of these where the message could not be decoded.
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The account.
    pub account_id: Option<String>,
    /// The payment.
    pub payment_id: Option<String>,
    /// The money movement.
    pub operation_id: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// ISO 4217 code.
    pub currency: Option<String>,
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
        let all =
            [&self.case.source, &self.case.event_id, &self.account_id, &self.payment_id, &self.operation_id];
        all.into_iter().filter_map(Option::as_deref).collect()
    }
}

/// Stored as text, because it may be masked; what is no JSON is shown as text too.
fn as_json<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let value = text
        .as_ref()
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.clone())));
    value.serialize(serializer)
}

const COLUMNS: &str = "id, source, event_id, reason, detail, state, attempts, first_seen_at, last_seen_at, resolved_at, \
                       resolved_by, resolved_why";

fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    query.push(" where true");
    if !filter.ids.is_empty() {
        query.push(" and id = any(").push_bind(filter.ids.clone()).push(")");
    }
    if let [state] = filter.states[..] {
        // An equality, so that the index over (state, id) gives a page in order.
        query.push(" and state = ").push_bind(state);
    } else if !filter.states.is_empty() {
        query.push(" and state = any(").push_bind(filter.states.clone()).push(")");
    }
    if let Some(reason) = filter.reason {
        query.push(" and reason = ").push_bind(reason.as_str());
    }
    if let Some(source) = &filter.source {
        // The second condition is that of the index, which the look-ups of workers must not use.
        query.push(" and source = ").push_bind(source.clone()).push(" and source <> ''");
    }
    if let Some(account_id) = &filter.account_id {
        query.push(" and account_id = ").push_bind(account_id.clone());
    }
    if let Some(id) = filter.id_max {
        query.push(" and id <= ").push_bind(id);
    }
    if let Some(before) = filter.seen_before {
        query.push(" and first_seen_at < ").push_bind(before);
    }
    if let Some(since) = filter.seen_since {
        query.push(" and first_seen_at >= ").push_bind(since);
    }
}

/// A page of cases, in the order of the page's direction.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    connection: &mut PgConnection,
    filter: &Filter,
    page: Page,
) -> Result<Vec<CaseRow>, StoreError> {
    let mut query = QueryBuilder::new(format!("select {COLUMNS} from quarantine"));
    push_filter(&mut query, filter);
    match page {
        Page::Before(id, limit) => {
            query.push(" and id < ").push_bind(id).push(" order by id desc limit ").push_bind(limit)
        }
        Page::After(id, limit) => {
            query.push(" and id > ").push_bind(id).push(" order by id limit ").push_bind(limit)
        }
    };
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// As [`list`], of the cases that can be worked: open and waiting ones.
///
/// # Errors
/// [`StoreError`].
pub async fn list_unended(
    connection: &mut PgConnection,
    filter: &Filter,
    page: Page,
) -> Result<Vec<CaseRow>, StoreError> {
    let mut filter = filter.clone();
    if filter.states.is_empty() {
        filter.states = vec!["open", "waiting"];
    }
    filter.states.retain(|state| matches!(*state, "open" | "waiting"));
    if filter.states.is_empty() {
        return Ok(Vec::new());
    }
    list(connection, &filter, page).await
}

/// How many cases fit.
///
/// # Errors
/// [`StoreError`].
pub async fn count(connection: &mut PgConnection, filter: &Filter) -> Result<i64, StoreError> {
    let mut query = QueryBuilder::new("select count(*) from quarantine");
    push_filter(&mut query, filter);
    Ok(query.build_query_scalar().fetch_one(connection).await?)
}

/// How many cases fit, counted no further than `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn count_up_to(
    connection: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<i64, StoreError> {
    let mut query = QueryBuilder::new("select count(*) from (select 1 from quarantine");
    push_filter(&mut query, filter);
    query.push(" limit ").push_bind(limit).push(") as found");
    Ok(query.build_query_scalar().fetch_one(connection).await?)
}

/// How many cases are open or waiting, by (state, reason). Ended ones, which only grow in number, are not read.
///
/// # Errors
/// [`StoreError`].
pub async fn unended(connection: &mut PgConnection) -> Result<Vec<(String, String, i64)>, StoreError> {
    Ok(sqlx::query_as(
        "select state, reason, count(*) from quarantine where state in ('open', 'waiting') group by state, reason order by 1, 3 desc, 2",
    )
    .fetch_all(connection)
    .await?)
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
        "select {COLUMNS}, type, account_id, payment_id, operation_id, amount, currency, routing_key, properties, headers, \
         webhook_id, webhook_timestamp, webhook_signature, body from quarantine where id = "
    ));
    query.push_bind(id);
    Ok(query.build_query_as().fetch_optional(connection).await?)
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

/// The oldest cases that have waited longer than so many milliseconds, by the database's clock.
///
/// # Errors
/// [`StoreError`].
pub async fn overdue(
    connection: &mut PgConnection,
    waiting_max_ms: i64,
    limit: i64,
) -> Result<Vec<CaseId>, StoreError> {
    let ids: Vec<i64> = sqlx::query_scalar(
        "select id from quarantine
         where state = 'waiting' and first_seen_at < clock_timestamp() - $1 * interval '1 millisecond'
         order by id limit $2",
    )
    .bind(waiting_max_ms)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(CaseId).collect())
}

/// Those of the cases that are still open or waiting and hold a callback, oldest first, and what the database knows about them.
///
/// # Errors
/// [`StoreError`].
pub async fn load_cases(
    connection: &mut PgConnection,
    ids: &[CaseId],
) -> Result<(Vec<StoredCase>, Snapshot), StoreError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "select id, source, event_id, type, account_id, payment_id, operation_id, amount, currency, is_final, occurred_at,
                fingerprint
         from quarantine
         where id = any($1) and state in ('open', 'waiting') and type is not null
         order by id",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut cases = Vec::with_capacity(rows.len());
    for row in &rows {
        cases.push(StoredCase { id: CaseId(row.try_get("id")?), callback: load::callback(row)? });
    }
    let callbacks: Vec<Callback> = cases.iter().map(|case| case.callback.clone()).collect();
    let snapshot = load(connection, &callbacks).await?;
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

/// Those of the cases that are still open for their signature, oldest first.
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
         where id = any($1) and state = 'open' and reason = 'bad_signature' order by id",
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
