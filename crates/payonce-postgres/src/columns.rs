//! Columns read back as what they were written from. What payonce could not have written is refused.

use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;

use super::{StoreError, members};
use payonce_ledger::{
    AccountId, Amount, Callback, CaseId, Currency, EventId, Fingerprint, Key, Kind, OperationId, PaymentId,
    PaymentKey, Reason, Source, StoredCase,
};

/// The columns of a quarantined callback.
pub(super) const CASE_COLUMNS: &str = "q.id, q.reason, q.source, q.event_id, q.type, q.account_id, q.payment_id, q.operation_id, q.amount, q.currency, q.is_final, \
     q.occurred_at, q.fingerprint, q.members::text as members";

/// A case that holds a callback, of [`CASE_COLUMNS`].
pub(super) fn stored_case(row: &PgRow) -> Result<StoredCase, StoreError> {
    Ok(StoredCase {
        id: CaseId(row.try_get("id")?),
        reason: column(row, "reason", Reason::parse)?,
        account_id: optional(row, "account_id", |text| AccountId::new(text).ok())?,
        callback: callback(row)?,
    })
}

pub(super) fn fingerprint(row: &PgRow) -> Result<Fingerprint, StoreError> {
    let bytes: &[u8] = row.try_get("fingerprint")?;
    Ok(Fingerprint(bytes.try_into().map_err(|_| unreadable("fingerprint"))?))
}

pub(super) fn payment_key(row: &PgRow) -> Result<PaymentKey, StoreError> {
    Ok(PaymentKey {
        source: column(row, "source", |text| Source::new(text).ok())?,
        payment_id: column(row, "payment_id", |text| PaymentId::new(text).ok())?,
    })
}

/// A quarantine row's callback, as it was when it came.
pub(super) fn callback(row: &PgRow) -> Result<Callback, StoreError> {
    let occurred_at: Option<OffsetDateTime> = row.try_get("occurred_at")?;
    let mut callback = Callback {
        key: Key {
            source: column(row, "source", |text| Source::new(text).ok())?,
            event_id: column(row, "event_id", |text| EventId::new(text).ok())?,
        },
        kind: column(row, "type", Kind::parse)?,
        account_id: optional(row, "account_id", |text| AccountId::new(text).ok())?,
        assigned_to: None,
        payment_id: optional(row, "payment_id", |text| PaymentId::new(text).ok())?,
        operation_id: optional(row, "operation_id", |text| OperationId::new(text).ok())?,
        amount: Amount::new(row.try_get("amount")?).ok_or_else(|| unreadable("amount"))?,
        currency: column(row, "currency", Currency::parse)?,
        is_final: row.try_get("is_final")?,
        is_cumulative: false,
        expires_at_us: None,
        to: None,
        direction: None,
        reverses: None,
        occurred_at_us: occurred_at.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000).ok()),
        fingerprint: fingerprint(row)?,
    };
    members::restore(&mut callback, row.try_get("members")?)?;
    Ok(callback)
}

pub(super) fn column<T>(
    row: &PgRow,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, StoreError> {
    parse(row.try_get(name)?).ok_or_else(|| unreadable(name))
}

pub(super) fn optional<T>(
    row: &PgRow,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, StoreError> {
    let text: Option<&str> = row.try_get(name)?;
    text.map(|text| parse(text).ok_or_else(|| unreadable(name))).transpose()
}

pub(super) fn unreadable(column: &str) -> StoreError {
    StoreError::Refused(format!(
        "a stored row has a {column} that payonce could not have written; run `payonce audit`"
    ))
}
