//! One batch in one transaction: guarded balances, ledger rows, payments, cases, and the counts of what was rejected.
//!
//! Concurrent writers write the same tables, so every transaction takes its locks in one order: accounts by id, then ledger keys, payments,
//! cases, references, duplicates, each sorted. Every number of changed rows is compared with the plan; where they differ the transaction
//! is rolled back, and the caller looks again. The last statement is `closing`'s.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{Connection as _, PgConnection, Row};

use super::{
    StoreError,
    cases::{self, Resolver, Undecodable},
    closing::Written,
    counts::{Counts, Tally},
    members,
    openings::guard_openings,
    references,
    rows::{each, expect_rows, occurred_at, timestamp},
};
use crate::crash::{self, Point};
use payonce_ledger::{
    AccountChange, AccountId, Callback, CaseId, Entry, Fingerprint, Key, Layer, Leg, PaymentChange, Plan,
};
use payonce_message::references::Reference;

/// What a transaction does about locks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It waits for them, for as long as another worker may take: a transaction that meets one that is held longer is in vain.
    Wait,
    /// It goes on without the accounts that are locked, and waits but `LOCK_WAIT_SHORT_MS` for anything else. Costs a statement more.
    Skip,
}

/// How long a transaction that skips locked accounts waits for a lock on anything else, in milliseconds: a batch is cut in half with each
/// such wait, until what is locked is found.
pub const LOCK_WAIT_SHORT_MS: u32 = 100;

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
    /// Whether what cases keep of them has its card data masked.
    pub mask_cards: bool,
    /// The references of each callback, in the same order; empty where none are kept.
    pub references: &'a [Vec<Reference>],
    /// Messages that never became callbacks.
    pub undecodable: &'a [Undecodable<'a>],
    /// Who ends the stored cases that the plan ends.
    pub resolver: Resolver<'a>,
    /// The stored cases that `callbacks` come from, one each, where they were found to be signed right after all; empty for a batch
    /// from the queue. Such a case ends with what becomes of its callback.
    pub proven: &'a [CaseId],
    /// What to do about locks of others.
    pub locking: Locking,
    /// What done markers say to be copies. The batch is written only where the ledger has the row of each.
    pub remembered: &'a [Remembered],
}

/// What a done marker says to be a copy of a committed callback.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Its key.
    pub key: Key,
    /// Its content.
    pub fingerprint: Fingerprint,
    /// The layer that it counts under: of several copies in one batch all but the first are the batch's.
    pub layer: Layer,
}

/// A committed batch.
#[derive(Debug)]
pub struct Applied {
    /// Accounts that another writer changed first, or that are locked, and those that transfers tie to them: nothing about them was
    /// written.
    pub lost: HashSet<AccountId>,
    /// Those of the lost ones whose row somebody had locked, with what is tied to them: there is no use in trying them again at once.
    pub locked: HashSet<AccountId>,
    /// Of the callbacks of the batch, in its order, those that are to be decided again because their account is lost.
    pub lost_callbacks: Vec<bool>,
    /// And those of them whose account is locked.
    pub locked_callbacks: Vec<bool>,
    /// What was counted.
    pub tallies: BTreeMap<Tally, i64>,
    /// What the new ledger rows are about, by source and currency: minor units.
    pub amounts: BTreeMap<(String, &'static str), i128>,
}

/// Writes the batch and commits.
///
/// # Errors
/// [`StoreError::Conflict`] where another writer changed anything but an account's version, or where a done marker said what the ledger does
/// not: nothing is written.
/// [`StoreError::Unavailable`] during the commit: it is unknown whether all is written or nothing. Running the same callbacks
/// again from the load is right in both cases.
pub async fn apply(connection: &mut PgConnection, batch: Batch<'_>) -> Result<Applied, StoreError> {
    let mut transaction = connection.begin().await?;
    let written = write(&mut transaction, batch).await?;
    written.commit(transaction).await
}

/// As [`apply`], in a transaction that writes more; [`Written::commit`] ends it.
pub(super) async fn write<'a>(
    transaction: &mut PgConnection,
    mut batch: Batch<'a>,
) -> Result<Written<'a>, StoreError> {
    if batch.locking == Locking::Skip {
        wait_shortly(transaction).await?;
    }
    let lost = guard_openings(transaction, &batch.plan).await?;
    let (lost, locked) = change_accounts(transaction, &batch.plan, batch.locking, lost).await?;
    let lost_callbacks = batch.plan.callbacks_about(&lost);
    let locked_callbacks = batch.plan.callbacks_about(&locked);
    batch.plan.drop_accounts(&lost);
    crash::hit(Point::AfterAccounts).await?;
    insert_entries(transaction, &batch.plan).await?;
    crash::hit(Point::AfterInsert).await?;
    write_payments(transaction, &batch.plan.payments).await?;
    let known_cases = cases::insert(transaction, &batch).await?;
    cases::update(transaction, &batch.plan, batch.resolver).await?;
    if !batch.proven.is_empty() {
        cases::end_proven(transaction, &batch, &lost_callbacks).await?;
    }
    if !batch.plan.new_cases.is_empty() || !batch.undecodable.is_empty() {
        crash::hit(Point::AfterCases).await?;
    }
    if !batch.references.is_empty() {
        references::insert(transaction, &batch, &lost_callbacks).await?;
    }
    let counts = Counts::of(&batch, &lost_callbacks, &known_cases);
    let applied = Applied {
        lost,
        locked,
        lost_callbacks,
        locked_callbacks,
        tallies: counts.tallies,
        amounts: counts.amounts,
    };
    Ok(Written { applied, writer: batch.writer, duplicates: counts.duplicates, remembered: batch.remembered })
}

