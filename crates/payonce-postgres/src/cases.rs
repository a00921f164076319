//! Rows of `quarantine`: new ones, more copies of known ones, and waiting ones that end.

use std::{borrow::Cow, cmp::Ordering, collections::HashSet};

use serde_json::Value;
use sqlx::{PgConnection, Row};

use super::{
    StoreError,
    apply::Batch,
    members,
    rows::{each, expect_rows, occurred_at, storable},
};
use payonce_ledger::{AccountId, Callback, CaseEnd, Fingerprint, Key, Outcome, Plan, Reason};
use payonce_message::mask::{mask, mask_text};
use payonce_message::signature::Headers;

/// What a case keeps of a message at most: four times the largest that can be a callback. Of a larger one it keeps the beginning.
pub const CASE_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Said of a case whose signature cannot be right any more.
const MASKED_UNPROVEN: &str =
    "; card data was masked: it cannot be verified again; ask the provider to send it again";

/// A message that could not be decoded, or that nobody vouches for, with the copies of it in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable<'a> {
    /// The key, where it could be read.
    pub key: Option<Key>,
    /// Whether the source in the key is one that counts may be kept under.
    pub is_vouched_for: bool,
    /// Why it is quarantined.
    pub reason: Reason,
    /// The detail.
    pub detail: String,
    /// The raw message.
    pub body: &'a [u8],
    /// What it was published with.
    pub routing_key: String,
    /// Its properties by name: a JSON object.
    pub properties: Value,
    /// Its headers by name, bounded by whoever read them: a JSON object.
    pub headers: Value,
    /// What it claims about where it comes from; kept where the reason is [`Reason::BadSignature`].
    pub signature: &'a Headers,
    /// What it claims to be, where only its signature is wrong: so that its identifiers are not taken for card numbers, and it can
    /// still be verified when its key is known.
    pub claims: Option<Callback>,
    /// SHA-256 of what makes it this message and no other.
    pub fingerprint: Fingerprint,
    /// How often it came in this batch, at least 1.
    pub attempts: i32,
}

/// Who ends cases, and why.
#[derive(Debug, Clone, Copy)]
pub struct Resolver<'a> {
    /// A person, or payonce itself.
    pub by: &'a str,
    /// In words; kept with the case.
    pub why: &'a str,
}

impl Resolver<'static> {
    /// Cases that the batch of a worker releases.
    pub const WORKER: Self = Self { by: "payonce", why: "what it waited for came" };
}

struct CaseRow<'a> {
    key: Option<&'a Key>,
    fingerprint: Fingerprint,
    reason: Reason,
    detail: String,
    body: Cow<'a, [u8]>,
    attempts: i32,
    callback: Option<&'a Callback>,
    account_id: Option<&'a AccountId>,
    signature: Option<&'a Headers>,
    envelope: Option<KeptEnvelope>,
}

/// Routing key, properties and headers as their case keeps them.
struct KeptEnvelope {
    routing_key: String,
    properties: String,
    headers: String,
}

impl KeptEnvelope {
    fn of(message: &Undecodable<'_>, mask_cards: bool, identifiers: &[&str]) -> Self {
        let text = |json: &Value| match mask_text(&json.to_string(), identifiers) {
            // A number whose digits are masked is no JSON any more: in that case all of them are texts.
            Cow::Owned(_) if mask_cards => {
                mask_text(&with_numbers_as_texts(json).to_string(), identifiers).into_owned()
            }
            Cow::Owned(_) | Cow::Borrowed(_) => json.to_string(),
        };
        let routing_key = storable(&message.routing_key);
        Self {
            properties: text(&message.properties),
            headers: text(&message.headers),
            routing_key: if mask_cards {
                mask_text(&routing_key, identifiers).into_owned()
            } else {
                routing_key
            },
        }
    }
}

fn with_numbers_as_texts(json: &Value) -> Value {
    match json {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(values) => values.iter().map(with_numbers_as_texts).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), with_numbers_as_texts(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::String(_) => json.clone(),
    }
}

/// The message as its case keeps it. The case's fingerprint is made of all of the original.
fn kept<'a>(body: &'a [u8], mask_cards: bool, identifiers: &[&str]) -> Cow<'a, [u8]> {
    let beginning = body.get(..CASE_BODY_BYTES_MAX).unwrap_or(body);
    if mask_cards { mask(beginning, identifiers) } else { Cow::Borrowed(beginning) }
}

fn key_texts(key: Option<&Key>) -> Vec<&str> {
    key.map(|key| vec![key.source.as_str(), key.event_id.as_str()]).unwrap_or_default()
}

