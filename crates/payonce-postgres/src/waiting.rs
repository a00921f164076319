//! Callbacks that wait: those that a batch may release, those whose time is up, those whose cause has come unseen.

use std::{collections::HashSet, time::Duration};

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    StoreError,
    columns::{CASE_COLUMNS, callback, stored_case},
    load::named_accounts,
};
use payonce_ledger::{AccountId, Callback, CaseId, Expires, PaymentKey, Reason, Snapshot};

/// Waiting callbacks that a batch looks at for one payment, or for one account, at most. What waits behind them is found by the sweep.
const WAITING_PER_KEY_MAX: i64 = 64;

/// Waiting transfers, each with the money of the one before, that a batch follows. What waits behind them is found by the sweep.
const TRANSFERS_IN_A_ROW_MAX: usize = 8;

/// Waiting callbacks that a batch looks at in all.
const WAITING_MAX: i64 = 1_000;

/// Since when the callback has waited that has waited longest, for a payment and for money; `None`: none waits.
///
/// # Errors
/// [`StoreError`].
pub async fn oldest(
    connection: &mut PgConnection,
) -> Result<[(Reason, Option<OffsetDateTime>); 2], StoreError> {
    let mut of = async |reason: Reason| {
        // The index over (reason, waits_since) of those that wait.
        let oldest = "select min(waits_since) from quarantine where state = 'waiting' and reason = $1";
        let found = sqlx::query_scalar(oldest).bind(reason.as_str()).fetch_one(&mut *connection).await?;
        Ok::<_, StoreError>((reason, found))
    };
    Ok([of(Reason::WaitingForPayment).await?, of(Reason::WaitingForFunds).await?])
}

/// What waits for the payments of the batch and for these, and for money of its accounts, `found` ones included, and of those that a waiting transfer
/// brings money to in turn; then what else waits for the payments of those.
pub(super) async fn load_waiting(
    connection: &mut PgConnection,
    callbacks: &[Callback],
    (found, mut payments): (&[AccountId], HashSet<PaymentKey>),
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    payments.extend(callbacks.iter().filter_map(Callback::payment_key));
    // Where any names no account, which of them those are about that bring money is not told apart.
    let mut next = named_accounts(callbacks.iter().filter(|callback| callback.kind.may_bring_funds()));
    next.extend(found.iter().cloned());
    let mut looked_at: HashSet<AccountId> = HashSet::new();
    let by_account = format!(
        "select {CASE_COLUMNS}
         from unnest($1::text[]) as k(account_id),
              lateral (select * from (
                  (select * from quarantine q where q.account_id = k.account_id and q.state = 'waiting'
                   and q.reason = 'waiting_for_funds' order by q.id limit {WAITING_PER_KEY_MAX})
                  union all
                  (select * from quarantine q where q.members ->> 'to' = k.account_id and q.members ? 'to'
                   and q.state = 'waiting' and q.reason = 'waiting_for_funds' order by q.id limit {WAITING_PER_KEY_MAX})) q) q
         order by q.id limit {WAITING_MAX}"
    );
    let mut rows = Vec::new();
    for _ in 0..TRANSFERS_IN_A_ROW_MAX {
        // Only an account with cases can have one that waits.
        next.retain(|id| snapshot.accounts.get(id).is_none_or(|account| account.cases > 0));
        if next.is_empty() {
            break;
        }
        let found = sqlx::query(sqlx::AssertSqlSafe(by_account.clone()))
            .bind(next.iter().map(AccountId::as_str).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        looked_at.extend(next.drain());
        for row in &found {
            let callback = callback(row)?;
            payments.extend(callback.payment_key());
            next.extend(callback.receiver().filter(|to| !looked_at.contains(*to)).cloned());
        }
        rows.extend(found);
    }
    let by_payment = format!(
        "select {CASE_COLUMNS}
         from unnest($1::text[], $2::text[]) as k(source, payment_id),
              lateral (select * from quarantine q
                       where q.payment_id = k.payment_id and q.source = k.source and q.state = 'waiting'
                       order by q.id limit {WAITING_PER_KEY_MAX}) q
         order by q.id limit {WAITING_MAX}"
    );
    if !payments.is_empty() {
        let more = sqlx::query(sqlx::AssertSqlSafe(by_payment))
            .bind(payments.iter().map(|key| key.source.as_str()).collect::<Vec<_>>())
            .bind(payments.iter().map(|key| key.payment_id.as_str()).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        rows.extend(more);
    }
    let mut seen = HashSet::new();
    for row in &rows {
        let case = stored_case(row)?;
        if seen.insert(case.id) {
            snapshot.waiting.push(case);
        }
    }
    snapshot.waiting.sort_by_key(|case| case.id);
    Ok(())
}

/// Since when a case waits, and which it is: the order in which they are looked at.
pub type WaitsSince = (OffsetDateTime, CaseId);

/// The cases that have waited longer than `limit` for what `expires` says, by the database's clock, the oldest first; those after `after`
/// where it is given.
///
/// # Errors
/// [`StoreError`].
pub async fn overdue(
    connection: &mut PgConnection,
    expires: Expires,
    limit: Duration,
    after: Option<WaitsSince>,
    cases_max: i64,
) -> Result<Vec<WaitsSince>, StoreError> {
    let reason = match expires {
        Expires::Nothing => return Ok(Vec::new()),
        Expires::Payment => Reason::WaitingForPayment,
        Expires::Funds => Reason::WaitingForFunds,
    };
    let rows: Vec<(OffsetDateTime, i64)> = sqlx::query_as(
        "select waits_since, id from quarantine
         where state = 'waiting' and reason = $1 and waits_since <= clock_timestamp() - $2 * interval '1 millisecond'
           and (waits_since, id) > (coalesce($4, '-infinity'::timestamptz), $5)
         order by waits_since, id limit $3",
    )
    .bind(reason.as_str())
    .bind(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX))
    .bind(cases_max)
    .bind(after.map(|(since, _)| since))
    .bind(after.map_or(0, |(_, id)| id.0))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(since, id)| (since, CaseId(id))).collect())
}

