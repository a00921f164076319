//! One batch in one transaction: guarded balances, ledger rows, payments, cases, and the counts of what was turned away.
//!
//! Rivals write the same tables, so every transaction takes its locks in one order: accounts by id, then ledger keys, payments,
//! cases, duplicates, each sorted. Every number of changed rows is compared with the plan; where they differ the transaction
//! is rolled back, and the caller looks again. The last statement before the commit reads a row: PostgreSQL answers COMMIT
//! with a silent ROLLBACK in an aborted transaction, but refuses any other statement there.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{Connection as _, PgConnection, Row, Transaction};
use time::OffsetDateTime;

use super::{Epoch, StoreError, load::COUNT_CASES};
use crate::ledger::{
    AccountChange, AccountId, Callback, CaseEnd, Fingerprint, Key, Layer, Outcome, PaymentChange, Plan,
    Reason,
};

/// Serialises "this account is not open" against opening it; any number that no other program on this database uses.
const OPENING_LOCK: i64 = 0x7061_796f_6e63_6501;

/// A message that could not be decoded, with the copies of it in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable<'a> {
    /// The key, where it could be read.
    pub key: Option<Key>,
    /// Why it is quarantined.
    pub reason: Reason,
    /// What exactly.
    pub detail: String,
    /// The raw message.
    pub body: &'a [u8],
    /// SHA-256 of the body.
    pub fingerprint: Fingerprint,
    /// How often it came in this batch, at least 1.
    pub attempts: i32,
}

/// All that one transaction writes.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Who writes: worker and lane. Counts are kept apart by it.
    pub writer: &'a str,
    /// The plan for `callbacks`.
    pub plan: Plan,
    /// The callbacks that were decided.
    pub callbacks: &'a [Callback],
    /// Their bodies, in the same order.
    pub bodies: &'a [&'a [u8]],
    /// Messages that never became callbacks.
    pub undecodable: &'a [Undecodable<'a>],
    /// Copies that a done marker turned away, by the layer they count under: further copies in one batch are the batch's.
    pub remembered: &'a [(Key, Layer)],
}

/// What a tally counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TallyKind {
    /// A new ledger row for a callback that just came.
    Applied,
    /// A copy that was turned away.
    Duplicate,
    /// A new case.
    Quarantined,
    /// A new ledger row for a callback that was quarantined before.
    Released,
}

impl TallyKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Quarantined => "quarantined",
            Self::Released => "released",
        }
    }
}

/// A line of the counts that were committed with a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tally {
    /// What is counted.
    pub kind: TallyKind,
    /// The provider; empty where it could not be read.
    pub source: String,
    /// Type of callback, duplicate layer, or quarantine reason.
    pub label: &'static str,
}

/// A committed batch.
#[derive(Debug)]
pub struct Applied {
    /// Accounts that a rival changed first: nothing about them was written, decide their callbacks again.
    pub lost: HashSet<AccountId>,
    /// The history that the commit belongs to.
    pub epoch: Epoch,
    /// What was counted.
    pub tallies: BTreeMap<Tally, i64>,
}

/// Writes the batch and commits.
///
/// # Errors
/// [`StoreError::Conflict`] where a rival changed anything but an account's version: nothing is written.
/// [`StoreError::Unavailable`] during the commit: it is unknown whether all is written or nothing. Running the same callbacks
/// again from the load is right in both cases.
pub async fn apply(connection: &mut PgConnection, mut batch: Batch<'_>) -> Result<Applied, StoreError> {
    let mut transaction = connection.begin().await?;
    guard_openings(&mut transaction, &batch.plan).await?;
    let lost = update_accounts(&mut transaction, &batch.plan.accounts).await?;
    batch.plan.drop_accounts(&lost);
    insert_entries(&mut transaction, &batch.plan).await?;
    write_payments(&mut transaction, &batch.plan.payments).await?;
    let known_cases = insert_cases(&mut transaction, &batch).await?;
    update_cases(&mut transaction, &batch.plan).await?;
    let counts = Counts::of(&batch, &lost, &known_cases);
    record_duplicates(&mut transaction, &counts.duplicates).await?;
    let epoch = record_tallies(&mut transaction, batch.writer, &counts.tallies).await?;
    transaction.commit().await?;
    Ok(Applied { lost, epoch, tallies: counts.tallies })
}

