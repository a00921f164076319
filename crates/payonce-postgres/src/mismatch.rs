//! Two contents under one key, field by field: what a person compares. Nothing here is decided on.

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{
    StoreError,
    operation_index::{has_operation, in_ledger_operation},
    quarantine::CaseDetail,
};
use payonce_ledger::Reason;

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

/// The members that make two messages with one key the same callback (contract §2), in the order in which they are shown; each with its SQL,
/// in which `{final}` is what the table says of `final`.
const MEMBERS: [(&str, &str); 12] = [
    ("type", "type"),
    ("subject", "case when members ? 'subject' then members ->> 'subject' else account_id end"),
    ("payment_id", "payment_id"),
    ("operation_id", "operation_id"),
    ("amount", "amount::text"),
    ("currency", "currency"),
    (
        "final",
        "case when type in ('payment.captured', 'payment.voided') then coalesce(members ->> 'final', {final}) end",
    ),
    ("cumulative", "members ->> 'cumulative'"),
    (
        "expires_at",
        // In two parts: an interval times a bigint is a double, which has not every microsecond from the year 2255 on.
        "to_char(timestamptz 'epoch' + (members ->> 'expires_at_us')::bigint / 1000000 * interval '1 second'
                     + (members ->> 'expires_at_us')::bigint % 1000000 * interval '1 microsecond',
                 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    ),
    ("to", "members ->> 'to'"),
    ("direction", "members ->> 'direction'"),
    ("reverses", "members ->> 'reverses'"),
];

fn content(is_final: &str) -> String {
    MEMBERS.map(|(_, sql)| sql.replace("{final}", is_final)).join(", ")
}

/// Both contents of a case with reason `payload_mismatch`, field by field: what was there first under its event id, or else its operation id,
/// in the ledger or as an older case. Empty for every other case, and where that callback is gone.
///
/// # Errors
/// [`StoreError`].
pub async fn fields(connection: &mut PgConnection, detail: &CaseDetail) -> Result<Vec<Field>, StoreError> {
    if detail.case.reason != Reason::PayloadMismatch.as_str() {
        return Ok(Vec::new());
    }
    let of_ledger = content("(type = 'payment.voided')::text");
    let in_index = in_ledger_operation!();
    let of_case = content("is_final::text");
    let columns: Vec<String> = (1..=MEMBERS.len()).map(|at| format!("f[{at}]")).collect();
    let columns = columns.join(", ");
    let first = format!(
        "select {columns} from (
             (select 1 as rank, array[{of_ledger}] as f from ledger
              where event_id = $2 and source = $1 and leg = 0 limit 1)
             union all
             (select 2, array[{of_ledger}] from ledger l
              where coalesce(operation_id, payment_id) = $4 and operation_id = $4 and type = $3 and source = $1 and {in_index}
              limit 1)
             union all
             (select 3, array[{of_case}] from quarantine
              where event_id = $2 and source = $1 and type is not null and id < $5 order by id limit 1)
         ) f order by rank limit 1"
    );
    let first = sqlx::query(AssertSqlSafe(first))
        .bind(&detail.case.source)
        .bind(&detail.case.event_id)
        .bind(&detail.case.kind)
        .bind(&detail.case.operation_id)
        .bind(detail.case.id)
        .fetch_optional(&mut *connection)
        .await?;
    let received = sqlx::query(AssertSqlSafe(format!("select {of_case} from quarantine where id = $1")))
        .bind(detail.case.id)
        .fetch_optional(connection)
        .await?;
    let Some((first, received)) = first.zip(received) else { return Ok(Vec::new()) };
    MEMBERS
        .iter()
        .enumerate()
        .map(|(at, (field, _))| {
            let (first, received): (Option<String>, Option<String>) =
                (first.try_get(at)?, received.try_get(at)?);
            Ok(Field { field, differs: first != received, first, received })
        })
        .collect()
}