/// Waiting cases that one look for ripe ones reads at most.
const LOOKED_AT_MAX: i64 = 2_000;

/// Waiting cases after `after` whose cause may have come, oldest first, at most `cases_max`; and the case to go on after, 0 at the end. A
/// batch releases what waits in the transaction that brings its cause; this finds what was too much for that batch, or was stored at
/// the same moment under another account.
///
/// # Errors
/// [`StoreError`].
pub async fn ripe(
    connection: &mut PgConnection,
    after: i64,
    cases_max: i64,
) -> Result<(Vec<CaseId>, i64), StoreError> {
    let rows: Vec<(i64, bool)> = sqlx::query_as(
        "select q.id,
                case when q.reason = 'waiting_for_payment' then
                         exists (select from payments p where p.payment_id = q.payment_id and p.source = q.source)
                         or exists (select from ledger_of_payments l where l.payment_id = q.payment_id and l.source = q.source)
                     else exists (select from accounts a
                                  where a.account_id = coalesce(q.account_id, (select p.account_id from payments p
                                                                               where p.payment_id = q.payment_id
                                                                                 and p.source = q.source))
                                  and (a.balance - a.held >= q.amount
                                       or q.type not in ('payment.authorized', 'payment.succeeded', 'transfer.succeeded')))
                end
         from (select * from quarantine where state = 'waiting' and id > $1 order by id limit $2) q
         order by q.id",
    )
    .bind(after)
    .bind(LOOKED_AT_MAX)
    .fetch_all(connection)
    .await?;
    let is_last = (rows.len() as i64) < LOOKED_AT_MAX;
    let found = rows.iter().filter(|(_, is_ripe)| *is_ripe).map(|(id, _)| CaseId(*id));
    let ripe: Vec<CaseId> = found.take(usize::try_from(cases_max).unwrap_or(0)).collect();
    let is_cut = ripe.len() as i64 == cases_max;
    let last = match (is_cut, is_last) {
        (true, _) => ripe.last().map_or(0, |id| id.0),
        (false, true) => 0,
        (false, false) => rows.last().map_or(0, |(id, _)| *id),
    };
    Ok((ripe, last))
}