/// A row of an unopened account cannot be locked, so "it is not open" and "this opens it" exclude each other by an advisory
/// lock. Openings share it; only a case about an unknown account, which is rare, takes it alone.
async fn guard_openings(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    plan: &Plan,
) -> Result<(), StoreError> {
    let opened: HashMap<&str, i64> = plan
        .accounts
        .iter()
        .filter(|change| change.opens)
        .map(|change| (change.account_id.as_str(), change.before.cases))
        .collect();
    if !plan.unopened.is_empty() {
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(OPENING_LOCK)
            .execute(&mut **transaction)
            .await?;
        let unopened: Vec<&str> = plan.unopened.iter().map(AccountId::as_str).collect();
        let open = sqlx::query("select 1 from accounts where account_id = any($1) limit 1")
            .bind(&unopened)
            .fetch_optional(&mut **transaction)
            .await?;
        if open.is_some() {
            return Err(StoreError::Conflict(
                "an account was opened while a case about it was decided".to_owned(),
            ));
        }
    } else if !opened.is_empty() {
        sqlx::query("select pg_advisory_xact_lock_shared($1)")
            .bind(OPENING_LOCK)
            .execute(&mut **transaction)
            .await?;
    }
    if !opened.is_empty() {
        let ids: Vec<&str> = opened.keys().copied().collect();
        let rows = sqlx::query(COUNT_CASES).bind(&ids).fetch_all(&mut **transaction).await?;
        let mut counted: HashMap<&str, i64> = HashMap::new();
        for row in &rows {
            counted.insert(row.try_get("account_id")?, row.try_get("cases")?);
        }
        if opened.iter().any(|(id, cases)| counted.get(id).copied().unwrap_or(0) != *cases) {
            return Err(StoreError::Conflict(
                "a case was stored while its account was being opened".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Returns the accounts that a rival changed first.
async fn update_accounts(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    changes: &[AccountChange],
) -> Result<HashSet<AccountId>, StoreError> {
    let (opened, changed): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.opens);
    let mut won: HashSet<String> = HashSet::new();
    if !changed.is_empty() {
        // A rival that holds one of these rows makes this wait; when it has committed, the guard is compared with what it
        // wrote. Rows are locked in the order of the arguments, which are sorted: two batches cannot wait for each other.
        let rows: Vec<String> = sqlx::query_scalar(
            "update accounts a
             set balance = p.balance, held = p.held, version = p.version, cases = p.cases
             from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
                  as p(account_id, expected_version, expected_cases, balance, held, version, cases)
             where a.account_id = p.account_id and a.version = p.expected_version and a.cases = p.expected_cases
             returning a.account_id",
        )
        .bind(each(&changed, |change| change.account_id.as_str()))
        .bind(each(&changed, |change| change.before.version))
        .bind(each(&changed, |change| change.before.cases))
        .bind(each(&changed, |change| change.after.balance))
        .bind(each(&changed, |change| change.after.held))
        .bind(each(&changed, |change| change.after.version))
        .bind(each(&changed, |change| change.after.cases))
        .fetch_all(&mut **transaction)
        .await?;
        won.extend(rows);
    }
    if !opened.is_empty() {
        let rows: Vec<String> = sqlx::query_scalar(
            "insert into accounts (account_id, currency, balance, held, version, cases)
             select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
             on conflict (account_id) do nothing
             returning account_id",
        )
        .bind(each(&opened, |change| change.account_id.as_str()))
        .bind(each(&opened, |change| change.after.currency.as_str()))
        .bind(each(&opened, |change| change.after.balance))
        .bind(each(&opened, |change| change.after.held))
        .bind(each(&opened, |change| change.after.version))
        .bind(each(&opened, |change| change.after.cases))
        .fetch_all(&mut **transaction)
        .await?;
        won.extend(rows);
    }
    let lost = changes.iter().filter(|change| !won.contains(change.account_id.as_str()));
    Ok(lost.map(|change| change.account_id.clone()).collect())
}

async fn insert_entries(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    plan: &Plan,
) -> Result<(), StoreError> {
    if plan.entries.is_empty() {
        return Ok(());
    }
    let mut entries: Vec<_> = plan.entries.iter().collect();
    entries.sort_by(|a, b| a.callback.key.cmp(&b.callback.key));
    // A rival that inserted one of these keys and has not committed makes this wait; if it commits, the row is skipped here
    // and the count below is short.
    let inserted = sqlx::query(
        "insert into ledger (source, event_id, type, account_id, account_version, payment_id, operation_id, amount, currency,
                             balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[],
                              $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[],
                              $15::timestamptz[])
         on conflict do nothing",
    )
    .bind(each(&entries, |entry| entry.callback.key.source.as_str()))
    .bind(each(&entries, |entry| entry.callback.key.event_id.as_str()))
    .bind(each(&entries, |entry| entry.callback.kind.as_str()))
    .bind(each(&entries, |entry| entry.callback.account_id.as_str()))
    .bind(each(&entries, |entry| entry.account_version))
    .bind(each(&entries, |entry| entry.callback.payment_id.as_ref().map(|id| id.as_str())))
    .bind(each(&entries, |entry| entry.callback.operation_id.as_ref().map(|id| id.as_str())))
    .bind(each(&entries, |entry| entry.callback.amount.minor_units()))
    .bind(each(&entries, |entry| entry.callback.currency.as_str()))
    .bind(each(&entries, |entry| entry.balance_delta))
    .bind(each(&entries, |entry| entry.held_delta))
    .bind(each(&entries, |entry| entry.balance_after))
    .bind(each(&entries, |entry| entry.held_after))
    .bind(each(&entries, |entry| &entry.callback.fingerprint.0[..]))
    .bind(each(&entries, |entry| occurred_at(&entry.callback)))
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    expect_rows("ledger rows", inserted, entries.len())
}

async fn write_payments(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    changes: &[PaymentChange],
) -> Result<(), StoreError> {
    let (new, known): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.expected.is_none());
    if !known.is_empty() {
        let updated = sqlx::query(
            "update payments p
             set state = n.state, authorized = n.authorized, captured = n.captured, refunded = n.refunded, version = n.version
             from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
                  as n(source, payment_id, expected, state, authorized, captured, refunded, version)
             where p.source = n.source and p.payment_id = n.payment_id and p.version = n.expected",
        )
        .bind(each(&known, |change| change.key.source.as_str()))
        .bind(each(&known, |change| change.key.payment_id.as_str()))
        .bind(each(&known, |change| change.expected))
        .bind(each(&known, |change| change.after.state.as_str()))
        .bind(each(&known, |change| change.after.authorized))
        .bind(each(&known, |change| change.after.captured))
        .bind(each(&known, |change| change.after.refunded))
        .bind(each(&known, |change| change.after.version))
        .execute(&mut **transaction)
        .await?
        .rows_affected();
        expect_rows("known payments", updated, known.len())?;
    }
    if !new.is_empty() {
        let inserted = sqlx::query(
            "insert into payments (source, payment_id, account_id, currency, state, authorized, captured, refunded, version)
             select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                                  $8::bigint[], $9::bigint[])
             on conflict (source, payment_id) do nothing",
        )
        .bind(each(&new, |change| change.key.source.as_str()))
        .bind(each(&new, |change| change.key.payment_id.as_str()))
        .bind(each(&new, |change| change.after.account_id.as_str()))
        .bind(each(&new, |change| change.after.currency.as_str()))
        .bind(each(&new, |change| change.after.state.as_str()))
        .bind(each(&new, |change| change.after.authorized))
        .bind(each(&new, |change| change.after.captured))
        .bind(each(&new, |change| change.after.refunded))
        .bind(each(&new, |change| change.after.version))
        .execute(&mut **transaction)
        .await?
        .rows_affected();
        expect_rows("new payments", inserted, new.len())?;
    }
    Ok(())
}

struct CaseRow<'a> {
    key: Option<&'a Key>,
    fingerprint: Fingerprint,
    reason: Reason,
    detail: String,
    body: &'a [u8],
    attempts: i32,
    callback: Option<&'a Callback>,
}

