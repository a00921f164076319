//! The roles of people in `payonce ops`: their names. What each may do is decided in `ops/access/rights.rs`.

use std::{collections::BTreeSet, fmt};

/// What somebody is trusted with. A person may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees every page but reports.
    Viewer,
    /// Works cases and posts corrections.
    Operator,
    /// Decides what other people proposed.
    Approver,
    /// Takes reports and lists away.
    Finance,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Approver, Self::Finance, Self::Admin];

    /// As it is written in settings, on pages and in errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Finance => "finance",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// The roles of one person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(BTreeSet<Role>);

impl Roles {
    /// Whether one of these is among them.
    #[must_use]
    pub fn has_any(&self, of: &[Role]) -> bool {
        of.iter().any(|role| self.0.contains(role))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().collect())
    }
}

/// With commas between them; `no role` where there is none.
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no role");
        }
        let names: Vec<&str> = self.0.iter().map(|role| role.as_str()).collect();
        f.write_str(&names.join(", "))
    }
}
