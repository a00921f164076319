//! What operators do to cases and accounts, and what they look at first: replays, discards, reopenings, assignments, adjustments,
//! approvals, dry runs. The same code for the pages, the API and the command line. What must not live here: HTTP, arguments, and any
//! decision about a callback, which are the ledger's.

pub mod adjust;
pub mod approvals;
pub mod case_actions;
pub mod dry_run;
pub mod reverify;

use crate::{
    config::{Approvals, Policy},
    ingress::endpoint::Endpoints,
    keys::Keys,
    references::ReferenceFields,
};

/// What a process that serves operators runs their actions with.
pub struct Operators {
    /// Who may sign, as it is at each action: for cases that were refused for their signature.
    pub keys: Keys,
    /// How webhooks that could not be mapped are mapped again.
    pub endpoints: Endpoints,
    /// By which rules cases are decided, and what is masked.
    pub policy: Policy,
    /// Which references of callbacks are kept.
    pub references: ReferenceFields,
    /// Which actions need a second person.
    pub approvals: Approvals,
}