/// What makes two cases the same one: `quarantine_content`.
type Content = (Option<String>, Option<String>, Fingerprint);

fn content(key: Option<&Key>, fingerprint: Fingerprint) -> Content {
    let text = key.map(|key| (key.source.as_str().to_owned(), key.event_id.as_str().to_owned()));
    let (source, event_id) = text.unzip();
    (source, event_id, fingerprint)
}

/// Returns the contents that were quarantined already; for those this was one more copy.
async fn insert_cases(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    batch: &Batch<'_>,
) -> Result<HashSet<Content>, StoreError> {
    let decided = batch.plan.new_cases.iter().map(|case| CaseRow {
        key: Some(&case.callback.key),
        fingerprint: case.callback.fingerprint,
        reason: case.reason,
        detail: storable(&case.detail),
        body: batch.bodies.get(case.index).copied().unwrap_or_default(),
        attempts: case.attempts,
        callback: Some(&case.callback),
    });
    let undecodable = batch.undecodable.iter().map(|message| CaseRow {
        key: message.key.as_ref(),
        fingerprint: message.fingerprint,
        reason: message.reason,
        detail: storable(&message.detail),
        body: message.body,
        attempts: message.attempts,
        callback: None,
    });
    let mut cases: Vec<CaseRow<'_>> = decided.chain(undecodable).collect();
    if cases.is_empty() {
        return Ok(HashSet::new());
    }
    cases.sort_by(|a, b| (a.key, a.fingerprint).cmp(&(b.key, b.fingerprint)));
    let rows = sqlx::query(
        "insert into quarantine as q (source, event_id, reason, detail, body, state, attempts, fingerprint, type, account_id,
                                      payment_id, operation_id, amount, currency, is_final, occurred_at)
         select n.source, n.event_id, n.reason, n.detail, n.body,
                case when n.reason = 'waiting_for_payment' then 'waiting' else 'open' end,
                n.attempts, n.fingerprint, n.type, n.account_id, n.payment_id, n.operation_id, n.amount, n.currency, n.is_final,
                n.occurred_at
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[], $7::bytea[], $8::text[],
                     $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::boolean[], $15::timestamptz[])
              as n(source, event_id, reason, detail, body, attempts, fingerprint, type, account_id, payment_id, operation_id,
                   amount, currency, is_final, occurred_at)
         on conflict on constraint quarantine_content do update
         set attempts = least(q.attempts::bigint + excluded.attempts, 2147483647)::integer, last_seen_at = clock_timestamp()
         returning q.source, q.event_id, q.fingerprint, q.xmax <> 0 as was_known",
    )
    .bind(each(&cases, |case| case.key.map(|key| key.source.as_str())))
    .bind(each(&cases, |case| case.key.map(|key| key.event_id.as_str())))
    .bind(each(&cases, |case| case.reason.as_str()))
    .bind(each(&cases, |case| case.detail.as_str()))
    .bind(each(&cases, |case| case.body))
    .bind(each(&cases, |case| case.attempts))
    .bind(each(&cases, |case| &case.fingerprint.0[..]))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.kind.as_str())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.account_id.as_str())))
    .bind(each(&cases, |case| case.callback.and_then(|callback| callback.payment_id.as_ref()).map(|id| id.as_str())))
    .bind(each(&cases, |case| case.callback.and_then(|callback| callback.operation_id.as_ref()).map(|id| id.as_str())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.amount.minor_units())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.currency.as_str())))
    .bind(each(&cases, |case| case.callback.map(|callback| callback.is_final)))
    .bind(each(&cases, |case| case.callback.and_then(occurred_at)))
    .fetch_all(&mut **transaction)
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
    Ok(known)
}

