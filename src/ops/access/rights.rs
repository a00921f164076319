//! Which role may do what: the one table that routes, pages and forms ask. What must not live here: who somebody is, and how that is proven.

use crate::config::{Role, Roles};

/// What a request does. Each route behind the login says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Action {
    /// See a page or its JSON; bodies are masked for everybody.
    View,
    /// Take a list away as a file: cases, the audit log, the statement of an account.
    Export,
    /// Reports of a period: movements, balances, clearing accounts.
    Report,
    /// Replay, discard, reopen and assign cases.
    WorkCases,
    /// Post a correction, or propose it where a second person is needed.
    Adjust,
    /// Approve or reject a proposal, never one's own.
    Decide,
}

impl Action {
    /// The roles that may. To add an action is to decide this; `access::each_route_is_open_to_its_roles_and_no_other` asks each route for each role.
    pub(super) const fn roles(self) -> &'static [Role] {
        match self {
            Self::View => &Role::ALL,
            Self::Export => &[Role::Operator, Role::Finance, Role::Admin],
            Self::Report => &[Role::Finance, Role::Admin],
            Self::WorkCases | Self::Adjust => &[Role::Operator, Role::Admin],
            Self::Decide => &[Role::Approver, Role::Admin],
        }
    }

    /// Whether somebody with these roles may.
    pub(super) fn is_open_to(self, roles: &Roles) -> bool {
        roles.has_any(self.roles())
    }

    /// In words, as in "Your role is viewer; to … needs …".
    const fn words(self) -> &'static str {
        match self {
            Self::View => "see this",
            Self::Export => "take a list away as a file",
            Self::Report => "see reports",
            Self::WorkCases => "work cases",
            Self::Adjust => "adjust an account",
            Self::Decide => "approve or reject",
        }
    }

    /// Why somebody with these roles may not.
    pub(super) fn refusal(self, roles: &Roles) -> String {
        let needed: Vec<&str> = self.roles().iter().map(|role| role.as_str()).collect();
        format!("Your access: {roles}. To {} you need one of: {}.", self.words(), needed.join(", "))
    }
}
