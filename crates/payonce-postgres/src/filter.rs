//! Which cases a person means, as a condition in SQL and in words; and how a list of them is cut into pages. What must not live here: any
//! statement.

use std::fmt;

use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;

use payonce_ledger::Reason;

/// Which cases. Every part that is set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These ones; empty: any.
    pub ids: Vec<i64>,
    /// In one of these states; empty: any.
    pub states: Vec<&'static str>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// From this provider.
    pub source: Option<String>,
    /// Without a source: those of which none could be read.
    pub without_source: bool,
    /// About this account.
    pub account_id: Option<String>,
    /// Of this person.
    pub assignee: Option<String>,
    /// Of nobody.
    pub is_unassigned: bool,
    /// No newer than this case: what a person saw when they chose.
    pub id_max: Option<i64>,
    /// First seen before.
    pub seen_before: Option<OffsetDateTime>,
    /// First seen at or after.
    pub seen_since: Option<OffsetDateTime>,
}

impl fmt::Display for Filter {
    /// In words, for the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(i64::to_string).collect();
            parts.push(format!("cases {}", ids.join(", ")));
        }
        if !self.states.is_empty() {
            parts.push(self.states.join(" or "));
        }
        if let Some(reason) = self.reason {
            parts.push(format!("reason {}", reason.as_str()));
        }
        if let Some(source) = &self.source {
            parts.push(format!("source {source}"));
        }
        if self.without_source {
            parts.push("without a source".to_owned());
        }
        if let Some(account_id) = &self.account_id {
            parts.push(format!("account {account_id}"));
        }
        if let Some(assignee) = &self.assignee {
            parts.push(format!("of {assignee}"));
        }
        if self.is_unassigned {
            parts.push("of nobody".to_owned());
        }
        if let Some(id) = self.id_max {
            parts.push(format!("up to case {id}"));
        }
        if let Some(before) = self.seen_before {
            parts.push(format!("first seen before {before}"));
        }
        if let Some(since) = self.seen_since {
            parts.push(format!("first seen since {since}"));
        }
        f.write_str(if parts.is_empty() { "all" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

/// Where a page of cases ends, and how long it is.
#[derive(Debug, Clone, Copy)]
pub enum Page {
    /// The newest with a smaller id.
    Before(i64, i64),
    /// The oldest with a greater id.
    After(i64, i64),
}

impl Page {
    /// The newest cases, at most so many.
    #[must_use]
    pub fn newest(limit: i64) -> Self {
        Self::Before(i64::MAX, limit)
    }
}

pub(super) fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    query.push(" where true");
    if !filter.ids.is_empty() {
        query.push(" and id = any(").push_bind(filter.ids.clone()).push(")");
    }
    if let [state] = filter.states[..] {
        // An equality, so that the index over (state, id) gives a page in order.
        query.push(" and state = ").push_bind(state);
    } else if !filter.states.is_empty() {
        query.push(" and state = any(").push_bind(filter.states.clone()).push(")");
    }
    if let Some(reason) = filter.reason {
        query.push(" and reason = ").push_bind(reason.as_str());
    }
    if let Some(source) = &filter.source {
        // The second condition is that of the index, which the look-ups of workers must not use.
        query.push(" and source = ").push_bind(source.clone()).push(" and source <> ''");
    }
    if filter.without_source {
        query.push(" and source is null");
    }
    if let Some(account_id) = &filter.account_id {
        query.push(" and account_id = ").push_bind(account_id.clone());
    }
    if let Some(assignee) = &filter.assignee {
        query.push(" and assignee = ").push_bind(assignee.clone());
    }
    if filter.is_unassigned {
        query.push(" and assignee is null");
    }
    if let Some(id) = filter.id_max {
        query.push(" and id <= ").push_bind(id);
    }
    if let Some(before) = filter.seen_before {
        query.push(" and first_seen_at < ").push_bind(before);
    }
    if let Some(since) = filter.seen_since {
        query.push(" and first_seen_at >= ").push_bind(since);
    }
}
