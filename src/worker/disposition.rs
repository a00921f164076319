//! The only table from what the database said to what happens next.

use crate::store::StoreError;

/// What to do with a batch, or a part of one, that was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Load and decide again at once.
    DecideAgain,
    /// The same again, on a new connection, after a pause.
    Wait,
    /// Cut it in half, to find the message that cannot be written and let its neighbours go on.
    Split,
    /// It is that message: the broker moves it to the dead-letter queue.
    DeadLetter,
}

/// `conflicts`: how often in a row this batch has lost a race. `messages`: how many it has.
pub(super) fn after(
    error: &StoreError,
    conflicts: u64,
    conflict_retries_max: u64,
    messages: usize,
) -> NextStep {
    match error {
        StoreError::Conflict(_) if conflicts <= conflict_retries_max => NextStep::DecideAgain,
        // Never given up: a lost race says nothing against the callback.
        StoreError::Conflict(_) | StoreError::Unavailable(_) | StoreError::Unfit(_) => NextStep::Wait,
        StoreError::Refused(_) if messages > 1 => NextStep::Split,
        StoreError::Refused(_) => NextStep::DeadLetter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_the_database_refuses_by_itself_is_dead_lettered() {
        let conflict = StoreError::Conflict(String::new());
        let away = StoreError::Unavailable(String::new());
        let refused = StoreError::Refused(String::new());
        for (error, conflicts, messages, expected) in [
            (&conflict, 1, 1, NextStep::DecideAgain),
            (&conflict, 20, 500, NextStep::DecideAgain),
            (&conflict, 21, 1, NextStep::Wait),
            (&away, 0, 1, NextStep::Wait),
            (&away, 1_000_000, 500, NextStep::Wait),
            (&refused, 0, 2, NextStep::Split),
            (&refused, 0, 1, NextStep::DeadLetter),
        ] {
            assert_eq!(after(error, conflicts, 20, messages), expected, "{error} {conflicts} {messages}");
        }
    }
}
