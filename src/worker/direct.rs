//! Callbacks that come from no queue: decided and written by whoever makes them. Nothing is acknowledged here, and no Redis is asked: the
//! ledger's unique key alone says what is a duplicate.

use crate::{
    config::Policy,
    ledger::{Callback, Plan, Rules, decide},
    store::{self, Applied, Batch, Locking, Resolver, StoreError},
};

/// What is to be done about these callbacks, on what the database knows now.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn plan(
    connection: &mut store::Connection,
    callbacks: &[Callback],
    rules: Rules,
) -> Result<Plan, StoreError> {
    let snapshot = connection.run(async |connection| store::load(connection, callbacks).await).await?;
    Ok(decide(&snapshot, callbacks, &rules))
}

/// Writes a plan for these callbacks, counted under `writer`.
///
/// # Errors
/// [`StoreError`]. After [`StoreError::Conflict`] nothing is written, and it is to be decided again.
/// After [`StoreError::Unavailable`] it is unknown whether all is written or nothing; the same callbacks may be decided again in both cases.
pub(super) async fn write(
    connection: &mut store::Connection,
    callbacks: &[Callback],
    plan: Plan,
    writer: &str,
    locking: Locking,
    policy: Policy,
) -> Result<Applied, StoreError> {
    let bodies: Vec<&[u8]> = callbacks.iter().map(|_| &b""[..]).collect();
    let batch = Batch {
        writer,
        plan,
        callbacks,
        bodies: &bodies,
        mask_cards: policy.mask_cards,
        undecodable: &[],
        resolver: Resolver::WORKER,
        proven: &[],
        remembered: &[],
        locking,
    };
    connection.run(async |connection| store::apply(connection, batch).await).await
}