/// What payonce has read of a callback, and stores beside it anyway.
fn identifiers(callback: &Callback) -> Vec<&str> {
    let always = [callback.key.source.as_str(), callback.key.event_id.as_str()];
    let accounts = [&callback.account_id, &callback.assigned_to, &callback.to];
    let accounts = accounts.into_iter().flatten().map(|id| id.as_str());
    let payment_id = callback.payment_id.as_ref().map(|id| id.as_str());
    let operation_id = callback.operation_id.as_ref().map(|id| id.as_str());
    always.into_iter().chain(accounts).chain(payment_id).chain(operation_id).collect()
}

fn undecodable<'a>(message: &'a Undecodable<'a>, mask_cards: bool) -> CaseRow<'a> {
    let identifiers = message.claims.as_ref().map_or_else(|| key_texts(message.key.as_ref()), identifiers);
    let body = kept(message.body, mask_cards, &identifiers);
    let is_unproven = message.reason == Reason::BadSignature;
    // A request that could not be mapped is verified when it is replayed.
    let is_verified_later = is_unproven || message.reason == Reason::Unmapped;
    let mut detail = storable(&message.detail);
    if message.body.len() > CASE_BODY_BYTES_MAX {
        detail.push_str(&format!("; the case keeps the first {CASE_BODY_BYTES_MAX}"));
    }
    // The signature is of the body as it came.
    if is_unproven && matches!(body, Cow::Owned(_)) {
        detail.push_str(MASKED_UNPROVEN);
    }
    CaseRow {
        key: message.key.as_ref(),
        fingerprint: message.fingerprint,
        reason: message.reason,
        detail,
        body,
        attempts: message.attempts,
        callback: None,
        account_id: None,
        signature: is_verified_later.then_some(message.signature),
        envelope: Some(KeptEnvelope::of(message, mask_cards, &identifiers)),
    }
}

/// What makes two cases the same one: `quarantine_content`.
pub(super) type Content = (Option<String>, Option<String>, Fingerprint);

pub(super) fn content(key: Option<&Key>, fingerprint: Fingerprint) -> Content {
    let text = key.map(|key| (key.source.as_str().to_owned(), key.event_id.as_str().to_owned()));
    let (source, event_id) = text.unzip();
    (source, event_id, fingerprint)
}

