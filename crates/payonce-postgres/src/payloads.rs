//! The audit's check of `payload_sha256`: recomputed in SQL from what each ledger row keeps, with nothing of the code that wrote it
//! (`ledger::Callback::canonical_fingerprint`). So a column that was changed behind payonce shows, and so does a fault in how hashes are made.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{StoreError, audit::Finding};

/// The check's name.
pub const PAYLOADS: &str = "payloads_are_their_hashes";
const PROMISE: &str = "each row's payload_sha256 is the hash of its type, subject, payment, operation, amount, currency and members";

/// How many violations are shown.
const EXAMPLES_MAX: i64 = 5;

/// Rows of before this schema did not keep `final`.
const MEMBERS_SINCE_SCHEMA: i64 = 14;

/// A text as the canonical form has it (contract §2): its length in bytes as a big-endian 32-bit integer, then itself; an absent one is
/// four bytes of ones.
fn text(expression: &str) -> String {
    format!(
        "coalesce(int4send(octet_length({expression})) || convert_to({expression}, 'UTF8'), '\\xffffffff'::bytea)"
    )
}

/// A member that is written after its name where it is present, and not at all where not.
fn named(name: &str, expression: &str) -> String {
    format!(
        "coalesce({} || nullif({}, '\\xffffffff'::bytea), ''::bytea)",
        text(&format!("'{name}'")),
        text(expression)
    )
}

/// The hash of the row `l`, with this as its `final`.
fn hash(is_final: &str) -> String {
    let always = [
        "l.type",
        "case when l.members ? 'subject' then l.members ->> 'subject' else l.account_id end",
        "l.payment_id",
        "l.operation_id",
        "l.amount::text",
        "l.currency",
        is_final,
    ]
    .map(text);
    let rare = [
        ("cumulative", "l.members ->> 'cumulative'"),
        ("expires_at", "l.members ->> 'expires_at_us'"),
        ("to", "l.members ->> 'to'"),
        ("direction", "l.members ->> 'direction'"),
        ("reverses", "l.members ->> 'reverses'"),
    ]
    .map(|(name, expression)| named(name, expression));
    format!("sha256({} || {})", always.join(" || "), rare.join(" || "))
}

/// Every ledger row, or with `since` those recorded from then on. A capture or void of before schema 14 whose hash agrees with some `final`,
/// but not with the default, proves nothing: it is counted as skipped.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn check(
    transaction: &mut PgConnection,
    since: Option<OffsetDateTime>,
) -> Result<Finding, StoreError> {
    let stored_final = "case when l.type = 'payment.voided'
                             then case when l.members ->> 'final' = 'false' then 'partial' else 'false' end
                             else coalesce(l.members ->> 'final', 'false') end";
    let sql = format!(
        "select format('%s %s leg %s: payload_sha256 is not the hash of what the row keeps', source, event_id, leg), is_unproven,
                count(*) filter (where not is_unproven) over () as violations, count(*) filter (where is_unproven) over () as skipped
         from (select l.source, l.event_id, l.leg,
                      coalesce(l.leg = 0 and l.members is null and l.type in ('payment.captured', 'payment.voided')
                               and l.recorded_at < (select installed_on from _sqlx_migrations where version = {MEMBERS_SINCE_SCHEMA})
                               and l.payload_sha256 in ({}, {}), false) as is_unproven
               from ledger l
               where ($1::timestamptz is null or l.recorded_at >= $1)
                 and case when l.leg = 0 then l.payload_sha256 <> {}
                          -- The other leg of a transfer says the same callback.
                          else not exists (select from ledger z
                                           where z.event_id = l.event_id and z.source = l.source and z.leg = 0
                                             and (z.type, z.amount, z.currency, z.payload_sha256)
                                                 = (l.type, l.amount, l.currency, l.payload_sha256)
                                             and (z.payment_id, z.operation_id, z.members)
                                                 is not distinct from (l.payment_id, l.operation_id, l.members)) end) r
         order by is_unproven limit {EXAMPLES_MAX}",
        hash("'true'"),
        hash("'partial'"),
        hash(stored_final)
    );
    let rows: Vec<(String, bool, i64, i64)> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(since).fetch_all(transaction).await?;
    let (violations, skipped) =
        rows.first().map_or((0, 0), |(_, _, violations, skipped)| (*violations, *skipped));
    let examples =
        rows.into_iter().filter(|(_, is_unproven, ..)| !is_unproven).map(|(text, ..)| text).collect();
    Ok(Finding { skipped_rows: skipped, ..Finding::of(PAYLOADS, PROMISE, violations, examples) })
}
