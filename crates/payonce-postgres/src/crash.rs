//! Crash points: named places between the steps of a message's walk at which a test makes the process die, fail or stall.
//!
//! Configured by `PAYONCE_CRASH_POINT=NAME=ACTION` or `NAME=ACTION@N` (the N-th time it is reached; else the first); it acts once.
//! Only builds with debug assertions have any of it: in a release build [`hit`] is an empty function.

/// A place where a test can make things go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Deliveries were taken and no lane has them yet.
    AfterConsume,
    /// Redis has the claims.
    AfterClaim,
    /// The snapshot is loaded.
    AfterLoad,
    /// The transaction has changed accounts, and has no ledger row yet.
    AfterAccounts,
    /// The transaction has its ledger rows.
    AfterInsert,
    /// The transaction has written cases.
    AfterCases,
    /// Everything is written, nothing committed.
    BeforeCommit,
    /// PostgreSQL has committed, and nobody was told.
    AfterCommit,
    /// Redis has the done markers.
    AfterMarker,
    /// The batch is done, and the broker was not told.
    BeforeAck,
    /// The acknowledgement is written.
    AfterAck,
    /// Overdue cases were found.
    Sweep,
    /// Stored cases were loaded to be decided again.
    Replay,
}

impl Point {
    /// All of them, in the order of a message's walk.
    pub const ALL: [Self; 13] = [
        Self::AfterConsume,
        Self::AfterClaim,
        Self::AfterLoad,
        Self::AfterAccounts,
        Self::AfterInsert,
        Self::AfterCases,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::AfterMarker,
        Self::BeforeAck,
        Self::AfterAck,
        Self::Sweep,
        Self::Replay,
    ];

    /// As in the environment variable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfterConsume => "after_consume",
            Self::AfterClaim => "after_claim",
            Self::AfterLoad => "after_load",
            Self::AfterAccounts => "after_accounts",
            Self::AfterInsert => "after_insert",
            Self::AfterCases => "after_cases",
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::AfterMarker => "after_marker",
            Self::BeforeAck => "before_ack",
            Self::AfterAck => "after_ack",
            Self::Sweep => "sweep",
            Self::Replay => "replay",
        }
    }
}

/// A crash point is configured to fail here.
#[derive(Debug, thiserror::Error)]
#[error("crash point {0}")]
pub struct Injected(&'static str);

/// Does what this process is configured to do here.
///
/// # Errors
/// [`Injected`] where it is configured to fail.
#[cfg(not(debug_assertions))]
pub async fn hit(_point: Point) -> Result<(), Injected> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use configured::hit;

#[cfg(debug_assertions)]
mod configured {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use tracing::warn;

    use super::{Injected, Point};

    /// Longer than a claim and every deadline that the tests set.
    const STALL: Duration = Duration::from_secs(4);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Abort,
        Error,
        Stall,
    }

    struct Configured {
        point: Point,
        action: Action,
        /// Times to pass before it acts.
        left: AtomicU32,
    }

    static CONFIGURED: LazyLock<Option<Configured>> = LazyLock::new(|| {
        let text = std::env::var("PAYONCE_CRASH_POINT").ok()?;
        Some(read(&text).unwrap_or_else(|| {
            panic!("PAYONCE_CRASH_POINT: expected NAME=abort|error|stall[@N], found {text:?}")
        }))
    });

    fn read(text: &str) -> Option<Configured> {
        let (name, rest) = text.split_once('=')?;
        let (action, times) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action {
            "abort" => Action::Abort,
            "error" => Action::Error,
            "stall" => Action::Stall,
            _ => return None,
        };
        let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
        Some(Configured { point, action, left: AtomicU32::new(times.parse().ok()?) })
    }

    /// Does what this process is configured to do here.
    ///
    /// # Errors
    /// [`Injected`] where it is configured to fail.
    pub async fn hit(point: Point) -> Result<(), Injected> {
        let Some(configured) = CONFIGURED.as_ref().filter(|configured| configured.point == point) else {
            return Ok(());
        };
        // Zero means that it has acted.
        let one_less = |left: u32| left.checked_sub(1);
        if configured.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) != Ok(1) {
            return Ok(());
        }
        warn!(point = point.name(), action = ?configured.action, "crash point reached");
        match configured.action {
            Action::Abort => std::process::abort(),
            Action::Error => Err(Injected(point.name())),
            Action::Stall => {
                tokio::time::sleep(STALL).await;
                Ok(())
            }
        }
    }
}
