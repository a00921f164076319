//! The only table from what the database said to what happens next. After decoding nothing is a message's fault: there is no step that
//! gives one up.

use crate::store::StoreError;

/// What to do with a batch, or a part of one, that was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Load and decide again at once.
    DecideAgain,
    /// Again on a new connection, after a pause, in halves: what is too much for the database now may go through in parts.
    Wait,
    /// Cut it in half, to find what cannot be written and let its neighbours go on.
    Split,
    /// It is that one delivery: it waits apart, and comes again by itself.
    SetAside(Why),
}

/// Why a delivery waits apart from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Somebody holds a lock on a row that it needs, or it takes too long.
    Locked,
    /// PostgreSQL refuses it, or stores what this program cannot read: somebody has to look.
    Refused,
}

impl Why {
    /// The label in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Refused => "refused",
        }
    }
}

/// `conflicts`: how often in a row this batch had a conflict. `messages`: how many it has.
pub(super) fn after(
    error: &StoreError,
    conflicts: u64,
    conflict_retries_max: u64,
    messages: usize,
) -> NextStep {
    match error {
        StoreError::Conflict(_) if conflicts <= conflict_retries_max => NextStep::DecideAgain,
        // Never dead-lettered: a conflict says nothing against the callback. But nobody else waits for one that loses all of them.
        StoreError::Conflict(_) if messages == 1 => NextStep::SetAside(Why::Locked),
        StoreError::Conflict(_) | StoreError::Unavailable(_) | StoreError::Unfit(_) => NextStep::Wait,
        StoreError::Blocked(_) | StoreError::Refused(_) if messages > 1 => NextStep::Split,
        StoreError::Blocked(_) => NextStep::SetAside(Why::Locked),
        StoreError::Refused(_) => NextStep::SetAside(Why::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_found_by_halving_and_set_aside_never_dead_lettered() {
        let conflict = StoreError::Conflict(String::new());
        let down = StoreError::Unavailable(String::new());
        let blocked = StoreError::Blocked(String::new());
        let refused = StoreError::Refused(String::new());
        for (error, conflicts, messages, expected) in [
            (&conflict, 1, 1, NextStep::DecideAgain),
            (&conflict, 20, 500, NextStep::DecideAgain),
            (&conflict, 21, 2, NextStep::Wait),
            (&conflict, 21, 1, NextStep::SetAside(Why::Locked)),
            (&down, 0, 1, NextStep::Wait),
            (&down, 1_000_000, 500, NextStep::Wait),
            (&blocked, 0, 2, NextStep::Split),
            (&blocked, 0, 1, NextStep::SetAside(Why::Locked)),
            (&refused, 0, 2, NextStep::Split),
            (&refused, 0, 1, NextStep::SetAside(Why::Refused)),
        ] {
            assert_eq!(after(error, conflicts, 20, messages), expected, "{error} {conflicts} {messages}");
        }
    }
}
