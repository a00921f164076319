//! The audit as a whole: what PostgreSQL stores (`store::audit`), and the done markers in Redis that speak of it. For `payonce audit`
//! and for the audits of `payonce ops`. What must not live here: SQL, and what becomes of findings.

use crate::{
    dedupe::Dedupe,
    store::{self, Finding, PgConnection, StoreError},
};

/// Violations that are shown.
const EXAMPLES_MAX: usize = 5;

/// The check of done markers.
pub const MARKERS: &str = "markers_have_rows";
const PROMISE: &str = "every callback that Redis remembers as committed has its ledger row";

/// Where a look at the markers begins; `Default`: at the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place(u64);

/// Every done marker has its ledger row. One without names a callback that was committed and acknowledged, and that this database does
/// not have: it was restored, or lost commits. (Or Redis was restored, or written to by somebody else.) No marker can hide a payment;
/// this says which payments to ask the provider for again.
///
/// Looks at the markers from `place` on, about `markers_max` of them, and leaves `place` where the next look goes on; at the end it
/// begins again. Skipped where Redis cannot be asked: the rest of an audit stands without it.
///
/// # Errors
/// [`StoreError`] where PostgreSQL cannot be asked.
pub async fn markers(
    dedupe: &Dedupe,
    connection: &mut PgConnection,
    place: &mut Place,
    markers_max: usize,
) -> Result<Finding, StoreError> {
    let (mut looked_at, mut violations, mut examples) = (0, 0_i64, Vec::new());
    loop {
        let (remembered, next) = match dedupe.markers(place.0).await {
            Ok(found) => found,
            Err(error) => return Ok(not_checked(format!("Redis: {error}"))),
        };
        let missing = store::not_in_ledger(connection, &remembered).await?;
        violations = violations.saturating_add(i64::try_from(missing.len()).unwrap_or(i64::MAX));
        let left = EXAMPLES_MAX.saturating_sub(examples.len());
        examples.extend(missing.iter().take(left).map(ToString::to_string));
        looked_at += remembered.len();
        *place = Place(next.unwrap_or_default());
        if next.is_none() || looked_at >= markers_max {
            return Ok(Finding::of(MARKERS, PROMISE, violations, examples));
        }
    }
}

/// The same check where nobody could make it.
#[must_use]
pub fn not_checked(why: String) -> Finding {
    Finding::skipped(MARKERS, PROMISE, why)
}
