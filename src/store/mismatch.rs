//! Two contents under one key, field by field: what a person compares. Nothing here is decided on.

use serde::Serialize;
use sqlx::PgConnection;

use super::{StoreError, quarantine::CaseDetail};
use crate::ledger::Reason;

/// One field of two callbacks under one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name, as in the message.
    pub field: &'static str,
    /// Of the callback that was there first; null: absent.
    pub first: Option<String>,
    /// Of this case; null: absent.
    pub received: Option<String>,
    /// Whether they differ.
    pub differs: bool,
}

type Content = (Option<String>, Option<String>, Option<String>, Option<String>, Option<i64>, Option<String>);

/// Both contents of a case with reason `payload_mismatch`, field by field: what was there first under its event id, or else its operation id,
/// in the ledger or as an older case. Empty for every other case, and where that callback is gone.
///
/// # Errors
/// [`StoreError`].
pub async fn fields(connection: &mut PgConnection, detail: &CaseDetail) -> Result<Vec<Field>, StoreError> {
    if detail.case.reason != Reason::PayloadMismatch.as_str() {
        return Ok(Vec::new());
    }
    let first: Option<Content> = sqlx::query_as(
        "select type, account_id, payment_id, operation_id, amount, currency from (
             (select 1 as rank, type, account_id, payment_id, operation_id, amount, currency from ledger
              where event_id = $2 and source = $1 limit 1)
             union all
             (select 2, type, account_id, payment_id, operation_id, amount, currency from ledger
              where operation_id = $4 and type = $3 and source = $1 limit 1)
             union all
             (select 3, type, account_id, payment_id, operation_id, amount, currency from quarantine
              where event_id = $2 and source = $1 and type is not null and id < $5 order by id limit 1)
         ) f order by rank limit 1",
    )
    .bind(&detail.case.source)
    .bind(&detail.case.event_id)
    .bind(&detail.kind)
    .bind(&detail.operation_id)
    .bind(detail.case.id)
    .fetch_optional(connection)
    .await?;
    let Some((kind, account_id, payment_id, operation_id, amount, currency)) = first else {
        return Ok(Vec::new());
    };
    let number = |amount: Option<i64>| amount.map(|amount| amount.to_string());
    let fields = [
        ("type", kind, detail.kind.clone()),
        ("subject", account_id, detail.account_id.clone()),
        ("payment_id", payment_id, detail.payment_id.clone()),
        ("operation_id", operation_id, detail.operation_id.clone()),
        ("amount", number(amount), number(detail.amount)),
        ("currency", currency, detail.currency.clone()),
    ];
    let field = |(field, first, received)| Field { field, differs: first != received, first, received };
    Ok(fields.map(field).into())
}