async fn update_cases(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    plan: &Plan,
) -> Result<(), StoreError> {
    if !plan.case_copies.is_empty() {
        // Two rivals may both count copies of one case: they meet here in the order of the ids.
        let counted = sqlx::query(
            "update quarantine q
             set attempts = least(q.attempts::bigint + c.copies, 2147483647)::integer, last_seen_at = clock_timestamp()
             from unnest($1::bigint[], $2::integer[]) as c(id, copies)
             where q.id = c.id",
        )
        .bind(each(&plan.case_copies, |copies| copies.id.0))
        .bind(each(&plan.case_copies, |copies| copies.copies))
        .execute(&mut **transaction)
        .await?
        .rows_affected();
        expect_rows("copies of cases", counted, plan.case_copies.len())?;
    }
    if !plan.resolved_cases.is_empty() {
        let resolved = sqlx::query(
            "update quarantine q
             set state = r.state, reason = coalesce(r.reason, q.reason), detail = coalesce(r.detail, q.detail),
                 resolved_at = case when r.state = 'open' then null else clock_timestamp() end,
                 resolved_by = case when r.state = 'open' then null else 'payonce' end,
                 resolved_why = r.why
             from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) as r(id, state, reason, detail, why)
             where q.id = r.id and q.state = 'waiting'",
        )
        .bind(each(&plan.resolved_cases, |case| case.id.0))
        .bind(each(&plan.resolved_cases, |case| match &case.end {
            CaseEnd::Applied => "replayed",
            CaseEnd::Duplicate(_) => "discarded",
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
            CaseEnd::Applied => Some("what it waited for came"),
            CaseEnd::Duplicate(why) => Some(why.as_str()),
            CaseEnd::Open(..) => None,
        }))
        .execute(&mut **transaction)
        .await?
        .rows_affected();
        expect_rows("waiting cases", resolved, plan.resolved_cases.len())?;
    }
    Ok(())
}