/// Returns the contents that were quarantined already; for those this was one more copy.
pub(super) async fn insert(
    transaction: &mut PgConnection,
    batch: &Batch<'_>,
) -> Result<HashSet<Content>, StoreError> {
    let decided = batch.plan.new_cases.iter().map(|case| CaseRow {
        key: Some(&case.callback.key),
        fingerprint: case.callback.fingerprint,
        reason: case.reason,
        detail: storable(&case.detail),
        body: kept(
            batch.bodies.get(case.index).copied().unwrap_or_default(),
            batch.mask_cards,
            &identifiers(&case.callback),
        ),
        attempts: case.attempts,
        callback: Some(&case.callback),
        account_id: case.account_id.as_ref(),
        signature: None,
        envelope: None,
    });
    let undecodable = batch.undecodable.iter().map(|message| undecodable(message, batch.mask_cards));
    let cases: Vec<CaseRow<'_>> = decided.chain(undecodable).collect();
    if cases.is_empty() {
        return Ok(HashSet::new());
    }
    let places = insertion_places(&cases);
    let rows = sqlx::query(
        "insert into quarantine as q (id, source, event_id, reason, detail, body, state, attempts, fingerprint, type, account_id,
                                      payment_id, operation_id, amount, currency, is_final, occurred_at, webhook_id,
                                      webhook_timestamp, webhook_signature, routing_key, properties, headers, members)
         overriding system value
         select n.id, n.source, n.event_id, n.reason, n.detail, n.body,
                case when n.reason in ('waiting_for_payment', 'waiting_for_funds') then 'waiting' else 'open' end,
                n.attempts, n.fingerprint, n.type, n.account_id, n.payment_id, n.operation_id, n.amount, n.currency, n.is_final,
                n.occurred_at, n.webhook_id, n.webhook_timestamp, n.webhook_signature, n.routing_key, n.properties, n.headers,
                n.members::jsonb
         from (select nextval('quarantine_id_seq') as id, arrived.*
               from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[], $7::bytea[], $8::text[],
                           $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::boolean[], $15::timestamptz[],
                           $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[],
                           $23::integer[])
                    as arrived(source, event_id, reason, detail, body, attempts, fingerprint, type, account_id, payment_id,
                               operation_id, amount, currency, is_final, occurred_at, webhook_id, webhook_timestamp,
                               webhook_signature, routing_key, properties, headers, members, place)) n
         order by n.place
         on conflict on constraint quarantine_content do update
         set attempts = least(q.attempts::bigint + excluded.attempts, 2147483647)::integer, last_seen_at = clock_timestamp()
         returning q.source, q.event_id, q.fingerprint, q.xmax <> 0 as was_known",
    )
    .bind(each(&cases, |case| case.key.map(|key| key.source.as_str())))
    .bind(each(&cases, |case| case.key.map(|key| key.event_id.as_str())))
    .bind(each(&cases, |case| case.reason.as_str()))
    .bind(each(&cases, |case| case.detail.as_str()))
    .bind(each(&cases, |case| case.body.as_ref()))
    .bind(each(&cases, |case| case.attempts))
    .bind(each(&cases, |case| &case.fingerprint.0[..]))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.kind.as_str())))
    .bind(each(&cases, |case| case.account_id.map(AccountId::as_str)))
    .bind(each(&cases, |case| case.callback.and_then(|callback| callback.payment_id.as_ref()).map(|id| id.as_str())))
    .bind(each(&cases, |case| case.callback.and_then(|callback| callback.operation_id.as_ref()).map(|id| id.as_str())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.amount.minor_units())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.currency.as_str())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.is_final)))
    .bind(each(&cases, |case| case.callback.and_then(occurred_at)))
    .bind(each(&cases, |case| case.signature.and_then(|headers| headers.id.as_deref())))
    .bind(each(&cases, |case| case.signature.and_then(|headers| headers.timestamp.as_deref())))
    .bind(each(&cases, |case| case.signature.and_then(|headers| headers.signature.as_deref())))
    .bind(each(&cases, |case| case.envelope.as_ref().map(|envelope| envelope.routing_key.as_str())))
    .bind(each(&cases, |case| case.envelope.as_ref().map(|envelope| envelope.properties.as_str())))
    .bind(each(&cases, |case| case.envelope.as_ref().map(|envelope| envelope.headers.as_str())))
    .bind(each(&cases, |case| case.callback.and_then(|callback| members::of(callback, case.account_id))))
    .bind(places)
    .fetch_all(&mut *transaction)
    .await?;
    let mut known = HashSet::new();
    for row in &rows {
        if row.try_get("was_known")? {
            let bytes: &[u8] = row.try_get("fingerprint")?;
            let fingerprint = <[u8; 32]>::try_from(bytes).map(Fingerprint);
            let (source, event_id) = (row.try_get("source")?, row.try_get("event_id")?);
            known.extend(fingerprint.map(|fingerprint| (source, event_id, fingerprint)));
        }
    }
    expect_rows("cases", rows.len() as u64, cases.len())?;
    let is_known = |case: &&CaseRow<'_>| known.contains(&content(case.key, case.fingerprint));
    let counted: Vec<&AccountId> = cases.iter().filter(is_known).filter_map(|case| case.account_id).collect();
    if !counted.is_empty() {
        uncount(transaction, &counted).await?;
    }
    Ok(known)
}

