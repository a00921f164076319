//! The pages, one for each question an operator has. Each is a function from a request to markup; all SQL is in the store.

pub(super) mod adjust;
mod amounts;
pub(super) mod approvals;
pub(super) mod audit_log;
pub(super) mod case;
pub(super) mod case_filter;
mod case_groups;
mod case_work;
mod confirmation;
pub(super) mod debts;
pub(super) mod duplicates;
pub(super) mod find;
pub(super) mod login;
pub(super) mod nowhere;
pub(super) mod overview;
pub(super) mod providers;
pub(super) mod quarantine;
pub(super) mod reports;
pub(super) mod statement;
pub(super) mod stories;
pub(super) mod workers;