/// Until the end of this transaction.
async fn wait_shortly(transaction: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(LOCK_WAIT_SHORT_MS.to_string())
        .execute(transaction)
        .await?;
    Ok(())
}

/// Locks the rows of the open accounts that nobody else has locked, and returns the others.
async fn lock_free_accounts(
    transaction: &mut PgConnection,
    changes: &[&AccountChange],
) -> Result<HashSet<AccountId>, StoreError> {
    let changed: Vec<&AccountChange> = changes.iter().copied().filter(|change| !change.opens).collect();
    if changed.is_empty() {
        return Ok(HashSet::new());
    }
    let free: Vec<String> = sqlx::query_scalar(
        "select a.account_id
         from unnest($1::text[]) as k(account_id),
              lateral (select account_id from accounts a where a.account_id = k.account_id
                       for no key update skip locked) a",
    )
    .bind(each(&changed, |change| change.account_id.as_str()))
    .fetch_all(&mut *transaction)
    .await?;
    let free: HashSet<&str> = free.iter().map(String::as_str).collect();
    let locked = changed.iter().filter(|change| !free.contains(change.account_id.as_str()));
    Ok(locked.map(|change| change.account_id.clone()).collect())
}

/// Returns the accounts that are lost (`lost` included) and, of these, those that are locked; with what transfers tie to them.
async fn change_accounts(
    transaction: &mut PgConnection,
    plan: &Plan,
    locking: Locking,
    mut lost: HashSet<AccountId>,
) -> Result<(HashSet<AccountId>, HashSet<AccountId>), StoreError> {
    let left = |lost: &HashSet<AccountId>| -> Vec<&AccountChange> {
        plan.accounts.iter().filter(|change| !lost.contains(&change.account_id)).collect()
    };
    let mut locked = match locking {
        Locking::Wait => HashSet::new(),
        Locking::Skip => lock_free_accounts(transaction, &left(&lost)).await?,
    };
    plan.close_over_transfers(&mut locked);
    lost.extend(locked.iter().cloned());
    if plan.has_transfers() {
        // What one account loses, another may not keep: so which are lost is known, by locking all, before any is changed.
        let changed_first = lock_accounts(transaction, &left(&lost)).await?;
        lost.extend(changed_first);
        plan.close_over_transfers(&mut lost);
    }
    let lost_now = update_accounts(transaction, &left(&lost)).await?;
    if plan.has_transfers() && !lost_now.is_empty() {
        return Err(StoreError::Conflict("an account was opened while it was part of a transfer".to_owned()));
    }
    lost.extend(lost_now);
    Ok((lost, locked))
}