/// What the transaction counts: every callback of the batch but those that will be decided again.
#[derive(Default)]
struct Counts {
    tallies: BTreeMap<Tally, i64>,
    duplicates: BTreeMap<(Key, Layer), i64>,
}

impl Counts {
    fn of(batch: &Batch<'_>, lost: &HashSet<AccountId>, known_cases: &HashSet<Content>) -> Self {
        let mut counts = Self::default();
        let mut arrived: HashSet<&Key> = HashSet::new();
        for (callback, outcome) in batch.callbacks.iter().zip(&batch.plan.outcomes) {
            if lost.contains(&callback.account_id) {
                continue;
            }
            let key = Some(&callback.key);
            match outcome {
                Outcome::Applied => {
                    arrived.insert(&callback.key);
                    counts.add(TallyKind::Applied, key, callback.kind.as_str(), 1);
                }
                Outcome::Duplicate(layer) => counts.add_duplicate(key, *layer, 1),
                Outcome::Waiting => {
                    counts.add_case(key, Reason::WaitingForPayment, known_cases, callback.fingerprint)
                }
                Outcome::Quarantined(reason) => {
                    counts.add_case(key, *reason, known_cases, callback.fingerprint)
                }
            }
        }
        for entry in batch.plan.entries.iter().filter(|entry| !arrived.contains(&entry.callback.key)) {
            counts.add(TallyKind::Released, Some(&entry.callback.key), entry.callback.kind.as_str(), 1);
        }
        for message in batch.undecodable {
            counts.add_case(message.key.as_ref(), message.reason, known_cases, message.fingerprint);
            counts.add_duplicate(message.key.as_ref(), Layer::Batch, i64::from(message.attempts) - 1);
        }
        for (key, layer) in batch.remembered {
            counts.add_duplicate(Some(key), *layer, 1);
        }
        counts
    }

