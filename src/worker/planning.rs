//! Load and decide: what a batch needs to know is read, and of the ledger no more than cannot be proved by writing. What must not live here:
//! anything that writes.

use tracing::Span;

use super::stage::Timed;
use crate::{
    crash::{self, Point},
    ledger::{Callback, Layer, Outcome, Plan, Snapshot},
    metrics::Stage,
    store::{self, Connection, StoreError},
};

/// Loads what is known of `callbacks` and decides them.
///
/// Those that `is_new` says nobody has seen (one flag for each, as Redis believes) are at first not looked for in the ledger. Where that
/// leads to a ledger row, the ledger's unique keys prove or refuse it; any other outcome, and what follows from it, stands only after a
/// look. `decide` is asked again after each, and must be pure.
///
/// # Errors
/// [`StoreError`]; nothing is written.
pub async fn plan(
    connection: &mut Connection,
    span: &Span,
    callbacks: &[Callback],
    is_new: &[bool],
    decide: impl Fn(&Snapshot, &[Callback]) -> Plan,
) -> Result<Plan, StoreError> {
    let mut stage = Timed::begin(span, Stage::Load);
    let mut snapshot = if callbacks.is_empty() {
        Snapshot::default()
    } else {
        connection.run(async |connection| store::load_besides_ledger(connection, callbacks).await).await?
    };
    let mut is_wanted: Vec<bool> = is_new.iter().map(|is_new| !*is_new).collect();
    let mut is_looked_up = vec![false; callbacks.len()];
    loop {
        let flags = is_wanted.iter().zip(&is_looked_up);
        let wanted = callbacks.iter().zip(flags).filter(|(_, (wanted, looked_up))| **wanted && !**looked_up);
        let wanted: Vec<&Callback> = wanted.map(|(callback, _)| callback).collect();
        connection.run(async |connection| store::add_ledger(connection, wanted, &mut snapshot).await).await?;
        is_looked_up.clone_from(&is_wanted);
        stage.end();
        crash::reach(Point::AfterLoad).await?;

        stage = Timed::begin(span, Stage::Decide);
        let plan = decide(&snapshot, callbacks);
        stage.end();
        for (wanted, outcome) in is_wanted.iter_mut().zip(&plan.outcomes) {
            *wanted |= !is_proved_by_writing(*outcome);
        }
        if is_wanted == is_looked_up {
            return Ok(plan);
        }
        stage = Timed::begin(span, Stage::Load);
    }
}

/// Whether this outcome would fail to be written, were the callback in the ledger already.
fn is_proved_by_writing(outcome: Outcome) -> bool {
    match outcome {
        // A copy in the batch is one of a callback whose outcome is asked about too.
        Outcome::Applied | Outcome::Duplicate(Layer::Batch) => true,
        Outcome::Duplicate(Layer::Redis | Layer::Ledger | Layer::Operation | Layer::Quarantine)
        | Outcome::Quarantined(_)
        | Outcome::Waiting(_) => false,
    }
}