/// Locks the rows of these accounts, in the order of their ids, and returns those that are not what the plan was decided on.
async fn lock_accounts(
    transaction: &mut PgConnection,
    changes: &[&AccountChange],
) -> Result<HashSet<AccountId>, StoreError> {
    let known: Vec<&AccountChange> = changes.iter().copied().filter(|change| !change.opens).collect();
    let rows = sqlx::query(
        "select account_id, version, cases from accounts where account_id = any($1) order by account_id for no key update",
    )
    .bind(each(&known, |change| change.account_id.as_str()))
    .fetch_all(&mut *transaction)
    .await?;
    let mut found: HashMap<String, (i64, i64)> = HashMap::with_capacity(rows.len());
    for row in &rows {
        found.insert(row.try_get("account_id")?, (row.try_get("version")?, row.try_get("cases")?));
    }
    let is_lost = |change: &&&AccountChange| {
        found.get(change.account_id.as_str()) != Some(&(change.before.version, change.before.cases))
    };
    Ok(known.iter().filter(is_lost).map(|change| change.account_id.clone()).collect())
}

/// Returns the accounts that a concurrent writer changed first.
async fn update_accounts(
    transaction: &mut PgConnection,
    changes: &[&AccountChange],
) -> Result<HashSet<AccountId>, StoreError> {
    let (opened, changed): (Vec<&AccountChange>, Vec<&AccountChange>) =
        changes.iter().copied().partition(|change| change.opens);
    let mut won: HashSet<String> = HashSet::new();
    if !changed.is_empty() {
        // A concurrent writer that holds one of these rows makes this wait; when it has committed, the guard is compared with what it
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
        .fetch_all(&mut *transaction)
        .await?;
        won.extend(rows);
    }
    if !opened.is_empty() {
        let rows: Vec<String> = sqlx::query_scalar(
            "insert into accounts (account_id, currency, balance, held, version, cases)
             select n.account_id, n.currency, n.balance, n.held, n.version,
                    (select count(*) from quarantine q where q.account_id = n.account_id) + n.new_cases
             from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                  as n(account_id, currency, balance, held, version, new_cases)
             on conflict (account_id) do nothing
             returning account_id",
        )
        .bind(each(&opened, |change| change.account_id.as_str()))
        .bind(each(&opened, |change| change.after.currency.as_str()))
        .bind(each(&opened, |change| change.after.balance))
        .bind(each(&opened, |change| change.after.held))
        .bind(each(&opened, |change| change.after.version))
        // From here on it counts its cases: once in its life they are all read.
        .bind(each(&opened, |change| change.after.cases.saturating_sub(change.before.cases)))
        .fetch_all(&mut *transaction)
        .await?;
        won.extend(rows);
    }
    let lost = changes.iter().filter(|change| !won.contains(change.account_id.as_str()));
    Ok(lost.map(|change| change.account_id.clone()).collect())
}