/// The place of each case in the order in which the batch inserts them. Their ids are in the order in which callbacks came: what waits is released in
/// the order of the ids, so whoever came first has the money. But of what no account guards, two batches must come to the same contents in one
/// order: that goes first, by key. A batch that knows an account and one that does not may still meet in a deadlock, after which the victim
/// decides again.
fn insertion_places(cases: &[CaseRow<'_>]) -> Vec<i32> {
    let mut order: Vec<(i32, &CaseRow<'_>)> = (0..).zip(cases).collect();
    order.sort_by(|(_, a), (_, b)| match (a.account_id, b.account_id) {
        (Some(_), Some(_)) => Ordering::Equal,
        (None, None) => (a.key, a.fingerprint).cmp(&(b.key, b.fingerprint)),
        (known, other) => known.is_some().cmp(&other.is_some()),
    });
    let mut placed: Vec<(i32, i32)> = order.into_iter().map(|(index, _)| index).zip(0..).collect();
    placed.sort_unstable();
    placed.into_iter().map(|(_, place)| place).collect()
}

/// Takes back what the plan has counted for its accounts, of cases that are about none: of two writers that take copies of one callback
/// without an account, one may not know its payment yet, and store the case first. No account guards against that.
async fn uncount(transaction: &mut PgConnection, counted: &[&AccountId]) -> Result<(), StoreError> {
    sqlx::query(
        "update accounts a set cases = a.cases - n.cases
         from (select account_id, count(*) as cases from unnest($1::text[]) as n(account_id) group by account_id) n
         where a.account_id = n.account_id",
    )
    .bind(each(counted, |account_id| account_id.as_str()))
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

pub(super) async fn update(
    transaction: &mut PgConnection,
    plan: &Plan,
    resolver: Resolver<'_>,
) -> Result<(), StoreError> {
    if !plan.case_copies.is_empty() {
        // Two concurrent writers may both count copies of one case: they meet here in the order of the ids.
        let counted = sqlx::query(
            "update quarantine q
             set attempts = least(q.attempts::bigint + c.copies, 2147483647)::integer, last_seen_at = clock_timestamp()
             from unnest($1::bigint[], $2::integer[]) as c(id, copies)
             where q.id = c.id",
        )
        .bind(each(&plan.case_copies, |copies| copies.id.0))
        .bind(each(&plan.case_copies, |copies| copies.copies))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        expect_rows("copies of cases", counted, plan.case_copies.len())?;
    }
    if !plan.resolved_cases.is_empty() {
        let resolved = sqlx::query(
            // What was decided before somebody assigned the case, or before another writer found its account and counted it there, is decided
            // again.
            "update quarantine q
             set state = r.state, reason = coalesce(r.reason, q.reason), detail = coalesce(r.detail, q.detail),
                 account_id = case when r.is_found then r.account_id else q.account_id end,
                 resolved_at = case when r.state in ('open', 'waiting') then null else clock_timestamp() end,
                 resolved_by = case when r.state in ('open', 'waiting') then null else $6 end,
                 resolved_why = r.why,
                 waits_since = case when r.state = 'waiting' then clock_timestamp() else q.waits_since end
             from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $7::text[], $8::boolean[])
                  as r(id, state, reason, detail, why, account_id, is_found)
             where q.id = r.id and q.state in ('waiting', 'open') and (q.account_id is null or not r.is_found)
               and (q.members is null or not q.members ? 'assigned' or q.account_id is not distinct from r.account_id)",
        )
        .bind(each(&plan.resolved_cases, |case| case.id.0))
        .bind(each(&plan.resolved_cases, |case| match &case.end {
            CaseEnd::Applied => "replayed",
            CaseEnd::Duplicate(_) => "discarded",
            CaseEnd::Open(reason, _) if reason.is_waiting() => "waiting",
            CaseEnd::Open(..) => "open",
        }))
        .bind(each(&plan.resolved_cases, |case| match &case.end {
            CaseEnd::Applied | CaseEnd::Duplicate(_) => None,
            CaseEnd::Open(reason, _) => Some(reason.as_str()),
        }))
        .bind(each(&plan.resolved_cases, |case| match &case.end {
            CaseEnd::Applied | CaseEnd::Duplicate(_) => None,
            CaseEnd::Open(_, detail) => Some(detail.as_str()),
        }))
        .bind(each(&plan.resolved_cases, |case| match &case.end {
            CaseEnd::Applied => Some(resolver.why),
            CaseEnd::Duplicate(why) => Some(why.as_str()),
            CaseEnd::Open(..) => None,
        }))
        .bind(resolver.by)
        .bind(each(&plan.resolved_cases, |case| case.account_id.as_ref().map(AccountId::as_str)))
        .bind(each(&plan.resolved_cases, |case| case.is_found))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        expect_rows("stored cases", resolved, plan.resolved_cases.len())?;
    }
    Ok(())
}

/// Ends cases whose signature was found right: their callbacks are decided in this batch as if they had just come.
pub(super) async fn end_proven(
    transaction: &mut PgConnection,
    batch: &Batch<'_>,
    lost: &[bool],
) -> Result<(), StoreError> {
    let outcomes = batch.plan.outcomes.iter().zip(batch.proven).zip(lost);
    let ended: Vec<_> = outcomes
        .filter(|(_, is_lost)| !**is_lost)
        .map(|((outcome, id), _)| {
            let (state, why) = match outcome {
                Outcome::Applied => ("replayed", batch.resolver.why.to_owned()),
                Outcome::Duplicate(layer) => (
                    "discarded",
                    format!("the signature is right; a copy of what is known ({})", layer.as_str()),
                ),
                Outcome::Quarantined(reason) => (
                    "discarded",
                    format!("the signature is right; {}: now a case of its own", reason.as_str()),
                ),
                Outcome::Waiting(_) => {
                    ("discarded", "the signature is right; now a case of its own, which waits".to_owned())
                }
            };
            (id.0, state, why)
        })
        .collect();
    // A concurrent writer that ends one of them too is seen here: then nothing of this is written.
    let rows = sqlx::query(
        "update quarantine q
         set state = r.state, resolved_at = clock_timestamp(), resolved_by = $4, resolved_why = r.why
         from unnest($1::bigint[], $2::text[], $3::text[]) as r(id, state, why)
         where q.id = r.id and q.state = 'open' and q.reason in ('bad_signature', 'unmapped')",
    )
    .bind(each(&ended, |(id, _, _)| *id))
    .bind(each(&ended, |(_, state, _)| *state))
    .bind(each(&ended, |(_, _, why)| why.as_str()))
    .bind(batch.resolver.by)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    expect_rows("cases with a right signature", rows, ended.len())
}