    fn add_case(
        &mut self,
        key: Option<&Key>,
        reason: Reason,
        known: &HashSet<Content>,
        fingerprint: Fingerprint,
    ) {
        if !known.is_empty() && known.contains(&content(key, fingerprint)) {
            self.add_duplicate(key, Layer::Quarantine, 1);
        } else {
            self.add(TallyKind::Quarantined, key, reason.as_str(), 1);
        }
    }

    fn add_duplicate(&mut self, key: Option<&Key>, layer: Layer, n: i64) {
        if n > 0 {
            self.add(TallyKind::Duplicate, key, layer.as_str(), n);
            if let Some(key) = key {
                *self.duplicates.entry((key.clone(), layer)).or_default() += n;
            }
        }
    }

    fn add(&mut self, kind: TallyKind, key: Option<&Key>, label: &'static str, n: i64) {
        let source = key.map(|key| key.source.as_str().to_owned()).unwrap_or_default();
        *self.tallies.entry(Tally { kind, source, label }).or_default() += n;
    }
}

async fn record_duplicates(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    duplicates: &BTreeMap<(Key, Layer), i64>,
) -> Result<(), StoreError> {
    if duplicates.is_empty() {
        return Ok(());
    }
    let duplicates: Vec<_> = duplicates.iter().collect();
    sqlx::query(
        "insert into duplicates as d (source, event_id, layer, copies)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
         on conflict (source, event_id, layer) do update
         set copies = d.copies + excluded.copies, last_seen_at = clock_timestamp()",
    )
    .bind(each(&duplicates, |((key, _), _)| key.source.as_str()))
    .bind(each(&duplicates, |((key, _), _)| key.event_id.as_str()))
    .bind(each(&duplicates, |((_, layer), _)| layer.as_str()))
    .bind(each(&duplicates, |(_, copies)| **copies))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The last statement of the transaction: counts, and reads the epoch that the commit will belong to.
async fn record_tallies(
    transaction: &mut Transaction<'_, sqlx::Postgres>,
    writer: &str,
    tallies: &BTreeMap<Tally, i64>,
) -> Result<Epoch, StoreError> {
    if !tallies.is_empty() {
        let tallies: Vec<_> = tallies.iter().collect();
        sqlx::query(
            "insert into tallies as t (minute, writer, kind, source, label, n)
             select date_trunc('minute', now()), $1, n.kind, n.source, n.label, n.n
             from unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) as n(kind, source, label, n)
             on conflict (minute, writer, kind, source, label) do update set n = t.n + excluded.n",
        )
        .bind(writer)
        .bind(each(&tallies, |(tally, _)| tally.kind.as_str()))
        .bind(each(&tallies, |(tally, _)| tally.source.as_str()))
        .bind(each(&tallies, |(tally, _)| tally.label))
        .bind(each(&tallies, |(_, n)| **n))
        .execute(&mut **transaction)
        .await?;
    }
    super::epoch(transaction).await
}

/// One column of an `unnest`.
fn each<'a, T, U>(rows: &'a [T], column: impl Fn(&'a T) -> U) -> Vec<U> {
    rows.iter().map(column).collect()
}

fn occurred_at(callback: &Callback) -> Option<OffsetDateTime> {
    let nanos = i128::from(callback.occurred_at_us?) * 1_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

/// PostgreSQL's text cannot hold U+0000.
fn storable(text: &str) -> String {
    text.replace('\0', "\\0")
}

fn expect_rows(what: &str, found: u64, planned: usize) -> Result<(), StoreError> {
    if found == planned as u64 {
        return Ok(());
    }
    Err(StoreError::Conflict(format!("{found} of {planned} {what} written")))
}
