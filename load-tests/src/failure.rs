//! How a command ends that does not end well.

/// Why a command did not end with exit code 0.
#[derive(Debug)]
pub enum Failure {
    /// The audit failed, or the run did; these words say how.
    No(String),
    /// Wrong usage.
    Usage(String),
    /// A server could not be reached.
    Unreachable(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::No(format!("{error:#}"))
    }
}