async fn insert_entries(transaction: &mut PgConnection, plan: &Plan) -> Result<(), StoreError> {
    if plan.entries.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<(&Entry, &Leg, i16)> = plan
        .entries
        .iter()
        .flat_map(|entry| entry.legs().zip(0..).map(move |(leg, at)| (entry, leg, at)))
        .collect();
    rows.sort_by(|(a, _, leg_a), (b, _, leg_b)| (&a.callback.key, leg_a).cmp(&(&b.callback.key, leg_b)));
    // A concurrent writer that inserted one of these keys and has not committed makes this wait; if it commits, this is an error, and the
    // callbacks are decided again with that row in sight. `on conflict do nothing` would say the same more gently, but it
    // looks up each unique key once more before it inserts: a fifth of this statement, for what the account's guard has
    // caught before in all but one case (one key about two accounts).
    // In the target list the arrays are read side by side; as a function in FROM each is copied into a store of its own first
    // (1.3 of 15 µs a row).
    let inserted = sqlx::query(
        "insert into ledger (source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency,
                             balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at, members)
         select unnest($1::text[]), unnest($2::text[]), unnest($3::smallint[]), unnest($4::text[]), unnest($5::text[]),
                unnest($6::bigint[]), unnest($7::text[]), unnest($8::text[]), unnest($9::bigint[]), unnest($10::text[]),
                unnest($11::bigint[]), unnest($12::bigint[]), unnest($13::bigint[]), unnest($14::bigint[]),
                unnest($15::bytea[]), unnest($16::timestamptz[]), unnest($17::text[])::jsonb",
    )
    .bind(each(&rows, |(entry, _, _)| entry.callback.key.source.as_str()))
    .bind(each(&rows, |(entry, _, _)| entry.callback.key.event_id.as_str()))
    .bind(each(&rows, |(_, _, at)| *at))
    .bind(each(&rows, |(entry, _, _)| entry.callback.kind.as_str()))
    .bind(each(&rows, |(_, leg, _)| leg.account_id.as_str()))
    .bind(each(&rows, |(_, leg, _)| leg.account_version))
    .bind(each(&rows, |(entry, _, _)| entry.callback.payment_id.as_ref().map(|id| id.as_str())))
    .bind(each(&rows, |(entry, _, _)| entry.callback.operation_id.as_ref().map(|id| id.as_str())))
    .bind(each(&rows, |(entry, _, _)| entry.callback.amount.minor_units()))
    .bind(each(&rows, |(entry, _, _)| entry.callback.currency.as_str()))
    .bind(each(&rows, |(_, leg, _)| leg.balance_delta))
    .bind(each(&rows, |(_, leg, _)| leg.held_delta))
    .bind(each(&rows, |(_, leg, _)| leg.balance_after))
    .bind(each(&rows, |(_, leg, _)| leg.held_after))
    .bind(each(&rows, |(entry, _, _)| &entry.callback.fingerprint.0[..]))
    .bind(each(&rows, |(entry, _, _)| occurred_at(&entry.callback)))
    .bind(each(&rows, |(entry, _, _)| members::of(&entry.callback, Some(&entry.leg.account_id))))
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    expect_rows("ledger rows", inserted, rows.len())
}

async fn write_payments(transaction: &mut PgConnection, changes: &[PaymentChange]) -> Result<(), StoreError> {
    let (new, known): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.expected.is_none());
    if !known.is_empty() {
        let updated = sqlx::query(
            "update payments p
             set state = n.state, authorized = n.authorized, captured = n.captured, refunded = n.refunded, version = n.version,
                 facts = n.facts::jsonb, expires_at = n.expires_at
             from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                         $9::text[], $10::timestamptz[])
                  as n(source, payment_id, expected, state, authorized, captured, refunded, version, facts, expires_at)
             where p.source = n.source and p.payment_id = n.payment_id and p.version = n.expected",
        )
        .bind(each(&known, |change| change.key.source.as_str()))
        .bind(each(&known, |change| change.key.payment_id.as_str()))
        .bind(each(&known, |change| change.expected))
        .bind(each(&known, |change| change.after.facts.state().as_str()))
        .bind(each(&known, |change| change.after.facts.authorized()))
        .bind(each(&known, |change| change.after.facts.captured()))
        .bind(each(&known, |change| change.after.facts.refunded()))
        .bind(each(&known, |change| change.after.version))
        .bind(each(&known, |change| members::facts(&change.after.facts)))
        .bind(each(&known, |change| change.after.facts.expires_at_us.and_then(timestamp)))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        expect_rows("known payments", updated, known.len())?;
    }
    if !new.is_empty() {
        let inserted = sqlx::query(
            "insert into payments (source, payment_id, account_id, currency, state, authorized, captured, refunded, version, facts,
                                   expires_at)
             select unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
                    unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bigint[]),
                    unnest($10::text[])::jsonb, unnest($11::timestamptz[])",
        )
        .bind(each(&new, |change| change.key.source.as_str()))
        .bind(each(&new, |change| change.key.payment_id.as_str()))
        .bind(each(&new, |change| change.after.account_id.as_str()))
        .bind(each(&new, |change| change.after.currency.as_str()))
        .bind(each(&new, |change| change.after.facts.state().as_str()))
        .bind(each(&new, |change| change.after.facts.authorized()))
        .bind(each(&new, |change| change.after.facts.captured()))
        .bind(each(&new, |change| change.after.facts.refunded()))
        .bind(each(&new, |change| change.after.version))
        .bind(each(&new, |change| members::facts(&change.after.facts)))
        .bind(each(&new, |change| change.after.facts.expires_at_us.and_then(timestamp)))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        expect_rows("new payments", inserted, new.len())?;
    }
    Ok(())
}
