//! Load and decide: what a batch needs to know is read, and of the ledger no more than cannot be proved by writing. What must not live here:
//! anything that writes.

use payonce_ledger::{Callback, Layer, Outcome, Plan, Snapshot};

use crate::{
    Connection, StoreError, add_ledger,
    crash::{self, Point},
    load_besides_ledger,
};

/// What a plan is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading.
    Load,
    /// Deciding.
    Decide,
}

/// Loads what is known of `callbacks` and decides them.
///
/// Those that `is_new` says nobody has seen (one flag for each, as Redis believes) are at first not looked for in the ledger. Where that
/// leads to a ledger row, the ledger's unique keys prove or refuse it; any other outcome, and what follows from it, stands only after a
/// look. `decide` is asked again after each, and must be pure. `begins` is told of each phase.
///
/// # Errors
/// [`StoreError`]; nothing is written.
pub async fn plan(
    connection: &mut Connection,
    callbacks: &[Callback],
    is_new: &[bool],
    decide: impl Fn(&Snapshot, &[Callback]) -> Plan,
    mut begins: impl FnMut(Phase),
) -> Result<Plan, StoreError> {
    begins(Phase::Load);
    let mut snapshot = if callbacks.is_empty() {
        Snapshot::default()
    } else {
        connection.run(async |connection| load_besides_ledger(connection, callbacks).await).await?
    };
    let mut is_wanted: Vec<bool> = is_new.iter().map(|is_new| !*is_new).collect();
    let mut is_looked_up = vec![false; callbacks.len()];
    loop {
        let flags = is_wanted.iter().zip(&is_looked_up);
        let wanted = callbacks.iter().zip(flags).filter(|(_, (wanted, looked_up))| **wanted && !**looked_up);
        let wanted: Vec<&Callback> = wanted.map(|(callback, _)| callback).collect();
        connection.run(async |connection| add_ledger(connection, wanted, &mut snapshot).await).await?;
        is_looked_up.clone_from(&is_wanted);
        crash::hit(Point::AfterLoad).await?;

        begins(Phase::Decide);
        let plan = decide(&snapshot, callbacks);
        for (wanted, outcome) in is_wanted.iter_mut().zip(&plan.outcomes) {
            *wanted |= !is_proved_by_writing(*outcome);
        }
        if is_wanted == is_looked_up {
            return Ok(plan);
        }
        begins(Phase::Load);
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
